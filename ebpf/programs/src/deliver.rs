//! Where a packet goes from here: into a local pod, to the overlay, along the kernel's routes, or
//! up to the host's stack.

use crate::{
    cause, event,
    flow::{Cause, Flow, Step},
    geneve, maps,
    packet::{Skb, at},
    parse::{Ethernet, Family, V4, V6},
    rewrite::{FromPod, FromWire, Origin, hop},
};
use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, BPF_FIB_LKUP_RET_BLACKHOLE,
        BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS,
        BPF_FIB_LKUP_RET_UNREACHABLE, TC_ACT_UNSPEC, bpf_fib_lookup as FibParams, bpf_redir_neigh,
        bpf_tunnel_key,
    },
    helpers::generated::{
        bpf_fib_lookup, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_set_tunnel_key,
    },
};
use cilium_abi::{Address, Mac, endpoint::EndpointRow, event::point, node::mark};
use core::mem::{MaybeUninit, offset_of};

/// Lets other programs and then the stack have the packet. As a clsact verdict it means the same.
pub const PASS: i32 = TC_ACT_UNSPEC;

/// The mark that tells our next program on this node whose packet this is; 0 for an identity of a scope that
/// there is no room for, which is looked up again by address.
#[inline(always)]
pub const fn identity_mark(identity: u32) -> u32 {
    if identity >> 26 != 0 {
        return 0;
    }
    mark::IDENTITY | (identity >> 16 & 0xff) | identity << 16 | identity >> 12 & mark::SCOPE
}

/// The identity a mark carries, if it carries one.
#[inline(always)]
pub const fn marked_identity(mark_value: u32) -> Option<u32> {
    match mark_value & mark::MASK {
        mark::IDENTITY => {
            Some((mark_value & 0xff) << 16 | mark_value >> 16 | (mark_value & mark::SCOPE) << 12)
        }
        mark::HOST => Some(cilium_abi::identity::HOST),
        _ => None,
    }
}

const _: () = assert!(offset_of!(EndpointRow, mac) % 2 == 0 && offset_of!(EndpointRow, node_mac) % 2 == 0);

/// Copies a hardware address by halves of words; as a whole it would become a call.
///
/// # Safety
/// Both must be valid and two-byte aligned.
#[inline(always)]
unsafe fn copy(to: *mut [u16; 3], from: *const [u16; 3]) {
    // SAFETY: as the caller promises.
    unsafe {
        let [a, b, c] = *from;
        (*to)[0] = a;
        (*to)[1] = b;
        (*to)[2] = c;
    }
}

/// Writes a frame's hardware addresses. Both must stand at even offsets of their rows.
#[inline(always)]
pub fn address_frame(skb: Skb, dst: &Mac, src: &Mac) -> Step<()> {
    let ethernet = at::<Ethernet, Skb>(skb, 0).ok_or(cause!(INVALID_PACKET))?;
    // SAFETY: `at` proved the header lies inside the packet; the rows' fields are two-byte aligned.
    unsafe {
        copy(&raw mut (*ethernet).dst, (&raw const dst.0).cast());
        copy(&raw mut (*ethernet).src, (&raw const src.0).cast());
    }
    Ok(())
}

/// Into a pod of this node, past the host's stack. From ingress hooks only.
#[inline(always)]
pub fn local<F: Family, O: Origin>(skb: Skb, flow: &mut Flow, endpoint: &EndpointRow) -> Step<i32> {
    hop::<F, O, _>(skb, flow)?;
    address_frame(skb, &endpoint.mac, &endpoint.node_mac)?;
    event::trace(skb, flow, point::TO_ENDPOINT);
    // SAFETY: a helper with scalar arguments.
    Ok(unsafe { bpf_redirect_peer(endpoint.ifindex, 0) } as i32)
}

/// Up to the host's stack, marked with the sender's identity.
#[inline(always)]
pub fn stack(skb: Skb, flow: &mut Flow, identity: u32, point: u8) -> i32 {
    skb.set_mark(identity_mark(identity));
    event::trace(skb, flow, point);
    PASS
}

