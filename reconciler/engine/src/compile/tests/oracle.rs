//! The rows against the rules: a naive evaluator that knows peers, labels and addresses, and nothing of
//! identities, ladders or prefixes, must agree with what the kernel's own lookup says about the rows.

use super::*;
use crate::config::Enforcement;
use crate::state::{Direction, Protocol, State};
use crate::world::{
    Clause, DefaultDeny, Entity, Peer, PeerSet, PolicyRule, PortMatch, PortSet, Rank, RuleVerdict, Subject,
};
use cilium_abi::policy::{self, ALLOW, DENY, EGRESS, PolicyKey as AbiKey, PolicyRow as AbiRow};
use cilium_abi::{Be16, endpoint};
use proptest::prelude::*;

/// What a packet's far end is.
#[derive(Clone, Debug)]
enum Far {
    Pod(Labels),
    Host,
    Node,
    /// An address of a node's pod CIDR that nobody has spoken for.
    Unmanaged,
    Outside,
}

const APPS: [&str; 4] = ["a", "b", "c", "d"];
const PREFIXES: [&str; 10] = [
    "0.0.0.0/0",
    "8.0.0.0/8",
    "8.8.0.0/16",
    "8.8.8.0/24",
    "8.8.8.8/32",
    "10.0.0.0/8",
    "192.168.0.0/16",
    "::/0",
    "fd00::/8",
    "2001:db8::/32",
];
const PORTS: [u16; 9] = [0, 79, 80, 81, 443, 1023, 1024, 8080, 65_535];

fn peers_of_the_world() -> Vec<(IpAddr, Far)> {
    let pod = |app: &str| Far::Pod(pod_labels(&[("app", app)]));
    vec![
        (ip("10.2.0.11"), pod("a")),
        (ip("10.2.0.12"), pod("b")),
        (ip("10.2.0.13"), pod("c")),
        (ip("10.2.0.1"), Far::Node),
        (ip("10.1.0.1"), Far::Host),
        (ip("192.168.0.1"), Far::Host),
        (ip("192.168.0.2"), Far::Node),
        (ip("192.168.0.77"), Far::Outside),
        (ip("8.8.8.8"), Far::Outside),
        (ip("8.8.8.9"), Far::Outside),
        (ip("8.8.9.9"), Far::Outside),
        (ip("8.9.9.9"), Far::Outside),
        (ip("10.77.0.1"), Far::Outside),
        (ip("1.2.3.4"), Far::Outside),
        (ip("2001:db8::1"), Far::Outside),
        (ip("2002::1"), Far::Outside),
        (ip("10.2.0.200"), Far::Unmanaged),
        (ip("fd00:2::abcd"), Far::Unmanaged),
    ]
}

fn selector() -> impl Strategy<Value = Selector> {
    prop_oneof![
        3 => prop::sample::select(&APPS[..]).prop_map(|app| having("app", app)),
        1 => Just(Selector::default()),
        1 => prop::sample::select(&APPS[..]).prop_map(|app| Selector {
            requirements: vec![Requirement {
                label: Label::new("any", "app"),
                operator: Operator::NotIn([app.to_owned()].into()),
            }],
        }),
        1 => Just(Selector {
            requirements: vec![Requirement { label: Label::new("k8s", "app"), operator: Operator::Exists }],
        }),
    ]
}

fn peer() -> impl Strategy<Value = Peer> {
    let entity = prop::sample::select(vec![
        Entity::All,
        Entity::World,
        Entity::WorldIpv4,
        Entity::WorldIpv6,
        Entity::Cluster,
        Entity::Host,
        Entity::RemoteNode,
        Entity::Unmanaged,
        Entity::None,
    ]);
    let cidr = (
        prop::sample::select(&PREFIXES[..]),
        prop::collection::vec(prop::sample::select(&PREFIXES[..]), 0..3),
    );
    prop_oneof![
        3 => selector().prop_map(Peer::Endpoints),
        2 => entity.prop_map(Peer::Entity),
        3 => cidr.prop_map(|(cidr, except)| {
            let cidr = net(cidr);
            let except = except.into_iter().map(net).filter(|e| *e != cidr && cidr.contains(e)).collect();
            Peer::Cidr { net: cidr, except }
        }),
    ]
}

