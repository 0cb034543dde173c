//! What is done inside a pod's network namespace, by a socket that lives there.

#![forbid(unsafe_code)]

use super::super::error::{NetlinkError, unless};
use super::super::message::{
    Admin, MAIN_TABLE, NextHop, RouteFilter, SeenLink, SeenRoute, address, address_message, ask_address,
    ask_link, ask_route, link, route, route_message, set_admin,
};
use super::super::socket::{Netlink, Request};
use cilium_engine::driver::DriverError;
use cilium_engine::state::{LinkName, Mac, PodInterfaceRow, ROUTE_PROTOCOL};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::AddressScope;
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::IpAddr;
use std::path::PathBuf;
use std::{fs, io};

/// Addresses or routes of a pod that are read: whoever may change a pod's routes must not slow the node.
const ENTRIES: usize = 4096;

/// What the pod sees; the path of its namespace is the caller's. `None`: there is no such interface.
pub(super) fn read(netlink: &mut Netlink, index: u32) -> Result<Option<PodInterfaceRow>, NetlinkError> {
    let Some(seen) = by_index(netlink, index)? else { return Ok(None) };
    let mut addresses = global_addresses(netlink, index)?;
    addresses.sort_unstable();
    let mut gateways = Vec::new();
    let mut route_mtu = 0;
    if seen.is_up() && loopback_is_up(netlink)? {
        let routes = routes(netlink, index)?;
        let mut defaults: Vec<(IpAddr, u32)> = default_routes(&routes)
            .filter(|(via, _)| {
                routes.iter().any(|route| route.via.is_none() && route.dst == IpNet::from(*via))
            })
            .collect();
        defaults.sort_unstable();
        // One MTU for all: a gateway whose route has another is not as it should be.
        route_mtu = defaults.first().map_or(0, |(_, mtu)| *mtu);
        gateways = defaults.into_iter().filter(|(_, mtu)| *mtu == route_mtu).map(|(via, _)| via).collect();
        gateways.dedup();
    }
    Ok(Some(PodInterfaceRow {
        netns: PathBuf::new(),
        ifname: seen.name,
        mac: seen.mac.unwrap_or_default(),
        mtu: seen.mtu,
        addresses,
        gateways,
        route_mtu,
    }))
}

/// What stands inside before it is made so.
struct There {
    name: LinkName,
    up: bool,
    mac: Option<Mac>,
    mtu: u32,
    loopback_up: bool,
    addresses: Vec<IpNet>,
    routes: Vec<SeenRoute>,
}

impl There {
    fn read(netlink: &mut Netlink, index: u32) -> Result<Option<Self>, NetlinkError> {
        let Some(seen) = by_index(netlink, index)? else { return Ok(None) };
        Ok(Some(Self {
            up: seen.is_up(),
            name: seen.name,
            mac: seen.mac,
            mtu: seen.mtu,
            loopback_up: loopback_is_up(netlink)?,
            addresses: global_addresses(netlink, index)?,
            routes: routes(netlink, index)?,
        }))
    }

    /// Of a pair just made nothing is set but its name. What others set in this moment the next look finds.
    fn made(name: &LinkName) -> Self {
        let (addresses, routes) = (Vec::new(), Vec::new());
        Self { name: name.clone(), up: false, mac: None, mtu: 0, loopback_up: false, addresses, routes }
    }
}

