//! Masquerading: pods that leave the cluster borrow the node's address. Two rows make a flow, one per
//! way; each rebuilds the other, at most once a second. The node's own connections hold their ports
//! by a row of their own, so that no pod is given one in use.

use crate::{
    cause,
    flow::{Flow, Step, kind, same},
    ipcache,
    maps::{DEVICE, SNAT},
    node,
    packet::Skb,
    parse::Family,
    rewrite::{self, Destination, Source, Writable},
    service,
};
use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_get_prandom_u32};
use cilium_abi::{
    Address, Be16,
    ct::{CT_INITIATOR_HIGH, KIND_CONNECTION, Tuple},
    endpoint::{ENDPOINT_HOST, EndpointRow},
    identity,
    ipcache::FLAG_IN_CLUSTER,
    node::{NODE_LB, NODE_MASQUERADE_IPV4, NODE_MASQUERADE_IPV6, NODE_TUNNEL, mark},
    proto,
    snat::{IN, OUT, SNAT_HOST, SnatKey, SnatRow},
};

/// Ports tried for a flow beyond its own.
const TRIES: u32 = 32;

/// Whether family `F` is masqueraded at all.
#[inline(always)]
pub fn enabled<F: Family>() -> bool {
    node!(flags) & if F::IS_V6 { NODE_MASQUERADE_IPV6 } else { NODE_MASQUERADE_IPV4 } != 0
}

#[inline(always)]
fn key(tuple: &Tuple, dir: u8) -> SnatKey {
    SnatKey {
        src: tuple.src,
        dst: tuple.dst,
        src_port: tuple.src_port,
        dst_port: tuple.dst_port,
        proto: tuple.proto,
        dir,
        reserved: 0,
    }
}

/// The key of the other half: the packet that goes the other way, with `end` in the place of what
/// is translated.
#[inline(always)]
fn mirror(key: &SnatKey, addr: &Address, port: Be16, dir: u8) -> SnatKey {
    if dir == IN {
        SnatKey { src: key.dst, src_port: key.dst_port, dst: *addr, dst_port: port, dir, ..*key }
    } else {
        SnatKey { src: *addr, src_port: port, dst: key.src, dst_port: key.src_port, dir, ..*key }
    }
}

#[inline(always)]
fn row(key: &SnatKey) -> Option<&'static mut SnatRow> {
    // SAFETY: map memory stays mapped while the program runs; fields are words that change alone.
    SNAT.get_ptr_mut(key).map(|row| unsafe { &mut *row })
}

/// Notes use of a row; once a second also sees that its other half is there.
#[inline(always)]
fn refresh(key: &SnatKey, row: &mut SnatRow, now: u32) {
    if row.used == now {
        return;
    }
    row.used = now;
    if row.flags & SNAT_HOST != 0 {
        return;
    }
    let (addr, port, dir) =
        if key.dir == OUT { (key.src, key.src_port, IN) } else { (key.dst, key.dst_port, OUT) };
    let other = mirror(key, &row.addr, row.port, dir);
    let half = SnatRow { addr, port, flags: 0, created: now, used: now };
    // Present already is as good as written.
    let _present = SNAT.insert(other, half, BPF_NOEXIST as u64);
}

/// Whether the row that holds a port is the flow's own, whose other half was evicted.
#[inline(always)]
fn is_half_of(back: &SnatKey, tuple: &Tuple) -> bool {
    row(back).is_some_and(|row| {
        row.flags & SNAT_HOST == 0 && row.port.0 == tuple.src_port.0 && same(&row.addr, &tuple.src)
    })
}

