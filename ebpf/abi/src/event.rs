//! Events in the ring buffer `cilium_events`: one fixed layout for all kinds.

use crate::{Address, Be16, Mac};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One event. Numbers are Cilium's monitor types and sub types.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub struct Event {
    /// `bpf_ktime_get_ns`: nanoseconds since boot.
    pub time: u64,
    /// Source address of the packet.
    pub src: Address,
    /// Destination address of the packet.
    pub dst: Address,
    /// For a reply of a service, or a translated request: the address before translation, or none.
    pub original: Address,
    /// Source port.
    pub src_port: Be16,
    /// Destination port (ICMP: type in the high byte, code in the low, host order).
    pub dst_port: Be16,
    /// `DROP`, `TRACE` or `POLICY_VERDICT`.
    pub kind: u8,
    /// Drop reason, or trace observation point, or for verdicts: 1 ingress, 2 egress.
    pub subtype: u8,
    /// IP protocol.
    pub proto: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// Source identity.
    pub src_identity: u32,
    /// Destination identity.
    pub dst_identity: u32,
    /// Where it happened.
    pub ifindex: u32,
    /// Packet length in bytes.
    pub len: u32,
    /// Rule number of the deciding policy row; 0: none.
    pub cookie: u32,
    /// Local endpoint that the event is about; 0: the host.
    pub endpoint_id: u16,
    /// For verdicts: [`VERDICT_ALLOW`], or a drop reason.
    pub verdict: u8,
    /// For verdicts, and drops with [`EVENT_VERDICT`]: `policy::MATCH_`. For traces: `reason::`.
    pub reason: u8,
    /// `metrics::DIRECTION_`.
    pub direction: u8,
    /// `EVENT_` flags.
    pub flags: u8,
    /// Source hardware address, zero where there is none.
    pub src_mac: Mac,
    /// Destination hardware address.
    pub dst_mac: Mac,
    /// Line of the program's source that gave the event.
    pub line: u16,
}

/// A packet was dropped.
pub const DROP: u8 = 1;
/// A packet passed an observation point.
pub const TRACE: u8 = 4;
/// Policy was asked.
pub const POLICY_VERDICT: u8 = 5;

/// The packet was allowed.
pub const VERDICT_ALLOW: u8 = 0;

/// The packet is IPv6 (addresses tell too; kept for events without addresses).
pub const EVENT_IPV6: u8 = 1;

/// The event of a drop tells a policy verdict too: refused, for the reason of the drop, as
/// [`Event::reason`] matched, in [`Event::direction`].
pub const EVENT_VERDICT: u8 = 2;

/// Observation points of trace events.
pub mod point {
    /// Delivered to an endpoint.
    pub const TO_ENDPOINT: u8 = 0;
    /// Passed to the host.
    pub const TO_HOST: u8 = 2;
    /// Passed to the host's stack.
    pub const TO_STACK: u8 = 3;
    /// Sent to the overlay.
    pub const TO_OVERLAY: u8 = 4;
    /// Received from an endpoint.
    pub const FROM_ENDPOINT: u8 = 5;
    /// Received from the host.
    pub const FROM_HOST: u8 = 7;
    /// Received from the overlay.
    pub const FROM_OVERLAY: u8 = 9;
    /// Received from a device.
    pub const FROM_NETWORK: u8 = 10;
    /// Sent to a device.
    pub const TO_NETWORK: u8 = 11;
}

/// Connection state told with a trace event.
pub mod reason {
    /// A new connection.
    pub const NEW: u8 = 0;
    /// An established one.
    pub const ESTABLISHED: u8 = 1;
    /// A reply.
    pub const REPLY: u8 = 2;
    /// An ICMP error about a connection.
    pub const RELATED: u8 = 3;
    /// Conntrack was not asked.
    pub const UNKNOWN: u8 = 5;
}
