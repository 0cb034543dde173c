//! Policy: contents, numbers, limits, modes. Verdicts are the oracle's business.

use super::*;
use crate::config::Enforcement;
use crate::state::Protocol;
use crate::state::{Direction, PolicyId};
use crate::world::{
    Clause, DefaultDeny, Entity, Peer, PeerSet, PolicyRule, PortMatch, PortSet, Rank, RuleVerdict, Subject,
};
use cilium_abi::endpoint::{CONFIG_INGRESS_NO_ANY, CONFIG_OPEN_EGRESS, CONFIG_OPEN_INGRESS};

pub(super) fn rule(name: &str, subject: Selector, clauses: Vec<Clause>) -> PolicyRule {
    PolicyRule {
        origin: origin(name),
        subject: Subject::Endpoints(subject),
        rank: Rank::default(),
        default_deny: DefaultDeny {
            ingress: clauses.iter().any(|c| c.direction == Direction::Ingress),
            egress: clauses.iter().any(|c| c.direction == Direction::Egress),
        },
        clauses,
    }
}

pub(super) fn ingress(verdict: RuleVerdict, peers: Vec<Peer>, port: Option<u16>) -> Clause {
    Clause {
        direction: Direction::Ingress,
        verdict,
        peers: PeerSet::Of(peers),
        ports: port.map_or(PortSet::Any, |p| {
            PortSet::Of(vec![PortMatch { proto: Protocol::TCP, first: p, last: p }])
        }),
        path: "ingress[0]".into(),
    }
}

fn policy_of(compiled: &Compiled, link: &str) -> (PolicyId, u16) {
    let row = compiled.desired.state.endpoint_configs.find(&link.into()).unwrap();
    (row.policy, row.flags)
}

#[test]
fn endpoints_with_the_same_rules_share_rows_and_others_are_open() {
    let mut world = world();
    add_local(&mut world, 1, "a", &[("app", "web"), ("n", "1")]);
    add_local(&mut world, 2, "b", &[("app", "web"), ("n", "2")]);
    add_local(&mut world, 3, "c", &[("app", "db")]);
    let clause = ingress(RuleVerdict::Allow, vec![Peer::Endpoints(having("app", "db"))], Some(80));
    world.rules.add(rule("CiliumNetworkPolicy shop/web", having("app", "web"), vec![clause]));
    let compiled = whole(&world, &config());
    let (id, flags) = policy_of(&compiled, "lxc1");
    assert_eq!((id, flags), policy_of(&compiled, "lxc2"));
    assert_eq!(flags, CONFIG_OPEN_EGRESS | CONFIG_INGRESS_NO_ANY);
    assert_ne!(id, PolicyId(0));
    assert_eq!(policy_of(&compiled, "lxc3"), (PolicyId(0), CONFIG_OPEN_INGRESS | CONFIG_OPEN_EGRESS));
    assert_eq!(compiled.desired.state.policies.len(), 2);
    let view = &compiled.view.policies[&id];
    assert_eq!(view.endpoints, [1, 2]);
    assert_eq!(compiled.view.rules[&view.rules[0]].origin.rule, "ingress[0]");
}

#[test]
fn an_identity_that_joins_keeps_the_number_and_a_rule_that_changes_does_not() {
    let mut world = world();
    add_local(&mut world, 1, "a", &[("app", "web")]);
    let clause = ingress(RuleVerdict::Allow, vec![Peer::Endpoints(having("app", "db"))], Some(80));
    world.rules.add(rule("CiliumNetworkPolicy shop/web", having("app", "web"), vec![clause]));
    let before = whole(&world, &config());
    add_remote(&mut world, "db", 4000, "10.2.0.5", &[("app", "db")]);
    let joined = compile(&world, &config(), &before.book);
    assert_eq!(policy_of(&before, "lxc1"), policy_of(&joined, "lxc1"));
    assert_eq!((before.desired.state.policies.len(), joined.desired.state.policies.len()), (0, 2));
    let mut changed = world.rules.keys().next().cloned().unwrap();
    world.rules.remove(&changed);
    changed.clauses[0].ports = PortSet::Any;
    world.rules.add(changed);
    let changed = compile(&world, &config(), &joined.book);
    assert_ne!(policy_of(&joined, "lxc1").0, policy_of(&changed, "lxc1").0);
    // A rule that does not select it is no change.
    let other = ingress(RuleVerdict::Deny, vec![Peer::Entity(Entity::World)], None);
    world.rules.add(rule("CiliumNetworkPolicy shop/aaa", having("app", "x"), vec![other]));
    let same = compile(&world, &config(), &changed.book);
    assert_eq!(same.desired.state.policies, changed.desired.state.policies);
    assert_eq!(same.desired.state.endpoint_configs, changed.desired.state.endpoint_configs);
}

#[test]
fn a_number_another_content_holds_is_not_taken() {
    let mut world = world();
    add_local(&mut world, 1, "a", &[("app", "web")]);
    world.rules.add(rule("p", having("app", "web"), vec![ingress(RuleVerdict::Allow, vec![], None)]));
    let first = whole(&world, &config());
    let mut book = first.book.clone();
    for (id, entry) in &first.book.policies {
        let mut digest = entry.row;
        digest.0[0] ^= 1;
        book.policies.insert(*id, digest, None);
    }
    let second = compile(&world, &config(), &book);
    assert!(second.book.policies.keys().all(|id| book.policies.find(id).is_none()));
}

#[test]
fn without_room_an_endpoint_is_closed_and_told() {
    let mut world = world();
    add_local(&mut world, 5, "a", &[("app", "web")]);
    for n in 0..200u8 {
        add_remote(
            &mut world,
            &format!("r{n}"),
            1000 + u32::from(n),
            &format!("10.2.1.{n}"),
            &[("n", &n.to_string())],
        );
    }
    let all = Selector::default();
    let clause = ingress(RuleVerdict::Allow, vec![Peer::Endpoints(all)], Some(80));
    world.rules.add(rule("p", having("app", "web"), vec![clause]));
    let mut config = config();
    config.bpf.policy_max = 256;
    let compiled = whole(&world, &config);
    assert_eq!(policy_of(&compiled, "lxc5"), (PolicyId(0), CONFIG_OPEN_EGRESS));
    assert_eq!(compiled.desired.state.policies.len(), 0);
    let errors = errors(&compiled);
    assert!(errors.len() == 1 && errors[0].contains("402 rows"), "{errors:?}");
}

#[test]
fn modes() {
    let mut world = world();
    add_local(&mut world, 1, "a", &[("app", "web")]);
    add_local(&mut world, 2, "b", &[("app", "db")]);
    let clause = ingress(RuleVerdict::Deny, vec![Peer::Entity(Entity::World)], None);
    world.rules.add(rule("p", having("app", "web"), vec![clause]));
    let mut config = config();
    for (mode, flags) in [
        (Enforcement::Default, [CONFIG_OPEN_EGRESS, CONFIG_OPEN_INGRESS | CONFIG_OPEN_EGRESS]),
        (Enforcement::Always, [0, 0]),
        (Enforcement::Never, [CONFIG_OPEN_INGRESS | CONFIG_OPEN_EGRESS; 2]),
    ] {
        config.policy.enforcement = mode;
        let compiled = whole(&world, &config);
        let open = |link| policy_of(&compiled, link).1 & (CONFIG_OPEN_INGRESS | CONFIG_OPEN_EGRESS);
        assert_eq!([open("lxc1"), open("lxc2")], flags, "{mode:?}");
    }
}
