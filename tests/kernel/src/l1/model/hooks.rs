//! What each hook does, as the model sees it.

use super::flows::{State, is_syn, is_tcp};
use super::{Kind, Model, Step, Verdict, Way, is_node};
use crate::l1::lab::Hook;
use crate::l1::world::{ETH0_MAC, Route, SIDE_MAC, is_side, route};
use cilium_abi::{
    Address, Mac,
    ct::{CT_DSR, CT_LOOPBACK, CT_STACK},
    drop,
    endpoint::{ENDPOINT_HOST, EndpointConfigRow, EndpointRow},
    identity,
    node::{AGGREGATE_NONE, NODE_ALLOW_LOCALHOST, NODE_HOST_STACK, NODE_TUNNEL, mark},
    proto,
    snat::OUT,
};

const ARP: u16 = 0x0806;
/// Longest frame of a device with an MTU of 1500, with room for a VLAN tag.
const FORWARDABLE: usize = 1518;

/// Numbers of more than 26 bits do not fit a mark; their packets are looked up again.
fn identity_mark(number: u32) -> u32 {
    if number >> 26 != 0 {
        return 0;
    }
    mark::IDENTITY | (number >> 16 & 0xff) | (number & 0xffff) << 16 | (number >> 24) << 12
}

fn marked(value: u32) -> Option<u32> {
    match value & mark::MASK {
        mark::IDENTITY => Some((value & 0xff) << 16 | value >> 16 | (value >> 12 & 3) << 24),
        mark::HOST => Some(identity::HOST),
        _ => None,
    }
}

fn is_link_message(way: &Way<'_>) -> bool {
    way.parsed.ends.proto == proto::ICMPV6 && matches!(way.parsed.icmp.0, 130..=137 | 143) && way.parsed.v6
}

/// Whether an address is of one link or a group.
fn is_near(addr: &Address) -> bool {
    let bytes = addr.bytes();
    bytes[0] == 0xff || (bytes[0] == 0xfe && bytes[1] & 0xc0 == 0x80)
}

impl Model {
    pub(super) fn hook(&mut self, way: &mut Way<'_>, protocol: u16, is_ip: bool) -> Step<Verdict> {
        match way.input.hook {
            Hook::FromContainer => {
                let config = self.config(way.input.ifindex)?;
                match protocol {
                    ARP => self.arp(way, &config),
                    _ if is_ip => self.pod_sends(way, &config),
                    _ => Err(drop::UNSUPPORTED_L3_PROTOCOL),
                }
            }
            Hook::FromOverlay if is_ip => self.overlay_receives(way),
            Hook::FromOverlay => Err(drop::UNSUPPORTED_L3_PROTOCOL),
            Hook::FromHost if is_ip => self.host_sends(way),
            Hook::FromNetdev if is_ip => self.device_receives(way),
            Hook::ToNetdev if is_ip => self.device_sends(way),
            Hook::ToOverlay => {
                way.mark = mark::OVERLAY;
                Ok(Verdict::Pass)
            }
            _ => Ok(Verdict::Pass),
        }
    }

    pub(super) fn config(&self, ifindex: u32) -> Step<EndpointConfigRow> {
        self.world.configs.get(&ifindex).copied().ok_or(drop::ENDPOINT_NOT_READY)
    }

    fn arp(&self, way: &mut Way<'_>, config: &EndpointConfigRow) -> Step<Verdict> {
        let Some(message) = way.data.get(14..42).map(<[u8]>::to_vec) else {
            return Err(drop::INVALID_PACKET);
        };
        if message[..6] != [0, 1, 8, 0, 6, 4] {
            return Err(drop::INVALID_PACKET);
        }
        if message[8..14] != config.mac.0 {
            return Err(drop::INVALID_SOURCE_MAC);
        }
        let own = &config.ipv4.bytes()[12..];
        let (sender, target) = (&message[14..18], &message[24..28]);
        if sender == [0; 4] || target == own {
            return Ok(Verdict::Pass);
        }
        if sender != own {
            return Err(drop::INVALID_SOURCE_IP);
        }
        if message[6..8] != [0, 1] {
            return Ok(Verdict::Pass);
        }
        let mut reply = vec![0, 1, 8, 0, 6, 4, 0, 2];
        reply.extend(config.node_mac.0);
        reply.extend(target);
        reply.extend(config.mac.0);
        reply.extend(sender);
        way.data.splice(14..42, reply);
        way.dst_mac(&config.mac.0);
        way.src_mac(&config.node_mac.0);
        Ok(Verdict::Redirect)
    }

