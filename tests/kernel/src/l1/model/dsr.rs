//! Direct server return, as the model sees it: what tells of a frontend, and what becomes of it.

use super::flows::{State, be, is_syn, is_tcp, reversed};
use super::nat::snat_key;
use super::{Kind, Model, Parsed, Step, Verdict, Way, key};
use crate::l1::world::{ETH0_MAC, Route, SIDE_MAC, is_side, route};
use cilium_abi::{
    Address,
    ct::{CT_DSR, CT_ONE_WAY, KIND_CONNECTION},
    drop, identity,
    ipcache::FLAG_IN_CLUSTER,
    lb::{
        BackendRow, FRONTEND_DSR, FRONTEND_EXTERNAL, FRONTEND_NODE_PORT, FrontendKey, FrontendRow,
        SCOPE_EXTERNAL,
    },
    node::{DeviceRow, NODE_DSR_IPIP, mark},
    snat::{FRONTEND, SnatRow},
};

/// Opens a connection, or belongs to none that opens.
fn tells(way: &Way<'_>) -> bool {
    !is_tcp(way) || is_syn(way)
}

/// The header or option that names a frontend; a header leads to `next`.
fn named(frontend: (Address, u16), next: u8) -> Vec<u8> {
    let (addr, port) = (frontend.0.bytes(), frontend.1.to_be_bytes());
    if frontend.0.is_v4() {
        // Upstream's programs turn what is in network order round once more.
        return [&[0x9a, 8, port[1], port[0]], &[addr[15], addr[14], addr[13], addr[12]][..]].concat();
    }
    [&[next, 2, 0x1b, 20][..], &addr, &port, &[0, 0]].concat()
}

/// Makes the packet longer or shorter by whole words of its header, beginning behind the fixed part.
fn resize(way: &mut Way<'_>, take: usize, put: &[u8]) {
    let (start, count) = if way.parsed.v6 { (54, 18) } else { (34, 16) };
    way.data.splice(start..start + take, put.iter().copied());
    let length = usize::from(u16::from_be_bytes([way.data[count], way.data[count + 1]])) + put.len() - take;
    way.data[count..count + 2].copy_from_slice(&(length as u16).to_be_bytes());
    if !way.parsed.v6 {
        way.data[14] = way.data[14] + (put.len() / 4) as u8 - (take / 4) as u8;
    }
    if way.parsed.l4 != 0 {
        way.parsed.l4 = way.parsed.l4 + put.len() - take;
    }
}

impl Model {
    /// Whether a client of this frontend is to be answered by the backend itself: one that the cluster knows is not, and
    /// by none outside; by IP in IP by those outside alone, whose port is the frontend's.
    pub(super) fn is_direct(&self, way: &Way<'_>, frontend: &FrontendRow, backend: &BackendRow) -> bool {
        let fits = if self.wraps() {
            !self.is_within(&backend.addr) && backend.port.host() == way.parsed.ends.dport
        } else {
            self.is_within(&backend.addr)
        };
        frontend.flags & FRONTEND_DSR != 0 && !self.is_of_cluster(&way.parsed.ends.src) && fits
    }

    /// Whether backends outside are sent packets as they are, within another header.
    pub(super) fn wraps(&self) -> bool {
        self.node.flags & NODE_DSR_IPIP != 0
    }

    /// Whether an address is the cluster's.
    pub(super) fn is_within(&self, addr: &Address) -> bool {
        self.far(addr).is_some_and(|row| row.flags & FLAG_IN_CLUSTER != 0)
    }

    /// On to a backend outside, as it came.
    pub(super) fn goes_wrapped(&mut self, way: &mut Way<'_>, before: (Parsed, Vec<u8>)) -> Step<Verdict> {
        let to = way.parsed.ends.dst;
        let translated = std::mem::replace(&mut way.parsed, before.0);
        way.data = before.1;
        if let Some(mtu) = self.lesser_mtu_wrapped(way, &to) {
            return self.is_too_long(way, mtu);
        }
        let verdict = self.wrapped(way, &to)?;
        way.marks = CT_ONE_WAY;
        way.parsed = translated;
        let (state, ..) = self.stand(way);
        self.record(way, state);
        Ok(verdict)
    }

    /// What is left of the way's MTU for a packet that gets another header, if that is too little.
    pub(super) fn lesser_mtu_wrapped(&self, way: &Way<'_>, to: &Address) -> Option<u32> {
        const MTU: u32 = 1500;
        let more = if way.parsed.v6 { 40 } else { 20 };
        let leads = !matches!(route(to), Route::Blocked | Route::Stack);
        (leads && way.said() as u32 + more > MTU).then_some(MTU - more)
    }

