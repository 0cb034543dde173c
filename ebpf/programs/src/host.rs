//! The host's own interface `cilium_host`: what the host sends to pods here and elsewhere.
//!
//! The routes to all pods of the cluster lead here, so this is also where the policy of this node's pods
//! is asked about the host's packets: a pod's link needs no second program for it.

use crate::{
    cause,
    container::{Sender, admit, config, source},
    deliver::{self, PASS},
    event,
    flow::{Flow, Step},
    host_stack,
    ipcache::{self, Memory},
    node, north_south,
    packet::Skb,
    parse::{Family, L2, parse},
    snat,
};
use cilium_abi::{Address, endpoint::ENDPOINT_HOST, event::point, identity, metrics::DIRECTION_INGRESS};

/// A packet that the host's stack sends out of `cilium_host`.
///
/// To other nodes only addresses decide: their node asks policy. A function of its own for each family: on Linux 6.1 the
/// stacks of those that call each other may come to 512 bytes at most.
#[inline(never)]
pub fn from<F: Family>(skb: Skb, flow: &mut Flow) -> Step<i32> {
    let parsed = parse::<F, L2, Skb>(skb, flow);
    if parsed.is_err() && flow.tuple.dst.is_none() {
        return Ok(PASS);
    }
    event::received(skb, flow, point::FROM_HOST);
    if host_stack::enabled() {
        flow.is_from_stack = 1;
    }
    let marked = deliver::marked_identity(skb.mark());
    if let Some(endpoint) = ipcache::local(&flow.tuple.dst) {
        if endpoint.flags & ENDPOINT_HOST != 0 {
            return Ok(PASS);
        }
        flow.direction = DIRECTION_INGRESS;
        parsed?;
        admit::<F>(skb, flow, config(endpoint.ifindex)?, |flow, row| match marked {
            Some(identity) => Sender { identity, memory: Memory::NONE, is_told: true },
            None => {
                let sender = source::<F>(flow, row);
                Sender { identity: host_stack::unmarked::<F>(skb, sender.identity), ..sender }
            }
        })?;
        event::trace(skb, flow, point::TO_ENDPOINT);
        return deliver::host_side(skb, endpoint);
    }
    let sender = match marked {
        Some(identity) => identity,
        None => host_stack::unmarked::<F>(skb, source::<F>(flow, None).identity),
    };
    flow.src_identity = sender;
    let far = ipcache::far::<F>(&flow.tuple.dst, None, 0);
    flow.dst_identity = far.identity;
    match far.row {
        Some(found) if !found.tunnel.is_none() => {
            if parsed.is_ok() {
                if host_stack::enabled() {
                    host_stack::into_overlay::<F>(skb, flow)?;
                } else if north_south::enabled() {
                    hold::<F>(skb, flow)?;
                }
            }
            event::forwarded(skb, flow);
            deliver::overlay(skb, flow, &found.tunnel, identity::on_wire(sender, ipcache::world::<F>()))
        }
        // Nothing but pods lies behind this interface; up the stack the packet would come round again.
        _ if is_unicast::<F>(&flow.tuple.dst) => Err(cause!(STALE_OR_UNROUTABLE_IP)),
        _ => Ok(PASS),
    }
}

/// The node's own packet to a pod elsewhere: clients of frontends are lent ports of the same address, the router's, towards
/// the same pods.
#[inline(always)]
fn hold<F: Family>(skb: Skb, flow: &mut Flow) -> Step<()> {
    let router = if F::IS_V6 { node!(router_ipv6) } else { node!(router_ipv4) };
    if router.is_none() {
        return Ok(());
    }
    flow.tick();
    snat::hold::<F>(skb, flow, &router)
}

/// Whether a packet to this address may be routed: not multicast, broadcast or of one link.
#[inline(always)]
fn is_unicast<F: Family>(addr: &Address) -> bool {
    if F::IS_V6 {
        let [first, second, ..] = addr.words[0].to_ne_bytes();
        first != 0xff && !(first == 0xfe && second & 0xc0 == 0x80)
    } else {
        addr.v4_word().to_ne_bytes()[0] < 224
    }
}
