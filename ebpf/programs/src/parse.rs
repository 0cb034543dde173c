//! Headers to [`Flow`]: addresses, ports, TCP flags, ICMP kinds. Nothing is written to the packet.
//!
//! The addresses are filled in before anything can fail, so that a caller may decide by them what a
//! packet it cannot parse further is worth.

use crate::{
    cause,
    flow::{Flow, Step, kind},
    packet::{Packet, at, bounded},
};
use cilium_abi::{Address, Be16, drop, event, proto};

/// What precedes the IP header.
pub trait Link {
    /// Bytes of link layer.
    const HEADER: usize;
}

/// Ethernet.
pub struct L2;
/// No link layer.
pub struct L3;

impl Link for L2 {
    const HEADER: usize = 14;
}
impl Link for L3 {
    const HEADER: usize = 0;
}

/// Ethernet header.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ethernet {
    /// Destination.
    pub dst: [u16; 3],
    /// Source.
    pub src: [u16; 3],
    /// Type, network order.
    pub ethertype: u16,
}

/// IPv4 header without options.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv4 {
    /// Version and header length in words.
    pub version_len: u8,
    /// Type of service.
    pub tos: u8,
    /// Total length, network order.
    pub total: u16,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset, network order.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol.
    pub proto: u8,
    /// Checksum.
    pub checksum: u16,
    /// Source.
    pub src: u32,
    /// Destination.
    pub dst: u32,
}

/// IPv6 header.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv6 {
    /// Version, traffic class, flow label.
    pub first: u32,
    /// Length of what follows, network order.
    pub payload: u16,
    /// Next header.
    pub next: u8,
    /// Hop limit.
    pub hops: u8,
    /// Source.
    pub src: [u32; 4],
    /// Destination.
    pub dst: [u32; 4],
}

/// TCP header without options; numbers in network order.
#[repr(C)]
pub struct Tcp {
    /// Source port.
    pub src: u16,
    /// Destination port.
    pub dst: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledged sequence number.
    pub ack: u32,
    /// Header length in words, in the high half.
    pub offset: u8,
    /// Flags.
    pub flags: u8,
    /// Window.
    pub window: u16,
    /// Checksum.
    pub checksum: u16,
    /// Urgent pointer.
    pub urgent: u16,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ports {
    src: u16,
    dst: u16,
    rest: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Icmp {
    kind: u8,
    code: u8,
    checksum: u16,
    id: u16,
    sequence: u16,
}

/// Ethernet type IPv4, network order.
pub const IPV4: u16 = 0x0800u16.to_be();
/// Ethernet type IPv6, network order.
pub const IPV6: u16 = 0x86ddu16.to_be();
/// Ethernet type ARP, network order.
pub const ARP: u16 = 0x0806u16.to_be();

/// An IP version: where its fields are, and what differs.
pub trait Family {
    /// Whether this is IPv6.
    const IS_V6: bool;
    /// The family's ICMP.
    const ICMP: u8;
    /// ICMP echo request type.
    const ECHO_REQUEST: u8;
    /// ICMP echo reply type.
    const ECHO_REPLY: u8;
    /// Length of the header without options.
    const HEADER: usize;
    /// `AF_`.
    const AF: u8;

    /// Fills in addresses and TTL; gives protocol and offset of layer 4. A fragment is
    /// `FRAGMENT_UNSUPPORTED`; of IPv6 then [`Flow::l4`] is the offset of its Fragment header.
    fn network<P: Packet, L: Link>(packet: P, flow: &mut Flow) -> Step<(u8, usize)>;
    /// Whether an ICMP type is an error about another packet.
    fn is_error(kind: u8) -> bool;
    /// Fills in [`Flow::inner`] addresses from an embedded packet; gives its protocol and layer 4 offset.
    fn embedded<P: Packet>(packet: P, offset: u32, flow: &mut Flow) -> Option<(u8, u32)>;
}

/// IPv4.
pub struct V4;
/// IPv6.
pub struct V6;

impl Family for V4 {
    const IS_V6: bool = false;
    const ICMP: u8 = proto::ICMP;
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;
    const HEADER: usize = 20;
    const AF: u8 = 2;

    #[inline(always)]
    fn network<P: Packet, L: Link>(packet: P, flow: &mut Flow) -> Step<(u8, usize)> {
        let Some(ip) = at::<Ipv4, P>(packet, L::HEADER) else {
            flow.forget();
            return Err(cause!(INVALID_PACKET));
        };
        // SAFETY: `at` proved the header lies inside the packet.
        let ip = unsafe { &*ip };
        flow.tuple.src = Address::v4(ip.src);
        flow.tuple.dst = Address::v4(ip.dst);
        flow.tuple.proto = ip.proto;
        flow.ttl = ip.ttl;
        let header = (ip.version_len as usize & 0xf) * 4;
        if ip.version_len >> 4 != 4 || header < 20 {
            return Err(cause!(INVALID_PACKET));
        }
        // Zero is how very large segments (BIG TCP) say it.
        let total = u16::from_be(ip.total) as u32;
        if total != 0 && (total < header as u32 || total + L::HEADER as u32 > packet.length()) {
            return Err(cause!(INVALID_PACKET));
        }
        if ip.fragment & 0x3fffu16.to_be() != 0 {
            return Err(cause!(FRAGMENT_UNSUPPORTED));
        }
        Ok((ip.proto, L::HEADER + header))
    }

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, 3 | 4 | 5 | 11 | 12)
    }

