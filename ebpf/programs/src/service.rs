//! Services: from a frontend to one of its backends, and back again for replies.

use crate::{
    cause,
    conntrack::{self, CLOSING},
    flow::{FIN, Flow, RST, Step, kind, same},
    ipcache, ipip,
    maps::{AFFINITY, BACKEND, FRONTEND, MAGLEV, REVNAT, SLOT, SOURCE_RANGE, SourceRange},
    node,
    packet::zero,
    parse::Family,
    rewrite::{self, Destination, Source, Writable},
};
use aya_ebpf::{
    btf_maps::lpm_trie::Key,
    helpers::generated::{bpf_get_prandom_u32, bpf_loop},
};
use cilium_abi::{
    Address, Be16,
    ct::{CT_CLOSING_FORWARD, CT_ONE_WAY, CT_RESET, CtRow, KIND_SERVICE, Tuple},
    lb::{
        AffinityKey, AffinityRow, BACKEND_TERMINATING, BackendRow, FRONTEND_DSR, FRONTEND_MAGLEV,
        FRONTEND_MAGLEV_BITS, FRONTEND_SOURCE_DENY, FRONTEND_SOURCE_RANGES, FRONTEND_TWO_SCOPES, FrontendKey,
        FrontendRow, SCOPE_EXTERNAL, SCOPE_INTERNAL, SlotKey,
    },
    proto,
};
use core::ffi::c_void;

/// Slots tried before a service counts as without backend: a list is read while it is replaced.
const TRIES: u32 = 4;

/// What a packet's destination is a frontend of, for a client outside the cluster.
#[inline(always)]
pub fn outside(flow: &Flow) -> Option<&'static FrontendRow> {
    find(flow, SCOPE_EXTERNAL)
}

/// The same for a client inside.
#[inline(always)]
pub fn inside(flow: &Flow) -> Option<&'static FrontendRow> {
    let found = find(flow, SCOPE_EXTERNAL)?;
    if found.flags & FRONTEND_TWO_SCOPES == 0 { Some(found) } else { find(flow, SCOPE_INTERNAL) }
}

#[inline(always)]
fn find(flow: &Flow, scope: u8) -> Option<&'static FrontendRow> {
    let key = FrontendKey { addr: flow.tuple.dst, port: flow.tuple.dst_port, proto: flow.tuple.proto, scope };
    // SAFETY: the row is read field by field; user space replaces rows whole.
    unsafe { FRONTEND.get(key) }
}

/// Whether clients outside find a frontend at an address and port.
#[inline(always)]
pub fn is_frontend(addr: &Address, port: Be16, proto: u8) -> bool {
    let key = FrontendKey { addr: *addr, port, proto, scope: SCOPE_EXTERNAL };
    // SAFETY: only whether there is a row.
    unsafe { FRONTEND.get(key) }.is_some()
}

/// Whether the source may use the frontend.
#[inline(always)]
pub fn permits(flow: &Flow, frontend: &FrontendRow) -> Step<()> {
    if frontend.flags & FRONTEND_SOURCE_RANGES == 0 {
        return Ok(());
    }
    let source = SourceRange { rev_nat: frontend.rev_nat, reserved: 0, addr: flow.tuple.src };
    let listed = SOURCE_RANGE.get(&Key::new(32 + 128, source)).is_some();
    if listed == (frontend.flags & FRONTEND_SOURCE_DENY == 0) {
        Ok(())
    } else {
        Err(cause!(NOT_IN_SOURCE_RANGE))
    }
}

/// The backend of a packet to a frontend; from now on its connection has that one.
#[inline(always)]
pub fn choose(flow: &mut Flow, frontend: &FrontendRow) -> Option<&'static BackendRow> {
    // SAFETY: this CPU's flow and a map row.
    backend(unsafe { service_choose(flow, frontend) })
}

/// Gives a packet to a frontend the address of its backend.
#[inline(always)]
pub fn translate<F: Family, P: Writable>(packet: P, flow: &mut Flow, frontend: &FrontendRow) -> Step<()> {
    let backend = choose(flow, frontend).ok_or(cause!(NO_SERVICE_BACKEND))?;
    lead::<F, P>(packet, flow, frontend, backend)
}

