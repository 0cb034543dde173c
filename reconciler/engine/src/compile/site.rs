//! What this node is, and where the others are: addresses, pod CIDRs, router, devices, MTU. Everything
//! later stages need to know of the place they compile for, decided once.

use super::rows::{Edits, Rows, config_origin};
use crate::config::{Config, RoutingMode, TunnelProtocol};
use crate::map::Map;
use crate::shared::Shared;
use crate::state::{GENEVE_LINK, IdentityId, LinkKind, Origin, VXLAN_LINK};
use crate::world::{EndpointSlice, HostDevice, HostFacts, Name, Node, NodeAddressKind, ObjectName, World};
use cilium_abi::identity;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Bytes an overlay adds: outer IP (20 or 40), UDP 8, VXLAN or Geneve 8, inner Ethernet 14.
const OVERLAY_OVER_IPV4: u32 = 50;
const OVERLAY_OVER_IPV6: u32 = 70;
/// MTU where no device says otherwise.
const DEFAULT_MTU: u32 = 1500;
/// Least MTU that IPv6 works with (RFC 8200 §5).
const LEAST_MTU: u32 = 1280;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(addr: IpAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// Another node.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Neighbour {
    /// Its name.
    pub(super) name: String,
    /// Why rows about it are wanted.
    pub(super) origin: Origin,
    /// Its addresses on the underlay.
    pub(super) addresses: Vec<IpAddr>,
    /// All its addresses, router included.
    pub(super) all: BTreeSet<IpAddr>,
    /// Its router addresses.
    pub(super) routers: BTreeSet<IpAddr>,
    /// Where to encapsulate to, in tunnel mode.
    pub(super) tunnel: Option<IpAddr>,
    /// Its pod CIDRs that no other node has.
    pub(super) pod_cidrs: Vec<IpNet>,
    /// An API server runs there.
    pub(super) is_apiserver: bool,
}

/// The device that encapsulates.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Overlay {
    /// Its name.
    pub(super) link: &'static str,
    /// Its type, with the port.
    pub(super) kind: LinkKind,
}

impl Overlay {
    fn of(config: &Config) -> Option<Self> {
        let port = config.routing.overlay_port();
        (config.routing.mode == RoutingMode::Tunnel).then_some(match config.routing.tunnel_protocol {
            TunnelProtocol::Vxlan => Self { link: VXLAN_LINK, kind: LinkKind::Vxlan { port } },
            TunnelProtocol::Geneve => Self { link: GENEVE_LINK, kind: LinkKind::Geneve { port } },
        })
    }
}

/// This node, and what it knows of the others.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Site {
    /// Its name.
    pub(super) name: String,
    /// IPv4 is on.
    pub(super) ipv4: bool,
    /// IPv6 is on.
    pub(super) ipv6: bool,
    /// Pods of other nodes are reached through the overlay.
    pub(super) tunnel: bool,
    /// The device they are reached by.
    pub(super) overlay: Option<Overlay>,
    /// Its addresses on the underlay.
    pub(super) addresses: Vec<IpAddr>,
    /// Every address of the host, router included.
    pub(super) own: BTreeSet<IpAddr>,
    /// Prefixes its pods get their addresses from.
    pub(super) pod_cidrs: Vec<IpNet>,
    /// IPv4 address of the router.
    pub(super) router_ipv4: Option<IpAddr>,
    /// IPv6 address of the router.
    pub(super) router_ipv6: Option<IpAddr>,
    /// Why rows about it are wanted.
    pub(super) origin: Origin,
    /// Devices that carry the cluster's traffic.
    pub(super) devices: Vec<HostDevice>,
    /// Addresses that NodePorts and hostPorts are served on.
    pub(super) node_ports: Vec<IpAddr>,
    /// MTU between nodes.
    pub(super) mtu: u32,
    /// MTU of pods.
    pub(super) pod_mtu: u32,
    /// Addresses of API servers, with what says so.
    pub(super) apiservers: BTreeMap<IpAddr, Origin>,
    /// The others, by name.
    pub(super) neighbours: Vec<Neighbour>,
}