/// Bytes that the overlay puts before an IP packet on its way to a node: the frame, the tunnel's header, UDP and IP.
#[inline(always)]
pub fn overhead(tunnel: &Address) -> u32 {
    14 + 8 + 8 + if tunnel.is_v4() { V4::HEADER } else { V6::HEADER } as u32
}

/// To another node, encapsulated.
#[inline(always)]
pub fn overlay(skb: Skb, flow: &mut Flow, tunnel: &Address, identity: u32) -> Step<i32> {
    let device = encapsulate(skb, tunnel, identity)?;
    event::trace(skb, flow, point::TO_OVERLAY);
    // SAFETY: a helper with scalar arguments.
    Ok(unsafe { bpf_redirect(device, 0) } as i32)
}

/// To another node, encapsulated in Geneve that tells of [`Flow::frontend_addr`].
#[inline(always)]
pub fn overlay_telling(skb: Skb, flow: &mut Flow, tunnel: &Address, identity: u32) -> Step<i32> {
    let device = encapsulate(skb, tunnel, identity)?;
    geneve::tell(skb, flow)?;
    event::trace(skb, flow, point::TO_OVERLAY);
    // SAFETY: a helper with scalar arguments.
    Ok(unsafe { bpf_redirect(device, 0) } as i32)
}

/// Sets a packet's tunnel; the device it has to be sent to.
#[inline(always)]
fn encapsulate(skb: Skb, tunnel: &Address, identity: u32) -> Step<u32> {
    let device = maps::runtime().map_or(0, |row| row.overlay_ifindex);
    if device == 0 {
        return Err(cause!(NO_DEVICE));
    }
    // SAFETY: a valid context; the tunnel is in a map row.
    if unsafe { deliver_encapsulate(skb.0, tunnel, identity) } != 0 {
        return Err(cause!(NO_TUNNEL_ENDPOINT));
    }
    Ok(device)
}

/// A subprogram of its own, which the verifier checks once.
///
/// # Safety
/// `skb` must be a valid context, `tunnel` null or an address.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn deliver_encapsulate(skb: *mut __sk_buff, tunnel: *const Address, identity: u32) -> i32 {
    // SAFETY: as the caller promises.
    let Some(tunnel) = (unsafe { tunnel.as_ref() }) else { return 1 };
    // SAFETY: all zeroes is a valid value of this plain struct.
    let mut key: bpf_tunnel_key = unsafe { MaybeUninit::zeroed().assume_init() };
    key.tunnel_id = identity;
    key.tunnel_ttl = 64;
    let flags = if tunnel.is_v4() {
        key.__bindgen_anon_1.remote_ipv4 = u32::from_be(tunnel.v4_word());
        BPF_F_ZERO_CSUM_TX
    } else {
        key.__bindgen_anon_1.remote_ipv6 = tunnel.words;
        BPF_F_TUNINFO_IPV6
    };
    // SAFETY: a valid context and an initialised key.
    unsafe {
        bpf_skb_set_tunnel_key(skb, &raw mut key, size_of::<bpf_tunnel_key>() as u32, flags as u64) as i32
    }
}

/// Along the kernel's routes.
#[inline(always)]
pub fn route<F: Family>(skb: Skb, flow: &mut Flow, identity: u32) -> Step<i32> {
    match by_route::<F>(skb, flow)? {
        Some(verdict) => Ok(verdict),
        None => Ok(stack(skb, flow, identity, point::TO_STACK)),
    }
}

/// The verdict that sends a packet along the kernel's routes; `None`: the stack has to.
#[inline(always)]
fn by_route<F: Family>(skb: Skb, flow: &mut Flow) -> Step<Option<i32>> {
    // SAFETY: a valid context and this CPU's flow.
    let sent = unsafe { if F::IS_V6 { deliver_send_v6(skb.0, flow) } else { deliver_send_v4(skb.0, flow) } };
    if sent == PASS as i64 {
        return Ok(None);
    }
    if sent < 0 {
        return Err(Cause::from_raw(-sent as u32));
    }
    // Told here and not below: the deeper the calls, the smaller their share of the stack.
    event::trace(skb, flow, point::TO_NETWORK);
    Ok(Some(sent as i32))
}

