//! Clients outside the cluster: from a device to a frontend's backend, wherever that is, and its answers
//! back to the client.
//!
//! A backend of this node sees the client's own address. To one elsewhere the packet leaves with an
//! address of this node, so that the answer comes back here.

use crate::{
    answer, cause, conntrack,
    container::{admit, config, settle, source},
    deliver::{self, PASS},
    dsr, event,
    flow::{Cause, Flow, Step, kind, same},
    geneve,
    ipcache::{self, Memory},
    ipip::{self, Sent},
    maps::DEVICE,
    node,
    packet::Skb,
    parse::{Family, V4, V6},
    rewrite::{self, Destination, FromWire, Source},
    service, snat,
};
use aya_ebpf::bindings::__sk_buff;
use cilium_abi::{
    Address,
    ct::{CT_ONE_WAY, KIND_CONNECTION, KIND_SERVICE, Tuple},
    endpoint::ENDPOINT_HOST,
    event::{point, reason},
    identity,
    ipcache::{FLAG_IN_CLUSTER, IpcacheRow},
    lb::{BackendRow, FRONTEND_EXTERNAL, FrontendRow},
    node::{NODE_LB, mark},
};

/// Whether devices serve frontends.
#[inline(always)]
pub fn enabled() -> bool {
    node!(flags) & NODE_LB != 0
}

macro_rules! arrivals {
    ($($name:ident => $what:ident::<$family:ident>;)*) => {
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
                    Some(flow) => $what::<$family>(Skb(skb), flow),
                    None => Err(cause!(INVALID_PACKET)),
                })
            }
        )*
    };
}

arrivals! {
    north_south_arrive_v4 => serve::<V4>;
    north_south_arrive_v6 => serve::<V6>;
    north_south_related_v4 => relate::<V4>;
    north_south_related_v6 => relate::<V6>;
}

/// A packet from a device to the frontend of [`Flow::frontend`].
#[inline(always)]
pub fn arrive<F: Family>(skb: Skb, flow: &mut Flow) -> Step<i32> {
    // SAFETY: a valid context and this CPU's flow.
    Cause::crossed(unsafe {
        if F::IS_V6 { north_south_arrive_v6(skb.0, flow) } else { north_south_arrive_v4(skb.0, flow) }
    })
}

/// An ICMP error from a device that [`is_about_answer`].
#[inline(always)]
pub fn error<F: Family>(skb: Skb, flow: &mut Flow) -> Step<i32> {
    // SAFETY: as above.
    Cause::crossed(unsafe {
        if F::IS_V6 { north_south_related_v6(skb.0, flow) } else { north_south_related_v4(skb.0, flow) }
    })
}

/// The connection that an ICMP error on the client's side is about, as the backend here or elsewhere has it:
/// the client, and the backend chosen for it; and whether that one answers by itself.
#[inline(always)]
fn answered(flow: &Flow) -> Option<(Tuple, bool)> {
    let asked = flow.inner.reversed();
    let choice = conntrack::lookup(&asked.key(KIND_SERVICE).0, flow.now)?;
    let backend = service::backend(choice.backend)?;
    let tuple = Tuple { dst: backend.addr, dst_port: backend.port, ..asked };
    conntrack::lookup(&tuple.key(KIND_CONNECTION).0, flow.now)?;
    Some((tuple, choice.flags & CT_ONE_WAY != 0))
}

/// Whether a packet may be an ICMP error about what a frontend answered a client, told to the frontend.
#[inline(always)]
pub fn is_about_answer(flow: &Flow) -> bool {
    flow.kind == kind::ICMP_ERROR && same(&flow.inner.src, &flow.tuple.dst)
}

/// Tells a backend of an ICMP error about its answer to a client, such as that it was too long for the way. The
/// error is made one about what the backend itself sent. What is about no connection is the stack's.
#[inline(always)]
fn relate<F: Family>(skb: Skb, flow: &mut Flow) -> Step<i32> {
    let Some((tuple, is_one_way)) = answered(flow) else { return Ok(PASS) };
    let local = ipcache::local(&tuple.dst);
    flow.state = reason::RELATED;
    flow.report = 1;
    if let Some(endpoint) = local {
        let port = flow.tuple.dst_port;
        rewrite::embedded::<F, Source, _>(skb, flow, &tuple.dst, tuple.dst_port)?;
        rewrite::end::<F, Destination, _>(skb, flow, &tuple.dst, port)?;
        event::forwarded(skb, flow);
        if endpoint.flags & ENDPOINT_HOST != 0 {
            return Ok(PASS);
        }
        let config = config(endpoint.ifindex)?;
        flow.endpoint_id = config.endpoint_id;
        flow.dst_identity = config.identity;
        return deliver::local::<F, FromWire>(skb, flow, endpoint);
    }
    if ipip::tells() && is_one_way && !ipcache::is_in_cluster(&tuple.dst) {
        return tell_as_is::<F>(skb, flow, &tuple.dst);
    }
    // Unless it answers by itself, it knows the client by an address of this node.
    let lent = if is_one_way { None } else { snat::lent(&tuple) };
    if lent.is_none() && !is_one_way {
        return Ok(PASS);
    }
    let (src_port, dst_port) = (flow.tuple.src_port, flow.tuple.dst_port);
    rewrite::embedded::<F, Source, _>(skb, flow, &tuple.dst, tuple.dst_port)?;
    rewrite::end::<F, Destination, _>(skb, flow, &tuple.dst, dst_port)?;
    if let Some(lent) = lent {
        rewrite::embedded::<F, Destination, _>(skb, flow, &lent.addr, lent.port)?;
        rewrite::end::<F, Source, _>(skb, flow, &lent.addr, src_port)?;
    }
    let found = place(&flow.tuple.dst);
    send_on::<F>(skb, flow, found)
}

