//! Fragments of IP datagrams: only the first has the layer 4 header; the others find here what it said.

use crate::{Address, Be16};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Key of `cilium_fragments`: a datagram (RFC 791 §3.2, RFC 8200 §4.5) where its fragments are seen. Each place
/// sees a form of it, before or after translation, and keeps rows of its own.
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
pub struct FragmentKey {
    /// Source address.
    pub src: Address,
    /// Destination address.
    pub dst: Address,
    /// Identification as in the packet: of IPv4 two bytes, the others zero.
    pub id: u32,
    /// The pod that sent it, which may claim to be anybody until its source was looked at; 0: no pod.
    pub endpoint: u16,
    /// IP protocol, of IPv6 the Next Header of the Fragment header.
    pub proto: u8,
    /// A `PLACE_` constant.
    pub place: u8,
}

/// What a device received.
pub const PLACE_RECEIVED: u8 = 1;
/// What a pod, the host or a device sends.
pub const PLACE_SENT: u8 = 2;
/// What came out of the overlay.
pub const PLACE_OVERLAY: u8 = 3;

/// Row of `cilium_fragments`: the first fragment's layer 4.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub struct FragmentRow {
    /// Source port, or identifier of an echo request.
    pub src_port: Be16,
    /// Destination port, or identifier of an echo reply.
    pub dst_port: Be16,
    /// Bytes of the datagram up to the end of its layer 4 header: no other fragment may begin before.
    pub head: u16,
    /// IP protocol of layer 4.
    pub proto: u8,
    /// TCP flags, or the ICMP type of an echo.
    pub detail: u8,
    /// Coarse seconds since boot when the first fragment was seen.
    pub seen: u32,
}

/// How long fragments belong to a first one, in seconds: as long as Linux waits for them
/// (`net.ipv4.ipfrag_time`). Identifications come again.
pub const FRAGMENT_LIFETIME: u32 = 30;