/// Along the kernel's routes, for a packet that came in by a device.
#[inline(always)]
pub fn pass_on<F: Family>(skb: Skb, flow: &mut Flow) -> Step<i32> {
    flow.is_from_wire = 1;
    if let Some(verdict) = by_route::<F>(skb, flow)? {
        return Ok(verdict);
    }
    event::trace(skb, flow, point::TO_STACK);
    Ok(PASS)
}

macro_rules! senders {
    ($($name:ident, $device:ident => $family:ident;)*) => {
        $(
            /// A subprogram of its own, which the verifier checks once.
            ///
            /// # Safety
            /// `skb` must be a valid context, `flow` null or this CPU's flow.
            #[unsafe(no_mangle)]
            #[inline(never)]
            unsafe extern "C" fn $device(skb: *mut __sk_buff, flow: *const Flow) -> u32 {
                // SAFETY: as the caller promises.
                let Some(flow) = (unsafe { flow.as_ref() }) else { return 0 };
                // SAFETY: all zeroes is a valid value of this plain struct.
                let mut fib: FibParams = unsafe { MaybeUninit::zeroed().assume_init() };
                look_up::<$family>(Skb(skb), flow, &mut fib);
                fib.ifindex
            }

            /// A subprogram of its own, which the verifier checks once.
            ///
            /// # Safety
            /// `skb` must be a valid context, `flow` null or this CPU's flow.
            #[unsafe(no_mangle)]
            #[inline(never)]
            unsafe extern "C" fn $name(skb: *mut __sk_buff, flow: *const Flow) -> i64 {
                // SAFETY: as the caller promises.
                let Some(flow) = (unsafe { flow.as_ref() }) else { return refuse(cause!(FIB_LOOKUP_FAILED)) };
                send::<$family>(Skb(skb), flow)
            }
        )*
    };
}

senders! {
    deliver_send_v4, deliver_device_v4 => V4;
    deliver_send_v6, deliver_device_v6 => V6;
}

/// The device that the kernel's route to a packet's destination leaves by, whoever sends it: its source is about to
/// change, and for some, like those of one link (IPv6), there is no route. Where there is none, the one the packet came
/// in by.
#[inline(always)]
pub fn device<F: Family>(skb: Skb, flow: &Flow) -> u32 {
    // SAFETY: a valid context and this CPU's flow.
    unsafe { if F::IS_V6 { deliver_device_v6(skb.0, flow) } else { deliver_device_v4(skb.0, flow) } }
}

/// Asks the kernel for its route: its answer, `BPF_FIB_LKUP_RET_`. `fib`, which is all zeroes but for the
/// sender, if that matters, has the rest.
#[inline(always)]
fn look_up<F: Family>(skb: Skb, flow: &Flow, fib: &mut FibParams) -> u32 {
    fib.family = F::AF;
    fib.ifindex = flow.ifindex;
    if F::IS_V6 {
        fib.__bindgen_anon_4.ipv6_dst = flow.tuple.dst.words;
    } else {
        fib.__bindgen_anon_4.ipv4_dst = flow.tuple.dst.v4_word();
    }
    // SAFETY: a valid context and an initialised struct of the given size.
    unsafe { bpf_fib_lookup(skb.0.cast(), &raw mut *fib, size_of::<FibParams>() as i32, 0) as u32 }
}

