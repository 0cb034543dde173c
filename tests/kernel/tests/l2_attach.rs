//! How much our attachment of a pod costs over the fewest netlink messages that make the same.

use cilium_engine::driver::{Driver, Scope, Step};
use cilium_engine::state::{
    Link, LinkKind, LinkName, LinkRow, LinkUp, Mac, PodInterface, PodInterfaceRow, Present, Resource,
};
use cilium_kernel::net::Net;
use cilium_tests_kernel::{Netns, floor};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const PODS: u8 = 60;

fn pod(n: u8, netns: &Netns) -> (LinkName, LinkRow, PodInterfaceRow) {
    let host_end = LinkRow {
        kind: LinkKind::PodVeth,
        mac: Some(Mac([2, 0, 0, 1, 0, n])),
        mtu: 1450,
        alias: format!("cilium:endpoint {n}"),
    };
    let addresses = [format!("10.1.0.{n}/32"), format!("fd00:1::{n:x}/128")];
    let inside = PodInterfaceRow {
        netns: netns.path(),
        ifname: LinkName::from("eth0"),
        mac: Mac([2, 0, 0, 2, 0, n]),
        mtu: 1450,
        addresses: addresses.map(|net| net.parse().expect("prefix")).into(),
        gateways: ["10.1.0.1", "fd00:1::1"].map(|gateway| gateway.parse().expect("address")).into(),
        route_mtu: 0,
    };
    (LinkName(format!("lxc{n:04x}")), host_end, inside)
}

/// A pass as the loop makes it: read, write, read again.
fn ours(net: &mut Net, (link, host_end, inside): &(LinkName, LinkRow, PodInterfaceRow)) {
    fn ensure<R: Resource>(net: &mut Net, key: &R::Key, row: &R::Row)
    where
        Net: Driver<R>,
    {
        let scope = Scope::Keys(BTreeSet::from([key.clone()]));
        Driver::<R>::observe(net, &scope).expect("read");
        let done = Driver::<R>::apply(net, &[Step::Create { key: key.clone(), row: row.clone() }]);
        assert!(done[0].is_ok(), "{done:?}");
        let seen = Driver::<R>::observe(net, &scope).expect("read");
        assert!(R::satisfied(row, &seen[0].1));
    }
    net.place(BTreeMap::from([(link.clone(), inside.netns.clone())]));
    ensure::<Link>(net, link, host_end);
    ensure::<PodInterface>(net, link, inside);
    ensure::<LinkUp>(net, link, &Present);
}

fn middle(mut each: Vec<Duration>) -> Duration {
    each.sort_unstable();
    each[each.len() / 2]
}

#[test]
fn an_attachment_costs_little_more_than_its_messages() {
    let (host, lowest) = (Netns::new("host"), Netns::new("least"));
    let (mut with_ours, mut with_floor) = (Vec::new(), Vec::new());
    let mut net = host.enter(|| Net::open().expect("netlink"));
    let pods: Vec<[Netns; 2]> = (0..PODS).map(|_| ["a", "b"].map(Netns::new)).collect();
    // In turn, so that a busy machine is as busy for both.
    for (n, [a, b]) in (2..).zip(&pods) {
        let row = pod(n, a);
        host.enter(|| {
            let start = Instant::now();
            ours(&mut net, &row);
            with_ours.push(start.elapsed());
        });
        with_floor.push(floor::attach(&lowest, b, n));
    }
    let (ours, floor) = (middle(with_ours), middle(with_floor));
    eprintln!("attach: ours, with all its reads {ours:?}; fewest messages {floor:?}");
    // What a busy machine adds is not ours.
    assert!(ours < floor * 3 + Duration::from_millis(5), "ours {ours:?}, floor {floor:?}");
}
