//! Direct server return by IP in IP (RFC 2003, RFC 2473): a client's packet goes as it is, within another header of
//! its family, to a backend outside the cluster. That one takes the header off, has the frontend's address itself, and
//! answers the client.
//!
//! No device is needed: the programs write the header.

use crate::{
    answer, cause, deliver, dsr,
    flow::{Cause, Flow, Step},
    maps::{self, DEVICE},
    node,
    packet::{Packet, Skb, Xdp},
    parse::{Family, L2, Link, V4, V6},
    rewrite::Writable,
};
use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_FIB_LKUP_RET_FRAG_NEEDED,
        BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
        bpf_fib_lookup as FibParams, xdp_md,
    },
    helpers::generated::{bpf_fib_lookup, bpf_skb_adjust_room, bpf_xdp_adjust_head},
};
use cilium_abi::{
    Address,
    lb::{BackendRow, FrontendRow},
    node::NODE_DSR_IPIP,
    proto,
};
use core::mem::MaybeUninit;

/// TTL or hop limit of the outer header.
const HOPS: u32 = 64;
/// IP protocol of an IPv4 packet inside.
const IN_IPV4: u32 = 4;
/// IP protocol of an IPv6 packet inside.
const IN_IPV6: u32 = 41;

/// Whether backends outside the cluster, and those alone, answer clients themselves.
#[inline(always)]
pub fn tells() -> bool {
    node!(flags) & NODE_DSR_IPIP != 0
}

/// Notes which backend a packet goes to that keeps its addresses.
#[inline(always)]
pub fn point(flow: &mut Flow, frontend: &FrontendRow, backend: &BackendRow) {
    flow.keep(flow.tuple.dst);
    flow.rev_nat = frontend.rev_nat;
    flow.policy_port = backend.port;
    let [a, b, c, d] = backend.addr.words;
    flow.tuple.dst.words = [a, b, c, d];
    // The packet keeps the frontend's port, which is the backend's but where that changed since it was chosen.
    flow.tuple.dst_port = backend.port;
}

/// What became of a packet.
pub enum Sent {
    /// The verdict that sends it.
    By(i32),
    /// It is too long; without the header it may have so many bytes.
    TooLong(u32),
}

/// Marks an MTU among what a subprogram returns, beside verdicts and causes as of [`Cause::cross`].
const TOO_LONG: u64 = 1 << 63;

/// Sends a packet to a backend, within a header from the node's address there.
#[inline(always)]
pub fn send<F: Family>(skb: Skb, flow: &Flow, to: &Address) -> Step<Sent> {
    // SAFETY: a valid context, this CPU's flow and an address in a map row.
    let sent =
        unsafe { if F::IS_V6 { ipip_send_v6(skb.0, flow, to) } else { ipip_send_v4(skb.0, flow, to) } };
    if sent & TOO_LONG != 0 {
        return Ok(Sent::TooLong(sent as u32));
    }
    Cause::crossed(sent).map(Sent::By)
}

macro_rules! senders {
    ($($name:ident, $frame:ident => $family:ident;)*) => {
        $(
            /// A subprogram of its own, which the verifier checks once.
            ///
            /// # Safety
            /// `skb` must be a valid context, `flow` null or this CPU's flow, `to` null or an address.
            #[unsafe(no_mangle)]
            #[inline(never)]
            unsafe extern "C" fn $name(skb: *mut __sk_buff, flow: *const Flow, to: *const Address) -> u64 {
                // SAFETY: as the caller promises.
                match unsafe { (flow.as_ref(), to.as_ref()) } {
                    (Some(flow), Some(to)) => out::<$family>(Skb(skb), flow, to),
                    _ => refuse(cause!(INVALID_PACKET)),
                }
            }

            /// A subprogram of its own, which the verifier checks once; 0: done.
            ///
            /// # Safety
            /// `frame` must be a valid context, `own` and `to` null or addresses.
            #[unsafe(no_mangle)]
            #[inline(never)]
            unsafe extern "C" fn $frame(frame: *mut xdp_md, own: *const Address, to: *const Address) -> u32 {
                // SAFETY: as the caller promises.
                match unsafe { (own.as_ref(), to.as_ref()) } {
                    (Some(own), Some(to)) => within::<$family>(Xdp(frame), own, to).is_none() as u32,
                    _ => 1,
                }
            }
        )*
    };
}

senders! {
    ipip_send_v4, ipip_frame_v4 => V4;
    ipip_send_v6, ipip_frame_v6 => V6;
}

const fn refuse(cause: Cause) -> u64 {
    Cause::cross(Err(cause))
}