fn ports() -> impl Strategy<Value = PortSet> {
    let proto = prop::sample::select(vec![Protocol::TCP, Protocol::UDP, Protocol::ICMP]);
    let one = (proto, prop::sample::select(&PORTS[..]), prop::sample::select(&PORTS[..]), any::<bool>())
        .prop_map(|(proto, a, b, single)| PortMatch {
            proto,
            first: a.min(b),
            last: if single { a.min(b) } else { a.max(b) },
        });
    prop_oneof![2 => Just(PortSet::Any), 5 => prop::collection::vec(one, 0..3).prop_map(PortSet::Of)]
}

fn clause() -> impl Strategy<Value = Clause> {
    let peers =
        prop_oneof![1 => Just(PeerSet::Any), 5 => prop::collection::vec(peer(), 0..3).prop_map(PeerSet::Of)];
    (any::<bool>(), 0..3u8, peers, ports()).prop_map(|(ingress, verdict, peers, ports)| Clause {
        direction: if ingress { Direction::Ingress } else { Direction::Egress },
        verdict: if verdict == 0 { RuleVerdict::Deny } else { RuleVerdict::Allow },
        peers,
        ports,
        path: "clause".into(),
    })
}

fn rules() -> impl Strategy<Value = Vec<PolicyRule>> {
    let rule = (selector(), any::<(bool, bool)>(), prop::collection::vec(clause(), 0..4));
    prop::collection::vec(rule, 0..5).prop_map(|rules| {
        let numbered = rules.into_iter().enumerate();
        numbered
            .map(|(n, (subject, (ingress, egress), clauses))| PolicyRule {
                origin: origin(&format!("policy {n}")),
                subject: Subject::Endpoints(subject),
                rank: Rank::default(),
                default_deny: DefaultDeny { ingress, egress },
                clauses,
            })
            .collect()
    })
}

/// The meaning of the rules, word for word.
fn naive(
    rules: &[PolicyRule],
    mode: Enforcement,
    subject: &Labels,
    direction: Direction,
    far: (&IpAddr, &Far),
    (proto, port): (Protocol, u16),
) -> bool {
    if mode == Enforcement::Never {
        return true;
    }
    let selecting: Vec<&PolicyRule> = rules
        .iter()
        .filter(|r| matches!(&r.subject, Subject::Endpoints(selector) if selector.matches(subject)))
        .collect();
    let applies = |verdict: RuleVerdict| {
        selecting.iter().flat_map(|r| &r.clauses).any(|c| {
            c.direction == direction
                && c.verdict == verdict
                && match &c.peers {
                    PeerSet::Any => true,
                    PeerSet::Of(peers) => peers.iter().any(|p| is_peer(p, far.0, far.1)),
                }
                && match &c.ports {
                    PortSet::Any => true,
                    PortSet::Of(all) => {
                        all.iter().any(|m| m.proto == proto && (m.first..=m.last).contains(&port))
                    }
                    PortSet::Named(..) => unreachable!("no port is named here"),
                }
        })
    };
    let default_deny = mode == Enforcement::Always
        || selecting.iter().any(|r| match direction {
            Direction::Ingress => r.default_deny.ingress,
            Direction::Egress => r.default_deny.egress,
        });
    !applies(RuleVerdict::Deny) && (applies(RuleVerdict::Allow) || !default_deny)
}

fn is_peer(peer: &Peer, addr: &IpAddr, far: &Far) -> bool {
    let outside = matches!(far, Far::Outside);
    match peer {
        Peer::Nodes { .. } | Peer::Groups { .. } | Peer::Services(_) => {
            unreachable!("no object is named here")
        }
        Peer::Endpoints(selector) => matches!(far, Far::Pod(labels) if selector.matches(labels)),
        Peer::Cidr { net, except } => {
            outside && net.contains(addr) && !except.iter().any(|e| e.contains(addr))
        }
        Peer::Entity(entity) => match entity {
            Entity::All => true,
            Entity::World => outside,
            Entity::WorldIpv4 => outside && addr.is_ipv4(),
            Entity::WorldIpv6 => outside && addr.is_ipv6(),
            Entity::Cluster => !outside,
            Entity::Host => matches!(far, Far::Host),
            Entity::RemoteNode => matches!(far, Far::Node),
            Entity::Unmanaged => matches!(far, Far::Unmanaged),
            _ => false,
        },
    }
}

