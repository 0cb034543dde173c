//! Rows of the node itself: kernel parameters, its interfaces, router addresses, routes to pods, and what
//! the programs know of its devices.

use super::number::ContentHash;
use super::rows::{Rows, because, config_origin};
use super::site::{Family, Neighbour, Site};
use crate::config::Config;
use crate::state::{
    Address, AddressKey, Device, DeviceRow, Endpoint, EndpointKey, EndpointRow, HOST_LINK, IdentityId,
    LINK_ALIAS_PREFIX, Link, LinkKind, LinkName, LinkRow, LinkUp, Mac, NET_LINK, Only, Present,
    RESERVED_PORTS, Route, RouteKey, RouteRow, Runtime, RuntimeRow, Sysctl, SysctlKey,
};
use crate::world::HostDevice;
use cilium_abi::identity;
use cilium_abi::node::DEVICE_L3;
use ipnet::IpNet;
use std::net::IpAddr;

/// The main routing table (`RT_TABLE_MAIN`).
const MAIN_TABLE: u32 = 254;

/// A hardware address of ours, the same after every restart: locally administered, unicast.
fn mac(site: &Site, link: &str) -> Mac {
    let [a, b, c, d, e, f, ..] = ContentHash::of([link, site.name.as_str()]).digest().0;
    Mac([a & 0xfc | 0x02, b, c, d, e, f])
}

/// Writes the rows.
pub(super) fn compile(site: &Site, config: &Config, rows: &mut Rows) {
    sysctls(site, config, rows);
    links(site, rows);
    addresses(site, config, rows);
    devices(site, rows);
    routes(site, config, rows);
}

fn links(site: &Site, rows: &mut Rows) {
    let why = because(&config_origin("routing"));
    let mut link = |name: &str, kind: LinkKind, mac: Option<Mac>| {
        let row = LinkRow { kind, mac, mtu: site.mtu, alias: format!("{LINK_ALIAS_PREFIX}{name}") };
        rows.put::<Link>(name.into(), row, &why);
        rows.put::<LinkUp>(name.into(), Present, &why);
    };
    link(HOST_LINK, LinkKind::HostVeth { peer: NET_LINK.into() }, Some(mac(site, HOST_LINK)));
    link(NET_LINK, LinkKind::HostVeth { peer: HOST_LINK.into() }, Some(mac(site, NET_LINK)));
    if let Some(overlay) = &site.overlay {
        link(overlay.link, overlay.kind.clone(), None);
    }
    let runtime = RuntimeRow {
        host: HOST_LINK.into(),
        overlay: site.overlay.as_ref().map(|overlay| overlay.link.into()),
        host_mac: mac(site, HOST_LINK),
    };
    rows.put::<Runtime>(Only, runtime, &why);
}

fn routes(site: &Site, config: &Config, rows: &mut Rows) {
    let why = because(&site.origin);
    for cidr in &site.pod_cidrs {
        // On link: whoever asks for a pod on cilium_host is answered by the program there.
        let src = site.router(Family::of(cidr.addr()));
        let row = RouteRow { link: HOST_LINK.into(), via: None, src, mtu: route_mtu(site) };
        rows.put::<Route>(RouteKey { table: MAIN_TABLE, dst: *cidr }, row, &why);
    }
    for node in &site.neighbours {
        let why = because(&node.origin);
        for cidr in &node.pod_cidrs {
            if let Some(row) = route_to(site, config, node, cidr, rows) {
                rows.put::<Route>(RouteKey { table: MAIN_TABLE, dst: *cidr }, row, &why);
            }
        }
    }
}

/// What fits a pod's interface; no metric where the interface says the same.
fn route_mtu(site: &Site) -> u32 {
    if site.pod_mtu == site.mtu { 0 } else { site.pod_mtu }
}

