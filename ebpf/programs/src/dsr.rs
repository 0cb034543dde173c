//! Direct server return: a client's packet goes to a backend elsewhere with the client's own address, and its
//! answers leave the backend's node for the client, without coming by here again.
//!
//! The packet tells the frontend in an IP option ([`cilium_abi::dsr`]). The backend's node takes it off, and
//! remembers the frontend for the connection. It may be another node's NodePort, so it is the address that is
//! remembered, not a number.

use crate::{
    cause, conntrack,
    flow::{Flow, Step, kind},
    ipcache::{self, Memory},
    maps::{FRONTEND, SNAT},
    node,
    packet::{Packet, Skb, Xdp, at},
    parse::{Family, Ipv4, Ipv6, L2, Link, V4, V6},
    rewrite::{self, Destination, Source, Writable, fold},
    service,
};
use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_FIB_LKUP_RET_FRAG_NEEDED,
        bpf_adj_room_mode::BPF_ADJ_ROOM_NET, bpf_fib_lookup as FibParams, xdp_md,
    },
    helpers::generated::{bpf_fib_lookup, bpf_skb_adjust_room, bpf_xdp_adjust_head},
};
use cilium_abi::{
    Address, Be16,
    ct::{CT_DSR, Tuple},
    dsr::{DESTINATION_OPTIONS, OptionV4, OptionV6},
    event::reason,
    identity,
    lb::{FRONTEND_EXTERNAL, FRONTEND_NODE_PORT, FrontendKey, SCOPE_EXTERNAL},
    proto,
    snat::{self, SnatKey, SnatRow},
};
use core::mem::MaybeUninit;

/// Bytes that telling of a frontend takes.
#[inline(always)]
pub const fn size<F: Family>() -> u32 {
    if F::IS_V6 { size_of::<OptionV6>() as u32 } else { size_of::<OptionV4>() as u32 }
}

/// Whether a packet to a backend elsewhere tells its frontend: of TCP those that open a connection, which come
/// again until they are answered; of other protocols all, since nobody says that one arrived.
#[inline(always)]
pub fn tells(flow: &Flow) -> bool {
    flow.tuple.proto != proto::TCP || flow.is_syn()
}

/// A packet that bytes can be put into, behind the fixed part of its IP header.
pub trait Roomy: Writable {
    /// Makes room for [`size`] bytes; whether it could.
    fn widen<F: Family>(self) -> bool;
    /// Puts the option in; 0: done.
    fn tell<F: Family>(self, flow: &mut Flow) -> u32;
}

/// Lengths of segments stay what they are, and a checksum that a device found right still is.
pub const ROOM: u64 = BPF_F_ADJ_ROOM_FIXED_GSO as u64 | BPF_F_ADJ_ROOM_NO_CSUM_RESET as u64;

impl Roomy for Skb {
    #[inline(always)]
    fn widen<F: Family>(self) -> bool {
        // SAFETY: a valid context; the helper checks lengths.
        unsafe { bpf_skb_adjust_room(self.0, size::<F>() as i32, BPF_ADJ_ROOM_NET, ROOM) == 0 }
    }

    #[inline(always)]
    fn tell<F: Family>(self, flow: &mut Flow) -> u32 {
        // SAFETY: a valid context and this CPU's flow.
        unsafe { if F::IS_V6 { dsr_tell_v6(self.0, flow) } else { dsr_tell_v4(self.0, flow) } }
    }
}

impl Roomy for Xdp {
    #[inline(always)]
    fn widen<F: Family>(self) -> bool {
        // SAFETY: a valid context; the helper checks for room.
        if unsafe { bpf_xdp_adjust_head(self.0, -(size::<F>() as i32)) } != 0 {
            return false;
        }
        if F::IS_V6 {
            forward::<{ (L2::HEADER + V6::HEADER) / 2 }>(self, size::<F>() as usize)
        } else {
            forward::<{ (L2::HEADER + V4::HEADER) / 2 }>(self, size::<F>() as usize)
        }
    }

    #[inline(always)]
    fn tell<F: Family>(self, flow: &mut Flow) -> u32 {
        // SAFETY: as above.
        unsafe { if F::IS_V6 { dsr_tell_frame_v6(self.0, flow) } else { dsr_tell_frame_v4(self.0, flow) } }
    }
}