/// What the programs do: the identity of the address, then the lookup.
fn by_rows(
    state: &State,
    link: &str,
    direction: Direction,
    addr: IpAddr,
    proto: Protocol,
    port: u16,
) -> (bool, u32) {
    let identity = state
        .ipcache
        .iter()
        .filter(|(key, _)| key.0.contains(&addr))
        .max_by_key(|(key, _)| key.0.prefix_len())
        .map_or(if addr.is_ipv4() { 9 } else { 10 }, |(_, entry)| entry.row.identity.0);
    let config = state.endpoint_configs.find(&link.into()).expect("the endpoint has a row");
    let (open, direction_bit) = match direction {
        Direction::Ingress => (endpoint::CONFIG_OPEN_INGRESS, 0),
        Direction::Egress => (endpoint::CONFIG_OPEN_EGRESS, EGRESS),
    };
    if config.flags & open != 0 {
        return (true, identity);
    }
    let lookup = |key: &AbiKey| {
        let key = crate::state::PolicyKey {
            policy: crate::state::PolicyId(key.policy_id),
            direction,
            identity: crate::state::IdentityId(key.identity),
            proto: Protocol(key.proto),
            port: key.port.host(),
            port_len: key.dir_len & !EGRESS,
        };
        state.policies.find(&key).map(|row| AbiRow {
            verdict: row.verdict,
            lengths: row.lengths,
            precedence: row.precedence,
            cookie: row.cookie.0,
            ..AbiRow::default()
        })
    };
    let port = Be16::new(port);
    let found = policy::decide(lookup, config.policy.0, direction_bit, identity, proto.0, port);
    let hints = match direction {
        Direction::Ingress => config.flags / endpoint::CONFIG_INGRESS_NO_PEERS,
        Direction::Egress => config.flags / endpoint::CONFIG_EGRESS_NO_PEERS,
    };
    let ladders = 3 & !hints as u8;
    let hinted =
        policy::decide_among(lookup, ladders, config.policy.0, direction_bit, identity, proto.0, port);
    assert_eq!(hinted, found, "what the hints leave out would have been found");
    assert!([policy::NONE, ALLOW, DENY].contains(&found.row.verdict));
    (found.row.verdict == ALLOW, identity)
}

fn compare(rules: Vec<PolicyRule>, mode: Enforcement) -> Result<(), TestCaseError> {
    let mut world = world();
    add_local(&mut world, 1, "web", &[("app", "a")]);
    add_local(&mut world, 2, "db", &[("app", "d")]);
    for (n, app) in (1..).zip(["a", "b", "c"]) {
        add_remote(&mut world, app, 4000 + n, &format!("10.2.0.1{n}"), &[("app", app)]);
    }
    rules.iter().for_each(|rule| world.rules.add(rule.clone()));
    let mut config = config();
    config.policy.enforcement = mode;
    let compiled = compile(&world, &config, &IdBook::default());
    let state = &compiled.desired.state;
    for (link, app) in [("lxc1", "a"), ("lxc2", "d")] {
        let subject = pod_labels(&[("app", app)]);
        for (addr, far) in &peers_of_the_world() {
            for direction in [Direction::Ingress, Direction::Egress] {
                for proto in [Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol::SCTP] {
                    for port in [0, 79, 80, 82, 443, 1023, 1024, 5000, 8080, 65_535] {
                        let want = naive(&rules, mode, &subject, direction, (addr, far), (proto, port));
                        let (seen, id) = by_rows(state, link, direction, *addr, proto, port);
                        prop_assert_eq!(
                            want,
                            seen,
                            "{} {} {} (identity {}) {} {}: {:#?}",
                            link,
                            direction,
                            addr,
                            id,
                            proto,
                            port,
                            world.rules
                        );
                    }
                }
            }
        }
    }
    Ok(())
}

proptest! {
    // 300 worlds of 2 × 18 × 2 × 4 × 10 packets.
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn rows_say_what_the_rules_say(rules in rules(), mode in 0..8u8) {
        let mode = match mode {
            0 => Enforcement::Always,
            1 => Enforcement::Never,
            _ => Enforcement::Default,
        };
        compare(rules, mode)?;
    }
}
