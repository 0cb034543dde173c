//! Frontends and the choice of their backends, as the model sees them.

use super::flows::{ENDING, be, is_syn};
use super::{Ends, Model, Step, Way, key};
use crate::l1::packet::{FIN, RST};
use cilium_abi::{
    Address,
    ct::{CT_CLOSING_FORWARD, CT_ONE_WAY, CT_RESET, CtRow, KIND_SERVICE},
    drop,
    lb::{
        AffinityKey, AffinityRow, BACKEND_TERMINATING, FRONTEND_MAGLEV, FRONTEND_MAGLEV_BITS,
        FRONTEND_SOURCE_DENY, FRONTEND_SOURCE_RANGES, FRONTEND_TWO_SCOPES, FrontendKey, FrontendRow,
        SCOPE_EXTERNAL, SCOPE_INTERNAL, SlotKey,
    },
    node::{NODE_LB, NODE_XDP},
    proto,
};

impl Model {
    /// Whether devices serve frontends.
    pub(super) fn serves_outside(&self) -> bool {
        self.node.flags & NODE_LB != 0
    }

    fn frontend(&self, addr: Address, port: u16, number: u8, scope: u8) -> Option<FrontendRow> {
        let place = FrontendKey { addr, port: be(port), proto: number, scope };
        self.world.frontends.get(&place).copied()
    }

    /// Whether an address and port are a frontend.
    pub(super) fn has_frontend(&self, addr: Address, port: u16, number: u8) -> bool {
        self.frontend(addr, port, number, SCOPE_EXTERNAL).is_some()
    }

    /// The frontend that a packet of a pod is for.
    pub(super) fn frontend_inside(&self, way: &Way<'_>) -> Option<FrontendRow> {
        let Ends { dst, dport, proto, .. } = way.parsed.ends;
        if !Self::has_ports(way) {
            return None;
        }
        let outer = self.frontend(dst, dport, proto, SCOPE_EXTERNAL)?;
        if outer.flags & FRONTEND_TWO_SCOPES == 0 {
            return Some(outer);
        }
        self.frontend(dst, dport, proto, SCOPE_INTERNAL)
    }

    /// The frontend that a packet of a device is for: never at a pod's own address.
    pub(super) fn frontend_outside(&self, way: &Way<'_>) -> Option<FrontendRow> {
        let Ends { dst, dport, proto, .. } = way.parsed.ends;
        let at_pod = self.world.endpoints.contains_key(&dst) && !self.is_host(&dst);
        if !self.serves_outside() || !Self::has_ports(way) || at_pod {
            return None;
        }
        self.frontend(dst, dport, proto, SCOPE_EXTERNAL)
    }

    /// Whether the source may use the frontend.
    pub(super) fn permits(&self, way: &Way<'_>, frontend: &FrontendRow) -> Step<()> {
        if frontend.flags & FRONTEND_SOURCE_RANGES == 0 {
            return Ok(());
        }
        let source = u128::from_be_bytes(way.parsed.ends.src.bytes());
        let listed = self.world.source_ranges.keys().any(|range| {
            let len = range.prefix_len - 32;
            let differs = source ^ u128::from_be_bytes(range.addr.bytes());
            range.rev_nat == frontend.rev_nat && (len == 0 || differs >> (128 - len) == 0)
        });
        let denies = frontend.flags & FRONTEND_SOURCE_DENY != 0;
        if listed == denies { Err(drop::NOT_IN_SOURCE_RANGE) } else { Ok(()) }
    }

    /// Frontend to backend.
    pub(super) fn translate(&mut self, way: &mut Way<'_>, frontend: &FrontendRow) -> Step<()> {
        let number = match self.known(way) {
            Some(number) => number,
            None => self.chosen(way, frontend).ok_or(drop::NO_SERVICE_BACKEND)?,
        };
        let backend = self.world.backends.get(&number).copied().ok_or(drop::NO_SERVICE_BACKEND)?;
        way.rev_nat = frontend.rev_nat;
        way.parsed.asked = backend.port.host();
        way.set_dst(backend.addr, backend.port.host());
        Ok(())
    }

    fn lifetime(&self, way: &Way<'_>) -> u32 {
        match (way.parsed.ends.proto == proto::TCP, is_syn(way)) {
            (false, _) => self.node.ct_any,
            (true, true) => self.node.ct_syn,
            (true, false) => self.node.ct_tcp,
        }
    }

    /// The backend that the connection has.
    fn known(&mut self, way: &mut Way<'_>) -> Option<u32> {
        let (key, _) = key(&way.parsed.ends, KIND_SERVICE);
        way.keys.push(key);
        let mut row = self.live(&key, way.now).copied()?;
        let backend = self.world.backends.get(&row.backend)?;
        if is_syn(way) && (row.flags & ENDING != 0 || backend.flags & BACKEND_TERMINATING != 0) {
            return None;
        }
        if way.parsed.flags & RST != 0 {
            row.flags |= CT_RESET;
        } else if way.parsed.flags & FIN != 0 {
            row.flags |= CT_CLOSING_FORWARD;
        }
        let lifetime = if row.flags & CT_RESET != 0 { self.node.ct_fin } else { self.lifetime(way) };
        row.expires = way.now + lifetime;
        self.connections.insert(key, row);
        way.one_way = row.flags & CT_ONE_WAY != 0;
        Some(row.backend)
    }

