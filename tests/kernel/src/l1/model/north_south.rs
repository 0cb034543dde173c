//! Clients outside the cluster and their frontends, as the model sees them.

use super::flows::State;
use super::{Model, Step, Verdict, Way};
use cilium_abi::{
    drop,
    endpoint::ENDPOINT_HOST,
    lb::{FRONTEND_EXTERNAL, FrontendRow},
    node::mark,
};

impl Model {
    /// A device received a packet for a frontend.
    pub(super) fn arrives(&mut self, way: &mut Way<'_>, frontend: &FrontendRow) -> Step<Verdict> {
        self.refuse_near(way)?;
        if frontend.flags & FRONTEND_EXTERNAL == 0 {
            return Err(drop::IS_CLUSTER_IP);
        }
        self.permits(way, frontend)?;
        self.translate(way, frontend)?;
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
        let device = self.world.devices.get(&way.input.ifindex).copied().ok_or(drop::NO_DEVICE)?;
        self.lend(way, if v6 { device.ipv6 } else { device.ipv4 })?;
        way.mark = mark::SNAT_DONE;
        self.along_routes(way)
    }

    /// The answer to what went on has its client as destination again. What belongs to no connection is
    /// the stack's.
    pub(super) fn comes_back(&mut self, way: &mut Way<'_>) -> Step<Verdict> {
        let (state, rev_nat, _) = self.stand(way);
        if !matches!(state, State::Reply | State::Related) {
            return Ok(Verdict::Pass);
        }
        self.settle(way, state, rev_nat)?;
        way.mark = mark::SNAT_DONE;
        self.along_routes(way)
    }

    /// What a process of this node answers to a client leaves with the frontend's address; whether that
    /// was done.
    pub(super) fn answers_client(&mut self, way: &mut Way<'_>) -> Step<bool> {
        let (state, rev_nat, _) = self.stand(way);
        if rev_nat == 0 || !matches!(state, State::Reply | State::Related) {
            return Ok(false);
        }
        self.settle(way, state, rev_nat)?;
        Ok(true)
    }
}
