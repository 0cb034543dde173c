//! Frames of known connections, by as few lookups as they need: see [`crate::accelerate`].
//!
//! Towards a backend, most of what is asked of a frame is the same for each frame of its connection: whether the
//! client is outside, where the backend is, what the connection's entry says. An answer holds for the rest of
//! the second and for the revision it was given at. So what changes with the revision changes at once, and
//! entries in use are refreshed each second. The note that all was asked stands in the connection's
//! `KIND_SERVICE` entry ([`note`]).
//!
//! Back to the client, only what would write nothing is known, and that the client is no endpoint of this node is
//! noted in the connection's own entry, for one revision ([`note_answer`]).
//!
//! What is not as noted takes the long way: nothing is written before all is decided.

use crate::{
    accelerate::way,
    conntrack::{self, CLOSING},
    flow::{FIN, Flow, RST, SYN},
    maps::REVNAT,
    metrics::count,
    node,
    packet::{Packet, Xdp, at},
    parse::{Ethernet, Family, Ipv4, Ipv6, L2, Link, Tcp},
    service, snat,
};
use aya_ebpf::bindings::{bpf_fib_lookup as FibParams, xdp_action::XDP_TX};
use cilium_abi::{
    Address, Be16,
    ct::{
        CT_DSR, CT_INITIATOR_HIGH, CT_ONE_WAY, CT_SEEN_REPLY, CT_STACK, CtRow, KIND_CONNECTION, KIND_SERVICE,
        Tuple,
    },
    lb::FrontendRow,
    metrics::{ACCELERATED, DIRECTION_INGRESS, FORWARDED},
    node::{AGGREGATE_LOW, NODE_EVENT_TRACE},
    proto,
    snat::SnatRow,
};
use core::{mem::offset_of, ptr::from_ref};

/// TCP flags that are looked at each time: they open a connection, or end it.
const TURNS: u8 = SYN | FIN | RST;

/// Whether each frame is told of.
#[inline(always)]
fn tells_all() -> bool {
    node!(flags) & NODE_EVENT_TRACE != 0
        && (node!(trace_aggregation) <= AGGREGATE_LOW || node!(trace_interval) == 0)
}

/// The ends of a packet of family `F`. What is the same of all IPv4 addresses is written out, so that keys are made, and
/// their ends compared, without it.
#[inline(always)]
pub fn ends<F: Family>(flow: &Flow) -> Tuple {
    let Tuple { src_port, dst_port, proto, .. } = flow.tuple;
    Tuple { src: plain::<F>(&flow.tuple.src), dst: plain::<F>(&flow.tuple.dst), src_port, dst_port, proto }
}

#[inline(always)]
fn plain<F: Family>(addr: &Address) -> Address {
    if F::IS_V6 { *addr } else { Address::v4(addr.v4_word()) }
}

/// The choice that the connection of a packet to a frontend has.
#[inline(always)]
fn choice(ends: &Tuple, now: u32) -> Option<&'static mut CtRow> {
    let (key, _) = ends.key(KIND_SERVICE);
    conntrack::lookup(&key, now)
}

/// Notes that all was asked about a frame to a frontend, and that it goes to a backend elsewhere with an address of
/// this node. A function of its own, since the stacks of those that call each other count together.
#[inline(never)]
pub fn note(flow: &Flow) {
    if tells_all() || flow.tcp_flags & TURNS != 0 {
        return;
    }
    let Some(row) = choice(&flow.tuple, flow.now) else { return };
    let is_noted = row.reported_forward == flow.now && row.revision == flow.revision;
    let before = if is_noted { row.looked } else { 0 };
    row.looked = before | flow.tcp_flags as u16;
    row.revision = flow.revision;
    row.reported_forward = flow.now;
}

/// Sends a frame to a frontend on to the backend of its connection; `None`: it takes the long way.
#[inline(never)]
pub fn serve<F: Family>(frame: Xdp, flow: &Flow, frontend: &FrontendRow) -> Option<u32> {
    let ends = ends::<F>(flow);
    let row = choice(&ends, flow.now)?;
    let lifetime = if flow.tuple.proto == proto::TCP { node!(ct_tcp) } else { node!(ct_any) };
    if tells_all()
        || row.expires != flow.now + lifetime
        || row.reported_forward != flow.now
        || row.revision != flow.revision
        || flow.tcp_flags as u16 & !row.looked != 0
        || row.flags & (CLOSING | CT_ONE_WAY) != 0
        || row.rev_nat != frontend.rev_nat
    {
        return None;
    }
    let backend = service::backend(row.backend)?;
    let lent = snat::given(&ends, &plain::<F>(&backend.addr), backend.port)?;
    if lent.used != flow.now {
        return None;
    }
    if flow.tuple.proto != proto::TCP && !is_of(flow, frontend, &backend.addr, backend.port) {
        return None;
    }
    send::<F>(frame, flow, &lent.addr, (&lent.addr, lent.port), (&backend.addr, backend.port))
}

