//! Policy: what rules allow and deny, in both directions.

use cilium_abi::{
    Address, drop,
    endpoint::{CONFIG_OPEN_EGRESS, CONFIG_OPEN_INGRESS},
    event, identity,
    node::mark,
    policy::{
        MATCH_ALL, MATCH_L3_L4, MATCH_L3_ONLY, MATCH_L3_PROTO, MATCH_L4_ONLY, MATCH_NONE, MATCH_PROTO_ONLY,
    },
    proto,
};
use cilium_tests_kernel::l1::{
    packet::{Build, SYN, icmp, ping, sctp, tcp, udp},
    script::{Check, Fixture, Site, fixture},
    world::{A, B, C, Family, Mode, NARROW_ID, OUTSIDE_ID, REMOTE_POD_ID, Rule, at},
};

const TCP: u8 = proto::TCP;
const UDP: u8 = proto::UDP;

fn from_a(dst: Address, family: Family, port: u16, number: u8) -> Build {
    let own = A.ip(family);
    match number {
        proto::TCP => tcp(own, dst, (4000, port), SYN),
        proto::UDP => udp(own, dst, (4000, port)),
        proto::SCTP => sctp(own, dst, (4000, port)),
        _ => ping(own, dst, 9),
    }
    .from(A)
}

/// Only these rules for a direction of a pod; what a packet from A to B then meets.
fn case(name: String, egress: bool, rules: Vec<Rule>) -> Fixture {
    let pod = if egress { A } else { B };
    fixture(name).world(move |world| {
        world.close(pod, egress);
        for rule in &rules {
            world.rule(*rule);
        }
    })
}

fn rules() -> Vec<Fixture> {
    let mut table = Vec::new();
    for family in [Family::V4, Family::V6] {
        let echo = if family == Family::V4 { (proto::ICMP, 8) } else { (proto::ICMPV6, 128) };
        for egress in [false, true] {
            let (subject, peer) = if egress { (A, B.identity) } else { (B, A.identity) };
            let any = Rule::any(subject, egress);
            let to_b = |port, number| from_a(B.ip(family), family, port, number);
            let name =
                |text: &str| format!("{family:?} {} {text}", if egress { "egress" } else { "ingress" });
            let denied = |text: &str, rules: Vec<Rule>, packet: Build, reason: u8| {
                case(name(text), egress, rules)
                    .drops(Site::From(A), packet, reason)
                    .check(Check::Entry(false))
            };
            let allowed = |text: &str, rules: Vec<Rule>, packet: Build| {
                case(name(text), egress, rules).sends(Site::From(A), packet).check(Check::Entry(true))
            };
            let deny = drop::POLICY_DENIED_BY_DENYLIST;
            table.extend([
                denied("no rule, TCP", vec![], to_b(80, TCP), drop::POLICY_DENIED),
                denied("no rule, UDP", vec![], to_b(80, UDP), drop::POLICY_DENIED),
                denied("no rule, echo", vec![], to_b(0, echo.0), drop::POLICY_DENIED),
                allowed("any peer", vec![any], to_b(80, TCP)),
                allowed("this peer", vec![any.peer(peer).cookie(7)], to_b(80, TCP))
                    .check(Check::Rule(if egress { 1 } else { 7 })),
                denied("another peer", vec![any.peer(C.identity)], to_b(80, TCP), drop::POLICY_DENIED),
                allowed("this port", vec![any.peer(peer).port(TCP, 80)], to_b(80, TCP)),
                denied(
                    "another port",
                    vec![any.peer(peer).port(TCP, 81)],
                    to_b(80, TCP),
                    drop::POLICY_DENIED,
                ),
                denied(
                    "this port of UDP",
                    vec![any.peer(peer).port(UDP, 80)],
                    to_b(80, TCP),
                    drop::POLICY_DENIED,
                ),
                allowed("this port of anyone", vec![any.port(UDP, 53)], to_b(53, UDP)),
                allowed("all TCP", vec![any.peer(peer).ports(TCP, 0, 0)], to_b(12345, TCP)),
                denied(
                    "all TCP, but UDP",
                    vec![any.peer(peer).ports(TCP, 0, 0)],
                    to_b(80, UDP),
                    drop::POLICY_DENIED,
                ),
                allowed("a port range, inside", vec![any.ports(TCP, 8080, 12)], to_b(8095, TCP)),
                denied(
                    "a port range, outside",
                    vec![any.ports(TCP, 8080, 12)],
                    to_b(8096, TCP),
                    drop::POLICY_DENIED,
                ),
                allowed("echo requests", vec![any.peer(peer).port(echo.0, echo.1)], to_b(0, echo.0)),
                denied(
                    "other ICMP",
                    vec![any.peer(peer).port(echo.0, 3)],
                    to_b(0, echo.0),
                    drop::POLICY_DENIED,
                ),
                allowed("all ICMP", vec![any.ports(echo.0, 0, 0)], to_b(0, echo.0)),
                allowed("SCTP by port", vec![any.peer(peer).port(proto::SCTP, 99)], to_b(99, proto::SCTP)),
                denied("deny", vec![any.deny().cookie(5)], to_b(80, TCP), deny).check(Check::Rule(5)),
                denied(
                    "deny of the peer over allow of all, as equals",
                    vec![any, any.peer(peer).deny()],
                    to_b(80, TCP),
                    deny,
                ),
                denied(
                    "deny of all over allow of the peer, as equals",
                    vec![any.deny(), any.peer(peer)],
                    to_b(80, TCP),
                    deny,
                ),
                allowed(
                    "allow of the peer over deny of all, by precedence",
                    vec![any.deny(), any.peer(peer).precedence(1)],
                    to_b(80, TCP),
                ),
                denied(
                    "deny of all over allow of the peer, by precedence",
                    vec![any.deny().precedence(2), any.peer(peer).precedence(1)],
                    to_b(80, TCP),
                    deny,
                ),
                denied(
                    "deny of a port over allow of the peer",
                    vec![any.peer(peer), any.peer(peer).port(TCP, 80).deny()],
                    to_b(80, TCP),
                    deny,
                ),
                allowed(
                    "deny of a port leaves the next",
                    vec![any.peer(peer), any.peer(peer).port(TCP, 80).deny()],
                    to_b(81, TCP),
                ),
                allowed(
                    "the narrower range decides",
                    vec![any.ports(TCP, 80, 12).deny(), any.port(TCP, 80)],
                    to_b(80, TCP),
                ),
                denied(
                    "any peer's port deny over the peer's allow",
                    vec![any.peer(peer), any.port(TCP, 80).deny()],
                    to_b(80, TCP),
                    deny,
                ),
            ]);
        }
    }
    table
}

