//! Services at the socket: what connects, or sends, to a frontend meets a backend, and is told of the
//! frontend ever after. No packet is translated on its way then.
//!
//! The programs run in the caller's system call, in whatever network namespace its socket is. Which backend:
//! the one that the network namespace keeps (session affinity), the one that an unconnected socket keeps for
//! this frontend, or one by chance. A Maglev table is not asked, as in Cilium: it makes nodes agree on
//! clients from outside. Connected sockets are never touched again: that is how backends change without a
//! connection being lost. Source ranges are not asked either, as in Cilium: a socket that connects has no
//! source address yet.
// By value the verifier has several times as much to look at.
#![allow(clippy::needless_borrows_for_generic_args)]

use crate::{
    flow::same,
    ipcache,
    maps::{AFFINITY, BACKEND, FRONTEND, SLOT, SOCK_REV},
    node,
    parse::Family,
    service::is_member,
};
use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::generated::{
        bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie, bpf_ktime_get_coarse_ns,
        bpf_set_retval,
    },
};
use cilium_abi::{
    Address, Be16,
    endpoint::ENDPOINT_HOST,
    lb::{
        AffinityKey, AffinityRow, BACKEND_TERMINATING, BackendRow, FRONTEND_HOST_PORT, FRONTEND_NODE_PORT,
        FRONTEND_REJECT, FRONTEND_TWO_SCOPES, FrontendKey, FrontendRow, SCOPE_EXTERNAL, SCOPE_INTERNAL,
        SOCK_FORWARD, SOCK_REVERSE, SlotKey, SockRevKey, SockRevRow,
    },
    node::{NODE_SOCK, NODE_SOCK_HOST_ONLY},
    proto,
};

/// The system call goes on.
pub const PROCEED: i32 = 1;
/// It fails, with `EPERM` unless said otherwise.
pub const REFUSE: i32 = 0;

/// Slots tried before a frontend counts as without backend: a list is read while it is replaced.
const TRIES: u32 = 4;

/// `errno` numbers (include/uapi/asm-generic/errno-base.h, errno.h).
const ENOMEM: i32 = 12;
const EADDRINUSE: i32 = 98;
const ECONNREFUSED: i32 = 111;

/// A socket's call that names another end.
#[derive(Clone, Copy)]
pub struct Call(pub *mut bpf_sock_addr);

/// What the call is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `connect`, or what does it implicitly.
    Connect,
    /// `sendmsg` with an address.
    Send,
}

macro_rules! read {
    ($context:expr, $($field:tt)+) => {
        // SAFETY: the kernel passes a valid context; each field is loaded alone, by volatile so that no
        // two loads are merged, as the verifier allows them.
        unsafe { core::ptr::read_volatile(&raw const (*$context).$($field)+) }
    };
}

impl Call {
    /// The other end. Mapped addresses of IPv6 sockets are IPv4 addresses, as everywhere.
    #[inline(always)]
    fn end<F: Family>(self) -> (Address, Be16) {
        let addr = if F::IS_V6 {
            let words = [
                read!(self.0, user_ip6[0]),
                read!(self.0, user_ip6[1]),
                read!(self.0, user_ip6[2]),
                read!(self.0, user_ip6[3]),
            ];
            Address { words }
        } else {
            Address::v4(read!(self.0, user_ip4))
        };
        (addr, Be16(read!(self.0, user_port) as u16))
    }

    /// Puts another end in its place, if the socket can have it.
    #[inline(always)]
    fn set_end<F: Family>(self, addr: &Address, port: Be16) {
        // SAFETY: as for reading; the kernel lets these fields be written, word by word.
        unsafe {
            if F::IS_V6 {
                (&raw mut (*self.0).user_ip6[0]).write_volatile(addr.words[0]);
                (&raw mut (*self.0).user_ip6[1]).write_volatile(addr.words[1]);
                (&raw mut (*self.0).user_ip6[2]).write_volatile(addr.words[2]);
                (&raw mut (*self.0).user_ip6[3]).write_volatile(addr.words[3]);
            } else {
                (&raw mut (*self.0).user_ip4).write_volatile(addr.v4_word());
            }
            (&raw mut (*self.0).user_port).write_volatile(port.0 as u32);
        }
    }

