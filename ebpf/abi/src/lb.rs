//! Load balancing: frontend → list, list slot → backend, backend → address, revNAT → frontend address.
//!
//! A change writes a new list beside the old one, then the frontend row (the flip, one write), then
//! removes the old list.

use crate::{Address, Be16};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Key of `cilium_frontend`.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    IntoBytes,
    FromBytes,
    Immutable,
    KnownLayout,
)]
pub struct FrontendKey {
    /// The address clients use.
    pub addr: Address,
    /// The port clients use.
    pub port: Be16,
    /// IP protocol.
    pub proto: u8,
    /// [`SCOPE_EXTERNAL`] or [`SCOPE_INTERNAL`].
    pub scope: u8,
}

/// What clients outside the cluster get; and those inside, unless [`FRONTEND_TWO_SCOPES`] is set.
pub const SCOPE_EXTERNAL: u8 = 0;
/// What clients inside the cluster get where that differs.
pub const SCOPE_INTERNAL: u8 = 1;

/// Row of `cilium_frontend`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub struct FrontendRow {
    /// The list of backends.
    pub list: u32,
    /// How many slots the list has; 0: no backend.
    pub count: u16,
    /// Number by which replies find the way back ([`RevNatRow`]).
    pub rev_nat: u16,
    /// `FRONTEND_` flags.
    pub flags: u32,
    /// First place of the frontend's Maglev table in `cilium_maglev`, if [`FRONTEND_MAGLEV`] is set.
    pub maglev: u32,
    /// Seconds for which a client keeps its backend (`sessionAffinity: ClientIP`); 0: it does not.
    pub affinity: u32,
}

/// The frontend is a ClusterIP.
pub const FRONTEND_CLUSTER_IP: u32 = 1;
/// A node's address and a NodePort.
pub const FRONTEND_NODE_PORT: u32 = 1 << 1;
/// A load balancer's address.
pub const FRONTEND_LOAD_BALANCER: u32 = 1 << 2;
/// An external address.
pub const FRONTEND_EXTERNAL_IP: u32 = 1 << 3;
/// A node's address and a pod's hostPort.
pub const FRONTEND_HOST_PORT: u32 = 1 << 4;
/// Clients outside the cluster are served too; without it what they send here is dropped.
pub const FRONTEND_EXTERNAL: u32 = 1 << 5;
/// Clients inside the cluster use the frontend's row of [`SCOPE_INTERNAL`].
pub const FRONTEND_TWO_SCOPES: u32 = 1 << 6;
/// Only sources with a row in `cilium_source_range` are served.
pub const FRONTEND_SOURCE_RANGES: u32 = 1 << 7;
/// With [`FRONTEND_SOURCE_RANGES`]: sources with a row are those that are not served.
pub const FRONTEND_SOURCE_DENY: u32 = 1 << 8;
/// New connections choose by the Maglev table, others by chance. Comes with the table's size ([`maglev_flags`]).
pub const FRONTEND_MAGLEV: u32 = 1 << 9;
/// Backends on other nodes, or outside, answer the client themselves.
pub const FRONTEND_DSR: u32 = 1 << 10;
/// Without a backend the client is told so (ICMP unreachable, TCP RST); else its packet is dropped.
pub const FRONTEND_REJECT: u32 = 1 << 11;

/// The flags' upper five bits: how many bits the size of the frontend's Maglev table has.
pub const FRONTEND_MAGLEV_BITS: u32 = 27;

/// Flags of a frontend whose Maglev table has this many places. Programs made for tables of another size do
/// not ask it: they would look beyond its end. Sizes are below 2^31.
pub const fn maglev_flags(size: u32) -> u32 {
    FRONTEND_MAGLEV | (32 - size.leading_zeros()) << FRONTEND_MAGLEV_BITS
}

/// Key of `cilium_slot`: one place in a list.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    IntoBytes,
    FromBytes,
    Immutable,
    KnownLayout,
)]
pub struct SlotKey {
    /// The list.
    pub list: u32,
    /// Place in it, from 0.
    pub slot: u32,
}

/// Row of `cilium_slot`: a backend's number (`u32`).
pub type SlotRow = u32;

/// Row of `cilium_backend`, keyed by the backend's number (`u32`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub struct BackendRow {
    /// Address.
    pub addr: Address,
    /// Port.
    pub port: Be16,
    /// IP protocol.
    pub proto: u8,
    /// `BACKEND_` flags.
    pub flags: u8,
}

/// Keeps its connections, gets no new ones.
pub const BACKEND_TERMINATING: u8 = 1;

/// Key of `cilium_affinity`: a client of a frontend.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    IntoBytes,
    FromBytes,
    Immutable,
    KnownLayout,
)]
pub struct AffinityKey {
    /// The client's address; of a local socket its network namespace's cookie in the first two words.
    pub client: Address,
    /// The frontend's revNAT number.
    pub rev_nat: u16,
    /// 1 if [`Self::client`] is a cookie, else 0.
    pub is_cookie: u16,
}

/// Row of `cilium_affinity`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub struct AffinityRow {
    /// The backend's number.
    pub backend: u32,
    /// Coarse seconds since boot of the last use.
    pub used: u32,
}

/// Key of the trie `cilium_source_range`.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    IntoBytes,
    FromBytes,
    Immutable,
    KnownLayout,
)]
pub struct SourceRangeKey {
    /// Bits that count: 32 for the frontend, and those of the address (96 + n for IPv4).
    pub prefix_len: u32,
    /// The frontend's revNAT number.
    pub rev_nat: u16,
    /// Zero.
    pub reserved: u16,
    /// The range.
    pub addr: Address,
}

/// Row of `cilium_source_range`: 1.
pub type SourceRangeRow = u32;

/// Key of `cilium_sock_rev`: an end that a socket of this node has, and in place of which it shows or
/// meets another.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    IntoBytes,
    FromBytes,
    Immutable,
    KnownLayout,
)]
pub struct SockRevKey {
    /// The socket's cookie.
    pub cookie: u64,
    /// The backend's address; of [`SOCK_FORWARD`] the frontend's, as the owner gave it.
    pub addr: Address,
    /// Its port.
    pub port: Be16,
    /// [`SOCK_REVERSE`] or [`SOCK_FORWARD`].
    pub kind: u16,
    /// Zero.
    pub reserved: [u16; 2],
}

/// From the backend that the socket was connected, or sends, to: to the frontend that its owner sees.
pub const SOCK_REVERSE: u16 = 0;
/// From the frontend that an unconnected socket sends to: to the backend that it keeps.
pub const SOCK_FORWARD: u16 = 1;

/// Row of `cilium_sock_rev`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub struct SockRevRow {
    /// The frontend's address, as the owner gave it; of [`SOCK_FORWARD`] the backend's.
    pub addr: Address,
    /// Its port.
    pub port: Be16,
    /// The frontend's revNAT number.
    pub rev_nat: u16,
    /// The backend's number.
    pub backend: u32,
    /// The list that the backend was last seen in.
    pub list: u32,
}

/// Row of `cilium_revnat`, keyed by the revNAT number (`u32`, 1 to 65 535).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub struct RevNatRow {
    /// The frontend's address.
    pub addr: Address,
    /// The frontend's port.
    pub port: Be16,
    /// Zero.
    pub reserved: u16,
}
