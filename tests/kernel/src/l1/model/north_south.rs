//! Clients outside the cluster and their frontends, as the model sees them.

use super::flows::{State, reversed};
use super::{Ends, Kind, Model, Step, Verdict, Way, key};
use crate::l1::world::{ETH0_MAC, Route, SIDE_MAC, is_side, route};
use cilium_abi::{
    Address,
    ct::{CT_DSR, CT_ONE_WAY, KIND_CONNECTION, KIND_SERVICE},
    drop,
    endpoint::ENDPOINT_HOST,
    lb::{FRONTEND_EXTERNAL, FrontendRow},
    node::{DeviceRow, mark},
    snat::OUT,
};

impl Model {
    /// A device received a packet for a frontend.
    pub(super) fn arrives(&mut self, way: &mut Way<'_>, frontend: &FrontendRow) -> Step<Verdict> {
        self.refuse_near(way)?;
        if frontend.flags & FRONTEND_EXTERNAL == 0 {
            return Err(drop::IS_CLUSTER_IP);
        }
        self.permits(way, frontend)?;
        way.marks = 0;
        let before = (way.parsed.clone(), way.data.clone());
        if let Err(reason) = self.translate(way, frontend) {
            return self.refuses(way, frontend, reason);
        }
        match self.world.endpoints.get(&way.parsed.ends.dst).copied() {
            Some(pod) if pod.flags & ENDPOINT_HOST == 0 => {
                let config = self.config(pod.ifindex)?;
                let client = self.identity(&way.parsed.ends.src, way.parsed.v6);
                self.admit(way, &config, client)?;
                self.deliver(way, &pod)
            }
            // The stack has the process.
            Some(_) => {
                let (state, ..) = self.stand(way);
                self.record(way, state);
                Ok(Verdict::Pass)
            }
            None if way.one_way && self.wraps() => {
                if self.is_within(&way.parsed.ends.dst) {
                    self.goes_on(way)
                } else {
                    self.goes_wrapped(way, before)
                }
            }
            None if way.one_way => self.goes_direct(way, before),
            None => self.goes_on(way),
        }
    }

    /// To a backend elsewhere, with an address to which it will answer.
    fn goes_on(&mut self, way: &mut Way<'_>) -> Step<Verdict> {
        let (state, ..) = self.stand(way);
        self.record(way, state);
        let v6 = way.parsed.v6;
        let tunnelled = self.far(&way.parsed.ends.dst).is_some_and(|row| !row.tunnel.is_none());
        if tunnelled {
            let router = if v6 { self.node.router_ipv6 } else { self.node.router_ipv4 };
            self.lend(way, router)?;
            way.hop()?;
            return self.encapsulate();
        }
        let own = self.own_towards(way)?;
        self.lend(way, own)?;
        way.mark = mark::SNAT_DONE;
        self.along_routes(way)
    }

    /// The address of this node that somebody beyond a device finds back to.
    fn own_towards(&self, way: &Way<'_>) -> Step<Address> {
        let dst = way.parsed.ends.dst;
        let of = |device: &DeviceRow| if way.parsed.v6 { device.ipv6 } else { device.ipv4 };
        if self.translation(&way.parsed.ends, OUT).is_some() {
            // It has been found.
            return Ok(Address::NONE);
        }
        let arrival = self.world.devices.get(&way.input.ifindex).map(of).ok_or(drop::NO_DEVICE)?;
        if !matches!(route(&dst), Route::Neighbour(_) | Route::Unresolved) {
            return Ok(arrival);
        }
        let mac = if is_side(&dst) { SIDE_MAC } else { ETH0_MAC };
        let leaving = self.world.devices.values().find(|device| device.mac == mac).map(of);
        Ok(leaving.filter(|addr| !addr.is_none()).unwrap_or(arrival))
    }

    /// The answer to what went on has its client as destination again. What belongs to no connection goes
    /// no further: half of it is translated.
    pub(super) fn comes_back(&mut self, way: &mut Way<'_>) -> Step<Verdict> {
        let (state, rev_nat, _) = self.stand(way);
        if !matches!(state, State::Reply | State::Related) {
            return Err(drop::UNKNOWN_CT);
        }
        self.settle(way, state, rev_nat)?;
        way.mark = mark::SNAT_DONE;
        self.along_routes(way)
    }

    /// Whether a device received an ICMP error about what somebody at its destination sent.
    pub(super) fn is_error_about_answer(&self, way: &Way<'_>) -> bool {
        let (inner, _) = way.parsed.inner.unwrap_or_default();
        self.serves_outside() && way.parsed.kind == Kind::Error && inner.src == way.parsed.ends.dst
    }

    /// Such an error, about a frontend's answer to a client, is told to the backend that sent it, about what it
    /// sent to whom. Any other is the stack's.
    pub(super) fn tells_backend(&mut self, way: &mut Way<'_>) -> Step<Verdict> {
        self.refuse_near(way)?;
        let (inner, _) = way.parsed.inner.unwrap_or_default();
        let asked = reversed(&inner);
        let choice = self.live(&key(&asked, KIND_SERVICE).0, way.now).copied();
        let one_way = choice.is_some_and(|row| row.flags & CT_ONE_WAY != 0);
        let Some(backend) = choice.and_then(|row| self.world.backends.get(&row.backend)).copied() else {
            return Ok(Verdict::Pass);
        };
        let (addr, port) = (backend.addr, backend.port.host());
        let ends = Ends { dst: addr, dport: port, ..asked };
        if self.live(&key(&ends, KIND_CONNECTION).0, way.now).is_none() {
            return Ok(Verdict::Pass);
        }
        let outer = (way.parsed.ends.sport, way.parsed.ends.dport);
        if let Some(endpoint) = self.world.endpoints.get(&addr).copied() {
            way.set_inner(true, addr, port);
            way.set_dst(addr, outer.1);
            if endpoint.flags & ENDPOINT_HOST != 0 {
                return Ok(Verdict::Pass);
            }
            self.config(endpoint.ifindex)?;
            return self.deliver(way, &endpoint);
        }
        let lent = self.translation(&ends, OUT).filter(|_| !one_way);
        if lent.is_none() && !one_way {
            return Ok(Verdict::Pass);
        }
        if one_way && self.wraps() && !self.is_within(&addr) {
            return match self.lesser_mtu_wrapped(way, &addr) {
                // Nobody is told of errors about errors.
                Some(_) => Err(drop::FRAGMENTATION_NEEDED),
                None => self.wrapped(way, &addr),
            };
        }
        way.set_inner(true, addr, port);
        way.set_dst(addr, outer.1);
        if let Some(lent) = lent {
            way.set_inner(false, lent.addr, lent.port.host());
            way.set_src(lent.addr, outer.0)?;
        }
        if self.far(&addr).is_some_and(|row| !row.tunnel.is_none()) {
            way.hop()?;
            return self.encapsulate();
        }
        way.mark = mark::SNAT_DONE;
        self.along_routes(way)
    }

    /// What a process of this node answers to a client leaves with the frontend's address; whether that
    /// was done.
    pub(super) fn answers_client(&mut self, way: &mut Way<'_>) -> Step<bool> {
        let (state, rev_nat, _) = self.stand(way);
        let of_frontend = rev_nat != 0 || self.marks(way) & CT_DSR != 0;
        if !of_frontend || !matches!(state, State::Reply | State::Related) {
            return Ok(false);
        }
        self.settle(way, state, rev_nat)?;
        Ok(true)
    }
}
