//! How much our attachment of a pod costs over the fewest netlink messages that make the same.

use crate::net_support::Namespace;
use cilium_engine::driver::{Driver, Scope, Step};
use cilium_engine::state::{
    Link, LinkKind, LinkName, LinkRow, LinkUp, Mac, PodInterface, PodInterfaceRow, Present, Resource,
};
use cilium_kernel::net::Net;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const PODS: u8 = 60;

fn pod(n: u8, netns: &Namespace) -> (LinkName, LinkRow, PodInterfaceRow) {
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

fn socket() -> Socket {
    let mut socket = Socket::new(NETLINK_ROUTE).expect("socket");
    socket.bind_auto().expect("bound");
    socket.connect(&SocketAddr::new(0, 0)).expect("connected");
    socket
}

/// Sends all at once, and waits for as many acknowledgements.
fn send(socket: &Socket, messages: Vec<(Message, u16)>) {
    let count = messages.len();
    let mut bytes = Vec::new();
    for (message, flags) in messages {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut message = NetlinkMessage::new(header, message.into());
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
    }
    socket.send(&bytes, 0).expect("sent");
    for _ in 0..count {
        let mut answer = Vec::with_capacity(4096);
        socket.recv(&mut answer, 0).expect("answered");
        assert_eq!(answer[16..20], [0; 4], "refused");
    }
}

fn link(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    message
}

fn up(mut message: LinkMessage) -> (Message, u16) {
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    (Message::SetLink(message), 0)
}

fn route(to: IpAddr, length: u8, via: Option<IpAddr>, index: u32) -> (Message, u16) {
    let mut message = RouteMessage::default();
    message.header.address_family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = length;
    message.header.table = 254;
    message.header.kind = RouteType::Unicast;
    message.header.scope =
        if via.is_none() && to.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
    message.header.flags = RouteFlags::empty();
    message.attributes.push(RouteAttribute::Oif(index));
    if length > 0 {
        message.attributes.push(RouteAttribute::Destination(to.into()));
    }
    message.attributes.extend(via.map(|via| RouteAttribute::Gateway(via.into())));
    (Message::NewRoute(message), NLM_F_CREATE)
}

/// The fewest messages: both numbers are known before.
fn floor(socket: &Socket, netns: &File, n: u8, row: &(LinkName, LinkRow, PodInterfaceRow)) {
    let (name, host_end, inside) = row;
    let (number, pod_number) = (10_000 + u32::from(n), 7);
    let mac = |mac: Mac| LinkAttribute::Address(mac.0.to_vec());
    let peer = vec![
        LinkAttribute::IfName("eth0".into()),
        LinkAttribute::Mtu(inside.mtu),
        mac(inside.mac),
        LinkAttribute::NetNsFd(netns.as_raw_fd()),
    ];
    let info = vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(link(pod_number, peer)))),
    ];
    let attributes = vec![
        LinkAttribute::IfName(name.0.clone()),
        LinkAttribute::Mtu(host_end.mtu),
        mac(host_end.mac.expect("given")),
        LinkAttribute::LinkInfo(info),
    ];
    let alias = link(number, vec![LinkAttribute::IfAlias(host_end.alias.clone())]);
    let create = (Message::NewLink(link(number, attributes)), NLM_F_CREATE | NLM_F_EXCL);
    send(socket, vec![create, (Message::SetLink(alias), 0)]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: setns(2) takes an open descriptor and a flag, and touches no memory.
            assert_eq!(unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
            let mut messages = vec![up(link(1, Vec::new())), up(link(pod_number, Vec::new()))];
            for net in &inside.addresses {
                let mut message = AddressMessage::default();
                message.header.index = pod_number;
                message.header.prefix_len = net.prefix_len();
                message.header.family =
                    if net.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
                message.header.flags = AddressHeaderFlags::Nodad;
                message.attributes = vec![
                    AddressAttribute::Local(net.addr()),
                    AddressAttribute::Address(net.addr()),
                    AddressAttribute::Flags(AddressFlags::Nodad),
                ];
                messages.push((Message::NewAddress(message), NLM_F_CREATE));
            }
            for gateway in &inside.gateways {
                messages.push(route(*gateway, if gateway.is_ipv4() { 32 } else { 128 }, None, pod_number));
                messages.push(route(*gateway, 0, Some(*gateway), pod_number));
            }
            send(&self::socket(), messages);
        });
    });
    send(socket, vec![up(link(number, Vec::new()))]);
}

fn middle(mut each: Vec<Duration>) -> Duration {
    each.sort_unstable();
    each[each.len() / 2]
}

#[test]
fn an_attachment_costs_little_more_than_its_messages() {
    let (host, lowest) = (Namespace::new(), Namespace::new());
    let namespaces: Vec<Namespace> = (0..2 * PODS).map(|_| Namespace::new()).collect();
    let (for_ours, for_floor) = namespaces.split_at(usize::from(PODS));
    let (mut with_ours, mut with_floor) = (Vec::new(), Vec::new());
    let mut net = host.run(|| Net::open().expect("netlink"));
    let raw = lowest.run(socket);
    // In turn, so that a busy machine is as busy for both.
    for (n, (a, b)) in (2..).zip(for_ours.iter().zip(for_floor)) {
        let row = pod(n, a);
        host.run(|| {
            let start = Instant::now();
            ours(&mut net, &row);
            with_ours.push(start.elapsed());
        });
        let row = pod(n, b);
        let netns = File::open(b.path()).expect("a namespace");
        lowest.run(|| {
            let start = Instant::now();
            floor(&raw, &netns, n, &row);
            with_floor.push(start.elapsed());
        });
    }
    let (ours, floor) = (middle(with_ours), middle(with_floor));
    eprintln!("attach: ours, with all its reads {ours:?}; fewest messages {floor:?}");
    // What a busy machine adds is not ours.
    assert!(ours < floor * 3 + Duration::from_millis(5), "ours {ours:?}, floor {floor:?}");
}