    fn pod_sends(&mut self, way: &mut Way<'_>, config: &EndpointConfigRow) -> Step<Verdict> {
        way.parsed.fault.map_or(Ok(()), Err)?;
        if way.data[6..12] != config.mac.0 {
            return Err(drop::INVALID_SOURCE_MAC);
        }
        if is_link_message(way) {
            return self.neighbour(way, config);
        }
        let own = if way.parsed.v6 { config.ipv6 } else { config.ipv4 };
        if own.is_none() || own != way.parsed.ends.src {
            return Err(drop::INVALID_SOURCE_IP);
        }
        let (mut state, mut rev_nat, mut flags) = self.stand(way);
        // What belongs to a connection under its own addresses goes to no frontend.
        let own_way = flags.is_some() && if is_tcp(way) { !is_syn(way) } else { !state.asks_policy() };
        let frontend = if own_way { None } else { self.frontend_inside(way) };
        if let Some(frontend) = frontend {
            if flags.is_some() {
                self.forget(way);
            }
            if let Err(reason) = self.translate(way, &frontend) {
                return self.refuses(way, &frontend, reason);
            }
            if way.parsed.ends.src == way.parsed.ends.dst {
                return self.reaches_itself(way);
            }
            (state, rev_nat, flags) = self.stand(way);
        }
        let dst = way.parsed.ends.dst;
        if self.answers_stack(state, flags) {
            let peer = self.identity(&dst, way.parsed.v6);
            self.refuse_overlay(way, peer)?;
            self.settle(way, state, rev_nat)?;
            way.mark = identity_mark(config.identity);
            return Ok(Verdict::Pass);
        }
        match self.world.endpoints.get(&dst).copied() {
            Some(endpoint) if endpoint.flags & ENDPOINT_HOST == 0 => {
                let ids = (config.identity, endpoint.identity);
                if state.asks_policy() {
                    self.ask(way, config, true, ids)?;
                }
                if state.asks_policy() {
                    let target = self.config(endpoint.ifindex)?;
                    self.ask(way, &target, false, ids)?;
                } else {
                    self.config(endpoint.ifindex)?;
                }
                way.direction = 1;
                self.settle(way, state, rev_nat)?;
                self.deliver(way, &endpoint)
            }
            Some(_) => {
                if state == State::Reply && flags.is_some_and(|flags| flags & CT_LOOPBACK != 0) {
                    return self.answers_itself(way, config, rev_nat);
                }
                self.refuse_overlay(way, identity::HOST)?;
                if state.asks_policy() {
                    self.ask(way, config, true, (config.identity, identity::HOST))?;
                }
                self.settle(way, state, rev_nat)?;
                way.mark = identity_mark(config.identity);
                Ok(Verdict::Pass)
            }
            None => {
                let peer = self.identity(&dst, way.parsed.v6);
                self.refuse_overlay(way, peer)?;
                if state.asks_policy() {
                    self.ask(way, config, true, (config.identity, peer))?;
                }
                self.settle(way, state, rev_nat)?;
                let of_frontend = rev_nat != 0 || flags.is_some_and(|flags| flags & CT_DSR != 0);
                if of_frontend && !state.asks_policy() {
                    way.mark = mark::SNAT_DONE;
                }
                match self.far(&dst) {
                    Some(row) if !row.tunnel.is_none() => self.encapsulate(),
                    _ if self.by_stack() && state.asks_policy() => {
                        way.mark = identity_mark(config.identity);
                        Ok(Verdict::Pass)
                    }
                    _ => self.route(way, config.identity),
                }
            }
        }
    }

    /// Whether pods' traffic goes through the host's stack.
    pub(super) fn by_stack(&self) -> bool {
        self.node.flags & NODE_HOST_STACK != 0
    }

    /// Whether this is an answer on a connection that came from the stack.
    fn answers_stack(&self, state: State, flags: Option<u16>) -> bool {
        self.by_stack() && !state.asks_policy() && flags.is_some_and(|flags| flags & CT_STACK != 0)
    }

