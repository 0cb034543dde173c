//! The node's devices: what arrives for pods.

use crate::{
    cause,
    container::{admit, config, source},
    deliver::{self, PASS},
    event,
    flow::{Flow, Step},
    ipcache,
    packet::Skb,
    parse::{Family, L2, parse},
    rewrite::FromWire,
};
use cilium_abi::{endpoint::ENDPOINT_HOST, event::point};

/// A packet that a device received.
#[inline(always)]
pub fn from<F: Family>(skb: Skb, flow: &mut Flow) -> Step<i32> {
    let parsed = parse::<F, L2, Skb>(skb, flow);
    event::received(skb, flow, point::FROM_NETWORK);
    let endpoint = match ipcache::local(&flow.tuple.dst) {
        Some(endpoint) if endpoint.flags & ENDPOINT_HOST == 0 => endpoint,
        // The host's own, or to be routed: not ours to judge.
        _ => return Ok(PASS),
    };
    parsed?;
    if let Some(sender) = ipcache::local(&flow.tuple.src)
        && sender.flags & ENDPOINT_HOST == 0
    {
        return Err(cause!(INVALID_SOURCE_IP));
    }
    admit::<F>(skb, flow, config(endpoint.ifindex)?, |flow, row| source::<F>(flow, row))?;
    deliver::local::<F, FromWire>(skb, flow, endpoint)
}
