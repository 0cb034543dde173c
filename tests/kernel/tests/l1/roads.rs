//! Which way a client's packet goes to a backend elsewhere, and with which of the node's addresses.

use super::case::{CLIENT, Case, PORT};
use cilium_abi::{Address, drop, node::mark};
use cilium_tests_kernel::l1::{
    packet::{ACK, SYN},
    script::{Check, Fixture, Site},
    world::{BACKEND_PORT, ETH0_MAC, Mode, REMOTE_NODE_MAC, SERVER_MAC, SIDE_MAC, at},
};

fn routes(case: Case) -> Vec<Fixture> {
    let (family, node) = (case.family, at::node(case.family));
    let to = |text: &str, backend: Address| case.serving(text, &[(backend, BACKEND_PORT)]);
    let syn = || case.request(SYN);
    let remote = at::remote_pod(family);
    let nowhere = |fixture: Fixture| {
        fixture.world(|world| {
            for device in world.devices.values_mut() {
                (device.ipv4, device.ipv6) = (Address::NONE, Address::NONE);
            }
        })
    };
    vec![
        to("to another node's process", at::remote_node(family))
            .sends(Site::FromNet, syn())
            .check(Check::Macs(REMOTE_NODE_MAC, ETH0_MAC))
            .check(Check::Source(node, CLIENT)),
        to("to who must be asked for first", at::stranger(family))
            .sends(Site::FromNet, syn())
            .check(Check::Source(node, CLIENT))
            .check(Check::Ttl(63)),
        to("to nowhere", at::blackhole(family)).drops(Site::FromNet, syn(), drop::FIB_LOOKUP_FAILED),
        to("to an address of this node's pods that nobody has", at::nobody(family)).drops(
            Site::FromNet,
            syn(),
            drop::STALE_OR_UNROUTABLE_IP,
        ),
        to("too long for the device is the stack's", remote)
            .passes(Site::FromNet, syn().longer(1500))
            .check(Check::Source(node, CLIENT))
            .check(Check::Mark(mark::SNAT_DONE))
            .check(Check::Ttl(64)),
        nowhere(to("a device without an address lends none", remote)).drops(
            Site::FromNet,
            syn(),
            drop::SNAT_NO_MAPPING,
        ),
        to("a device that is not there lends none", remote).world(|world| world.devices.clear()).drops(
            Site::FromNet,
            syn(),
            drop::NO_DEVICE,
        ),
        to("out of a device without an address, that of the other", at::side(family))
            .links(|world, links| {
                let device = world.devices.get_mut(&links.side).expect("the second device");
                (device.ipv4, device.ipv6) = (Address::NONE, Address::NONE);
            })
            .sends(Site::FromNet, syn())
            .check(Check::Source(node, CLIENT))
            .check(Check::Macs(SERVER_MAC, SIDE_MAC)),
        to("out of a device that is not ours, likewise", at::side(family))
            .links(|world, links| {
                world.devices.remove(&links.side);
            })
            .sends(Site::FromNet, syn())
            .check(Check::Source(node, CLIENT))
            .check(Check::Macs(SERVER_MAC, SIDE_MAC)),
        nowhere(to("through the tunnel the router lends", remote))
            .mode(Mode::BalancerTunnel)
            .world(|world| world.devices.clear())
            .sends(Site::FromNet, syn())
            .check(Check::Source(at::router(family), CLIENT)),
        to("through a tunnel that is not there", remote)
            .mode(Mode::BalancerTunnel)
            .world(|world| world.runtime.overlay_ifindex = 0)
            .drops(Site::FromNet, syn(), drop::NO_DEVICE),
        to("to a client without a route", remote)
            .sends(Site::FromNet, case.packet((at::blackhole(family), CLIENT), (node, PORT), SYN))
            .drops(Site::FromNet, case.answer(SYN | ACK), drop::FIB_LOOKUP_FAILED),
        to("a backend that asks through its own frontend", case.client)
            .sends(Site::FromNet, syn())
            .check(Check::Source(node, CLIENT))
            .check(Check::Destination(case.client, BACKEND_PORT))
            .sends(Site::FromNet, case.answer(SYN | ACK))
            .check(Check::Source(node, PORT))
            .check(Check::Destination(case.client, CLIENT)),
    ]
}

#[test]
fn l1_lent_packets_take_their_road() {
    super::run(Case::all().flat_map(routes).collect());
}
