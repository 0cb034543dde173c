//! The other hooks: overlay, host, devices; and what they count.

use cilium_abi::{Address, drop, identity, ipcache::IpcacheRow, metrics, node::mark};
use cilium_tests_kernel::l1::{
    lab::{Hook, Input},
    packet::{SYN, ping, tcp, udp},
    script::{Check, Fixture, Site, fixture},
    world::{A, B, Family, Mode, NARROW_ID, OUTSIDE_ID, REMOTE_POD_ID, Rule, X, at},
};

fn overlay() -> Vec<Fixture> {
    let mut table = Vec::new();
    for family in [Family::V4, Family::V6] {
        let (a, remote, stranger) = (A.ip(family), at::remote_pod(family), at::nobody(family));
        let world_id = if family == Family::V4 { identity::WORLD_IPV4 } else { identity::WORLD_IPV6 };
        let closed = |text: &str| {
            fixture(format!("{family:?} overlay {text}")).mode(Mode::Tunnel).world(|world| {
                world.close(A, false);
            })
        };
        let syn = |src| tcp(src, a, (4000, 80), SYN);
        let tells = |text: &str, wire: u32, src: Address, id: u32| {
            closed(text)
                .drops(Site::FromTunnel(wire), syn(src), drop::POLICY_DENIED)
                .check(Check::Identities(id, A.identity))
                .check(Check::Entry(false))
        };
        table.extend([
            fixture(format!("{family:?} overlay to a pod"))
                .mode(Mode::Tunnel)
                .sends(Site::FromTunnel(REMOTE_POD_ID), syn(remote))
                .check(Check::Macs(A.mac(), A.node_mac()))
                .check(Check::Ttl(63))
                .check(Check::Entry(true)),
            tells("the row of the source wins over the number", 4242, remote, REMOTE_POD_ID),
            tells("the number counts where there is no row", 4242, stranger, 4242),
            tells("the number counts over a prefix", 4242, at::outside(family), 4242),
            tells("another node's host is a remote node", 1, stranger, identity::REMOTE_NODE),
            tells("no number is the world", 0, stranger, world_id),
            tells("only 24 bits travel", 0x0100_0005, stranger, 5),
            closed("a row that says host does not make a host")
                .world(move |world| {
                    let row = IpcacheRow { identity: identity::HOST, ..IpcacheRow::default() };
                    world.ipcache.insert(at::nobody(family), row);
                })
                .drops(Site::FromTunnel(4242), syn(stranger), drop::POLICY_DENIED)
                .check(Check::Identities(4242, A.identity)),
            closed("allowed by the number")
                .world(|world| {
                    world.rule(Rule::any(A, false).peer(4242));
                })
                .sends(Site::FromTunnel(4242), syn(stranger)),
            closed("with the address of a pod here").drops(
                Site::FromTunnel(REMOTE_POD_ID),
                syn(B.ip(family)),
                drop::INVALID_SOURCE_IP,
            ),
            closed("with the address of this node").drops(
                Site::FromTunnel(1),
                syn(at::node(family)),
                drop::INVALID_SOURCE_IP,
            ),
            closed("to the router is the stack's, with the sender's mark")
                .passes(Site::FromTunnel(REMOTE_POD_ID), tcp(remote, at::router(family), (4000, 80), SYN))
                .check(Check::Mark(mark::IDENTITY | REMOTE_POD_ID << 16))
                .check(Check::Untouched),
            closed("to nobody").drops(
                Site::FromTunnel(REMOTE_POD_ID),
                tcp(remote, stranger, (4000, 80), SYN),
                drop::STALE_OR_UNROUTABLE_IP,
            ),
            closed("to the outside").drops(
                Site::FromTunnel(REMOTE_POD_ID),
                tcp(remote, at::outside(family), (4000, 80), SYN),
                drop::STALE_OR_UNROUTABLE_IP,
            ),
            closed("to a pod without configuration").drops(
                Site::FromTunnel(REMOTE_POD_ID),
                tcp(remote, X.ip(family), (4000, 80), SYN),
                drop::ENDPOINT_NOT_READY,
            ),
            closed("without a tunnel").drops(Site::FromNoTunnel, syn(remote), drop::TUNNEL_KEY_ERROR),
            fixture(format!("{family:?} overlay TTL 1")).mode(Mode::Tunnel).drops(
                Site::FromTunnel(REMOTE_POD_ID),
                syn(remote).ttl(1),
                drop::TTL_EXCEEDED,
            ),
            closed("leaving is only counted").passes(Site::ToTunnel, syn(remote)).check(Check::Untouched),
        ]);
    }
    table.push(fixture("overlay neither IPv4 nor IPv6").mode(Mode::Tunnel).drops(
        Site::FromTunnel(7),
        {
            let mut frame = udp(A.ip(Family::V4), B.ip(Family::V4), (1, 2)).bytes();
            frame[12..14].copy_from_slice(&[8, 6]);
            frame
        },
        drop::UNSUPPORTED_L3_PROTOCOL,
    ));
    table
}

