//! ICMPv6 messages of one link from pods: neighbour solicitations for the router are answered here,
//! router advertisements and redirects are forbidden, the rest is the stack's.

use crate::{
    cause,
    deliver::{PASS, address_frame},
    flow::{Cause, Flow, Step, same},
    node,
    packet::{Skb, at, bounded},
    parse::{Ipv6, L2, Link},
};
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_csum_diff, bpf_redirect},
};
use cilium_abi::{Address, endpoint::EndpointConfigRow, proto};
use core::mem::MaybeUninit;

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
/// Multicast listener query, report, done; version 2 report.
const LISTENER: core::ops::RangeInclusive<u8> = 130..=132;
const LISTENER_V2: u8 = 143;

/// A neighbour message without options (RFC 4861 §4.3).
#[repr(C)]
#[derive(Clone, Copy)]
struct Message {
    kind: u8,
    code: u8,
    checksum: u16,
    flags: u32,
    target: [u32; 4],
}

/// The link-layer address option (RFC 4861 §4.6.1).
#[repr(C)]
#[derive(Clone, Copy)]
struct LinkOption {
    kind: u8,
    length: u8,
    mac: [u16; 3],
}

/// What the checksum covers: pseudo header, message, option.
#[repr(C)]
struct Summed {
    src: [u32; 4],
    dst: [u32; 4],
    length: u32,
    next: u32,
    message: Message,
    option: LinkOption,
}

/// Whether the packet is a message of one link, which [`answer`] decides about.
#[inline(always)]
pub fn is_link_message(flow: &Flow) -> bool {
    flow.tuple.proto == proto::ICMPV6
        && (LISTENER.contains(&flow.icmp_type)
            || (flow.icmp_type >= ROUTER_SOLICITATION && flow.icmp_type <= REDIRECT)
            || flow.icmp_type == LISTENER_V2)
}

#[inline(always)]
fn is_link_local(addr: &Address) -> bool {
    addr.words[0] & u32::from_ne_bytes([0xff, 0xc0, 0, 0]) == u32::from_ne_bytes([0xfe, 0x80, 0, 0])
}

/// Decides about a message of one link from the pod.
#[inline(always)]
pub fn answer(skb: Skb, flow: &mut Flow, config: &EndpointConfigRow) -> Step<i32> {
    // SAFETY: a valid context, this CPU's flow, and a map row.
    Cause::crossed(unsafe { nd_answer(skb.0, flow, config) })
}

/// A subprogram of its own, which the verifier checks once: see [`Cause::cross`].
///
/// # Safety
/// `skb` must be a valid context, `flow` null or this CPU's flow, `config` null or a row.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn nd_answer(
    skb: *mut __sk_buff,
    flow: *mut Flow,
    config: *const EndpointConfigRow,
) -> u64 {
    // SAFETY: as the caller promises.
    Cause::cross(match unsafe { (flow.as_mut(), config.as_ref()) } {
        (Some(flow), Some(config)) => decide(Skb(skb), flow, config),
        _ => Err(cause!(INVALID_PACKET)),
    })
}