    /// To a node, a pod must not look like the overlay.
    fn refuse_overlay(&self, way: &Way<'_>, peer: u32) -> Step<()> {
        if is_node(peer) && self.is_overlay(way) { Err(drop::ENCAPSULATION_PROHIBITED) } else { Ok(()) }
    }

    /// A pod that reaches itself through a service must not see its own address as the client's.
    fn reaches_itself(&mut self, way: &mut Way<'_>) -> Step<Verdict> {
        let router = if way.parsed.v6 { self.node.router_ipv6 } else { self.node.router_ipv4 };
        way.set_src(router, way.parsed.ends.sport)?;
        way.loopback = true;
        let (state, ..) = self.stand(way);
        self.record(way, state);
        let endpoint =
            self.world.endpoints.get(&way.parsed.ends.dst).copied().ok_or(drop::ENDPOINT_NOT_READY)?;
        self.deliver(way, &endpoint)
    }

    /// And its answer comes from the frontend, to itself.
    fn answers_itself(
        &mut self,
        way: &mut Way<'_>,
        config: &EndpointConfigRow,
        rev_nat: u16,
    ) -> Step<Verdict> {
        let own = if way.parsed.v6 { config.ipv6 } else { config.ipv4 };
        self.record(way, State::Reply);
        self.restore(way, rev_nat)?;
        way.set_dst(own, way.parsed.ends.dport);
        let endpoint = self.world.endpoints.get(&own).copied().ok_or(drop::ENDPOINT_NOT_READY)?;
        self.deliver(way, &endpoint)
    }

    pub(super) fn encapsulate(&self) -> Step<Verdict> {
        if self.world.runtime.overlay_ifindex == 0 { Err(drop::NO_DEVICE) } else { Ok(Verdict::Redirect) }
    }

    fn route(&self, way: &mut Way<'_>, sender: u32) -> Step<Verdict> {
        let verdict = self.along_routes(way)?;
        if verdict == Verdict::Pass {
            way.mark = identity_mark(sender);
        }
        Ok(verdict)
    }

    /// As the kernel's routes say.
    pub(super) fn along_routes(&self, way: &mut Way<'_>) -> Step<Verdict> {
        let found = route(&way.parsed.ends.dst);
        if found == Route::Blocked {
            return Err(drop::FIB_LOOKUP_FAILED);
        }
        let near_source = way.parsed.v6 && is_near(&way.parsed.ends.src);
        // The kernel compares with the MTU where it knows the neighbour.
        let too_long = way.data.len() > FORWARDABLE && matches!(found, Route::Neighbour(_));
        if found == Route::Stack || too_long || near_source {
            return Ok(Verdict::Pass);
        }
        if found == Route::Host {
            return Err(drop::STALE_OR_UNROUTABLE_IP);
        }
        way.hop()?;
        if let Route::Neighbour(mac) = found {
            way.dst_mac(&mac.0);
            way.src_mac(if is_side(&way.parsed.ends.dst) { &SIDE_MAC.0 } else { &ETH0_MAC.0 });
        }
        Ok(Verdict::Redirect)
    }

    pub(super) fn deliver(&self, way: &mut Way<'_>, endpoint: &EndpointRow) -> Step<Verdict> {
        way.hop()?;
        way.dst_mac(&endpoint.mac.0);
        way.src_mac(&endpoint.node_mac.0);
        Ok(Verdict::Redirect)
    }

