//! The state a packet meets: map rows, and the rules and routes they come from. Plain data, shared by
//! the programs (as rows) and the model (as rules). Never: a decision about a packet.

use super::frontends;
pub use super::rule::Rule;
use cilium_abi::{
    Address, Be16, Mac,
    endpoint::{ENDPOINT_HOST, EndpointConfigRow, EndpointRow},
    identity,
    ipcache::{FLAG_IN_CLUSTER, IpcacheRow, PrefixKey},
    lb::{BackendRow, FRONTEND_CLUSTER_IP, FrontendKey, FrontendRow, RevNatRow, SlotKey, SourceRangeKey},
    node::{self, DeviceRow, NodeConstants, RuntimeRow},
    policy::{ALLOW, DENY, EGRESS, NONE, PolicyKey, PolicyRow, port_prefix},
};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// An address from text.
pub fn ip(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap_or_else(|e| panic!("{text}: {e}")).into()
}

/// The interfaces of the test namespace, by their ifindex there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Links {
    /// Host sides of the pods A, B, C, and of X, which has no configuration.
    pub lxc: [u32; 4],
    /// `cilium_host`.
    pub host: u32,
    /// `cilium_vxlan`; a plain link here, since nothing is sent.
    pub overlay: u32,
    /// The device towards the network.
    pub eth0: u32,
    /// The device towards a second network, with nothing beyond it.
    pub side: u32,
}

/// A pod of the test node.
#[derive(Clone, Copy, Debug)]
pub struct Pod {
    /// Place in [`Links::lxc`].
    pub link: usize,
    /// Both addresses.
    pub v4: &'static str,
    /// IPv6.
    pub v6: &'static str,
    /// Identity.
    pub identity: u32,
    /// Endpoint number and policy number.
    pub id: u16,
}

impl Pod {
    /// Its address of a family.
    pub fn ip(&self, family: Family) -> Address {
        ip(match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        })
    }
    /// Hardware address inside.
    pub const fn mac(&self) -> Mac {
        Mac([2, 0, 0, 0, 0xaa, self.id as u8])
    }
    /// Hardware address of the host side.
    pub const fn node_mac(&self) -> Mac {
        Mac([2, 0, 0, 0, 0xbb, self.id as u8])
    }
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Pod A.
pub const A: Pod = Pod { link: 0, v4: "10.1.0.11", v6: "fd00:1::11", identity: 1001, id: 11 };
/// Pod B.
pub const B: Pod = Pod { link: 1, v4: "10.1.0.12", v6: "fd00:1::12", identity: 1002, id: 12 };
/// Pod C.
pub const C: Pod = Pod { link: 2, v4: "10.1.0.13", v6: "fd00:1::13", identity: 1003, id: 13 };
/// A pod whose configuration is not written yet.
pub const X: Pod = Pod { link: 3, v4: "10.1.0.14", v6: "fd00:1::14", identity: 1004, id: 14 };