impl Site {
    /// Whether addresses of this family count.
    pub(super) fn enabled(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.ipv4,
            Family::V6 => self.ipv6,
        }
    }

    /// Identity of addresses outside the cluster.
    pub(super) fn world(&self, family: Family) -> IdentityId {
        IdentityId(match (self.ipv4 && self.ipv6, family) {
            (false, _) => identity::WORLD,
            (true, Family::V4) => identity::WORLD_IPV4,
            (true, Family::V6) => identity::WORLD_IPV6,
        })
    }

    /// The router addresses there are.
    pub(super) fn routers(&self) -> impl Iterator<Item = IpAddr> {
        self.router_ipv4.into_iter().chain(self.router_ipv6)
    }

    /// The router address of this family.
    pub(super) fn router(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.router_ipv4,
            Family::V6 => self.router_ipv6,
        }
    }

    /// Whether an API server runs here.
    pub(super) fn is_apiserver(&self) -> bool {
        self.own.iter().any(|addr| self.apiservers.contains_key(addr))
    }

    /// Addresses of API servers that are no node's.
    pub(super) fn outer_apiservers(&self) -> impl Iterator<Item = (&IpAddr, &Origin)> {
        let is_node = |addr| self.own.contains(addr) || self.neighbours.iter().any(|o| o.all.contains(addr));
        self.apiservers.iter().filter(move |(addr, _)| !is_node(*addr))
    }

    /// Whether the prefix lies within some node's pod CIDR: its addresses are the cluster's own.
    pub(super) fn in_pod_cidrs(&self, net: &IpNet) -> bool {
        self.pod_cidrs
            .iter()
            .chain(self.neighbours.iter().flat_map(|n| &n.pod_cidrs))
            .any(|cidr| cidr.contains(net))
    }
}

/// Where we are, as long as nodes and host stay as they are.
#[derive(Debug, Default)]
pub(super) struct Stage {
    nodes: Map<String, Shared<Node>>,
    slices: Map<Name, Shared<EndpointSlice>>,
    host: HostFacts,
    problems: Rows,
    site: Option<Shared<Site>>,
}

impl Stage {
    /// The place, and whether it is another than before.
    pub(super) fn update(
        &mut self,
        world: &World,
        config: &Config,
        edits: &mut Edits,
    ) -> (Shared<Site>, bool) {
        let same_host = self.host == world.host;
        let same_servers = self.slices.shares(&world.slices)
            || self.site.as_ref().is_some_and(|site| site.apiservers == apiservers(world));
        self.slices = world.slices.clone();
        let same = same_host && same_servers && self.nodes == world.nodes;
        if let Some(site) = self.site.as_ref().filter(|_| same) {
            return (site.clone(), false);
        }
        let mut problems = Rows::default();
        let now = locate(world, config, &mut problems);
        edits.replace(&mut self.problems, problems);
        (self.nodes, self.host) = (world.nodes.clone(), world.host.clone());
        // Labels of a node, and what else nobody here asks for.
        if let Some(site) = self.site.as_ref().filter(|before| same_host && ***before == now) {
            return (site.clone(), false);
        }
        let site = Shared::from(now);
        self.site = Some(site.clone());
        (site, true)
    }
}

/// How rows explain themselves by a node.
pub(super) fn node_origin(name: &str, node: &Node) -> Origin {
    Origin { object: format!("CiliumNode {name}"), place: node.place.to_string(), rule: String::new() }
}

/// Addresses of API servers: those of the Service `kubernetes`, ready or not (a server that starts is known already).
fn apiservers(world: &World) -> BTreeMap<IpAddr, Origin> {
    const NAMESPACE: &str = "default";
    let first = Name::from(ObjectName::new(NAMESPACE, ""));
    let slices = world.slices.range(first..).take_while(|(name, _)| name.namespace == *NAMESPACE);
    let mut found = BTreeMap::new();
    for (name, slice) in slices.filter(|(_, slice)| slice.service == "kubernetes") {
        for endpoint in &slice.endpoints {
            let place = slice.place.to_string();
            let origin = Origin { object: format!("EndpointSlice {name}"), place, rule: String::new() };
            found.entry(endpoint.ip).or_insert(origin);
        }
    }
    found
}

/// Addresses of a kind, in the order given, without repetition.
fn addresses(node: &Node, kind: NodeAddressKind) -> Vec<IpAddr> {
    let mut seen = BTreeSet::new();
    node.addresses.iter().filter(|a| a.kind == kind && seen.insert(a.ip)).map(|a| a.ip).collect()
}

/// This node's pod CIDRs: its objects', else the configuration's.
pub fn pod_cidrs(world: &World, config: &Config) -> Vec<IpNet> {
    let cidrs = match world.nodes.get(&config.node.name) {
        Some(node) if !node.pod_cidrs.is_empty() => &node.pod_cidrs,
        _ => &config.node.pod_cidrs,
    };
    let mut seen = BTreeSet::new();
    cidrs.iter().map(IpNet::trunc).filter(|net| family_on(config, net.addr()) && seen.insert(*net)).collect()
}