fn host() -> Vec<Fixture> {
    let mut table = Vec::new();
    for family in [Family::V4, Family::V6] {
        let name = |text: &str| format!("{family:?} host {text}");
        let (router, a) = (at::router(family), A.ip(family));
        let syn = |dst| tcp(router, dst, (4000, 80), SYN);
        table.extend([
            fixture(name("to a pod here"))
                .sends(Site::FromHost, syn(a))
                .check(Check::Macs(A.mac(), A.node_mac()))
                .check(Check::Entry(true))
                .check(Check::Ttl(64)),
            fixture(name("to a pod here, for another"))
                .sends(Site::FromHost, tcp(at::world(family), a, (4000, 80), SYN))
                .check(Check::Identities(if family == Family::V4 { 9 } else { 10 }, A.identity)),
            fixture(name("to a pod here, as marked"))
                .sends(Site::FromHost, syn(a))
                .marked(mark::IDENTITY | 777 << 16)
                .check(Check::Identities(777, A.identity)),
            fixture(name("to itself")).passes(Site::FromHost, syn(at::node(family))).check(Check::Untouched),
            fixture(name("to another node's pod, tunnel"))
                .mode(Mode::Tunnel)
                .sends(Site::FromHost, syn(at::remote_pod(family)))
                .check(Check::Untouched),
            fixture(name("to another node's pod, no overlay's device"))
                .mode(Mode::Tunnel)
                .world(|world| world.runtime.overlay_ifindex = 0)
                .drops(Site::FromHost, syn(at::remote_pod(family)), drop::NO_DEVICE),
            fixture(name("to nobody")).drops(
                Site::FromHost,
                syn(at::nobody(family)),
                drop::STALE_OR_UNROUTABLE_IP,
            ),
            fixture(name("to the overlay, marked as carried"))
                .mode(Mode::Tunnel)
                .passes(Site::ToTunnel, syn(at::remote_pod(family)))
                .check(Check::Untouched)
                .check(Check::Mark(mark::OVERLAY)),
            fixture(name("receives")).passes(Site::ToHost, syn(router)).check(Check::Untouched),
        ]);
    }
    table
}