/// Addresses of both families by role.
pub mod at {
    use super::{Address, Family, ip};
    macro_rules! roles {
        ($($(#[$doc:meta])* $name:ident = $v4:literal, $v6:literal;)*) => {$(
            $(#[$doc])* pub fn $name(family: Family) -> Address {
                ip(match family { Family::V4 => $v4, Family::V6 => $v6 })
            }
        )*};
    }
    roles! {
        /// The router address of this node.
        router = "10.1.0.1", "fd00:1::1";
        /// This node on its device.
        node = "192.0.2.10", "2001:db8::10";
        /// The gateway on the wire.
        gateway = "192.0.2.1", "2001:db8::1";
        /// A pod on another node.
        remote_pod = "10.2.0.21", "fd00:2::21";
        /// A second pod on another node.
        remote_pod_2 = "10.2.0.22", "fd00:2::22";
        /// The other node.
        remote_node = "192.0.2.20", "2001:db8::20";
        /// Outside, behind the gateway, in a prefix with an identity of its own.
        outside = "198.51.100.7", "2001:db8:51::7";
        /// Outside, behind the gateway, in a narrower prefix inside that.
        outside_narrow = "198.51.100.129", "2001:db8:51:1::7";
        /// Outside, in no prefix.
        world = "198.18.0.9", "2001:db8:18::9";
        /// On the wire, without a neighbour entry.
        stranger = "192.0.2.77", "2001:db8::77";
        /// Behind a blackhole route.
        blackhole = "203.0.113.5", "2001:db8:203::5";
        /// In this node's pod range, held by nobody.
        nobody = "10.1.0.99", "fd00:1::99";
        /// A frontend with backends.
        service = "10.96.0.10", "fd00:96::10";
        /// A frontend without.
        empty_service = "10.96.0.11", "fd00:96::11";
        /// A load balancer's address, on no interface.
        balancer = "198.19.0.5", "2001:db8:19::5";
        /// An external address of a service, on no interface.
        external = "198.19.0.6", "2001:db8:19::6";
        /// The router address of the other node.
        remote_router = "10.2.0.1", "fd00:2::1";
        /// This node on its second device.
        side_node = "198.18.7.10", "2001:db8:7::10";
        /// A server on the second wire.
        side = "198.18.7.20", "2001:db8:7::20";
    }
}

/// Hardware address of `eth0`.
pub const ETH0_MAC: Mac = Mac([2, 0, 0, 0, 0xee, 1]);
/// Hardware address of the second device.
pub const SIDE_MAC: Mac = Mac([2, 0, 0, 0, 0xee, 4]);
/// Hardware address of [`at::side`].
pub const SERVER_MAC: Mac = Mac([2, 0, 0, 0, 0xee, 5]);
/// Hardware address of the gateway.
pub const GATEWAY_MAC: Mac = Mac([2, 0, 0, 0, 0xee, 2]);
/// Hardware address of the other node.
pub const REMOTE_NODE_MAC: Mac = Mac([2, 0, 0, 0, 0xee, 3]);
/// Identity of [`at::remote_pod`].
pub const REMOTE_POD_ID: u32 = 2001;
/// Identity of the prefix around [`at::outside`].
pub const OUTSIDE_ID: u32 = identity::LOCAL_SCOPE | 7;
/// Identity of the narrower prefix.
pub const NARROW_ID: u32 = identity::LOCAL_SCOPE | 8;
/// The number of backends of [`at::service`].
pub const BACKENDS: u32 = 3;

/// Where the namespace's routes lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Out of `eth0`, or the second device to an address that [`is_side`], to a known neighbour.
    Neighbour(Mac),
    /// Likewise to a neighbour that must be asked for.
    Unresolved,
    /// Nowhere: blackhole.
    Blocked,
    /// Into `cilium_host`.
    Host,
    /// The stack's matter: own, multicast, link-local.
    Stack,
}

fn within(addr: &Address, prefix: &str, len: u32) -> bool {
    let (a, p) = (u128::from_be_bytes(addr.bytes()), u128::from_be_bytes(ip(prefix).bytes()));
    let len = if ip(prefix).is_v4() { len + 96 } else { len };
    len == 0 || (a ^ p) >> (128 - len) == 0
}

/// Whether an address lies on the second wire.
pub fn is_side(addr: &Address) -> bool {
    if addr.is_v4() { within(addr, "198.18.7.0", 24) } else { within(addr, "2001:db8:7::", 64) }
}

/// The route to an address, as [`super::lab`] sets the namespace up.
pub fn route(addr: &Address) -> Route {
    let is_v4 = addr.is_v4();
    let text: IpAddr = (*addr).into();
    let stack = match text {
        IpAddr::V4(v4) => v4.is_loopback() || v4.octets()[0] >= 224,
        IpAddr::V6(v6) => {
            v6.is_multicast() || v6.is_unicast_link_local() || v6.is_loopback() || v6.is_unspecified()
        }
    };
    let own = [Family::V4, Family::V6]
        .into_iter()
        .flat_map(|family| [at::node(family), at::router(family), at::side_node(family)]);
    if stack || own.into_iter().any(|own| own == *addr) {
        return Route::Stack;
    }
    let (pods, link, hole) = if is_v4 {
        (("10.1.0.0", 24), ("192.0.2.0", 24), ("203.0.113.0", 24))
    } else {
        (("fd00:1::", 64), ("2001:db8::", 64), ("2001:db8:203::", 64))
    };
    if within(addr, pods.0, pods.1) {
        return Route::Host;
    }
    if within(addr, hole.0, hole.1) {
        return Route::Blocked;
    }
    let is_side = is_side(addr);
    if is_side || within(addr, link.0, link.1) {
        let family = if is_v4 { Family::V4 } else { Family::V6 };
        return if *addr == at::gateway(family) {
            Route::Neighbour(GATEWAY_MAC)
        } else if *addr == at::remote_node(family) {
            Route::Neighbour(REMOTE_NODE_MAC)
        } else if *addr == at::side(family) {
            Route::Neighbour(SERVER_MAC)
        } else if is_v4 && addr.bytes()[15] == 255 {
            Route::Stack
        } else if !is_v4 && [ip("2001:db8::"), ip("2001:db8:7::")].contains(addr) {
            // The subnet's anycast address, which a forwarding node holds.
            Route::Stack
        } else {
            Route::Unresolved
        };
    }
    Route::Neighbour(GATEWAY_MAC)
}

