//! Numeric security identities (features.md §1.5; the numbers are Cilium's).

/// Not known; never a peer of a policy.
pub const UNKNOWN: u32 = 0;
/// This node.
pub const HOST: u32 = 1;
/// Outside the cluster, where only one address family is enabled.
pub const WORLD: u32 = 2;
/// An endpoint that Cilium does not manage.
pub const UNMANAGED: u32 = 3;
/// The health endpoint.
pub const HEALTH: u32 = 4;
/// A pod whose labels are not known yet.
pub const INIT: u32 = 5;
/// Another node of the cluster.
pub const REMOTE_NODE: u32 = 6;
/// A node that runs kube-apiserver.
pub const KUBE_APISERVER: u32 = 7;
/// The ingress proxy.
pub const INGRESS: u32 = 8;
/// Outside the cluster, IPv4 (dual stack).
pub const WORLD_IPV4: u32 = 9;
/// Outside the cluster, IPv6 (dual stack).
pub const WORLD_IPV6: u32 = 10;

/// First number of cluster scope.
pub const CLUSTER_MIN: u32 = 256;
/// Last number of cluster scope within one cluster.
pub const CLUSTER_MAX: u32 = 65_535;
/// Node-local scope (CIDR identities): this bit set. Never leaves the node.
pub const LOCAL_SCOPE: u32 = 1 << 24;
/// Local scope of remote nodes with labels or CIDRs of their own.
pub const REMOTE_NODE_SCOPE: u32 = 1 << 25;

/// Whether an identity is a node's, this one's or another's.
#[inline(always)]
pub const fn is_node(identity: u32) -> bool {
    matches!(identity, HOST | REMOTE_NODE | KUBE_APISERVER) || identity & REMOTE_NODE_SCOPE != 0
}

/// The identity put on the wire for `identity`: local scopes are sent as `world`, since the number
/// means nothing to another node.
#[inline(always)]
pub const fn on_wire(identity: u32, world: u32) -> u32 {
    if identity & (LOCAL_SCOPE | REMOTE_NODE_SCOPE) != 0 { world } else { identity }
}
