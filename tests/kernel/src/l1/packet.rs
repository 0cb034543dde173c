//! Building packets and checking their checksums. Never: what a datapath should do with them.

use super::world::{ETH0_MAC, Family, Pod};
use cilium_abi::{
    Address, Be16, Mac,
    dsr::{DESTINATION_OPTIONS, OptionV4, OptionV6},
    proto,
};
use zerocopy::IntoBytes;

/// Bytes of Ethernet header.
pub const LINK: usize = 14;
/// FIN.
pub const FIN: u8 = 1;
/// SYN.
pub const SYN: u8 = 2;
/// RST.
pub const RST: u8 = 4;
/// ACK.
pub const ACK: u8 = 16;

/// IP protocol of an IPv4 packet within another header.
pub const IN_IPV4: u8 = 4;

/// A packet being built.
#[derive(Clone, Debug)]
pub struct Build {
    src: Address,
    dst: Address,
    proto: u8,
    /// Layer 4 header and payload, checksum zero.
    body: Vec<u8>,
    frame: (Mac, Mac),
    ttl: u8,
    /// Extension headers (IPv6) with their numbers, or options (IPv4).
    extra: Vec<(u8, Vec<u8>)>,
    fragment: u16,
    no_checksum: bool,
}

fn build(src: Address, dst: Address, proto: u8, body: Vec<u8>) -> Build {
    let frame = (ETH0_MAC, Mac([2, 0, 0, 0, 0, 2]));
    Build { src, dst, proto, body, frame, ttl: 64, extra: Vec::new(), fragment: 0, no_checksum: false }
}

/// A TCP segment.
pub fn tcp(src: Address, dst: Address, ports: (u16, u16), flags: u8) -> Build {
    let mut body = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    body.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0xff, 0, 0, 0, 0, 0]);
    body.extend(b"payload");
    build(src, dst, proto::TCP, body)
}

/// A UDP datagram.
pub fn udp(src: Address, dst: Address, ports: (u16, u16)) -> Build {
    let mut body = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    body.extend([0, 15, 0, 0]);
    body.extend(b"payload");
    build(src, dst, proto::UDP, body)
}

/// An SCTP packet (its CRC is left zero).
pub fn sctp(src: Address, dst: Address, ports: (u16, u16)) -> Build {
    let mut body = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    body.extend([0; 12]);
    build(src, dst, proto::SCTP, body)
}

/// A packet of some protocol.
pub fn other(src: Address, dst: Address, proto: u8) -> Build {
    build(src, dst, proto, vec![7; 24])
}

/// Any ICMP message of the addresses' family.
pub fn icmp(src: Address, dst: Address, kind: u8, code: u8, rest: &[u8]) -> Build {
    let mut body = vec![kind, code, 0, 0];
    body.extend(rest);
    build(src, dst, if dst.is_v4() { proto::ICMP } else { proto::ICMPV6 }, body)
}

/// An echo request.
pub fn ping(src: Address, dst: Address, id: u16) -> Build {
    echo(src, dst, if dst.is_v4() { 8 } else { 128 }, id)
}

/// An echo reply.
pub fn pong(src: Address, dst: Address, id: u16) -> Build {
    echo(src, dst, if dst.is_v4() { 0 } else { 129 }, id)
}

fn echo(src: Address, dst: Address, kind: u8, id: u16) -> Build {
    let [a, b] = id.to_be_bytes();
    icmp(src, dst, kind, 0, &[a, b, 0, 1, 9, 9, 9, 9])
}

/// "Port unreachable" about a packet (as a frame).
pub fn unreachable(src: Address, dst: Address, about: &[u8]) -> Build {
    let mut rest = vec![0; 4];
    rest.extend(about.iter().skip(LINK).take(128));
    if dst.is_v4() { icmp(src, dst, 3, 3, &rest) } else { icmp(src, dst, 1, 4, &rest) }
}