/// Finds a port of `addr` for the flow and writes the row of the way back: the port in network order, or
/// [`NO_PORT`].
///
/// # Safety
/// `flow` must be null or this CPU's flow, `addr` null or an address.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn snat_allocate(flow: *mut Flow, addr: *const Address) -> u32 {
    // SAFETY: as the caller promises.
    let (Some(flow), Some(addr)) = (unsafe { (flow.as_ref(), addr.as_ref()) }) else { return NO_PORT };
    let mut back = mirror(&key(&flow.tuple, OUT), addr, flow.tuple.src_port, IN);
    let half = SnatRow {
        addr: flow.tuple.src,
        port: flow.tuple.src_port,
        flags: 0,
        created: flow.now,
        used: flow.now,
    };
    let (first, last) = (node!(snat_port_min) as u32, node!(snat_port_max) as u32);
    let span = if last >= first { last - first + 1 } else { 1 };
    for _ in 0..=TRIES {
        // What comes in for the overlay's port is the overlay's, and for a frontend's the frontend's.
        let is_taken = (back.proto == proto::UDP && back.dst_port.0 == node!(tunnel_port).0)
            || (node!(flags) & NODE_LB != 0 && service::is_frontend(addr, back.dst_port, back.proto));
        let is_free = !is_taken && SNAT.insert(back, half, BPF_NOEXIST as u64).is_ok();
        if is_free || (!is_taken && is_half_of(&back, &flow.tuple)) {
            return back.dst_port.0 as u32;
        }
        // SAFETY: a helper without arguments.
        back.dst_port = Be16::new((first + unsafe { bpf_get_prandom_u32() } % span) as u16);
    }
    NO_PORT
}

/// Writes the row of the flow's way out, to a port of `addr` that is its own; 0: done. Beside
/// [`snat_allocate`] and not in it, for the sake of the stack.
///
/// # Safety
/// `flow` must be null or this CPU's flow, `addr` null or an address.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn snat_record(flow: *const Flow, addr: *const Address, port: u32) -> u32 {
    // SAFETY: as the caller promises.
    let (Some(flow), Some(addr)) = (unsafe { (flow.as_ref(), addr.as_ref()) }) else { return 1 };
    let half = SnatRow { addr: *addr, port: Be16(port as u16), flags: 0, created: flow.now, used: flow.now };
    SNAT.insert(key(&flow.tuple, OUT), half, 0).is_err() as u32
}

const NO_PORT: u32 = u32::MAX;

/// Translates a packet that leaves the node by a device, if it has to be.
#[inline(always)]
pub fn outgoing<F: Family>(skb: Skb, flow: &mut Flow, sender: &EndpointRow) -> Step<()> {
    // SAFETY: the row is read field by field; user space replaces rows whole.
    let Some(device) = (unsafe { DEVICE.get(flow.ifindex) }) else { return Ok(()) };
    let addr = if F::IS_V6 { &device.ipv6 } else { &device.ipv4 };
    if addr.is_none() {
        return Ok(());
    }
    flow.tick();
    if sender.flags & ENDPOINT_HOST != 0 {
        return hold::<F>(skb, flow, addr);
    }
    if is_native::<F>(&flow.tuple.dst) {
        return Ok(());
    }
    if flow.kind == kind::ICMP_ERROR {
        return outgoing_error::<F>(skb, flow);
    }
    let out = key(&flow.tuple, OUT);
    if let Some(row) = row(&out) {
        refresh(&out, row, flow.now);
        return rewrite::end::<F, Source, _>(skb, flow, &row.addr, row.port);
    }
    if stays(flow) {
        return Ok(());
    }
    // An answer nobody asked for has no port of its own: its identifier is the other end's.
    let is_answer = flow.kind == kind::ECHO && !flow.is_echo_request();
    if is_answer || flow.kind == kind::ICMP_OTHER || flow.tuple.proto == proto::SCTP {
        return Err(cause!(SNAT_UNSUPPORTED_PROTOCOL));
    }
    borrow::<F, _>(skb, flow, addr)
}

/// Sends a client's packet on with an address of this node, the same for all packets of its flow.
#[inline(always)]
pub fn lend<F: Family, P: Writable>(packet: P, flow: &mut Flow, addr: &Address) -> Step<()> {
    if lend_again::<F, P>(packet, flow)? { Ok(()) } else { lend_anew::<F, P>(packet, flow, addr) }
}