/// Tells a backend outside, which answers clients itself, of an ICMP error about an answer of its own.
#[inline(always)]
fn tell_as_is<F: Family>(skb: Skb, flow: &mut Flow, backend: &Address) -> Step<i32> {
    match ipip::send::<F>(skb, flow, backend)? {
        Sent::By(verdict) => {
            skb.set_mark(mark::SNAT_DONE);
            event::forwarded(skb, flow);
            event::trace(skb, flow, point::TO_NETWORK);
            Ok(verdict)
        }
        // Nobody is told of errors about errors.
        Sent::TooLong(_) => Err(cause!(FRAGMENTATION_NEEDED)),
    }
}

/// What is known of an address that is not here.
#[inline(always)]
fn place(addr: &Address) -> Option<&'static IpcacheRow> {
    ipcache::exact(addr).or_else(|| ipcache::prefix(addr))
}

/// To a backend elsewhere, with an address of this node.
#[inline(always)]
fn send_on<F: Family>(skb: Skb, flow: &mut Flow, found: Option<&IpcacheRow>) -> Step<i32> {
    match found {
        Some(found) if !found.tunnel.is_none() => {
            rewrite::hop::<F, FromWire, _>(skb, flow)?;
            event::forwarded(skb, flow);
            // Whoever the client is, it is no node: there its policy must not take it for one.
            deliver::overlay(skb, flow, &found.tunnel, ipcache::world::<F>())
        }
        _ => {
            skb.set_mark(mark::SNAT_DONE);
            event::forwarded(skb, flow);
            deliver::pass_on::<F>(skb, flow)
        }
    }
}

