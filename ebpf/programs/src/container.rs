//! A pod's own interface: what it sends, and what the host's stack sends to it.

use crate::{
    cause, conntrack, deliver,
    deliver::PASS,
    event,
    flow::{Flow, Step, kind, same},
    ipcache,
    maps::EP_CONFIG,
    nd, node,
    packet::{Skb, at},
    parse::{Ethernet, Family, L2, parse},
    policy,
    rewrite::FromPod,
    service,
};
use cilium_abi::{
    ct::CtRow,
    endpoint::{ENDPOINT_HOST, EndpointConfigRow, EndpointRow},
    event::point,
    identity,
    node::NODE_ALLOW_LOCALHOST,
    proto,
};

/// The configuration of the pod behind an interface. None: the pod is closed.
#[inline(always)]
pub fn config(ifindex: u32) -> Step<&'static EndpointConfigRow> {
    // SAFETY: the row is read field by field; user space replaces rows whole.
    unsafe { EP_CONFIG.get(ifindex) }.ok_or(cause!(ENDPOINT_NOT_READY))
}

/// Whether the frame's source is the pod's hardware address.
#[inline(always)]
pub fn is_from(skb: Skb, config: &EndpointConfigRow) -> bool {
    let Some(ethernet) = at::<Ethernet, Skb>(skb, 0) else { return false };
    // SAFETY: `at` proved the header lies inside the packet; the row's field is two-byte aligned.
    let (seen, want) = unsafe { ((*ethernet).src, *(&raw const config.mac.0).cast::<[u16; 3]>()) };
    ((seen[0] ^ want[0]) | (seen[1] ^ want[1]) | (seen[2] ^ want[2])) == 0
}

/// A packet that a pod sent.
#[inline(always)]
pub fn from<F: Family>(skb: Skb, flow: &mut Flow, config: &EndpointConfigRow) -> Step<i32> {
    parse::<F, L2, Skb>(skb, flow)?;
    if !is_from(skb, config) {
        return Err(cause!(INVALID_SOURCE_MAC));
    }
    if F::IS_V6 && nd::is_link_message(flow) {
        return nd::answer(skb, flow, config);
    }
    let own = if F::IS_V6 { &config.ipv6 } else { &config.ipv4 };
    if own.is_none() || !same(own, &flow.tuple.src) {
        return Err(cause!(INVALID_SOURCE_IP));
    }
    event::received(skb, flow, point::FROM_ENDPOINT);
    flow.tick();
    let mut row = conntrack::find(flow);
    // A TCP connection known under its own addresses goes to no frontend: one lookup less.
    let may_be_service = flow.kind == kind::PORTS
        && (row.is_none() || flow.is_syn() || (flow.tuple.proto != proto::TCP && conntrack::is_forward(flow)));
    if may_be_service && service::translate::<F>(skb, flow)? {
        row = conntrack::find(flow);
    }
    match ipcache::local(&flow.tuple.dst) {
        Some(endpoint) if endpoint.flags & ENDPOINT_HOST == 0 => to_neighbour::<F>(skb, flow, config, row, endpoint),
        Some(_) => {
            flow.dst_identity = identity::HOST;
            if conntrack::is_forward(flow) {
                policy::egress(skb, flow, config, identity::HOST)?;
            }
            settle::<F>(skb, flow, row, 0, 0)?;
            event::forwarded(skb, flow);
            Ok(deliver::stack(skb, flow, config.identity, point::TO_HOST))
        }
        None => {
            let revision = ipcache::revision();
            let far = ipcache::far::<F>(&flow.tuple.dst, row.as_deref(), revision);
            flow.dst_identity = far.identity;
            if conntrack::is_forward(flow) {
                policy::egress(skb, flow, config, far.identity)?;
            }
            if let Some(row) = row.as_deref_mut() {
                ipcache::remember(row, &far, revision);
            }
            let memory = if far.memorable { far.identity } else { 0 };
            settle::<F>(skb, flow, row, memory, revision)?;
            event::forwarded(skb, flow);
            match far.row {
                Some(found) if !found.tunnel.is_none() => {
                    let world = ipcache::world::<F>();
                    deliver::overlay(skb, flow, &found.tunnel, identity::on_wire(config.identity, world))
                }
                _ => deliver::route::<F>(skb, flow, config.identity),
            }
        }
    }
}

