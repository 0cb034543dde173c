//! Asking policy. Nothing found means no.

use crate::{
    cause, event,
    flow::{ALLOWED_EGRESS, ALLOWED_INGRESS, Flow, Step, kind},
    maps::POLICY,
    packet::Skb,
};
use cilium_abi::{
    ct::CtRow,
    endpoint::{
        CONFIG_EGRESS_NO_ANY, CONFIG_EGRESS_NO_PEERS, CONFIG_INGRESS_NO_ANY, CONFIG_INGRESS_NO_PEERS,
        CONFIG_OPEN_EGRESS, CONFIG_OPEN_INGRESS, EndpointConfigRow,
    },
    event::{VERDICT_ALLOW, reason},
    metrics::{DIRECTION_EGRESS, DIRECTION_INGRESS},
    policy::{ALLOW, ANY_ROWS, DENY, EGRESS, PEER_ROWS, decide_among},
};

/// Whether the endpoint may send to `peer`, as `row` remembers or policy says. `peer` must come from rows
/// that have a revision.
#[inline(always)]
pub fn egress(
    skb: Skb,
    flow: &mut Flow,
    row: Option<&CtRow>,
    config: &EndpointConfigRow,
    peer: u32,
) -> Step<()> {
    if config.flags & CONFIG_OPEN_EGRESS != 0 || remembers(flow, row.map(|row| row.allowed_egress)) {
        return Ok(());
    }
    ask(skb, flow, config.policy_id, EGRESS | ladders(config.flags / CONFIG_EGRESS_NO_PEERS), peer, false)?;
    flow.allowed |= ALLOWED_EGRESS;
    Ok(())
}

/// Whether a packet of this connection was allowed since the last change of anything that the verdict
/// depends on. Only where the key of conntrack holds all that policy looks at: ICMP types are not in it.
#[inline(always)]
fn remembers(flow: &Flow, allowed: Option<u32>) -> bool {
    flow.state == reason::ESTABLISHED
        && flow.kind == kind::PORTS
        && allowed.is_some_and(|revision| revision != 0 && revision == flow.revision)
}

/// Whether the endpoint may receive from `peer`, as [`egress`]; `row` is `None` where the peer is what the
/// packet says it is. One who is `trusted` needs no rule that allows it. From here on events are about this endpoint.
#[inline(always)]
pub fn ingress(
    skb: Skb,
    flow: &mut Flow,
    row: Option<&CtRow>,
    config: &EndpointConfigRow,
    peer: u32,
    trusted: bool,
) -> Step<()> {
    flow.direction = DIRECTION_INGRESS;
    flow.endpoint_id = config.endpoint_id;
    if config.flags & CONFIG_OPEN_INGRESS != 0 || remembers(flow, row.map(|row| row.allowed_ingress)) {
        return Ok(());
    }
    ask(skb, flow, config.policy_id, ladders(config.flags / CONFIG_INGRESS_NO_PEERS), peer, trusted)?;
    flow.allowed |= ALLOWED_INGRESS;
    Ok(())
}

/// The ladders that have rows, given a direction's two hints in the lowest bits.
#[inline(always)]
const fn ladders(hints: u16) -> u8 {
    (PEER_ROWS | ANY_ROWS) & !(hints as u8)
}

const _: () = assert!(
    CONFIG_EGRESS_NO_ANY == CONFIG_EGRESS_NO_PEERS * 2
        && CONFIG_INGRESS_NO_ANY == CONFIG_INGRESS_NO_PEERS * 2
        && PEER_ROWS == 1
        && ANY_ROWS == 2
);

/// `direction` is [`EGRESS`] or 0, with the ladders in its lowest bits.
#[inline(always)]
fn ask(skb: Skb, flow: &mut Flow, policy_id: u32, direction: u8, peer: u32, trusted: bool) -> Step<()> {
    // SAFETY: this CPU's flow.
    let found = unsafe { policy_lookup(flow, policy_id, direction as u32, peer) };
    let found = if trusted && found != DENY as u32 { ALLOW as u32 } else { found };
    if found == ALLOW as u32 && flow.state != reason::NEW {
        return Ok(());
    }
    tell(skb, flow, found)
}

/// The rare rest: a new connection's verdict, or a refusal.
#[inline(always)]
fn tell(skb: Skb, flow: &mut Flow, found: u32) -> Step<()> {
    let way = if flow.direction == DIRECTION_INGRESS { DIRECTION_INGRESS } else { DIRECTION_EGRESS };
    if found == ALLOW as u32 {
        event::verdict(skb, flow, way, VERDICT_ALLOW);
        return Ok(());
    }
    let cause = if found == DENY as u32 { cause!(POLICY_DENIED_BY_DENYLIST) } else { cause!(POLICY_DENIED) };
    event::refused(skb, flow, way, cause);
    Err(cause)
}

/// A subprogram of its own, which the verifier checks once.
///
/// # Safety
/// `flow` must be null or this CPU's flow.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn policy_lookup(flow: *mut Flow, policy_id: u32, direction: u32, peer: u32) -> u32 {
    // SAFETY: as the caller promises.
    let Some(flow) = (unsafe { flow.as_mut() }) else { return 0 };
    let found = decide_among(
        // SAFETY: a row is copied at once; it may change meanwhile, as at any other moment.
        |key| unsafe { POLICY.get(key).copied() },
        direction as u8,
        policy_id,
        direction as u8 & EGRESS,
        peer,
        flow.tuple.proto,
        flow.policy_port,
    );
    flow.cookie = found.row.cookie;
    flow.matched = found.matched;
    found.row.verdict as u32
}