    #[inline(always)]
    fn embedded<P: Packet>(packet: P, offset: u32, flow: &mut Flow) -> Option<(u8, u32)> {
        let mut ip = Ipv4 {
            version_len: 0,
            tos: 0,
            total: 0,
            id: 0,
            fragment: 0,
            ttl: 0,
            proto: 0,
            checksum: 0,
            src: 0,
            dst: 0,
        };
        if !packet.load(offset, &mut ip) {
            return None;
        }
        let header = (ip.version_len as u32 & 0xf) * 4;
        if ip.version_len >> 4 != 4 || header < 20 || ip.fragment & 0x1fffu16.to_be() != 0 {
            return None;
        }
        flow.inner.src = Address::v4(ip.src);
        flow.inner.dst = Address::v4(ip.dst);
        Some((ip.proto, offset + header))
    }
}

impl Family for V6 {
    const IS_V6: bool = true;
    const ICMP: u8 = proto::ICMPV6;
    const ECHO_REQUEST: u8 = 128;
    const ECHO_REPLY: u8 = 129;
    const HEADER: usize = 40;
    const AF: u8 = 10;

    #[inline(always)]
    fn network<P: Packet, L: Link>(packet: P, flow: &mut Flow) -> Step<(u8, usize)> {
        let Some(ip) = at::<Ipv6, P>(packet, L::HEADER) else {
            flow.forget();
            return Err(cause!(INVALID_PACKET));
        };
        // SAFETY: `at` proved the header lies inside the packet.
        let ip = unsafe { &*ip };
        // Word by word: a copy of the whole becomes a call.
        let ([a, b, c, d], [e, f, g, h]) = (ip.src, ip.dst);
        flow.tuple.src.words = [a, b, c, d];
        flow.tuple.dst.words = [e, f, g, h];
        flow.tuple.proto = ip.next;
        flow.ttl = ip.hops;
        flow.flags |= event::EVENT_IPV6;
        // An IPv4-mapped address on the wire would alias an IPv4 row of the maps.
        if ip.first & 0xf0u32 != 0x60 || flow.tuple.src.is_v4() || flow.tuple.dst.is_v4() {
            return Err(cause!(INVALID_PACKET));
        }
        let payload = u16::from_be(ip.payload) as u32;
        if payload != 0 && payload + (L::HEADER + 40) as u32 > packet.length() {
            return Err(cause!(INVALID_PACKET));
        }
        if matches!(ip.next, proto::TCP | proto::UDP | proto::ICMPV6 | proto::SCTP) {
            return Ok((ip.next, L::HEADER + 40));
        }
        let found = extensions(packet, ip.next, (L::HEADER + 40) as u32);
        if found & WALK_FAILED != 0 {
            if found & WALK_FRAGMENT != 0 {
                flow.l4 = found & 0xffff;
                return Err(cause!(FRAGMENT_UNSUPPORTED));
            }
            return Err(crate::flow::Cause::from_raw(found & !WALK_FAILED));
        }
        let proto = found as u8;
        flow.tuple.proto = proto;
        Ok((proto, (found >> 8) as usize))
    }

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        (1..128).contains(&kind)
    }

    #[inline(always)]
    fn embedded<P: Packet>(packet: P, offset: u32, flow: &mut Flow) -> Option<(u8, u32)> {
        let mut ip = Ipv6 { first: 0, payload: 0, next: 0, hops: 0, src: [0; 4], dst: [0; 4] };
        if !packet.load(offset, &mut ip) || ip.first & 0xf0u32 != 0x60 {
            return None;
        }
        flow.inner.src = Address { words: ip.src };
        flow.inner.dst = Address { words: ip.dst };
        if ip.next == FRAGMENT {
            // A datagram's first fragment: too long for the way, say.
            let mut header = [0u16; 2];
            if !packet.load(offset + 40, &mut header) || header[1] & 0xfff8u16.to_be() != 0 {
                return None;
            }
            let [next, _] = header[0].to_ne_bytes();
            return Some((next, offset + 48));
        }
        Some((ip.next, offset + 40))
    }
}

