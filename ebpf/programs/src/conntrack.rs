//! Connection tracking: which connection a packet belongs to, and who opened it.
//!
//! One entry serves both directions (see [`cilium_abi::ct`]). Nothing here allows or denies; a
//! caller that denies must not call [`commit`].

use crate::{
    cause, event,
    flow::{ALLOWED_EGRESS, ALLOWED_INGRESS, FIN, Flow, RST, SYN, Step, kind, same},
    host_stack,
    ipcache::Memory,
    maps::{CT_ANY, CT_TCP},
    node,
};
use cilium_abi::{
    ct::{
        CT_CLOSING_FORWARD, CT_CLOSING_REPLY, CT_DSR, CT_INITIATOR_HIGH, CT_LOOPBACK, CT_ONE_WAY, CT_RESET,
        CT_SEEN_REPLY, CT_STACK, CtKey, CtRow, KIND_CONNECTION,
    },
    event::reason,
    node::NODE_EVENT_TRACE,
    proto,
};
use core::ptr::{from_mut, null_mut};

/// Flags of an entry on which a SYN opens a new connection.
pub const CLOSING: u16 = CT_CLOSING_FORWARD | CT_CLOSING_REPLY | CT_RESET;

/// The live entry under a key, if any.
#[inline(always)]
pub fn lookup(key: &CtKey, now: u32) -> Option<&'static mut CtRow> {
    let row = if key.proto == proto::TCP { CT_TCP.get_ptr_mut(key) } else { CT_ANY.get_ptr_mut(key) }?;
    // SAFETY: map memory stays mapped while the program runs. Other CPUs may write the same entry;
    // every field is one word and each value either side leaves is valid.
    let row = unsafe { &mut *row };
    (row.expires >= now).then_some(row)
}

/// Writes a whole entry.
#[inline(always)]
pub fn write(key: &CtKey, row: &CtRow) -> bool {
    if key.proto == proto::TCP {
        CT_TCP.insert(key, row, 0).is_ok()
    } else {
        CT_ANY.insert(key, row, 0).is_ok()
    }
}

/// The packet's connection, as it was before the packet; also sets [`Flow::state`].
#[inline(always)]
pub fn find(flow: &mut Flow) -> Option<&'static mut CtRow> {
    if flow.kind == kind::ICMP_ERROR {
        let (key, _) = flow.inner.key(KIND_CONNECTION);
        // An error goes to the sender of what it is about; any other would be a packet to whomever
        // its author likes, that no policy saw.
        let row = if same(&flow.inner.src, &flow.tuple.dst) { lookup(&key, flow.now) } else { None };
        flow.state = if row.is_some() { reason::RELATED } else { reason::NEW };
        return row;
    }
    let (key, from_high) = flow.tuple.key(KIND_CONNECTION);
    let Some(row) = lookup(&key, flow.now) else {
        flow.state = reason::NEW;
        return None;
    };
    let same_way = (row.flags & CT_INITIATOR_HIGH != 0) == from_high;
    flow.state = if flow.is_syn() {
        // A retransmitted SYN of a connection that lives goes on; any other opens a new one.
        if same_way && row.flags & CLOSING == 0 { reason::ESTABLISHED } else { reason::NEW }
    } else if same_way {
        reason::ESTABLISHED
    } else if flow.kind == kind::ECHO && flow.tuple.dst_port.0 == 0 && flow.is_echo_request() {
        // With identifier 0 both directions' requests share a key; a request is never a reply.
        reason::NEW
    } else {
        reason::REPLY
    };
    Some(row)
}

/// Whether replies leave with the address of a frontend.
#[inline(always)]
pub fn is_of_frontend(row: &CtRow) -> bool {
    row.rev_nat != 0 || row.flags & CT_DSR != 0
}

/// Whether policy decides on this packet: all but replies and errors about known connections.
#[inline(always)]
pub fn is_forward(flow: &Flow) -> bool {
    flow.state != reason::REPLY && flow.state != reason::RELATED
}

/// Records an allowed packet: creates or rebuilds the entry, or refreshes it.
#[inline(always)]
pub fn commit(flow: &mut Flow, row: Option<&mut CtRow>, memory: Memory) -> Step<()> {
    if flow.kind == kind::ICMP_ERROR {
        flow.report = 1;
        return Ok(());
    }
    let row = row.map_or(null_mut(), from_mut);
    // SAFETY: this CPU's flow, and a row of a map or none.
    if unsafe { conntrack_commit(flow, row, memory.identity, memory.revision) } == 0 {
        Ok(())
    } else {
        Err(cause!(CT_INSERT_FAILED))
    }
}

