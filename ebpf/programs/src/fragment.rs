//! Fragments of IP datagrams. The first one has the layer 4 header and says what it holds; the others look it up.
//!
//! A fragment without layer 4 header has [`Flow::l4`] 0, and everything else as its first: it goes the same way, and
//! is judged and translated alike. What one first fragment says counts for no datagram but its own: a pod's rows are
//! its own, since its source is looked at only afterwards.

use crate::{
    cause,
    flow::{Cause, Flow, Step, clock, kind},
    maps::{self, FRAGMENTS},
    packet::{Packet, Skb, at, bounded},
    parse::{Family, Ipv4, Ipv6, L2, Link, V4, V6, WALK_FAILED, extensions, transport},
};
use aya_ebpf::bindings::__sk_buff;
use cilium_abi::{
    Be16,
    fragment::{FRAGMENT_LIFETIME, FragmentKey, FragmentRow, PLACE_OVERLAY, PLACE_RECEIVED, PLACE_SENT},
    metrics::DIRECTION_EGRESS,
    proto,
};

/// IPv6 Fragment header (RFC 8200 §4.5), numbers in network order.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    /// Next header.
    next: u8,
    /// Zero.
    reserved: u8,
    /// Offset in the high 13 bits, whether more follow in the lowest.
    offset: u16,
    /// Identification.
    id: u32,
}

/// What a fragment says of itself.
struct Part {
    /// Identification, as in the packet.
    id: u32,
    /// Protocol or next header.
    next: u8,
    /// Bytes of the datagram before it.
    offset: u32,
    /// Offset of its bytes in the packet.
    start: u32,
    /// Offset behind its last byte.
    end: u32,
}

/// Bytes of layer 4 headers without which nothing can be decided: a whole one of TCP.
const fn head(number: u8) -> u32 {
    if number == proto::TCP { 20 } else { 8 }
}

#[inline(always)]
fn part<F: Family>(skb: Skb, flow: &Flow) -> Step<Part> {
    if F::IS_V6 {
        let ip = at::<Ipv6, Skb>(skb, L2::HEADER).ok_or(cause!(INVALID_PACKET))?;
        // SAFETY: `at` proved the header lies inside the packet.
        let payload = u16::from_be(unsafe { (*ip).payload }) as u32;
        let mut header = Header { next: 0, reserved: 0, offset: 0, id: 0 };
        let start = bounded(flow.l4) as u32;
        // A jumbogram is never cut (RFC 2675 §3).
        if payload == 0 || !skb.load(start, &mut header) {
            return Err(cause!(INVALID_PACKET));
        }
        Ok(Part {
            id: header.id,
            next: header.next,
            offset: (u16::from_be(header.offset) & 0xfff8) as u32,
            start: start + size_of::<Header>() as u32,
            end: (L2::HEADER + F::HEADER) as u32 + payload,
        })
    } else {
        let ip = at::<Ipv4, Skb>(skb, L2::HEADER).ok_or(cause!(INVALID_PACKET))?;
        // SAFETY: as above.
        let ip = unsafe { &*ip };
        if ip.total == 0 {
            return Err(cause!(INVALID_PACKET));
        }
        Ok(Part {
            id: ip.id as u32,
            next: ip.proto,
            offset: (u16::from_be(ip.fragment) & 0x1fff) as u32 * 8,
            start: L2::HEADER as u32 + (ip.version_len as u32 & 0xf) * 4,
            end: L2::HEADER as u32 + u16::from_be(ip.total) as u32,
        })
    }
}

/// Where the packet is seen.
#[inline(always)]
fn place(flow: &Flow) -> u8 {
    if maps::runtime().is_some_and(|row| row.overlay_ifindex == flow.ifindex) {
        PLACE_OVERLAY
    } else if flow.direction == DIRECTION_EGRESS {
        PLACE_SENT
    } else {
        PLACE_RECEIVED
    }
}

#[inline(always)]
fn track<F: Family>(skb: Skb, flow: &mut Flow) -> Step<()> {
    let part = part::<F>(skb, flow)?;
    let key = FragmentKey {
        src: flow.tuple.src,
        dst: flow.tuple.dst,
        id: part.id,
        endpoint: flow.endpoint_id,
        proto: part.next,
        place: place(flow),
    };
    let now = clock().map_or(0, |clock| clock.now);
    if part.offset == 0 { first::<F>(skb, flow, &key, &part, now) } else { later(flow, &key, &part, now) }
}