/// All rows, and the rules of policy.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// By address.
    pub endpoints: BTreeMap<Address, EndpointRow>,
    /// By ifindex.
    pub configs: BTreeMap<u32, EndpointConfigRow>,
    /// By ifindex.
    pub devices: BTreeMap<u32, DeviceRow>,
    /// By address.
    pub ipcache: BTreeMap<Address, IpcacheRow>,
    /// By prefix.
    pub prefixes: BTreeMap<PrefixKey, IpcacheRow>,
    /// Policy.
    pub rules: Vec<Rule>,
    /// By address, port and protocol.
    pub frontends: BTreeMap<FrontendKey, FrontendRow>,
    /// By list and place.
    pub slots: BTreeMap<SlotKey, u32>,
    /// By number.
    pub backends: BTreeMap<u32, BackendRow>,
    /// By number.
    pub revnats: BTreeMap<u32, RevNatRow>,
    /// By frontend and prefix.
    pub source_ranges: BTreeMap<SourceRangeKey, u32>,
    /// By place.
    pub maglev: BTreeMap<u32, u32>,
    /// Runtime facts.
    pub runtime: RuntimeRow,
    /// Ipcache revision.
    pub revision: u32,
}

/// Kinds of nodes the tests load the programs for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Native routing, masquerading, host always allowed.
    Native,
    /// Overlay, masquerading from few ports, host always allowed.
    Tunnel,
    /// Overlay, no masquerading, host subject to policy.
    Strict,
    /// As [`Self::Native`], and devices serve frontends.
    Balancer,
    /// Overlay, devices serve frontends, few ports, IPv4 alone masqueraded, host subject to policy.
    BalancerTunnel,
    /// As [`Self::Balancer`], and their drivers do before the stack sees a frame.
    Accelerated,
    /// As [`Self::BalancerTunnel`], likewise.
    AcceleratedTunnel,
    /// As [`Self::Balancer`], and backends outside answer clients themselves, by IP in IP.
    BalancerIpip,
    /// As [`Self::BalancerIpip`], and drivers serve frontends.
    AcceleratedIpip,
    /// As [`Self::Native`], pods' traffic through the host's stack.
    Stack,
    /// As [`Self::Tunnel`], likewise.
    StackTunnel,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Native,
        Self::Tunnel,
        Self::Strict,
        Self::Balancer,
        Self::BalancerTunnel,
        Self::Accelerated,
        Self::AcceleratedTunnel,
        Self::BalancerIpip,
        Self::AcceleratedIpip,
        Self::Stack,
        Self::StackTunnel,
    ];

    /// The same kind of node with drivers that serve frontends, where devices do.
    pub const fn accelerated(self) -> Option<Self> {
        match self {
            Self::Balancer => Some(Self::Accelerated),
            Self::BalancerTunnel => Some(Self::AcceleratedTunnel),
            Self::BalancerIpip => Some(Self::AcceleratedIpip),
            _ => None,
        }
    }

    /// Whether other nodes' pods are reached without the overlay.
    pub const fn is_native(self) -> bool {
        !matches!(
            self,
            Self::Tunnel | Self::Strict | Self::BalancerTunnel | Self::AcceleratedTunnel | Self::StackTunnel
        )
    }
}

fn with(mode: Mode, flag: u32) -> NodeConstants {
    let node = constants(mode);
    NodeConstants { flags: node.flags | flag, ..node }
}

