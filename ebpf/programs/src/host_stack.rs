//! The way through the host's stack, for the sake of netfilter there: what a kube-proxy translates, say, it has to
//! see in both directions.
//!
//! So pods' packets beyond this node's pods and the overlay go up to the stack, and so does what devices receive for
//! pods: all of it comes to them by `cilium_host`. Connections that come from there are remembered as such
//! ([`CT_STACK`]), and their answers go back the same way, wherever to. Who sent a packet goes with it in the mark:
//! its source may be another's when it comes back.

use crate::{
    conntrack,
    container::{refuse_overlay, settle},
    deliver, event,
    flow::{Flow, Step, kind, same},
    ipcache::{self, Memory},
    netdev::is_near,
    node,
    packet::Skb,
    parse::Family,
    snat,
};
use cilium_abi::{
    ct::{CT_STACK, CtRow},
    endpoint::{ENDPOINT_HOST, EndpointConfigRow},
    event::point,
    identity,
    node::NODE_HOST_STACK,
    proto,
};

/// Whether pods' packets go through it.
#[inline(always)]
pub fn enabled() -> bool {
    node!(flags) & NODE_HOST_STACK != 0
}

/// What a connection's flags say of a packet that opens it.
#[inline(always)]
pub fn connection(flow: &Flow) -> u16 {
    if enabled() && flow.is_from_stack != 0 { CT_STACK } else { 0 }
}

/// Whether a packet answers on a connection that came from the stack.
#[inline(always)]
pub fn is_answer(flow: &Flow, row: Option<&CtRow>) -> bool {
    enabled() && !conntrack::is_forward(flow) && row.is_some_and(|row| row.flags & CT_STACK != 0)
}

/// A pod's packet that [`is_answer`].
#[inline(always)]
pub fn answer<F: Family>(
    skb: Skb,
    flow: &mut Flow,
    config: &EndpointConfigRow,
    row: Option<&mut CtRow>,
) -> Step<i32> {
    flow.dst_identity = match ipcache::local(&flow.tuple.dst) {
        Some(endpoint) => endpoint.identity,
        None => ipcache::far::<F>(&flow.tuple.dst, None, 0).identity,
    };
    refuse_overlay(flow, flow.dst_identity)?;
    settle::<F>(skb, flow, row, Memory::NONE)?;
    event::forwarded(skb, flow);
    Ok(deliver::stack(skb, flow, config.identity, point::TO_STACK))
}

/// The sender of what a device received, for the mark. Whoever has an address that nobody outside has is the world.
#[inline(always)]
pub fn outsider<F: Family>(flow: &Flow) -> u32 {
    if is_near(flow) { ipcache::world::<F>() } else { ipcache::far::<F>(&flow.tuple.src, None, 0).identity }
}

/// The sender of a packet without a mark on its way to a pod. What came in by an interface and has an address of the
/// node was given it by netfilter: it may be anybody's.
#[inline(always)]
pub fn unmarked<F: Family>(skb: Skb, sender: u32) -> u32 {
    if enabled() && sender == identity::HOST && skb.is_received() { ipcache::world::<F>() } else { sender }
}

/// Whether processes of the node that use another address of it than the router's borrow the router's: other nodes'
/// pods answer into the overlay only what has an address of the overlay. Without masquerading they answer as they
/// were asked, so that it cannot be told who asked.
#[inline(always)]
pub fn lends<F: Family>() -> bool {
    enabled() && snat::enabled::<F>()
}

/// Whether another node's netfilter masquerades the packet of somebody with this identity, if it has that node's
/// address.
#[inline(always)]
pub fn is_lent(wire: u32) -> bool {
    enabled() && !identity::is_node(wire)
}

/// A packet that the stack sends into the overlay.
#[inline(always)]
pub fn into_overlay<F: Family>(skb: Skb, flow: &mut Flow) -> Step<()> {
    let Some(sender) = ipcache::local(&flow.tuple.src) else { return Ok(()) };
    flow.tick();
    if sender.flags & ENDPOINT_HOST == 0 {
        let row = conntrack::find(flow);
        return conntrack::commit(flow, row, Memory::NONE);
    }
    let router = if F::IS_V6 { node!(router_ipv6) } else { node!(router_ipv4) };
    if !lends::<F>() || router.is_none() {
        return Ok(());
    }
    if same(&flow.tuple.src, &router) {
        return snat::hold::<F>(skb, flow, &router);
    }
    let is_echo = flow.kind == kind::ECHO && flow.is_echo_request();
    let is_ports = flow.kind == kind::PORTS && flow.tuple.proto != proto::SCTP;
    let is_open = flow.tuple.proto != proto::TCP || flow.is_syn() || snat::lent(&flow.tuple).is_some();
    if (is_echo || is_ports) && is_open { snat::lend::<F, _>(skb, flow, &router) } else { Ok(()) }
}

/// What came out of the overlay for a pod, if it answers on a connection that the stack sent there.
#[inline(always)]
pub fn out_of_overlay<F: Family>(skb: Skb, flow: &mut Flow) -> Step<Option<i32>> {
    flow.tick();
    let row = conntrack::find(flow);
    if !is_answer(flow, row.as_deref()) {
        return Ok(None);
    }
    settle::<F>(skb, flow, row, Memory::NONE)?;
    event::forwarded(skb, flow);
    Ok(Some(deliver::stack(skb, flow, flow.src_identity, point::TO_STACK)))
}
