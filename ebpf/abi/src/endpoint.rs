//! Endpoints: by address, and by interface.

use crate::{Address, Mac};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Row of `cilium_endpoint`, keyed by [`Address`]: who on this node has the address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub struct EndpointRow {
    /// Host-side interface (host order), 0 for the host's own addresses.
    pub ifindex: u32,
    /// Identity of the endpoint.
    pub identity: u32,
    /// Endpoint number, 0 for the host.
    pub endpoint_id: u16,
    /// `ENDPOINT_` flags.
    pub flags: u16,
    /// Hardware address inside the pod.
    pub mac: Mac,
    /// Hardware address of the host side, source of frames to the pod.
    pub node_mac: Mac,
}

/// The address is the node's own: leave the packet to the host stack.
pub const ENDPOINT_HOST: u16 = 1;

/// Row of `cilium_ep_config`, keyed by the host-side ifindex (`u32`, host order): what the shared
/// programs need to know of one pod. Absent: the pod is closed, and its packets drop with reason 203.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub struct EndpointConfigRow {
    /// Endpoint number.
    pub endpoint_id: u16,
    /// `CONFIG_` flags.
    pub flags: u16,
    /// Identity of the endpoint.
    pub identity: u32,
    /// Which policy rows apply; 0 has none, so everything is denied.
    pub policy_id: u32,
    /// The pod's IPv4 address, or [`Address::NONE`].
    pub ipv4: Address,
    /// The pod's IPv6 address, or [`Address::NONE`].
    pub ipv6: Address,
    /// Hardware address inside the pod: the only source it may send from.
    pub mac: Mac,
    /// Hardware address of the host side, which is also the pod's gateway's.
    pub node_mac: Mac,
}

/// Ingress is not subject to policy (no rule selects the endpoint in this direction).
pub const CONFIG_OPEN_INGRESS: u16 = 1;
/// Egress is not subject to policy.
pub const CONFIG_OPEN_EGRESS: u16 = 2;
/// A hint that saves lookups: the ingress policy has no row for a particular peer.
pub const CONFIG_INGRESS_NO_PEERS: u16 = 1 << 2;
/// A hint that saves lookups: the ingress policy has no row for any peer (identity 0).
pub const CONFIG_INGRESS_NO_ANY: u16 = 1 << 3;
/// As [`CONFIG_INGRESS_NO_PEERS`], for egress.
pub const CONFIG_EGRESS_NO_PEERS: u16 = 1 << 4;
/// As [`CONFIG_INGRESS_NO_ANY`], for egress.
pub const CONFIG_EGRESS_NO_ANY: u16 = 1 << 5;
