//! Netlink's messages for links, addresses and routes, read into values of ours and built from them.
//! No system calls, no decisions.

#![forbid(unsafe_code)]

use cilium_engine::state::{LinkName, Mac, ROUTE_PROTOCOL};
use ipnet::IpNet;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    InfoData, InfoGeneve, InfoKind, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
    LinkLayerType, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::IpAddr;

/// An interface, as far as anybody here asks.
#[derive(Clone, Debug)]
pub(super) struct SeenLink {
    /// Its number.
    pub(super) index: u32,
    /// Its name.
    pub(super) name: LinkName,
    /// The kernel's name of its type; empty: a physical device or loopback.
    pub(super) kind: String,
    /// Administrative state and others.
    pub(super) flags: LinkFlags,
    /// Ethernet, loopback, or none.
    pub(super) layer: LinkLayerType,
    /// MTU in bytes.
    pub(super) mtu: u32,
    /// Ethernet address.
    pub(super) mac: Option<Mac>,
    /// `IFLA_IFALIAS` or empty.
    pub(super) alias: String,
    /// `IFLA_GROUP`.
    pub(super) group: u32,
    /// Number of the other end of a veth pair.
    pub(super) peer: Option<u32>,
    /// The other end is in the network namespace that we know by this number.
    pub(super) peer_netns: Option<i32>,
    /// Port, if it is a VXLAN or Geneve in external mode (a VXLAN: that does not learn).
    pub(super) overlay_port: Option<u16>,
}

impl SeenLink {
    /// Administratively up.
    pub(super) fn is_up(&self) -> bool {
        self.flags.contains(LinkFlags::Up)
    }
}

/// An address on an interface.
#[derive(Clone, Debug)]
pub(super) struct SeenAddress {
    /// Number of the interface.
    pub(super) link: u32,
    /// The address.
    pub(super) addr: IpNet,
    /// Its scope.
    pub(super) scope: AddressScope,
    /// Duplicate detection failed: nothing uses it.
    pub(super) failed: bool,
}

/// A unicast route by one way.
#[derive(Clone, Debug)]
pub(super) struct SeenRoute {
    /// Table.
    pub(super) table: u32,
    /// Destination.
    pub(super) dst: IpNet,
    /// Number of the output interface.
    pub(super) link: u32,
    /// Next hop.
    pub(super) via: Option<IpAddr>,
    /// Preferred source.
    pub(super) src: Option<IpAddr>,
    /// MTU metric, 0: none.
    pub(super) mtu: u32,
    /// Who made it.
    pub(super) protocol: u8,
}

/// Reads a link.
pub(super) fn link(message: RouteNetlinkMessage) -> Option<SeenLink> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut seen = SeenLink {
        index: message.header.index,
        name: LinkName(String::new()),
        kind: String::new(),
        flags: message.header.flags,
        layer: message.header.link_layer_type,
        mtu: 0,
        mac: None,
        alias: String::new(),
        group: 0,
        peer: None,
        peer_netns: None,
        overlay_port: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => seen.name = LinkName(name),
            LinkAttribute::Mtu(mtu) => seen.mtu = mtu,
            LinkAttribute::Address(mac) => seen.mac = mac.try_into().ok().map(Mac),
            LinkAttribute::IfAlias(alias) => seen.alias = alias,
            LinkAttribute::Group(group) => seen.group = group,
            LinkAttribute::Link(index) => seen.peer = Some(index),
            LinkAttribute::LinkNetNsId(id) => seen.peer_netns = Some(id),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => seen.kind = kind.to_string(),
                        LinkInfo::Data(InfoData::Vxlan(data)) => seen.overlay_port = vxlan_port(&data),
                        LinkInfo::Data(InfoData::Geneve(data)) => seen.overlay_port = geneve_port(&data),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(seen)
}

fn vxlan_port(data: &[InfoVxlan]) -> Option<u16> {
    let external =
        data.contains(&InfoVxlan::CollectMetadata(true)) && !data.contains(&InfoVxlan::Learning(true));
    data.iter().find_map(|info| match info {
        InfoVxlan::Port(port) if external => Some(*port),
        _ => None,
    })
}

fn geneve_port(data: &[InfoGeneve]) -> Option<u16> {
    let external = data.contains(&InfoGeneve::CollectMetadata);
    data.iter().find_map(|info| match info {
        InfoGeneve::Port(port) if external => Some(*port),
        _ => None,
    })
}

/// Reads an address.
pub(super) fn address(message: RouteNetlinkMessage) -> Option<SeenAddress> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    let (mut local, mut remote) = (None, None);
    let mut failed = message.header.flags.contains(AddressHeaderFlags::Dadfailed);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(addr) => local = Some(*addr),
            AddressAttribute::Address(addr) => remote = Some(*addr),
            AddressAttribute::Flags(flags) => failed |= flags.contains(AddressFlags::Dadfailed),
            _ => {}
        }
    }
    Some(SeenAddress {
        link: message.header.index,
        addr: IpNet::new(local.or(remote)?, message.header.prefix_len).ok()?,
        scope: message.header.scope,
        failed,
    })
}

