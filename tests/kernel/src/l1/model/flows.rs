//! Connections and policy, as the model sees them.

use super::{Ends, Kind, Model, Refusal, Step, Way, key};
use crate::l1::packet::{ACK, FIN, RST, SYN};
use cilium_abi::{
    Address, Be16,
    ct::{
        CT_CLOSING_FORWARD, CT_CLOSING_REPLY, CT_DSR, CT_INITIATOR_HIGH, CT_LOOPBACK, CT_ONE_WAY, CT_RESET,
        CT_SEEN_REPLY, CT_STACK, CtKey, CtRow, KIND_CONNECTION,
    },
    drop,
    endpoint::{CONFIG_OPEN_EGRESS, CONFIG_OPEN_INGRESS, EndpointConfigRow},
    ipcache::IpcacheRow,
    proto,
};

/// How a packet stands to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It opens one.
    New,
    /// It goes the opener's way.
    Forward,
    /// It goes the other way.
    Reply,
    /// It is an error about one.
    Related,
}

impl State {
    pub(super) fn asks_policy(self) -> bool {
        matches!(self, Self::New | Self::Forward)
    }
}

/// Flags of connections that end.
pub(super) const ENDING: u16 = CT_CLOSING_FORWARD | CT_CLOSING_REPLY | CT_RESET;

pub(super) fn is_tcp(way: &Way<'_>) -> bool {
    way.parsed.ends.proto == proto::TCP
}

pub(super) fn is_syn(way: &Way<'_>) -> bool {
    way.parsed.ends.proto == proto::TCP && way.parsed.flags & SYN != 0 && way.parsed.flags & ACK == 0
}

impl Model {
    pub(super) fn live(&self, key: &CtKey, now: u32) -> Option<&CtRow> {
        self.connections.get(key).filter(|row| row.expires >= now)
    }

    /// How the packet stands, the number of the frontend its connection went through, and the
    /// connection's flags if there is one.
    pub(super) fn stand(&self, way: &mut Way<'_>) -> (State, u16, Option<u16>) {
        if way.parsed.kind == Kind::Error {
            let (inner, _) = way.parsed.inner.unwrap_or_default();
            let (key, _) = key(&inner, KIND_CONNECTION);
            // An error is for the sender of what it is about, or it is no such error.
            return match self.live(&key, way.now) {
                Some(row) if inner.src == way.parsed.ends.dst => {
                    (State::Related, row.rev_nat, Some(row.flags))
                }
                _ => (State::New, 0, None),
            };
        }
        let (key, high) = key(&way.parsed.ends, KIND_CONNECTION);
        way.keys.push(key);
        let Some(row) = self.live(&key, way.now) else { return (State::New, 0, None) };
        let forward = high == (row.flags & CT_INITIATOR_HIGH != 0);
        let state = if is_syn(way) {
            if forward && row.flags & ENDING == 0 { State::Forward } else { State::New }
        } else if forward {
            State::Forward
        } else if way.parsed.kind == Kind::Request {
            // Nobody replies with a request.
            State::New
        } else {
            State::Reply
        };
        (state, row.rev_nat, Some(row.flags))
    }

    /// The connection that has the packet's ends is none any more.
    pub(super) fn forget(&mut self, way: &Way<'_>) {
        let (key, _) = key(&way.parsed.ends, KIND_CONNECTION);
        if let Some(row) = self.connections.get_mut(&key) {
            row.expires = 0;
        }
    }

    /// Remembers an allowed packet.
    pub(super) fn record(&mut self, way: &Way<'_>, state: State) {
        if way.parsed.kind == Kind::Error {
            return;
        }
        let (key, high) = key(&way.parsed.ends, KIND_CONNECTION);
        let is_tcp = way.parsed.ends.proto == proto::TCP;
        let flags = way.parsed.flags;
        let from_stack = if way.from_stack { CT_STACK } else { 0 };
        if state == State::New {
            let lifetime = match (is_tcp, is_syn(way)) {
                (false, _) => self.node.ct_any,
                (true, true) => self.node.ct_syn,
                // The end of a connection that was not seen.
                (true, false) if flags & (FIN | RST) != 0 => self.node.ct_fin,
                (true, false) => self.node.ct_tcp,
            };
            let row = CtRow {
                expires: way.now + lifetime,
                flags: if high { CT_INITIATOR_HIGH } else { 0 }
                    | if way.loopback { CT_LOOPBACK } else { 0 }
                    | from_stack
                    | way.marks,
                rev_nat: way.rev_nat,
                seen_forward: flags,
                ..CtRow::default()
            };
            self.connections.insert(key, row);
            return;
        }
        let node = self.node;
        let Some(row) = self.connections.get_mut(&key) else { return };
        let had_syn = row.seen_forward & SYN != 0;
        if state == State::Reply {
            row.flags |= CT_SEEN_REPLY;
            row.seen_reply |= flags;
        } else {
            row.seen_forward |= flags;
            if !is_tcp || is_syn(way) {
                row.rev_nat = way.rev_nat;
                row.flags = row.flags & !(CT_STACK | CT_ONE_WAY | CT_DSR) | from_stack | way.marks;
            }
        }
        if is_tcp {
            if flags & RST != 0 {
                row.flags |= CT_RESET;
            } else if flags & FIN != 0 {
                row.flags |= if state == State::Reply { CT_CLOSING_REPLY } else { CT_CLOSING_FORWARD };
            }
        }
        let both = CT_CLOSING_FORWARD | CT_CLOSING_REPLY;
        let lifetime = if !is_tcp {
            node.ct_any
        } else if row.flags & CT_RESET != 0 || row.flags & both == both {
            node.ct_fin
        } else if row.flags & CT_ONE_WAY != 0 && row.flags & CT_CLOSING_FORWARD != 0 {
            // The other side's end is not seen.
            node.ct_fin
        } else if row.flags & CT_SEEN_REPLY != 0
            || !had_syn
            || (row.flags & CT_ONE_WAY != 0 && flags & SYN == 0)
        {
            node.ct_tcp
        } else {
            node.ct_syn
        };
        row.expires = way.now + lifetime;
    }