/// A subprogram of its own, which the verifier checks once.
///
/// # Safety
/// `flow` must be null or this CPU's flow, `row` null or its connection's entry.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn conntrack_commit(flow: *mut Flow, row: *mut CtRow, identity: u32, revision: u32) -> u32 {
    // SAFETY: as the caller promises.
    let (flow, row) = unsafe { (flow.as_mut(), row.as_mut()) };
    match (flow, row) {
        (Some(flow), Some(row)) if flow.state != reason::NEW => {
            touch(flow, row);
            if flow.allowed & ALLOWED_EGRESS != 0 {
                row.allowed_egress = flow.revision;
            }
            if flow.allowed & ALLOWED_INGRESS != 0 {
                row.allowed_ingress = flow.revision;
            }
            if identity != 0 && (row.revision != revision || row.identity != identity) {
                row.identity = identity;
                row.revision = revision;
            }
            0
        }
        (Some(flow), _) => create(flow, identity, revision),
        (None, _) => 1,
    }
}

/// Writes a new entry; 0: done.
#[inline(always)]
fn create(flow: &mut Flow, identity: u32, revision: u32) -> u32 {
    let (key, from_high) = flow.tuple.key(KIND_CONNECTION);
    let lifetime = match (flow.tuple.proto == proto::TCP, flow.is_syn()) {
        // The end of a connection that was not seen.
        (true, false) if flow.tcp_flags & (FIN | RST) != 0 => node!(ct_fin),
        (true, true) => node!(ct_syn),
        (true, false) => node!(ct_tcp),
        (false, _) => node!(ct_any),
    };
    let row = CtRow {
        expires: flow.now + lifetime,
        flags: if from_high { CT_INITIATOR_HIGH } else { 0 }
            | if flow.is_loopback != 0 { CT_LOOPBACK } else { 0 }
            | host_stack::connection(flow)
            | flow.marks,
        rev_nat: flow.rev_nat,
        backend: 0,
        identity,
        revision,
        allowed_egress: if flow.allowed & ALLOWED_EGRESS != 0 { flow.revision } else { 0 },
        allowed_ingress: if flow.allowed & ALLOWED_INGRESS != 0 { flow.revision } else { 0 },
        reported_forward: flow.now,
        reported_reply: 0,
        seen_forward: flow.tcp_flags,
        seen_reply: 0,
        looked: 0,
    };
    flow.report = 1;
    !write(&key, &row) as u32
}

/// Refreshes an entry; writes only what changes, since other CPUs read the same cache line.
#[inline(always)]
fn touch(flow: &mut Flow, row: &mut CtRow) {
    let is_reply = flow.state == reason::REPLY;
    let (now, tcp_flags) = (flow.now, flow.tcp_flags);
    let mut flags = row.flags;
    let mut lifetime = node!(ct_any);
    if is_reply {
        flags |= CT_SEEN_REPLY;
    }
    // Before the lifetime, which they decide on: who asks anew may be answered another way than before.
    if !is_reply && (flow.tuple.proto != proto::TCP || flow.is_syn()) {
        flags = flags & !(CT_ONE_WAY | CT_DSR) | flow.marks;
    }
    if flow.tuple.proto == proto::TCP {
        if tcp_flags & (FIN | RST) != 0 {
            if tcp_flags & RST != 0 {
                flags |= CT_RESET;
            } else if is_reply {
                flags |= CT_CLOSING_REPLY;
            } else {
                flags |= CT_CLOSING_FORWARD;
            }
        }
        let both = CT_CLOSING_FORWARD | CT_CLOSING_REPLY;
        // Of a connection whose replies go elsewhere only one side is seen.
        let is_one_way = flags & CT_ONE_WAY != 0;
        let is_over = flags & both == both || (is_one_way && flags & CT_CLOSING_FORWARD != 0);
        lifetime = if flags & CT_RESET != 0 || is_over {
            node!(ct_fin)
        } else if flags & CT_SEEN_REPLY != 0
            || row.seen_forward & SYN == 0
            || (is_one_way && tcp_flags & SYN == 0)
        {
            node!(ct_tcp)
        } else {
            node!(ct_syn)
        };
    }
    if !is_reply && row.rev_nat != flow.rev_nat && (flow.tuple.proto != proto::TCP || flow.is_syn()) {
        row.rev_nat = flow.rev_nat;
    }
    if host_stack::enabled() && !is_reply && (flow.tuple.proto != proto::TCP || flow.is_syn()) {
        flags = flags & !CT_STACK | host_stack::connection(flow);
    }
    if flags != row.flags {
        row.flags = flags;
    }
    if row.expires != now + lifetime {
        row.expires = now + lifetime;
    }
    let (seen, reported) = if is_reply {
        (row.seen_reply, row.reported_reply)
    } else {
        (row.seen_forward, row.reported_forward)
    };
    let fresh = tcp_flags & !seen;
    let due = node!(flags) & NODE_EVENT_TRACE != 0
        && (fresh & event::notable_flags() != 0 || now - reported >= node!(trace_interval));
    if fresh != 0 || due {
        if due {
            flow.report = 1;
        }
        if is_reply {
            row.seen_reply = seen | tcp_flags;
            row.reported_reply = if due { now } else { reported };
        } else {
            row.seen_forward = seen | tcp_flags;
            row.reported_forward = if due { now } else { reported };
        }
    }
}
