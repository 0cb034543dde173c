//! The node's devices: what arrives for pods, and what leaves, masqueraded where it has to be.

use crate::{
    cause,
    container::{admit, config, source},
    deliver::{self, PASS},
    dsr, event,
    flow::{Cause, Flow, Step, kind},
    host_stack, ipcache, node, north_south,
    packet::{Skb, at},
    parse::{Ethernet, Family, IPV4, IPV6, Ipv4, Ipv6, L2, Link, V4, V6, parse},
    rewrite::FromWire,
    service, snat,
};
use aya_ebpf::bindings::__sk_buff;
use cilium_abi::{
    Address,
    endpoint::ENDPOINT_HOST,
    event::point,
    node::{AGGREGATE_LOW, AGGREGATE_NONE, NODE_TUNNEL, mark},
    proto,
};

/// Whether a received frame is plainly one of the overlay for this node: it has a tunnel's way before it,
/// and a whole look at the outer packet would change nothing. Anything less plain is left to [`from`].
#[inline(always)]
pub fn is_for_overlay(skb: Skb) -> bool {
    if node!(flags) & NODE_TUNNEL == 0 || node!(trace_aggregation) == AGGREGATE_NONE {
        return false;
    }
    let protocol = skb.protocol();
    let Some(ethernet) = at::<Ethernet, Skb>(skb, 0) else { return false };
    // SAFETY: `at` proved the header lies inside the packet.
    if unsafe { (*ethernet).ethertype } != protocol {
        return false;
    }
    let (dst, ports) = match protocol {
        IPV4 => {
            let Some(ip) = at::<Ipv4, Skb>(skb, L2::HEADER) else { return false };
            // SAFETY: as above.
            let ip = unsafe { &*ip };
            if ip.version_len != 0x45 || ip.proto != proto::UDP || ip.fragment & FRAGMENT != 0 {
                return false;
            }
            (Address::v4(ip.dst), at::<[u16; 2], Skb>(skb, L2::HEADER + size_of::<Ipv4>()))
        }
        IPV6 => {
            let Some(ip) = at::<Ipv6, Skb>(skb, L2::HEADER) else { return false };
            // SAFETY: as above.
            let ip = unsafe { &*ip };
            if ip.next != proto::UDP {
                return false;
            }
            (Address { words: ip.dst }, at::<[u16; 2], Skb>(skb, L2::HEADER + size_of::<Ipv6>()))
        }
        _ => return false,
    };
    let Some(ports) = ports else { return false };
    // SAFETY: as above.
    let [_, port] = unsafe { *ports };
    port == node!(tunnel_port).0 && ipcache::local(&dst).is_some_and(|row| row.flags & ENDPOINT_HOST != 0)
}

/// Offset and "more follow" of [`Ipv4::fragment`], network order.
const FRAGMENT: u16 = 0x3fffu16.to_be();

/// Whether a packet to be sent carries another in the overlay.
#[inline(always)]
pub fn is_from_overlay(skb: Skb) -> bool {
    skb.mark() & mark::MASK == mark::OVERLAY && node!(trace_aggregation) > AGGREGATE_LOW
}

/// The verdict of [`receive`] on a packet to a frontend: [`north_south::arrive`] has it, and all of the stack.
const TO_FRONTEND: i32 = i32::MIN;

/// On an error about what a frontend answered: [`north_south::error`] has it.
const TO_BACKEND: i32 = i32::MIN + 1;

macro_rules! receivers {
    ($($name:ident => $family:ident;)*) => {
        $(
            /// A subprogram of its own, which the verifier checks once: see [`Cause::cross`].
            ///
            /// # Safety
            /// `skb` must be a valid context, `flow` null or this CPU's flow.
            #[unsafe(no_mangle)]
            #[inline(never)]
            unsafe extern "C" fn $name(skb: *mut __sk_buff, flow: *mut Flow) -> u64 {
                // SAFETY: as the caller promises.
                Cause::cross(match unsafe { flow.as_mut() } {
                    Some(flow) => receive::<$family>(Skb(skb), flow),
                    None => Err(cause!(INVALID_PACKET)),
                })
            }
        )*
    };
}

receivers! {
    netdev_receive_v4 => V4;
    netdev_receive_v6 => V6;
}

/// A packet that a device received.
#[inline(always)]
pub fn from<F: Family>(skb: Skb, flow: &mut Flow) -> Step<i32> {
    // SAFETY: a valid context and this CPU's flow.
    let received =
        unsafe { if F::IS_V6 { netdev_receive_v6(skb.0, flow) } else { netdev_receive_v4(skb.0, flow) } };
    match Cause::crossed(received)? {
        TO_FRONTEND => north_south::arrive::<F>(skb, flow),
        TO_BACKEND => north_south::error::<F>(skb, flow),
        verdict => Ok(verdict),
    }
}

