//! What attaching a pod costs at least: a configured veth pair by the fewest netlink messages.

use crate::Netns;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Number of the pod's interface: known before, so that nothing need be asked.
const INSIDE: u32 = 7;

/// Makes the `n`th pair between `host` and `pod`, with both families' addresses and routes, and says how
/// long it took.
pub fn attach(host: &Netns, pod: &Netns, n: u8) -> Duration {
    let inside = File::open(pod.path()).expect("the namespace exists");
    let number = 10_000 + u32::from(n);
    let began = Instant::now();
    host.enter(|| {
        let socket = socket();
        let peer = vec![
            LinkAttribute::IfName("eth0".into()),
            LinkAttribute::Mtu(1450),
            LinkAttribute::NetNsFd(inside.as_raw_fd()),
        ];
        let info = vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(link(INSIDE, peer)))),
        ];
        let attributes = vec![
            LinkAttribute::IfName(format!("floor{n}")),
            LinkAttribute::Mtu(1450),
            LinkAttribute::LinkInfo(info),
        ];
        send(&socket, vec![(Message::NewLink(link(number, attributes)), NLM_F_CREATE | NLM_F_EXCL)]);
        pod.enter(|| send(&self::socket(), configuration(n)));
        send(&socket, vec![up(number)]);
    });
    began.elapsed()
}

/// Deletes the `n`th pair and says how long the kernel took.
pub fn detach(host: &Netns, n: u8) -> Duration {
    host.enter(|| {
        let socket = socket();
        let began = Instant::now();
        send(&socket, vec![(Message::DelLink(link(10_000 + u32::from(n), Vec::new())), 0)]);
        began.elapsed()
    })
}

fn configuration(n: u8) -> Vec<(Message, u16)> {
    let mut messages = vec![up(1), up(INSIDE)];
    let own: [IpAddr; 2] = [[10, 99, 0, n].into(), [0xfd99, 0, 0, 0, 0, 0, 1, u16::from(n)].into()];
    let gateways: [IpAddr; 2] = [[10, 99, 1, 1].into(), [0xfd99, 0, 0, 0, 0, 0, 2, 1].into()];
    for address in own {
        let mut message = AddressMessage::default();
        message.header.index = INSIDE;
        message.header.prefix_len = length(address);
        message.header.family = family(address);
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes = vec![
            AddressAttribute::Local(address),
            AddressAttribute::Address(address),
            AddressAttribute::Flags(AddressFlags::Nodad),
        ];
        messages.push((Message::NewAddress(message), NLM_F_CREATE));
    }
    for gateway in gateways {
        messages.push(route(gateway, length(gateway), None));
        messages.push(route(gateway, 0, Some(gateway)));
    }
    messages
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn link(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    message
}

fn up(index: u32) -> (Message, u16) {
    let mut message = link(index, Vec::new());
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    (Message::SetLink(message), 0)
}

fn route(to: IpAddr, length: u8, via: Option<IpAddr>) -> (Message, u16) {
    let mut message = RouteMessage::default();
    message.header.address_family = family(to);
    message.header.destination_prefix_length = length;
    message.header.table = libc::RT_TABLE_MAIN;
    message.header.kind = RouteType::Unicast;
    message.header.scope =
        if via.is_none() && to.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
    message.attributes.push(RouteAttribute::Oif(INSIDE));
    if length > 0 {
        message.attributes.push(RouteAttribute::Destination(to.into()));
    }
    message.attributes.extend(via.map(|via| RouteAttribute::Gateway(via.into())));
    (Message::NewRoute(message), NLM_F_CREATE)
}

fn socket() -> Socket {
    let mut socket = Socket::new(NETLINK_ROUTE).expect("a netlink socket");
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
    for n in 0..count {
        let mut answer = Vec::with_capacity(4096);
        socket.recv(&mut answer, 0).expect("answered");
        assert_eq!(answer[16..20], [0; 4], "message {n} refused");
    }
}
