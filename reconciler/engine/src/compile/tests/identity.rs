//! Identity numbers: agreed on, kept, moved when claimed twice.

use super::*;
use crate::compile::number::ContentHash;
use crate::state::IdentityId;
use cilium_abi::endpoint::{CONFIG_OPEN_EGRESS, CONFIG_OPEN_INGRESS};
use cilium_abi::identity;

fn identity_of(world: &World, book: &IdBook) -> IdentityId {
    compile(world, &config(), book).view.endpoints[&7].identity
}

fn one_pod() -> World {
    let mut world = world();
    add_local(&mut world, 7, "web", &[("app", "web")]);
    world
}

#[test]
fn a_number_is_made_of_the_labels_alone() {
    let world = one_pod();
    let compiled = whole(&world, &config());
    let id = compiled.view.endpoints[&7].identity;
    let hash = ContentHash::of_labels(&pod_labels(&[("app", "web")]));
    assert_eq!(u64::from(id.0), 256 + hash.place() % 65_280);
    assert_eq!(*compiled.view.identities[&id].labels, pod_labels(&[("app", "web")]));
    assert_eq!(compiled.book.identities.find(&id), Some(&hash.digest()));
}

#[test]
fn a_claim_that_stands_is_joined() {
    let mut world = one_pod();
    world.claims.add(claim(777, &pod_labels(&[("app", "web")]), Some("n2")));
    assert_eq!(identity_of(&world, &IdBook::default()).0, 777);
    // A number of our own is kept all the same: two numbers for one label set are harmless.
    let own = whole(&one_pod(), &config()).book;
    let kept = identity_of(&world, &own);
    assert_ne!(kept.0, 777);
    let known = compile(&world, &config(), &own).view.identities;
    assert_eq!(known[&kept].labels, known[&IdentityId(777)].labels);
}

#[test]
fn newcomers_pass_numbers_claimed_for_others() {
    let mut world = one_pod();
    let first = identity_of(&world, &IdBook::default());
    world.claims.add(claim(first.0, &pod_labels(&[("app", "other")]), Some("n2")));
    world.claims.add(claim(first.0 + 1, &pod_labels(&[("app", "third")]), Some("n2")));
    assert_eq!(identity_of(&world, &IdBook::default()).0, first.0 + 2);
}

#[test]
fn of_two_claims_on_a_number_the_greater_hash_moves_on_every_node() {
    let (mine, other) = (pod_labels(&[("app", "web")]), pod_labels(&[("app", "other")]));
    let mut own = IdBook::default();
    own.identities.insert(IdentityId(5000), ContentHash::of_labels(&mine).digest(), None);
    let mut world = one_pod();
    world.claims.add(claim(5000, &other, Some("n2")));
    let compiled = compile(&world, &config(), &own);
    let id = compiled.view.endpoints[&7].identity;
    if ContentHash::of_labels(&mine).place() < ContentHash::of_labels(&other).place() {
        assert_eq!(id.0, 5000, "ours stays");
        assert_eq!(compiled.view.clashed, [IdentityId(5000)]);
        assert!(!compiled.view.identities.contains_key(&IdentityId(5000)));
    } else {
        assert_ne!(id.0, 5000, "ours moves");
        assert_eq!(*compiled.view.identities[&IdentityId(5000)].labels, other);
    }
    // The other node sees it the other way round.
    let mut their_book = IdBook::default();
    their_book.identities.insert(IdentityId(5000), ContentHash::of_labels(&other).digest(), None);
    let mut theirs = super::world();
    add_local(&mut theirs, 7, "other", &[("app", "other")]);
    theirs.claims.add(claim(5000, &mine, Some("n1")));
    let theirs = compile(&theirs, &config(), &their_book).view.endpoints[&7].identity;
    assert_eq!(id.0 == 5000, theirs.0 != 5000, "exactly one moves");
}

#[test]
fn a_claim_written_by_hand_never_moves() {
    let mine = pod_labels(&[("app", "web")]);
    let mut own = IdBook::default();
    own.identities.insert(IdentityId(5000), ContentHash::of_labels(&mine).digest(), None);
    for other in ["a", "b", "c", "d"] {
        let mut world = one_pod();
        world.claims.add(claim(5000, &pod_labels(&[("app", other)]), None));
        assert_ne!(identity_of(&world, &own).0, 5000);
    }
}

#[test]
fn an_endpoint_tells_its_identity_where_no_claim_does() {
    let mut world = world();
    add_remote(&mut world, "db", 4000, "10.2.0.5", &[("app", "db")]);
    each(&mut world.remote_endpoints, |endpoint| endpoint.labels = pod_labels(&[("app", "less")]).into());
    let known = |world: &World| compile(world, &config(), &IdBook::default()).view.identities;
    assert_eq!(*known(&world)[&IdentityId(4000)].labels, pod_labels(&[("app", "db")]));
    world.claims = Default::default();
    assert_eq!(*known(&world)[&IdentityId(4000)].labels, pod_labels(&[("app", "less")]));
}

#[test]
fn claims_cannot_pose_as_host_or_prefix() {
    let mut world = one_pod();
    let labels = Labels::default().with("reserved", "host", "");
    world.claims.add(claim(4000, &labels, Some("n2")));
    world.claims.add(claim(1, &pod_labels(&[]), Some("n2")));
    world.claims.add(claim(4001, &Labels::default().with("cidr", "0.0.0.0/0", ""), Some("n2")));
    let compiled = compile(&world, &config(), &IdBook::default());
    assert!(!compiled.view.identities.contains_key(&IdentityId(4000)));
    assert!(!compiled.view.identities.contains_key(&IdentityId(4001)));
    assert_eq!(compiled.view.identities[&IdentityId(1)].labels.to_string(), "reserved:host");
    assert_eq!(compiled.problems.len(), 3);
}

#[test]
fn a_pod_without_object_is_init_and_closed() {
    let mut world = world();
    world.endpoints.insert(7u16, record(7, Some(ObjectName::new("shop", "late"))));
    let compiled = whole(&world, &config());
    let endpoint = &compiled.view.endpoints[&7];
    assert_eq!(endpoint.identity.0, identity::INIT);
    let row = compiled.desired.state.endpoint_configs.find(&"lxc7".into()).unwrap();
    assert_eq!(row.flags & (CONFIG_OPEN_INGRESS | CONFIG_OPEN_EGRESS), 0);
    assert_eq!(compiled.desired.state.policies.len(), 0);
}

#[test]
fn a_container_has_its_own_labels_at_once() {
    let mut world = world();
    let mut container = record(7, None);
    container.labels.insert("role".into(), "cache".into());
    world.endpoints.insert(7u16, container);
    let compiled = whole(&world, &config());
    assert_eq!(
        compiled.view.endpoints[&7].labels.to_string(),
        "container:role=cache,k8s:io.cilium.k8s.policy.cluster=default"
    );
}
