//! Direct server return over Geneve: the frontend stands in an option of the tunnel's header ([`cilium_abi::geneve`]),
//! and the packet inside is as the backend gets it.

use crate::{
    cause, dsr,
    flow::{Cause, Flow, Step, kind},
    node,
    packet::Skb,
    parse::{Family, V4, V6},
};
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_skb_get_tunnel_opt, bpf_skb_set_tunnel_opt},
};
use cilium_abi::{
    geneve::{OptionV4, OptionV6, frontend, option_v4, option_v6},
    node::{NODE_DSR_GENEVE, NODE_GENEVE},
};

/// Whether this node tells frontends so.
#[inline(always)]
pub fn tells() -> bool {
    node!(flags) & NODE_DSR_GENEVE != 0
}

/// Whether other nodes may.
#[inline(always)]
pub fn hears() -> bool {
    node!(flags) & NODE_GENEVE != 0
}

/// Bytes that telling of a frontend takes.
#[inline(always)]
pub const fn size<F: Family>() -> u32 {
    if F::IS_V6 { size_of::<OptionV6>() as u32 } else { size_of::<OptionV4>() as u32 }
}

/// Puts [`Flow::frontend_addr`] into the tunnel's header; the tunnel's key must have been set.
#[inline(always)]
pub fn tell(skb: Skb, flow: &Flow) -> Step<()> {
    // SAFETY: a valid context and this CPU's flow.
    if unsafe { geneve_tell(skb.0, flow) } == 0 { Ok(()) } else { Err(cause!(WRITE_ERROR)) }
}

/// A subprogram of its own, which the verifier checks once.
///
/// # Safety
/// `skb` must be a valid context, `flow` null or this CPU's flow.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn geneve_tell(skb: *mut __sk_buff, flow: *const Flow) -> i32 {
    // SAFETY: as the caller promises.
    let Some(flow) = (unsafe { flow.as_ref() }) else { return 1 };
    // SAFETY: a valid context and options of the given size.
    unsafe {
        if flow.frontend_addr.is_v4() {
            let mut option = option_v4(&flow.frontend_addr, flow.frontend_port);
            bpf_skb_set_tunnel_opt(skb, option.as_mut_ptr().cast(), size_of::<OptionV4>() as u32) as i32
        } else {
            let mut option = option_v6(&flow.frontend_addr, flow.frontend_port);
            bpf_skb_set_tunnel_opt(skb, option.as_mut_ptr().cast(), size_of::<OptionV6>() as u32) as i32
        }
    }
}

/// Reads the frontend that the tunnel's header of a packet for this node tells of, as [`dsr::take`] does.
#[inline(always)]
pub fn take(skb: Skb, flow: &mut Flow) -> Step<()> {
    if flow.kind != kind::PORTS || !dsr::tells(flow) {
        return Ok(());
    }
    // SAFETY: a valid context and this CPU's flow.
    let raw = unsafe { geneve_take(skb.0, flow) };
    if raw == 0 { Ok(()) } else { Err(Cause::from_raw(raw)) }
}

/// A subprogram of its own, which the verifier checks once.
///
/// # Safety
/// `skb` must be a valid context, `flow` null or this CPU's flow.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn geneve_take(skb: *mut __sk_buff, flow: *mut Flow) -> u32 {
    // SAFETY: as the caller promises.
    let Some(flow) = (unsafe { flow.as_mut() }) else { return cause!(INVALID_PACKET).raw() };
    let mut options: OptionV6 = [0; 6];
    // SAFETY: a valid context and room of the given size. Longer options are refused, and are not ours.
    if unsafe { bpf_skb_get_tunnel_opt(skb, options.as_mut_ptr().cast(), size_of::<OptionV6>() as u32) } < 0 {
        return 0;
    }
    let Some((addr, port)) = frontend(&options) else { return 0 };
    // One of the other family cannot be answered for.
    if addr.is_v4() != flow.tuple.dst.is_v4() {
        return 0;
    }
    let noted =
        if addr.is_v4() { dsr::note::<V4>(flow, &addr, port) } else { dsr::note::<V6>(flow, &addr, port) };
    match noted {
        Ok(_) => 0,
        Err(cause) => cause.raw(),
    }
}