/// A verdict, or the negative of a cause (which is never 1, the negative of [`PASS`]).
#[inline(always)]
fn send<F: Family>(skb: Skb, flow: &Flow) -> i64 {
    // The IPv4 lookup has no opinion on groups and broadcast, and would give the default route.
    if !F::IS_V6 && flow.tuple.dst.v4_word().to_ne_bytes()[0] >= 224 {
        return PASS as i64;
    }
    // SAFETY: all zeroes is a valid value of this plain struct.
    let mut fib: FibParams = unsafe { MaybeUninit::zeroed().assume_init() };
    if F::IS_V6 {
        fib.__bindgen_anon_3.ipv6_src = flow.tuple.src.words;
    } else {
        fib.__bindgen_anon_3.ipv4_src = flow.tuple.src.v4_word();
    }
    let found = look_up::<F>(skb, flow, &mut fib);
    match found {
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => {}
        BPF_FIB_LKUP_RET_BLACKHOLE | BPF_FIB_LKUP_RET_UNREACHABLE | BPF_FIB_LKUP_RET_PROHIBIT => {
            return refuse(cause!(FIB_LOOKUP_FAILED));
        }
        // The node's own address, forwarding off, or too big: the stack knows what to answer.
        _ => return PASS as i64,
    }
    if let Some(row) = maps::runtime()
        && row.host_ifindex == fib.ifindex
    {
        return refuse(cause!(STALE_OR_UNROUTABLE_IP));
    }
    let hopped = if flow.is_from_wire != 0 {
        hop::<F, FromWire, _>(skb, flow)
    } else {
        hop::<F, FromPod, _>(skb, flow)
    };
    if let Err(cause) = hopped {
        return refuse(cause);
    }
    leave(skb, &fib, found)
}

/// The verdict that sends a packet by the device and to the neighbour that a lookup `found`, or the negative of a
/// cause.
#[inline(always)]
pub fn leave(skb: Skb, fib: &FibParams, found: u32) -> i64 {
    if found == BPF_FIB_LKUP_RET_SUCCESS {
        let Some(ethernet) = at::<Ethernet, Skb>(skb, 0) else { return refuse(cause!(INVALID_PACKET)) };
        // SAFETY: `at` proved the header lies inside the packet; the fields are two-byte aligned.
        unsafe {
            copy(&raw mut (*ethernet).dst, (&raw const fib.dmac).cast());
            copy(&raw mut (*ethernet).src, (&raw const fib.smac).cast());
            return bpf_redirect(fib.ifindex, 0);
        }
    }
    // SAFETY: all zeroes is a valid value of this plain struct.
    let mut next: bpf_redir_neigh = unsafe { MaybeUninit::zeroed().assume_init() };
    next.nh_family = fib.family as u32;
    // SAFETY: the lookup left the next hop in the destination, whatever its family.
    unsafe {
        next.__bindgen_anon_1.ipv6_nh = fib.__bindgen_anon_4.ipv6_dst;
        bpf_redirect_neigh(fib.ifindex, &raw mut next, size_of::<bpf_redir_neigh>() as i32, 0)
    }
}

#[inline(always)]
const fn refuse(cause: Cause) -> i64 {
    -(cause.raw() as i64)
}

/// To a pod of this node through its host side: the only way from an egress hook.
#[inline(always)]
pub fn host_side(skb: Skb, endpoint: &EndpointRow) -> Step<i32> {
    address_frame(skb, &endpoint.mac, &endpoint.node_mac)?;
    // SAFETY: a helper with scalar arguments.
    Ok(unsafe { bpf_redirect(endpoint.ifindex, 0) } as i32)
}

#[cfg(test)]
mod tests {
    use super::{identity_mark, marked_identity};
    use cilium_abi::node::mark;

    #[test]
    fn a_mark_carries_its_identity() {
        for identity in [0, 1, 6, 255, 65_535, 1 << 16, 0xab_cdef, 1 << 24 | 1, 1 << 25 | 0xab_cdef] {
            assert_eq!(marked_identity(identity_mark(identity)), Some(identity), "{identity:x}");
            // As kube-proxy marks it.
            assert_eq!(marked_identity(identity_mark(identity) | 0xc000), Some(identity), "{identity:x}");
        }
        assert_eq!(marked_identity(mark::HOST), Some(1));
        assert_eq!(marked_identity(mark::SNAT_DONE), None);
        assert_eq!(marked_identity(0), None);
        // Cut to its bits this would be the host's.
        assert_eq!(marked_identity(identity_mark(1 << 26 | 1)), None);
    }
}