    /// ICMPv6 of one link from a pod.
    fn neighbour(&self, way: &mut Way<'_>, config: &EndpointConfigRow) -> Step<Verdict> {
        let src = way.parsed.ends.src;
        let bytes = src.bytes();
        let link_local = bytes[0] == 0xfe && bytes[1] & 0xc0 == 0x80;
        let own = !config.ipv6.is_none() && src == config.ipv6;
        if !(own || link_local || src.is_none()) {
            return Err(drop::INVALID_SOURCE_IP);
        }
        if matches!(way.parsed.icmp.0, 134 | 137) {
            return Err(drop::FORBIDDEN_ICMPV6);
        }
        // Beyond the link such a message would be a packet that no policy saw.
        let dst = way.parsed.ends.dst;
        if !is_near(&dst) && dst != self.node.router_ipv6 {
            return Err(drop::FORBIDDEN_ICMPV6);
        }
        if way.parsed.icmp.0 != 135 {
            return Ok(Verdict::Pass);
        }
        if way.parsed.ttl != 255 || way.parsed.icmp.1 != 0 || way.parsed.l4 != 54 {
            return Err(drop::INVALID_PACKET);
        }
        let Some(target) = way.data.get(62..78) else { return Err(drop::CT_INVALID_HEADER) };
        let target: [u8; 16] = target.try_into().map_err(|_| drop::CT_INVALID_HEADER)?;
        if src.is_none() || Address::v6(target) != self.node.router_ipv6 {
            return Ok(Verdict::Pass);
        }
        // The answer has the length of the question, which must be one of the two forms.
        let payload = u16::from_be_bytes([way.data[18], way.data[19]]);
        if payload != 24 && payload != 32 {
            return Err(drop::INVALID_PACKET);
        }
        way.data[22..38].copy_from_slice(&target);
        way.data[38..54].copy_from_slice(&bytes);
        way.data[54..56].copy_from_slice(&[136, 0]);
        way.data[58..62].copy_from_slice(&[0x60, 0, 0, 0]);
        if payload == 32 {
            way.data[78..80].copy_from_slice(&[2, 1]);
            way.data[80..86].copy_from_slice(&config.node_mac.0);
        }
        way.dst_mac(&config.mac.0);
        way.src_mac(&config.node_mac.0);
        way.made = true;
        Ok(Verdict::Redirect)
    }

    /// Into a pod of this node from elsewhere.
    pub(super) fn admit(&mut self, way: &mut Way<'_>, config: &EndpointConfigRow, source: u32) -> Step<()> {
        let (state, rev_nat, _) = self.stand(way);
        let trusted = source == identity::HOST && self.node.flags & NODE_ALLOW_LOCALHOST != 0;
        if state.asks_policy() {
            match self.ask(way, config, false, (source, config.identity)) {
                Err(drop::POLICY_DENIED) if trusted => way.refusal = None,
                asked => asked?,
            }
        }
        self.settle(way, state, rev_nat)?;
        self.remembers_frontend(way);
        Ok(())
    }

    pub(super) fn settle(&mut self, way: &mut Way<'_>, state: State, rev_nat: u16) -> Step<()> {
        let marks = self.marks(way);
        self.record(way, state);
        if !state.asks_policy() && marks & CT_DSR != 0 {
            return self.restores_frontend(way);
        }
        if state.asks_policy() || rev_nat == 0 { Ok(()) } else { self.restore(way, rev_nat) }
    }

    fn host_sends(&mut self, way: &mut Way<'_>) -> Step<Verdict> {
        let ends = way.parsed.ends;
        if way.parsed.fault.is_some() && ends.dst.is_none() {
            return Ok(Verdict::Pass);
        }
        way.from_stack = self.by_stack();
        if let Some(endpoint) = self.world.endpoints.get(&ends.dst).copied() {
            if endpoint.flags & ENDPOINT_HOST != 0 {
                return Ok(Verdict::Pass);
            }
            way.direction = 1;
            way.parsed.fault.map_or(Ok(()), Err)?;
            let config = self.config(endpoint.ifindex)?;
            let sender = marked(way.mark);
            way.told = sender.is_some();
            let sender = sender.unwrap_or_else(|| match self.identity(&ends.src, way.parsed.v6) {
                // Netfilter gave it the node's address.
                identity::HOST if self.by_stack() && way.input.is_received() => self.world_of(way.parsed.v6),
                found => found,
            });
            self.admit(way, &config, sender)?;
            let (Mac(dst), Mac(src)) = (endpoint.mac, endpoint.node_mac);
            way.dst_mac(&dst);
            way.src_mac(&src);
            return Ok(Verdict::Redirect);
        }
        if self.far(&ends.dst).is_some_and(|row| !row.tunnel.is_none()) {
            if way.parsed.fault.is_none() {
                if self.by_stack() {
                    self.stack_encapsulates(way)?;
                } else if self.serves_outside() {
                    let router = if way.parsed.v6 { self.node.router_ipv6 } else { self.node.router_ipv4 };
                    self.hold(way, router)?;
                }
            }
            return self.encapsulate();
        }
        let group = if way.parsed.v6 { is_near(&ends.dst) } else { ends.dst.bytes()[12] >= 224 };
        if group { Ok(Verdict::Pass) } else { Err(drop::STALE_OR_UNROUTABLE_IP) }
    }