    /// Puts a packet into a header from the node's address on the way to somebody.
    pub(super) fn wrapped(&self, way: &mut Way<'_>, to: &Address) -> Step<Verdict> {
        let found = route(to);
        if matches!(found, Route::Blocked | Route::Stack) {
            return Err(drop::FIB_LOOKUP_FAILED);
        }
        if found == Route::Host {
            return Err(drop::STALE_OR_UNROUTABLE_IP);
        }
        let of = |device: &DeviceRow| if way.parsed.v6 { device.ipv6 } else { device.ipv4 };
        let mac = if is_side(to) { SIDE_MAC } else { ETH0_MAC };
        let leaving = self.world.devices.values().find(|device| device.mac == mac).map(of);
        let arrival = self.world.devices.get(&way.input.ifindex).map(of);
        let known = |addr: &Address| !addr.is_none();
        let own = leaving.filter(known).or(arrival.filter(known)).ok_or(drop::NO_DEVICE)?;
        let length = way.said() as u16;
        let mut header;
        if way.parsed.v6 {
            header = vec![0x60, 0, 0, 0];
            header.extend(length.to_be_bytes());
            header.extend([41, 64]);
            header.extend(own.bytes());
            header.extend(to.bytes());
            way.answer = Some((54, 41));
        } else {
            header = vec![0x45, 0];
            header.extend((length + 20).to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, 4, 0, 0]);
            header.extend(&own.bytes()[12..]);
            header.extend(&to.bytes()[12..]);
            way.answer = Some((34, 4));
        }
        way.data.splice(14..14, header);
        if let Route::Neighbour(next) = found {
            way.dst_mac(&next.0);
            way.src_mac(&mac.0);
        }
        way.mark = mark::SNAT_DONE;
        Ok(Verdict::Redirect)
    }

    /// Whether an address is a pod's or a node's.
    fn is_of_cluster(&self, addr: &Address) -> bool {
        self.world.ipcache.get(addr).is_some_and(|row| row.identity & identity::LOCAL_SCOPE == 0)
    }

    /// On to a backend elsewhere, with the client's address.
    pub(super) fn goes_direct(&mut self, way: &mut Way<'_>, before: (Parsed, Vec<u8>)) -> Step<Verdict> {
        let asked = before.0.ends;
        if tells(way)
            && let Some(mtu) = self.lesser_mtu(way)
        {
            (way.parsed, way.data) = before;
            return self.is_too_long(way, mtu);
        }
        way.marks = CT_ONE_WAY;
        let (state, ..) = self.stand(way);
        self.record(way, state);
        if tells(way) {
            let option = named((asked.dst, asked.dport), way.data[20]);
            resize(way, 0, &option);
            if way.parsed.v6 {
                way.data[20] = 60;
            }
        }
        if self.far(&way.parsed.ends.dst).is_some_and(|row| !row.tunnel.is_none()) {
            way.hop()?;
            return self.encapsulate();
        }
        way.mark = mark::SNAT_DONE;
        self.along_routes(way)
    }

    /// What is left of the way's MTU for a packet that has to name its frontend, if that is too little.
    fn lesser_mtu(&self, way: &Way<'_>) -> Option<u32> {
        const MTU: u32 = 1500;
        let dst = way.parsed.ends.dst;
        let tunnel = self.far(&dst).map_or(Address::NONE, |row| row.tunnel);
        // Frame, VXLAN, UDP and IP.
        let outer = if tunnel.is_none() { 0 } else { 14 + 8 + 8 + if tunnel.is_v4() { 20 } else { 40 } };
        let more = outer + if way.parsed.v6 { 24 } else { 8 };
        let to = if tunnel.is_none() { dst } else { tunnel };
        let leads = !matches!(route(&to), Route::Blocked | Route::Stack);
        (leads && way.data.len() as u32 - 14 + more > MTU).then_some(MTU - more)
    }

    /// Takes off what names a frontend, if somebody outside sent it to a backend of this node.
    pub(super) fn takes(&self, way: &mut Way<'_>) -> Step<()> {
        if way.parsed.kind != Kind::Ports || way.parsed.fault.is_some() {
            return Ok(());
        }
        let (start, size) = if way.parsed.v6 { (54, 24) } else { (34, 8) };
        let has_room = if way.parsed.v6 { way.data[20] == 60 } else { way.data[14] & 15 >= 7 };
        let Some(option) = way.data.get(start..start + size).filter(|_| has_room).map(<[u8]>::to_vec) else {
            return Ok(());
        };
        let frontend = if way.parsed.v6 {
            let addr: [u8; 16] = option[4..20].try_into().map_err(|_| drop::INVALID_PACKET)?;
            (Address::v6(addr), u16::from_be_bytes([option[20], option[21]]))
        } else {
            let addr = u32::from_ne_bytes([option[7], option[6], option[5], option[4]]);
            (Address::v4(addr), u16::from_le_bytes([option[2], option[3]]))
        };
        let is_named = if way.parsed.v6 {
            option[1..4] == [2, 0x1b, 20] && !frontend.0.is_v4()
        } else {
            option[..2] == [0x9a, 8]
        };
        if !is_named || self.is_of_cluster(&way.parsed.ends.src) {
            return Ok(());
        }
        let row = |addr: Address| {
            let proto = way.parsed.ends.proto;
            let place = FrontendKey { addr, port: be(frontend.1), proto, scope: SCOPE_EXTERNAL };
            self.world.frontends.get(&place)
        };
        let every = if way.parsed.v6 { Address::NONE } else { Address::v4(0) };
        let is_node = self.world.ipcache.get(&frontend.0).is_some_and(|row| super::is_node(row.identity));
        let is_served = match row(frontend.0) {
            Some(row) => row.flags & FRONTEND_EXTERNAL != 0,
            None => is_node && row(every).is_some_and(|row| row.flags & FRONTEND_NODE_PORT != 0),
        };
        if !is_served {
            return Err(drop::NO_SERVICE_BACKEND);
        }
        if way.parsed.v6 {
            way.data[20] = option[0];
        }
        resize(way, size, &[]);
        way.marks = CT_DSR;
        way.frontend = frontend;
        Ok(())
    }

    /// Remembers what [`Self::takes`] found.
    pub(super) fn remembers_frontend(&mut self, way: &Way<'_>) {
        if way.marks & CT_DSR == 0 {
            return;
        }
        let (now, (addr, port)) = (way.now, way.frontend);
        let row = SnatRow { addr, port: be(port), flags: 0, created: now, used: now };
        self.translations.insert(snat_key(&reversed(&way.parsed.ends), FRONTEND), row);
    }

    /// To a process of this node.
    pub(super) fn reaches_process(&mut self, way: &mut Way<'_>) {
        if way.parsed.kind != Kind::Ports || !tells(way) {
            return;
        }
        let (state, _, flags) = self.stand(way);
        if way.marks & CT_DSR != 0 {
            let goes_on = !is_tcp(way) && state != State::Reply;
            let known = goes_on && flags.is_some_and(|flags| flags & CT_DSR != 0);
            self.record(way, if known { state } else { State::New });
            self.remembers_frontend(way);
        } else if flags.is_some() && state != State::Reply {
            let (key, _) = key(&way.parsed.ends, KIND_CONNECTION);
            if let Some(row) = self.connections.get_mut(&key) {
                row.flags &= !CT_DSR;
            }
        }
    }

    /// What the connection of a packet, or of what an error is about, is marked with.
    pub(super) fn marks(&self, way: &Way<'_>) -> u16 {
        let ends = match (way.parsed.kind, way.parsed.inner) {
            (Kind::Error, Some((inner, _))) => inner,
            _ => way.parsed.ends,
        };
        self.live(&key(&ends, KIND_CONNECTION).0, way.now).map_or(0, |row| row.flags)
    }

    /// An answer leaves with the frontend's address.
    pub(super) fn restores_frontend(&mut self, way: &mut Way<'_>) -> Step<()> {
        let error = way.parsed.inner.filter(|_| way.parsed.kind == Kind::Error);
        let reply = error.map_or(way.parsed.ends, |(inner, _)| reversed(&inner));
        let row = self.translations.get(&snat_key(&reply, FRONTEND)).copied();
        match (row, error) {
            (Some(row), Some(_)) => way.set_inner(false, row.addr, row.port.host()),
            (Some(row), None) => way.set_src(row.addr, row.port.host())?,
            (None, Some(_)) => {}
            (None, None) => return Err(drop::SNAT_NO_MAPPING),
        }
        Ok(())
    }

    /// Who sent what came out of the overlay from the world: a prefix of the node's own numbers may be around it.
    pub(super) fn outside_of(&self, addr: &Address, world: u32) -> u32 {
        let found = self.far(addr).map_or(world, |row| row.identity);
        if found & identity::LOCAL_SCOPE != 0 { found } else { world }
    }
}
