//! Who may send at all: hardware and network addresses, ARP, neighbour discovery, closed pods.

use cilium_abi::{Address, Mac, drop};
use cilium_tests_kernel::l1::{
    model::Verdict,
    packet::{ACK, Build, SYN, arp, icmp, other, ping, sctp, solicitation, tcp, udp},
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
            table.push(fixture(name("towards a pod without configuration, from the host")).drops(
                Site::To(X),
                packet.clone(),
                drop::ENDPOINT_NOT_READY,
            ));
        }
        for (what, packet) in kinds(B.ip(family), C.ip(family)) {
            table.push(
                fixture(format!("{family:?} {what} with another pod's address"))
                    .drops(Site::From(A), packet, drop::INVALID_SOURCE_IP)
                    .check(Check::Entry(false)),
            );
        }
        for (what, src) in [("outside", at::outside(family)), ("the node", at::node(family)), ("the router", at::router(family))] {
            table.push(fixture(format!("{family:?} with the address of {what}")).drops(
                Site::From(A),
                tcp(src, peer, (4000, 80), SYN).from(A),
                drop::INVALID_SOURCE_IP,
            ));
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

#[test]
fn l1_sources_are_checked() {
    super::run(sources());
}
