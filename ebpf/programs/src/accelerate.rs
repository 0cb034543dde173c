//! North-south traffic to and from backends elsewhere, before the stack sees it: the same steps as
//! [`crate::north_south`], on frames.
//!
//! What is not plainly such traffic, or needs what only the stack can do (a tunnel, another device, a
//! neighbour that is not known yet, an error to the sender), is passed untouched, for
//! [`crate::netdev`] to judge: everything is decided before the first write.

use crate::{
    cause, conntrack, dsr, event,
    flow::{FIN, Flow, RST, Step, kind},
    geneve,
    ipcache::{self, Memory},
    ipip, known,
    maps::{DEVICE, WAY},
    metrics::count,
    netdev, node,
    packet::{Packet, Xdp, at, zero},
    parse::{Ethernet, Family, IPV4, IPV6, L2, Link, V4, V6, parse},
    rewrite::{FromPod, hop},
    service, snat,
};
use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibParams,
        xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    },
    helpers::generated::bpf_fib_lookup,
};
use cilium_abi::{
    Address,
    ct::CT_ONE_WAY,
    endpoint::ENDPOINT_HOST,
    event::{point, reason},
    ipcache::FLAG_IN_CLUSTER,
    lb::{BackendRow, FRONTEND_EXTERNAL, FrontendRow},
    metrics::{ACCELERATED, DIRECTION_INGRESS, FORWARDED},
    node::{DeviceRow, NODE_LB, NODE_TUNNEL, NODE_XDP},
    proto,
};
use core::mem::offset_of;

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
    match unsafe { (*ethernet).ethertype } {
        IPV4 => one::<V4>(frame, flow),
        IPV6 => one::<V6>(frame, flow),
        _ => XDP_PASS,
    }
}

#[inline(always)]
fn one<F: Family>(frame: Xdp, flow: &mut Flow) -> u32 {
    if parse::<F, L2, Xdp>(frame, flow).is_err() || flow.ttl <= 1 {
        return XDP_PASS;
    }
    // What stands between the headers may name a frontend, which is for [`dsr::take`] to judge.
    let is_plain = flow.l4 as usize == L2::HEADER + F::HEADER && flow.kind == kind::PORTS;
    if !is_plain || flow.tuple.proto == proto::SCTP || netdev::is_overlay(flow) {
        return XDP_PASS;
    }
    if let Some(frontend) = service::outside(flow) {
        return serve::<F>(frame, flow, frontend);
    }
    match ipcache::local(&flow.tuple.dst) {
        Some(row) if row.flags & ENDPOINT_HOST != 0 => answer::<F>(frame, flow),
        _ => XDP_PASS,
    }
}

/// What becomes of a frame.
#[inline(always)]
fn finish(frame: Xdp, flow: &mut Flow, step: Step<u32>) -> u32 {
    match step {
        Ok(verdict) => verdict,
        // Half written: nobody may have it.
        Err(cause) => {
            event::refuse(frame, flow, cause);
            XDP_DROP
        }
    }
}

/// The device, if the frame is addressed to it: one for another machine on the wire is not ours.
#[inline(always)]
fn device(frame: Xdp, flow: &Flow) -> Option<&'static DeviceRow> {
    const _: () = assert!(offset_of!(DeviceRow, mac) % 2 == 0);
    // SAFETY: the row is read field by field; user space replaces rows whole.
    let device = unsafe { DEVICE.get(flow.ifindex) }?;
    let ethernet = at::<Ethernet, Xdp>(frame, 0)?;
    // SAFETY: `at` proved the header lies inside the frame; the row's field is two-byte aligned.
    let ([a, b, c], [d, e, f]) = unsafe { ((*ethernet).dst, *(&raw const device.mac.0).cast::<[u16; 3]>()) };
    ((a ^ d) | (b ^ e) | (c ^ f) == 0).then_some(device)
}

