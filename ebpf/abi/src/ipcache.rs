//! Address → identity, and how to reach it: an exact-match hash for addresses, a trie for prefixes.

use crate::Address;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Key of the prefix map (`BPF_MAP_TYPE_LPM_TRIE`).
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
pub struct PrefixKey {
    /// Length in bits over all sixteen bytes: an IPv4 `/n` is `96 + n`.
    pub prefix_len: u32,
    /// The prefix, host bits zero.
    pub addr: Address,
}

/// Row of both ipcache maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub struct IpcacheRow {
    /// Identity of the peer.
    pub identity: u32,
    /// See the `FLAG_` constants.
    pub flags: u32,
    /// The node to encapsulate to; [`Address::NONE`]: no tunnel.
    pub tunnel: Address,
}

/// The address is a pod's or another node's of this cluster: never masqueraded towards in native mode.
pub const FLAG_IN_CLUSTER: u32 = 1;