    /// What the stack sends into the overlay: a pod's is remembered, and the node's own gets the router's address.
    fn stack_encapsulates(&mut self, way: &mut Way<'_>) -> Step<()> {
        let ends = way.parsed.ends;
        if !self.world.endpoints.contains_key(&ends.src) {
            return Ok(());
        }
        if !self.is_host(&ends.src) {
            let (state, ..) = self.stand(way);
            self.record(way, state);
            return Ok(());
        }
        let router = if way.parsed.v6 { self.node.router_ipv6 } else { self.node.router_ipv4 };
        if !self.masquerades(way.parsed.v6) || router.is_none() {
            return Ok(());
        }
        if ends.src == router {
            return self.hold(way, router);
        }
        let sort = match way.parsed.kind {
            Kind::Ports => ends.proto != proto::SCTP,
            kind => kind == Kind::Request,
        };
        let opens = !is_tcp(way) || is_syn(way) || self.translation(&ends, OUT).is_some();
        if sort && opens { self.lend(way, router) } else { Ok(()) }
    }

    pub(super) fn is_host(&self, addr: &Address) -> bool {
        self.world.endpoints.get(addr).is_some_and(|row| row.flags & ENDPOINT_HOST != 0)
    }

    fn device_receives(&mut self, way: &mut Way<'_>) -> Step<Verdict> {
        if way.parsed.fault.is_some() && self.names_overlay(way) {
            return Ok(Verdict::Pass);
        }
        let is_here = self.world.endpoints.contains_key(&way.parsed.ends.dst);
        if self.serves_outside() && is_here && !self.by_stack() {
            self.takes(way)?;
        }
        if way.parsed.fault.is_none() && !self.is_overlay(way) {
            if let Some(frontend) = self.frontend_outside(way) {
                return self.arrives(way, &frontend);
            }
            let dst = way.parsed.ends.dst;
            let translates = self.masquerades(way.parsed.v6) || self.serves_outside();
            if translates && self.is_host(&dst) && self.snat_in(way) {
                if self.serves_outside() && !self.world.endpoints.contains_key(&way.parsed.ends.dst) {
                    return self.comes_back(way);
                }
            } else if self.is_error_about_answer(way)
                && (self.is_host(&dst) || !self.world.endpoints.contains_key(&dst))
            {
                return self.tells_backend(way);
            }
        }
        let endpoint = match self.world.endpoints.get(&way.parsed.ends.dst).copied() {
            Some(endpoint) if endpoint.flags & ENDPOINT_HOST == 0 => endpoint,
            _ => {
                let to_host = self.is_host(&way.parsed.ends.dst) && self.serves_outside();
                if to_host && way.parsed.fault.is_none() && !self.is_overlay(way) {
                    self.reaches_process(way);
                }
                if self.by_stack() && !self.is_overlay(way) {
                    way.mark = identity_mark(self.outsider(way));
                }
                return Ok(Verdict::Pass);
            }
        };
        way.parsed.fault.map_or(Ok(()), Err)?;
        self.refuse_near(way)?;
        if self.by_stack() {
            way.mark = identity_mark(self.outsider(way));
            return Ok(Verdict::Pass);
        }
        let config = self.config(endpoint.ifindex)?;
        let source = self.identity(&way.parsed.ends.src, way.parsed.v6);
        self.admit(way, &config, source)?;
        self.deliver(way, &endpoint)
    }

    /// Whether a frame that is cut or lies about its length says nevertheless that it is for the overlay of this node: the
    /// stack has it as it is, and drops it.
    fn names_overlay(&self, way: &Way<'_>) -> bool {
        let data = &way.data;
        let (is_plain, port) = if way.parsed.v6 {
            (data.get(20) == Some(&proto::UDP), 56)
        } else {
            let begins = data.get(14) == Some(&0x45) && data.get(23) == Some(&proto::UDP);
            (begins && data.get(20..22).is_some_and(|word| [word[0] & 0x3f, word[1]] == [0, 0]), 36)
        };
        let port = data.get(port..port + 2);
        self.node.flags & NODE_TUNNEL != 0
            && self.node.trace_aggregation != AGGREGATE_NONE
            && is_plain
            && port == Some(&self.node.tunnel_port.host().to_be_bytes())
            && self.is_host(&way.parsed.ends.dst)
    }