/// To a frontend.
#[inline(always)]
fn serve<F: Family>(frame: Xdp, flow: &mut Flow, frontend: &FrontendRow) -> u32 {
    if frontend.flags & FRONTEND_EXTERNAL == 0 || service::permits(flow, frontend).is_err() {
        return XDP_PASS;
    }
    flow.tick();
    if let Some(verdict) = known::serve::<F>(frame, flow, frontend) {
        return verdict;
    }
    // What is a pod's is the pod's, whatever frontend it is as well.
    let is_pod = ipcache::local(&flow.tuple.dst).is_some_and(|row| row.flags & ENDPOINT_HOST == 0);
    if is_pod || netdev::is_near(flow) {
        return XDP_PASS;
    }
    // The end of a connection is noted once, with what else it means, where backends here are served too.
    if flow.tcp_flags & (FIN | RST) != 0 {
        return XDP_PASS;
    }
    let Some(device) = device(frame, flow) else { return XDP_PASS };
    let Some(backend) = service::choose(flow, frontend) else { return XDP_PASS };
    if ipcache::local(&backend.addr).is_some() {
        return XDP_PASS;
    }
    let found = ipcache::exact(&backend.addr).or_else(|| ipcache::prefix(&backend.addr));
    if node!(flags) & NODE_TUNNEL != 0 && found.is_some_and(|row| !row.tunnel.is_none()) {
        return XDP_PASS;
    }
    flow.dst_identity = found.map_or(0, |row| row.identity);
    if flow.is_one_way != 0 {
        // Only the stack has tunnels, and lends addresses where a connection is older than the configuration.
        if geneve::tells() || (ipip::tells() && found.is_some_and(|row| row.flags & FLAG_IN_CLUSTER != 0)) {
            return XDP_PASS;
        }
        if ipip::tells() {
            let own = if F::IS_V6 { &device.ipv6 } else { &device.ipv4 };
            return wrapped::<F>(frame, flow, frontend, backend, own);
        }
        return direct::<F>(frame, flow, frontend, backend);
    }
    forward::<F>(frame, flow, frontend, backend, if F::IS_V6 { &device.ipv6 } else { &device.ipv4 })
}

/// To a backend elsewhere, which answers the client itself.
#[inline(always)]
fn direct<F: Family>(frame: Xdp, flow: &mut Flow, frontend: &FrontendRow, backend: &BackendRow) -> u32 {
    let more = if dsr::tells(flow) { dsr::size::<F>() } else { 0 };
    let Some(way) = way::<F>(frame, flow.ifindex, &flow.tuple.src, &backend.addr, more) else {
        return XDP_PASS;
    };
    flow.marks = CT_ONE_WAY;
    if lead::<F>(frame, flow, frontend, backend) { tell::<F>(frame, flow, way) } else { XDP_DROP }
}

/// To a backend outside, which answers the client itself, as it is within another header.
#[inline(always)]
fn wrapped<F: Family>(
    frame: Xdp,
    flow: &mut Flow,
    frontend: &FrontendRow,
    backend: &BackendRow,
    own: &Address,
) -> u32 {
    if own.is_none() {
        return XDP_PASS;
    }
    let Some(way) = way::<F>(frame, flow.ifindex, own, &backend.addr, F::HEADER as u32) else {
        return XDP_PASS;
    };
    flow.marks = CT_ONE_WAY;
    ipip::point(flow, frontend, backend);
    wrap::<F>(frame, flow, own, &backend.addr, way)
}

/// Remembers a connection and sends a frame on within another header. A function of its own, as [`lead`].
#[inline(never)]
fn wrap<F: Family>(frame: Xdp, flow: &mut Flow, own: &Address, to: &Address, way: &FibParams) -> u32 {
    let row = conntrack::find(flow);
    let step = conntrack::commit(flow, row, Memory::NONE)
        .and_then(|()| ipip::enclose::<F>(frame, own, to))
        .and_then(|()| leave(frame, flow, way));
    finish(frame, flow, step)
}

/// Sends a frame on that tells its frontend, where it has to. A function of its own, as [`lead`].
#[inline(never)]
fn tell<F: Family>(frame: Xdp, flow: &mut Flow, way: &FibParams) -> u32 {
    let told = if dsr::tells(flow) { dsr::tell::<F, _>(frame, flow) } else { Ok(()) };
    let step = told.and_then(|()| send::<F>(frame, flow, way));
    finish(frame, flow, step)
}

/// To a backend elsewhere, with the node's `own` address.
#[inline(always)]
fn forward<F: Family>(
    frame: Xdp,
    flow: &mut Flow,
    frontend: &FrontendRow,
    backend: &BackendRow,
    own: &Address,
) -> u32 {
    let Some(way) = way::<F>(frame, flow.ifindex, own, &backend.addr, 0) else { return XDP_PASS };
    known::note(flow);
    if lead::<F>(frame, flow, frontend, backend) { lend::<F>(frame, flow, own, way) } else { XDP_DROP }
}

/// Gives a frame its backend's address, and remembers the connection; whether that could be done. A function
/// of its own, since the stacks of those that call each other count together.
#[inline(never)]
fn lead<F: Family>(frame: Xdp, flow: &mut Flow, frontend: &FrontendRow, backend: &BackendRow) -> bool {
    let step = service::lead::<F, _>(frame, flow, frontend, backend).and_then(|()| {
        let row = conntrack::find(flow);
        conntrack::commit(flow, row, Memory::NONE)
    });
    if let Err(cause) = step {
        event::refuse(frame, flow, cause);
    }
    step.is_ok()
}