/// Reads the first fragment as a packet, and notes what it says.
#[inline(always)]
fn first<F: Family>(skb: Skb, flow: &mut Flow, key: &FragmentKey, part: &Part, now: u32) -> Step<()> {
    let (mut number, mut l4) = (part.next, part.start);
    if F::IS_V6 {
        let found = extensions(skb, number, l4);
        if found & WALK_FAILED != 0 {
            return Err(cause!(INVALID_EXTENSION_HEADER));
        }
        (number, l4) = (found as u8, found >> 8);
    }
    flow.tuple.proto = number;
    flow.l4 = bounded(l4) as u32;
    // The rest of a header would come with another fragment, unread (RFC 1858 §3); padding is no header.
    if l4 + head(number) > part.end {
        return Err(cause!(CT_INVALID_HEADER));
    }
    transport::<F, Skb>(skb, flow, number)?;
    if flow.kind == kind::ICMP_OTHER {
        return Err(cause!(FRAGMENT_UNSUPPORTED));
    }
    let row = FragmentRow {
        src_port: flow.tuple.src_port,
        dst_port: flow.tuple.dst_port,
        head: (l4 + head(number) - part.start) as u16,
        proto: number,
        detail: if number == proto::TCP { flow.tcp_flags } else { flow.icmp_type },
        seen: now,
    };
    // Without a row the others are dropped, and the datagram is lost.
    let _noted = FRAGMENTS.insert(key, row, 0);
    Ok(())
}

/// Gives another fragment what the first one said.
#[inline(always)]
fn later(flow: &mut Flow, key: &FragmentKey, part: &Part, now: u32) -> Step<()> {
    // SAFETY: the row is read field by field; programs replace rows whole.
    let row = unsafe { FRAGMENTS.get(key) }
        .filter(|row| now.wrapping_sub(row.seen) <= FRAGMENT_LIFETIME)
        .ok_or(cause!(FRAGMENT_NOT_FOUND))?;
    // It would be put over the header that was judged (RFC 3128).
    if part.offset < row.head as u32 {
        return Err(cause!(INVALID_PACKET));
    }
    flow.tuple.proto = row.proto;
    flow.tuple.src_port = row.src_port;
    flow.tuple.dst_port = row.dst_port;
    flow.policy_port = row.dst_port;
    if row.proto == proto::ICMP || row.proto == proto::ICMPV6 {
        flow.kind = kind::ECHO;
        flow.icmp_type = row.detail;
        flow.policy_port = Be16::new(row.detail as u16);
    } else {
        flow.tcp_flags = row.detail;
    }
    flow.l4 = 0;
    Ok(())
}

macro_rules! trackers {
    ($($name:ident => $family:ident;)*) => {
        $(
            /// A subprogram of its own, which the verifier checks once: 0, or a cause.
            ///
            /// # Safety
            /// `skb` must be a valid context, `flow` null or this CPU's flow.
            #[unsafe(no_mangle)]
            #[inline(never)]
            unsafe extern "C" fn $name(skb: *mut __sk_buff, flow: *mut Flow) -> u32 {
                // SAFETY: as the caller promises.
                let Some(flow) = (unsafe { flow.as_mut() }) else { return cause!(INVALID_PACKET).raw() };
                match track::<$family>(Skb(skb), flow) {
                    Ok(()) => 0,
                    Err(cause) => cause.raw(),
                }
            }
        )*
    };
}

trackers! {
    fragment_v4 => V4;
    fragment_v6 => V6;
}

/// Fills in what layer 4 says of a fragment, whose addresses are known; of IPv6 [`Flow::l4`] is the offset of the
/// Fragment header.
#[inline(always)]
pub fn read<F: Family>(skb: Skb, flow: &mut Flow) -> Step<()> {
    // SAFETY: a valid context and this CPU's flow.
    match unsafe { if F::IS_V6 { fragment_v6(skb.0, flow) } else { fragment_v4(skb.0, flow) } } {
        0 => Ok(()),
        raw => Err(Cause::from_raw(raw)),
    }
}
