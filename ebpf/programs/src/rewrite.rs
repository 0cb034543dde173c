//! Changing addresses, ports and TTL, with every checksum over them kept right, whatever state of
//! checksum offload the packet is in (the helpers know; arithmetic here would not).

use crate::{
    cause,
    flow::{Flow, Step, kind},
    packet::{Packet, Skb, Xdp, at, bounded},
    parse::{Family, Ipv4, Ipv6, L2, Link, V4, V6},
};
use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM, xdp_md},
    helpers::generated::{bpf_csum_diff, bpf_l4_csum_replace, bpf_skb_store_bytes, bpf_xdp_store_bytes},
};
use cilium_abi::{Address, Be16, proto};
use core::ptr::from_ref;

/// `BPF_F_IPV6` (include/uapi/linux/bpf.h): the address change of IPv6 has no header checksum to
/// cancel it. Kernels without it get the call without.
const CSUM_IPV6: u64 = 1 << 7;

/// Which end of the packet is rewritten.
pub trait End {
    /// Whether it is the sender.
    const IS_SOURCE: bool;
    /// Offset of the address in the IPv4 header.
    const IPV4: usize;
    /// Offset of the address in the IPv6 header.
    const IPV6: usize;
    /// Offset of the port.
    const PORT: usize;
    /// The end's address and port in the flow.
    fn of(flow: &mut Flow) -> (&mut Address, &mut Be16);
    /// The end's address and port in the packet inside an ICMP error.
    fn embedded(flow: &mut Flow) -> (&mut Address, &mut Be16);
}

/// The sender.
pub struct Source;
/// The receiver.
pub struct Destination;

impl End for Source {
    const IS_SOURCE: bool = true;
    const IPV4: usize = 12;
    const IPV6: usize = 8;
    const PORT: usize = 0;
    #[inline(always)]
    fn of(flow: &mut Flow) -> (&mut Address, &mut Be16) {
        (&mut flow.tuple.src, &mut flow.tuple.src_port)
    }
    #[inline(always)]
    fn embedded(flow: &mut Flow) -> (&mut Address, &mut Be16) {
        (&mut flow.inner.src, &mut flow.inner.src_port)
    }
}

impl End for Destination {
    const IS_SOURCE: bool = false;
    const IPV4: usize = 16;
    const IPV6: usize = 24;
    const PORT: usize = 2;
    #[inline(always)]
    fn of(flow: &mut Flow) -> (&mut Address, &mut Be16) {
        (&mut flow.tuple.dst, &mut flow.tuple.dst_port)
    }
    #[inline(always)]
    fn embedded(flow: &mut Flow) -> (&mut Address, &mut Be16) {
        (&mut flow.inner.dst, &mut flow.inner.dst_port)
    }
}