/// Moves `N` half words of a frame to its start, from `by` bytes behind it.
#[inline(always)]
pub fn forward<const N: usize>(frame: Xdp, by: usize) -> bool {
    let (Some(to), Some(from)) = (at::<[u16; N], Xdp>(frame, 0), at::<[u16; N], Xdp>(frame, by)) else {
        return false;
    };
    for word in 0..N {
        // SAFETY: `at` proved both lie inside the frame; one by one, since they overlap.
        unsafe {
            let value = core::ptr::read_volatile(from.cast::<u16>().add(word));
            core::ptr::write_volatile(to.cast::<u16>().add(word), value);
        }
    }
    true
}

macro_rules! tellers {
    ($($name:ident, $packet:ident ($context:ident) => $family:ident;)*) => {
        $(
            /// A subprogram of its own, which the verifier checks once.
            ///
            /// # Safety
            /// The context must be valid, `flow` null or this CPU's flow.
            #[unsafe(no_mangle)]
            #[inline(never)]
            unsafe extern "C" fn $name(context: *mut $context, flow: *mut Flow) -> u32 {
                // SAFETY: as the caller promises.
                let Some(flow) = (unsafe { flow.as_mut() }) else { return 1 };
                write::<$family, $packet>($packet(context), flow).is_none() as u32
            }
        )*
    };
}

tellers! {
    dsr_tell_v4, Skb(__sk_buff) => V4;
    dsr_tell_v6, Skb(__sk_buff) => V6;
    dsr_tell_frame_v4, Xdp(xdp_md) => V4;
    dsr_tell_frame_v6, Xdp(xdp_md) => V6;
}

/// Puts the option with [`Flow::frontend_addr`] into a packet.
#[inline(always)]
pub fn tell<F: Family, P: Roomy>(packet: P, flow: &mut Flow) -> Step<()> {
    if packet.tell::<F>(flow) == 0 { Ok(()) } else { Err(cause!(WRITE_ERROR)) }
}

#[inline(always)]
fn write<F: Family, P: Roomy>(packet: P, flow: &mut Flow) -> Option<()> {
    let base = L2::HEADER as u32;
    let size = size::<F>();
    if !packet.widen::<F>() {
        return None;
    }
    let mut failed;
    if F::IS_V6 {
        let ip = at::<Ipv6, P>(packet, L2::HEADER)?;
        // SAFETY: `at` proved the header lies inside the packet.
        let (payload, next) = unsafe { ((*ip).payload, (*ip).next) };
        let payload = u16::from_be(payload).checked_add(size as u16)?.to_be();
        let header = OptionV6::new(next, &flow.frontend_addr, flow.frontend_port);
        failed = packet.store_summed(base + 4, &payload);
        failed |= packet.store_summed(base + 6, &DESTINATION_OPTIONS);
        failed |= packet.store_summed(base + V6::HEADER as u32, &header);
    } else {
        let option = OptionV4::new(&flow.frontend_addr, flow.frontend_port);
        // SAFETY: the option is eight bytes, as two words are.
        let [a, b]: [u32; 2] = unsafe { core::mem::transmute(option) };
        failed = resize_v4(packet, size as i32, |sum| {
            let sum = fold(fold(sum, 0, a as u16), 0, (a >> 16) as u16);
            fold(fold(sum, 0, b as u16), 0, (b >> 16) as u16)
        })?;
        failed |= packet.store_summed(base + V4::HEADER as u32, &[a, b]);
    }
    // The first fragment has the layer 4 header.
    if flow.l4 != 0 {
        flow.l4 += size;
    }
    (failed == 0).then_some(())
}

