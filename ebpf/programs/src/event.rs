//! Telling user space: drops, traces, policy verdicts. A full ring loses the event, never the packet.

use crate::{
    flow::{Cause, FIN, Flow, RST, SYN, clock, kind},
    maps::EVENTS,
    metrics::count,
    node,
    packet::{Packet, Skb, Xdp, at},
    parse::Ethernet,
};
use aya_ebpf::{
    bindings::{__sk_buff, BPF_RB_NO_WAKEUP, TC_ACT_SHOT, xdp_md},
    helpers::generated::bpf_ktime_get_ns,
};
use cilium_abi::{
    Address, Be16, Mac,
    event::{DROP, EVENT_VERDICT, POLICY_VERDICT, TRACE, VERDICT_ALLOW},
    metrics::{EVENT_LOST, EVENT_WITHHELD, FORWARDED},
    node::{
        AGGREGATE_LOW, AGGREGATE_MEDIUM, AGGREGATE_NONE, NODE_EVENT_DROP, NODE_EVENT_TRACE,
        NODE_EVENT_VERDICT,
    },
};

/// What an event says beyond the flow: kind, subtype, verdict and reason in one word.
const fn what(kind: u8, subtype: u8, verdict: u8, reason: u8) -> u32 {
    u32::from_le_bytes([kind, subtype, verdict, reason])
}

/// Ends the packet: counts it, tells why. The only place that gives `TC_ACT_SHOT`.
#[inline(always)]
pub fn drop(skb: Skb, flow: &mut Flow, cause: Cause) -> i32 {
    // SAFETY: a valid context and this CPU's flow.
    unsafe { event_drop(skb.0, flow, cause.raw()) }
}

/// A subprogram of its own, which the verifier checks once.
///
/// # Safety
/// `skb` must be a valid context, `flow` null or this CPU's flow.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn event_drop(skb: *mut __sk_buff, flow: *mut Flow, cause: u32) -> i32 {
    let (skb, cause) = (Skb(skb), Cause::from_raw(cause));
    // SAFETY: as the caller promises.
    let Some(flow) = (unsafe { flow.as_mut() }) else { return TC_ACT_SHOT };
    refuse(skb, flow, cause);
    TC_ACT_SHOT
}

/// Counts a packet that ends, and tells why.
#[inline(always)]
pub fn refuse<P: Told>(packet: P, flow: &mut Flow, cause: Cause) {
    count(cause.code(), flow.direction, packet.length());
    if node!(flags) & NODE_EVENT_DROP != 0 && may_tell(packet, flow) {
        packet.tell(flow, what(DROP, cause.code(), 0, flow.matched), cause.line());
    }
}

/// Whether one more refused packet may be told of, or is only counted: a flood of them would fill the ring
/// and cost the other flows their events.
#[inline(always)]
fn may_tell<P: Packet>(packet: P, flow: &Flow) -> bool {
    let limit = node!(refusals);
    if limit == 0 {
        return true;
    }
    let Some(clock) = clock() else { return true };
    if clock.refusing != clock.window {
        clock.refusing = clock.window;
        clock.refused = 0;
    }
    clock.refused += 1;
    if clock.refused <= limit {
        return true;
    }
    count(EVENT_WITHHELD, flow.direction, packet.length());
    false
}

/// Counts a packet on its way, in the flow's direction.
#[inline(always)]
pub fn forwarded(skb: Skb, flow: &Flow) {
    count(FORWARDED, flow.direction, skb.length());
}

/// Tells that policy was asked. `verdict` is [`VERDICT_ALLOW`] or a drop reason.
#[inline(always)]
pub fn verdict(skb: Skb, flow: &mut Flow, direction: u8, verdict: u8) {
    if node!(flags) & NODE_EVENT_VERDICT != 0 {
        skb.tell(flow, what(POLICY_VERDICT, direction, verdict, flow.matched), 0);
    }
}

/// Tells that policy refused the packet, which is about to be dropped: the event of the drop says it too,
/// so that a flood of refused packets costs one event each.
#[inline(always)]
pub fn refused(skb: Skb, flow: &mut Flow, direction: u8, cause: Cause) {
    if node!(flags) & NODE_EVENT_DROP == 0 {
        if may_tell(skb, flow) {
            verdict(skb, flow, direction, cause.code());
        }
    } else if node!(flags) & NODE_EVENT_VERDICT != 0 {
        flow.flags |= EVENT_VERDICT;
    }
}

/// Tells that a packet left or was delivered, as often as the aggregation level asks.
#[inline(always)]
pub fn trace<P: Told>(packet: P, flow: &mut Flow, point: u8) {
    if node!(flags) & NODE_EVENT_TRACE != 0 && (node!(trace_aggregation) <= AGGREGATE_LOW || flow.report != 0)
    {
        packet.tell(flow, what(TRACE, point, VERDICT_ALLOW, flow.state), 0);
    }
}

/// Tells that a packet arrived; only without aggregation.
#[inline(always)]
pub fn received(skb: Skb, flow: &mut Flow, point: u8) {
    if node!(flags) & NODE_EVENT_TRACE != 0 && node!(trace_aggregation) == AGGREGATE_NONE {
        skb.tell(flow, what(TRACE, point, VERDICT_ALLOW, flow.state), 0);
    }
}

