//! Conntrack: replies, retransmissions, rebuilt entries, lifetimes, ICMP errors.

use cilium_abi::{
    Address,
    ct::{CT_INITIATOR_HIGH, CT_RESET, CT_SEEN_REPLY, CtRow},
    drop, identity,
    node::mark,
    proto,
};
use cilium_tests_kernel::l1::{
    model::Ends,
    packet::{ACK, Build, FIN, RST, SYN, icmp, ping, pong, tcp, udp, unreachable},
    script::{Check, Fixture, Site, fixture},
    world::{A, B, C, Family, Mode, OUTSIDE_ID, Pod, Rule, at},
};

const BOTH: [Family; 2] = [Family::V4, Family::V6];
const PORTS: (u16, u16) = (4000, 80);

fn there(family: Family, flags: u8) -> Build {
    tcp(A.ip(family), B.ip(family), PORTS, flags).from(A)
}

fn back(family: Family, flags: u8) -> Build {
    tcp(B.ip(family), A.ip(family), (PORTS.1, PORTS.0), flags).from(B)
}

/// A may open connections to B; nothing else is allowed to either.
fn one_way(name: String) -> Fixture {
    fixture(name).world(|world| {
        world.close(A, false).close(B, true);
    })
}

fn replies() -> Vec<Fixture> {
    let mut table = Vec::new();
    for family in BOTH {
        let (a, b) = (A.ip(family), B.ip(family));
        let name = |text: &str| format!("{family:?} {text}");
        table.extend([
            one_way(name("TCP replies need no rule"))
                .sends(Site::From(A), there(family, SYN))
                .sends(Site::From(B), back(family, SYN | ACK))
                .sends(Site::From(A), there(family, ACK))
                .sends(Site::From(B), back(family, ACK)),
            one_way(name("UDP replies need no rule"))
                .sends(Site::From(A), udp(a, b, (4000, 53)).from(A))
                .sends(Site::From(B), udp(b, a, (53, 4000)).from(B)),
            one_way(name("echo replies need no rule"))
                .sends(Site::From(A), ping(a, b, 77).from(A))
                .sends(Site::From(B), pong(b, a, 77).from(B)),
            one_way(name("an echo reply to another request needs a rule"))
                .sends(Site::From(A), ping(a, b, 77).from(A))
                .drops(Site::From(B), pong(b, a, 78).from(B), drop::POLICY_DENIED),
            one_way(name("an echo request with the same identifier is no reply"))
                .sends(Site::From(A), ping(a, b, 77).from(A))
                .drops(Site::From(B), ping(b, a, 77).from(B), drop::POLICY_DENIED),
            one_way(name("an echo request with identifier 0 is no reply"))
                .sends(Site::From(A), ping(a, b, 0).from(A))
                .drops(Site::From(B), ping(b, a, 0).from(B), drop::POLICY_DENIED),
            one_way(name("a SYN the other way is no reply")).sends(Site::From(A), there(family, SYN)).drops(
                Site::From(B),
                back(family, SYN),
                drop::POLICY_DENIED,
            ),
            one_way(name("from another port is no reply")).sends(Site::From(A), there(family, SYN)).drops(
                Site::From(B),
                tcp(b, a, (81, 4000), ACK).from(B),
                drop::POLICY_DENIED,
            ),
            one_way(name("a denied packet opens nothing"))
                .drops(Site::From(B), back(family, SYN), drop::POLICY_DENIED)
                .check(Check::Entry(false))
                .sends(Site::From(A), there(family, SYN))
                .check(Check::Entry(true)),
            one_way(name("a denied packet does not touch an entry"))
                .sends(Site::From(A), there(family, SYN))
                .drops(Site::From(B), back(family, SYN), drop::POLICY_DENIED)
                .check(Check::Lives(60))
                .sends(Site::From(B), back(family, SYN | ACK)),
            one_way(name("a reply of an entry that has ended"))
                .entry(ends(a, b), CtRow { flags: high(a, b), ..CtRow::default() }, -5)
                .drops(Site::From(B), back(family, ACK), drop::POLICY_DENIED),
            one_way(name("a reply of an entry about to end"))
                .entry(ends(a, b), CtRow { flags: high(a, b), ..CtRow::default() }, 5)
                .sends(Site::From(B), back(family, ACK))
                .check(Check::Lives(8000)),
            fixture(name("a forward packet asks policy each time"))
                .entry(ends(a, b), CtRow { flags: high(a, b) | CT_SEEN_REPLY, ..CtRow::default() }, 500)
                .world(|world| {
                    world.close(A, true);
                })
                .drops(Site::From(A), there(family, ACK), drop::POLICY_DENIED),
            fixture(name("from a far peer by the device, and back"))
                .world(|world| {
                    world.close(B, true);
                })
                .sends(Site::FromNet, tcp(at::outside(family), b, PORTS, SYN))
                .sends(Site::From(B), tcp(b, at::outside(family), (80, 4000), SYN | ACK).from(B)),
            fixture(name("from the host, and back by the stack"))
                .world(|world| {
                    world.close(B, true);
                })
                .sends(Site::FromHost, tcp(at::router(family), b, PORTS, SYN))
                .passes(Site::From(B), tcp(b, at::router(family), (80, 4000), SYN | ACK).from(B)),
        ]);
    }
    table
}