/// The constants of a mode.
pub fn constants(mode: Mode) -> NodeConstants {
    let masquerade = node::NODE_MASQUERADE_IPV4 | node::NODE_MASQUERADE_IPV6;
    let flags = match mode {
        Mode::Native => masquerade | node::NODE_ALLOW_LOCALHOST,
        Mode::Tunnel => masquerade | node::NODE_ALLOW_LOCALHOST | node::NODE_TUNNEL,
        Mode::Strict => node::NODE_TUNNEL,
        Mode::Balancer => masquerade | node::NODE_ALLOW_LOCALHOST | node::NODE_LB,
        Mode::BalancerTunnel => node::NODE_MASQUERADE_IPV4 | node::NODE_TUNNEL | node::NODE_LB,
        Mode::Accelerated => return with(Mode::Balancer, node::NODE_XDP),
        Mode::AcceleratedTunnel => return with(Mode::BalancerTunnel, node::NODE_XDP),
        Mode::BalancerIpip => return with(Mode::Balancer, node::NODE_DSR_IPIP),
        Mode::AcceleratedIpip => return with(Mode::Accelerated, node::NODE_DSR_IPIP),
        Mode::Stack => return with(Mode::Native, node::NODE_HOST_STACK),
        Mode::StackTunnel => return with(Mode::Tunnel, node::NODE_HOST_STACK),
    };
    let few_ports = matches!(mode, Mode::Tunnel | Mode::BalancerTunnel);
    let both = node::NODE_IPV4 | node::NODE_IPV6;
    NodeConstants {
        flags: flags | both | node::NODE_EVENT_DROP | node::NODE_EVENT_VERDICT | node::NODE_SOCK,
        world_ipv4: identity::WORLD_IPV4,
        world_ipv6: identity::WORLD_IPV6,
        router_ipv4: at::router(Family::V4),
        router_ipv6: at::router(Family::V6),
        native_ipv4: if mode.is_native() { ip("10.0.0.0") } else { Address::NONE },
        native_ipv6: if mode.is_native() { ip("fd00::") } else { Address::NONE },
        native_ipv4_len: if mode.is_native() { 104 } else { 0 },
        native_ipv6_len: if mode.is_native() { 16 } else { 0 },
        ct_tcp: 8000,
        ct_syn: 60,
        ct_fin: 10,
        ct_any: 30,
        snat_port_min: if few_ports { 40_000 } else { 32_768 },
        snat_port_max: if few_ports { 40_007 } else { 65_535 },
        maglev_size: if mode == Mode::Strict { 0 } else { frontends::MAGLEV_SIZE },
        trace_interval: 5,
        refusals: 0,
        trace_aggregation: node::AGGREGATE_MEDIUM,
        reserved: 0,
        tunnel_port: Be16::new(8472),
        host_netns: [0; 2],
    }
}

/// The frontend's port and protocol numbers, both families, all to one list of backends.
pub const SERVICE_PORT: u16 = 80;
/// What backends listen on.
pub const BACKEND_PORT: u16 = 8080;

impl World {
    /// A node with the pods A, B, C open, X closed, another node, prefixes outside, a service.
    pub fn base(links: &Links, mode: Mode) -> Self {
        let mut world = Self {
            runtime: RuntimeRow {
                host_ifindex: links.host,
                overlay_ifindex: if mode.is_native() { 0 } else { links.overlay },
                ..RuntimeRow::default()
            },
            revision: 1,
            ..Self::default()
        };
        world.devices.insert(
            links.eth0,
            DeviceRow {
                ipv4: at::node(Family::V4),
                ipv6: at::node(Family::V6),
                mac: ETH0_MAC,
                ..DeviceRow::default()
            },
        );
        world.devices.insert(
            links.side,
            DeviceRow {
                ipv4: at::side_node(Family::V4),
                ipv6: at::side_node(Family::V6),
                mac: SIDE_MAC,
                ..DeviceRow::default()
            },
        );
        for pod in [A, B, C, X] {
            for family in [Family::V4, Family::V6] {
                world.endpoints.insert(
                    pod.ip(family),
                    EndpointRow {
                        ifindex: links.lxc[pod.link],
                        identity: pod.identity,
                        endpoint_id: pod.id,
                        flags: 0,
                        mac: pod.mac(),
                        node_mac: pod.node_mac(),
                    },
                );
            }
        }
        for pod in [A, B, C] {
            world.configs.insert(
                links.lxc[pod.link],
                EndpointConfigRow {
                    endpoint_id: pod.id,
                    flags: 0,
                    identity: pod.identity,
                    policy_id: u32::from(pod.id),
                    ipv4: pod.ip(Family::V4),
                    ipv6: pod.ip(Family::V6),
                    mac: pod.mac(),
                    node_mac: pod.node_mac(),
                },
            );
        }
        for family in [Family::V4, Family::V6] {
            world.add_peers(family, mode);
            world.add_services(family);
        }
        for pod in [A, B, C] {
            for egress in [false, true] {
                world.rule(Rule::any(pod, egress).cookie(1));
            }
        }
        world
    }