/// This node's router addresses: those its CiliumNode gives, else the first of each family's pod CIDR.
pub fn router_addresses(world: &World, config: &Config) -> Vec<IpAddr> {
    let given = world
        .nodes
        .get(&config.node.name)
        .map(|node| addresses(node, NodeAddressKind::CiliumInternalIp))
        .unwrap_or_default();
    let mut routers = routers(&given, &pod_cidrs(world, config));
    routers.retain(|addr| family_on(config, *addr));
    routers
}

/// A router address per family: the one given, else the first of the pod CIDR. Every node counts so, for
/// itself and for the others.
fn routers(given: &[IpAddr], pod_cidrs: &[IpNet]) -> Vec<IpAddr> {
    let of = |family: Family| {
        let first = || pod_cidrs.iter().filter(|c| Family::of(c.addr()) == family).find_map(first_address);
        given.iter().copied().find(|a| Family::of(*a) == family).or_else(first)
    };
    of(Family::V4).into_iter().chain(of(Family::V6)).collect()
}

fn family_on(config: &Config, addr: IpAddr) -> bool {
    if addr.is_ipv4() { config.ipv4.enabled } else { config.ipv6.enabled }
}

/// The first address after the network's own; `None` if the prefix is a single address.
fn first_address(net: &IpNet) -> Option<IpAddr> {
    (net.prefix_len() < net.max_prefix_len()).then(|| match net.network() {
        IpAddr::V4(addr) => IpAddr::from((u32::from(addr) + 1).to_be_bytes()),
        IpAddr::V6(addr) => IpAddr::from((u128::from(addr) + 1).to_be_bytes()),
    })
}

/// Finds out where we are.
pub(super) fn locate(world: &World, config: &Config, rows: &mut Rows) -> Site {
    let name = config.node.name.clone();
    let this = world.nodes.get(&name).map(|node| &**node);
    let origin = this.map_or_else(|| config_origin("node"), |node| node_origin(&name, node));
    let internal = underlay_addresses(world, config, this);
    let devices = devices(world, config, &internal, rows);
    let tunnel = config.routing.mode == RoutingMode::Tunnel;
    let underlay_ipv6 = !internal.is_empty() && internal.iter().all(IpAddr::is_ipv6);
    let mtu = match config.routing.mtu {
        0 => devices.iter().map(|d| d.mtu).filter(|mtu| *mtu > 0).min().unwrap_or(DEFAULT_MTU),
        set => u32::from(set),
    };
    let overhead = if underlay_ipv6 { OVERLAY_OVER_IPV6 } else { OVERLAY_OVER_IPV4 };
    let pod_mtu = if tunnel { mtu.saturating_sub(overhead) } else { mtu };
    if config.ipv6.enabled && pod_mtu < LEAST_MTU {
        rows.warning(
            &config_origin("routing.mtu"),
            format!("pods get an MTU of {pod_mtu} bytes, less than the {LEAST_MTU} that IPv6 needs"),
            "raise the MTU between nodes, or turn IPv6 off",
        );
    }
    let routers = router_addresses(world, config);
    let mut own: BTreeSet<IpAddr> = internal.iter().copied().collect();
    own.extend(world.host.devices.iter().flat_map(|d| &d.addresses).map(IpNet::addr));
    own.extend(&routers);
    let mut site = Site {
        ipv4: config.ipv4.enabled,
        ipv6: config.ipv6.enabled,
        tunnel,
        overlay: Overlay::of(config),
        own,
        pod_cidrs: Vec::new(),
        router_ipv4: routers.iter().copied().find(IpAddr::is_ipv4),
        router_ipv6: routers.iter().copied().find(IpAddr::is_ipv6),
        origin,
        node_ports: node_ports(config, &devices, &internal),
        addresses: internal,
        devices,
        mtu,
        pod_mtu,
        apiservers: apiservers(world),
        neighbours: Vec::new(),
        name,
    };
    site.pod_cidrs = pod_cidrs(world, config);
    site.neighbours = neighbours(world, &site, underlay_ipv6, rows);
    site
}

/// Addresses that reach this node: its objects', else the configuration's, else those of the device
/// with the default route.
fn underlay_addresses(world: &World, config: &Config, this: Option<&Node>) -> Vec<IpAddr> {
    let given = this.map(|node| addresses(node, NodeAddressKind::InternalIp)).unwrap_or_default();
    if !given.is_empty() {
        return given;
    }
    if !config.node.addresses.is_empty() {
        return config.node.addresses.clone();
    }
    let first = |v4: bool| {
        world
            .host
            .devices
            .iter()
            .filter(|d| d.default_route)
            .flat_map(|d| &d.addresses)
            .map(IpNet::addr)
            .find(|a| a.is_ipv4() == v4)
    };
    first(true).into_iter().chain(first(false)).collect()
}