#[inline(always)]
fn decide(skb: Skb, flow: &mut Flow, config: &EndpointConfigRow) -> Step<i32> {
    let own = same(&flow.tuple.src, &config.ipv6) && !config.ipv6.is_none();
    if !own && !is_link_local(&flow.tuple.src) && !flow.tuple.src.is_none() {
        return Err(cause!(INVALID_SOURCE_IP));
    }
    if flow.icmp_type == ROUTER_ADVERTISEMENT || flow.icmp_type == REDIRECT {
        return Err(cause!(FORBIDDEN_ICMPV6));
    }
    // Beyond the link the stack would route it: a packet that no policy saw.
    let dst = &flow.tuple.dst;
    let is_group = dst.words[0] & u32::from_ne_bytes([0xff, 0, 0, 0]) == u32::from_ne_bytes([0xff, 0, 0, 0]);
    if !is_group && !is_link_local(dst) && !same(dst, &node!(router_ipv6)) {
        return Err(cause!(FORBIDDEN_ICMPV6));
    }
    if flow.icmp_type != NEIGHBOUR_SOLICITATION {
        return Ok(PASS);
    }
    let at_l4 = bounded(flow.l4);
    // Extension headers have no place in a solicitation.
    if flow.ttl != 255 || flow.icmp_code != 0 || at_l4 != L2::HEADER + 40 {
        return Err(cause!(INVALID_PACKET));
    }
    let message = at::<Message, Skb>(skb, L2::HEADER + 40).ok_or(cause!(CT_INVALID_HEADER))?;
    // SAFETY: `at` proved the message lies inside the packet.
    let target = Address { words: unsafe { (*message).target } };
    // A probe for a duplicate must not be told of one.
    if flow.tuple.src.is_none() || !same(&target, &node!(router_ipv6)) {
        return Ok(PASS);
    }
    // The answer is written over the question, which must have the length of one of its two forms: a
    // solicitation to one neighbour may come without the option.
    let ip = at::<Ipv6, Skb>(skb, L2::HEADER).ok_or(cause!(INVALID_PACKET))?;
    // SAFETY: `at` proved the header lies inside the packet.
    let length = u16::from_be(unsafe { (*ip).payload }) as usize;
    let with_option = length != size_of::<Message>();
    if with_option && length != size_of::<Message>() + size_of::<LinkOption>() {
        return Err(cause!(INVALID_PACKET));
    }
    // SAFETY: all zeroes is a valid value of this plain struct.
    let mut summed: Summed = unsafe { MaybeUninit::zeroed().assume_init() };
    summed.src = target.words;
    summed.dst = flow.tuple.src.words;
    summed.next = (proto::ICMPV6 as u32).to_be();
    // Solicited, override.
    summed.message = Message {
        kind: NEIGHBOUR_ADVERTISEMENT,
        code: 0,
        checksum: 0,
        flags: 0x6000_0000u32.to_be(),
        target: target.words,
    };
    // SAFETY: the row's field is two-byte aligned.
    let mac = unsafe { *(&raw const config.node_mac.0).cast::<[u16; 3]>() };
    if with_option {
        summed.length = ((size_of::<Message>() + size_of::<LinkOption>()) as u32).to_be();
        summed.option = LinkOption { kind: 2, length: 1, mac };
        let option = at::<LinkOption, Skb>(skb, L2::HEADER + 40 + size_of::<Message>())
            .ok_or(cause!(INVALID_PACKET))?;
        // SAFETY: `at` proved the option lies inside the packet.
        unsafe { *option = summed.option };
    } else {
        summed.length = (size_of::<Message>() as u32).to_be();
    }
    // SAFETY: the struct is initialised, a multiple of four bytes, and on the stack.
    let sum = unsafe {
        bpf_csum_diff(core::ptr::null_mut(), 0, (&raw mut summed).cast(), size_of::<Summed>() as u32, 0)
    } as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    summed.message.checksum = !(sum as u16);
    let message = at::<Message, Skb>(skb, L2::HEADER + 40).ok_or(cause!(INVALID_PACKET))?;
    // SAFETY: `at` proved the message lies inside the packet.
    unsafe { *message = summed.message };
    let ip = at::<Ipv6, Skb>(skb, L2::HEADER).ok_or(cause!(INVALID_PACKET))?;
    // SAFETY: `at` proved the header lies inside the packet.
    unsafe {
        (*ip).src = target.words;
        (*ip).dst = flow.tuple.src.words;
    }
    address_frame(skb, &config.mac, &config.node_mac)?;
    // SAFETY: a helper with scalar arguments.
    Ok(unsafe { bpf_redirect(flow.ifindex, 0) } as i32)
}
