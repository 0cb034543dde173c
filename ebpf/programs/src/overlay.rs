//! The overlay: what other nodes' pods and hosts send, with the sender's identity in the tunnel.

use crate::{
    cause,
    container::{Sender, admit, config},
    deliver, dsr, event,
    flow::{Flow, Step},
    geneve, host_stack,
    ipcache::{self, Memory},
    north_south,
    packet::Skb,
    parse::{Family, L2, parse},
    rewrite::FromWire,
    snat,
};
use aya_ebpf::{
    bindings::{BPF_F_TUNINFO_IPV6, bpf_tunnel_key},
    helpers::generated::{bpf_skb_change_type, bpf_skb_get_tunnel_key},
};
use cilium_abi::{endpoint::ENDPOINT_HOST, event::point, identity};
use core::mem::MaybeUninit;

/// `PACKET_HOST` (include/uapi/linux/if_packet.h).
const PACKET_HOST: u32 = 0;
/// Bits of a network identifier, VXLAN's and Geneve's.
const WIRE: u32 = 0xff_ffff;

/// The number in the tunnel header; `None` if there is no tunnel.
#[inline(never)]
fn wire_identity(skb: Skb) -> u64 {
    // SAFETY: all zeroes is a valid value of this plain struct.
    let mut key: bpf_tunnel_key = unsafe { MaybeUninit::zeroed().assume_init() };
    let size = size_of::<bpf_tunnel_key>() as u32;
    // SAFETY: a valid context and a struct of the given size. The flag must match the underlay's family.
    unsafe {
        if bpf_skb_get_tunnel_key(skb.0, &raw mut key, size, 0) != 0
            && bpf_skb_get_tunnel_key(skb.0, &raw mut key, size, BPF_F_TUNINFO_IPV6 as u64) != 0
        {
            return u64::MAX;
        }
    }
    (key.tunnel_id & WIRE) as u64
}

/// A packet that came out of a tunnel.
#[inline(always)]
pub fn from<F: Family>(skb: Skb, flow: &mut Flow) -> Step<i32> {
    let parsed = parse::<F, L2, Skb>(skb, flow);
    let wire = wire_identity(skb);
    if wire == u64::MAX {
        return Err(cause!(TUNNEL_KEY_ERROR));
    }
    // Another node's host calls itself host; from here it is another node.
    let wire = match wire as u32 {
        identity::UNKNOWN => ipcache::world::<F>(),
        identity::HOST => identity::REMOTE_NODE,
        number => number,
    };
    flow.src_identity = wire;
    event::received(skb, flow, point::FROM_OVERLAY);
    // The inner frame is addressed to a device of the sender's; the stack would call it another host's.
    // SAFETY: a valid context and a scalar.
    unsafe { bpf_skb_change_type(skb.0, PACKET_HOST) };
    let Some(endpoint) = ipcache::local(&flow.tuple.dst) else { return Err(cause!(STALE_OR_UNROUTABLE_IP)) };
    let is_from_client = wire == ipcache::world::<F>() && north_south::enabled() && !host_stack::enabled();
    if is_from_client && geneve::hears() && parsed.is_ok() {
        geneve::take(skb, flow)?;
    }
    if endpoint.flags & ENDPOINT_HOST != 0 {
        if is_from_client && geneve::hears() && parsed.is_ok() {
            dsr::to_host(flow)?;
        }
        if (north_south::enabled() || host_stack::lends::<F>())
            && parsed.is_ok()
            && snat::incoming::<F, _>(skb, flow)?
            && ipcache::local(&flow.tuple.dst).is_none()
        {
            return north_south::back::<F>(skb, flow);
        }
        event::forwarded(skb, flow);
        return Ok(deliver::stack(skb, flow, wire, point::TO_HOST));
    }
    parsed?;
    // Nobody else has an address of this node.
    if ipcache::local(&flow.tuple.src).is_some() {
        return Err(cause!(INVALID_SOURCE_IP));
    }
    // Who asks by a frontend of another node is somebody outside.
    if is_from_client {
        dsr::take::<F>(skb, flow)?;
    }
    if host_stack::enabled()
        && let Some(verdict) = host_stack::out_of_overlay::<F>(skb, flow)?
    {
        return Ok(verdict);
    }
    admit::<F>(skb, flow, config(endpoint.ifindex)?, |flow, _| match ipcache::exact(&flow.tuple.src) {
        // A node that says not itself asks but somebody outside lends its address to a service's client.
        Some(found)
            if found.identity != identity::HOST
                && !((wire == ipcache::world::<F>() || host_stack::is_lent(wire))
                    && identity::is_node(found.identity)) =>
        {
            Sender { identity: found.identity, memory: Memory::NONE, is_told: false }
        }
        // A client outside, by its own address: here there may be a prefix around it that policies name.
        None if wire == ipcache::world::<F>() => Sender {
            identity: ipcache::of_prefix(&flow.tuple.src).unwrap_or(wire),
            memory: Memory::NONE,
            is_told: true,
        },
        _ => Sender { identity: wire, memory: Memory::NONE, is_told: true },
    })?;
    deliver::local::<F, FromWire>(skb, flow, endpoint)
}