/// Addresses that NodePorts and hostPorts are served on, in their order.
fn node_ports(config: &Config, devices: &[HostDevice], internal: &[IpAddr]) -> Vec<IpAddr> {
    let only = &config.load_balancer.node_port_addresses;
    let all = devices.iter().flat_map(|d| &d.addresses).map(IpNet::addr).chain(internal.iter().copied());
    let served = |addr: &IpAddr| {
        family_on(config, *addr) && (only.is_empty() || only.iter().any(|net| net.contains(addr)))
    };
    all.filter(served).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The devices that carry the cluster's traffic.
fn devices(world: &World, config: &Config, internal: &[IpAddr], rows: &mut Rows) -> Vec<HostDevice> {
    if config.routing.devices.is_empty() {
        let holds = |d: &HostDevice| d.addresses.iter().any(|a| internal.contains(&a.addr()));
        return world.host.devices.iter().filter(|d| d.default_route || holds(d)).cloned().collect();
    }
    let mut found = Vec::new();
    for wanted in &config.routing.devices {
        match world.host.devices.iter().find(|d| d.name.0 == **wanted) {
            Some(device) => found.push(device.clone()),
            None => rows.error(
                &config_origin("routing.devices"),
                format!("there is no device `{wanted}` with a global address"),
                "name a device of this host, or leave the list empty",
            ),
        }
    }
    found
}

/// The other nodes. A pod CIDR that overlaps one taken already, or holds a node's own address, is left
/// out: a route for it would lead traffic astray.
fn neighbours(world: &World, site: &Site, underlay_ipv6: bool, rows: &mut Rows) -> Vec<Neighbour> {
    let mut taken: BTreeMap<IpNet, String> = site.pod_cidrs.iter().map(|c| (*c, site.name.clone())).collect();
    let others = || world.nodes.iter().filter(|(name, _)| **name != site.name);
    let mut underlay: BTreeSet<IpAddr> = site.addresses.iter().copied().collect();
    underlay.extend(others().flat_map(|(_, node)| addresses(node, NodeAddressKind::InternalIp)));
    let mut found = Vec::new();
    for (name, node) in others() {
        let origin = node_origin(name, node);
        let mut pod_cidrs = Vec::new();
        for cidr in node.pod_cidrs.iter().map(IpNet::trunc).filter(|c| site.enabled(Family::of(c.addr()))) {
            let overlap = taken.iter().find(|(other, _)| other.contains(&cidr) || cidr.contains(*other));
            if let Some((other, holder)) = overlap {
                if holder != name {
                    rows.error(
                        &origin,
                        format!("pod CIDR {cidr} overlaps {other} of node {holder}, and is not routed"),
                        "give each node pod CIDRs of its own",
                    );
                }
            } else if let Some(addr) = underlay.iter().find(|a| cidr.contains(*a)) {
                rows.error(
                    &origin,
                    format!("pod CIDR {cidr} holds {addr}, the address of a node, and is not routed"),
                    "keep pod CIDRs apart from the network between nodes",
                );
            } else {
                taken.insert(cidr, name.clone());
                pod_cidrs.push(cidr);
            }
        }
        let internal = addresses(node, NodeAddressKind::InternalIp);
        let tunnel = internal.iter().copied().find(|a| a.is_ipv6() == underlay_ipv6).filter(|_| site.tunnel);
        if site.tunnel && tunnel.is_none() && !pod_cidrs.is_empty() {
            let family = if underlay_ipv6 { "IPv6" } else { "IPv4" };
            rows.error(
                &origin,
                format!("no {family} InternalIP to encapsulate to: its pods cannot be reached"),
                "add the address to the node's object",
            );
        }
        let routers = routers(&addresses(node, NodeAddressKind::CiliumInternalIp), &pod_cidrs);
        let all: BTreeSet<IpAddr> =
            node.addresses.iter().map(|a| a.ip).chain(routers.iter().copied()).collect();
        found.push(Neighbour {
            name: name.clone(),
            origin,
            is_apiserver: all.iter().any(|addr| site.apiservers.contains_key(addr)),
            all,
            routers: routers.into_iter().collect(),
            addresses: internal,
            tunnel,
            pod_cidrs,
        });
    }
    found
}
