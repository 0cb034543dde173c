//! Fragments, as the model sees them: the first one says what all others are.

use super::{Kind, Model, Parsed};
use crate::l1::lab::{Hook, Input};
use cilium_abi::{
    Be16, drop,
    fragment::{FRAGMENT_LIFETIME, FragmentKey, FragmentRow, PLACE_OVERLAY, PLACE_RECEIVED, PLACE_SENT},
    node::{AGGREGATE_LOW, mark},
    proto,
};

/// What a fragment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Identification, as in the packet's memory.
    pub id: u32,
    /// Protocol, of IPv6 the Fragment header's Next Header.
    pub next: u8,
    /// Bytes of the datagram before it.
    pub offset: usize,
    /// Where its own begin in the frame.
    pub start: usize,
}

/// Bytes of layer 4 that a first fragment must have.
pub(super) const fn needed(number: u8) -> usize {
    if number == proto::TCP { 20 } else { 8 }
}

impl Model {
    /// Notes what a first fragment says, or gives another one what its first said.
    pub(super) fn fragment(&mut self, input: &Input, parsed: &mut Parsed, now: u32) {
        let Some(part) = parsed.part else { return };
        let endpoint = match input.hook {
            Hook::FromContainer => match self.config(input.ifindex) {
                Ok(config) => config.endpoint_id,
                // Nobody looks at what a closed pod sends.
                Err(_) => return,
            },
            _ => 0,
        };
        let quiet = self.node.trace_aggregation > AGGREGATE_LOW;
        let unread = match input.hook {
            Hook::ToHost | Hook::ToOverlay => true,
            Hook::ToNetdev => {
                let idle = !self.masquerades(parsed.v6) && !self.serves_outside();
                quiet && (idle || input.mark & mark::MASK == mark::OVERLAY)
            }
            _ => false,
        };
        if unread {
            return;
        }
        let is_out = matches!(input.hook, Hook::FromContainer | Hook::FromHost | Hook::ToNetdev);
        let place = if input.ifindex == self.world.runtime.overlay_ifindex {
            PLACE_OVERLAY
        } else if is_out {
            PLACE_SENT
        } else {
            PLACE_RECEIVED
        };
        let key = FragmentKey {
            src: parsed.ends.src,
            dst: parsed.ends.dst,
            id: part.id,
            endpoint,
            proto: part.next,
            place,
        };
        if part.offset == 0 {
            if parsed.fault.is_none() {
                let number = parsed.ends.proto;
                let row = FragmentRow {
                    src_port: Be16::new(parsed.ends.sport),
                    dst_port: Be16::new(parsed.ends.dport),
                    head: (parsed.l4 - part.start + needed(number)) as u16,
                    proto: number,
                    detail: if number == proto::TCP { parsed.flags } else { parsed.icmp.0 },
                    seen: now,
                };
                self.fragments.insert(key, row);
            }
            return;
        }
        if parsed.fault != Some(drop::FRAGMENT_NOT_FOUND) {
            return;
        }
        let row = self.fragments.get(&key).filter(|row| now - row.seen <= FRAGMENT_LIFETIME);
        parsed.fault = match row {
            None => Some(drop::FRAGMENT_NOT_FOUND),
            Some(row) if part.offset < usize::from(row.head) => Some(drop::INVALID_PACKET),
            Some(row) => {
                parsed.ends.proto = row.proto;
                (parsed.ends.sport, parsed.ends.dport) = (row.src_port.host(), row.dst_port.host());
                parsed.asked = parsed.ends.dport;
                if row.proto == proto::ICMP || row.proto == proto::ICMPV6 {
                    parsed.kind = if matches!(row.detail, 8 | 128) { Kind::Request } else { Kind::Reply };
                    parsed.icmp = (row.detail, 0);
                    parsed.asked = u16::from(row.detail);
                } else {
                    parsed.flags = row.detail;
                }
                None
            }
        };
    }
}