    /// The protocol; 0: none that services have.
    #[inline(always)]
    fn proto(self) -> u8 {
        ported(read!(self.0, protocol))
    }

    #[inline(always)]
    fn cookie(self) -> u64 {
        // SAFETY: the context is this program's own.
        unsafe { bpf_get_socket_cookie(self.0.cast()) }
    }

    #[inline(always)]
    fn netns(self) -> u64 {
        // SAFETY: as above.
        unsafe { bpf_get_netns_cookie(self.0.cast()) }
    }
}

#[inline(always)]
fn ported(protocol: u32) -> u8 {
    match protocol as u8 {
        number @ (proto::TCP | proto::UDP) if protocol < 256 => number,
        _ => 0,
    }
}

/// Whether a network namespace is the node's own.
#[inline(always)]
fn is_host(netns: u64) -> bool {
    let [low, high] = node!(host_netns);
    let host = if low | high == 0 {
        // SAFETY: without a context the helper tells the machine's first namespace.
        unsafe { bpf_get_netns_cookie(core::ptr::null_mut()) }
    } else {
        low as u64 | (high as u64) << 32
    };
    netns == host
}

/// Any address, of the family of `addr`.
#[inline(always)]
const fn any(addr: &Address) -> Address {
    if addr.is_v4() { Address::v4(0) } else { Address::NONE }
}

/// Whether an address means this namespace: loopback, or any (which connects to loopback).
#[inline(always)]
fn is_own(addr: &Address) -> bool {
    if addr.is_v4() {
        addr.v4_word() == 0 || addr.v4_word().to_ne_bytes()[0] == 127
    } else {
        let [a, b, c, d] = addr.words;
        a | b | c == 0 && (d == 0 || d == 1u32.to_be())
    }
}

#[inline(always)]
fn row(addr: Address, port: Be16, proto: u8, scope: u8) -> Option<&'static FrontendRow> {
    // SAFETY: the row is read field by field; user space replaces rows whole.
    unsafe { FRONTEND.get(FrontendKey { addr, port, proto, scope }) }
}

/// The frontend on every address of the node.
#[inline(always)]
fn everywhere(addr: &Address, port: Be16, proto: u8) -> Option<&'static FrontendRow> {
    row(any(addr), port, proto, SCOPE_EXTERNAL)
        .filter(|row| row.flags & (FRONTEND_NODE_PORT | FRONTEND_HOST_PORT) != 0)
}

/// The frontend that a socket of this node means by an end, with the rows of clients inside.
#[inline(always)]
fn frontend(addr: &Address, port: Be16, proto: u8, netns: u64) -> Option<&'static FrontendRow> {
    let own = is_own(addr);
    // Loopback of a pod is the pod.
    if own && !is_host(netns) {
        return None;
    }
    let (found, at) = match row(*addr, port, proto, SCOPE_EXTERNAL) {
        Some(row) => (row, *addr),
        None if own || is_of_node(addr) => (everywhere(addr, port, proto)?, any(addr)),
        None => return None,
    };
    if found.flags & FRONTEND_TWO_SCOPES != 0 {
        return row(at, port, proto, SCOPE_INTERNAL);
    }
    Some(found)
}

#[inline(always)]
fn is_of_node(addr: &Address) -> bool {
    ipcache::local(addr).is_some_and(|row| row.flags & ENDPOINT_HOST != 0)
}