fn ends(src: Address, dst: Address) -> Ends {
    Ends { src, dst, sport: PORTS.0, dport: PORTS.1, proto: proto::TCP }
}

/// The flag of an entry opened by the first.
fn high(src: Address, dst: Address) -> u16 {
    let (_, high) = cilium_tests_kernel::l1::model::key(&ends(src, dst), 0);
    if high { CT_INITIATOR_HIGH } else { 0 }
}

fn lifetimes() -> Vec<Fixture> {
    let mut table = Vec::new();
    for family in BOTH {
        let (a, b) = (A.ip(family), B.ip(family));
        let name = |text: &str| format!("{family:?} {text}");
        let open = |text: &str| {
            fixture(name(text))
                .sends(Site::From(A), there(family, SYN))
                .check(Check::Lives(60))
                .sends(Site::From(B), back(family, SYN | ACK))
                .check(Check::Lives(8000))
        };
        table.extend([
            open("a connection lives long once answered"),
            fixture(name("unanswered, retransmissions do not prolong much"))
                .sends(Site::From(A), there(family, SYN))
                .sends(Site::From(A), there(family, SYN))
                .check(Check::Lives(60))
                .sends(Site::From(A), there(family, ACK))
                .check(Check::Lives(60)),
            open("one FIN does not end it")
                .sends(Site::From(A), there(family, FIN | ACK))
                .check(Check::Lives(8000)),
            open("both FINs do")
                .sends(Site::From(A), there(family, FIN | ACK))
                .sends(Site::From(B), back(family, FIN | ACK))
                .check(Check::Lives(10))
                .sends(Site::From(A), there(family, ACK))
                .check(Check::Lives(10)),
            open("RST does").sends(Site::From(B), back(family, RST)).check(Check::Lives(10)),
            open("a SYN on an ended one opens anew")
                .sends(Site::From(A), there(family, RST))
                .sends(Site::From(A), there(family, SYN))
                .check(Check::Lives(60))
                .sends(Site::From(B), back(family, SYN | ACK))
                .check(Check::Lives(8000)),
            open("a SYN from the other end opens anew, the other way")
                .sends(Site::From(B), back(family, SYN))
                .check(Check::Lives(60)),
            fixture(name("a stray segment counts as established"))
                .sends(Site::From(A), there(family, ACK))
                .check(Check::Lives(8000)),
            fixture(name("a stray FIN does not"))
                .sends(Site::From(A), there(family, FIN | ACK))
                .check(Check::Lives(10)),
            fixture(name("UDP lives short"))
                .sends(Site::From(A), udp(a, b, PORTS).from(A))
                .check(Check::Lives(30)),
            fixture(name("echo lives short"))
                .sends(Site::From(A), ping(a, b, 5).from(A))
                .check(Check::Lives(30)),
            fixture(name("a SYN rebuilds a whole stale entry"))
                .entry(ends(b, a).turned(), CtRow { flags: high(b, a), rev_nat: 1, ..CtRow::default() }, 900)
                .sends(Site::From(A), there(family, SYN))
                .check(Check::Lives(60))
                .sends(Site::From(B), back(family, SYN | ACK))
                .check(Check::Source(b, 80)),
        ]);
    }
    table
}