/// Gives a packet the address of a backend chosen for it.
#[inline(always)]
pub fn lead<F: Family, P: Writable>(
    packet: P,
    flow: &mut Flow,
    frontend: &FrontendRow,
    backend: &BackendRow,
) -> Step<()> {
    flow.keep(flow.tuple.dst);
    if flow.is_one_way != 0 {
        let [a, b, c, d] = flow.tuple.dst.words;
        flow.frontend_addr.words = [a, b, c, d];
        flow.frontend_port = flow.tuple.dst_port;
    }
    flow.rev_nat = frontend.rev_nat;
    flow.policy_port = backend.port;
    rewrite::end::<F, Destination, P>(packet, flow, &backend.addr, backend.port)
}

/// The backend's number: the one the connection has, the one the client keeps, or a new one; 0 if there
/// is none.
///
/// # Safety
/// `flow` must be null or this CPU's flow, `frontend` null or a row.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn service_choose(flow: *mut Flow, frontend: *const FrontendRow) -> u32 {
    // SAFETY: as the caller promises.
    let (Some(flow), Some(frontend)) = (unsafe { (flow.as_mut(), frontend.as_ref()) }) else { return 0 };
    let is_tcp = flow.tuple.proto == proto::TCP;
    let is_syn = flow.is_syn();
    let lifetime = match (is_tcp, is_syn) {
        (true, true) => node!(ct_syn),
        (true, false) => node!(ct_tcp),
        (false, _) => node!(ct_any),
    };
    // The key is made once more to write: it need not stand on the stack below what is called in between, of which
    // Linux 6.1 counts each frame.
    let row = conntrack::lookup(&flow.tuple.key(KIND_SERVICE).0, flow.now);
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
        flow.is_one_way = (row.flags & CT_ONE_WAY != 0) as u8;
        return row.backend;
    }
    flow.is_one_way = 0;
    if frontend.count == 0 {
        return 0;
    }
    let mut number = 0;
    if frontend.affinity != 0 {
        number = kept(&client(flow, frontend), frontend, flow.now);
    }
    if number == 0 && frontend.flags & FRONTEND_MAGLEV != 0 {
        number = by_table(&flow.tuple, frontend);
    }
    for _ in 0..TRIES {
        if number != 0 {
            break;
        }
        number = by_chance(frontend.list, frontend.count as u32);
    }
    if number == 0 {
        return 0;
    }
    if frontend.affinity != 0 {
        let row = AffinityRow { backend: number, used: flow.now };
        // A full map forgets the client that was away longest.
        let _kept = AFFINITY.insert(client(flow, frontend), row, 0);
    }
    // A client's address of the cluster may be the backend's node's own, or one that only the overlay leads to.
    let is_one_way = frontend.flags & FRONTEND_DSR != 0
        && !ipcache::is_of_cluster(&flow.tuple.src)
        && backend(number).is_some_and(|row| may_answer(flow, row));
    flow.is_one_way = is_one_way as u8;
    let zero = zero();
    let row = CtRow {
        expires: flow.now + lifetime,
        flags: if is_one_way { CT_ONE_WAY } else { 0 },
        rev_nat: frontend.rev_nat,
        backend: number,
        identity: zero,
        revision: zero,
        allowed_egress: zero,
        allowed_ingress: zero,
        reported_forward: zero,
        reported_reply: zero,
        seen_forward: flow.tcp_flags,
        seen_reply: 0,
        looked: 0,
    };
    if conntrack::write(&flow.tuple.key(KIND_SERVICE).0, &row) { number } else { 0 }
}

/// Who keeps a backend, of those who send packets.
#[inline(always)]
fn client(flow: &Flow, frontend: &FrontendRow) -> AffinityKey {
    AffinityKey { client: flow.tuple.src, rev_nat: frontend.rev_nat, is_cookie: 0 }
}

/// Whether a backend elsewhere can answer a client itself: nodes of the cluster are told of the frontend, and know
/// nothing of tunnels; one outside has the frontend's address, and gets packets with its port.
#[inline(always)]
fn may_answer(flow: &Flow, backend: &BackendRow) -> bool {
    let is_within = ipcache::is_in_cluster(&backend.addr);
    if ipip::tells() { !is_within && backend.port.0 == flow.tuple.dst_port.0 } else { is_within }
}

/// The backend that a client keeps, if it is still one of the frontend's for new connections: it may have left
/// this Service and live on in another.
#[inline(always)]
fn kept(client: &AffinityKey, frontend: &FrontendRow, now: u32) -> u32 {
    // SAFETY: the row is read field by field.
    let Some(row) = (unsafe { AFFINITY.get(client) }) else { return 0 };
    let number = row.backend;
    if row.used + frontend.affinity < now || backend(number).is_none() {
        return 0;
    }
    if is_member(frontend.list, frontend.count as u32, number) { number } else { 0 }
}

