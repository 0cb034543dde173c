//! Masquerading, and what comes back through it, as the model sees them.

use super::flows::{be, is_syn, reversed};
use super::{Ends, Kind, Model, Step, Way, is_node, key};
use cilium_abi::{
    Address,
    ct::{CT_INITIATOR_HIGH, KIND_CONNECTION},
    drop,
    ipcache::FLAG_IN_CLUSTER,
    node::{NODE_MASQUERADE_IPV4, NODE_MASQUERADE_IPV6, NODE_TUNNEL, mark},
    proto,
    snat::{IN, OUT, SNAT_HOST, SnatKey, SnatRow},
};

pub(super) fn snat_key(ends: &Ends, dir: u8) -> SnatKey {
    SnatKey {
        src: ends.src,
        dst: ends.dst,
        src_port: be(ends.sport),
        dst_port: be(ends.dport),
        proto: ends.proto,
        dir,
        reserved: 0,
    }
}

impl Model {
    pub(super) fn masquerades(&self, v6: bool) -> bool {
        self.node.flags & if v6 { NODE_MASQUERADE_IPV6 } else { NODE_MASQUERADE_IPV4 } != 0
    }

    /// A reply, or an error about a request, gets the frontend's address back.
    pub(super) fn restore(&self, way: &mut Way<'_>, rev_nat: u16) -> Step<()> {
        let Some(row) = self.world.revnats.get(&u32::from(rev_nat)) else { return Ok(()) };
        if way.parsed.kind != Kind::Error {
            return way.set_src(row.addr, row.port.host());
        }
        if let Some((inner, _)) = way.parsed.inner
            && inner.src == way.parsed.ends.dst
        {
            way.set_inner(false, row.addr, row.port.host());
        }
        Ok(())
    }

    pub(super) fn translation(&self, ends: &Ends, dir: u8) -> Option<SnatRow> {
        self.translations.get(&snat_key(ends, dir)).copied()
    }

    /// Notes use of a row once a second, and that its other half is there.
    fn used(&mut self, key: &SnatKey, now: u32) {
        let Some(row) = self.translations.get_mut(key) else { return };
        if row.used == now {
            return;
        }
        row.used = now;
        let row = *row;
        if row.flags & SNAT_HOST != 0 {
            return;
        }
        let (other, half) = if key.dir == OUT {
            let back = SnatKey {
                src: key.dst,
                src_port: key.dst_port,
                dst: row.addr,
                dst_port: row.port,
                dir: IN,
                ..*key
            };
            (back, (key.src, key.src_port))
        } else {
            let out = SnatKey {
                src: row.addr,
                src_port: row.port,
                dst: key.src,
                dst_port: key.src_port,
                dir: OUT,
                ..*key
            };
            (out, (key.dst, key.dst_port))
        };
        let half = SnatRow { addr: half.0, port: half.1, flags: 0, created: now, used: now };
        self.translations.entry(other).or_insert(half);
    }

    /// Towards the network.
    pub(super) fn snat_out(&mut self, way: &mut Way<'_>, from_host: bool) -> Step<()> {
        let Some(device) = self.world.devices.get(&way.input.ifindex).copied() else { return Ok(()) };
        let addr = if way.parsed.v6 { device.ipv6 } else { device.ipv4 };
        if addr.is_none() {
            return Ok(());
        }
        let ends = way.parsed.ends;
        if from_host {
            return if self.is_overlay(way) { Ok(()) } else { self.hold(way, addr) };
        }
        if self.is_native(&ends.dst) {
            return Ok(());
        }
        if way.parsed.kind == Kind::Error {
            let (inner, _) = way.parsed.inner.unwrap_or_default();
            let Some(row) = self.translation(&reversed(&inner), OUT) else { return Ok(()) };
            way.set_inner(false, row.addr, row.port.host());
            return way.set_src(row.addr, ends.sport);
        }
        if let Some(row) = self.translation(&ends, OUT) {
            self.used(&snat_key(&ends, OUT), way.now);
            return way.set_src(row.addr, row.port.host());
        }
        if self.keeps_source(way) {
            return Ok(());
        }
        if matches!(way.parsed.kind, Kind::Message | Kind::Reply) || ends.proto == proto::SCTP {
            return Err(drop::SNAT_UNSUPPORTED_PROTOCOL);
        }
        self.borrow(way, addr)
    }