/// A backend, with its number.
type Chosen = (u32, &'static BackendRow);

#[inline(always)]
fn backend(number: u32) -> Option<Chosen> {
    // SAFETY: the row is read field by field; user space replaces rows whole.
    unsafe { BACKEND.get(number) }.map(|row| (number, row))
}

/// One of a list, by chance.
#[inline(always)]
fn by_chance(list: u32, count: u32) -> Option<Chosen> {
    // SAFETY: a helper without arguments.
    let chance = unsafe { bpf_get_prandom_u32() };
    let slot = ((chance as u64 * count as u64) >> 32) as u32;
    // SAFETY: one word, read at once.
    let number = unsafe { SLOT.get(SlotKey { list, slot }) }.copied()?;
    backend(number)
}

/// The one that this network namespace keeps, or one by chance that it keeps from now on.
#[inline(always)]
fn by_affinity(frontend: &FrontendRow, netns: u64) -> Option<Chosen> {
    let client = Address { words: [netns as u32, (netns >> 32) as u32, 0, 0] };
    let key = AffinityKey { client, rev_nat: frontend.rev_nat, is_cookie: 1 };
    // SAFETY: a helper without arguments.
    let now = (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32;
    let (list, count) = (frontend.list, frontend.count as u32);
    if let Some(kept) = AFFINITY.get_ptr_mut(&key) {
        // SAFETY: map memory stays mapped while the program runs; each field is one word, and whatever
        // another CPU leaves in it is valid.
        let kept = unsafe { &mut *kept };
        if now.wrapping_sub(kept.used) <= frontend.affinity
            && let Some(chosen) = backend(kept.backend)
            && is_member(list, count, chosen.0)
        {
            kept.used = now;
            return Some(chosen);
        }
    }
    let chosen = by_chance(list, count)?;
    // Not kept is no reason not to connect.
    let _ = AFFINITY.insert(&key, &AffinityRow { backend: chosen.0, used: now }, 0);
    Some(chosen)
}

/// The one that this socket sent to before, or one by chance that it keeps from now on.
#[inline(always)]
fn by_socket(frontend: &FrontendRow, key: &SockRevKey) -> Option<Chosen> {
    let (list, count) = (frontend.list, frontend.count as u32);
    if let Some(kept) = SOCK_REV.get_ptr_mut(key) {
        // SAFETY: as above.
        let kept = unsafe { &mut *kept };
        if kept.rev_nat == frontend.rev_nat
            && let Some(chosen) = backend(kept.backend)
        {
            // A list's number stands for its content.
            if kept.list == list || chosen.1.flags & BACKEND_TERMINATING != 0 {
                return Some(chosen);
            }
            if is_member(list, count, chosen.0) {
                kept.list = list;
                return Some(chosen);
            }
        }
    }
    let chosen = by_chance(list, count)?;
    let (addr, port) = (chosen.1.addr, chosen.1.port);
    let row = SockRevRow { addr, port, rev_nat: frontend.rev_nat, backend: chosen.0, list };
    // Without it the next datagram is as the first.
    let _ = SOCK_REV.insert(key, &row, 0);
    Some(chosen)
}

/// A socket connects, or sends, to an end: a frontend is replaced by one of its backends.
#[inline(always)]
pub fn forward<F: Family>(call: Call, verb: Verb) -> i32 {
    if node!(flags) & NODE_SOCK == 0 {
        return PROCEED;
    }
    let proto = call.proto();
    let netns = call.netns();
    if proto == 0 || (node!(flags) & NODE_SOCK_HOST_ONLY != 0 && !is_host(netns)) {
        return PROCEED;
    }
    let (addr, port) = call.end::<F>();
    let mut is_known = false;
    for _ in 0..TRIES {
        // Looked up each time: a list that lost its slots has a successor.
        let Some(frontend) = frontend(&addr, port, proto, netns) else { break };
        is_known = true;
        if frontend.count == 0 {
            if frontend.flags & FRONTEND_REJECT == 0 {
                return PROCEED;
            }
            break;
        }
        let chosen = if frontend.affinity != 0 {
            by_affinity(frontend, netns)
        } else if verb == Verb::Send && frontend.count > 1 {
            by_socket(frontend, &key(call, &addr, port, SOCK_FORWARD))
        } else {
            by_chance(frontend.list, frontend.count as u32)
        };
        let Some((number, row)) = chosen else { continue };
        if row.addr.is_v4() != addr.is_v4() {
            continue;
        }
        let seen = SockRevRow { addr, port, rev_nat: frontend.rev_nat, backend: number, list: frontend.list };
        if !remember(&key(call, &row.addr, row.port, SOCK_REVERSE), &seen) && proto == proto::UDP {
            // Its owner would not know the answer's sender.
            return refuse(ENOMEM);
        }
        call.set_end::<F>(&row.addr, row.port);
        return PROCEED;
    }
    if is_known {
        return refuse(ECONNREFUSED);
    }
    if verb == Verb::Connect {
        // The socket may have met this very end by a frontend before.
        let _ = SOCK_REV.remove(key(call, &addr, port, SOCK_REVERSE));
    }
    PROCEED
}

/// Ends the call with an error, as a reset or unreachable port would.
#[inline(always)]
fn refuse(errno: i32) -> i32 {
    // SAFETY: a helper that takes a number.
    unsafe { bpf_set_retval(-errno) };
    REFUSE
}

#[inline(always)]
fn key(call: Call, addr: &Address, port: Be16, kind: u16) -> SockRevKey {
    SockRevKey { cookie: call.cookie(), addr: *addr, port, kind, reserved: [0; 2] }
}

/// Writes a row unless it is there as it should be: every datagram comes by.
#[inline(always)]
fn remember(key: &SockRevKey, row: &SockRevRow) -> bool {
    if let Some(old) = SOCK_REV.get_ptr_mut(key) {
        // SAFETY: as above.
        let old = unsafe { &*old };
        if old.port.0 == row.port.0 && old.backend == row.backend && same(&old.addr, &row.addr) {
            return true;
        }
    }
    SOCK_REV.insert(key, row, 0).is_ok()
}

/// A socket asks who it is connected to, or who sent it a datagram: a backend that it meets in place of a
/// frontend is shown as that.
#[inline(always)]
pub fn reverse<F: Family>(call: Call) -> i32 {
    if node!(flags) & NODE_SOCK != 0 && call.proto() != 0 {
        let (addr, port) = call.end::<F>();
        // SAFETY: the row is read field by field; it is replaced whole.
        if let Some(row) = unsafe { SOCK_REV.get(key(call, &addr, port, SOCK_REVERSE)) }
            && row.addr.is_v4() == addr.is_v4()
        {
            call.set_end::<F>(&row.addr, row.port);
        }
    }
    PROCEED
}

pub use bind::{Socket, bound};

/// Protection of node ports.
mod bind {
    use super::{EADDRINUSE, PROCEED, any, everywhere, is_host, is_of_node, is_own, ported, refuse, row};
    use crate::{node, parse::Family};
    use aya_ebpf::{bindings::bpf_sock, helpers::generated::bpf_get_netns_cookie};
    use cilium_abi::{
        Address, Be16,
        lb::{FRONTEND_EXTERNAL_IP, FRONTEND_LOAD_BALANCER, FRONTEND_NODE_PORT, FrontendRow, SCOPE_EXTERNAL},
        node::NODE_SOCK,
    };

    /// A socket in a hook.
    pub struct Socket(pub *mut bpf_sock);

    /// A socket was bound: a process of the host does not get what belongs to a frontend, whose packets it would
    /// never see.
    #[inline(always)]
    pub fn bound<F: Family>(Socket(socket): Socket) -> i32 {
        if node!(flags) & NODE_SOCK == 0 {
            return PROCEED;
        }
        let proto = ported(read!(socket, protocol));
        // SAFETY: the context is this program's own.
        let netns = unsafe { bpf_get_netns_cookie(socket.cast()) };
        if proto == 0 || !is_host(netns) {
            return PROCEED;
        }
        let port = Be16::new(read!(socket, src_port) as u16);
        let addr = if F::IS_V6 {
            let words = [
                read!(socket, src_ip6[0]),
                read!(socket, src_ip6[1]),
                read!(socket, src_ip6[2]),
                read!(socket, src_ip6[3]),
            ];
            Address { words }
        } else {
            Address::v4(read!(socket, src_ip4))
        };
        let exact = row(addr, port, proto, SCOPE_EXTERNAL);
        if exact.is_some_and(is_taken) {
            return refuse(EADDRINUSE);
        }
        let every = if is_own(&addr) || is_of_node(&addr) { everywhere(&addr, port, proto) } else { None };
        if every.is_some_and(is_taken) {
            return refuse(EADDRINUSE);
        }
        // `::` is every IPv4 address too, unless the socket said otherwise, which is not told here.
        if F::IS_V6 && addr.is_none() && everywhere(&any(&Address::v4(0)), port, proto).is_some_and(is_taken)
        {
            return refuse(EADDRINUSE);
        }
        PROCEED
    }

    #[inline(always)]
    fn is_taken(row: &FrontendRow) -> bool {
        row.flags & (FRONTEND_NODE_PORT | FRONTEND_LOAD_BALANCER | FRONTEND_EXTERNAL_IP) != 0
    }
}
