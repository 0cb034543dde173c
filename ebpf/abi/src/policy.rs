//! Policy rows, and the one lookup over them that the programs and user space share.
//!
//! ```text
//! (policy, direction, identity)            the L3 row: a verdict of its own or none, and which
//!        │                                 port prefix lengths have rows below it
//!        └─ (…, protocol, port/len)        the longest that exists decides
//! ```
//! Two such ladders are climbed: the peer's identity, and identity 0 (any peer). Of their results the
//! higher precedence wins, and deny at equal precedence. Within one ladder the longest port prefix
//! wins; the compiler removes rows that a broader deny covers, so this is exact.

use crate::Be16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Key of `cilium_policy`.
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
pub struct PolicyKey {
    /// Which policy; never 0.
    pub policy_id: u32,
    /// The peer; 0: any.
    pub identity: u32,
    /// Destination port (ICMP: type in the low byte of the host-order value), low bits masked off.
    pub port: Be16,
    /// IP protocol; 0: the L3 row.
    pub proto: u8,
    /// [`EGRESS`] or 0, plus the length of the port prefix, 0 to 16.
    pub dir_len: u8,
}

/// Bit of [`PolicyKey::dir_len`] for egress rows.
pub const EGRESS: u8 = 0x80;

/// Row of `cilium_policy`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub struct PolicyRow {
    /// [`NONE`], [`ALLOW`], [`DENY`] or [`UNALLOWED`].
    pub verdict: u8,
    /// Zero.
    pub reserved: u8,
    /// Port of the proxy listener to redirect to; 0: none.
    pub listener: Be16,
    /// L3 row only: bit n set = a row with port prefix length n exists below.
    pub lengths: u32,
    /// Higher wins.
    pub precedence: u32,
    /// Number of the rule that is the reason, for counters and explanations.
    pub cookie: u32,
}

/// The row decides nothing by itself.
pub const NONE: u8 = 0;
/// Allow.
pub const ALLOW: u8 = 1;
/// Deny.
pub const DENY: u8 = 2;
/// No rule allows it: denied by default, whatever other rows say.
pub const UNALLOWED: u8 = 3;

/// How a verdict was found (`policy_match_type` in flows): no row.
pub const MATCH_NONE: u8 = 0;
/// By identity alone.
pub const MATCH_L3_ONLY: u8 = 1;
/// By identity, protocol and port.
pub const MATCH_L3_L4: u8 = 2;
/// By protocol and port alone.
pub const MATCH_L4_ONLY: u8 = 3;
/// By a row for everything.
pub const MATCH_ALL: u8 = 4;
/// By identity and protocol.
pub const MATCH_L3_PROTO: u8 = 5;
/// By protocol alone.
pub const MATCH_PROTO_ONLY: u8 = 6;

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The deciding row; verdict [`NONE`] if there is none.
    pub row: PolicyRow,
    /// A `MATCH_` constant.
    pub matched: u8,
}

const NOTHING: Found = Found {
    row: PolicyRow { verdict: NONE, reserved: 0, listener: Be16(0), lengths: 0, precedence: 0, cookie: 0 },
    matched: MATCH_NONE,
};

/// A port's prefix: `port` with all but the first `len` bits cleared.
#[inline(always)]
pub const fn port_prefix(port: Be16, len: u32) -> Be16 {
    let mask = if len == 0 { 0 } else { !0u16 << (16 - (len & 31)) };
    Be16::new(port.host() & mask)
}

