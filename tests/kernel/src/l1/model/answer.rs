//! What clients of frontends without backend are told, as the model sees it: a reset of their connection
//! (RFC 9293 §3.10.7.1), else "port unreachable" (RFC 792, RFC 4443) with what they sent.

use super::{Ends, Model, Step, Verdict, Way, parse};
use crate::l1::lab::Input;
use crate::l1::packet::{ACK, FIN, LINK, RST, SYN, l4_sum, ones};
use cilium_abi::{
    Address, drop,
    lb::{FRONTEND_DSR, FRONTEND_REJECT, FrontendRow},
    node::mark,
    proto,
};

/// Most that is quoted of a packet; a multiple of four.
const QUOTED: usize = 448;

impl Model {
    /// Whether a packet is for a frontend that tells that it has no backend.
    pub(in crate::l1) fn may_answer(&self, input: &Input) -> bool {
        let Ends { dst, dport, proto, .. } = parse(&input.data, input.data[12..14] == [0x86, 0xdd]).ends;
        // With the option, and in the tunnel, it may be too long.
        let is_long = input.data.len() > LINK + 1400;
        self.world.frontends.iter().any(|(key, row)| {
            (key.addr, key.port.host(), key.proto) == (dst, dport, proto)
                && ((row.count == 0 && row.flags & FRONTEND_REJECT != 0)
                    || (row.flags & FRONTEND_DSR != 0 && is_long))
        })
    }

    /// The end of a packet that its frontend has no backend for.
    pub(super) fn refuses(&self, way: &mut Way<'_>, frontend: &FrontendRow, reason: u8) -> Step<Verdict> {
        let asked = reason == drop::NO_SERVICE_BACKEND && frontend.flags & FRONTEND_REJECT != 0;
        if asked && frontend.count == 0 && way.may_be_told() {
            way.become_answer(None);
        }
        Err(reason)
    }

    /// The end of a packet that is too long for its way.
    pub(super) fn is_too_long(&self, way: &mut Way<'_>, mtu: u32) -> Step<Verdict> {
        if way.may_be_told() {
            way.become_answer(Some(mtu));
        }
        Err(drop::FRAGMENTATION_NEEDED)
    }
}

impl Way<'_> {
    /// One host asked something, by a plain packet.
    fn may_be_told(&self) -> bool {
        let src = self.parsed.ends.src.bytes();
        let is_host = if self.parsed.v6 {
            src != [0; 16] && src[0] != 0xff
        } else {
            !matches!(src[12], 0 | 127 | 224..)
        };
        let plain = self.parsed.l4 == if self.parsed.v6 { LINK + 40 } else { LINK + 20 };
        is_host && plain && self.data[0] & 1 == 0 && self.parsed.flags & RST == 0
    }

    /// Bytes of the IP packet, as far as the frame has them.
    pub(super) fn said(&self) -> usize {
        let said = if self.parsed.v6 {
            match usize::from(u16::from_be_bytes([self.data[18], self.data[19]])) {
                0 => 0,
                payload => payload + 40,
            }
        } else {
            usize::from(u16::from_be_bytes([self.data[16], self.data[17]]))
        };
        let frame = self.data.len() - LINK;
        if said == 0 { frame } else { frame.min(said) }
    }

    fn become_answer(&mut self, mtu: Option<u32>) {
        let (v6, ends, l4) = (self.parsed.v6, self.parsed.ends, self.parsed.l4);
        let end = LINK + self.said();
        let (number, mut body) = if ends.proto == proto::TCP && mtu.is_none() {
            let tcp = &self.data[l4..];
            let word = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
            let payload = end.saturating_sub(l4 + usize::from(tcp[12] >> 4) * 4) as u32;
            let flags = tcp[13];
            let length = payload + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
            let (seq, ack, kind) = if flags & ACK != 0 {
                (word(8), 0, RST)
            } else {
                (0, word(4).wrapping_add(length), RST | ACK)
            };
            let mut body = [ends.dport.to_be_bytes(), ends.sport.to_be_bytes()].concat();
            body.extend(seq.to_be_bytes());
            body.extend(ack.to_be_bytes());
            body.extend([5 << 4, kind, 0, 0, 0, 0, 0, 0]);
            (proto::TCP, body)
        } else {
            let quote = &self.data[LINK..end];
            let quote = &quote[..(quote.len() / 4 * 4).min(QUOTED)];
            let kind = match (v6, mtu) {
                (true, None) => [1, 4],
                (true, Some(_)) => [2, 0],
                (false, None) => [3, 3],
                (false, Some(_)) => [3, 4],
            };
            let head = [&kind[..], &[0, 0], &mtu.unwrap_or(0).to_be_bytes()].concat();
            (if v6 { proto::ICMPV6 } else { proto::ICMP }, [&head, quote].concat())
        };
        let sum = !l4_sum(&ends.dst, &ends.src, number, &body);
        let field = if number == proto::TCP { 16 } else { 2 };
        body[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        let mut frame = [&self.data[6..12], &self.data[..6], &self.data[12..14]].concat();
        frame.extend(header(ends.dst, ends.src, number, body.len()));
        let l4 = frame.len();
        frame.extend(body);
        self.data = frame;
        self.mark = mark::SNAT_DONE;
        self.made = true;
        self.answer = Some((l4, number));
    }
}

fn header(src: Address, dst: Address, number: u8, payload: usize) -> Vec<u8> {
    if !src.is_v4() {
        let mut header = vec![0x60, 0, 0, 0];
        header.extend((payload as u16).to_be_bytes());
        header.extend([number, 64]);
        header.extend(src.bytes());
        header.extend(dst.bytes());
        return header;
    }
    let mut header = vec![0x45, 0];
    header.extend((20 + payload as u16).to_be_bytes());
    // Not to be fragmented.
    header.extend([0, 0, 0x40, 0, 64, number, 0, 0]);
    header.extend(&src.bytes()[12..]);
    header.extend(&dst.bytes()[12..]);
    let sum = !ones(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}