/// Corrects an IPv4 header that became longer or shorter by some bytes, which change its checksum by `option`.
#[inline(always)]
fn resize_v4<P: Writable>(packet: P, by: i32, option: impl FnOnce(u16) -> u16) -> Option<u32> {
    let ip = at::<Ipv4, P>(packet, L2::HEADER)?;
    // SAFETY: `at` proved the header lies inside the packet.
    let (version_len, tos, total, sum) =
        unsafe { ((*ip).version_len, (*ip).tos, (*ip).total, (*ip).checksum) };
    let words = (version_len & 0xf) as i32 + by / 4;
    let length = u16::from_be(total) as i32 + by;
    if !(5..=15).contains(&words) || !(20..=0xffff).contains(&length) {
        return None;
    }
    let first = u16::from_ne_bytes([0x40 | words as u8, tos]);
    let length = (length as u16).to_be();
    let sum = fold(option(sum), u16::from_ne_bytes([version_len, tos]), first);
    let sum = fold(sum, total, length);
    let base = L2::HEADER as u32;
    let failed = packet.store_summed(base, &[first, length]) | packet.store_summed(base + 10, &sum);
    Some(failed)
}

macro_rules! takers {
    ($($name:ident, $restore:ident => $family:ident;)*) => {
        $(
            /// A subprogram of its own, which the verifier checks once.
            ///
            /// # Safety
            /// `skb` must be a valid context, `flow` null or this CPU's flow.
            #[unsafe(no_mangle)]
            #[inline(never)]
            unsafe extern "C" fn $name(skb: *mut __sk_buff, flow: *mut Flow) -> u32 {
                // SAFETY: as the caller promises.
                let Some(flow) = (unsafe { flow.as_mut() }) else { return cause!(INVALID_PACKET).raw() };
                match taken::<$family>(Skb(skb), flow) {
                    Ok(()) => 0,
                    Err(cause) => cause.raw(),
                }
            }

            /// A subprogram of its own, which the verifier checks once.
            ///
            /// # Safety
            /// `skb` must be a valid context, `flow` null or this CPU's flow.
            #[unsafe(no_mangle)]
            #[inline(never)]
            unsafe extern "C" fn $restore(skb: *mut __sk_buff, flow: *mut Flow, rev_nat: u32) -> u32 {
                // SAFETY: as the caller promises.
                let Some(flow) = (unsafe { flow.as_mut() }) else { return cause!(INVALID_PACKET).raw() };
                let restored = match rev_nat {
                    0 => restored::<$family>(Skb(skb), flow),
                    _ => service::restore::<$family, _>(Skb(skb), flow, rev_nat as u16),
                };
                match restored {
                    Ok(()) => 0,
                    Err(cause) => cause.raw(),
                }
            }
        )*
    };
}

takers! {
    dsr_take_v4, dsr_restore_v4 => V4;
    dsr_take_v6, dsr_restore_v6 => V6;
}

#[inline(always)]
fn crossed(raw: u32) -> Step<()> {
    if raw == 0 { Ok(()) } else { Err(crate::flow::Cause::from_raw(raw)) }
}

/// Takes the option off a packet to a backend of this node, if it has one: from here on it says
/// [`CT_DSR`] in [`Flow::marks`].
///
/// It counts only from a client outside, and only for a frontend: whoever writes such options himself can make a
/// backend answer him from a frontend's address, and from no other.
#[inline(always)]
pub fn take<F: Family>(skb: Skb, flow: &mut Flow) -> Step<()> {
    // Plain packets have nothing between the header and layer 4.
    if flow.l4 as usize == L2::HEADER + F::HEADER || flow.kind != kind::PORTS {
        return Ok(());
    }
    // SAFETY: a valid context and this CPU's flow.
    crossed(unsafe { if F::IS_V6 { dsr_take_v6(skb.0, flow) } else { dsr_take_v4(skb.0, flow) } })
}

/// The frontend that a packet tells of, and the header that follows (IPv6).
#[inline(always)]
fn told<F: Family>(skb: Skb) -> Option<(Address, Be16, u8)> {
    let behind = (L2::HEADER + F::HEADER) as u32;
    if F::IS_V6 {
        let ip = at::<Ipv6, Skb>(skb, L2::HEADER)?;
        let mut header =
            OptionV6 { next: 0, units: 0, kind: 0, size: 0, addr: [0; 4], port: Be16(0), padding: 0 };
        // SAFETY: `at` proved the header lies inside the packet.
        if unsafe { (*ip).next } != DESTINATION_OPTIONS || !skb.load(behind, &mut header) {
            return None;
        }
        let (addr, port) = header.frontend()?;
        // It would be taken for an IPv4 one.
        if addr.is_v4() { None } else { Some((addr, port, header.next)) }
    } else {
        let ip = at::<Ipv4, Skb>(skb, L2::HEADER)?;
        let mut option = OptionV4 { kind: 0, size: 0, port: 0, addr: 0 };
        // SAFETY: as above.
        if unsafe { (*ip).version_len & 0xf } < 7 || !skb.load(behind, &mut option) {
            return None;
        }
        let (addr, port) = option.frontend()?;
        Some((addr, port, 0))
    }
}