/// An IPv6 neighbour solicitation from a pod, with its hardware address.
pub fn solicitation(pod: Pod, target: Address) -> Build {
    let mut rest = vec![0; 4];
    rest.extend(target.bytes());
    rest.extend([1, 1]);
    rest.extend(pod.mac().0);
    icmp(pod.ip(Family::V6), target, 135, 0, &rest).ttl(255).from(pod)
}

/// An ARP message from a pod's hardware address.
pub fn arp(operation: u16, sender: (Mac, Address), target: Address) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(sender.0.0);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(sender.0.0);
    frame.extend(&sender.1.bytes()[12..]);
    frame.extend([0; 6]);
    frame.extend(&target.bytes()[12..]);
    frame
}

impl Build {
    /// Framed as the pod sends it to its gateway.
    pub fn from(self, pod: Pod) -> Self {
        self.macs(pod.node_mac(), pod.mac())
    }
    /// With these hardware addresses, destination first.
    pub fn macs(mut self, dst: Mac, src: Mac) -> Self {
        self.frame = (dst, src);
        self
    }
    /// With this TTL or hop limit.
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }
    /// With an extension header of eight bytes per unit (IPv6), or four bytes of options (IPv4).
    pub fn extra(mut self, number: u8, units: usize) -> Self {
        let mut header = vec![0u8; units * if self.dst.is_v4() { 4 } else { 8 }];
        if self.dst.is_v4() {
            header.fill(1);
        } else {
            header[1] = if number == 51 { (units * 2 - 2) as u8 } else { (units - 1) as u8 };
        }
        self.extra.push((number, header));
        self
    }
    /// With an option that names a frontend of its family to the backend's node.
    pub fn naming(mut self, addr: Address, port: u16) -> Self {
        if addr.is_v4() != self.dst.is_v4() {
            return self;
        }
        let option = if self.dst.is_v4() {
            OptionV4::new(&addr, Be16::new(port)).as_bytes().to_vec()
        } else {
            OptionV6::new(0, &addr, Be16::new(port)).as_bytes().to_vec()
        };
        self.extra.push((DESTINATION_OPTIONS, option));
        self
    }
    /// As a fragment: offset in eight bytes, more to come in bit 13 (as in the IPv4 header).
    pub fn fragment(mut self, value: u16) -> Self {
        self.fragment = value;
        if !self.dst.is_v4() {
            let [a, b] = ((value & 0x1fff) << 3 | value >> 13 & 1).to_be_bytes();
            self.extra.push((44, vec![0, 0, a, b, 0, 0, 0, 1]));
        }
        self
    }
    /// Without a UDP checksum.
    pub fn without_checksum(mut self) -> Self {
        self.no_checksum = true;
        self
    }
    /// With so many bytes of payload more.
    pub fn longer(mut self, bytes: usize) -> Self {
        self.body.extend((0..bytes).map(|i| i as u8));
        if self.proto == proto::UDP {
            let len = (self.body.len() as u16).to_be_bytes();
            self.body[4..6].copy_from_slice(&len);
        }
        self
    }
    /// The frame, checksums right.
    pub fn bytes(&self) -> Vec<u8> {
        let is_v4 = self.dst.is_v4();
        let mut frame = [self.frame.0.0, self.frame.1.0].concat();
        frame.extend(if is_v4 { [8, 0] } else { [0x86, 0xdd] });
        let extra: usize = self.extra.iter().map(|(_, header)| header.len()).sum();
        if is_v4 {
            let total = (20 + extra + self.body.len()) as u16;
            frame.extend([0x45 + (extra / 4) as u8, 0]);
            frame.extend(total.to_be_bytes());
            frame.extend([0x12, 0x34]);
            frame.extend(self.fragment.to_be_bytes());
            frame.extend([self.ttl, self.proto, 0, 0]);
            frame.extend(&self.src.bytes()[12..]);
            frame.extend(&self.dst.bytes()[12..]);
            frame.extend(self.extra.iter().flat_map(|(_, header)| header));
        } else {
            let first = self.extra.first().map_or(self.proto, |(number, _)| *number);
            frame.extend([0x60, 0, 0, 0]);
            frame.extend(((extra + self.body.len()) as u16).to_be_bytes());
            frame.extend([first, self.ttl]);
            frame.extend(self.src.bytes());
            frame.extend(self.dst.bytes());
            for (place, (_, header)) in self.extra.iter().enumerate() {
                let next = self.extra.get(place + 1).map_or(self.proto, |(number, _)| *number);
                frame.push(next);
                frame.extend(&header[1..]);
            }
        }
        let l4 = frame.len();
        frame.extend(&self.body);
        if is_v4 {
            let end = LINK + 20 + extra;
            let sum = !ones(&frame[LINK..end]);
            frame[LINK + 10..LINK + 12].copy_from_slice(&sum.to_be_bytes());
        }
        if let Some(field) = checksum_field(self.proto)
            && l4 + field + 2 <= frame.len()
            && !(self.no_checksum && self.proto == proto::UDP)
        {
            let mut sum = !l4_sum(&self.src, &self.dst, self.proto, &frame[l4..]);
            if sum == 0 && self.proto == proto::UDP {
                sum = 0xffff;
            }
            frame[l4 + field..l4 + field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        frame
    }
}

/// A frame's datagram in fragments that end at these offsets of its payload, which are multiples of eight. IPv6:
/// a frame without extension headers.
pub fn split(frame: &[u8], id: u32, ends: &[usize]) -> Vec<Vec<u8>> {
    let is_v4 = frame[12..14] == [8, 0];
    let payload = LINK + if is_v4 { usize::from(frame[LINK] & 15) * 4 } else { 40 };
    let whole = frame.len() - payload;
    let mut start = 0;
    let mut parts = Vec::new();
    for end in ends.iter().copied().chain([whole]) {
        let more = u16::from(end < whole);
        let mut part = frame[..payload].to_vec();
        if is_v4 {
            part[LINK + 2..LINK + 4].copy_from_slice(&((payload - LINK + end - start) as u16).to_be_bytes());
            part[LINK + 4..LINK + 6].copy_from_slice(&(id as u16).to_be_bytes());
            part[LINK + 6..LINK + 8].copy_from_slice(&((start / 8) as u16 | more << 13).to_be_bytes());
            part[LINK + 10..LINK + 12].fill(0);
            let sum = !ones(&part[LINK..payload]);
            part[LINK + 10..LINK + 12].copy_from_slice(&sum.to_be_bytes());
        } else {
            part[LINK + 4..LINK + 6].copy_from_slice(&((8 + end - start) as u16).to_be_bytes());
            let next = std::mem::replace(&mut part[LINK + 6], 44);
            part.extend([next, 0]);
            part.extend((start as u16 | more).to_be_bytes());
            part.extend(id.to_be_bytes());
        }
        part.extend(&frame[payload + start..payload + end]);
        parts.push(part);
        start = end;
    }
    parts
}

/// The datagram that fragments make up, whatever their order, by RFC 791 and RFC 8200; `None`: something is missing.
pub fn join(parts: &[Vec<u8>]) -> Option<Vec<u8>> {
    let is_v4 = parts.first()?[12..14] == [8, 0];
    let mut head = Vec::new();
    let mut body = Vec::new();
    let mut filled = 0;
    let mut whole = None;
    for part in parts {
        // Where the Fragment header is, and what says so: an option that names a frontend may stand before it.
        let (header, says) = match (is_v4, part[LINK + 6]) {
            (false, DESTINATION_OPTIONS) => (LINK + 48 + usize::from(part[LINK + 41]) * 8, LINK + 40),
            _ => (LINK + 40, LINK + 6),
        };
        let (from, start, more) = if is_v4 {
            let place = u16::from_be_bytes([part[LINK + 6], part[LINK + 7]]);
            let from = LINK + usize::from(part[LINK] & 15) * 4;
            (from, usize::from(place & 0x1fff) * 8, place & 0x2000 != 0)
        } else {
            let place = u16::from_be_bytes([part[header + 2], part[header + 3]]);
            (header + 8, usize::from(place & 0xfff8), place & 1 != 0)
        };
        let bytes = &part[from..];
        if body.len() < start + bytes.len() {
            body.resize(start + bytes.len(), 0);
        }
        body[start..start + bytes.len()].copy_from_slice(bytes);
        filled += bytes.len();
        if start == 0 {
            head = part[..if is_v4 { from } else { header }].to_vec();
            if !is_v4 {
                head[says] = part[header];
            }
        }
        if !more {
            whole = Some(start + bytes.len());
        }
    }
    if whole != Some(filled) || body.len() != filled || head.is_empty() {
        return None;
    }
    let length = (head.len() - LINK - if is_v4 { 0 } else { 40 } + filled) as u16;
    let at = LINK + if is_v4 { 2 } else { 4 };
    head[at..at + 2].copy_from_slice(&length.to_be_bytes());
    if is_v4 {
        head[LINK + 6..LINK + 8].fill(0);
        head[LINK + 10..LINK + 12].fill(0);
        let sum = !ones(&head[LINK..]);
        head[LINK + 10..LINK + 12].copy_from_slice(&sum.to_be_bytes());
    }
    head.extend(body);
    Some(head)
}

/// Where a protocol keeps its checksum.
pub fn checksum_field(number: u8) -> Option<usize> {
    match number {
        proto::TCP => Some(16),
        proto::UDP => Some(6),
        proto::ICMP | proto::ICMPV6 => Some(2),
        _ => None,
    }
}

/// Ones' complement sum (RFC 1071).
pub fn ones(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Sum over layer 4, with the pseudo header where the protocol has one.
pub fn l4_sum(src: &Address, dst: &Address, number: u8, body: &[u8]) -> u16 {
    let mut covered = Vec::with_capacity(body.len() + 40);
    if number != proto::ICMP {
        let skip = if dst.is_v4() { 12 } else { 0 };
        covered.extend(&src.bytes()[skip..]);
        covered.extend(&dst.bytes()[skip..]);
        covered.extend((body.len() as u32).to_be_bytes());
        covered.extend([0, 0, 0, number]);
    }
    covered.extend(body);
    ones(&covered)
}

/// Every checksum of an IP packet whose layer 4 begins at `l4`: where it is, and whether it is right.
/// A missing UDP checksum is right for IPv4.
pub fn checksums(frame: &[u8], l4: usize, number: u8) -> Vec<(usize, bool)> {
    let mut found = Vec::new();
    let is_v4 = frame[12..14] == [8, 0];
    let (src, dst, end);
    if is_v4 {
        found.push((LINK + 10, ones(&frame[LINK..LINK + usize::from(frame[LINK] & 15) * 4]) == 0xffff));
        let word = |at: usize| {
            Address::v4(u32::from_ne_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]))
        };
        (src, dst) = (word(LINK + 12), word(LINK + 16));
        let total = usize::from(u16::from_be_bytes([frame[LINK + 2], frame[LINK + 3]]));
        end = if total == 0 { frame.len() } else { (LINK + total).min(frame.len()) };
    } else {
        let bytes = |at: usize| Address::v6(frame[at..at + 16].try_into().expect("sixteen bytes"));
        (src, dst) = (bytes(LINK + 8), bytes(LINK + 24));
        let payload = usize::from(u16::from_be_bytes([frame[LINK + 4], frame[LINK + 5]]));
        end = if payload == 0 { frame.len() } else { (LINK + 40 + payload).min(frame.len()) };
    }
    if let Some(field) = checksum_field(number)
        && l4 + field + 2 <= end
    {
        let at = l4 + field;
        let missing = number == proto::UDP && is_v4 && frame[at..at + 2] == [0, 0];
        found.push((at, missing || l4_sum(&src, &dst, number, &frame[l4..end]) == 0xffff));
    }
    found
}