/// Sends on a client's packet of a flow that has an address already; whether it has.
#[inline(always)]
pub fn lend_again<F: Family, P: Writable>(packet: P, flow: &mut Flow) -> Step<bool> {
    let out = key(&flow.tuple, OUT);
    let Some(row) = row(&out) else { return Ok(false) };
    refresh(&out, row, flow.now);
    rewrite::end::<F, Source, _>(packet, flow, &row.addr, row.port)?;
    Ok(true)
}

/// Sends on a client's packet of a flow that has none yet.
#[inline(always)]
pub fn lend_anew<F: Family, P: Writable>(packet: P, flow: &mut Flow, addr: &Address) -> Step<()> {
    if addr.is_none() {
        return Err(cause!(SNAT_NO_MAPPING));
    }
    if flow.tuple.proto == proto::SCTP {
        return Err(cause!(SNAT_UNSUPPORTED_PROTOCOL));
    }
    borrow::<F, P>(packet, flow, addr)
}

/// What a client's packets to a backend elsewhere have as their source.
#[inline(always)]
pub fn lent(tuple: &Tuple) -> Option<&'static SnatRow> {
    row(&key(tuple, OUT)).map(|row| &*row)
}

/// What a client's packets to a frontend have as their source on the way to a backend elsewhere.
#[inline(always)]
pub fn given(tuple: &Tuple, addr: &Address, port: Be16) -> Option<&'static SnatRow> {
    row(&SnatKey { dst: *addr, dst_port: port, ..key(tuple, OUT) }).map(|row| &*row)
}

/// Whom a packet with ports that came in for the node's address is for, if it belongs to a flow of somebody else.
#[inline(always)]
pub fn client(tuple: &Tuple) -> Option<&'static SnatRow> {
    row(&key(tuple, IN)).filter(|row| row.flags & SNAT_HOST == 0).map(|row| &*row)
}

/// Gives the flow a port of `addr`.
#[inline(always)]
fn borrow<F: Family, P: Writable>(packet: P, flow: &mut Flow, addr: &Address) -> Step<()> {
    // SAFETY: this CPU's flow and a map row's address.
    let port = unsafe { snat_allocate(flow, addr) };
    // SAFETY: as above.
    if port == NO_PORT || unsafe { snat_record(flow, addr, port) } != 0 {
        return Err(cause!(SNAT_NO_MAPPING));
    }
    rewrite::end::<F, Source, _>(packet, flow, addr, Be16(port as u16))
}

/// Whether the address lies where nothing is masqueraded.
#[inline(always)]
fn is_native<F: Family>(addr: &Address) -> bool {
    let (len, prefix) = if F::IS_V6 {
        (node!(native_ipv6_len), node!(native_ipv6))
    } else {
        (node!(native_ipv4_len), node!(native_ipv4))
    };
    if len == 0 {
        return false;
    }
    let mut differs = 0;
    let mut left = len;
    for word in 0..4 {
        let bits = if left >= 32 { 32 } else { left };
        left -= bits;
        let mask = if bits == 0 { 0 } else { (u32::MAX << (32 - bits)).to_be() };
        differs |= (addr.words[word] ^ prefix.words[word]) & mask;
    }
    differs == 0
}

/// Whether a flow without rows keeps its source: within the cluster, or opened from outside.
#[inline(always)]
fn stays(flow: &Flow) -> bool {
    if let Some(found) = ipcache::exact(&flow.tuple.dst).or_else(|| ipcache::prefix(&flow.tuple.dst))
        && found.flags & FLAG_IN_CLUSTER != 0
    {
        // Beside the tunnel, another node does not take a pod's address.
        let is_node = matches!(found.identity, identity::REMOTE_NODE | identity::KUBE_APISERVER)
            || found.identity & identity::REMOTE_NODE_SCOPE != 0;
        return !(is_node && node!(flags) & NODE_TUNNEL != 0);
    }
    let (key, from_high) = flow.tuple.key(KIND_CONNECTION);
    match crate::conntrack::lookup(&key, flow.now) {
        Some(row) => (row.flags & CT_INITIATOR_HIGH != 0) != from_high,
        None => false,
    }
}