    /// A backend for a new connection: what the client keeps, else what the table says, else any.
    fn chosen(&mut self, way: &mut Way<'_>, frontend: &FrontendRow) -> Option<u32> {
        let ends = way.parsed.ends;
        if frontend.count == 0 {
            return None;
        }
        let client = AffinityKey { client: ends.src, rev_nat: frontend.rev_nat, is_cookie: 0 };
        let found = self
            .kept(&client, frontend, way.now)
            .or_else(|| self.in_table(&ends, frontend))
            .or_else(|| self.any(way, frontend));
        let Some(number) = found else {
            if let Some(number) = self.driver_chose(way) {
                self.open(way, frontend, number);
            }
            return None;
        };
        if frontend.affinity > 0 {
            self.affinities.insert(client, AffinityRow { backend: number, used: way.now });
        }
        self.open(way, frontend, number);
        Some(number)
    }

    /// The backend that a driver's program chose, where the device's program then looked for another since that one is
    /// terminating, and found none.
    fn driver_chose(&self, way: &Way<'_>) -> Option<u32> {
        let row = way.rows.connection(&key(&way.parsed.ends, KIND_SERVICE).0)?;
        let backend = self.world.backends.get(&row.backend)?;
        let is_fresh = row.expires == way.now + self.lifetime(way);
        let is_left = is_syn(way) && backend.flags & BACKEND_TERMINATING != 0;
        (is_fresh && is_left && self.node.flags & NODE_XDP != 0).then_some(row.backend)
    }

    /// Notes the backend of a new connection.
    fn open(&mut self, way: &mut Way<'_>, frontend: &FrontendRow, number: u32) {
        let ends = way.parsed.ends;
        let backend = self.world.backends.get(&number).copied();
        way.one_way = backend.is_some_and(|backend| self.is_direct(way, frontend, &backend));
        let row = CtRow {
            expires: way.now + self.lifetime(way),
            flags: if way.one_way { CT_ONE_WAY } else { 0 },
            rev_nat: frontend.rev_nat,
            backend: number,
            seen_forward: way.parsed.flags,
            ..CtRow::default()
        };
        self.connections.insert(key(&ends, KIND_SERVICE).0, row);
    }

    fn kept(&self, client: &AffinityKey, frontend: &FrontendRow, now: u32) -> Option<u32> {
        let row = self.affinities.get(client)?;
        self.world.backends.get(&row.backend)?;
        let list = (0..u32::from(frontend.count)).map(|slot| SlotKey { list: frontend.list, slot });
        let is_listed =
            list.filter_map(|key| self.world.slots.get(&key)).any(|number| *number == row.backend);
        let stays = frontend.affinity > 0 && row.used + frontend.affinity >= now;
        (stays && is_listed).then_some(row.backend)
    }

    fn in_table(&self, ends: &Ends, frontend: &FrontendRow) -> Option<u32> {
        let size = self.node.maglev_size;
        let made_for = frontend.flags >> FRONTEND_MAGLEV_BITS;
        if frontend.flags & FRONTEND_MAGLEV == 0 || size == 0 || 32 - size.leading_zeros() != made_for {
            return None;
        }
        let place = frontend.maglev + hash(ends) % self.node.maglev_size;
        self.world.maglev.get(&place).copied().filter(|number| self.world.backends.contains_key(number))
    }

    /// The backend the programs chose, if it is in the list; else the first, which will then differ. They
    /// look at few slots: with one that leads nowhere, finding none is chance too.
    fn any(&self, way: &Way<'_>, frontend: &FrontendRow) -> Option<u32> {
        let found: Vec<_> = (0..u32::from(frontend.count))
            .filter_map(|slot| self.world.slots.get(&SlotKey { list: frontend.list, slot }))
            .filter_map(|number| Some((*number, self.world.backends.get(number)?)))
            .collect();
        if found.len() < usize::from(frontend.count) && way.saw_drop(drop::NO_SERVICE_BACKEND) {
            return None;
        }
        let seen = way.rows.connection(&key(&way.parsed.ends, KIND_SERVICE).0).map(|row| row.backend);
        let hit = found.iter().find(|(number, _)| Some(*number) == seen);
        hit.or(found.first()).map(|(number, _)| *number)
    }
}

/// A hash of a connection, the same on every node of one byte order: MurmurHash3's finaliser over the words
/// of the source and the ports, beginning with the protocol.
fn hash(ends: &Ends) -> u32 {
    let finalise = |word: u32| {
        let word = (word ^ word >> 16).wrapping_mul(0x85eb_ca6b);
        let word = (word ^ word >> 13).wrapping_mul(0xc2b2_ae35);
        word ^ word >> 16
    };
    let ports = [ends.dport.to_be_bytes(), ends.sport.to_be_bytes()].concat();
    let bytes = [ends.src.bytes().as_slice(), &ports].concat();
    bytes.chunks_exact(4).fold(u32::from(ends.proto), |sum, word| {
        finalise(sum ^ u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
    })
}