/// Kernel parameters. New interfaces take over `default`, ours among them; the stricter of `all` and the
/// interface's own counts (Documentation/networking/ip-sysctl.rst, `rp_filter`).
fn sysctls(site: &Site, config: &Config, rows: &mut Rows) {
    let why = because(&config_origin("ipv4"));
    let mut set =
        |key: &str, value: &str| rows.put::<Sysctl>(SysctlKey(key.to_owned()), value.to_owned(), &why);
    if site.ipv4 {
        set("net.ipv4.ip_forward", "1");
        set("net.ipv4.conf.all.rp_filter", "0");
        set("net.ipv4.conf.default.rp_filter", "0");
    }
    if site.ipv6 {
        set("net.ipv6.conf.all.forwarding", "1");
    }
    if config.load_balancer.kube_proxy_replacement {
        // What comes in for a NodePort is the frontend's: a connection of the node's own could not use it.
        let [first, last] = config.load_balancer.node_port_range;
        let ports = if first == last { first.to_string() } else { format!("{first}-{last}") };
        let why = because(&config_origin("load_balancer.node_port_range"));
        rows.put::<Sysctl>(SysctlKey(RESERVED_PORTS.to_owned()), ports, &why);
    }
}

fn addresses(site: &Site, config: &Config, rows: &mut Rows) {
    let why = because(&site.origin);
    for router in site.routers() {
        let key = AddressKey { link: HOST_LINK.into(), addr: IpNet::from(router) };
        rows.put::<Address>(key, Present, &why);
    }
    for addr in site.own.iter().filter(|a| site.enabled(Family::of(**a))) {
        let row = EndpointRow::Host { identity: IdentityId(identity::HOST) };
        rows.put::<Endpoint>(EndpointKey(*addr), row, &why);
    }
    for cidr in site.pod_cidrs.iter().filter(|c| site.router(Family::of(c.addr())).is_none()) {
        rows.error(
            &site.origin,
            format!("pod CIDR {cidr} has no address for the router: its pods have no gateway"),
            "a prefix with at least two addresses, or a CiliumInternalIP",
        );
    }
    if site.pod_cidrs.is_empty() && config.paths.cni_conf_dir.is_some() {
        rows.warning(
            &site.origin,
            "this node has no pod CIDRs: no pod can be attached".to_owned(),
            "name them in a CiliumNode or Node object, or in `node.pod_cidrs`",
        );
    }
}

fn devices(site: &Site, rows: &mut Rows) {
    let why = because(&config_origin("routing.devices"));
    for device in &site.devices {
        let source = |v4: bool| {
            let mut held = device.addresses.iter().map(IpNet::addr).filter(|a| a.is_ipv4() == v4);
            held.clone().find(|a| site.addresses.contains(a)).or_else(|| held.next())
        };
        let row = DeviceRow {
            ipv4: source(true),
            ipv6: source(false),
            mac: device.mac.unwrap_or_default(),
            flags: if device.mac.is_none() { DEVICE_L3 } else { 0 },
        };
        rows.put::<Device>(device.name.clone(), row, &why);
    }
}

/// The way to another node's pods; `None` if the network knows it, or nobody does.
fn route_to(
    site: &Site,
    config: &Config,
    node: &Neighbour,
    cidr: &IpNet,
    rows: &mut Rows,
) -> Option<RouteRow> {
    let family = Family::of(cidr.addr());
    let src = site.router(family);
    if site.tunnel {
        node.tunnel?;
        return Some(RouteRow { link: HOST_LINK.into(), via: None, src, mtu: route_mtu(site) });
    }
    if !config.routing.auto_direct_node_routes {
        return None;
    }
    let reached = node
        .addresses
        .iter()
        .filter(|a| Family::of(**a) == family)
        .find_map(|addr| Some((*addr, device_to(site, *addr)?)));
    let Some((via, link)) = reached else {
        rows.error(
            &node.origin,
            format!("no device of this node shares a link with it: its pod CIDR {cidr} is not routed"),
            "nodes on one link, or routes of the network's own with auto_direct_node_routes = false",
        );
        return None;
    };
    Some(RouteRow { link, via: Some(via), src: None, mtu: 0 })
}

/// The device on whose link an address is.
fn device_to(site: &Site, addr: IpAddr) -> Option<LinkName> {
    let on_link = |d: &&HostDevice| d.addresses.iter().any(|net| net.contains(&addr));
    site.devices.iter().find(on_link).map(|d| d.name.clone())
}