/// Next Header of a Fragment header.
const FRAGMENT: u8 = 44;
/// Set in the answer of [`extensions`] when it is a cause.
pub const WALK_FAILED: u32 = 1 << 31;
/// Set beside it when it is the offset of the Fragment header of one part of several.
const WALK_FRAGMENT: u32 = 1 << 30;
/// Offset up to which extension headers are followed.
const WALK_LIMIT: u32 = 400;
/// Extension headers followed.
const WALK_STEPS: u32 = 6;

/// Walks IPv6 extension headers (RFC 8200 §4): protocol in the low byte, offset above; or a cause. A datagram in one
/// fragment is none (RFC 6946).
#[inline(never)]
pub fn extensions<P: Packet>(packet: P, first: u8, start: u32) -> u32 {
    let (mut next, mut offset) = (first, start);
    for _ in 0..WALK_STEPS {
        let unit = match next {
            // Hop-by-hop, routing, destination options: length in eight bytes beyond the first eight.
            0 | 43 | 60 => 8,
            // Authentication header: in four bytes beyond the first eight.
            51 => 4,
            FRAGMENT => {
                let mut place = 0u16;
                if !packet.load(offset + 2, &mut place) {
                    break;
                }
                // An offset, or more follow.
                if place & 0xfff9u16.to_be() != 0 {
                    return WALK_FAILED | WALK_FRAGMENT | offset;
                }
                // Its second byte is no length.
                0
            }
            _ => return offset << 8 | next as u32,
        };
        let mut header = [0u8; 2];
        if !packet.load(offset, &mut header) {
            break;
        }
        offset += 8 + header[1] as u32 * unit;
        next = header[0];
        if offset > WALK_LIMIT {
            break;
        }
    }
    WALK_FAILED | cause!(INVALID_EXTENSION_HEADER).raw()
}

/// Parses a packet of family `F`, or what is known of it by its datagram's first fragment.
#[inline(always)]
pub fn parse<F: Family, L: Link, P: Packet>(packet: P, flow: &mut Flow) -> Step<()> {
    match whole::<F, L, P>(packet, flow) {
        Err(cause) if cause.code() == drop::FRAGMENT_UNSUPPORTED => packet.fragment::<F>(flow),
        parsed => parsed,
    }
}

