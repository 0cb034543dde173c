//! Facts of the node: constants set when the programs are loaded, a runtime row, and devices.

use crate::{Address, Be16, Mac};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The programs' only global, `NODE`, set at load. A changed value is a new program set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub struct NodeConstants {
    /// `NODE_` flags.
    pub flags: u32,
    /// Identity of the world for IPv4 packets (2, or 9 in dual stack).
    pub world_ipv4: u32,
    /// Identity of the world for IPv6 packets (2, or 10 in dual stack).
    pub world_ipv6: u32,
    /// Router address the pods use as IPv4 gateway, or none.
    pub router_ipv4: Address,
    /// Router address the pods use as IPv6 gateway, or none.
    pub router_ipv6: Address,
    /// IPv4 prefix (mapped form) within which nothing is masqueraded; length 0 = none.
    pub native_ipv4: Address,
    /// IPv6 prefix within which nothing is masqueraded; length 0 = none.
    pub native_ipv6: Address,
    /// Length of `native_ipv4` over sixteen bytes (96 + n), 0 = none.
    pub native_ipv4_len: u32,
    /// Length of `native_ipv6`, 0 = none.
    pub native_ipv6_len: u32,
    /// Conntrack lifetime of an established TCP connection, seconds.
    pub ct_tcp: u32,
    /// Conntrack lifetime after the first SYN, seconds.
    pub ct_syn: u32,
    /// Conntrack lifetime after FIN both ways or RST, seconds.
    pub ct_fin: u32,
    /// Conntrack lifetime of anything but TCP, seconds.
    pub ct_any: u32,
    /// First port masquerading may choose (host order).
    pub snat_port_min: u16,
    /// Last port masquerading may choose (host order).
    pub snat_port_max: u16,
    /// Places of a Maglev table.
    pub maglev_size: u32,
    /// Seconds between two trace events of one connection and direction.
    pub trace_interval: u32,
    /// Events that each CPU may give of refused packets within a window of 2^[`WINDOW`] nanoseconds; 0: no limit.
    pub refusals: u32,
    /// `AGGREGATE_` level for trace events.
    pub trace_aggregation: u8,
    /// Zero.
    pub reserved: u8,
    /// UDP port of the overlay.
    pub tunnel_port: Be16,
    /// Cookie of the node's own network namespace, low word first; 0: the machine's first one.
    pub host_netns: [u32; 2],
}

/// Binary logarithm of the window of [`NodeConstants::refusals`], nanoseconds: 16.8 ms, some ticks of any kernel's
/// coarse clock.
pub const WINDOW: u32 = 24;

/// IPv4 is enabled.
pub const NODE_IPV4: u32 = 1;
/// IPv6 is enabled.
pub const NODE_IPV6: u32 = 1 << 1;
/// Pods of other nodes are reached through the overlay.
pub const NODE_TUNNEL: u32 = 1 << 2;
/// Masquerade IPv4 pod traffic that leaves the cluster.
pub const NODE_MASQUERADE_IPV4: u32 = 1 << 3;
/// Masquerade IPv6 pod traffic that leaves the cluster.
pub const NODE_MASQUERADE_IPV6: u32 = 1 << 4;
/// The host may always reach its own pods (kubelet's probes), whatever the policy.
pub const NODE_ALLOW_LOCALHOST: u32 = 1 << 5;
/// Emit policy-verdict events.
pub const NODE_EVENT_VERDICT: u32 = 1 << 6;
/// Emit trace events.
pub const NODE_EVENT_TRACE: u32 = 1 << 7;
/// Emit drop events.
pub const NODE_EVENT_DROP: u32 = 1 << 8;

/// Frontends are served to clients outside, by the devices.
pub const NODE_LB: u32 = 1 << 9;
/// With [`NODE_LB`]: packets to backends elsewhere, and from them, are passed on before the stack sees them.
pub const NODE_XDP: u32 = 1 << 10;

/// Pods' packets beyond this node's pods and the overlay go through the host's stack, where netfilter sees them.
pub const NODE_HOST_STACK: u32 = 1 << 12;

/// The overlay is Geneve.
pub const NODE_GENEVE: u32 = 1 << 20;
/// With [`NODE_GENEVE`]: backends' nodes are told of frontends in the tunnel's header.
pub const NODE_DSR_GENEVE: u32 = 1 << 21;
/// Backends outside the cluster, rather than those in it, answer clients themselves: packets come to them as they
/// are, within another IP header.
pub const NODE_DSR_IPIP: u32 = 1 << 22;

/// Sockets are connected to backends rather than frontends.
pub const NODE_SOCK: u32 = 1 << 16;
/// With [`NODE_SOCK`]: only sockets of the node's own network namespace.
pub const NODE_SOCK_HOST_ONLY: u32 = 1 << 17;

/// Every packet gives a trace event.
pub const AGGREGATE_NONE: u8 = 0;
/// Only packets leaving or delivered, not received ones.
pub const AGGREGATE_LOW: u8 = 1;
/// As low, and at most one per connection, direction and interval unless a TCP flag is new.
pub const AGGREGATE_MEDIUM: u8 = 2;
/// As medium, without regard to flags but SYN, FIN and RST.
pub const AGGREGATE_MAXIMUM: u8 = 3;

/// Row 0 of the array `cilium_runtime`: what may change without a new program set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub struct RuntimeRow {
    /// Interface `cilium_host`, 0 until it is there.
    pub host_ifindex: u32,
    /// Interface `cilium_vxlan` or `cilium_geneve`, 0 without overlay.
    pub overlay_ifindex: u32,
    /// Hardware address of `cilium_host`.
    pub host_mac: Mac,
    /// Zero.
    pub reserved: u16,
}

/// Row 0 of the array `cilium_revision` is one `u32`. User space raises it after every write of a row
/// that policy depends on (ipcache, endpoints, their configuration, policies), and at start: what
/// connections remember of identities and verdicts at an older revision is looked up again. 0 is the
/// revision of nothing.
pub const REVISION: u32 = 0;

/// Row of `cilium_device`, keyed by ifindex (`u32`, host order): a device of the host that programs
/// are attached to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub struct DeviceRow {
    /// `DEVICE_` flags.
    pub flags: u32,
    /// Source address for masqueraded IPv4 traffic out of this device, or none.
    pub ipv4: Address,
    /// Source address for masqueraded IPv6 traffic out of this device, or none.
    pub ipv6: Address,
    /// The device's hardware address.
    pub mac: Mac,
    /// Zero.
    pub reserved: u16,
}

/// The device carries no Ethernet header.
pub const DEVICE_L3: u32 = 1;

/// `skb->mark` bits that name the source of a packet between our programs on one node.
pub mod mark {
    /// Which part of the mark says what it is.
    pub const MASK: u32 = 0x0F00;
    /// The upper 16 bits and the low 8 carry an identity's number (`identity >> 16 & 0xff | identity << 16`),
    /// [`SCOPE`] its scope. What is left, 0x4000 and 0x8000, is kube-proxy's and kubelet's.
    pub const IDENTITY: u32 = 0x0F00;
    /// Bits 24 and 25 of the identity.
    pub const SCOPE: u32 = 0x3000;
    /// The packet comes from the host.
    pub const HOST: u32 = 0x0C00;
    /// The packet carries another in the overlay.
    pub const OVERLAY: u32 = 0x0400;
    /// The packet was masqueraded already, or must not be.
    pub const SNAT_DONE: u32 = 0x0300;
}
