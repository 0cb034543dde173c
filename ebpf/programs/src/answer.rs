//! Telling a client that nobody serves a frontend: a TCP reset, or the ICMP error "port unreachable" about
//! what it sent; or that what it sent is too long for the way. The client's packet becomes the answer and leaves
//! where it came in.
//!
//! Whatever checksum offload the packet was in stays true: see [`is_left_to_device`] and [`refuse`].

use crate::{
    cause, event,
    flow::{ACK, Cause, FIN, Flow, RST, SYN, Step},
    maps::DESK,
    packet::{Packet, Skb, at, bounded},
    parse::{Ethernet, Family, Ipv4, Ipv6, L2, Link, Tcp, V4, V6},
    rewrite::Writable,
};
use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM},
    helpers::generated::{
        bpf_csum_diff, bpf_ktime_get_coarse_ns, bpf_redirect, bpf_skb_change_tail, bpf_skb_load_bytes,
        bpf_skb_store_bytes,
    },
};
use cilium_abi::{
    drop,
    lb::{FRONTEND_REJECT, FrontendRow},
    node::mark,
    proto,
};

/// Answers per second and CPU; what is asked beyond is dropped without one.
pub const MOST: u32 = 1000;
/// Bytes quoted of a packet, at most: with the pseudo header what one call of `bpf_csum_diff` sums up on
/// every kernel (512). A multiple of four.
const QUOTE: u32 = 448;
/// TTL of answers.
const HOPS: u8 = 64;

/// Where a CPU writes its answers, and how many it wrote lately.
#[repr(C)]
pub struct Desk {
    /// Coarse second since boot of the last answer.
    pub second: u32,
    /// Answers in that second.
    pub sent: u32,
    /// The answer, from its IP header on.
    pub packet: [u32; 160],
}

/// Header of an ICMP error; what is quoted follows.
#[repr(C)]
struct Icmp {
    kind: u8,
    code: u8,
    checksum: u16,
    /// Unused, or the MTU of the way.
    rest: u32,
}

/// The end of a packet to a frontend for which there is no backend: dropped, and its sender told if the
/// frontend is to do so.
#[inline(always)]
pub fn unserved<F: Family>(skb: Skb, flow: &mut Flow, frontend: &FrontendRow, cause: Cause) -> Step<i32> {
    // A list that is being replaced has its slots back at once.
    if cause.code() != drop::NO_SERVICE_BACKEND
        || frontend.count != 0
        || frontend.flags & FRONTEND_REJECT == 0
    {
        return Err(cause);
    }
    let dropped = event::drop(skb, flow, cause);
    Ok(instead::<F>(skb, flow, dropped, 0))
}

/// The end of a packet that is too long for its way: its sender is told how long it may be.
#[inline(always)]
pub fn too_long<F: Family>(skb: Skb, flow: &mut Flow, mtu: u32) -> Step<i32> {
    let dropped = event::drop(skb, flow, cause!(FRAGMENTATION_NEEDED));
    Ok(instead::<F>(skb, flow, dropped, mtu))
}

/// The verdict that sends an answer, or else the one that drops.
#[inline(always)]
fn instead<F: Family>(skb: Skb, flow: &Flow, dropped: i32, mtu: u32) -> i32 {
    // SAFETY: a valid context and this CPU's flow.
    let sent = unsafe { if F::IS_V6 { answer_v6(skb.0, flow, mtu) } else { answer_v4(skb.0, flow, mtu) } };
    if sent == 0 { dropped } else { sent }
}

macro_rules! answers {
    ($($name:ident => $family:ident;)*) => {
        $(
            /// A subprogram of its own, which the verifier checks once: the verdict that sends the answer, or 0.
            ///
            /// # Safety
            /// `skb` must be a valid context, `flow` null or this CPU's flow.
            #[unsafe(no_mangle)]
            #[inline(never)]
            unsafe extern "C" fn $name(skb: *mut __sk_buff, flow: *const Flow, mtu: u32) -> i32 {
                // SAFETY: as the caller promises.
                unsafe { flow.as_ref() }.and_then(|flow| refuse::<$family>(Skb(skb), flow, mtu)).unwrap_or(0)
            }
        )*
    };
}

answers! {
    answer_v4 => V4;
    answer_v6 => V6;
}

/// Whether somebody may be told: an answer goes to one host, and not to an answer.
#[inline(always)]
fn may_tell<F: Family>(flow: &Flow) -> bool {
    let is_one = if F::IS_V6 {
        !flow.tuple.src.is_none() && flow.tuple.src.words[0].to_ne_bytes()[0] != 0xff
    } else {
        let [first, ..] = flow.tuple.src.v4_word().to_ne_bytes();
        first != 0 && first != 127 && first < 224
    };
    // Behind options or extension headers a device would look for its checksum elsewhere.
    is_one && flow.l4 as usize == L2::HEADER + F::HEADER && flow.tcp_flags & RST == 0
}