/// Whether clients outside are served at an address and port, here or at another node.
#[inline(always)]
fn is_served<F: Family>(addr: &Address, port: Be16, proto: u8) -> bool {
    let key = FrontendKey { addr: *addr, port, proto, scope: SCOPE_EXTERNAL };
    // SAFETY: the row is read field by field; user space replaces rows whole.
    if let Some(row) = unsafe { FRONTEND.get(key) } {
        return row.flags & FRONTEND_EXTERNAL != 0;
    }
    if !ipcache::exact(addr).is_some_and(|row| identity::is_node(row.identity)) {
        return false;
    }
    let every = if F::IS_V6 { Address::NONE } else { Address::v4(0) };
    let key = FrontendKey { addr: every, port, proto, scope: SCOPE_EXTERNAL };
    // SAFETY: as above.
    unsafe { FRONTEND.get(key) }.is_some_and(|row| row.flags & FRONTEND_NODE_PORT != 0)
}

#[inline(always)]
fn taken<F: Family>(skb: Skb, flow: &mut Flow) -> Step<()> {
    let Some((addr, port, next)) = told::<F>(skb) else { return Ok(()) };
    if !note::<F>(flow, &addr, port)? {
        return Ok(());
    }
    let size = size::<F>();
    let mut words = [0u32; 2];
    if !F::IS_V6 && !skb.load((L2::HEADER + F::HEADER) as u32, &mut words) {
        return Err(cause!(INVALID_PACKET));
    }
    // SAFETY: a valid context; the helper checks lengths.
    if unsafe { bpf_skb_adjust_room(skb.0, -(size as i32), BPF_ADJ_ROOM_NET, ROOM) } != 0 {
        return Err(cause!(WRITE_ERROR));
    }
    let base = L2::HEADER as u32;
    let failed = if F::IS_V6 {
        let ip = at::<Ipv6, Skb>(skb, L2::HEADER).ok_or(cause!(INVALID_PACKET))?;
        // SAFETY: `at` proved the header lies inside the packet.
        let payload = u16::from_be(unsafe { (*ip).payload });
        let payload = payload.checked_sub(size as u16).ok_or(cause!(INVALID_PACKET))?.to_be();
        skb.store_summed(base + 4, &payload) | skb.store_summed(base + 6, &next)
    } else {
        let [a, b] = words;
        resize_v4(skb, -(size as i32), |sum| {
            let sum = fold(fold(sum, a as u16, 0), (a >> 16) as u16, 0);
            fold(fold(sum, b as u16, 0), (b >> 16) as u16, 0)
        })
        .ok_or(cause!(INVALID_PACKET))?
    };
    if failed != 0 {
        return Err(cause!(WRITE_ERROR));
    }
    if flow.l4 != 0 {
        flow.l4 -= size;
    }
    Ok(())
}

/// Notes the frontend that a packet to a backend of this node tells of; whether it counts.
#[inline(always)]
pub fn note<F: Family>(flow: &mut Flow, addr: &Address, port: Be16) -> Step<bool> {
    // What has an identity of its own is no client of another node's frontend: it is sent on with that node's
    // address.
    if ipcache::is_of_cluster(&flow.tuple.src) {
        return Ok(false);
    }
    if !is_served::<F>(addr, port, flow.tuple.proto) {
        return Err(cause!(NO_SERVICE_BACKEND));
    }
    let [a, b, c, d] = addr.words;
    flow.frontend_addr.words = [a, b, c, d];
    flow.frontend_port = port;
    flow.marks = CT_DSR;
    Ok(true)
}