fn devices() -> Vec<Fixture> {
    let mut table = Vec::new();
    for family in [Family::V4, Family::V6] {
        let name = |text: &str| format!("{family:?} device {text}");
        let (a, outside) = (A.ip(family), at::outside(family));
        table.extend([
            fixture(name("to the node is the stack's"))
                .passes(Site::FromNet, tcp(outside, at::node(family), (4000, 22), SYN))
                .check(Check::Untouched),
            fixture(name("to be routed is the stack's"))
                .passes(Site::FromNet, ping(outside, at::world(family), 1)),
            fixture(name("with the address of a pod here")).drops(
                Site::FromNet,
                tcp(B.ip(family), a, (4000, 80), SYN),
                drop::INVALID_SOURCE_IP,
            ),
            fixture(name("with the address of this node")).drops(
                Site::FromNet,
                tcp(at::node(family), a, (4000, 80), SYN),
                drop::INVALID_SOURCE_IP,
            ),
            fixture(name("with the router's address")).drops(
                Site::FromNet,
                tcp(at::router(family), a, (4000, 80), SYN),
                drop::INVALID_SOURCE_IP,
            ),
            fixture(name("another node's pod, native"))
                .world(|world| {
                    world.close(A, false).rule(Rule::any(A, false).peer(REMOTE_POD_ID));
                })
                .sends(Site::FromNet, tcp(at::remote_pod(family), a, (4000, 80), SYN)),
            fixture(name("another node's pod beside the tunnel")).mode(Mode::Tunnel).drops(
                Site::FromNet,
                tcp(at::remote_pod(family), a, (4000, 80), SYN),
                drop::INVALID_SOURCE_IP,
            ),
            fixture(name("the longest prefix names the sender"))
                .world(|world| {
                    world.close(A, false).rule(Rule::any(A, false).peer(OUTSIDE_ID));
                })
                .drops(
                    Site::FromNet,
                    tcp(at::outside_narrow(family), a, (4000, 80), SYN),
                    drop::POLICY_DENIED,
                )
                .check(Check::Identities(NARROW_ID, A.identity)),
            fixture(name("to a pod without configuration")).drops(
                Site::FromNet,
                tcp(outside, X.ip(family), (4000, 80), SYN),
                drop::ENDPOINT_NOT_READY,
            ),
            fixture(name("the overlay's, to the node"))
                .mode(Mode::Tunnel)
                .passes(Site::FromNet, udp(outside, at::node(family), (4000, 8472)))
                .check(Check::Untouched),
            fixture(name("the overlay's port, to a pod"))
                .mode(Mode::Tunnel)
                .world(|world| {
                    world.close(A, false);
                })
                .drops(Site::FromNet, udp(outside, a, (4000, 8472)), drop::POLICY_DENIED),
            fixture(name("sends what carries another, unread"))
                .mode(Mode::Tunnel)
                .passes(Site::ToNet, udp(a, at::world(family), (4000, 53)))
                .marked(mark::OVERLAY)
                .check(Check::Untouched),
            fixture(name("TTL 1")).drops(
                Site::FromNet,
                tcp(outside, a, (4000, 80), SYN).ttl(1),
                drop::TTL_EXCEEDED,
            ),
        ]);
    }
    table
}

#[test]
fn l1_overlay_names_the_sender() {
    super::run(overlay());
}

#[test]
fn l1_host_and_devices() {
    super::run(host());
    super::run(devices());
}

/// Forwarded packets are counted once per direction they take.
#[test]
fn l1_forwarded_packets_are_counted() {
    let counted = |input: &dyn Fn(&cilium_tests_kernel::l1::world::Links) -> Input| {
        let mut grew = (0, 0);
        super::with_lab(Mode::Native, &mut |lab| {
            let world = cilium_tests_kernel::l1::world::World::base(&lab.links, Mode::Native);
            lab.enter();
            lab.install(&world);
            lab.forget();
            let count = |lab: &cilium_tests_kernel::l1::lab::Lab, way| lab.count(metrics::FORWARDED, way);
            let before = (count(lab, metrics::DIRECTION_INGRESS), count(lab, metrics::DIRECTION_EGRESS));
            let input = input(&lab.links);
            lab.run(&input).map_err(|e| e.to_string())?;
            let after = (count(lab, metrics::DIRECTION_INGRESS), count(lab, metrics::DIRECTION_EGRESS));
            grew = (after.0 - before.0, after.1 - before.1);
            Ok(())
        })
        .expect("the packet runs");
        grew
    };
    let at_hook = |hook, ifindex, data: Vec<u8>| Input { hook, ifindex, mark: 0, wire: None, data };
    let (a, b, outside) = (A.ip(Family::V4), B.ip(Family::V4), at::outside(Family::V4));
    let to_b = tcp(a, b, (4000, 80), SYN).from(A).bytes();
    assert_eq!(
        counted(&|links| at_hook(Hook::FromContainer, links.lxc[0], to_b.clone())),
        (1, 1),
        "pod to pod"
    );
    let out = tcp(a, outside, (4000, 80), SYN).from(A).bytes();
    assert_eq!(
        counted(&|links| at_hook(Hook::FromContainer, links.lxc[0], out.clone())),
        (0, 1),
        "pod to outside"
    );
    let inward = tcp(outside, b, (4000, 80), SYN).bytes();
    assert_eq!(
        counted(&|links| at_hook(Hook::FromNetdev, links.eth0, inward.clone())),
        (1, 0),
        "outside to pod"
    );
    let stolen = tcp(b, a, (4000, 80), SYN).from(A).bytes();
    assert_eq!(
        counted(&|links| at_hook(Hook::FromContainer, links.lxc[0], stolen.clone())),
        (0, 0),
        "dropped"
    );
}
