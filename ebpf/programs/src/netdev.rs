//! The node's devices: what arrives for pods, and what leaves, masqueraded where it has to be.

use crate::{
    cause,
    container::{admit, config, source},
    deliver::{self, PASS},
    event,
    flow::{Flow, Step},
    ipcache, node,
    packet::Skb,
    parse::{Family, L2, parse},
    rewrite::FromWire,
    snat,
};
use cilium_abi::{
    endpoint::ENDPOINT_HOST,
    event::point,
    node::{AGGREGATE_LOW, NODE_TUNNEL, mark},
    proto,
};

/// A packet that a device received.
#[inline(always)]
pub fn from<F: Family>(skb: Skb, flow: &mut Flow) -> Step<i32> {
    let parsed = parse::<F, L2, Skb>(skb, flow);
    event::received(skb, flow, point::FROM_NETWORK);
    let mut found = ipcache::local(&flow.tuple.dst);
    if snat::enabled::<F>()
        && parsed.is_ok()
        && !is_overlay(flow)
        && found.is_some_and(|row| row.flags & ENDPOINT_HOST != 0)
    {
        snat::incoming::<F>(skb, flow)?;
        found = ipcache::local(&flow.tuple.dst);
    }
    let endpoint = match found {
        Some(endpoint) if endpoint.flags & ENDPOINT_HOST == 0 => endpoint,
        // The host's own, or to be routed: not ours to judge.
        _ => return Ok(PASS),
    };
    parsed?;
    // Nobody outside has an address of this node, nor one that is reached through the overlay.
    if ipcache::local(&flow.tuple.src).is_some()
        || (node!(flags) & NODE_TUNNEL != 0
            && ipcache::exact(&flow.tuple.src).is_some_and(|row| !row.tunnel.is_none()))
    {
        return Err(cause!(INVALID_SOURCE_IP));
    }
    admit::<F>(skb, flow, config(endpoint.ifindex)?, |flow, row| source::<F>(flow, row))?;
    deliver::local::<F, FromWire>(skb, flow, endpoint)
}

/// Whether the packet is the overlay's own, which never shares ports with anyone.
#[inline(always)]
fn is_overlay(flow: &Flow) -> bool {
    node!(flags) & NODE_TUNNEL != 0
        && flow.tuple.proto == proto::UDP
        && flow.tuple.dst_port.0 == node!(tunnel_port).0
}

/// A packet that a device sends.
#[inline(always)]
pub fn to<F: Family>(skb: Skb, flow: &mut Flow) -> Step<i32> {
    if !snat::enabled::<F>() && node!(trace_aggregation) > AGGREGATE_LOW {
        event::forwarded(skb, flow);
        return Ok(PASS);
    }
    let parsed = parse::<F, L2, Skb>(skb, flow);
    if snat::enabled::<F>()
        && skb.mark() & mark::MASK != mark::SNAT_DONE
        && let Some(sender) = ipcache::local(&flow.tuple.src)
        // The overlay's packets are the node's; a pod that uses its port is a pod like any other.
        && !(sender.flags & ENDPOINT_HOST != 0 && is_overlay(flow))
    {
        match parsed {
            Ok(()) => snat::outgoing::<F>(skb, flow, sender)?,
            // A pod's address must not leave because its packet could not be read.
            Err(cause) if sender.flags & ENDPOINT_HOST == 0 => return Err(cause),
            Err(_) => {}
        }
    }
    event::forwarded(skb, flow);
    event::trace(skb, flow, point::TO_NETWORK);
    Ok(PASS)
}
