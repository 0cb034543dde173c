//! Masquerading: out, in, collisions, the node's own connections.

use cilium_abi::{
    Address, Be16, drop,
    node::mark,
    proto,
    snat::{IN, OUT, SNAT_HOST, SnatKey, SnatRow},
};
use cilium_tests_kernel::l1::{
    compare::{Trial, coarse_seconds},
    model::Parsed,
    packet::{ACK, Build, SYN, icmp, ping, pong, sctp, tcp, udp, unreachable},
    script::{Check, Fixture, Site, fixture},
    world::{A, B, Family, Mode, Rule, at},
};

fn packet(what: &str, src: Address, dst: Address) -> Build {
    match what {
        "tcp" => tcp(src, dst, (4000, 80), SYN),
        "udp" => udp(src, dst, (4000, 80)),
        _ => ping(src, dst, 4000),
    }
}

/// The answer to the last packet.
fn answer(outputs: &[Parsed]) -> Build {
    let ends = outputs.last().expect("a packet went before").ends;
    let ports = (ends.dport, ends.sport);
    match ends.proto {
        proto::TCP => tcp(ends.dst, ends.src, ports, SYN | ACK),
        proto::UDP => udp(ends.dst, ends.src, ports),
        _ => pong(ends.dst, ends.src, ends.sport),
    }
}

fn key(src: (Address, u16), dst: (Address, u16), number: u8, dir: u8) -> SnatKey {
    SnatKey {
        src: src.0,
        dst: dst.0,
        src_port: Be16::new(src.1),
        dst_port: Be16::new(dst.1),
        proto: number,
        dir,
        reserved: 0,
    }
}

/// Writes a row as if a packet had made it, long ago.
fn row(trial: &mut Trial<'_>, key: SnatKey, to: (Address, u16), flags: u16) {
    let then = coarse_seconds() - 5;
    let row = SnatRow { addr: to.0, port: Be16::new(to.1), flags, created: then, used: then };
    trial.lab.put_translation(&key, &row);
    trial.model.translations.insert(key, row);
}

fn flows() -> Vec<Fixture> {
    let mut table = Vec::new();
    for family in [Family::V4, Family::V6] {
        let (a, b, node, outside) = (A.ip(family), B.ip(family), at::node(family), at::outside(family));
        for what in ["tcp", "udp", "icmp"] {
            let name = |text: &str| format!("{family:?} {what} {text}");
            let seen_port = if what == "icmp" { 0 } else { 80 };
            let number = match (what, family) {
                ("tcp", _) => proto::TCP,
                ("udp", _) => proto::UDP,
                (_, Family::V4) => proto::ICMP,
                (_, Family::V6) => proto::ICMPV6,
            };
            table.extend([
                fixture(name("out with the node's address"))
                    .sends(Site::From(A), packet(what, a, outside).from(A))
                    .passes(Site::ToNet, packet(what, a, outside))
                    .check(Check::Source(node, 4000))
                    .check(Check::Destination(outside, seen_port)),
                fixture(name("and back to the pod"))
                    .sends(Site::From(A), packet(what, a, outside).from(A))
                    .passes(Site::ToNet, packet(what, a, outside))
                    .sends(Site::FromNet, answer)
                    .check(Check::Destination(a, 4000))
                    .check(Check::Macs(A.mac(), A.node_mac()))
                    .check(Check::Ttl(63)),
                fixture(name("two pods with one port"))
                    .passes(Site::ToNet, packet(what, a, outside))
                    .check(Check::Source(node, 4000))
                    .passes(Site::ToNet, packet(what, b, outside))
                    .check(Check::SourcePort(32_768, 65_535))
                    .sends(Site::FromNet, answer)
                    .check(Check::Macs(B.mac(), B.node_mac())),
                fixture(name("the same flow keeps its port"))
                    .passes(Site::ToNet, packet(what, a, outside))
                    .passes(Site::ToNet, packet(what, b, outside))
                    .passes(Site::ToNet, packet(what, a, outside))
                    .check(Check::Source(node, 4000)),
                fixture(name("back without a row is the node's own"))
                    .passes(Site::FromNet, packet(what, outside, node))
                    .check(Check::Untouched),
                fixture(name("back, refused by policy without a connection"))
                    .world(|world| {
                        world.close(A, false);
                    })
                    .passes(Site::ToNet, packet(what, a, outside))
                    .drops(Site::FromNet, answer, drop::POLICY_DENIED),
                fixture(name("a lost half is made again by the other"))
                    .passes(Site::ToNet, packet(what, a, outside))
                    .prepare(move |trial| {
                        row(trial, key((a, 4000), (outside, seen_port), number, OUT), (node, 4000), 0);
                    })
                    .check(Check::Source(node, 4000)),
                fixture(name("and the other way round"))
                    .world(|world| {
                        world.rule(Rule::any(A, false));
                    })
                    .prepare(move |trial| {
                        row(trial, key((outside, seen_port), (node, 4000), number, IN), (a, 4000), 0);
                    })
                    .sends(Site::FromNet, move |_: &[Parsed]| match what {
                        "tcp" => tcp(outside, node, (80, 4000), ACK),
                        "udp" => udp(outside, node, (80, 4000)),
                        _ => pong(outside, node, 4000),
                    })
                    .check(Check::Destination(a, 4000)),
                fixture(name("the node's own connection holds its port"))
                    .passes(Site::ToNet, packet(what, node, outside))
                    .check(Check::Untouched)
                    .passes(Site::ToNet, packet(what, a, outside))
                    .check(Check::SourcePort(32_768, 65_535)),
                fixture(name("and gives way to a pod's"))
                    .passes(Site::ToNet, packet(what, a, outside))
                    .check(Check::Source(node, 4000))
                    .passes(Site::ToNet, packet(what, node, outside))
                    .check(Check::SourcePort(32_768, 65_535))
                    .passes(Site::FromNet, answer)
                    .check(Check::Destination(node, 4000)),
                fixture(name("the node's own answer is left alone"))
                    .passes(Site::ToNet, packet(what, node, outside))
                    .passes(Site::FromNet, answer)
                    .check(Check::Untouched),
                fixture(name("a held port is held again"))
                    .prepare(move |trial| {
                        row(
                            trial,
                            key((outside, seen_port), (node, 4000), number, IN),
                            (node, 4000),
                            SNAT_HOST,
                        );
                    })
                    .passes(Site::ToNet, packet(what, node, outside))
                    .check(Check::Untouched),
                fixture(name("all ports taken"))
                    .mode(Mode::Tunnel)
                    .prepare(move |trial| {
                        for port in [4000].into_iter().chain(40_000..=40_007) {
                            row(trial, key((outside, seen_port), (node, port), number, IN), (b, port), 0);
                        }
                    })
                    .drops(Site::ToNet, packet(what, a, outside), drop::SNAT_NO_MAPPING),
            ]);
        }
        table.extend(limits(family));
    }
    table
}

