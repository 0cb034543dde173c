//! North-south traffic to and from backends elsewhere, before the stack sees it: the same steps as
//! [`crate::north_south`], on frames.
//!
//! What is not plainly such traffic, or needs what only the stack can do (a tunnel, a neighbour that is not
//! known yet, a word to user space), is passed untouched: everything is decided before the first write.

use crate::{
    cause, conntrack,
    flow::{Flow, Step, kind},
    ipcache::{self, Memory},
    maps::DEVICE,
    metrics::count,
    node,
    packet::{Packet, Xdp, at},
    parse::{Ethernet, Family, IPV4, IPV6, L2, V4, V6, parse},
    rewrite::{FromPod, hop},
    service, snat,
};
use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibParams,
        xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    },
    helpers::generated::{bpf_fib_lookup, bpf_redirect},
};
use cilium_abi::{
    Address,
    endpoint::ENDPOINT_HOST,
    event::reason,
    lb::{FRONTEND_EXTERNAL, FrontendRow},
    metrics::{DIRECTION_INGRESS, FORWARDED},
    node::{NODE_LB, NODE_TUNNEL, NODE_XDP},
    proto,
};
use core::mem::MaybeUninit;

/// A frame that a device's driver received.
#[inline(always)]
pub fn receive(frame: Xdp) -> u32 {
    const BOTH: u32 = NODE_LB | NODE_XDP;
    if node!(flags) & BOTH != BOTH {
        return XDP_PASS;
    }
    let Some(flow) = Flow::start(frame, DIRECTION_INGRESS) else { return XDP_PASS };
    let Some(ethernet) = at::<Ethernet, Xdp>(frame, 0) else { return XDP_PASS };
    // SAFETY: `at` proved the header lies inside the frame.
    let step = match unsafe { (*ethernet).ethertype } {
        IPV4 => one::<V4>(frame, flow),
        IPV6 => one::<V6>(frame, flow),
        _ => Ok(XDP_PASS),
    };
    match step {
        Ok(verdict) => verdict,
        // Half written: nobody may have it.
        Err(cause) => {
            count(cause.code(), DIRECTION_INGRESS, frame.length());
            XDP_DROP
        }
    }
}

#[inline(always)]
fn one<F: Family>(frame: Xdp, flow: &mut Flow) -> Step<u32> {
    if parse::<F, L2, Xdp>(frame, flow).is_err() || flow.ttl <= 1 {
        return Ok(XDP_PASS);
    }
    let is_overlay = node!(flags) & NODE_TUNNEL != 0
        && flow.tuple.proto == proto::UDP
        && flow.tuple.dst_port.0 == node!(tunnel_port).0;
    if flow.kind != kind::PORTS || is_overlay {
        return Ok(XDP_PASS);
    }
    let found = ipcache::local(&flow.tuple.dst);
    if found.is_some_and(|row| row.flags & ENDPOINT_HOST == 0) {
        return Ok(XDP_PASS);
    }
    if let Some(frontend) = service::outside(flow) {
        return forward::<F>(frame, flow, frontend);
    }
    if found.is_some() { back::<F>(frame, flow) } else { Ok(XDP_PASS) }
}

#[inline(always)]
fn is_tunnelled(addr: &Address) -> bool {
    node!(flags) & NODE_TUNNEL != 0
        && ipcache::exact(addr).or_else(|| ipcache::prefix(addr)).is_some_and(|row| !row.tunnel.is_none())
}

