//! Connection tracking: one entry per connection and node, found from either direction.
//!
//! A key holds the two ends of a connection in a fixed order (the lower end first), so that packets
//! of both directions find the same entry with one lookup, and rebuilding an entry is one write.
//! [`CT_INITIATOR_HIGH`] remembers which end opened the connection.

use crate::{Address, Be16};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Key of `cilium_ct_tcp` and `cilium_ct_any`.
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
pub struct CtKey {
    /// Address of the lower end.
    pub low: Address,
    /// Address of the higher end.
    pub high: Address,
    /// Port of the lower end. For ICMP echo the requester's end holds the identifier, the other 0.
    pub low_port: Be16,
    /// Port of the higher end.
    pub high_port: Be16,
    /// IP protocol.
    pub proto: u8,
    /// [`KIND_CONNECTION`] or [`KIND_SERVICE`].
    pub kind: u8,
    /// Zero.
    pub reserved: u16,
}

/// A connection between two real ends.
pub const KIND_CONNECTION: u8 = 0;
/// A client's choice of backend: the tuple towards the frontend.
pub const KIND_SERVICE: u8 = 1;

/// A packet's ends as it travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuple {
    /// Source address.
    pub src: Address,
    /// Destination address.
    pub dst: Address,
    /// Source port.
    pub src_port: Be16,
    /// Destination port.
    pub dst_port: Be16,
    /// IP protocol.
    pub proto: u8,
}

impl Tuple {
    /// The key of this packet's connection, and whether its source is the higher end.
    #[inline(always)]
    pub fn key(&self, kind: u8) -> (CtKey, bool) {
        let from_high = self.source_is_high();
        let (low, high, low_port, high_port) = if from_high {
            (self.dst, self.src, self.dst_port, self.src_port)
        } else {
            (self.src, self.dst, self.src_port, self.dst_port)
        };
        (CtKey { low, high, low_port, high_port, proto: self.proto, kind, reserved: 0 }, from_high)
    }

    #[inline(always)]
    fn source_is_high(&self) -> bool {
        let (s, d) = (&self.src.words, &self.dst.words);
        // Any total order does; from the word that differs most often to the least.
        if s[3] != d[3] {
            return s[3] > d[3];
        }
        if s[2] != d[2] {
            return s[2] > d[2];
        }
        if s[1] != d[1] {
            return s[1] > d[1];
        }
        if s[0] != d[0] {
            return s[0] > d[0];
        }
        self.src_port.0 > self.dst_port.0
    }

    /// The same connection seen from the other end.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            proto: self.proto,
        }
    }
}

/// Row of the conntrack maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub struct CtRow {
    /// Coarse seconds since boot (`bpf_ktime_get_coarse_ns`) after which the entry is dead.
    pub expires: u32,
    /// `CT_` flags.
    pub flags: u16,
    /// Frontend number to translate replies back to; 0: none.
    pub rev_nat: u16,
    /// Backend chosen ([`KIND_SERVICE`] only).
    pub backend: u32,
    /// Identity of the far end, remembered at [`Self::revision`].
    pub identity: u32,
    /// Revision ([`crate::node::REVISION`]) at which [`Self::identity`] was looked up; without one: at which a driver
    /// last asked what [`Self::looked`] tells of, or whether the responder's packets go to somebody outside.
    pub revision: u32,
    /// Revision at which the egress policy of an endpoint here allowed the initiator's packets; 0: none.
    pub allowed_egress: u32,
    /// As [`Self::allowed_egress`], for ingress.
    pub allowed_ingress: u32,
    /// Coarse seconds since boot of the last trace event, packets of the initiator. Of a [`KIND_SERVICE`] entry: when a
    /// driver last asked all about a frame of the connection.
    pub reported_forward: u32,
    /// Coarse seconds since boot of the last trace event, packets of the responder.
    pub reported_reply: u32,
    /// TCP flags seen from the initiator.
    pub seen_forward: u8,
    /// TCP flags seen from the responder.
    pub seen_reply: u8,
    /// TCP flags of the frames that a driver, in the second of [`Self::reported_forward`] and at [`Self::revision`], saw
    /// sent on to a backend elsewhere ([`KIND_SERVICE`] only).
    pub looked: u16,
}

/// The higher end opened the connection.
pub const CT_INITIATOR_HIGH: u16 = 1;
/// A reply was seen.
pub const CT_SEEN_REPLY: u16 = 1 << 1;
/// The initiator sent FIN.
pub const CT_CLOSING_FORWARD: u16 = 1 << 2;
/// The responder sent FIN.
pub const CT_CLOSING_REPLY: u16 = 1 << 3;
/// RST was seen.
pub const CT_RESET: u16 = 1 << 4;
/// A pod reached itself through a service, with the router's address as source.
pub const CT_LOOPBACK: u16 = 1 << 5;
/// The initiator's packets came from the host's stack, through which the answers go back.
pub const CT_STACK: u16 = 1 << 6;
/// The backend's node answers the client itself: replies do not come by here. Of a [`KIND_SERVICE`] entry: so it is
/// for as long as the connection lasts.
pub const CT_ONE_WAY: u16 = 1 << 7;
/// The initiator's packets were sent to a frontend of another node; replies leave with its address, which is in
/// `cilium_snat` ([`crate::snat::FRONTEND`]).
pub const CT_DSR: u16 = 1 << 8;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn both_directions_share_a_key() {
        let ip = |s: &str| Address::from(s.parse::<IpAddr>().unwrap());
        for (a, b, p, q) in [
            ("10.0.0.1", "10.0.0.2", 4000, 80),
            ("10.0.0.2", "10.0.0.1", 4000, 80),
            ("fd00::1", "fd00:1::1", 80, 80),
            ("10.0.0.1", "10.0.0.1", 1, 2),
        ] {
            let t =
                Tuple { src: ip(a), dst: ip(b), src_port: Be16::new(p), dst_port: Be16::new(q), proto: 6 };
            let (k, high) = t.key(KIND_CONNECTION);
            let (r, rhigh) = t.reversed().key(KIND_CONNECTION);
            assert_eq!(k, r);
            assert_ne!(high, rhigh);
        }
    }
}