    /// Whether the packet is the overlay's own.
    pub(super) fn is_overlay(&self, way: &Way<'_>) -> bool {
        let ends = way.parsed.ends;
        self.node.flags & NODE_TUNNEL != 0
            && ends.proto == proto::UDP
            && ends.dport == self.node.tunnel_port.host()
    }

    fn is_native(&self, addr: &Address) -> bool {
        let (prefix, len) = if addr.is_v4() {
            (self.node.native_ipv4, self.node.native_ipv4_len)
        } else {
            (self.node.native_ipv6, self.node.native_ipv6_len)
        };
        let bits = |a: &Address| u128::from_be_bytes(a.bytes());
        len != 0 && (bits(addr) ^ bits(&prefix)) >> (128 - len) == 0
    }

    fn keeps_source(&self, way: &Way<'_>) -> bool {
        let ends = way.parsed.ends;
        if let Some(row) = self.far(&ends.dst).filter(|row| row.flags & FLAG_IN_CLUSTER != 0) {
            return !is_node(row.identity) || self.node.flags & NODE_TUNNEL == 0;
        }
        // A reply on a connection that was opened from outside.
        let (key, high) = key(&ends, KIND_CONNECTION);
        self.live(&key, way.now).is_some_and(|row| (row.flags & CT_INITIATOR_HIGH != 0) != high)
    }

    /// A client's packet goes on with an address of this node.
    pub(super) fn lend(&mut self, way: &mut Way<'_>, addr: Address) -> Step<()> {
        let ends = way.parsed.ends;
        if let Some(row) = self.translation(&ends, OUT) {
            self.used(&snat_key(&ends, OUT), way.now);
            return way.set_src(row.addr, row.port.host());
        }
        if addr.is_none() {
            return Err(drop::SNAT_NO_MAPPING);
        }
        if ends.proto == proto::SCTP {
            return Err(drop::SNAT_UNSUPPORTED_PROTOCOL);
        }
        self.borrow(way, addr)
    }

    /// Gives the flow a port of the node's address.
    fn borrow(&mut self, way: &mut Way<'_>, addr: Address) -> Step<()> {
        let ends = way.parsed.ends;
        let back = |port: u16| SnatKey {
            dst: addr,
            dst_port: be(port),
            ..snat_key(
                &Ends { sport: ends.dport, dport: 0, src: ends.dst, dst: ends.src, proto: ends.proto },
                IN,
            )
        };
        // A row that lost its other half is still the flow's. What comes in for the overlay's port, or for a
        // frontend's, is theirs.
        let own = (ends.src, be(ends.sport));
        let free = |port: u16| {
            let overlay = ends.proto == proto::UDP && port == self.node.tunnel_port.host();
            let frontend = self.serves_outside() && self.has_frontend(addr, port, ends.proto);
            let row = self.translations.get(&back(port));
            !overlay
                && !frontend
                && row.is_none_or(|row| row.flags & SNAT_HOST == 0 && (row.addr, row.port) == own)
        };
        let range = self.node.snat_port_min..=self.node.snat_port_max;
        let port = if free(ends.sport) {
            ends.sport
        } else {
            // By chance: theirs, if it was free and in range. Finding none in a narrow range is chance too.
            let seen = way.rows.translation(&snat_key(&ends, OUT)).map(|row| row.port.host());
            let gave_up = way.saw_drop(drop::SNAT_NO_MAPPING) && range.clone().any(|port| !free(port));
            let any = if gave_up { None } else { range.clone().find(|port| free(*port)) };
            match seen.filter(|seen| !gave_up && range.contains(seen) && free(*seen)) {
                Some(seen) => seen,
                None => any.ok_or(drop::SNAT_NO_MAPPING)?,
            }
        };
        let row = |addr, port| SnatRow { addr, port, flags: 0, created: way.now, used: way.now };
        self.translations.insert(back(port), row(ends.src, be(ends.sport)));
        self.translations.insert(snat_key(&ends, OUT), row(addr, be(port)));
        way.set_src(addr, port)
    }