/// To a backend elsewhere.
#[inline(always)]
fn forward<F: Family>(frame: Xdp, flow: &mut Flow, frontend: &FrontendRow) -> Step<u32> {
    if frontend.flags & FRONTEND_EXTERNAL == 0 || service::permits(flow, frontend).is_err() {
        return Ok(XDP_PASS);
    }
    flow.tick();
    let Some(backend) = service::choose(flow, frontend) else { return Ok(XDP_PASS) };
    if ipcache::local(&backend.addr).is_some() || is_tunnelled(&backend.addr) {
        return Ok(XDP_PASS);
    }
    // SAFETY: the row is read field by field; user space replaces rows whole.
    let Some(device) = (unsafe { DEVICE.get(flow.ifindex) }) else { return Ok(XDP_PASS) };
    let own = if F::IS_V6 { &device.ipv6 } else { &device.ipv4 };
    let Some(way) = way::<F>(frame, flow.ifindex, own, &backend.addr) else { return Ok(XDP_PASS) };
    service::lead::<F, _>(frame, flow, frontend, backend)?;
    let row = conntrack::find(flow);
    conntrack::commit(flow, row, Memory::NONE)?;
    snat::lend::<F, _>(frame, flow, own)?;
    send::<F>(frame, flow, &way)
}

/// Back to a client.
#[inline(always)]
fn back<F: Family>(frame: Xdp, flow: &mut Flow) -> Step<u32> {
    let Some(client) = snat::owner(flow) else { return Ok(XDP_PASS) };
    if ipcache::local(&client).is_some() {
        return Ok(XDP_PASS);
    }
    let Some(way) = way::<F>(frame, flow.ifindex, &flow.tuple.dst, &client) else { return Ok(XDP_PASS) };
    if !snat::incoming::<F, _>(frame, flow)? {
        return Ok(XDP_PASS);
    }
    let row = conntrack::find(flow);
    if flow.state != reason::REPLY {
        // The flow of somebody who left: as in the other hook, the stack may route it.
        return Ok(XDP_PASS);
    }
    let rev_nat = row.as_deref().map_or(0, |row| row.rev_nat);
    conntrack::commit(flow, row, Memory::NONE)?;
    if rev_nat != 0 {
        service::restore::<F, _>(frame, flow, rev_nat)?;
    }
    send::<F>(frame, flow, &way)
}

/// The next hop.
struct Way {
    ifindex: u32,
    dst: [u16; 3],
    src: [u16; 3],
}

/// The kernel's route, if it leads over a neighbour that is known.
#[inline(always)]
fn way<F: Family>(frame: Xdp, ifindex: u32, src: &Address, dst: &Address) -> Option<Way> {
    // SAFETY: all zeroes is a valid value of this plain struct.
    let mut fib: FibParams = unsafe { MaybeUninit::zeroed().assume_init() };
    fib.family = F::AF;
    fib.ifindex = ifindex;
    if F::IS_V6 {
        fib.__bindgen_anon_3.ipv6_src = src.words;
        fib.__bindgen_anon_4.ipv6_dst = dst.words;
    } else {
        fib.__bindgen_anon_3.ipv4_src = src.v4_word();
        fib.__bindgen_anon_4.ipv4_dst = dst.v4_word();
    }
    // SAFETY: a valid context and an initialised struct of the given size.
    let found =
        unsafe { bpf_fib_lookup(frame.0.cast(), &raw mut fib, size_of::<FibParams>() as i32, 0) } as u32;
    if found != BPF_FIB_LKUP_RET_SUCCESS {
        return None;
    }
    // SAFETY: six bytes each, at even offsets of an aligned struct.
    unsafe {
        Some(Way {
            ifindex: fib.ifindex,
            dst: *(&raw const fib.dmac).cast(),
            src: *(&raw const fib.smac).cast(),
        })
    }
}

#[inline(always)]
fn send<F: Family>(frame: Xdp, flow: &mut Flow, way: &Way) -> Step<u32> {
    hop::<F, FromPod, _>(frame, flow)?;
    let ethernet = at::<Ethernet, Xdp>(frame, 0).ok_or(cause!(INVALID_PACKET))?;
    // SAFETY: `at` proved the header lies inside the frame.
    unsafe {
        (*ethernet).dst = way.dst;
        (*ethernet).src = way.src;
    }
    count(FORWARDED, DIRECTION_INGRESS, frame.length());
    if way.ifindex == flow.ifindex {
        return Ok(XDP_TX);
    }
    // SAFETY: a helper with scalar arguments.
    Ok(unsafe { bpf_redirect(way.ifindex, 0) } as u32)
}
