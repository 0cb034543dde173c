//! Who may send at all: hardware and network addresses, ARP, neighbour discovery, closed pods.

use cilium_abi::{Address, drop, event, node::mark};
use cilium_tests_kernel::l1::{
    packet::{Build, SYN, arp, icmp, ping, solicitation, tcp, udp},
    script::{Check, Fixture, Site, fixture},
    world::{A, B, C, ETH0_MAC, Family, GATEWAY_MAC, Mode, REMOTE_NODE_MAC, X, at, ip},
};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// One packet of each layer 4 between two addresses, framed as from pod A.
fn kinds(src: Address, dst: Address) -> [(&'static str, Build); 3] {
    [
        ("tcp", tcp(src, dst, (4000, 80), SYN).from(A)),
        ("udp", udp(src, dst, (4000, 53)).from(A)),
        ("icmp", ping(src, dst, 7).from(A)),
    ]
}

fn sources() -> Vec<Fixture> {
    let mut table = Vec::new();
    for family in FAMILIES {
        let (own, peer) = (A.ip(family), B.ip(family));
        for (what, packet) in kinds(own, peer) {
            let name = |text: &str| format!("{family:?} {what} {text}");
            table.push(
                fixture(name("to a pod here"))
                    .sends(Site::From(A), packet.clone())
                    .check(Check::Ttl(63))
                    .check(Check::Macs(B.mac(), B.node_mac()))
                    .check(Check::Entry(true)),
            );
            let stolen = packet.clone().macs(A.node_mac(), B.mac());
            table.push(fixture(name("from another's hardware address")).drops(
                Site::From(A),
                stolen,
                drop::INVALID_SOURCE_MAC,
            ));
            table.push(
                fixture(name("from a pod without configuration"))
                    .drops(Site::From(X), packet.clone(), drop::ENDPOINT_NOT_READY)
                    .check(Check::Entry(false)),
            );
        }
        for (what, packet) in kinds(B.ip(family), C.ip(family)) {
            table.push(
                fixture(format!("{family:?} {what} with another pod's address"))
                    .drops(Site::From(A), packet, drop::INVALID_SOURCE_IP)
                    .check(Check::Entry(false)),
            );
        }
        for (what, src) in [
            ("outside", at::outside(family)),
            ("the node", at::node(family)),
            ("the router", at::router(family)),
        ] {
            table.push(fixture(format!("{family:?} with the address of {what}")).drops(
                Site::From(A),
                tcp(src, peer, (4000, 80), SYN).from(A),
                drop::INVALID_SOURCE_IP,
            ));
        }
        for (what, packet) in kinds(at::router(family), X.ip(family)) {
            table.push(
                fixture(format!("{family:?} {what} from the host to a pod without configuration"))
                    .drops(Site::FromHost, packet, drop::ENDPOINT_NOT_READY)
                    .check(Check::Entry(false)),
            );
        }
        for (what, packet) in kinds(own, X.ip(family)) {
            table.push(
                fixture(format!("{family:?} {what} to a pod here without configuration"))
                    .drops(Site::From(A), packet, drop::ENDPOINT_NOT_READY)
                    .check(Check::Entry(false)),
            );
        }
    }
    table
}

fn arps() -> Vec<Fixture> {
    let (own, v4) = (A.ip(Family::V4), |text: &str| ip(text));
    let me = (A.mac(), own);
    let answered = |name: &str, target: Address| {
        fixture(name)
            .sends(Site::From(A), arp(1, me, target))
            .check(Check::Macs(A.mac(), A.node_mac()))
            .check(Check::Byte(21, 2))
            .check(Check::Byte(27, A.node_mac().0[5]))
    };
    vec![
        answered("arp for the gateway", at::router(Family::V4)),
        answered("arp for a neighbour", B.ip(Family::V4)),
        answered("arp for anyone at all", at::outside(Family::V4)),
        fixture("arp for its own address stays unanswered")
            .passes(Site::From(A), arp(1, me, own))
            .check(Check::Untouched),
        fixture("arp probe for a duplicate stays unanswered")
            .passes(Site::From(A), arp(1, (A.mac(), v4("0.0.0.0")), own))
            .check(Check::Untouched),
        fixture("arp probe for another's address stays unanswered")
            .passes(Site::From(A), arp(1, (A.mac(), v4("0.0.0.0")), B.ip(Family::V4))),
        fixture("arp reply of its own passes").passes(Site::From(A), arp(2, me, at::router(Family::V4))),
        fixture("arp with another's address").drops(
            Site::From(A),
            arp(1, (A.mac(), B.ip(Family::V4)), at::router(Family::V4)),
            drop::INVALID_SOURCE_IP,
        ),
        fixture("arp with another's hardware address").drops(
            Site::From(A),
            arp(1, (B.mac(), own), at::router(Family::V4)),
            drop::INVALID_SOURCE_MAC,
        ),
        fixture("arp cut short").drops(
            Site::From(A),
            arp(1, me, at::router(Family::V4))[..41].to_vec(),
            drop::INVALID_PACKET,
        ),
        fixture("arp of another hardware").drops(
            Site::From(A),
            {
                let mut frame = arp(1, me, at::router(Family::V4));
                frame[15] = 6;
                frame
            },
            drop::INVALID_PACKET,
        ),
        fixture("arp from a pod without configuration").drops(
            Site::From(X),
            arp(1, (X.mac(), X.ip(Family::V4)), at::router(Family::V4)),
            drop::ENDPOINT_NOT_READY,
        ),
        fixture("arp at a device is the stack's")
            .passes(Site::FromNet, arp(1, me, own))
            .check(Check::Untouched),
    ]
}

fn neighbours() -> Vec<Fixture> {
    let own = A.ip(Family::V6);
    let router = at::router(Family::V6);
    let mac = A.node_mac().0[5];
    let message = |src: &str, dst: &str, kind: u8| {
        let mut rest = vec![0; 4];
        rest.extend(router.bytes());
        icmp(ip(src), ip(dst), kind, 0, &rest).ttl(255).from(A)
    };
    let link_local = "fe80::11";
    vec![
        fixture("nd for the router is answered")
            .sends(Site::From(A), solicitation(A, router))
            .check(Check::Macs(A.mac(), A.node_mac()))
            .check(Check::Byte(54, 136))
            .check(Check::Byte(58, 0x60))
            .check(Check::Byte(85, mac))
            .check(Check::Ttl(255)),
        fixture("nd for the router, asked of the group")
            .sends(Site::From(A), message("fd00:1::11", "ff02::1:ff00:1", 135))
            .check(Check::Byte(54, 136)),
        fixture("nd for the router from a link-local address")
            .sends(Site::From(A), message(link_local, "ff02::1:ff00:1", 135)),
        fixture("nd probe for a duplicate stays unanswered")
            .passes(Site::From(A), message("::", "ff02::1:ff00:1", 135)),
        fixture("nd for a neighbour is the stack's").passes(Site::From(A), {
            let mut rest = vec![0; 4];
            rest.extend(B.ip(Family::V6).bytes());
            icmp(own, ip("ff02::1:ff00:12"), 135, 0, &rest).ttl(255).from(A)
        }),
        fixture("nd from afar (hop limit 64)").drops(
            Site::From(A),
            solicitation(A, router).ttl(64),
            drop::INVALID_PACKET,
        ),
        fixture("nd with another pod's address").drops(
            Site::From(A),
            message("fd00:1::12", "ff02::1:ff00:1", 135),
            drop::INVALID_SOURCE_IP,
        ),
        fixture("nd with another's hardware address").drops(
            Site::From(A),
            solicitation(A, router).macs(A.node_mac(), B.mac()),
            drop::INVALID_SOURCE_MAC,
        ),
        fixture("nd cut in its target").drops(
            Site::From(A),
            {
                let mut frame = solicitation(A, router).bytes();
                frame.truncate(70);
                frame[19] = 16;
                frame
            },
            drop::CT_INVALID_HEADER,
        ),
        fixture("router solicitation passes").passes(Site::From(A), message(link_local, "ff02::2", 133)),
        fixture("router advertisement is forbidden").drops(
            Site::From(A),
            message(link_local, "ff02::1", 134),
            drop::FORBIDDEN_ICMPV6,
        ),
        fixture("redirect is forbidden").drops(
            Site::From(A),
            message(link_local, "ff02::1", 137),
            drop::FORBIDDEN_ICMPV6,
        ),
        fixture("neighbour advertisement to the router passes")
            .passes(Site::From(A), message("fd00:1::11", "fd00:1::1", 136)),
        fixture("neighbour advertisement to the world is no way around policy")
            .world(|world| {
                world.close(A, true);
            })
            .drops(Site::From(A), message("fd00:1::11", "2001:db8:51::7", 136), drop::FORBIDDEN_ICMPV6),
        fixture("neighbour advertisement to a pod is no way around policy").drops(
            Site::From(A),
            message("fd00:1::11", "fd00:1::12", 136),
            drop::FORBIDDEN_ICMPV6,
        ),
        fixture("listener report passes").passes(Site::From(A), message(link_local, "ff02::16", 143).ttl(1)),
        fixture("nd to a pod is asked of policy like all that the host sends")
            .world(|world| {
                world.close(A, false);
            })
            .drops(Site::FromHost, message("2001:db8:51::7", "fd00:1::11", 136), drop::POLICY_DENIED),
    ]
}

fn roads() -> Vec<Fixture> {
    let mut table = Vec::new();
    for family in FAMILIES {
        let own = A.ip(family);
        let syn = |dst| tcp(own, dst, (4000, 443), SYN).from(A);
        let name = |text: &str| format!("{family:?} {text}");
        let (id, outside) = (A.identity, at::outside(family));
        table.extend([
            fixture(name("to the outside, by the gateway"))
                .sends(Site::From(A), syn(outside))
                .check(Check::Macs(GATEWAY_MAC, ETH0_MAC))
                .check(Check::Ttl(63))
                .check(Check::Entry(true)),
            fixture(name("to another node, native"))
                .sends(Site::From(A), syn(at::remote_node(family)))
                .check(Check::Macs(REMOTE_NODE_MAC, ETH0_MAC)),
            fixture(name("to an unresolved neighbour"))
                .sends(Site::From(A), syn(at::stranger(family)))
                .check(Check::Macs(A.node_mac(), A.mac()))
                .check(Check::Ttl(63)),
            fixture(name("into a blackhole")).drops(
                Site::From(A),
                syn(at::blackhole(family)),
                drop::FIB_LOOKUP_FAILED,
            ),
            fixture(name("to nobody in the pods' range")).drops(
                Site::From(A),
                syn(at::nobody(family)),
                drop::STALE_OR_UNROUTABLE_IP,
            ),
            fixture(name("to the node, by the stack"))
                .passes(Site::From(A), syn(at::node(family)))
                .check(Check::Mark(mark::IDENTITY | id << 16))
                .check(Check::Ttl(64)),
            fixture(name("to the router, by the stack")).passes(Site::From(A), syn(at::router(family))),
            fixture(name("to another node's pod, native"))
                .sends(Site::From(A), syn(at::remote_pod(family)))
                .check(Check::Macs(GATEWAY_MAC, ETH0_MAC)),
            fixture(name("to another node's pod, tunnel"))
                .mode(Mode::Tunnel)
                .sends(Site::From(A), syn(at::remote_pod(family)))
                .check(Check::Macs(A.node_mac(), A.mac())),
            fixture(name("to another node's pod without the overlay's device"))
                .mode(Mode::Tunnel)
                .world(|world| world.runtime.overlay_ifindex = 0)
                .drops(Site::From(A), syn(at::remote_pod(family)), drop::NO_DEVICE),
            fixture(name("to itself"))
                .sends(Site::From(A), syn(own))
                .check(Check::Macs(A.mac(), A.node_mac())),
            fixture(name("TTL 1 to a pod")).drops(
                Site::From(A),
                syn(B.ip(family)).ttl(1),
                drop::TTL_EXCEEDED,
            ),
            fixture(name("TTL 0 to the outside")).drops(
                Site::From(A),
                syn(outside).ttl(0),
                drop::TTL_EXCEEDED,
            ),
            fixture(name("TTL 2 to a pod"))
                .sends(Site::From(A), syn(B.ip(family)).ttl(2))
                .check(Check::Ttl(1)),
            fixture(name("TTL 1 to the node")).passes(Site::From(A), syn(at::node(family)).ttl(1)),
            fixture(name("too long for the device is the stack's"))
                .passes(Site::From(A), syn(outside).longer(1500)),
            fixture(name("as long as the device takes"))
                .sends(Site::From(A), syn(outside).longer(if family == Family::V4 { 1453 } else { 1433 })),
            fixture(name("a pod without this family"))
                .links(|world, links| {
                    if let Some(config) = world.configs.get_mut(&links.lxc[A.link]) {
                        (config.ipv4, config.ipv6) = (Address::NONE, Address::NONE);
                    }
                })
                .drops(Site::From(A), syn(B.ip(family)), drop::INVALID_SOURCE_IP),
        ]);
    }
    table.extend([
        fixture("IPv4 multicast is not routed")
            .passes(Site::From(A), udp(A.ip(Family::V4), ip("224.0.0.251"), (5353, 5353)).from(A)),
        fixture("IPv4 broadcast is not routed")
            .passes(Site::From(A), udp(A.ip(Family::V4), ip("255.255.255.255"), (68, 67)).from(A)),
        fixture("IPv6 multicast is not routed")
            .passes(Site::From(A), udp(A.ip(Family::V6), ip("ff02::fb"), (5353, 5353)).from(A)),
        fixture("a drop is told with who and where")
            .drops(
                Site::From(A),
                tcp(B.ip(Family::V4), C.ip(Family::V4), (1, 2), SYN).from(A),
                drop::INVALID_SOURCE_IP,
            )
            .check(Check::Event(event::DROP)),
    ]);
    table
}

#[test]
fn l1_sources_are_checked() {
    super::run(sources());
}

#[test]
fn l1_arp_and_neighbours_are_answered() {
    super::run(arps());
    super::run(neighbours());
}

#[test]
fn l1_packets_take_their_road() {
    super::run(roads());
}