/// Whether a connection with a backend is that of the frontend: where nothing opens one, each packet that comes by
/// another frontend makes it that one's.
#[inline(always)]
fn is_of(flow: &Flow, frontend: &FrontendRow, addr: &Address, port: Be16) -> bool {
    let tuple = Tuple { dst: *addr, dst_port: port, ..flow.tuple };
    let (key, from_high) = tuple.key(KIND_CONNECTION);
    conntrack::lookup(&key, flow.now).is_some_and(|row| {
        (row.flags & CT_INITIATOR_HIGH != 0) == from_high
            && row.flags & (CT_ONE_WAY | CT_DSR | CT_STACK) == 0
            && row.rev_nat == frontend.rev_nat
    })
}

/// Notes in a connection's entry that its client is no endpoint of this node. Where nobody remembers an identity, the
/// revision is nobody else's.
#[inline(always)]
pub fn note_answer(flow: &Flow, row: &mut CtRow) {
    if row.identity == 0 && row.revision != flow.revision {
        row.revision = flow.revision;
    }
}

/// Sends an answer on to the client that an address of this node was lent to; `None`: it takes the long way.
#[inline(never)]
pub fn answer<F: Family>(frame: Xdp, flow: &Flow, client: &SnatRow) -> Option<u32> {
    if client.used != flow.now || tells_all() || flow.tcp_flags & TURNS != 0 {
        return None;
    }
    let tuple = Tuple { dst: plain::<F>(&client.addr), dst_port: client.port, ..ends::<F>(flow) };
    let (key, from_high) = tuple.key(KIND_CONNECTION);
    let row = conntrack::lookup(&key, flow.now)?;
    let lifetime = if flow.tuple.proto == proto::TCP { node!(ct_tcp) } else { node!(ct_any) };
    let is_forward = (row.flags & CT_INITIATOR_HIGH != 0) == from_high;
    let is_due =
        node!(flags) & NODE_EVENT_TRACE != 0 && flow.now - row.reported_reply >= node!(trace_interval);
    // The client is outside, and there is nothing to be written to the entry.
    if is_forward
        || is_due
        || row.identity != 0
        || row.revision != flow.revision
        || row.flags & (CLOSING | CT_ONE_WAY | CT_SEEN_REPLY) != CT_SEEN_REPLY
        || row.expires != flow.now + lifetime
        || flow.tcp_flags & !row.seen_reply != 0
        || row.rev_nat == 0
    {
        return None;
    }
    // SAFETY: the row is read field by field; user space replaces rows whole.
    let frontend = unsafe { REVNAT.get(row.rev_nat as u32) }?;
    let own = &flow.tuple.dst;
    send::<F>(frame, flow, own, (&frontend.addr, frontend.port), (&client.addr, client.port))
}

/// Gives a frame both its ends, and sends it back out, where the route from this node's `own` address leads.
#[inline(always)]
fn send<F: Family>(
    frame: Xdp,
    flow: &Flow,
    own: &Address,
    src: (&Address, Be16),
    dst: (&Address, Be16),
) -> Option<u32> {
    let way = way::<F>(frame, flow.ifindex, own, dst.0, 0)?;
    exchange::<F>(frame, flow, way, src, dst)?;
    let length = frame.length();
    count(FORWARDED, DIRECTION_INGRESS, length);
    count(ACCELERATED, DIRECTION_INGRESS, length);
    Some(XDP_TX)
}