    /// Who sent what a device received: nobody but the world, if it has no business to be outside.
    fn outsider(&self, way: &Way<'_>) -> u32 {
        match self.refuse_near(way) {
            Ok(()) => self.identity(&way.parsed.ends.src, way.parsed.v6),
            Err(_) => self.world_of(way.parsed.v6),
        }
    }

    /// Nothing outside has an address of this node, be it a pod's or its own, and nothing that is behind
    /// the overlay comes beside it.
    pub(super) fn refuse_near(&self, way: &Way<'_>) -> Step<()> {
        let src = way.parsed.ends.src;
        let overlaid = self.node.flags & NODE_TUNNEL != 0
            && self.world.ipcache.get(&src).is_some_and(|row| !row.tunnel.is_none());
        if overlaid || self.world.endpoints.contains_key(&src) {
            return Err(drop::INVALID_SOURCE_IP);
        }
        Ok(())
    }

    fn device_sends(&mut self, way: &mut Way<'_>) -> Step<Verdict> {
        let sender = self.world.endpoints.get(&way.parsed.ends.src).copied();
        let Some(sender) = sender else { return Ok(Verdict::Pass) };
        if [mark::SNAT_DONE, mark::OVERLAY].contains(&(way.mark & mark::MASK)) {
            return Ok(Verdict::Pass);
        }
        let from_host = sender.flags & ENDPOINT_HOST != 0;
        if from_host && self.serves_outside() && way.parsed.fault.is_none() && self.answers_client(way)? {
            return Ok(Verdict::Pass);
        }
        let masquerades = self.masquerades(way.parsed.v6);
        match way.parsed.fault {
            None if masquerades || (from_host && self.serves_outside()) => self.snat_out(way, from_host)?,
            Some(fault) if masquerades && !from_host => return Err(fault),
            _ => {}
        }
        Ok(Verdict::Pass)
    }

    fn overlay_receives(&mut self, way: &mut Way<'_>) -> Step<Verdict> {
        let wire = match way.input.wire.ok_or(drop::TUNNEL_KEY_ERROR)? & 0xff_ffff {
            identity::UNKNOWN => self.world_of(way.parsed.v6),
            identity::HOST => identity::REMOTE_NODE,
            number => number,
        };
        let Some(endpoint) = self.world.endpoints.get(&way.parsed.ends.dst).copied() else {
            return Err(drop::STALE_OR_UNROUTABLE_IP);
        };
        if endpoint.flags & ENDPOINT_HOST != 0 {
            let lends = self.by_stack() && self.masquerades(way.parsed.v6);
            if (self.serves_outside() || lends)
                && way.parsed.fault.is_none()
                && self.snat_in(way)
                && !self.world.endpoints.contains_key(&way.parsed.ends.dst)
            {
                return self.comes_back(way);
            }
            way.mark = identity_mark(wire);
            return Ok(Verdict::Pass);
        }
        way.parsed.fault.map_or(Ok(()), Err)?;
        if self.world.endpoints.contains_key(&way.parsed.ends.src) {
            return Err(drop::INVALID_SOURCE_IP);
        }
        if self.serves_outside() && wire == self.world_of(way.parsed.v6) && !self.by_stack() {
            self.takes(way)?;
        }
        let (state, rev_nat, flags) = self.stand(way);
        if self.answers_stack(state, flags) {
            self.settle(way, state, rev_nat)?;
            way.mark = identity_mark(wire);
            return Ok(Verdict::Pass);
        }
        let config = self.config(endpoint.ifindex)?;
        let exact = self.world.ipcache.get(&way.parsed.ends.src).map(|row| row.identity);
        // A node that says "world" speaks for a client outside to whom it lent its address; its netfilter lends it
        // to pods, too.
        let lent = wire == self.world_of(way.parsed.v6) || (self.by_stack() && !is_node(wire));
        let exact = exact.filter(|number| *number != identity::HOST && !(lent && is_node(*number)));
        way.told = exact.is_none();
        let source = match exact {
            Some(number) => number,
            None if wire == self.world_of(way.parsed.v6)
                && !self.world.ipcache.contains_key(&way.parsed.ends.src) =>
            {
                self.outside_of(&way.parsed.ends.src, wire)
            }
            None => wire,
        };
        self.admit(way, &config, source)?;
        self.deliver(way, &endpoint)
    }

    /// Whether services translate this packet: only what has ports.
    pub(super) fn has_ports(way: &Way<'_>) -> bool {
        way.parsed.kind == Kind::Ports
    }
}