#[inline(always)]
fn receive<F: Family>(skb: Skb, flow: &mut Flow) -> Step<i32> {
    let parsed = parse::<F, L2, Skb>(skb, flow);
    event::received(skb, flow, point::FROM_NETWORK);
    let mut found = ipcache::local(&flow.tuple.dst);
    let is_host = found.is_some_and(|row| row.flags & ENDPOINT_HOST != 0);
    if parsed.is_ok() && north_south::enabled() && found.is_some() && !host_stack::enabled() {
        dsr::take::<F>(skb, flow)?;
    }
    if parsed.is_ok() && (is_host || found.is_none()) && !is_overlay(flow) {
        if north_south::enabled()
            && flow.kind == kind::PORTS
            && let Some(frontend) = service::outside(flow)
        {
            if is_near(flow) {
                return Err(cause!(INVALID_SOURCE_IP));
            }
            flow.frontend = *frontend;
            return Ok(TO_FRONTEND);
        }
        if is_host && (snat::enabled::<F>() || north_south::enabled()) && snat::incoming::<F, _>(skb, flow)? {
            found = ipcache::local(&flow.tuple.dst);
            if north_south::enabled() && found.is_none() {
                return north_south::back::<F>(skb, flow);
            }
        } else if north_south::enabled() && north_south::is_about_answer(flow) {
            flow.tick();
            if is_near(flow) {
                return Err(cause!(INVALID_SOURCE_IP));
            }
            return Ok(TO_BACKEND);
        }
    }
    let endpoint = match found {
        Some(endpoint) if endpoint.flags & ENDPOINT_HOST == 0 => endpoint,
        // The host's own, or to be routed: not ours to judge. Netfilter may lead it to a pod yet.
        _ => {
            if is_host && parsed.is_ok() && north_south::enabled() && !is_overlay(flow) {
                dsr::to_host(flow)?;
            }
            if host_stack::enabled() && !is_overlay(flow) {
                skb.set_mark(deliver::identity_mark(host_stack::outsider::<F>(flow)));
            }
            return Ok(PASS);
        }
    };
    parsed?;
    if is_near(flow) {
        return Err(cause!(INVALID_SOURCE_IP));
    }
    if host_stack::enabled() {
        event::forwarded(skb, flow);
        return Ok(deliver::stack(skb, flow, host_stack::outsider::<F>(flow), point::TO_STACK));
    }
    admit::<F>(skb, flow, config(endpoint.ifindex)?, |flow, row| source::<F>(flow, row))?;
    deliver::local::<F, FromWire>(skb, flow, endpoint)
}

/// Whether the source is what nobody outside has: an address of this node, or one that is reached through
/// the overlay.
#[inline(always)]
pub fn is_near(flow: &Flow) -> bool {
    ipcache::local(&flow.tuple.src).is_some()
        || (node!(flags) & NODE_TUNNEL != 0
            && ipcache::exact(&flow.tuple.src).is_some_and(|row| !row.tunnel.is_none()))
}

/// Whether the packet is the overlay's own, which never shares ports with anyone.
#[inline(always)]
pub fn is_overlay(flow: &Flow) -> bool {
    node!(flags) & NODE_TUNNEL != 0
        && flow.tuple.proto == proto::UDP
        && flow.tuple.dst_port.0 == node!(tunnel_port).0
}

/// A packet that a device sends.
#[inline(always)]
pub fn to<F: Family>(skb: Skb, flow: &mut Flow) -> Step<i32> {
    if !snat::enabled::<F>() && !north_south::enabled() && node!(trace_aggregation) > AGGREGATE_LOW {
        event::forwarded(skb, flow);
        return Ok(PASS);
    }
    let parsed = parse::<F, L2, Skb>(skb, flow);
    if (snat::enabled::<F>() || north_south::enabled())
        && skb.mark() & mark::MASK != mark::SNAT_DONE
        && let Some(sender) = ipcache::local(&flow.tuple.src)
        // The overlay's packets are the node's; a pod that uses its port is a pod like any other.
        && !(sender.flags & ENDPOINT_HOST != 0 && is_overlay(flow))
    {
        match parsed {
            Ok(()) => {
                // Ports of the node are lent to clients of frontends, too.
                let is_lender = north_south::enabled() && sender.flags & ENDPOINT_HOST != 0;
                let is_answer = is_lender && north_south::leave::<F>(skb, flow)?;
                if !is_answer && (is_lender || snat::enabled::<F>()) {
                    snat::outgoing::<F>(skb, flow, sender)?;
                }
            }
            // A pod's address must not leave because its packet could not be read.
            Err(cause) if snat::enabled::<F>() && sender.flags & ENDPOINT_HOST == 0 => return Err(cause),
            Err(_) => {}
        }
    }
    event::forwarded(skb, flow);
    event::trace(skb, flow, point::TO_NETWORK);
    Ok(PASS)
}