trait Turned {
    fn turned(self) -> Self;
}
impl Turned for Ends {
    /// The same connection, as its key does not tell directions apart.
    fn turned(self) -> Self {
        Self { sport: self.dport, dport: self.sport, ..self }
    }
}

fn errors() -> Vec<Fixture> {
    let mut table = Vec::new();
    for family in BOTH {
        let (a, b, c, outside) = (A.ip(family), B.ip(family), C.ip(family), at::outside(family));
        let name = |text: &str| format!("{family:?} {text}");
        let about = |build: Build| build.bytes();
        table.extend([
            one_way(name("an error about a known connection needs no rule"))
                .sends(Site::From(A), there(family, SYN))
                .sends(Site::From(B), unreachable(b, a, &about(there(family, SYN))).from(B))
                .check(Check::Entry(false)),
            one_way(name("an error about nothing known does")).drops(
                Site::From(B),
                unreachable(b, a, &about(there(family, SYN))).from(B),
                drop::POLICY_DENIED,
            ),
            one_way(name("an error about a known connection, told to a third, does"))
                .world(|world| {
                    world.close(C, false);
                })
                .sends(Site::From(A), there(family, SYN))
                .drops(
                    Site::From(B),
                    unreachable(b, c, &about(there(family, SYN))).from(B),
                    drop::POLICY_DENIED,
                ),
            fixture(name("an error from a router on the way"))
                .world(|world| {
                    world.close(A, false);
                })
                .sends(Site::From(A), tcp(a, outside, PORTS, SYN).from(A))
                .sends(
                    Site::FromNet,
                    unreachable(at::gateway(family), a, &about(tcp(a, outside, PORTS, SYN))),
                )
                .check(Check::Macs(A.mac(), A.node_mac())),
            fixture(name("an error about another connection of the pod"))
                .world(|world| {
                    world.close(A, false);
                })
                .sends(Site::From(A), tcp(a, outside, PORTS, SYN).from(A))
                .drops(
                    Site::FromNet,
                    unreachable(at::gateway(family), a, &about(tcp(a, outside, (4001, 80), SYN))),
                    drop::POLICY_DENIED,
                ),
            one_way(name("an error whose inside is cut off")).sends(Site::From(A), there(family, SYN)).drops(
                Site::From(B),
                unreachable(b, a, &about(there(family, SYN))[..40]).from(B),
                drop::POLICY_DENIED,
            ),
            one_way(name("an error about an echo request"))
                .sends(Site::From(A), ping(a, b, 3).from(A))
                .sends(Site::From(B), unreachable(b, a, &about(ping(a, b, 3))).from(B)),
            one_way(name("an error about UDP"))
                .sends(Site::From(A), udp(a, b, PORTS).from(A))
                .sends(Site::From(B), unreachable(b, a, &about(udp(a, b, PORTS))).from(B)),
        ]);
    }
    table.push(
        one_way("an error inside an error is of nothing known".into())
            .sends(Site::From(A), there(Family::V4, SYN))
            .drops(
                Site::From(B),
                {
                    let (a, b) = (A.ip(Family::V4), B.ip(Family::V4));
                    let inner = unreachable(a, b, &about_bytes()).bytes();
                    unreachable(b, a, &inner).from(B)
                },
                drop::POLICY_DENIED,
            ),
    );
    table.push(
        fixture("v4 source quench counts as an error")
            .sends(Site::From(B), icmp(B.ip(Family::V4), A.ip(Family::V4), 4, 0, &[0; 40]).from(B)),
    );
    table
}

fn about_bytes() -> Vec<u8> {
    there(Family::V4, SYN).bytes()
}