fn limits(family: Family) -> Vec<Fixture> {
    let name = |text: &str| format!("{family:?} {text}");
    let (a, node, outside) = (A.ip(family), at::node(family), at::outside(family));
    let untouched = |text: &str, dst: Address| {
        fixture(name(text)).passes(Site::ToNet, tcp(a, dst, (4000, 80), SYN)).check(Check::Untouched)
    };
    vec![
        untouched("within the native range", at::remote_pod(family)),
        untouched("to another node, native", at::remote_node(family)),
        fixture(name("to another node, tunnel: it would not take a pod's address"))
            .mode(Mode::Tunnel)
            .passes(Site::ToNet, tcp(a, at::remote_node(family), (4000, 80), SYN))
            .check(Check::Source(node, 4000)),
        fixture(name("to another node's pod, tunnel"))
            .mode(Mode::Tunnel)
            .passes(Site::ToNet, tcp(a, at::remote_pod(family), (4000, 80), SYN))
            .check(Check::Untouched),
        untouched("already done", outside).marked(mark::SNAT_DONE),
        fixture(name("off"))
            .mode(Mode::Strict)
            .passes(Site::ToNet, tcp(a, outside, (4000, 80), SYN))
            .check(Check::Untouched),
        fixture(name("a device without an address"))
            .world(|world| {
                for device in world.devices.values_mut() {
                    (device.ipv4, device.ipv6) = (Address::NONE, Address::NONE);
                }
            })
            .passes(Site::ToNet, tcp(a, outside, (4000, 80), SYN))
            .check(Check::Untouched),
        fixture(name("the overlay's own packets"))
            .mode(Mode::Tunnel)
            .passes(Site::ToNet, udp(node, at::remote_node(family), (50_000, 8472)))
            .check(Check::Untouched),
        fixture(name("a pod that uses the overlay's port is masqueraded as any other"))
            .mode(Mode::Tunnel)
            .passes(Site::ToNet, udp(a, outside, (50_000, 8472)))
            .check(Check::Source(node, 50_000)),
        fixture(name("a pod must not look like the overlay to another node")).mode(Mode::Tunnel).drops(
            Site::From(A),
            udp(a, at::remote_node(family), (50_000, 8472)).from(A),
            drop::ENCAPSULATION_PROHIBITED,
        ),
        fixture(name("nor to its own")).mode(Mode::Tunnel).drops(
            Site::From(A),
            udp(a, node, (50_000, 8472)).from(A),
            drop::ENCAPSULATION_PROHIBITED,
        ),
        fixture(name("a reply of a connection from outside keeps its source"))
            .sends(Site::FromNet, tcp(outside, a, (4000, 80), SYN))
            .passes(Site::ToNet, tcp(a, outside, (80, 4000), SYN | ACK))
            .check(Check::Untouched),
        fixture(name("SCTP")).drops(
            Site::ToNet,
            sctp(a, outside, (4000, 80)),
            drop::SNAT_UNSUPPORTED_PROTOCOL,
        ),
        fixture(name("an echo reply nobody asked for")).drops(
            Site::ToNet,
            pong(a, outside, 9),
            drop::SNAT_UNSUPPORTED_PROTOCOL,
        ),
        fixture(name("other ICMP")).drops(
            Site::ToNet,
            icmp(a, outside, if family == Family::V4 { 13 } else { 139 }, 0, &[0; 16]),
            drop::SNAT_UNSUPPORTED_PROTOCOL,
        ),
        fixture(name("an error about a masqueraded flow finds its pod"))
            .sends(Site::From(A), udp(a, outside, (4000, 80)).from(A))
            .passes(Site::ToNet, udp(a, outside, (4000, 80)))
            .sends(Site::FromNet, move |_: &[Parsed]| {
                unreachable(at::gateway(family), node, &udp(node, outside, (4000, 80)).bytes())
            })
            .check(Check::Destination(a, 0))
            .check(Check::Macs(A.mac(), A.node_mac())),
        fixture(name("a pod's packet that cannot be read does not leave")).drops(
            Site::ToNet,
            {
                let mut frame = tcp(a, outside, (4000, 80), SYN).bytes();
                let at = if family == Family::V4 { 34 + 12 } else { 54 + 12 };
                frame[at] = 0x10;
                frame
            },
            drop::CT_INVALID_HEADER,
        ),
        fixture(name("the node's fragments do"))
            .passes(Site::ToNet, udp(node, outside, (1, 2)).fragment(0x2000)),
    ]
}

#[test]
fn l1_masquerading_borrows_and_gives_back() {
    super::run(flows());
}