/// Rewrites a frame without anything between IP and layer 4: both ends with the checksums over them, TTL, hardware addresses. `None`: nothing was written,
/// since the frame is not addressed to the device or ends too early.
#[inline(always)]
fn exchange<F: Family>(
    frame: Xdp,
    flow: &Flow,
    way: &FibParams,
    src: (&Address, Be16),
    dst: (&Address, Be16),
) -> Option<()> {
    const _: () = assert!(offset_of!(FibParams, smac) % 2 == 0 && offset_of!(FibParams, dmac) % 2 == 0);
    let is_tcp = flow.tuple.proto == proto::TCP;
    let ethernet = at::<Ethernet, Xdp>(frame, 0)?;
    let sum_at = if is_tcp { offset_of!(Tcp, checksum) } else { UDP_SUM };
    let l4 = L2::HEADER + F::HEADER;
    let sum = at::<u16, Xdp>(frame, l4 + sum_at)?;
    let ports = at::<[u16; 2], Xdp>(frame, l4)?;
    // SAFETY: `at` proved the header lies inside the frame; the way's fields are two-byte aligned.
    unsafe {
        let own: [u16; 3] = *from_ref(&way.smac).cast();
        let [a, b, c] = (*ethernet).dst;
        if (a ^ own[0]) | (b ^ own[1]) | (c ^ own[2]) != 0 {
            return None;
        }
    }
    let mut change = 0;
    if F::IS_V6 {
        let ip = at::<Ipv6, Xdp>(frame, L2::HEADER)?;
        for word in 0..4 {
            change += difference(flow.tuple.src.words[word], src.0.words[word]);
            change += difference(flow.tuple.dst.words[word], dst.0.words[word]);
        }
        let ([a, b, c, d], [e, f, g, h]) = (src.0.words, dst.0.words);
        // SAFETY: `at` proved the header lies inside the frame.
        unsafe {
            (*ip).src = [a, b, c, d];
            (*ip).dst = [e, f, g, h];
            (*ip).hops = flow.ttl - 1;
        }
    } else {
        let ip = at::<Ipv4, Xdp>(frame, L2::HEADER)?;
        let (from, to) = (src.0.v4_word(), dst.0.v4_word());
        change += difference(flow.tuple.src.v4_word(), from);
        change += difference(flow.tuple.dst.v4_word(), to);
        // SAFETY: `at` proved the header lies inside the frame.
        unsafe {
            let old = u16::from_ne_bytes([(*ip).ttl, (*ip).proto]);
            let new = u16::from_ne_bytes([flow.ttl - 1, (*ip).proto]);
            (*ip).checksum = corrected((*ip).checksum, change + difference_half(old, new));
            (*ip).ttl = flow.ttl - 1;
            (*ip).src = from;
            (*ip).dst = to;
        }
    }
    change += difference_half(flow.tuple.src_port.0, src.1.0);
    change += difference_half(flow.tuple.dst_port.0, dst.1.0);
    // SAFETY: `at` proved that all lie inside the frame.
    unsafe {
        *ports = [src.1.0, dst.1.0];
        // Over UDP there need not be one.
        if is_tcp || *sum != 0 {
            let new = corrected(*sum, change);
            *sum = if !is_tcp && new == 0 { 0xffff } else { new };
        }
        (*ethernet).dst = *from_ref(&way.dmac).cast();
        (*ethernet).src = *from_ref(&way.smac).cast();
    }
    Some(())
}

/// Offset of the checksum in a UDP header.
const UDP_SUM: usize = 6;

/// What a sum grows by when a word of it changes (RFC 1624 equation 3), not folded yet.
#[inline(always)]
const fn difference(old: u32, new: u32) -> u64 {
    !old as u64 + new as u64
}

/// The same for half a word.
#[inline(always)]
const fn difference_half(old: u16, new: u16) -> u64 {
    !old as u64 + new as u64
}

/// A checksum after a change.
#[inline(always)]
const fn corrected(checksum: u16, change: u64) -> u16 {
    let sum = change + !checksum as u64;
    // At most 34 bits, then 19, then 17.
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::{corrected, difference, difference_half};
    use crate::rewrite::fold;

    #[test]
    fn all_changes_at_once_are_each_one_after_the_other() {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 32) as u32
        };
        for round in 0..10_000u32 {
            // Both extremes as well.
            let mut word = || match round % 8 {
                0 => next() & 1,
                1 => u32::MAX - (next() & 1),
                _ => next(),
            };
            let (words, halves): ([[u32; 2]; 8], [[u16; 2]; 3]) = (
                core::array::from_fn(|_| [word(), word()]),
                core::array::from_fn(|_| [word() as u16, word() as u16]),
            );
            let checksum = word() as u16;
            let mut change = 0;
            let mut wanted = checksum;
            for [old, new] in words {
                change += difference(old, new);
                wanted = fold(wanted, old as u16, new as u16);
                wanted = fold(wanted, (old >> 16) as u16, (new >> 16) as u16);
            }
            for [old, new] in halves {
                change += difference_half(old, new);
                wanted = fold(wanted, old, new);
            }
            let same = |a: u16, b: u16| a == b || (a ^ b == 0xffff && (a == 0 || b == 0));
            assert!(same(corrected(checksum, change), wanted), "{words:x?} {halves:x?} {checksum:x}");
        }
    }
}
