//! Packet counters: a per-CPU array, indexed by reason and direction.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Row of `cilium_metrics`, one per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub struct MetricsRow {
    /// Packets.
    pub packets: u64,
    /// Bytes, link layer included.
    pub bytes: u64,
}

/// Direction unknown.
pub const DIRECTION_UNKNOWN: u8 = 0;
/// Towards an endpoint, or into the node.
pub const DIRECTION_INGRESS: u8 = 1;
/// From an endpoint, or out of the node.
pub const DIRECTION_EGRESS: u8 = 2;
/// Within service translation.
pub const DIRECTION_SERVICE: u8 = 3;

/// Reason of a packet that was forwarded.
pub const FORWARDED: u8 = 0;
/// Events that did not fit the ring buffer (counted, never a packet's fate).
pub const EVENT_LOST: u8 = 127;
/// Events of refused packets beyond [`NodeConstants::refusals`](crate::node::NodeConstants::refusals), not told.
pub const EVENT_WITHHELD: u8 = 126;

/// Packets forwarded before the stack saw them (counted beside [`FORWARDED`]).
pub const ACCELERATED: u8 = 125;

/// What a counter of this reason counts; `None` for a reason that nobody gives.
pub const fn text(reason: u8) -> Option<&'static str> {
    match reason {
        FORWARDED => Some("Success"),
        ACCELERATED => Some("Success before the stack"),
        EVENT_LOST => Some("Event lost"),
        EVENT_WITHHELD => Some("Event withheld"),
        code => crate::drop::text(code),
    }
}

/// Number of rows.
pub const ROWS: u32 = 256 * 4;

/// Index of (reason, direction).
#[inline(always)]
pub const fn index(reason: u8, direction: u8) -> u32 {
    (reason as u32) * 4 + (direction as u32 & 3)
}