/// From one pod of this node to another: both policies, then straight in.
#[inline(always)]
fn to_neighbour<F: Family>(
    skb: Skb,
    flow: &mut Flow,
    config: &EndpointConfigRow,
    row: Option<&mut CtRow>,
    endpoint: &EndpointRow,
) -> Step<i32> {
    flow.dst_identity = endpoint.identity;
    if conntrack::is_forward(flow) {
        policy::egress(skb, flow, config, endpoint.identity)?;
        event::forwarded(skb, flow);
        policy::ingress(skb, flow, self::config(endpoint.ifindex)?, config.identity)?;
    } else {
        event::forwarded(skb, flow);
        let target = self::config(endpoint.ifindex)?;
        flow.direction = cilium_abi::metrics::DIRECTION_INGRESS;
        flow.endpoint_id = target.endpoint_id;
    }
    settle::<F>(skb, flow, row, 0, 0)?;
    event::forwarded(skb, flow);
    deliver::local::<F, FromPod>(skb, flow, endpoint)
}

/// Records an allowed packet and, for replies, puts the frontend's address back.
#[inline(always)]
pub fn settle<F: Family>(
    skb: Skb,
    flow: &mut Flow,
    row: Option<&mut CtRow>,
    memory: u32,
    revision: u32,
) -> Step<()> {
    let rev_nat = match row.as_deref() {
        Some(row) if !conntrack::is_forward(flow) => row.rev_nat,
        _ => 0,
    };
    conntrack::commit(flow, row, memory, revision)?;
    if rev_nat == 0 { Ok(()) } else { service::restore::<F>(skb, flow, rev_nat) }
}

/// Admits a packet to a pod of this node from somewhere else: conntrack, ingress policy, and the
/// way back through a service. `source` names the sender when policy has to be asked.
#[inline(always)]
pub fn admit<F: Family>(
    skb: Skb,
    flow: &mut Flow,
    config: &EndpointConfigRow,
    source: impl FnOnce(&Flow, Option<&mut CtRow>) -> (u32, u32, u32),
) -> Step<()> {
    flow.tick();
    flow.endpoint_id = config.endpoint_id;
    flow.dst_identity = config.identity;
    let mut row = conntrack::find(flow);
    let (mut memory, mut revision) = (0, 0);
    if conntrack::is_forward(flow) {
        let peer;
        (peer, memory, revision) = source(flow, row.as_deref_mut());
        flow.src_identity = peer;
        if !(peer == identity::HOST && node!(flags) & NODE_ALLOW_LOCALHOST != 0) {
            policy::ingress(skb, flow, config, peer)?;
        }
    } else if let Some(row) = row.as_deref() {
        flow.src_identity = row.identity;
    }
    settle::<F>(skb, flow, row, memory, revision)?;
    event::forwarded(skb, flow);
    Ok(())
}

/// A packet that leaves the host side towards the pod.
#[inline(always)]
pub fn to<F: Family>(skb: Skb, flow: &mut Flow, config: &EndpointConfigRow) -> Step<i32> {
    parse::<F, L2, Skb>(skb, flow)?;
    // The host's side of the link talks to the pod's: answers of ours, and the stack's chatter.
    if F::IS_V6 && nd::is_from_link(flow) {
        return Ok(PASS);
    }
    let marked = deliver::marked_identity(skb.mark());
    admit::<F>(skb, flow, config, |flow, row| match marked {
        Some(identity) => (identity, 0, 0),
        None => source::<F>(flow, row),
    })?;
    event::trace(skb, flow, point::TO_ENDPOINT);
    Ok(PASS)
}

/// The sender of a packet from the host's stack or the network: an endpoint of this node, or far.
/// Gives its identity, and what the connection may remember of it at which revision.
#[inline(always)]
pub fn source<F: Family>(flow: &Flow, row: Option<&mut CtRow>) -> (u32, u32, u32) {
    if let Some(endpoint) = ipcache::local(&flow.tuple.src) {
        return (endpoint.identity, 0, 0);
    }
    let revision = ipcache::revision();
    let far = ipcache::far::<F>(&flow.tuple.src, row.as_deref(), revision);
    if let Some(row) = row {
        ipcache::remember(row, &far, revision);
    }
    (far.identity, if far.memorable { far.identity } else { 0 }, revision)
}