/// Which TCP flags make a trace event due when first seen.
#[inline(always)]
pub fn notable_flags() -> u8 {
    if node!(trace_aggregation) <= AGGREGATE_MEDIUM { 0xff } else { SYN | FIN | RST }
}

/// Events never wake their reader: with one that keeps up, a wake-up per event costs the packet more
/// than all else it goes through (measured: 9 µs). The reader looks by itself every few ms.
pub trait Told: Packet {
    /// Writes an event about it.
    fn tell(self, flow: &mut Flow, what: u32, line: u16);
}

impl Told for Skb {
    #[inline(always)]
    fn tell(self, flow: &mut Flow, what: u32, line: u16) {
        // SAFETY: a valid context and this CPU's flow.
        unsafe { event_emit(self.0, flow, what, line as u32) };
    }
}

impl Told for Xdp {
    #[inline(always)]
    fn tell(self, flow: &mut Flow, what: u32, line: u16) {
        // SAFETY: as above.
        unsafe { event_frame(self.0, flow, what, line as u32) };
    }
}

/// A subprogram of its own, which the verifier checks once.
///
/// # Safety
/// `skb` must be a valid context, `flow` null or this CPU's flow.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn event_emit(skb: *mut __sk_buff, flow: *mut Flow, what: u32, line: u32) -> u32 {
    // SAFETY: as the caller promises.
    let Some(flow) = (unsafe { flow.as_mut() }) else { return 1 };
    write(Skb(skb), flow, what, line)
}

/// A subprogram of its own, which the verifier checks once.
///
/// # Safety
/// `frame` must be a valid context, `flow` null or this CPU's flow.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn event_frame(frame: *mut xdp_md, flow: *mut Flow, what: u32, line: u32) -> u32 {
    // SAFETY: as the caller promises.
    let Some(flow) = (unsafe { flow.as_mut() }) else { return 1 };
    write(Xdp(frame), flow, what, line)
}

#[inline(always)]
fn write<P: Packet>(packet: P, flow: &mut Flow, what: u32, line: u32) -> u32 {
    let Some(mut entry) = EVENTS.reserve(0) else {
        count(EVENT_LOST, flow.direction, packet.length());
        return 1;
    };
    if flow.time == 0 {
        // SAFETY: a helper without arguments. As dear as three map lookups, so once per packet.
        flow.time = unsafe { bpf_ktime_get_ns() };
    }
    let [kind, subtype, verdict, reason] = what.to_le_bytes();
    let (dst_mac, src_mac) = match at::<Ethernet, P>(packet, 0) {
        // SAFETY: `at` proved the header lies inside the packet.
        Some(ethernet) => unsafe { ((*ethernet).dst, (*ethernet).src) },
        None => ([0; 3], [0; 3]),
    };
    let is_icmp = flow.kind != kind::PORTS;
    let event = entry.as_mut_ptr();
    // SAFETY: reserved memory of this type; every field is written before it is submitted.
    unsafe {
        (*event).time = flow.time;
        copy(&raw mut (*event).src, &flow.tuple.src);
        copy(&raw mut (*event).dst, &flow.tuple.dst);
        copy(
            &raw mut (*event).original,
            if flow.is_translated != 0 { &flow.original } else { &Address::NONE },
        );
        (*event).src_port = if is_icmp { Be16(0) } else { flow.tuple.src_port };
        (*event).dst_port = if is_icmp {
            Be16((flow.icmp_type as u16) << 8 | flow.icmp_code as u16)
        } else {
            flow.tuple.dst_port
        };
        (*event).kind = kind;
        (*event).subtype = subtype;
        (*event).proto = flow.tuple.proto;
        (*event).tcp_flags = flow.tcp_flags;
        (*event).src_identity = flow.src_identity;
        (*event).dst_identity = flow.dst_identity;
        (*event).ifindex = flow.ifindex;
        (*event).len = packet.length();
        (*event).cookie = flow.cookie;
        (*event).endpoint_id = flow.endpoint_id;
        (*event).verdict = verdict;
        (*event).reason = reason;
        (*event).direction = flow.direction;
        (*event).flags = flow.flags;
        (*event).src_mac = mac(src_mac);
        (*event).dst_mac = mac(dst_mac);
        (*event).line = line as u16;
    }
    entry.submit(BPF_RB_NO_WAKEUP as u64);
    0
}

/// Copies an address word by word: a copy of the whole becomes a call, with its share of the stack.
///
/// # Safety
/// `to` must be valid for writing.
#[inline(always)]
unsafe fn copy(to: *mut Address, from: &Address) {
    let [a, b, c, d] = from.words;
    // SAFETY: as the caller promises.
    unsafe { (*to).words = [a, b, c, d] };
}

#[inline(always)]
fn mac(words: [u16; 3]) -> Mac {
    let [a, b, c] = words;
    let ([a, b], [c, d], [e, f]) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes());
    Mac([a, b, c, d, e, f])
}
