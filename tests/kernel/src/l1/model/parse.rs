//! What a packet says, read again from the RFCs: the model's parser.

use super::fragments::{Part, needed};
use cilium_abi::{Address, drop, proto};

/// What layer 4 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Two ports.
    Ports,
    /// Echo request.
    Request,
    /// Echo reply.
    Reply,
    /// An ICMP error with a readable packet inside.
    Error,
    /// Another ICMP message.
    Message,
}

/// The ends of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Source address.
    pub src: Address,
    /// Destination address.
    pub dst: Address,
    /// Source port, host order. The requester's end of an echo holds the identifier.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Protocol.
    pub proto: u8,
}

/// A packet as far as it could be read.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// Why reading ended early.
    pub fault: Option<u8>,
    /// IPv6.
    pub v6: bool,
    /// Its ends; addresses are none if not even they could be read.
    pub ends: Ends,
    /// Offset of layer 4; 0: another fragment has it.
    pub l4: usize,
    /// What it says of itself, if it is a fragment.
    pub part: Option<Part>,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TCP flags.
    pub flags: u8,
    /// What it is.
    pub kind: Kind,
    /// ICMP type and code.
    pub icmp: (u8, u8),
    /// What policy asks for: destination port or ICMP type.
    pub asked: u16,
    /// The packet inside an ICMP error: ends and offset of its layer 4.
    pub inner: Option<(Ends, usize)>,
}

fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(data.get(at..at + 2)?.try_into().ok()?))
}

fn v4_at(data: &[u8], at: usize) -> Option<Address> {
    Some(Address::v4(u32::from_ne_bytes(data.get(at..at + 4)?.try_into().ok()?)))
}

fn v6_at(data: &[u8], at: usize) -> Option<Address> {
    Some(Address::v6(data.get(at..at + 16)?.try_into().ok()?))
}

/// Reads a frame with an IP packet. What only the first fragment of a datagram says is not read from others.
pub fn parse(data: &[u8], v6: bool) -> Parsed {
    let mut parsed = Parsed {
        fault: None,
        v6,
        ends: Ends::default(),
        l4: 0,
        part: None,
        ttl: 0,
        flags: 0,
        kind: Kind::Ports,
        icmp: (0, 0),
        asked: 0,
        inner: None,
    };
    let network = if v6 { network_v6(data, &mut parsed) } else { network_v4(data, &mut parsed) };
    parsed.fault = network.and_then(|()| whole_or_part(data, &mut parsed)).err();
    parsed
}

fn whole_or_part(data: &[u8], parsed: &mut Parsed) -> Result<(), u8> {
    let Some(part) = parsed.part else { return transport(data, parsed) };
    let length = u16_at(data, if parsed.v6 { 18 } else { 16 }).map_or(0, usize::from);
    if length == 0 {
        return Err(drop::INVALID_PACKET);
    }
    if part.offset != 0 {
        return Err(drop::FRAGMENT_NOT_FOUND);
    }
    let (mut number, mut l4) = (part.next, part.start);
    if parsed.v6 {
        match extensions(data, part.next, part.start) {
            Ok((found, at, None)) => (number, l4) = (found, at),
            _ => return Err(drop::INVALID_EXTENSION_HEADER),
        }
    }
    if l4 + needed(number) > length + if parsed.v6 { 54 } else { 14 } {
        return Err(drop::CT_INVALID_HEADER);
    }
    (parsed.ends.proto, parsed.l4) = (number, l4);
    transport(data, parsed)?;
    // Errors are short, and messages of a link are never cut.
    if matches!(parsed.kind, Kind::Error | Kind::Message) {
        return Err(drop::FRAGMENT_UNSUPPORTED);
    }
    Ok(())
}

fn network_v4(data: &[u8], parsed: &mut Parsed) -> Result<(), u8> {
    if data.len() < 34 {
        return Err(drop::INVALID_PACKET);
    }
    parsed.ends.src = v4_at(data, 26).ok_or(drop::INVALID_PACKET)?;
    parsed.ends.dst = v4_at(data, 30).ok_or(drop::INVALID_PACKET)?;
    parsed.ends.proto = data[23];
    parsed.ttl = data[22];
    let header = usize::from(data[14] & 15) * 4;
    let total = usize::from(u16_at(data, 16).ok_or(drop::INVALID_PACKET)?);
    if data[14] >> 4 != 4 || header < 20 || (total != 0 && (total < header || total + 14 > data.len())) {
        return Err(drop::INVALID_PACKET);
    }
    // More fragments, or an offset.
    let place = u16_at(data, 20).unwrap_or(0);
    if place & 0x3fff != 0 {
        parsed.part = Some(Part {
            id: u32::from(u16::from_ne_bytes([data[18], data[19]])),
            next: data[23],
            offset: usize::from(place & 0x1fff) * 8,
            start: 14 + header,
        });
        return Ok(());
    }
    parsed.l4 = 14 + header;
    Ok(())
}

fn network_v6(data: &[u8], parsed: &mut Parsed) -> Result<(), u8> {
    if data.len() < 54 {
        return Err(drop::INVALID_PACKET);
    }
    parsed.ends.src = v6_at(data, 22).ok_or(drop::INVALID_PACKET)?;
    parsed.ends.dst = v6_at(data, 38).ok_or(drop::INVALID_PACKET)?;
    parsed.ends.proto = data[20];
    parsed.ttl = data[21];
    let payload = usize::from(u16_at(data, 18).ok_or(drop::INVALID_PACKET)?);
    let mapped = parsed.ends.src.is_v4() || parsed.ends.dst.is_v4();
    if data[14] >> 4 != 6 || mapped || (payload != 0 && payload + 54 > data.len()) {
        return Err(drop::INVALID_PACKET);
    }
    if matches!(data[20], proto::TCP | proto::UDP | proto::ICMPV6 | proto::SCTP) {
        parsed.l4 = 54;
        return Ok(());
    }
    let (next, at, part) = extensions(data, data[20], 54)?;
    parsed.part = part;
    if part.is_none() {
        (parsed.ends.proto, parsed.l4) = (next, at);
    }
    Ok(())
}