    /// The node's own packet holds its port, or gives way to the pod that has it.
    pub(super) fn hold(&mut self, way: &mut Way<'_>, addr: Address) -> Step<()> {
        let ends = way.parsed.ends;
        let opens = way.parsed.kind == Kind::Request || (Self::has_ports(way) && ends.proto != proto::SCTP);
        if ends.src != addr || !opens {
            return Ok(());
        }
        if let Some(row) = self.translation(&ends, OUT) {
            self.used(&snat_key(&ends, OUT), way.now);
            return way.set_src(row.addr, row.port.host());
        }
        if ends.proto == proto::TCP && !is_syn(way) {
            return Ok(());
        }
        // A port of a frontend is nobody's own; but a pod answers from it.
        if self.serves_outside() && self.has_frontend(addr, ends.sport, ends.proto) {
            return if way.mark & mark::MASK == mark::IDENTITY { Ok(()) } else { self.borrow(way, addr) };
        }
        let back = SnatKey { dst: addr, ..snat_key(&reversed(&ends), IN) };
        match self.translations.get(&back) {
            Some(row) if row.flags & SNAT_HOST != 0 => {
                self.used(&back, way.now);
                Ok(())
            }
            Some(_) => self.borrow(way, addr),
            None => {
                let row = SnatRow {
                    addr: ends.src,
                    port: be(ends.sport),
                    flags: SNAT_HOST,
                    created: way.now,
                    used: way.now,
                };
                self.translations.insert(back, row);
                Ok(())
            }
        }
    }

    /// From the network, for the node's address: back to whom it is for. Whether it was.
    pub(super) fn snat_in(&mut self, way: &mut Way<'_>) -> bool {
        let ends = way.parsed.ends;
        if way.parsed.kind == Kind::Error {
            let (inner, _) = way.parsed.inner.unwrap_or_default();
            let row = self.translation(&reversed(&inner), IN).filter(|row| row.flags & SNAT_HOST == 0);
            let Some(row) = row else { return false };
            way.set_inner(true, row.addr, row.port.host());
            way.set_dst(row.addr, ends.dport);
            return true;
        }
        let Some(row) = self.translation(&ends, IN) else { return false };
        self.used(&snat_key(&ends, IN), way.now);
        if row.flags & SNAT_HOST != 0 {
            return false;
        }
        way.set_dst(row.addr, row.port.host());
        true
    }
}

impl Way<'_> {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.data[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Where an end's port stands behind a layer 4 offset; an echo's identifier for either end.
    fn port_at(l4: usize, kind_has_ports: bool, source: bool) -> usize {
        match (kind_has_ports, source) {
            (false, _) => l4 + 4,
            (true, true) => l4,
            (true, false) => l4 + 2,
        }
    }

    fn put_addr(&mut self, l3: usize, source: bool, addr: Address) {
        if self.parsed.v6 {
            self.put(l3 + if source { 8 } else { 24 }, &addr.bytes());
        } else {
            self.put(l3 + if source { 12 } else { 16 }, &addr.bytes()[12..]);
        }
    }

    pub(super) fn set_dst(&mut self, addr: Address, port: u16) {
        self.put_addr(14, false, addr);
        if port != self.parsed.ends.dport && self.parsed.l4 != 0 {
            self.put(
                Self::port_at(self.parsed.l4, self.parsed.kind == Kind::Ports, false),
                &port.to_be_bytes(),
            );
        }
        (self.parsed.ends.dst, self.parsed.ends.dport) = (addr, port);
    }

    pub(super) fn set_src(&mut self, addr: Address, port: u16) -> Step<()> {
        self.put_addr(14, true, addr);
        if port != self.parsed.ends.sport && self.parsed.l4 != 0 {
            self.put(
                Self::port_at(self.parsed.l4, self.parsed.kind == Kind::Ports, true),
                &port.to_be_bytes(),
            );
        }
        (self.parsed.ends.src, self.parsed.ends.sport) = (addr, port);
        Ok(())
    }

    pub(super) fn set_inner(&mut self, source: bool, addr: Address, port: u16) {
        let Some((mut ends, l4)) = self.parsed.inner else { return };
        self.put_addr(self.parsed.l4 + 8, source, addr);
        let old = if source { ends.sport } else { ends.dport };
        let icmp = if self.parsed.v6 { proto::ICMPV6 } else { proto::ICMP };
        if port != old {
            self.put(Self::port_at(l4, ends.proto != icmp, source), &port.to_be_bytes());
        }
        if source {
            (ends.src, ends.sport) = (addr, port);
        } else {
            (ends.dst, ends.dport) = (addr, port);
        }
        self.parsed.inner = Some((ends, l4));
    }
}