/// Adds a 16-bit change to a checksum (RFC 1624 equation 3); all in network order.
#[inline(always)]
pub const fn fold(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = (!checksum as u32 & 0xffff) + (!old as u32 & 0xffff) + new as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// A packet whose headers can be changed, with its checksums.
pub trait Writable: Packet {
    /// Corrects the checksum at an offset. `flags` as of `bpf_l4_csum_replace`: in the lowest bits the size
    /// of `from` and `to`, which are in memory order; 0: `to` is a difference of `bpf_csum_diff`. 0: done.
    fn correct(self, at: u32, from: u64, to: u64, flags: u64) -> u32;
    /// Writes bytes at an offset; 0: done.
    fn store<T: Copy>(self, at: u32, bytes: &T) -> u32;
    /// Writes bytes at an offset and corrects a checksum of the whole frame, if there is one; 0: done.
    fn store_summed<T: Copy>(self, at: u32, bytes: &T) -> u32;
    /// Gives one end a new address and port; 0: done.
    fn give<F: Family, E: End>(self, flow: &mut Flow, addr: &Address, port: Be16) -> u32;
    /// The same within an ICMP error.
    fn give_embedded<F: Family, E: End>(self, flow: &mut Flow, addr: &Address, port: Be16) -> u32;
}

/// Gives one end a new address and port.
#[inline(always)]
pub fn end<F: Family, E: End, P: Writable>(
    packet: P,
    flow: &mut Flow,
    addr: &Address,
    port: Be16,
) -> Step<()> {
    if packet.give::<F, E>(flow, addr, port) == 0 { Ok(()) } else { Err(cause!(WRITE_ERROR)) }
}

/// Gives one end of the packet inside an ICMP error a new address and port.
#[inline(always)]
pub fn embedded<F: Family, E: End, P: Writable>(
    packet: P,
    flow: &mut Flow,
    addr: &Address,
    port: Be16,
) -> Step<()> {
    if packet.give_embedded::<F, E>(flow, addr, port) == 0 { Ok(()) } else { Err(cause!(WRITE_ERROR)) }
}

macro_rules! rewriters {
    ($packet:ident ($context:ident), $($name:ident, $embedded:ident => $family:ident, $end:ident;)*) => {
        $(
            /// A subprogram of its own, which the verifier checks once.
            ///
            /// # Safety
            /// The context must be valid, `flow` null or this CPU's flow, `addr` null or an address.
            #[unsafe(no_mangle)]
            #[inline(never)]
            unsafe extern "C" fn $name(context: *mut $context, flow: *mut Flow, addr: *const Address, port: u32) -> u32 {
                // SAFETY: as the caller promises.
                match unsafe { (flow.as_mut(), addr.as_ref()) } {
                    (Some(flow), Some(addr)) => rewrite::<$family, $end, _>($packet(context), flow, addr, port as u16),
                    _ => 1,
                }
            }

            /// A subprogram of its own, which the verifier checks once.
            ///
            /// # Safety
            /// The context must be valid, `flow` null or this CPU's flow, `addr` null or an address.
            #[unsafe(no_mangle)]
            #[inline(never)]
            unsafe extern "C" fn $embedded(context: *mut $context, flow: *mut Flow, addr: *const Address, port: u32) -> u32 {
                // SAFETY: as the caller promises.
                match unsafe { (flow.as_mut(), addr.as_ref()) } {
                    (Some(flow), Some(addr)) => rewrite_embedded::<$family, $end, _>($packet(context), flow, addr, port as u16),
                    _ => 1,
                }
            }
        )*
    };
}

rewriters! {
    Skb(__sk_buff),
    rewrite_source_v4, rewrite_embedded_source_v4 => V4, Source;
    rewrite_source_v6, rewrite_embedded_source_v6 => V6, Source;
    rewrite_destination_v4, rewrite_embedded_destination_v4 => V4, Destination;
    rewrite_destination_v6, rewrite_embedded_destination_v6 => V6, Destination;
}

rewriters! {
    Xdp(xdp_md),
    frame_source_v4, frame_embedded_source_v4 => V4, Source;
    frame_source_v6, frame_embedded_source_v6 => V6, Source;
    frame_destination_v4, frame_embedded_destination_v4 => V4, Destination;
    frame_destination_v6, frame_embedded_destination_v6 => V6, Destination;
}

/// Calls one of four by family and end: source v4, source v6, destination v4, destination v6.
macro_rules! call {
    ($self:ident, $flow:ident, $addr:ident, $port:ident: $a:ident, $b:ident, $c:ident, $d:ident) => {
        // SAFETY: a valid context, this CPU's flow, and an address on the stack or in a map row.
        unsafe {
            match (E::IS_SOURCE, F::IS_V6) {
                (true, false) => $a($self.0, $flow, $addr, $port.0 as u32),
                (true, true) => $b($self.0, $flow, $addr, $port.0 as u32),
                (false, false) => $c($self.0, $flow, $addr, $port.0 as u32),
                (false, true) => $d($self.0, $flow, $addr, $port.0 as u32),
            }
        }
    };
}

impl Writable for Skb {
    #[inline(always)]
    fn store_summed<T: Copy>(self, at: u32, bytes: &T) -> u32 {
        let (from, len) = (from_ref(bytes).cast(), size_of::<T>() as u32);
        // SAFETY: a valid context; the helper checks the offset, and reads exactly the bytes of `T`.
        unsafe { bpf_skb_store_bytes(self.0, at, from, len, BPF_F_RECOMPUTE_CSUM as u64) as u32 }
    }

    #[inline(always)]
    fn correct(self, at: u32, from: u64, to: u64, flags: u64) -> u32 {
        // SAFETY: a valid context; the helper checks the offset.
        unsafe { bpf_l4_csum_replace(self.0, at, from, to, flags) as u32 }
    }

    #[inline(always)]
    fn store<T: Copy>(self, at: u32, bytes: &T) -> u32 {
        // SAFETY: a valid context; the helper checks the offset, and reads exactly the bytes of `T`.
        unsafe { bpf_skb_store_bytes(self.0, at, from_ref(bytes).cast(), size_of::<T>() as u32, 0) as u32 }
    }

    #[inline(always)]
    fn give<F: Family, E: End>(self, flow: &mut Flow, addr: &Address, port: Be16) -> u32 {
        call!(self, flow, addr, port: rewrite_source_v4, rewrite_source_v6, rewrite_destination_v4, rewrite_destination_v6)
    }

    #[inline(always)]
    fn give_embedded<F: Family, E: End>(self, flow: &mut Flow, addr: &Address, port: Be16) -> u32 {
        call!(self, flow, addr, port: rewrite_embedded_source_v4, rewrite_embedded_source_v6, rewrite_embedded_destination_v4, rewrite_embedded_destination_v6)
    }
}

/// A frame has no note of how far its checksum got: it is taken for whole, as the wire has it.
impl Writable for Xdp {
    #[inline(always)]
    fn store_summed<T: Copy>(self, at: u32, bytes: &T) -> u32 {
        self.store(at, bytes)
    }

    #[inline(always)]
    fn correct(self, at: u32, from: u64, to: u64, flags: u64) -> u32 {
        let Some(field) = self::at::<u16, Self>(self, bounded(at)) else { return 1 };
        // SAFETY: `at` proved the field lies inside the frame.
        let sum = unsafe { *field };
        let may_be_absent = flags & BPF_F_MARK_MANGLED_0 as u64 != 0;
        if may_be_absent && sum == 0 {
            return 0;
        }
        let mut sum = match flags & 0xf {
            0 => fold_difference(sum, to as u32),
            2 => fold(sum, from as u16, to as u16),
            _ => fold(fold(sum, from as u16, to as u16), (from >> 16) as u16, (to >> 16) as u16),
        };
        if may_be_absent && sum == 0 {
            sum = 0xffff;
        }
        // SAFETY: as above.
        unsafe { *field = sum };
        0
    }

    #[inline(always)]
    fn store<T: Copy>(self, at: u32, bytes: &T) -> u32 {
        // SAFETY: a valid context; the helper checks the offset, and reads exactly the bytes of `T`.
        unsafe {
            bpf_xdp_store_bytes(self.0, at, from_ref(bytes).cast_mut().cast(), size_of::<T>() as u32) as u32
        }
    }

    #[inline(always)]
    fn give<F: Family, E: End>(self, flow: &mut Flow, addr: &Address, port: Be16) -> u32 {
        call!(self, flow, addr, port: frame_source_v4, frame_source_v6, frame_destination_v4, frame_destination_v6)
    }

    #[inline(always)]
    fn give_embedded<F: Family, E: End>(self, flow: &mut Flow, addr: &Address, port: Be16) -> u32 {
        call!(self, flow, addr, port: frame_embedded_source_v4, frame_embedded_source_v6, frame_embedded_destination_v4, frame_embedded_destination_v6)
    }
}

#[inline(always)]
fn rewrite<F: Family, E: End, P: Writable>(packet: P, flow: &mut Flow, addr: &Address, port: u16) -> u32 {
    let l4 = bounded(flow.l4) as u32;
    let is_icmp = flow.kind != kind::PORTS;
    // The datagram's first fragment has the checksum and the ports of all.
    let is_headless = l4 == 0;
    let proto = if is_headless { 0 } else { flow.tuple.proto };
    // Where the layer 4 checksum stands, whether it covers the addresses, and what it may not become.
    let (sum_at, pseudo, mangled) = match proto {
        proto::TCP => (16, true, 0),
        proto::UDP => (6, true, BPF_F_MARK_MANGLED_0 as u64),
        proto::ICMPV6 => (2, true, 0),
        proto::ICMP => (2, false, 0),
        _ => (0, false, 0),
    };
    let (old_addr, old_port) = E::of(flow);
    let (old, old_port_value) = (*old_addr, old_port.0);
    // Word by word: a copy of the whole becomes a call.
    let [a, b, c, d] = addr.words;
    old_addr.words = [a, b, c, d];
    *old_port = Be16(port);
    let mut failed = 0;
    // Where no checksum in the packet makes up for a change, one of the whole frame has to follow it.
    let is_bare = match proto {
        proto::UDP => {
            let Some(sum) = at::<u16, P>(packet, bounded(l4) + 6) else { return 1 };
            // SAFETY: `at` proved the field lies inside the packet.
            unsafe { *sum == 0 }
        }
        _ => sum_at == 0,
    };
    if F::IS_V6 {
        if is_bare {
            failed |= packet.store_summed((L2::HEADER + E::IPV6) as u32, &addr.words);
        } else {
            let Some(to) = at::<[u32; 4], P>(packet, L2::HEADER + E::IPV6) else { return 1 };
            // SAFETY: `at` proved the field lies inside the packet.
            unsafe { *to = [a, b, c, d] };
        }
        if pseudo && !is_bare {
            let (from, to) = (old.words, addr.words);
            // SAFETY: both arrays are 16 bytes on the stack.
            let diff = unsafe {
                bpf_csum_diff(
                    (&raw const from).cast_mut().cast(),
                    16,
                    (&raw const to).cast_mut().cast(),
                    16,
                    0,
                )
            };
            let flags = BPF_F_PSEUDO_HDR as u64 | mangled;
            if packet.correct(l4 + sum_at, 0, diff as u64, flags | CSUM_IPV6) != 0 {
                failed |= packet.correct(l4 + sum_at, 0, diff as u64, flags);
            }
        }
    } else {
        let Some(ip) = at::<Ipv4, P>(packet, L2::HEADER) else { return 1 };
        let (from, to) = (old.v4_word(), addr.v4_word());
        // SAFETY: `at` proved the header lies inside the packet; both address offsets are inside it.
        unsafe {
            let mut sum = (*ip).checksum;
            sum = fold(sum, from as u16, to as u16);
            sum = fold(sum, (from >> 16) as u16, (to >> 16) as u16);
            (*ip).checksum = sum;
            *ip.cast::<u8>().add(E::IPV4).cast::<u32>() = to;
        }
        if pseudo {
            let flags = BPF_F_PSEUDO_HDR as u64 | mangled | 4;
            failed |= packet.correct(l4 + sum_at, from as u64, to as u64, flags);
        }
    }
    if port != old_port_value && !is_headless {
        if proto == proto::SCTP {
            // Its CRC covers the ports and is not incremental.
            return 1;
        }
        // An echo's identifier stands where its end would have a port.
        let port_at = if is_icmp { 4 } else { E::PORT as u32 };
        if is_bare {
            failed |= packet.store_summed(l4 + port_at, &port);
            return (failed != 0) as u32;
        }
        failed |= packet.correct(l4 + sum_at, old_port_value as u64, port as u64, mangled | 2);
        // Nearly always directly writable, which saves the call.
        match at::<u16, P>(packet, bounded(l4) + port_at as usize) {
            // SAFETY: `at` proved the field lies inside the packet.
            Some(field) => unsafe { *field = port },
            None => failed |= packet.store(l4 + port_at, &port),
        }
    }
    (failed != 0) as u32
}

/// The embedded header's own checksum is kept, so only what it does not cover changes the message's.
/// The embedded layer 4 checksum is left: it is often cut off, and nobody may rely on it.
#[inline(always)]
fn rewrite_embedded<F: Family, E: End, P: Writable>(
    packet: P,
    flow: &mut Flow,
    addr: &Address,
    port: u16,
) -> u32 {
    let sum_at = bounded(flow.l4) as u32 + 2;
    let inner = bounded(flow.l4) as u32 + 8;
    let inner_l4 = bounded(flow.inner_l4) as u32;
    let is_echo = flow.inner.proto == F::ICMP;
    let mut failed = 0;
    let (old_addr, old_port) = E::embedded(flow);
    let (old, old_port_value) = (*old_addr, old_port.0);
    // Word by word: a copy of the whole becomes a call.
    let [a, b, c, d] = addr.words;
    old_addr.words = [a, b, c, d];
    *old_port = Be16(port);
    if F::IS_V6 {
        let (from, to) = (old.words, addr.words);
        // SAFETY: both arrays are 16 bytes on the stack.
        let diff = unsafe {
            bpf_csum_diff((&raw const from).cast_mut().cast(), 16, (&raw const to).cast_mut().cast(), 16, 0)
        };
        failed |= packet.store(inner + E::IPV6 as u32, &to);
        failed |= packet.correct(sum_at, 0, diff as u64, 0);
    } else {
        let (from, to) = (old.v4_word(), addr.v4_word());
        let mut sum = 0u16;
        if !packet.load(inner + 10, &mut sum) {
            return 1;
        }
        sum = fold(sum, from as u16, to as u16);
        sum = fold(sum, (from >> 16) as u16, (to >> 16) as u16);
        failed |= packet.store(inner + 10, &sum);
        failed |= packet.store(inner + E::IPV4 as u32, &to);
    }
    if port != old_port_value {
        let port_at = inner_l4 + if is_echo { 4 } else { E::PORT as u32 };
        failed |= packet.store(port_at, &port);
        failed |= packet.correct(sum_at, old_port_value as u64, port as u64, 2);
    }
    (failed != 0) as u32
}

/// Adds a difference of `bpf_csum_diff` to a checksum.
#[inline(always)]
const fn fold_difference(checksum: u16, difference: u32) -> u16 {
    let sum = (!checksum as u32 & 0xffff) + (difference & 0xffff) + (difference >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// Whether packets of a hook may carry a checksum of the whole frame, computed by a device.
pub trait Origin {
    /// They may.
    const SUMMED: bool;
}

/// From a pod: its own stack made it.
pub struct FromPod;
/// From a device or the overlay.
pub struct FromWire;

impl Origin for FromPod {
    const SUMMED: bool = false;
}
impl Origin for FromWire {
    const SUMMED: bool = true;
}

/// One hop less to live.
#[inline(always)]
pub fn hop<F: Family, O: Origin, P: Writable>(packet: P, flow: &Flow) -> Step<()> {
    if flow.ttl <= 1 {
        return Err(cause!(TTL_EXCEEDED));
    }
    if F::IS_V6 {
        let hops = flow.ttl - 1;
        if O::SUMMED {
            // IPv6 has no header checksum, so a sum over the frame changes.
            let stored = packet.store_summed(L2::HEADER as u32 + 7, &hops);
            return if stored == 0 { Ok(()) } else { Err(cause!(WRITE_ERROR)) };
        }
        let ip = at::<Ipv6, P>(packet, L2::HEADER).ok_or(cause!(INVALID_PACKET))?;
        // SAFETY: `at` proved the header lies inside the packet.
        unsafe { (*ip).hops = hops };
        return Ok(());
    }
    let ip = at::<Ipv4, P>(packet, L2::HEADER).ok_or(cause!(INVALID_PACKET))?;
    // SAFETY: as above.
    unsafe {
        // TTL is the high byte of its word: one less is 0x0100 less, in network order.
        let sum = u16::from_be((*ip).checksum) as u32 + 0x100;
        (*ip).checksum = ((sum + (sum >= 0xffff) as u32) as u16).to_be();
        (*ip).ttl = flow.ttl - 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::fold;

    /// RFC 1071, the whole of it.
    fn checksum(words: &[u16]) -> u16 {
        let mut sum: u32 = words.iter().map(|word| *word as u32).sum();
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn a_folded_change_equals_a_new_checksum() {
        let mut state = 1u32;
        for _ in 0..10_000 {
            let mut words = [0u16; 10];
            for word in &mut words {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *word = (state >> 16) as u16;
            }
            let before = checksum(&words);
            let (old, new) = (words[3], state as u16);
            words[3] = new;
            let folded = fold(before, old, new);
            // 0 and 0xffff are the same number in ones' complement; a receiver adds everything up.
            let sum: u32 = words.iter().map(|word| *word as u32).sum::<u32>() + folded as u32;
            let sum = (sum & 0xffff) + (sum >> 16);
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "{words:x?} {before:x} {folded:x}");
        }
    }
}