/// Takes one of this second's answers.
#[inline(always)]
fn may_answer(desk: &mut Desk) -> bool {
    // SAFETY: a helper without arguments.
    let second = (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32;
    if desk.second != second {
        desk.second = second;
        desk.sent = 0;
    }
    if desk.sent >= MOST {
        return false;
    }
    desk.sent += 1;
    true
}

/// Bytes of the IP packet, header included.
#[inline(always)]
pub fn length<F: Family, P: Packet>(packet: P) -> Option<u32> {
    let frame = packet.length() - L2::HEADER as u32;
    let said = if F::IS_V6 {
        let ip = at::<Ipv6, P>(packet, L2::HEADER)?;
        // SAFETY: `at` proved the header lies inside the packet.
        let payload = u16::from_be(unsafe { (*ip).payload }) as u32;
        if payload == 0 { 0 } else { payload + F::HEADER as u32 }
    } else {
        let ip = at::<Ipv4, P>(packet, L2::HEADER)?;
        // SAFETY: as above.
        u16::from_be(unsafe { (*ip).total }) as u32
    };
    // Very large segments (BIG TCP) do not say it; short frames are padded.
    Some(if said == 0 || said > frame { frame } else { said })
}

/// Whether a device, or nobody, will compute the TCP checksum (`CHECKSUM_PARTIAL`): the field then holds the
/// sum of the pseudo header alone, and the helper leaves it as it is when a byte behind it changes.
#[inline(always)]
fn is_left_to_device(skb: Skb, field: u32) -> Option<bool> {
    let (mut before, mut after) = (0u16, 0u16);
    if !skb.load(field, &mut before) || skb.correct(field, 0, 1, 2) != 0 || !skb.load(field, &mut after) {
        return None;
    }
    Some(before == after)
}

/// A size, such that the verifier sees both its bounds: to be other than zero tells it nothing before Linux 6.8.
#[inline(always)]
fn nonzero(size: u32) -> Option<u32> {
    match size {
        0 => None,
        size => Some(bounded(size - 1) as u32 + 1),
    }
}

/// Sum of the `size` bytes behind an offset of the packet at the desk, which is a multiple of four.
#[inline(always)]
fn sum(desk: &mut Desk, offset: usize, size: u32, seed: u32) -> u16 {
    // SAFETY: the offset is within the packet; the helper checks the size against the map row.
    let sum = unsafe {
        let from = desk.packet.as_mut_ptr().cast::<u8>().add(offset);
        bpf_csum_diff(core::ptr::null_mut(), 0, from.cast(), size, seed)
    } as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The answer's IP header, from the frontend to the client.
#[inline(always)]
fn head<F: Family>(desk: &mut Desk, flow: &Flow, number: u8, payload: u32) {
    let packet = desk.packet.as_mut_ptr();
    // SAFETY: both headers fit the start of the desk's packet, which is aligned for them.
    unsafe {
        if F::IS_V6 {
            let ip = &mut *packet.cast::<Ipv6>();
            ip.first = 0x6000_0000u32.to_be();
            ip.payload = (payload as u16).to_be();
            ip.next = number;
            ip.hops = HOPS;
            ip.src = flow.tuple.dst.words;
            ip.dst = flow.tuple.src.words;
        } else {
            let ip = &mut *packet.cast::<Ipv4>();
            ip.version_len = 0x45;
            ip.tos = 0;
            ip.total = ((F::HEADER as u32 + payload) as u16).to_be();
            ip.id = 0;
            // Do not fragment.
            ip.fragment = 0x4000u16.to_be();
            ip.ttl = HOPS;
            ip.proto = number;
            ip.checksum = 0;
            ip.src = flow.tuple.dst.v4_word();
            ip.dst = flow.tuple.src.v4_word();
            ip.checksum = !sum(desk, 0, F::HEADER as u32, 0);
        }
    }
}

/// Where the addresses stand in the header, which the pseudo header begins with.
const fn addresses<F: Family>() -> usize {
    if F::IS_V6 { 8 } else { 12 }
}

/// A reset as RFC 9293 §3.10.7.1 wants it, for a connection that does not exist; its length.
#[inline(always)]
fn reset<F: Family>(skb: Skb, flow: &Flow, desk: &mut Desk) -> Option<u32> {
    const SIZE: u32 = size_of::<Tcp>() as u32;
    let l4 = (L2::HEADER + F::HEADER) as u32;
    let total = length::<F, _>(skb)?;
    let is_partial = is_left_to_device(skb, l4 + 16)?;
    let tcp = at::<Tcp, Skb>(skb, l4 as usize)?;
    // SAFETY: `at` proved the header lies inside the packet.
    let (seq, ack, flags, offset) = unsafe { ((*tcp).seq, (*tcp).ack, (*tcp).flags, (*tcp).offset) };
    let before = F::HEADER as u32 + (offset >> 4) as u32 * 4;
    let data = total.saturating_sub(before);
    let length = data + (flags & SYN != 0) as u32 + (flags & FIN != 0) as u32;
    head::<F>(desk, flow, proto::TCP, SIZE);
    // SAFETY: the header fits behind the IP header, at a multiple of four.
    unsafe {
        let tcp = &mut *desk.packet.as_mut_ptr().add(F::HEADER / 4).cast::<Tcp>();
        tcp.src = flow.tuple.dst_port.0;
        tcp.dst = flow.tuple.src_port.0;
        (tcp.seq, tcp.ack, tcp.flags) = if flags & ACK != 0 {
            (ack, 0, RST)
        } else {
            (0, u32::from_be(seq).wrapping_add(length).to_be(), RST | ACK)
        };
        tcp.offset = (SIZE as u8 / 4) << 4;
        tcp.window = 0;
        tcp.checksum = 0;
        tcp.urgent = 0;
        let start = addresses::<F>();
        let pseudo = (SIZE + proto::TCP as u32).to_be();
        tcp.checksum = if is_partial {
            sum(desk, start, (F::HEADER - start) as u32, pseudo)
        } else {
            !sum(desk, start, (F::HEADER - start) as u32 + SIZE, pseudo)
        };
    }
    Some(F::HEADER as u32 + SIZE)
}

/// "Port unreachable" (RFC 792, RFC 4443 §3.1), or with an MTU "fragmentation needed" (RFC 1191 §4) and "packet too
/// big" (RFC 4443 §3.2), quoting the packet; its length. Where a device is to sum up the client's UDP datagram it
/// will write into the last word of the header what makes a right sum right again: zero, in ones' complement. The
/// MTU is lost to it then, and the client takes the least there is.
#[inline(always)]
fn unreachable<F: Family>(skb: Skb, flow: &Flow, desk: &mut Desk, mtu: u32) -> Option<u32> {
    const HEAD: u32 = size_of::<Icmp>() as u32;
    let total = length::<F, _>(skb)?;
    let quoted = nonzero(if total > QUOTE { QUOTE } else { total & !3 })?;
    let at = F::HEADER + HEAD as usize;
    // SAFETY: a valid context; the bytes fit behind both headers.
    let loaded = unsafe {
        let to = desk.packet.as_mut_ptr().cast::<u8>().add(at);
        bpf_skb_load_bytes(skb.0.cast(), L2::HEADER as u32, to.cast(), quoted)
    };
    if loaded != 0 {
        return None;
    }
    head::<F>(desk, flow, F::ICMP, HEAD + quoted);
    // SAFETY: the header fits behind the IP header, at a multiple of four.
    unsafe {
        let icmp = &mut *desk.packet.as_mut_ptr().add(F::HEADER / 4).cast::<Icmp>();
        (icmp.kind, icmp.code) = match (F::IS_V6, mtu) {
            (true, 0) => (1, 4),
            (true, _) => (2, 0),
            (false, 0) => (3, 3),
            (false, _) => (3, 4),
        };
        icmp.checksum = 0;
        icmp.rest = mtu.to_be();
        icmp.checksum = if F::IS_V6 {
            let start = addresses::<F>();
            let pseudo = (HEAD + quoted + F::ICMP as u32).to_be();
            !sum(desk, start, (F::HEADER - start) as u32 + HEAD + quoted, pseudo)
        } else {
            !sum(desk, F::HEADER, HEAD + quoted, 0)
        };
    }
    Some(F::HEADER as u32 + HEAD + quoted)
}

/// Makes the packet its own answer, if there is to be one, and sends it back.
#[inline(always)]
fn refuse<F: Family>(skb: Skb, flow: &Flow, mtu: u32) -> Option<i32> {
    let ethernet = at::<Ethernet, Skb>(skb, 0)?;
    // SAFETY: `at` proved the header lies inside the packet.
    let (dst, src) = unsafe { ((*ethernet).dst, (*ethernet).src) };
    // To a group of hosts.
    let is_group = dst[0].to_ne_bytes()[0] & 1 != 0;
    // SAFETY: this CPU's row, used by one program at a time.
    let desk = unsafe { &mut *DESK.get_ptr_mut(0)? };
    if is_group || !may_tell::<F>(flow) || !may_answer(desk) {
        return None;
    }
    let length = if mtu == 0 && flow.tuple.proto == proto::TCP {
        reset::<F>(skb, flow, desk)?
    } else {
        unreachable::<F>(skb, flow, desk, mtu)?
    };
    let length = nonzero(length)?;
    // A change of length ends a device's sum over the whole frame, so there has to be one.
    // SAFETY: a valid context; the helpers check lengths, and what is stored lies within the desk's packet.
    let failed = unsafe {
        let frame = L2::HEADER as u32 + length;
        bpf_skb_change_tail(skb.0, frame + 4, 0) != 0
            || bpf_skb_change_tail(skb.0, frame, 0) != 0
            || bpf_skb_store_bytes(
                skb.0,
                L2::HEADER as u32,
                desk.packet.as_ptr().cast(),
                length,
                BPF_F_RECOMPUTE_CSUM as u64,
            ) != 0
    };
    let ethernet = at::<Ethernet, Skb>(skb, 0)?;
    if failed {
        return None;
    }
    // SAFETY: as above.
    unsafe {
        (*ethernet).dst = src;
        (*ethernet).src = dst;
    }
    skb.set_mark(mark::SNAT_DONE);
    // SAFETY: a helper with scalar arguments.
    Some(unsafe { bpf_redirect(flow.ifindex, 0) } as i32)
}