    /// The row of the longest prefix around an address.
    fn prefix(&self, addr: &Address) -> Option<&IpcacheRow> {
        let bits = u128::from_be_bytes(addr.bytes());
        let hit = |len: u32, prefix: &Address| {
            len == 0 || (bits ^ u128::from_be_bytes(prefix.bytes())) >> (128 - len) == 0
        };
        self.world
            .prefixes
            .iter()
            .filter(|(k, _)| hit(k.prefix_len, &k.addr))
            .max_by_key(|(k, _)| k.prefix_len)
            .map(|(_, row)| row)
    }

    /// What is known of an address that is not here.
    pub(super) fn far(&self, addr: &Address) -> Option<&IpcacheRow> {
        self.world.ipcache.get(addr).or_else(|| self.prefix(addr))
    }

    pub(super) fn world_of(&self, v6: bool) -> u32 {
        if v6 { self.node.world_ipv6 } else { self.node.world_ipv4 }
    }

    /// The identity of an address: an endpoint's of this node, or as the ipcache has it, or the world.
    pub(super) fn identity(&self, addr: &Address, v6: bool) -> u32 {
        match self.world.endpoints.get(addr) {
            Some(endpoint) => endpoint.identity,
            None => self.far(addr).map_or(self.world_of(v6), |row| row.identity),
        }
    }

    /// Whether an endpoint may send to, or receive from, a peer.
    pub(super) fn ask(
        &self,
        way: &mut Way<'_>,
        config: &EndpointConfigRow,
        egress: bool,
        ids: (u32, u32),
    ) -> Step<()> {
        if !egress {
            way.direction = 1;
        }
        let open = if egress { CONFIG_OPEN_EGRESS } else { CONFIG_OPEN_INGRESS };
        if config.flags & open != 0 || self.remembers(way, egress) {
            return Ok(());
        }
        let peer = if egress { ids.1 } else { ids.0 };
        let (allowed, denied, cookie) =
            self.judge(config.policy_id, egress, peer, way.parsed.ends.proto, way.parsed.asked);
        if allowed {
            return Ok(());
        }
        way.refusal =
            Some(Refusal { endpoint: config.endpoint_id, source: ids.0, destination: ids.1, cookie });
        Err(if denied { drop::POLICY_DENIED_BY_DENYLIST } else { drop::POLICY_DENIED })
    }

    /// Whether the connection of a packet with ports remembers a verdict of this revision. The model itself
    /// never writes one down: where the programs do, they must still decide as the rules say.
    fn remembers(&self, way: &Way<'_>, egress: bool) -> bool {
        let (key, high) = key(&way.parsed.ends, KIND_CONNECTION);
        let Some(row) = self.live(&key, way.now) else { return false };
        let goes_on = high == (row.flags & CT_INITIATOR_HIGH != 0)
            && !(is_syn(way) && row.flags & ENDING != 0)
            && way.parsed.kind == Kind::Ports;
        let at = if egress { row.allowed_egress } else { row.allowed_ingress };
        goes_on && !way.told && at != 0 && at == self.world.revision
    }

    /// The rules' verdict: allowed, denied by a rule, and that rule's number.
    fn judge(&self, policy: u32, egress: bool, peer: u32, number: u8, asked: u16) -> (bool, bool, u32) {
        // For one peer the narrowest range of ports decides; of the peer's own rules and those for any
        // peer the higher precedence, and a refusal among equals.
        let narrowest = |who: u32| {
            self.world
                .rules
                .iter()
                .filter(|rule| rule.policy == policy && rule.egress == egress && rule.peer == who)
                .filter(|rule| {
                    let mask = if rule.len == 0 { 0 } else { u16::MAX << (16 - rule.len) };
                    rule.proto == 0 || (rule.proto == number && asked & mask == rule.first())
                })
                .max_by_key(|rule| (rule.proto != 0, rule.len))
        };
        let own = if peer == 0 { None } else { narrowest(peer) };
        let best = own
            .into_iter()
            .chain(narrowest(0))
            .max_by_key(|rule| (rule.precedence, !rule.allow, rule.peer != 0));
        best.map_or((false, false, 0), |rule| (rule.allow, !rule.allow, rule.cookie))
    }
}

/// A tuple's port as rows have it.
pub(super) fn be(port: u16) -> Be16 {
    Be16::new(port)
}

/// The same packet's ends, other way round.
pub(super) fn reversed(ends: &Ends) -> Ends {
    Ends { src: ends.dst, dst: ends.src, sport: ends.dport, dport: ends.sport, proto: ends.proto }
}