#[inline(always)]
fn serve<F: Family>(skb: Skb, flow: &mut Flow) -> Step<i32> {
    let frontend = &FrontendRow { ..flow.frontend };
    if frontend.flags & FRONTEND_EXTERNAL == 0 {
        return Err(cause!(IS_CLUSTER_IP));
    }
    service::permits(flow, frontend)?;
    flow.marks = 0;
    flow.tick();
    let Some(backend) = service::choose(flow, frontend) else {
        return answer::unserved::<F>(skb, flow, frontend, cause!(NO_SERVICE_BACKEND));
    };
    let local = ipcache::local(&backend.addr);
    if flow.is_one_way != 0 && local.is_none() {
        if ipip::tells() {
            // A connection may be older than the configuration.
            let found = place(&backend.addr);
            if found.is_none_or(|row| row.flags & FLAG_IN_CLUSTER == 0) {
                return wrapped::<F>(skb, flow, frontend, backend, found);
            }
        } else if !geneve::tells() {
            return direct::<F>(skb, flow, frontend, backend);
        } else if let Some(node) = end(place(&backend.addr), &backend.addr) {
            return enclosed::<F>(skb, flow, frontend, backend, node);
        }
        // Whoever is not in the cluster cannot be told, nor be sent what only others take.
        flow.is_one_way = 0;
    }
    service::lead::<F, _>(skb, flow, frontend, backend)?;
    match local {
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

/// To a backend elsewhere, which answers the client itself.
#[inline(always)]
fn direct<F: Family>(skb: Skb, flow: &mut Flow, frontend: &FrontendRow, backend: &BackendRow) -> Step<i32> {
    let found = place(&backend.addr);
    let tells = dsr::tells(flow);
    if tells {
        let (to, more) = match found {
            Some(found) if !found.tunnel.is_none() => (&found.tunnel, deliver::overhead(&found.tunnel)),
            _ => (&backend.addr, 0),
        };
        let mtu = dsr::too_long(skb, flow, to, dsr::size::<F>() + more);
        if mtu != 0 {
            return answer::too_long::<F>(skb, flow, mtu);
        }
    }
    service::lead::<F, _>(skb, flow, frontend, backend)?;
    remember_one_way(flow, found)?;
    if tells {
        dsr::tell::<F, _>(skb, flow)?;
    }
    send_on::<F>(skb, flow, found)
}

/// The node at which a tunnel to a backend ends; `None`: outside the cluster.
#[inline(always)]
fn end<'a>(found: Option<&'a IpcacheRow>, addr: &'a Address) -> Option<&'a Address> {
    match found? {
        found if !found.tunnel.is_none() => Some(&found.tunnel),
        found if identity::is_node(found.identity) => Some(addr),
        _ => None,
    }
}

/// To a backend elsewhere, which answers the client itself, through the overlay, whose header tells the frontend.
#[inline(always)]
fn enclosed<F: Family>(
    skb: Skb,
    flow: &mut Flow,
    frontend: &FrontendRow,
    backend: &BackendRow,
    node: &Address,
) -> Step<i32> {
    let tells = dsr::tells(flow);
    if tells {
        let mtu = dsr::too_long(skb, flow, node, geneve::size::<F>() + deliver::overhead(node));
        if mtu != 0 {
            return answer::too_long::<F>(skb, flow, mtu);
        }
    }
    service::lead::<F, _>(skb, flow, frontend, backend)?;
    remember_one_way(flow, place(&backend.addr))?;
    rewrite::hop::<F, FromWire, _>(skb, flow)?;
    event::forwarded(skb, flow);
    if tells {
        deliver::overlay_telling(skb, flow, node, ipcache::world::<F>())
    } else {
        deliver::overlay(skb, flow, node, ipcache::world::<F>())
    }
}

/// To a backend outside, which answers the client itself, as it is within another header.
#[inline(always)]
fn wrapped<F: Family>(
    skb: Skb,
    flow: &mut Flow,
    frontend: &FrontendRow,
    backend: &BackendRow,
    found: Option<&IpcacheRow>,
) -> Step<i32> {
    let verdict = match ipip::send::<F>(skb, flow, &backend.addr)? {
        Sent::By(verdict) => verdict,
        Sent::TooLong(mtu) => return answer::too_long::<F>(skb, flow, mtu),
    };
    ipip::point(flow, frontend, backend);
    remember_one_way(flow, found)?;
    skb.set_mark(mark::SNAT_DONE);
    event::forwarded(skb, flow);
    event::trace(skb, flow, point::TO_NETWORK);
    Ok(verdict)
}

/// Notes a connection whose answers do not come by here.
#[inline(always)]
fn remember_one_way(flow: &mut Flow, found: Option<&IpcacheRow>) -> Step<()> {
    flow.marks = CT_ONE_WAY;
    flow.dst_identity = found.map_or(0, |row| row.identity);
    let row = conntrack::find(flow);
    conntrack::commit(flow, row, Memory::NONE)
}

/// To a backend on another node, or outside.
#[inline(always)]
fn onwards<F: Family>(skb: Skb, flow: &mut Flow) -> Step<i32> {
    let row = conntrack::find(flow);
    conntrack::commit(flow, row, Memory::NONE)?;
    let found = place(&flow.tuple.dst);
    flow.dst_identity = found.map_or(0, |row| row.identity);
    if found.is_some_and(|found| !found.tunnel.is_none()) {
        // Another node's pod answers into the overlay only what has an address of the overlay.
        let router = if F::IS_V6 { node!(router_ipv6) } else { node!(router_ipv4) };
        snat::lend::<F, _>(skb, flow, &router)?;
    } else if !snat::lend_again::<F, _>(skb, flow)? {
        let own = own::<F>(skb, flow)?;
        snat::lend_anew::<F, _>(skb, flow, own)?;
    }
    send_on::<F>(skb, flow, found)
}

/// The node's address on the way to a packet's destination: of the device that the route leaves by, as the kernel
/// would choose, since the backend has to find back to it; of the one that the packet came in by, where that device
/// has none or is not ours.
#[inline(always)]
fn own<F: Family>(skb: Skb, flow: &Flow) -> Step<&'static Address> {
    let address = |ifindex: u32| {
        // SAFETY: the row is read field by field; user space replaces rows whole.
        unsafe { DEVICE.get(ifindex) }.map(|row| if F::IS_V6 { &row.ipv6 } else { &row.ipv4 })
    };
    let arrival = address(flow.ifindex).ok_or(cause!(NO_DEVICE))?;
    Ok(address(deliver::device::<F>(skb, flow)).filter(|addr| !addr.is_none()).unwrap_or(arrival))
}

/// A packet that [`snat::incoming`] gave back its own destination, which is nobody here: the answer of a
/// backend elsewhere to a client.
#[inline(always)]
pub fn back<F: Family>(skb: Skb, flow: &mut Flow) -> Step<i32> {
    let row = conntrack::find(flow);
    if conntrack::is_forward(flow) {
        // Half translated: from here on it would look like the backend's own.
        return Err(cause!(UNKNOWN_CT));
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
    if (flow.state != reason::REPLY && flow.state != reason::RELATED) || !conntrack::is_of_frontend(row) {
        return Ok(false);
    }
    flow.src_identity = identity::HOST;
    settle::<F>(skb, flow, Some(row), Memory::NONE)?;
    event::trace(skb, flow, point::TO_NETWORK);
    Ok(true)
}