fn peers() -> Vec<Fixture> {
    let mut table = Vec::new();
    for family in [Family::V4, Family::V6] {
        let world_id = if family == Family::V4 { identity::WORLD_IPV4 } else { identity::WORLD_IPV6 };
        for (what, dst, id) in [
            ("a pod here", B.ip(family), B.identity),
            ("a pod there", at::remote_pod(family), REMOTE_POD_ID),
            ("another node", at::remote_node(family), identity::REMOTE_NODE),
            ("a prefix", at::outside(family), OUTSIDE_ID),
            ("a narrower prefix", at::outside_narrow(family), NARROW_ID),
            ("the world", at::world(family), world_id),
        ] {
            let only = Rule::any(A, true).peer(id).cookie(3);
            table.push(
                case(format!("{family:?} egress to {what} by identity"), true, vec![only])
                    .sends(Site::From(A), from_a(dst, family, 80, TCP)),
            );
            table.push(
                case(format!("{family:?} egress to {what} is refused by default"), true, vec![])
                    .drops(Site::From(A), from_a(dst, family, 80, UDP), drop::POLICY_DENIED)
                    .check(Check::Identities(A.identity, id)),
            );
        }
        table.push(
            case(
                format!("{family:?} egress to the node by identity"),
                true,
                vec![Rule::any(A, true).peer(1)],
            )
            .passes(Site::From(A), from_a(at::node(family), family, 80, TCP)),
        );
        table.push(
            case(format!("{family:?} egress to the node is refused by default"), true, vec![])
                .drops(Site::From(A), from_a(at::node(family), family, 80, TCP), drop::POLICY_DENIED)
                .check(Check::Identities(A.identity, identity::HOST)),
        );
        for (egress, flag) in [(true, CONFIG_OPEN_EGRESS), (false, CONFIG_OPEN_INGRESS)] {
            let pod = if egress { A } else { B };
            table.push(
                case(format!("{family:?} an open direction ({flag}) asks nobody"), egress, vec![])
                    .links(move |world, links| {
                        if let Some(config) = world.configs.get_mut(&links.lxc[pod.link]) {
                            config.flags |= flag;
                        }
                    })
                    .sends(Site::From(A), from_a(B.ip(family), family, 80, TCP)),
            );
        }
        table.push(
            fixture(format!("{family:?} a policy without rows is closed"))
                .links(|world, links| {
                    if let Some(config) = world.configs.get_mut(&links.lxc[B.link]) {
                        config.policy_id = 0;
                    }
                })
                .drops(Site::From(A), from_a(B.ip(family), family, 80, TCP), drop::POLICY_DENIED),
        );
    }
    table
}

