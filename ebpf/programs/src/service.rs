//! Services, translated on the client's node: frontend to backend on the way out, and back again
//! for replies.

use crate::{
    cause,
    conntrack::{self, CLOSING},
    flow::{FIN, Flow, RST, Step, kind, same},
    maps::{BACKEND, FRONTEND, REVNAT, SLOT},
    node,
    packet::Skb,
    parse::Family,
    rewrite::{self, Destination, Source},
};
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use cilium_abi::{
    ct::{CT_CLOSING_FORWARD, CT_RESET, CtRow, KIND_SERVICE},
    lb::{BACKEND_TERMINATING, BackendRow, FrontendKey, SCOPE_EXTERNAL, SlotKey},
    proto,
};

/// Slots tried before a service counts as without backend: a list is read while it is replaced.
const TRIES: u32 = 4;

/// Translates a packet to a frontend and says so; leaves any other alone.
#[inline(always)]
pub fn translate<F: Family>(skb: Skb, flow: &mut Flow) -> Step<bool> {
    let key = FrontendKey {
        addr: flow.tuple.dst,
        port: flow.tuple.dst_port,
        proto: flow.tuple.proto,
        scope: SCOPE_EXTERNAL,
    };
    // SAFETY: the row is read field by field; user space replaces rows whole.
    let Some(frontend) = (unsafe { FRONTEND.get(key) }) else { return Ok(false) };
    // SAFETY: this CPU's flow.
    let backend =
        unsafe { service_choose(flow, frontend.list, frontend.count as u32, frontend.rev_nat as u32) };
    // SAFETY: as above.
    let Some(backend) = (unsafe { BACKEND.get(backend) }) else { return Err(cause!(NO_SERVICE_BACKEND)) };
    flow.keep(flow.tuple.dst);
    flow.rev_nat = frontend.rev_nat;
    flow.policy_port = backend.port;
    rewrite::end::<F, Destination>(skb, flow, &backend.addr, backend.port)?;
    Ok(true)
}

/// The backend's number: the one the connection has, or one by chance; 0 if there is none.
///
/// # Safety
/// `flow` must be null or this CPU's flow.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn service_choose(flow: *mut Flow, list: u32, count: u32, rev_nat: u32) -> u32 {
    // SAFETY: as the caller promises.
    let Some(flow) = (unsafe { flow.as_mut() }) else { return 0 };
    let is_tcp = flow.tuple.proto == proto::TCP;
    let is_syn = flow.is_syn();
    let (key, _) = flow.tuple.key(KIND_SERVICE);
    let lifetime = match (is_tcp, is_syn) {
        (true, true) => node!(ct_syn),
        (true, false) => node!(ct_tcp),
        (false, _) => node!(ct_any),
    };
    let row = conntrack::lookup(&key, flow.now);
    if let Some(row) = row
        && let Some(known) = backend(row.backend)
        && !(is_syn && (row.flags & CLOSING != 0 || known.flags & BACKEND_TERMINATING != 0))
    {
        if flow.tcp_flags & (FIN | RST) != 0 {
            row.flags |= if flow.tcp_flags & RST != 0 { CT_RESET } else { CT_CLOSING_FORWARD };
        }
        let lifetime = if row.flags & CT_RESET != 0 { node!(ct_fin) } else { lifetime };
        if row.expires != flow.now + lifetime {
            row.expires = flow.now + lifetime;
        }
        return row.backend;
    }
    if count == 0 {
        return 0;
    }
    for _ in 0..TRIES {
        // SAFETY: a helper without arguments.
        let slot = unsafe { bpf_get_prandom_u32() } % count;
        // SAFETY: one word, read at once.
        let Some(number) = (unsafe { SLOT.get(SlotKey { list, slot }) }).copied() else { continue };
        if backend(number).is_none() {
            continue;
        }
        let row = CtRow {
            expires: flow.now + lifetime,
            rev_nat: rev_nat as u16,
            backend: number,
            seen_forward: flow.tcp_flags,
            ..CtRow::default()
        };
        return if conntrack::write(&key, &row) { number } else { 0 };
    }
    0
}

#[inline(always)]
fn backend(number: u32) -> Option<&'static BackendRow> {
    // SAFETY: the row is read field by field; user space replaces rows whole.
    unsafe { BACKEND.get(number) }
}

/// Gives a reply the frontend's address as its source, if the connection went through one.
#[inline(always)]
pub fn restore<F: Family>(skb: Skb, flow: &mut Flow, rev_nat: u16) -> Step<()> {
    // SAFETY: as above.
    let Some(row) = (unsafe { REVNAT.get(rev_nat as u32) }) else { return Ok(()) };
    if flow.kind == kind::ICMP_ERROR {
        // Told to the client, about a packet it sent to the frontend. Who tells it stays as it is.
        return if same(&flow.inner.src, &flow.tuple.dst) {
            rewrite::embedded::<F, Destination>(skb, flow, &row.addr, row.port)
        } else {
            Ok(())
        };
    }
    flow.keep(flow.tuple.src);
    rewrite::end::<F, Source>(skb, flow, &row.addr, row.port)
}