/// Makes it so; `made`: the name of an end just made, of which nothing need be read. The outer error is the
/// socket's, the inner one names what was refused.
pub(super) fn configure(
    netlink: &mut Netlink,
    index: u32,
    made: Option<&LinkName>,
    want: &PodInterfaceRow,
) -> Result<Result<(), DriverError>, NetlinkError> {
    let there = match made {
        Some(name) => Some(There::made(name)),
        None => There::read(netlink, index)?,
    };
    let Some(there) = there else {
        return Ok(Err(DriverError::new("the interface vanished from the pod")));
    };
    if want.addresses.iter().any(|net| net.addr().is_ipv6()) {
        for (parameter, value) in [("disable_ipv6", "0"), ("accept_ra", "0"), ("accept_dad", "0")] {
            quiet_sysctl(&there.name, parameter, value);
        }
    }
    let mut todo: Vec<(String, Request, &'static [i32])> = Vec::new();
    if there.name != want.ifname && there.up {
        let down = RouteNetlinkMessage::SetLink(set_admin(index, Admin::Down));
        todo.push(("bring it down to rename it".to_owned(), (down, 0), &[]));
    }
    let interface = interface(index, &there, want);
    todo.push((format!("name, MAC {} and MTU {}", want.mac, want.mtu), (interface, 0), &[]));
    if !there.loopback_up {
        let up = RouteNetlinkMessage::SetLink(set_admin(LOOPBACK, Admin::Up));
        todo.push(("bring up loopback".to_owned(), (up, 0), &[]));
    }
    for net in want.addresses.iter().filter(|net| !there.addresses.contains(net)) {
        let add = RouteNetlinkMessage::NewAddress(address_message(index, *net));
        todo.push((format!("add address {net}"), (add, NLM_F_CREATE | NLM_F_REPLACE), &[libc::EEXIST]));
    }
    for net in there.addresses.iter().filter(|net| !want.addresses.contains(net)) {
        let delete = RouteNetlinkMessage::DelAddress(address_message(index, *net));
        todo.push((format!("remove address {net}"), (delete, 0), &[libc::EADDRNOTAVAIL]));
    }
    for route in there.routes.iter().filter(|route| {
        route.dst.prefix_len() == 0 && !route.via.is_some_and(|via| want.gateways.contains(&via))
    }) {
        let delete = RouteNetlinkMessage::DelRoute(route_message(route, NextHop::Connected));
        todo.push(("remove another default route".to_owned(), (delete, 0), &[libc::ESRCH]));
    }
    for gateway in &want.gateways {
        for (what, route) in gateway_routes(index, *gateway, want.route_mtu) {
            let replace = RouteNetlinkMessage::NewRoute(route_message(&route, NextHop::Connected));
            todo.push((
                format!("{what} {gateway}"),
                (replace, NLM_F_CREATE | NLM_F_REPLACE),
                &[libc::EEXIST],
            ));
        }
    }
    let mut labels = Vec::with_capacity(todo.len());
    let mut requests = Vec::with_capacity(todo.len());
    for (label, request, fine) in todo {
        labels.push((label, fine));
        requests.push(request);
    }
    let results = netlink.requests(requests);
    Ok(labels.into_iter().zip(results).try_for_each(|((label, fine), result)| {
        unless(result, fine).map_err(|error| match error.errno() {
            Some(libc::EEXIST) => {
                error.during(label).hint(format!("the pod already has an interface {}", want.ifname))
            }
            _ => error.during(label),
        })
    }))
}

/// `LOOPBACK_IFINDEX`.
const LOOPBACK: u32 = 1;

/// Everything of the link itself in one request; the kernel renames before it brings up.
fn interface(index: u32, there: &There, want: &PodInterfaceRow) -> RouteNetlinkMessage {
    let mut message = set_admin(index, Admin::Up);
    if there.mac != Some(want.mac) {
        message.attributes.push(LinkAttribute::Address(want.mac.0.to_vec()));
    }
    if there.mtu != want.mtu {
        message.attributes.push(LinkAttribute::Mtu(want.mtu));
    }
    if there.name != want.ifname {
        message.attributes.push(LinkAttribute::IfName(want.ifname.0.clone()));
    }
    RouteNetlinkMessage::SetLink(message)
}

/// The way to the gateway, then the way through it.
fn gateway_routes(link: u32, gateway: IpAddr, mtu: u32) -> [(&'static str, SeenRoute); 2] {
    let to = SeenRoute {
        table: MAIN_TABLE,
        dst: IpNet::from(gateway),
        link,
        via: None,
        src: None,
        mtu: 0,
        protocol: ROUTE_PROTOCOL,
    };
    let everything = match gateway {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    };
    let through = SeenRoute { dst: everything, via: Some(gateway), mtu, ..to.clone() };
    [("route to", to), ("default route through", through)]
}

fn by_index(netlink: &mut Netlink, index: u32) -> Result<Option<SeenLink>, NetlinkError> {
    let mut question = ask_link(Vec::new());
    question.header.index = index;
    Ok(netlink.read(RouteNetlinkMessage::GetLink(question))?.and_then(link))
}

fn loopback_is_up(netlink: &mut Netlink) -> Result<bool, NetlinkError> {
    Ok(by_index(netlink, LOOPBACK)?.is_none_or(|lo| lo.is_up()))
}

fn global_addresses(netlink: &mut Netlink, index: u32) -> Result<Vec<IpNet>, NetlinkError> {
    let seen = netlink.dump(&RouteNetlinkMessage::GetAddress(ask_address(index)), ENTRIES)?;
    let seen = seen.into_iter().filter_map(address);
    let global =
        seen.filter(|seen| seen.link == index && !seen.failed && seen.scope == AddressScope::Universe);
    Ok(global.map(|seen| seen.addr).collect())
}

fn routes(netlink: &mut Netlink, index: u32) -> Result<Vec<SeenRoute>, NetlinkError> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut question = ask_route(family, RouteFilter::Main);
        question.attributes.push(netlink_packet_route::route::RouteAttribute::Oif(index));
        let seen = netlink.dump(&RouteNetlinkMessage::GetRoute(question), ENTRIES)?;
        let seen = seen.into_iter().filter_map(route);
        routes.extend(seen.filter(|route| route.link == index && route.table == MAIN_TABLE));
    }
    Ok(routes)
}

fn default_routes(routes: &[SeenRoute]) -> impl Iterator<Item = (IpAddr, u32)> + '_ {
    routes
        .iter()
        .filter(|route| route.dst.prefix_len() == 0)
        .filter_map(|route| Some((route.via?, route.mtu)))
}

/// Best effort: without `/proc/sys` a pod still works, a second later (duplicate detection), and with what a
/// router on its link might say.
fn quiet_sysctl(link: &LinkName, parameter: &str, value: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{link}/{parameter}");
    match fs::write(&path, value) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::debug!(path, %error, "sysctl in pod not set"),
    }
}