/// The node's own packet: holds its port, or gives way if a pod's flow or a frontend has it.
#[inline(always)]
pub fn hold<F: Family>(skb: Skb, flow: &mut Flow, addr: &Address) -> Step<()> {
    let is_echo = flow.kind == kind::ECHO && flow.icmp_type == F::ECHO_REQUEST;
    let is_ports = flow.kind == kind::PORTS && flow.tuple.proto != proto::SCTP;
    if !same(&flow.tuple.src, addr) || !(is_echo || is_ports) {
        return Ok(());
    }
    let out = key(&flow.tuple, OUT);
    if let Some(row) = row(&out) {
        refresh(&out, row, flow.now);
        return rewrite::end::<F, Source, _>(skb, flow, &row.addr, row.port);
    }
    if flow.tuple.proto == proto::TCP && !flow.is_syn() {
        return Ok(());
    }
    // What comes in for a frontend's port is the frontend's.
    if node!(flags) & NODE_LB != 0 && service::is_frontend(addr, out.src_port, out.proto) {
        // A pod's answer, by the stack: the client knows it by that port.
        if skb.mark() & mark::MASK == mark::IDENTITY {
            return Ok(());
        }
        return borrow::<F, _>(skb, flow, addr);
    }
    let back = mirror(&out, addr, out.src_port, IN);
    if let Some(row) = row(&back) {
        if row.flags & SNAT_HOST != 0 {
            refresh(&back, row, flow.now);
            return Ok(());
        }
        return borrow::<F, _>(skb, flow, addr);
    }
    let half =
        SnatRow { addr: out.src, port: out.src_port, flags: SNAT_HOST, created: flow.now, used: flow.now };
    // Lost to another CPU in this moment: the next packet of the flow sees who won.
    let _won = SNAT.insert(back, half, BPF_NOEXIST as u64);
    Ok(())
}

/// An ICMP error of a pod about a packet that came in through a row: the same row turns it around.
#[inline(always)]
fn outgoing_error<F: Family>(skb: Skb, flow: &mut Flow) -> Step<()> {
    let Some(row) = row(&key(&flow.inner.reversed(), OUT)) else { return Ok(()) };
    rewrite::embedded::<F, Destination, _>(skb, flow, &row.addr, row.port)?;
    rewrite::end::<F, Source, _>(skb, flow, &row.addr, flow.tuple.src_port)
}

/// Translates a packet that came in for the node's address back to whom it is for; whether it was.
#[inline(always)]
pub fn incoming<F: Family, P: Writable>(packet: P, flow: &mut Flow) -> Step<bool> {
    flow.tick();
    let is_error = flow.kind == kind::ICMP_ERROR;
    let key = if is_error { key(&flow.inner.reversed(), IN) } else { key(&flow.tuple, IN) };
    let Some(row) = row(&key) else { return Ok(false) };
    if row.flags & SNAT_HOST != 0 {
        refresh(&key, row, flow.now);
        return Ok(false);
    }
    if is_error {
        rewrite::embedded::<F, Source, _>(packet, flow, &row.addr, row.port)?;
        rewrite::end::<F, Destination, _>(packet, flow, &row.addr, flow.tuple.dst_port)?;
        return Ok(true);
    }
    refresh(&key, row, flow.now);
    rewrite::end::<F, Destination, _>(packet, flow, &row.addr, row.port)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_half_leads_to_the_other() {
        let addr = |last: u8| Address::v4(u32::from_ne_bytes([10, 0, 0, last]));
        let (pod, node, outside) = (addr(1), addr(2), addr(3));
        let out = SnatKey {
            src: pod,
            dst: outside,
            src_port: Be16::new(4000),
            dst_port: Be16::new(80),
            proto: proto::TCP,
            dir: OUT,
            reserved: 0,
        };
        let back = mirror(&out, &node, Be16::new(40_000), IN);
        assert_eq!((back.src, back.src_port), (outside, Be16::new(80)));
        assert_eq!((back.dst, back.dst_port), (node, Be16::new(40_000)));
        assert_eq!(mirror(&back, &pod, Be16::new(4000), OUT), out);
    }
}