#[inline(always)]
fn ladder(
    lookup: &impl Fn(&PolicyKey) -> Option<PolicyRow>,
    base: PolicyKey,
    proto: u8,
    port: Be16,
) -> Found {
    let Some(l3) = lookup(&base) else { return NOTHING };
    let any = base.identity == 0;
    let at = |len: u32| {
        let key = PolicyKey {
            proto,
            port: port_prefix(port, len),
            dir_len: base.dir_len | (len as u8 & 31),
            ..base
        };
        let row = lookup(&key)?;
        let matched = match (any, len == 0) {
            (false, false) => MATCH_L3_L4,
            (false, true) => MATCH_L3_PROTO,
            (true, false) => MATCH_L4_ONLY,
            (true, true) => MATCH_PROTO_ONLY,
        };
        (row.verdict != NONE).then_some(Found { row, matched })
    };
    // Only lengths that exist are visited, the longest first: the whole port, ranges, any port.
    if l3.lengths & 1 << 16 != 0
        && let Some(found) = at(16)
    {
        return found;
    }
    let mut lengths = l3.lengths & 0xfffe;
    for _ in 1..16 {
        if lengths == 0 {
            break;
        }
        let len = 31 - lengths.leading_zeros();
        lengths &= !(1u32 << (len & 31));
        if let Some(found) = at(len) {
            return found;
        }
    }
    if l3.lengths & 1 != 0
        && let Some(found) = at(0)
    {
        return found;
    }
    if l3.verdict == NONE {
        return NOTHING;
    }
    Found { row: l3, matched: if any { MATCH_ALL } else { MATCH_L3_ONLY } }
}

/// Ladder of [`decide_among`]: the rows for the peer's identity.
pub const PEER_ROWS: u8 = 1;
/// Ladder of [`decide_among`]: the rows for any peer.
pub const ANY_ROWS: u8 = 2;

/// The verdict on a packet. `direction` is [`EGRESS`] or 0, `identity` the peer's, `port` the
/// destination port (for ICMP the type). Nothing found means denied by default.
#[inline(always)]
pub fn decide(
    lookup: impl Fn(&PolicyKey) -> Option<PolicyRow>,
    policy_id: u32,
    direction: u8,
    identity: u32,
    proto: u8,
    port: Be16,
) -> Found {
    decide_among(lookup, PEER_ROWS | ANY_ROWS, policy_id, direction, identity, proto, port)
}

/// As [`decide`], where the caller knows that one of the `ladders` has no rows.
#[inline(always)]
pub fn decide_among(
    lookup: impl Fn(&PolicyKey) -> Option<PolicyRow>,
    ladders: u8,
    policy_id: u32,
    direction: u8,
    identity: u32,
    proto: u8,
    port: Be16,
) -> Found {
    let base = PolicyKey { policy_id, identity, port: Be16(0), proto: 0, dir_len: direction };
    let peer =
        if identity == 0 || ladders & PEER_ROWS == 0 { NOTHING } else { ladder(&lookup, base, proto, port) };
    if ladders & ANY_ROWS == 0 {
        return peer;
    }
    let any = ladder(&lookup, PolicyKey { identity: 0, ..base }, proto, port);
    if peer.row.verdict == NONE {
        return any;
    }
    if any.row.verdict == NONE || peer.row.precedence > any.row.precedence {
        return peer;
    }
    if any.row.precedence > peer.row.precedence || any.row.verdict == DENY && peer.row.verdict != DENY {
        return any;
    }
    peer
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn row(verdict: u8, lengths: u32) -> PolicyRow {
        PolicyRow { verdict, lengths, ..PolicyRow::default() }
    }

    #[test]
    fn longest_port_prefix_then_deny_wins() {
        let key = |identity, proto, port, len| PolicyKey {
            policy_id: 1,
            identity,
            port: Be16::new(port),
            proto,
            dir_len: len,
        };
        let rows: BTreeMap<PolicyKey, PolicyRow> = [
            (key(300, 0, 0, 0), row(NONE, 1 << 16)),
            (key(300, 6, 80, 16), row(ALLOW, 0)),
            (key(0, 0, 0, 0), row(NONE, 1 << 15 | 1 << 16)),
            (key(0, 6, 80, 15), row(ALLOW, 0)),
            (key(0, 6, 81, 16), row(DENY, 0)),
        ]
        .into();
        let ask = |identity, port| {
            let found = decide(|k| rows.get(k).copied(), 1, 0, identity, 6, Be16::new(port));
            (found.row.verdict, found.matched)
        };
        assert_eq!(ask(300, 80), (ALLOW, MATCH_L3_L4));
        assert_eq!(ask(301, 80), (ALLOW, MATCH_L4_ONLY));
        assert_eq!(ask(301, 81), (DENY, MATCH_L4_ONLY));
        assert_eq!(ask(301, 82), (NONE, MATCH_NONE));
    }
}
