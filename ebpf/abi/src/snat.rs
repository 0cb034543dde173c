//! Masquerading: two rows per flow, one for each way.

use crate::{Address, Be16};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Key of `cilium_snat`: the packet as it is before this translation.
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
pub struct SnatKey {
    /// Source address.
    pub src: Address,
    /// Destination address.
    pub dst: Address,
    /// Source port, or ICMP identifier.
    pub src_port: Be16,
    /// Destination port, or ICMP identifier.
    pub dst_port: Be16,
    /// IP protocol.
    pub proto: u8,
    /// [`OUT`], [`IN`] or [`FRONTEND`].
    pub dir: u8,
    /// Zero.
    pub reserved: u16,
}

/// A packet leaving: its source is translated.
pub const OUT: u8 = 0;
/// A packet coming back: its destination is translated.
pub const IN: u8 = 1;
/// A reply of a connection with [`crate::ct::CT_DSR`] leaving: its source becomes the frontend's. It has no other half.
pub const FRONTEND: u8 = 2;

/// Row of `cilium_snat`: what the address and port become.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub struct SnatRow {
    /// The new source ([`OUT`], [`FRONTEND`]) or destination ([`IN`]) address.
    pub addr: Address,
    /// The new source or destination port.
    pub port: Be16,
    /// `SNAT_` flags.
    pub flags: u16,
    /// Coarse seconds since boot when the row was made.
    pub created: u32,
    /// Coarse seconds since boot when the row was last used (updated at most once a second).
    pub used: u32,
}

/// The node's own connection: it holds the port, and nothing is rewritten.
pub const SNAT_HOST: u16 = 1;
