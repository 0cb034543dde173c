//! A pod's own interface: what the pod sends; and how a packet from elsewhere is admitted to it.

use crate::{
    answer, cause, conntrack, deliver, dsr, event,
    flow::{Flow, Step, kind, same},
    host_stack,
    ipcache::{self, Memory},
    maps::EP_CONFIG,
    nd, node,
    packet::{Skb, at},
    parse::{Ethernet, Family, L2, parse},
    policy,
    rewrite::{self, Destination, FromPod, Source},
    service,
};
use cilium_abi::{
    ct::{CT_DSR, CT_LOOPBACK, CtRow},
    endpoint::{ENDPOINT_HOST, EndpointConfigRow, EndpointRow},
    event::{point, reason},
    identity,
    node::{NODE_ALLOW_LOCALHOST, NODE_TUNNEL, mark},
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
        && (row.is_none()
            || flow.is_syn()
            || (flow.tuple.proto != proto::TCP && conntrack::is_forward(flow)));
    if may_be_service && let Some(frontend) = service::inside(flow) {
        // A connection from a time without the frontend: the packets to come would be taken for its own.
        if let Some(row) = row {
            row.expires = 0;
        }
        if let Err(cause) = service::translate::<F, _>(skb, flow, frontend) {
            return answer::unserved::<F>(skb, flow, frontend, cause);
        }
        if same(&flow.tuple.src, &flow.tuple.dst) {
            return to_itself::<F>(skb, flow);
        }
        row = conntrack::find(flow);
    }
    if host_stack::is_answer(flow, row.as_deref()) {
        return host_stack::answer::<F>(skb, flow, config, row);
    }
    match ipcache::local(&flow.tuple.dst) {
        Some(endpoint) if endpoint.flags & ENDPOINT_HOST == 0 => {
            to_neighbour::<F>(skb, flow, config, row, endpoint)
        }
        Some(_) => {
            if let Some(row) = row.as_deref_mut()
                && flow.state == reason::REPLY
                && row.flags & CT_LOOPBACK != 0
            {
                return back_to_itself::<F>(skb, flow, config, row);
            }
            flow.dst_identity = identity::HOST;
            refuse_overlay(flow, identity::HOST)?;
            if conntrack::is_forward(flow) {
                policy::egress(skb, flow, row.as_deref(), config, identity::HOST)?;
            }
            settle::<F>(skb, flow, row, Memory::NONE)?;
            event::forwarded(skb, flow);
            Ok(deliver::stack(skb, flow, config.identity, point::TO_HOST))
        }
        None => {
            let far = ipcache::far::<F>(&flow.tuple.dst, row.as_deref(), flow.revision);
            flow.dst_identity = far.identity;
            refuse_overlay(flow, far.identity)?;
            if conntrack::is_forward(flow) {
                policy::egress(skb, flow, row.as_deref(), config, far.identity)?;
            }
            let is_answer =
                row.as_deref().is_some_and(conntrack::is_of_frontend) && !conntrack::is_forward(flow);
            settle::<F>(skb, flow, row, far.memory)?;
            if is_answer {
                // The port it has now is a frontend's: no flow of the node holds it.
                skb.set_mark(mark::SNAT_DONE);
            }
            event::forwarded(skb, flow);
            match far.row {
                Some(found) if !found.tunnel.is_none() => {
                    let world = ipcache::world::<F>();
                    deliver::overlay(skb, flow, &found.tunnel, identity::on_wire(config.identity, world))
                }
                _ if host_stack::enabled() && conntrack::is_forward(flow) => {
                    Ok(deliver::stack(skb, flow, config.identity, point::TO_STACK))
                }
                _ => deliver::route::<F>(skb, flow, config.identity),
            }
        }
    }
}

/// A node takes whatever comes to its overlay port from another node's address for encapsulated by that
/// node, sender's identity included; and a pod's packets leave with its node's address.
#[inline(always)]
pub fn refuse_overlay(flow: &Flow, peer: u32) -> Step<()> {
    if identity::is_node(peer)
        && node!(flags) & NODE_TUNNEL != 0
        && flow.tuple.proto == proto::UDP
        && flow.tuple.dst_port == node!(tunnel_port)
    {
        return Err(cause!(ENCAPSULATION_PROHIBITED));
    }
    Ok(())
}

/// From a pod through a service to itself: with the router's address as source, or the pod's stack
/// would take the packet for a forgery. A pod may always reach itself.
#[inline(always)]
fn to_itself<F: Family>(skb: Skb, flow: &mut Flow) -> Step<i32> {
    let router = if F::IS_V6 { node!(router_ipv6) } else { node!(router_ipv4) };
    let port = flow.tuple.src_port;
    flow.dst_identity = flow.src_identity;
    flow.is_loopback = 1;
    rewrite::end::<F, Source, _>(skb, flow, &router, port)?;
    let row = conntrack::find(flow);
    conntrack::commit(flow, row, Memory::NONE)?;
    event::forwarded(skb, flow);
    let endpoint = ipcache::local(&flow.tuple.dst).ok_or(cause!(ENDPOINT_NOT_READY))?;
    deliver::local::<F, FromPod>(skb, flow, endpoint)
}