/// The key of a connection's frontend, by its reply.
#[inline(always)]
fn key(reply: &Tuple) -> SnatKey {
    SnatKey {
        src: reply.src,
        dst: reply.dst,
        src_port: reply.src_port,
        dst_port: reply.dst_port,
        proto: reply.proto,
        dir: snat::FRONTEND,
        reserved: 0,
    }
}

/// Remembers the frontend of an allowed packet that [`take`] found one in.
#[inline(always)]
pub fn remember(flow: &Flow) -> Step<()> {
    // SAFETY: this CPU's flow.
    if flow.marks & CT_DSR == 0 || unsafe { dsr_remember(flow) } == 0 {
        Ok(())
    } else {
        Err(cause!(SNAT_NO_MAPPING))
    }
}

/// A subprogram of its own, which the verifier checks once.
///
/// # Safety
/// `flow` must be null or this CPU's flow.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn dsr_remember(flow: *const Flow) -> u32 {
    // SAFETY: as the caller promises.
    let Some(flow) = (unsafe { flow.as_ref() }) else { return 1 };
    let key = &key(&flow.tuple.reversed());
    let [a, b, c, d] = flow.frontend_addr.words;
    let row = SnatRow {
        addr: Address { words: [a, b, c, d] },
        port: flow.frontend_port,
        flags: 0,
        created: flow.now,
        used: flow.now,
    };
    if let Some(known) = SNAT.get_ptr_mut(key) {
        // SAFETY: map memory stays mapped while the program runs; fields are words that change alone.
        let known = unsafe { &mut *known };
        if crate::flow::same(&known.addr, &row.addr) && known.port.0 == row.port.0 {
            if known.used != row.used {
                known.used = row.used;
            }
            return 0;
        }
    }
    SNAT.insert(key, row, 0).is_err() as u32
}

/// Gives a reply the frontend's address as its source: that of a number, or without one what the connection
/// remembers, which has [`CT_DSR`].
#[inline(always)]
pub fn restore<F: Family>(skb: Skb, flow: &mut Flow, rev_nat: u16) -> Step<()> {
    // SAFETY: this CPU's flow. Apart from what follows, whose stack counts beside that of its own.
    if rev_nat == 0 && unsafe { dsr_recall(flow) } != 0 {
        // An error told to the backend is about what it sent itself. For the rest, forgotten in favour of others:
        // the client would not know the backend's own address.
        return if flow.kind == kind::ICMP_ERROR { Ok(()) } else { Err(cause!(SNAT_NO_MAPPING)) };
    }
    let number = rev_nat as u32;
    // SAFETY: a valid context and this CPU's flow.
    crossed(unsafe {
        if F::IS_V6 { dsr_restore_v6(skb.0, flow, number) } else { dsr_restore_v4(skb.0, flow, number) }
    })
}

/// Finds the frontend that a reply's connection, or the one that an error is about, remembers; 0: it is in
/// [`Flow::frontend_addr`]. A subprogram of its own, which the verifier checks once.
///
/// # Safety
/// `flow` must be null or this CPU's flow.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn dsr_recall(flow: *mut Flow) -> u32 {
    // SAFETY: as the caller promises.
    let Some(flow) = (unsafe { flow.as_mut() }) else { return 1 };
    let key = &if flow.kind == kind::ICMP_ERROR { key(&flow.inner.reversed()) } else { key(&flow.tuple) };
    let Some(row) = SNAT.get_ptr_mut(key) else { return 1 };
    // SAFETY: map memory stays mapped while the program runs; fields are words that change alone.
    let row = unsafe { &mut *row };
    if row.used != flow.now {
        row.used = flow.now;
    }
    let [a, b, c, d] = row.addr.words;
    flow.frontend_addr.words = [a, b, c, d];
    flow.frontend_port = row.port;
    0
}

#[inline(always)]
fn restored<F: Family>(skb: Skb, flow: &mut Flow) -> Step<()> {
    let (addr, port) = (&raw const flow.frontend_addr, flow.frontend_port);
    // SAFETY: this CPU's flow; who rewrites ends reads the address before it writes, and writes another field.
    let addr = unsafe { &*addr };
    if flow.kind == kind::ICMP_ERROR {
        return rewrite::embedded::<F, Destination, _>(skb, flow, addr, port);
    }
    flow.keep(flow.tuple.src);
    rewrite::end::<F, Source, _>(skb, flow, addr, port)
}