/// Sends a frame on with the node's `own` address. A function of its own, as [`lead`].
#[inline(never)]
fn lend<F: Family>(frame: Xdp, flow: &mut Flow, own: &Address, way: &FibParams) -> u32 {
    let step = snat::lend::<F, _>(frame, flow, own).and_then(|()| send::<F>(frame, flow, way));
    finish(frame, flow, step)
}

/// Perhaps the answer of a backend elsewhere.
#[inline(always)]
fn answer<F: Family>(frame: Xdp, flow: &mut Flow) -> u32 {
    let Some(client) = snat::client(&known::ends::<F>(flow)) else { return XDP_PASS };
    flow.tick();
    if let Some(verdict) = known::answer::<F>(frame, flow, client) {
        return verdict;
    }
    if ipcache::local(&client.addr).is_some() || device(frame, flow).is_none() {
        return XDP_PASS;
    }
    back::<F>(frame, flow, &client.addr)
}

/// Back to a client. A function of its own, as [`lead`].
#[inline(never)]
fn back<F: Family>(frame: Xdp, flow: &mut Flow, client: &Address) -> u32 {
    let Some(way) = way::<F>(frame, flow.ifindex, &flow.tuple.dst, client, 0) else { return XDP_PASS };
    let step = (|| {
        if !snat::incoming::<F, _>(frame, flow)? {
            return Ok(XDP_PASS);
        }
        let mut row = conntrack::find(flow);
        if flow.state != reason::REPLY {
            // Half translated, as in the other hook.
            return Err(cause!(UNKNOWN_CT));
        }
        if let Some(row) = row.as_deref_mut() {
            known::note_answer(flow, row);
        }
        let rev_nat = row.as_deref().map_or(0, |row| row.rev_nat);
        conntrack::commit(flow, row, Memory::NONE)?;
        if rev_nat != 0 {
            service::restore::<F, _>(frame, flow, rev_nat)?;
        }
        send::<F>(frame, flow, way)
    })();
    finish(frame, flow, step)
}

/// The kernel's route, if it leads out of the device that the frame came in by, over a neighbour that is
/// known. Other devices may not take frames from a driver, and would not say so. The frame will be `more` bytes longer.
#[inline(always)]
pub fn way<F: Family>(
    frame: Xdp,
    ifindex: u32,
    src: &Address,
    dst: &Address,
    more: u32,
) -> Option<&'static FibParams> {
    // Not on the stack: what is there counts together with that of whatever is called.
    // SAFETY: this CPU's row, used by one program at a time; all zeroes is a valid value.
    let fib = unsafe {
        let row = WAY.get_ptr_mut(0)?;
        *row.cast::<[u32; size_of::<FibParams>() / 4]>() = [zero(); size_of::<FibParams>() / 4];
        &mut *row
    };
    fib.family = F::AF;
    fib.ifindex = ifindex;
    fib.__bindgen_anon_1.tot_len = (frame.length() - L2::HEADER as u32 + more) as u16;
    if F::IS_V6 {
        fib.__bindgen_anon_3.ipv6_src = src.words;
        fib.__bindgen_anon_4.ipv6_dst = dst.words;
    } else {
        fib.__bindgen_anon_3.ipv4_src = src.v4_word();
        fib.__bindgen_anon_4.ipv4_dst = dst.v4_word();
    }
    // SAFETY: a valid context and an initialised struct of the given size.
    let found =
        unsafe { bpf_fib_lookup(frame.0.cast(), &raw mut *fib, size_of::<FibParams>() as i32, 0) } as u32;
    (found == BPF_FIB_LKUP_RET_SUCCESS && fib.ifindex == ifindex).then_some(fib)
}

#[inline(always)]
fn send<F: Family>(frame: Xdp, flow: &mut Flow, way: &FibParams) -> Step<u32> {
    hop::<F, FromPod, _>(frame, flow)?;
    leave(frame, flow, way)
}

/// Sends a frame to a neighbour.
#[inline(always)]
fn leave(frame: Xdp, flow: &mut Flow, way: &FibParams) -> Step<u32> {
    let ethernet = at::<Ethernet, Xdp>(frame, 0).ok_or(cause!(INVALID_PACKET))?;
    // SAFETY: `at` proved the header lies inside the frame; the row's fields are two-byte aligned.
    unsafe {
        (*ethernet).dst = *(&raw const way.dmac).cast();
        (*ethernet).src = *(&raw const way.smac).cast();
    }
    count(FORWARDED, DIRECTION_INGRESS, frame.length());
    count(ACCELERATED, DIRECTION_INGRESS, frame.length());
    event::trace(frame, flow, point::TO_NETWORK);
    Ok(XDP_TX)
}
