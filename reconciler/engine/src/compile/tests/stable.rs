//! What the kernel holds is kept.

use super::policy::{ingress, rule};
use super::*;
use crate::diff::diff;
use crate::state::Protocol;
use crate::state::{ObservedState, Resource, Source, Table};
use crate::world::{Entity, Peer, RuleVerdict, Service, ServicePort, TargetPort};
use proptest::prelude::*;

/// A world of many parts, from a few small numbers.
pub(super) fn build(pods: &[(u8, u8)], rules: &[(u8, u8, bool)], services: u8) -> World {
    let mut world = world();
    for (id, (app, extra)) in (1..).zip(pods) {
        let (app, extra) = (app.to_string(), extra.to_string());
        if id % 3 == 0 {
            add_remote(
                &mut world,
                &format!("r{id}"),
                3000 + u32::from(id),
                &format!("10.2.0.{id}"),
                &[("app", &app)],
            );
        } else {
            add_local(&mut world, id, &format!("p{id}"), &[("app", &app), ("extra", &extra)]);
        }
    }
    for (n, (subject, peer, deny)) in rules.iter().enumerate() {
        let verdict = if *deny { RuleVerdict::Deny } else { RuleVerdict::Allow };
        let peers = vec![
            Peer::Endpoints(having("app", &peer.to_string())),
            Peer::Cidr {
                net: net(&format!("8.{peer}.0.0/16")),
                except: vec![net(&format!("8.{peer}.1.0/24"))],
            },
            Peer::Entity(Entity::Host),
        ];
        let clause = ingress(verdict, peers, Some(u16::from(*peer) + 1));
        world.rules.add(rule(&format!("policy {n}"), having("app", &subject.to_string()), vec![clause]));
    }
    for n in 0..services {
        let service = Service {
            cluster_ips: vec![ip(&format!("10.96.0.{n}")), ip(&format!("fd96::{n:x}"))],
            ports: vec![ServicePort {
                name: String::new(),
                port: 80,
                proto: Protocol::TCP,
                target: TargetPort::Number(8080),
                node_port: None,
            }],
            selector: Some(strings(&[("app", &n.to_string())]).into()),
            ..Service::default()
        };
        world.services.insert(ObjectName::new("shop", &format!("s{n}")), service);
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_change_keeps_what_it_does_not_touch_and_comes_to_rest(
        pods in prop::collection::vec((0..4u8, 0..2u8), 0..8),
        more in prop::collection::vec((0..4u8, 0..2u8), 0..8),
        rules in prop::collection::vec((0..4u8, 0..4u8, any::<bool>()), 0..8),
        services in 0..4u8,
    ) {
        let before = whole(&build(&pods, &rules, services), &config());
        let world = build(&more, &rules, services);
        let after = compile(&world, &config(), &before.book);
        let again = compile(&world, &config(), &after.book);
        prop_assert_eq!(&after, &again);
        // A number stands for one thing, before and after.
        fn stays<R: Resource>(before: &Table<R>, after: &Table<R>) -> bool {
            after.iter().all(|(id, entry)| before.find(id).is_none_or(|row| *row == entry.row))
        }
        prop_assert!(stays(&before.book.policies, &after.book.policies));
        prop_assert!(stays(&before.book.identities, &after.book.identities));
        prop_assert!(stays(&before.book.backends, &after.book.backends));
        prop_assert!(stays(&before.book.slots, &after.book.slots));
    }
}

/// What `diff` would do on a node where everything stands, while only some sources have spoken.
fn steps_when_only(sources: &[Source], keep: impl Fn(&mut World)) -> Vec<String> {
    let world = build(&[(0, 0), (1, 0), (2, 0), (3, 1)], &[(0, 1, false), (1, 2, true)], 3);
    let mut config = config();
    config.source.manifests.publish = Some("/shared/n1".parse().unwrap());
    let standing = whole(&world, &config);
    let mut half = World { synced: SourceSet::of(sources), ..World::default() };
    half.host = world.host.clone();
    half.endpoints = world.endpoints.clone();
    keep(&mut half);
    let wish = compile(&half, &config, &standing.book).desired;
    let plan = diff(&wish, &ObservedState::whole(standing.desired.state));
    plan.phases.iter().flat_map(|phase| phase.steps.ids()).map(|id| id.to_string()).collect()
}

#[test]
fn while_sources_are_silent_everything_that_stands_stays() {
    assert_eq!(steps_when_only(&[Source::Config, Source::Endpoints], |_| ()), Vec::<String>::new());
    let nodes = |world: &mut World| world.nodes = super::world().nodes;
    assert_eq!(
        steps_when_only(&[Source::Config, Source::Endpoints, Source::Nodes], nodes),
        Vec::<String>::new()
    );
    assert!(!steps_when_only(&[], |world| world.synced = SourceSet::ALL).is_empty());
}