/// A place in a list, and what is looked for there.
struct Search {
    list: u32,
    backend: u32,
    found: u32,
}

/// Called for each slot until it says 1.
#[inline(never)]
extern "C" fn search_slot(slot: u32, search: *mut Search) -> u64 {
    // SAFETY: the kernel passes on what `is_member` gave it, which lives on its stack.
    let search = unsafe { &mut *search };
    // SAFETY: one word, read at once.
    let number = unsafe { SLOT.get(SlotKey { list: search.list, slot }) };
    if number.is_some_and(|number| *number == search.backend) {
        search.found = 1;
        return 1;
    }
    0
}

/// Whether a list has a backend: one that is kept may have left this Service and live on in another.
#[inline(always)]
pub fn is_member(list: u32, count: u32, backend: u32) -> bool {
    let mut search = Search { list, backend, found: 0 };
    let callback = search_slot as extern "C" fn(u32, *mut Search) -> u64;
    // SAFETY: the callback takes what it is given here, which outlives the loop.
    unsafe { bpf_loop(count, callback as *mut c_void, (&raw mut search).cast(), 0) };
    // SAFETY: a live local; volatile since the callback writes it behind the compiler's back.
    (unsafe { core::ptr::read_volatile(&raw const search.found) }) != 0
}

/// The backend in a random slot.
#[inline(always)]
fn by_chance(list: u32, count: u32) -> u32 {
    // SAFETY: a helper without arguments.
    let chance = unsafe { bpf_get_prandom_u32() };
    let slot = ((chance as u64 * count as u64) >> 32) as u32;
    // SAFETY: one word, read at once.
    let number = unsafe { SLOT.get(SlotKey { list, slot }) }.copied().unwrap_or(0);
    if backend(number).is_some() { number } else { 0 }
}

/// The backend in the place of a Maglev table that the connection hashes to, on every node alike.
#[inline(always)]
fn by_table(tuple: &Tuple, frontend: &FrontendRow) -> u32 {
    let size = node!(maglev_size);
    if size == 0 || (size << 1) >> (frontend.flags >> FRONTEND_MAGLEV_BITS) != 1 {
        return 0;
    }
    let number = MAGLEV.get(frontend.maglev + hash(tuple) % size).copied().unwrap_or(0);
    if backend(number).is_some() { number } else { 0 }
}

/// A hash of a connection: each word is mixed in by multiplication (the finaliser of MurmurHash3). Not of the
/// destination's address: a client that comes by another node's NodePort gets the same backend.
#[inline(always)]
pub fn hash(tuple: &Tuple) -> u32 {
    let ports = (tuple.src_port.0 as u32) << 16 | tuple.dst_port.0 as u32;
    let s = &tuple.src.words;
    let mut sum = tuple.proto as u32;
    for word in [s[0], s[1], s[2], s[3], ports] {
        sum ^= word;
        sum ^= sum >> 16;
        sum = sum.wrapping_mul(0x85eb_ca6b);
        sum ^= sum >> 13;
        sum = sum.wrapping_mul(0xc2b2_ae35);
        sum ^= sum >> 16;
    }
    sum
}

/// The backend of a number.
#[inline(always)]
pub fn backend(number: u32) -> Option<&'static BackendRow> {
    // SAFETY: the row is read field by field; user space replaces rows whole.
    unsafe { BACKEND.get(number) }
}

/// Gives a reply the frontend's address as its source, if the connection went through one.
#[inline(always)]
pub fn restore<F: Family, P: Writable>(packet: P, flow: &mut Flow, rev_nat: u16) -> Step<()> {
    // SAFETY: as above.
    let Some(row) = (unsafe { REVNAT.get(rev_nat as u32) }) else { return Ok(()) };
    if flow.kind == kind::ICMP_ERROR {
        // Told to the client, about a packet it sent to the frontend. Who tells it stays as it is.
        return if same(&flow.inner.src, &flow.tuple.dst) {
            rewrite::embedded::<F, Destination, P>(packet, flow, &row.addr, row.port)
        } else {
            Ok(())
        };
    }
    flow.keep(flow.tuple.src);
    rewrite::end::<F, Source, P>(packet, flow, &row.addr, row.port)
}