/// Parses a packet that is no fragment.
#[inline(always)]
pub fn whole<F: Family, L: Link, P: Packet>(packet: P, flow: &mut Flow) -> Step<()> {
    let (proto, l4) = F::network::<P, L>(packet, flow)?;
    flow.l4 = bounded(l4 as u32) as u32;
    transport::<F, P>(packet, flow, proto)?;
    if flow.kind == kind::ICMP_OTHER && F::is_error(flow.icmp_type) && embedded::<F, P>(packet, flow) {
        flow.kind = kind::ICMP_ERROR;
    }
    Ok(())
}

/// Reads the layer 4 header at [`Flow::l4`].
#[inline(always)]
pub fn transport<F: Family, P: Packet>(packet: P, flow: &mut Flow, proto: u8) -> Step<()> {
    let l4 = bounded(flow.l4);
    if proto == proto::TCP {
        let tcp = at::<Tcp, P>(packet, l4).ok_or(cause!(CT_INVALID_HEADER))?;
        // SAFETY: `at` proved the header lies inside the packet.
        let tcp = unsafe { &*tcp };
        flow.tuple.src_port = Be16(tcp.src);
        flow.tuple.dst_port = Be16(tcp.dst);
        flow.policy_port = Be16(tcp.dst);
        flow.tcp_flags = tcp.flags;
        if tcp.offset >> 4 < 5 {
            return Err(cause!(CT_INVALID_HEADER));
        }
        return Ok(());
    }
    if proto == proto::UDP || proto == proto::SCTP {
        let ports = at::<Ports, P>(packet, l4).ok_or(cause!(CT_INVALID_HEADER))?;
        // SAFETY: as above.
        let ports = unsafe { &*ports };
        flow.tuple.src_port = Be16(ports.src);
        flow.tuple.dst_port = Be16(ports.dst);
        flow.policy_port = Be16(ports.dst);
        return Ok(());
    }
    if proto == F::ICMP {
        let icmp = at::<Icmp, P>(packet, l4).ok_or(cause!(CT_INVALID_HEADER))?;
        // SAFETY: as above.
        let icmp = unsafe { &*icmp };
        flow.icmp_type = icmp.kind;
        flow.icmp_code = icmp.code;
        flow.policy_port = Be16::new(icmp.kind as u16);
        flow.kind = kind::ICMP_OTHER;
        // The requester's end holds the identifier, so that both directions name one exchange.
        if icmp.kind == F::ECHO_REQUEST {
            flow.kind = kind::ECHO;
            flow.tuple.src_port = Be16(icmp.id);
        } else if icmp.kind == F::ECHO_REPLY {
            flow.kind = kind::ECHO;
            flow.tuple.dst_port = Be16(icmp.id);
        }
        return Ok(());
    }
    Err(cause!(CT_UNKNOWN_PROTOCOL))
}

/// Reads the packet that an ICMP error is about into [`Flow::inner`].
#[inline(never)]
fn embedded<F: Family, P: Packet>(packet: P, flow: &mut Flow) -> bool {
    let Some((proto, l4)) = F::embedded(packet, bounded(flow.l4) as u32 + 8, flow) else { return false };
    flow.inner.proto = proto;
    flow.inner_l4 = l4;
    flow.inner.src_port = Be16(0);
    flow.inner.dst_port = Be16(0);
    let mut head = [0u16; 4];
    if !packet.load(l4, &mut head) {
        return false;
    }
    if proto == F::ICMP {
        let kind = head[0].to_ne_bytes()[0];
        if kind == F::ECHO_REQUEST {
            flow.inner.src_port = Be16(head[2]);
        } else if kind == F::ECHO_REPLY {
            flow.inner.dst_port = Be16(head[2]);
        }
    } else {
        flow.inner.src_port = Be16(head[0]);
        flow.inner.dst_port = Be16(head[1]);
    }
    true
}
