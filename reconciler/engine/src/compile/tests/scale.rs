//! Many identities, many policies, many endpoints: the work must stay near what the rows are worth.

use super::policy::{ingress, rule};
use super::*;
use crate::world::{Peer, RuleVerdict};

fn large(identities: u32, policies: u32, endpoints: u16) -> World {
    let mut world = world();
    for n in 0..identities {
        let [.., b, c] = n.to_be_bytes();
        let (app, own) = (format!("app{}", n % policies), n.to_string());
        add_remote(
            &mut world,
            &format!("r{n}"),
            1000 + n,
            &format!("10.3.{b}.{c}"),
            &[("app", &app), ("n", &own)],
        );
    }
    for n in 0..endpoints {
        let app = format!("app{}", u32::from(n) % policies);
        add_local(&mut world, n + 2, &format!("p{n}"), &[("app", &app), ("local", &n.to_string())]);
    }
    for n in 0..policies {
        let app = format!("app{n}");
        let clause = ingress(RuleVerdict::Allow, vec![Peer::Endpoints(having("app", &app))], Some(80));
        world.rules.add(rule(&format!("policy {n}"), having("app", &app), vec![clause]));
    }
    world
}

#[test]
fn rows_grow_with_selections_not_with_products() {
    let world = large(2_000, 50, 50);
    let compiled = compile(&world, &config(), &IdBook::default());
    // Each policy selects 40 remote identities and one local one, and each takes an L3 and a port row.
    assert_eq!(compiled.desired.state.policies.len(), 50 * 41 * 2);
    assert_eq!(compiled.desired.state.policy_digests.len(), 50);
    assert_eq!(errors(&compiled), Vec::<String>::new());
}