/// Who the host's side says it is.
fn host() -> Vec<Fixture> {
    let mut table = Vec::new();
    for family in [Family::V4, Family::V6] {
        let to_b = |src| tcp(src, B.ip(family), (4000, 80), SYN);
        let closed = |text: &str, mode| case(format!("{family:?} {text}"), false, vec![]).mode(mode);
        let (router, outside) = (at::router(family), at::outside(family));
        table.extend([
            closed("the host reaches its own pods whatever policy says", Mode::Native)
                .sends(Site::FromHost, to_b(router))
                .check(Check::Entry(true)),
            case(
                format!("{family:?} but for what is denied it"),
                false,
                vec![Rule::any(B, false).peer(identity::HOST).port(TCP, 80).deny().precedence(1).cookie(7)],
            )
            .drops(Site::FromHost, to_b(router), drop::POLICY_DENIED_BY_DENYLIST)
            .check(Check::Identities(identity::HOST, B.identity))
            .check(Check::Rule(7))
            .sends(Site::FromHost, tcp(router, B.ip(family), (4000, 81), SYN))
            .check(Check::Entry(true)),
            closed("unless that is off", Mode::Strict)
                .drops(Site::FromHost, to_b(router), drop::POLICY_DENIED)
                .check(Check::Identities(identity::HOST, B.identity)),
            closed("a packet marked as the host's", Mode::Native)
                .sends(Site::FromHost, to_b(outside))
                .marked(mark::HOST),
            closed("a packet marked with an identity", Mode::Native)
                .drops(Site::FromHost, to_b(router), drop::POLICY_DENIED)
                .marked(mark::IDENTITY | REMOTE_POD_ID << 16)
                .check(Check::Identities(REMOTE_POD_ID, B.identity)),
            closed("the outside through the host", Mode::Native)
                .drops(Site::FromHost, to_b(outside), drop::POLICY_DENIED)
                .check(Check::Refused(MATCH_NONE))
                .check(Check::Identities(OUTSIDE_ID, B.identity)),
            case(
                format!("{family:?} the outside through the host, allowed"),
                false,
                vec![Rule::any(B, false).peer(OUTSIDE_ID)],
            )
            .sends(Site::FromHost, to_b(outside))
            .check(Check::Entry(true)),
            case(
                format!("{family:?} the outside by the device"),
                false,
                vec![Rule::any(B, false).peer(OUTSIDE_ID)],
            )
            .sends(Site::FromNet, to_b(outside))
            .check(Check::Macs(B.mac(), B.node_mac()))
            .check(Check::Ttl(63)),
            closed("the outside by the device, refused", Mode::Native)
                .drops(Site::FromNet, to_b(outside), drop::POLICY_DENIED)
                .check(Check::Entry(false)),
        ]);
    }
    table
}

/// How verdicts say they were found.
fn matches() -> Vec<Fixture> {
    let packet = || from_a(B.ip(Family::V4), Family::V4, 80, TCP);
    let any = Rule::any(A, true);
    [
        ("by identity", any.peer(B.identity), MATCH_L3_ONLY),
        ("by identity and port", any.peer(B.identity).port(TCP, 80), MATCH_L3_L4),
        ("by identity and protocol", any.peer(B.identity).ports(TCP, 0, 0), MATCH_L3_PROTO),
        ("by port", any.port(TCP, 80), MATCH_L4_ONLY),
        ("by protocol", any.ports(TCP, 0, 0), MATCH_PROTO_ONLY),
        ("by all", any, MATCH_ALL),
    ]
    .into_iter()
    .map(|(what, rule, matched)| {
        case(format!("a verdict found {what} says so"), true, vec![rule])
            .sends(Site::From(A), packet())
            .check(Check::Event(event::POLICY_VERDICT))
            .check(Check::Matched(matched))
    })
    .chain([fixture("an ICMP type is not a port")
        .world(|world| {
            world.close(A, true).rule(Rule::any(A, true).port(proto::ICMP, 13));
        })
        .sends(Site::From(A), icmp(A.ip(Family::V4), B.ip(Family::V4), 13, 0, &[0; 16]).from(A))
        .drops(
            Site::From(A),
            icmp(A.ip(Family::V4), B.ip(Family::V4), 8, 0, &[0; 16]).from(A),
            drop::POLICY_DENIED,
        )])
    .collect()
}

#[test]
fn l1_policy_rules_decide() {
    super::run(rules());
}

#[test]
fn l1_policy_knows_its_peers() {
    super::run(peers());
    super::run(host());
    super::run(matches());
}