/// The answer to what [`to_itself`] sent: from the frontend again, to the pod's own address.
#[inline(always)]
fn back_to_itself<F: Family>(
    skb: Skb,
    flow: &mut Flow,
    config: &EndpointConfigRow,
    row: &mut CtRow,
) -> Step<i32> {
    let own = if F::IS_V6 { config.ipv6 } else { config.ipv4 };
    let (rev_nat, port) = (row.rev_nat, flow.tuple.dst_port);
    flow.dst_identity = flow.src_identity;
    conntrack::commit(flow, Some(row), Memory::NONE)?;
    service::restore::<F, _>(skb, flow, rev_nat)?;
    rewrite::end::<F, Destination, _>(skb, flow, &own, port)?;
    event::forwarded(skb, flow);
    let endpoint = ipcache::local(&own).ok_or(cause!(ENDPOINT_NOT_READY))?;
    deliver::local::<F, FromPod>(skb, flow, endpoint)
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
        policy::egress(skb, flow, row.as_deref(), config, endpoint.identity)?;
        event::forwarded(skb, flow);
        let to = self::config(endpoint.ifindex)?;
        policy::ingress(skb, flow, row.as_deref(), to, config.identity, false)?;
    } else {
        event::forwarded(skb, flow);
        let target = self::config(endpoint.ifindex)?;
        flow.direction = cilium_abi::metrics::DIRECTION_INGRESS;
        flow.endpoint_id = target.endpoint_id;
    }
    settle::<F>(skb, flow, row, Memory::NONE)?;
    event::forwarded(skb, flow);
    deliver::local::<F, FromPod>(skb, flow, endpoint)
}

/// Records an allowed packet and, for replies, puts the frontend's address back.
#[inline(always)]
pub fn settle<F: Family>(skb: Skb, flow: &mut Flow, row: Option<&mut CtRow>, memory: Memory) -> Step<()> {
    let (rev_nat, marks) = match row.as_deref() {
        Some(row) if !conntrack::is_forward(flow) => (row.rev_nat, row.flags),
        _ => (0, 0),
    };
    conntrack::commit(flow, row, memory)?;
    if rev_nat == 0 && marks & CT_DSR == 0 { Ok(()) } else { dsr::restore::<F>(skb, flow, rev_nat) }
}

/// Who sent a packet.
#[derive(Clone, Copy)]
pub struct Sender {
    /// Its identity.
    pub identity: u32,
    /// What the connection may remember of it.
    pub memory: Memory,
    /// Whether the packet itself tells (by mark or tunnel), so that the next one may tell otherwise.
    pub is_told: bool,
}

/// Admits a packet to a pod of this node from somewhere else: conntrack, ingress policy, and the
/// way back through a service. `source` names the sender when policy has to be asked.
#[inline(always)]
pub fn admit<F: Family>(
    skb: Skb,
    flow: &mut Flow,
    config: &EndpointConfigRow,
    source: impl FnOnce(&Flow, Option<&CtRow>) -> Sender,
) -> Step<()> {
    flow.tick();
    flow.endpoint_id = config.endpoint_id;
    flow.dst_identity = config.identity;
    let row = conntrack::find(flow);
    let mut memory = Memory::NONE;
    if conntrack::is_forward(flow) {
        let Sender { identity: peer, memory: found, is_told } = source(flow, row.as_deref());
        memory = found;
        flow.src_identity = peer;
        let trusted = peer == identity::HOST && node!(flags) & NODE_ALLOW_LOCALHOST != 0;
        policy::ingress(skb, flow, row.as_deref().filter(|_| !is_told), config, peer, trusted)?;
        if is_told {
            flow.allowed = 0;
        }
    } else if let Some(row) = row.as_deref() {
        flow.src_identity = row.identity;
    }
    settle::<F>(skb, flow, row, memory)?;
    dsr::remember(flow)?;
    event::forwarded(skb, flow);
    Ok(())
}

/// The sender of a packet from the host's stack or the network: an endpoint of this node, or far.
#[inline(always)]
pub fn source<F: Family>(flow: &Flow, row: Option<&CtRow>) -> Sender {
    if let Some(endpoint) = ipcache::local(&flow.tuple.src) {
        return Sender { identity: endpoint.identity, memory: Memory::NONE, is_told: false };
    }
    let far = ipcache::far::<F>(&flow.tuple.src, row, flow.revision);
    Sender { identity: far.identity, memory: far.memory, is_told: false }
}