/// What [`dsr_to_host`] says: there is nothing to do, or an entry to make, or a frontend to remember alone.
const NOTHING: u32 = 0;
const OPENS: u32 = 1;
const GOES_ON: u32 = 2;

/// A packet to a process of this node: remembers the frontend that it tells of, or forgets the one that an
/// earlier connection of these ends had.
#[inline(always)]
pub fn to_host(flow: &mut Flow) -> Step<()> {
    if flow.kind != kind::PORTS || !tells(flow) {
        return Ok(());
    }
    // SAFETY: this CPU's flow. One call after the other, since the stacks of nested ones count together.
    match unsafe { dsr_to_host(flow) } {
        NOTHING => return Ok(()),
        OPENS => conntrack::commit(flow, None, Memory::NONE)?,
        _ => {}
    }
    remember(flow)
}

/// A subprogram of its own, which the verifier checks once.
///
/// # Safety
/// `flow` must be null or this CPU's flow.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn dsr_to_host(flow: *mut Flow) -> u32 {
    // SAFETY: as the caller promises.
    let Some(flow) = (unsafe { flow.as_mut() }) else { return NOTHING };
    flow.tick();
    let row = conntrack::find(flow).filter(|row| row.flags & CT_DSR != 0 && flow.state != reason::REPLY);
    match row {
        Some(row) if flow.marks & CT_DSR == 0 => {
            row.flags &= !CT_DSR;
            NOTHING
        }
        None if flow.marks & CT_DSR == 0 => NOTHING,
        Some(row) if flow.tuple.proto != proto::TCP => {
            let expires = flow.now + node!(ct_any);
            if row.expires != expires {
                row.expires = expires;
            }
            GOES_ON
        }
        _ => {
            flow.state = reason::NEW;
            OPENS
        }
    }
}

/// The MTU of the way to an address if a packet with `more` bytes is too long for it, else 0.
#[inline(always)]
pub fn too_long(skb: Skb, flow: &Flow, to: &Address, more: u32) -> u32 {
    // SAFETY: a valid context, this CPU's flow and an address in a map row.
    unsafe { dsr_too_long(skb.0, flow, to, more) }
}

/// A subprogram of its own, which the verifier checks once.
///
/// # Safety
/// `skb` must be a valid context, `flow` null or this CPU's flow, `to` null or an address.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn dsr_too_long(
    skb: *mut __sk_buff,
    flow: *const Flow,
    to: *const Address,
    more: u32,
) -> u32 {
    // SAFETY: as the caller promises.
    let (Some(flow), Some(to)) = (unsafe { (flow.as_ref(), to.as_ref()) }) else { return 0 };
    // SAFETY: a valid context.
    let segment = unsafe { (*skb).gso_size };
    let mut length = Skb(skb).length() - L2::HEADER as u32;
    if segment != 0 && flow.l4 != 0 {
        // What will be cut into datagrams of this size, each behind its UDP header.
        length = flow.l4 - L2::HEADER as u32 + 8 + segment;
    }
    length += more;
    // SAFETY: all zeroes is a valid value of this plain struct.
    let mut fib: FibParams = unsafe { MaybeUninit::zeroed().assume_init() };
    fib.ifindex = flow.ifindex;
    fib.__bindgen_anon_1.tot_len = if length > 0xffff { 0xffff } else { length as u16 };
    if to.is_v4() {
        fib.family = V4::AF;
        fib.__bindgen_anon_4.ipv4_dst = to.v4_word();
    } else {
        fib.family = V6::AF;
        let [a, b, c, d] = to.words;
        fib.__bindgen_anon_4.ipv6_dst = [a, b, c, d];
    }
    // SAFETY: a valid context and an initialised struct of the given size.
    let found = unsafe { bpf_fib_lookup(skb.cast(), &raw mut fib, size_of::<FibParams>() as i32, 0) };
    if found as u32 != BPF_FIB_LKUP_RET_FRAG_NEEDED {
        return 0;
    }
    // SAFETY: the helper's answer leaves the MTU in the place of the length.
    let mtu = unsafe { fib.__bindgen_anon_1.mtu_result } as u32;
    if mtu > more { mtu - more } else { 1 }
}