/// Follows headers up to layer 4, or to one of several fragments.
fn extensions(data: &[u8], mut next: u8, mut at: usize) -> Result<(u8, usize, Option<Part>), u8> {
    // Longer chains serve nobody.
    for _ in 0..6 {
        let Some(header) = (match next {
            44 => data.get(at..at + 4),
            0 | 43 | 60 | 51 => data.get(at..at + 2),
            _ => return Ok((next, at, None)),
        }) else {
            return Err(drop::INVALID_EXTENSION_HEADER);
        };
        if next == 44 {
            let place = u16::from_be_bytes([header[2], header[3]]);
            if place & 0xfff9 != 0 {
                let whole = data.get(at..at + 8).ok_or(drop::INVALID_PACKET)?;
                let part = Part {
                    id: u32::from_ne_bytes([whole[4], whole[5], whole[6], whole[7]]),
                    next: whole[0],
                    offset: usize::from(place & 0xfff8),
                    start: at + 8,
                };
                return Ok((next, at, Some(part)));
            }
        }
        at += match next {
            44 => 8,
            51 => 8 + usize::from(header[1]) * 4,
            _ => 8 + usize::from(header[1]) * 8,
        };
        next = header[0];
        if at > 400 {
            break;
        }
    }
    Err(drop::INVALID_EXTENSION_HEADER)
}

fn transport(data: &[u8], parsed: &mut Parsed) -> Result<(), u8> {
    let at = parsed.l4;
    let need = |bytes: usize| data.get(at..at + bytes).ok_or(drop::CT_INVALID_HEADER);
    let icmp = if parsed.v6 { proto::ICMPV6 } else { proto::ICMP };
    match parsed.ends.proto {
        proto::TCP => {
            let header = need(20)?;
            (parsed.ends.sport, parsed.ends.dport) = ports(header);
            parsed.asked = parsed.ends.dport;
            parsed.flags = header[13];
            if header[12] >> 4 < 5 {
                return Err(drop::CT_INVALID_HEADER);
            }
        }
        proto::UDP | proto::SCTP => {
            (parsed.ends.sport, parsed.ends.dport) = ports(need(8)?);
            parsed.asked = parsed.ends.dport;
        }
        number if number == icmp => {
            let header = need(8)?;
            let id = u16::from_be_bytes([header[4], header[5]]);
            parsed.icmp = (header[0], header[1]);
            parsed.asked = u16::from(header[0]);
            parsed.kind = Kind::Message;
            let (request, reply) = if parsed.v6 { (128, 129) } else { (8, 0) };
            let is_error = if parsed.v6 {
                (1..128).contains(&header[0])
            } else {
                [3, 4, 5, 11, 12].contains(&header[0])
            };
            if header[0] == request {
                parsed.kind = Kind::Request;
                parsed.ends.sport = id;
            } else if header[0] == reply {
                parsed.kind = Kind::Reply;
                parsed.ends.dport = id;
            } else if is_error {
                parsed.inner = inner(data, at + 8, parsed.v6);
                if parsed.inner.is_some() {
                    parsed.kind = Kind::Error;
                }
            }
        }
        _ => return Err(drop::CT_UNKNOWN_PROTOCOL),
    }
    Ok(())
}

fn ports(header: &[u8]) -> (u16, u16) {
    (u16::from_be_bytes([header[0], header[1]]), u16::from_be_bytes([header[2], header[3]]))
}

/// The packet inside an ICMP error: its own header, and eight bytes behind it (RFC 792).
fn inner(data: &[u8], at: usize, v6: bool) -> Option<(Ends, usize)> {
    let mut ends = Ends::default();
    let l4;
    if v6 {
        let header = data.get(at..at + 40)?;
        if header[0] >> 4 != 6 {
            return None;
        }
        (ends.src, ends.dst, ends.proto) = (v6_at(data, at + 8)?, v6_at(data, at + 24)?, header[6]);
        if ends.proto == 44 {
            // The first fragment of several, or the only one.
            let fragment = data.get(at + 40..at + 44)?;
            if u16_at(fragment, 2)? & 0xfff8 != 0 {
                return None;
            }
            (ends.proto, l4) = (fragment[0], at + 48);
        } else {
            l4 = at + 40;
        }
    } else {
        let header = data.get(at..at + 20)?;
        let len = usize::from(header[0] & 15) * 4;
        if header[0] >> 4 != 4 || len < 20 || u16_at(header, 6)? & 0x1fff != 0 {
            return None;
        }
        (ends.src, ends.dst, ends.proto) = (v4_at(data, at + 12)?, v4_at(data, at + 16)?, header[9]);
        l4 = at + len;
    }
    let head = data.get(l4..l4 + 8)?;
    let (icmp, request, reply) = if v6 { (proto::ICMPV6, 128, 129) } else { (proto::ICMP, 8, 0) };
    if ends.proto != icmp {
        (ends.sport, ends.dport) = ports(head);
    } else if head[0] == request {
        ends.sport = u16::from_be_bytes([head[4], head[5]]);
    } else if head[0] == reply {
        ends.dport = u16::from_be_bytes([head[4], head[5]]);
    }
    Some((ends, l4))
}
