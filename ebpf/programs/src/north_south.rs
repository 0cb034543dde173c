//! Clients outside the cluster: from a device to a frontend's backend, wherever that is, and its answers
//! back to the client.
//!
//! A backend of this node sees the client's own address. To one elsewhere the packet leaves with an
//! address of this node, so that the answer comes back here.

use crate::{
    cause, conntrack,
    container::{admit, config, settle, source},
    deliver::{self, PASS},
    event,
    flow::{Flow, Step},
    ipcache::{self, Memory},
    maps::DEVICE,
    node,
    packet::Skb,
    parse::Family,
    rewrite::{self, FromWire},
    service, snat,
};
use cilium_abi::{
    endpoint::ENDPOINT_HOST,
    event::{point, reason},
    identity,
    lb::{FRONTEND_EXTERNAL, FrontendRow},
    node::{NODE_LB, mark},
};

/// Whether devices serve frontends.
#[inline(always)]
pub fn enabled() -> bool {
    node!(flags) & NODE_LB != 0
}

/// A packet from a device to a frontend.
#[inline(always)]
pub fn arrive<F: Family>(skb: Skb, flow: &mut Flow, frontend: &FrontendRow) -> Step<i32> {
    if frontend.flags & FRONTEND_EXTERNAL == 0 {
        return Err(cause!(IS_CLUSTER_IP));
    }
    service::permits(flow, frontend)?;
    flow.tick();
    service::translate::<F, _>(skb, flow, frontend)?;
    match ipcache::local(&flow.tuple.dst) {
        Some(pod) if pod.flags & ENDPOINT_HOST == 0 => {
            admit::<F>(skb, flow, config(pod.ifindex)?, |flow, row| source::<F>(flow, row))?;
            deliver::local::<F, FromWire>(skb, flow, pod)
        }
        // A process of this node: its answer is translated back where it leaves.
        Some(_) => {
            let row = conntrack::find(flow);
            conntrack::commit(flow, row, Memory::NONE)?;
            event::forwarded(skb, flow);
            Ok(PASS)
        }
        None => onwards::<F>(skb, flow),
    }
}

/// To a backend on another node, or outside.
#[inline(always)]
fn onwards<F: Family>(skb: Skb, flow: &mut Flow) -> Step<i32> {
    let row = conntrack::find(flow);
    conntrack::commit(flow, row, Memory::NONE)?;
    let found = ipcache::exact(&flow.tuple.dst).or_else(|| ipcache::prefix(&flow.tuple.dst));
    flow.dst_identity = found.map_or(0, |row| row.identity);
    match found {
        Some(found) if !found.tunnel.is_none() => {
            // Another node's pod answers into the overlay only what has an address of the overlay.
            let router = if F::IS_V6 { node!(router_ipv6) } else { node!(router_ipv4) };
            snat::lend::<F, _>(skb, flow, &router)?;
            rewrite::hop::<F, FromWire, _>(skb, flow)?;
            event::forwarded(skb, flow);
            // Whoever the client is, it is no node: there its policy must not take it for one.
            deliver::overlay(skb, flow, &found.tunnel, ipcache::world::<F>())
        }
        _ => {
            // SAFETY: the row is read field by field; user space replaces rows whole.
            let Some(device) = (unsafe { DEVICE.get(flow.ifindex) }) else { return Err(cause!(NO_DEVICE)) };
            snat::lend::<F, _>(skb, flow, if F::IS_V6 { &device.ipv6 } else { &device.ipv4 })?;
            skb.set_mark(mark::SNAT_DONE);
            event::forwarded(skb, flow);
            deliver::pass_on::<F>(skb, flow)
        }
    }
}

/// A packet that [`snat::incoming`] gave back its own destination, which is nobody here: the answer of a
/// backend elsewhere to a client.
#[inline(always)]
pub fn back<F: Family>(skb: Skb, flow: &mut Flow) -> Step<i32> {
    let row = conntrack::find(flow);
    if conntrack::is_forward(flow) {
        return Ok(PASS);
    }
    settle::<F>(skb, flow, row, Memory::NONE)?;
    skb.set_mark(mark::SNAT_DONE);
    event::forwarded(skb, flow);
    deliver::pass_on::<F>(skb, flow)
}

/// A packet that the node itself sends by a device: an answer to a client of a frontend gets the
/// frontend's address. Whether it was one.
#[inline(always)]
pub fn leave<F: Family>(skb: Skb, flow: &mut Flow) -> Step<bool> {
    flow.tick();
    let Some(row) = conntrack::find(flow) else { return Ok(false) };
    if (flow.state != reason::REPLY && flow.state != reason::RELATED) || row.rev_nat == 0 {
        return Ok(false);
    }
    flow.src_identity = identity::HOST;
    settle::<F>(skb, flow, Some(row), Memory::NONE)?;
    event::trace(skb, flow, point::TO_NETWORK);
    Ok(true)
}
