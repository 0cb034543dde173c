//! What each hook does with a packet: which family, then that concern's function, then the verdict.

use crate::{
    arp, cause, container,
    deliver::PASS,
    event,
    flow::{Flow, Step},
    host,
    metrics::count,
    netdev, overlay,
    packet::{Packet, Skb, at},
    parse::{ARP, Ethernet, IPV4, IPV6, L2, V4, V6, whole},
};
use aya_ebpf::bindings::TC_ACT_SHOT;
use cilium_abi::{
    metrics::{DIRECTION_EGRESS, DIRECTION_INGRESS, FORWARDED},
    node::mark,
};

#[inline(always)]
fn finish(skb: Skb, flow: &mut Flow, step: Step<i32>) -> i32 {
    match step {
        Ok(verdict) => verdict,
        Err(cause) => event::drop(skb, flow, cause),
    }
}

/// Runs `hook` on this CPU's flow. Without one (which cannot be) nothing may pass.
#[inline(always)]
fn run(skb: Skb, direction: u8, hook: impl FnOnce(Skb, &mut Flow) -> Step<i32>) -> i32 {
    let Some(flow) = Flow::start(skb, direction) else { return TC_ACT_SHOT };
    skb.pull();
    let step = hook(skb, flow);
    finish(skb, flow, step)
}

/// A pod sent a packet.
#[inline(always)]
pub fn from_container(skb: Skb) -> i32 {
    run(skb, DIRECTION_EGRESS, |skb, flow| {
        let config = match container::config(flow.ifindex) {
            Ok(config) => config,
            Err(cause) => return closed(skb, flow, cause),
        };
        flow.endpoint_id = config.endpoint_id;
        flow.src_identity = config.identity;
        if skb.is_tagged() {
            return unsupported(flow);
        }
        match skb.protocol() {
            IPV4 => container::from::<V4>(skb, flow, config),
            IPV6 => container::from::<V6>(skb, flow, config),
            ARP => arp::answer(skb, flow, config),
            _ => unsupported(flow),
        }
    })
}

/// Neither IP nor, where that is expected, ARP.
#[inline(always)]
fn unsupported(flow: &mut Flow) -> Step<i32> {
    flow.forget();
    Err(cause!(UNSUPPORTED_L3_PROTOCOL))
}

/// A packet of a closed pod: dropped, with its addresses told where it has any.
#[inline(never)]
fn addresses(skb: Skb, flow: &mut Flow) {
    match skb.protocol() {
        IPV4 => drop(whole::<V4, L2, Skb>(skb, flow)),
        IPV6 => drop(whole::<V6, L2, Skb>(skb, flow)),
        _ => flow.forget(),
    }
}

#[inline(always)]
fn closed(skb: Skb, flow: &mut Flow, cause: crate::flow::Cause) -> Step<i32> {
    addresses(skb, flow);
    Err(cause)
}

/// The host's stack sends a packet out of `cilium_host`.
#[inline(always)]
pub fn from_host(skb: Skb) -> i32 {
    run(skb, DIRECTION_EGRESS, |skb, flow| match skb.protocol() {
        IPV4 => host::from::<V4>(skb, flow),
        IPV6 => host::from::<V6>(skb, flow),
        _ => Ok(PASS),
    })
}

/// A packet reaches the host through `cilium_host` or `cilium_net`.
#[inline(always)]
pub fn to_host(skb: Skb) -> i32 {
    count(FORWARDED, DIRECTION_INGRESS, skb.length());
    PASS
}

/// The Ethernet type where the frame and the kernel agree on it, else 0: a device without Ethernet
/// header is left to the stack.
#[inline(always)]
fn ethertype(skb: Skb) -> u16 {
    let protocol = skb.protocol();
    match at::<Ethernet, Skb>(skb, 0) {
        // SAFETY: `at` proved the header lies inside the packet.
        Some(ethernet) if unsafe { (*ethernet).ethertype } == protocol => protocol,
        _ => 0,
    }
}

/// A device received a packet.
#[inline(always)]
pub fn from_netdev(skb: Skb) -> i32 {
    if netdev::is_for_overlay(skb) {
        return PASS;
    }
    run(skb, DIRECTION_INGRESS, |skb, flow| match ethertype(skb) {
        IPV4 => netdev::from::<V4>(skb, flow),
        IPV6 => netdev::from::<V6>(skb, flow),
        _ => Ok(PASS),
    })
}

/// A device sends a packet.
#[inline(always)]
pub fn to_netdev(skb: Skb) -> i32 {
    if netdev::is_from_overlay(skb) {
        count(FORWARDED, DIRECTION_EGRESS, skb.length());
        return PASS;
    }
    run(skb, DIRECTION_EGRESS, |skb, flow| match ethertype(skb) {
        IPV4 => netdev::to::<V4>(skb, flow),
        IPV6 => netdev::to::<V6>(skb, flow),
        _ => Ok(PASS),
    })
}

/// The overlay received a packet.
#[inline(always)]
pub fn from_overlay(skb: Skb) -> i32 {
    run(skb, DIRECTION_INGRESS, |skb, flow| match skb.protocol() {
        IPV4 => overlay::from::<V4>(skb, flow),
        IPV6 => overlay::from::<V6>(skb, flow),
        _ => unsupported(flow),
    })
}

/// The overlay sends a packet: the mark tells the device's hook that what carries it is the node's own.
#[inline(always)]
pub fn to_overlay(skb: Skb) -> i32 {
    skb.set_mark(mark::OVERLAY);
    count(FORWARDED, DIRECTION_EGRESS, skb.length());
    PASS
}