/// What a connection remembers of its far end, and until when.
fn memory() -> Vec<Fixture> {
    let mut table = Vec::new();
    for family in BOTH {
        let (b, outside) = (B.ip(family), at::outside(family));
        let pod: Pod = B;
        let entry = move |identity, revision| CtRow {
            flags: high(outside, b),
            identity,
            revision,
            ..CtRow::default()
        };
        let ask = |name: String, row: CtRow| {
            fixture(name)
                .mode(Mode::Native)
                .world(move |world| {
                    world.close(pod, false).rule(Rule::any(pod, false).peer(OUTSIDE_ID));
                    world.revision = 4;
                })
                .entry(ends(outside, b), row, 500)
        };
        let segment = || tcp(outside, b, PORTS, ACK);
        table.extend([
            ask(
                format!("{family:?} an identity remembered before a change is looked up"),
                entry(identity::HEALTH, 3),
            )
            .sends(Site::FromNet, segment()),
            ask(format!("{family:?} an identity remembered is used"), entry(OUTSIDE_ID, 4))
                .sends(Site::FromNet, segment()),
        ]);
    }
    table
}

/// What a connection remembers of verdicts, and until when.
fn verdicts() -> Vec<Fixture> {
    let mut table = Vec::new();
    for family in BOTH {
        let (a, b, outside) = (A.ip(family), B.ip(family), at::outside(family));
        let closed = |text: &str, ends: Ends, row: CtRow| {
            fixture(format!("{family:?} {text}"))
                .world(move |world| {
                    world.close(A, true).close(B, false);
                    world.revision = 4;
                })
                .entry(ends, CtRow { flags: high(ends.src, ends.dst) | row.flags, ..row }, 500)
        };
        let allowed =
            |egress, ingress| CtRow { allowed_egress: egress, allowed_ingress: ingress, ..CtRow::default() };
        let within = || tcp(a, b, PORTS, ACK).from(A);
        let inward = || tcp(outside, b, PORTS, ACK);
        let no = drop::POLICY_DENIED;
        table.extend([
            closed("verdicts of both policies are remembered", ends(a, b), allowed(4, 4))
                .sends(Site::From(A), within()),
            closed("one verdict is not both", ends(a, b), allowed(4, 3)).drops(Site::From(A), within(), no),
            closed("nor the other", ends(a, b), allowed(0, 4)).drops(Site::From(A), within(), no),
            closed("a verdict before a change is asked for again", ends(outside, b), allowed(4, 3)).drops(
                Site::FromNet,
                inward(),
                no,
            ),
            closed("a verdict from outside is remembered", ends(outside, b), allowed(0, 4))
                .sends(Site::FromNet, inward()),
            closed(
                "a new connection remembers nothing",
                ends(outside, b),
                CtRow { flags: CT_RESET, ..allowed(0, 4) },
            )
            .drops(Site::FromNet, tcp(outside, b, PORTS, SYN), no),
            closed("who is told by a mark is asked about each time", ends(outside, b), allowed(0, 4))
                .drops(Site::FromHost, inward(), no)
                .marked(mark::IDENTITY | 777 << 16),
            closed(
                "who is told by the tunnel is asked about each time",
                ends(at::nobody(family), b),
                allowed(0, 4),
            )
            .mode(Mode::Tunnel)
            .drops(Site::FromTunnel(777), tcp(at::nobody(family), b, PORTS, ACK), no),
            closed(
                "a ping's type is not in its connection",
                Ends {
                    sport: 7,
                    dport: 0,
                    proto: if family == Family::V4 { 1 } else { 58 },
                    ..ends(outside, b)
                },
                allowed(0, 4),
            )
            .drops(Site::FromNet, ping(outside, b, 7), no),
        ]);
    }
    table
}

#[test]
fn l1_conntrack_remembers_verdicts() {
    super::run(verdicts());
}

#[test]
fn l1_conntrack_admits_replies_only() {
    super::run(replies());
}

#[test]
fn l1_conntrack_lifetimes() {
    super::run(lifetimes());
}

#[test]
fn l1_conntrack_relates_icmp_errors() {
    super::run(errors());
}

#[test]
fn l1_conntrack_remembers_identities() {
    super::run(memory());
}