/// The outer header of a packet of `length` bytes.
#[inline(always)]
fn write<F: Family, P: Writable>(packet: P, length: u32, own: &Address, to: &Address) -> u32 {
    let length = if F::IS_V6 { length } else { length + F::HEADER as u32 };
    // Segments get their own, and are no longer than that.
    let length = if length > 0xffff { 0xffff } else { length };
    if F::IS_V6 {
        let ([a, b, c, d], [e, f, g, h]) = (own.words, to.words);
        let second = length << 16 | IN_IPV6 << 8 | HOPS;
        let header: [u32; 10] = [0x6000_0000u32.to_be(), second.to_be(), a, b, c, d, e, f, g, h];
        return packet.store_summed(L2::HEADER as u32, &header);
    }
    // What may not be fragmented needs no number (RFC 6864).
    let fixed = [(0x4500_0000 | length).to_be(), 0x4000u32.to_be()];
    let third = (HOPS << 24 | IN_IPV4 << 16).to_be();
    let (src, dst) = (own.v4_word(), to.v4_word());
    let mut sum = 0u64;
    for word in [fixed[0], fixed[1], third, src, dst] {
        sum += (word & 0xffff) as u64 + (word >> 16) as u64;
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    // The checksum is the last half of the word, in memory order.
    let [first, second, ..] = third.to_ne_bytes();
    let [high, low] = (!(sum as u16)).to_ne_bytes();
    let header: [u32; 5] = [fixed[0], fixed[1], u32::from_ne_bytes([first, second, high, low]), src, dst];
    packet.store_summed(L2::HEADER as u32, &header)
}

/// Bytes of the longest packet that a packet of `length` bytes will be on the wire.
#[inline(always)]
fn longest(skb: Skb, flow: &Flow, length: u32) -> u32 {
    // SAFETY: a valid context.
    let segment = unsafe { (*skb.0).gso_size };
    if segment == 0 || flow.l4 == 0 {
        return length;
    }
    let mut header = 8;
    if flow.tuple.proto == proto::TCP {
        let mut offset = 0u8;
        if !skb.load(flow.l4 + 12, &mut offset) {
            return length;
        }
        header = (offset >> 4) as u32 * 4;
    }
    flow.l4 - L2::HEADER as u32 + header + segment
}

/// The address of this node on a device; `None`: it has none of the family.
#[inline(always)]
fn address<F: Family>(ifindex: u32) -> Option<&'static Address> {
    // SAFETY: the row is read field by field; user space replaces rows whole.
    let row = unsafe { DEVICE.get(ifindex) }?;
    let addr = if F::IS_V6 { &row.ipv6 } else { &row.ipv4 };
    if addr.is_none() { None } else { Some(addr) }
}

#[inline(always)]
fn out<F: Family>(skb: Skb, flow: &Flow, to: &Address) -> u64 {
    let Some(length) = answer::length::<F, _>(skb) else { return refuse(cause!(INVALID_PACKET)) };
    let more = F::HEADER as u32;
    let total = longest(skb, flow, length) + more;
    // SAFETY: all zeroes is a valid value of this plain struct.
    let mut fib: FibParams = unsafe { MaybeUninit::zeroed().assume_init() };
    fib.family = F::AF;
    fib.ifindex = flow.ifindex;
    fib.__bindgen_anon_1.tot_len = if total > 0xffff { 0xffff } else { total as u16 };
    if F::IS_V6 {
        let [a, b, c, d] = to.words;
        fib.__bindgen_anon_4.ipv6_dst = [a, b, c, d];
    } else {
        fib.__bindgen_anon_4.ipv4_dst = to.v4_word();
    }
    // SAFETY: a valid context and an initialised struct of the given size.
    let found =
        unsafe { bpf_fib_lookup(skb.0.cast(), &raw mut fib, size_of::<FibParams>() as i32, 0) } as u32;
    match found {
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => {}
        BPF_FIB_LKUP_RET_FRAG_NEEDED => {
            // SAFETY: the helper's answer leaves the MTU in the place of the length.
            let mtu = unsafe { fib.__bindgen_anon_1.mtu_result } as u32;
            return TOO_LONG | if mtu > more { mtu - more } else { 1 } as u64;
        }
        // Not for the stack either, which takes nothing from outside with an address of the node.
        _ => return refuse(cause!(FIB_LOOKUP_FAILED)),
    }
    let ifindex = fib.ifindex;
    if maps::runtime().is_some_and(|row| row.host_ifindex == ifindex) {
        return refuse(cause!(STALE_OR_UNROUTABLE_IP));
    }
    let Some(own) = address::<F>(ifindex).or_else(|| address::<F>(flow.ifindex)) else {
        return refuse(cause!(NO_DEVICE));
    };
    let kind = if F::IS_V6 { BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 } else { BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 };
    // SAFETY: a valid context; the helper checks lengths.
    let made =
        unsafe { bpf_skb_adjust_room(skb.0, more as i32, BPF_ADJ_ROOM_MAC, dsr::ROOM | kind as u64) } == 0;
    if !made || write::<F, _>(skb, length, own, to) != 0 {
        return refuse(cause!(WRITE_ERROR));
    }
    match deliver::leave(skb, &fib, found) {
        verdict if verdict >= 0 => verdict as u32 as u64,
        cause => refuse(Cause::from_raw(-cause as u32)),
    }
}

/// Puts a frame's packet into a header from the node's `own` address.
#[inline(always)]
pub fn enclose<F: Family>(frame: Xdp, own: &Address, to: &Address) -> Step<()> {
    // SAFETY: a valid context, and addresses in map rows.
    let failed =
        unsafe { if F::IS_V6 { ipip_frame_v6(frame.0, own, to) } else { ipip_frame_v4(frame.0, own, to) } };
    if failed == 0 { Ok(()) } else { Err(cause!(WRITE_ERROR)) }
}

#[inline(always)]
fn within<F: Family>(frame: Xdp, own: &Address, to: &Address) -> Option<()> {
    let length = answer::length::<F, _>(frame)?;
    // SAFETY: a valid context; the helper checks for room.
    if unsafe { bpf_xdp_adjust_head(frame.0, -(F::HEADER as i32)) } != 0
        || !dsr::forward::<{ L2::HEADER / 2 }>(frame, F::HEADER)
    {
        return None;
    }
    (write::<F, _>(frame, length, own, to) == 0).then_some(())
}