/// Reads a route; `None`: not unicast, a cached one, or by several ways.
pub(super) fn route(message: RouteNetlinkMessage) -> Option<SeenRoute> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let header = &message.header;
    if header.kind != RouteType::Unicast || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let mut seen = SeenRoute {
        table: u32::from(header.table),
        dst: everything(header.address_family)?,
        link: 0,
        via: None,
        src: None,
        mtu: 0,
        protocol: header.protocol.into(),
    };
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Table(table) => seen.table = table,
            RouteAttribute::Destination(dst) => {
                seen.dst = IpNet::new(ip(dst)?, header.destination_prefix_length).ok()?
            }
            RouteAttribute::Oif(index) => seen.link = index,
            RouteAttribute::Gateway(via) => seen.via = ip(via),
            RouteAttribute::PrefSource(src) => seen.src = ip(src),
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    if let RouteMetric::Mtu(mtu) = metric {
                        seen.mtu = mtu;
                    }
                }
            }
            _ => {}
        }
    }
    (seen.link != 0).then_some(seen)
}

/// Output interfaces of a route, all ways.
pub(super) fn route_outputs(message: &RouteNetlinkMessage) -> Vec<u32> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return Vec::new() };
    let mut outputs = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => outputs.push(*index),
            RouteAttribute::MultiPath(ways) => outputs.extend(ways.iter().map(|way| way.interface_index)),
            _ => {}
        }
    }
    outputs
}

fn ip(address: RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(addr) => Some(IpAddr::V4(addr)),
        RouteAddress::Inet6(addr) => Some(IpAddr::V6(addr)),
        _ => None,
    }
}

/// The default destination of a family.
pub(super) fn everything(family: AddressFamily) -> Option<IpNet> {
    match family {
        AddressFamily::Inet => Some(IpNet::V4(ipnet::Ipv4Net::default())),
        AddressFamily::Inet6 => Some(IpNet::V6(ipnet::Ipv6Net::default())),
        _ => None,
    }
}

/// The family of an address.
pub(super) fn family(addr: IpAddr) -> AddressFamily {
    match addr {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// A question for links; without a name: a dump.
pub(super) fn ask_link(attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    // Strict checks refuse any header but zeros.
    message.header.link_layer_type = LinkLayerType::from(0u16);
    message.attributes = attributes;
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

/// A change of a link by its number.
pub(super) fn change_link(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    message
}

/// Administrative state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admin {
    /// Up.
    Up,
    /// Up, and without ARP and neighbour discovery (`IFF_NOARP`).
    UpWithoutNeighbours,
    /// Down.
    Down,
}

/// Sets the administrative state.
pub(super) fn set_admin(index: u32, admin: Admin) -> LinkMessage {
    let mut message = change_link(index, Vec::new());
    message.header.change_mask = match admin {
        Admin::UpWithoutNeighbours => LinkFlags::Up | LinkFlags::Noarp,
        Admin::Up | Admin::Down => LinkFlags::Up,
    };
    message.header.flags = match admin {
        Admin::Up => LinkFlags::Up,
        Admin::UpWithoutNeighbours => LinkFlags::Up | LinkFlags::Noarp,
        Admin::Down => LinkFlags::empty(),
    };
    message
}

/// What creates a link: type and its parameters.
pub(super) fn link_info(kind: InfoKind, data: InfoData) -> LinkAttribute {
    LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)])
}

/// An address on a link. No duplicate detection: an address of ours is nobody else's, and must work at once.
pub(super) fn address_message(link: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = link;
    message.header.family = family(net.addr());
    message.header.prefix_len = net.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.attributes = vec![AddressAttribute::Local(net.addr()), AddressAttribute::Address(net.addr())];
    if net.addr().is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

/// A question for addresses; link 0: all.
pub(super) fn ask_address(link: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = link;
    message
}

/// Whether a next hop must be within a connected network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextHop {
    /// The kernel checks that it is.
    Connected,
    /// It is taken to be on the link.
    OnLink,
}

/// A route of ours.
pub(super) fn route_message(route: &SeenRoute, next_hop: NextHop) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family(route.dst.addr());
    header.destination_prefix_length = route.dst.prefix_len();
    // 252 is RT_TABLE_COMPAT: the number stands in the attribute only.
    header.table = u8::try_from(route.table).unwrap_or(252);
    header.protocol = RouteProtocol::from(route.protocol);
    header.kind = RouteType::Unicast;
    header.scope = if route.via.is_none() && route.dst.addr().is_ipv4() {
        RouteScope::Link
    } else {
        RouteScope::Universe
    };
    if route.via.is_some() && next_hop == NextHop::OnLink {
        header.flags = RouteFlags::Onlink;
    }
    let mut attributes = vec![RouteAttribute::Table(route.table), RouteAttribute::Oif(route.link)];
    if route.dst.prefix_len() > 0 {
        attributes.push(RouteAttribute::Destination(route.dst.addr().into()));
    }
    attributes.extend(route.via.map(|via| RouteAttribute::Gateway(via.into())));
    attributes.extend(route.src.map(|src| RouteAttribute::PrefSource(src.into())));
    if route.mtu > 0 {
        attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(route.mtu)]));
    }
    message.attributes = attributes;
    message
}

/// Which routes to dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RouteFilter {
    /// With our protocol number, in any table.
    Ours,
    /// In the main table.
    Main,
}

/// A question for routes.
pub(super) fn ask_route(family: AddressFamily, filter: RouteFilter) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    match filter {
        RouteFilter::Ours => message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL),
        RouteFilter::Main => message.attributes.push(RouteAttribute::Table(MAIN_TABLE)),
    }
    message
}

/// `RT_TABLE_MAIN`.
pub(super) const MAIN_TABLE: u32 = 254;