    fn add_peers(&mut self, family: Family, mode: Mode) {
        for own in [at::router(family), at::node(family), at::side_node(family)] {
            let row =
                EndpointRow { identity: identity::HOST, flags: ENDPOINT_HOST, ..EndpointRow::default() };
            self.endpoints.insert(own, row);
        }
        let tunnel = if mode.is_native() { Address::NONE } else { at::remote_node(Family::V4) };
        for (addr, number) in
            [(at::remote_pod(family), REMOTE_POD_ID), (at::remote_pod_2(family), REMOTE_POD_ID + 1)]
        {
            self.ipcache.insert(addr, IpcacheRow { identity: number, flags: FLAG_IN_CLUSTER, tunnel });
        }
        let node =
            IpcacheRow { identity: identity::REMOTE_NODE, flags: FLAG_IN_CLUSTER, tunnel: Address::NONE };
        self.ipcache.insert(at::remote_node(family), node);
        self.ipcache.insert(at::remote_router(family), IpcacheRow { tunnel, ..node });
        let (wide, narrow) = match family {
            Family::V4 => (("198.51.100.0", 120), ("198.51.100.128", 121)),
            Family::V6 => (("2001:db8:51::", 48), ("2001:db8:51:1::", 64)),
        };
        for ((text, len), number) in [(wide, OUTSIDE_ID), (narrow, NARROW_ID)] {
            let key = PrefixKey { prefix_len: len, addr: ip(text) };
            self.prefixes.insert(key, IpcacheRow { identity: number, ..IpcacheRow::default() });
        }
    }

    /// A service with the backends B, C and a remote pod, for TCP and UDP.
    fn add_services(&mut self, family: Family) {
        for (index, proto) in [cilium_abi::proto::TCP, cilium_abi::proto::UDP].into_iter().enumerate() {
            let number = u32::from(family == Family::V6) * 2 + index as u32 + 1;
            let list = number * 10;
            for (slot, addr) in [B.ip(family), C.ip(family), at::remote_pod(family)].into_iter().enumerate() {
                let backend = number * 100 + slot as u32;
                self.slots.insert(SlotKey { list, slot: slot as u32 }, backend);
                let row = BackendRow { addr, port: Be16::new(BACKEND_PORT), proto, flags: 0 };
                self.backends.insert(backend, row);
            }
            let frontend = |addr, count, rev_nat| {
                (
                    FrontendKey { addr, port: Be16::new(SERVICE_PORT), proto, scope: 0 },
                    FrontendRow {
                        list,
                        count,
                        rev_nat,
                        flags: FRONTEND_CLUSTER_IP,
                        maglev: frontends::table(number),
                        affinity: 0,
                    },
                )
            };
            let full = frontend(at::service(family), BACKENDS as u16, number as u16);
            let empty = frontend(at::empty_service(family), 0, number as u16 + 100);
            self.frontends.extend([full, empty]);
            let back = |addr| RevNatRow { addr, port: Be16::new(SERVICE_PORT), reserved: 0 };
            self.revnats.insert(number, back(at::service(family)));
            self.revnats.insert(number + 100, back(at::empty_service(family)));
            frontends::add(self, family, proto, number, (list, BACKENDS as u16, number * 100));
        }
    }

    /// Adds a rule.
    pub fn rule(&mut self, rule: Rule) -> &mut Self {
        self.rules.retain(|old| !old.same_place(&rule));
        self.rules.push(rule);
        self
    }

    /// Takes the rules of one pod and direction away: default deny.
    pub fn close(&mut self, pod: Pod, egress: bool) -> &mut Self {
        self.rules.retain(|rule| rule.policy != u32::from(pod.id) || rule.egress != egress);
        self
    }

    /// The rules as map rows.
    pub fn policy_rows(&self) -> BTreeMap<PolicyKey, PolicyRow> {
        let mut rows = BTreeMap::<PolicyKey, PolicyRow>::new();
        for rule in &self.rules {
            let dir = if rule.egress { EGRESS } else { 0 };
            let l3 = PolicyKey {
                policy_id: rule.policy,
                identity: rule.peer,
                dir_len: dir,
                ..PolicyKey::default()
            };
            let head = rows.entry(l3).or_insert(PolicyRow { verdict: NONE, ..PolicyRow::default() });
            let verdict = if rule.allow { ALLOW } else { DENY };
            if rule.proto == 0 {
                (head.verdict, head.precedence, head.cookie) = (verdict, rule.precedence, rule.cookie);
                continue;
            }
            head.lengths |= 1 << rule.len;
            let port = port_prefix(Be16::new(rule.port), u32::from(rule.len));
            let key = PolicyKey { proto: rule.proto, port, dir_len: dir | rule.len, ..l3 };
            let row = PolicyRow {
                verdict,
                precedence: rule.precedence,
                cookie: rule.cookie,
                ..PolicyRow::default()
            };
            rows.insert(key, row);
        }
        rows
    }
}
