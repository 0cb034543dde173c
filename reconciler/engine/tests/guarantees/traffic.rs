//! What packets would be let through with the rows of a state, by the very lookup the programs use.

use crate::consistent::{DIRECTIONS, POLICIES};
use crate::generate::{IDENTITIES, PODS, PORTS};
use cilium_abi::Be16;
use cilium_abi::endpoint::{CONFIG_OPEN_EGRESS, CONFIG_OPEN_INGRESS};
use cilium_abi::policy::{ALLOW, EGRESS, PolicyKey as AbiKey, PolicyRow as AbiRow, decide};
use cilium_engine::state::*;

const WORLD: IdentityId = IdentityId(2);

/// Whether a policy lets a peer's packet through.
pub(crate) fn permits(
    rows: &Table<Policy>,
    policy: PolicyId,
    direction: Direction,
    peer: IdentityId,
    port: u16,
) -> bool {
    let lookup = |key: &AbiKey| {
        let direction = if key.dir_len & EGRESS == 0 { Direction::Ingress } else { Direction::Egress };
        let row = rows.find(&PolicyKey {
            policy: PolicyId(key.policy_id),
            direction,
            identity: IdentityId(key.identity),
            proto: Protocol(key.proto),
            port: key.port.host(),
            port_len: key.dir_len & 0x1f,
        })?;
        Some(AbiRow {
            verdict: row.verdict,
            reserved: 0,
            listener: Be16::new(row.listener),
            lengths: row.lengths,
            precedence: row.precedence,
            cookie: row.cookie.0,
        })
    };
    let way = match direction {
        Direction::Ingress => 0,
        Direction::Egress => EGRESS,
    };
    decide(lookup, policy.0, way, peer.0, Protocol::TCP.0, Be16::new(port)).row.verdict == ALLOW
}

/// A packet between a pod and an address, or between any pod of a policy and a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Probe {
    /// Through the pod's configuration and the ipcache.
    Packet { pod: &'static str, direction: Direction, address: u8, port: u16 },
    /// Through a policy that is in force before and after.
    Lookup { policy: u32, direction: Direction, peer: u32, port: u16 },
}

fn key(address: u8) -> IpcacheKey {
    IpcacheKey(ipnet::IpNet::from(std::net::IpAddr::from([10, 0, 0, address])))
}

impl Probe {
    /// Probes whose way depends on at most one row that switches: no order of two writes can hide that
    /// they are two.
    pub(crate) fn fair(before: &State, after: &State) -> Vec<Self> {
        let ports = || PORTS.into_iter().map(|(port, _)| port);
        let mut out = Vec::new();
        for direction in DIRECTIONS {
            for pod in PODS {
                let link = LinkName::from(pod);
                let same = before.endpoint_configs.find(&link) == after.endpoint_configs.find(&link);
                for address in 1..6 {
                    if same || before.ipcache.find(&key(address)) == after.ipcache.find(&key(address)) {
                        out.extend(ports().map(|port| Self::Packet { pod, direction, address, port }));
                    }
                }
            }
            for policy in POLICIES {
                let in_force = |state: &State| state.policy_digests.find(&PolicyId(policy)).is_some();
                if in_force(before) && in_force(after) {
                    out.extend(IDENTITIES.into_iter().flat_map(|peer| {
                        ports().map(move |port| Self::Lookup { policy, direction, peer, port })
                    }));
                }
            }
        }
        out
    }

    /// Whether it is let through.
    pub(crate) fn passes(&self, state: &State) -> bool {
        match *self {
            Self::Lookup { policy, direction, peer, port } => {
                permits(&state.policies, PolicyId(policy), direction, IdentityId(peer), port)
            }
            Self::Packet { pod, direction, address, port } => {
                let Some(config) = state.endpoint_configs.find(&LinkName::from(pod)) else { return false };
                let open = match direction {
                    Direction::Ingress => CONFIG_OPEN_INGRESS,
                    Direction::Egress => CONFIG_OPEN_EGRESS,
                };
                let peer = state.ipcache.find(&key(address)).map_or(WORLD, |row| row.identity);
                config.flags & open != 0
                    || config.policy.0 != 0 && permits(&state.policies, config.policy, direction, peer, port)
            }
        }
    }
}

/// Watches that nothing passes on the way that passes neither before nor after.
pub(crate) struct Watch {
    probes: Vec<Probe>,
}

impl Watch {
    /// The probes that pass on neither side.
    pub(crate) fn between(before: &State, after: &State) -> Self {
        let probes = Probe::fair(before, after);
        Self { probes: probes.into_iter().filter(|p| !p.passes(before) && !p.passes(after)).collect() }
    }

    /// The first probe that is let through though it may not.
    pub(crate) fn breach(&self, state: &State) -> Option<Probe> {
        self.probes.iter().copied().find(|probe| probe.passes(state))
    }

    /// Only with these probes.
    pub(crate) fn only(mut self, keep: impl Fn(&Probe) -> bool) -> Self {
        self.probes.retain(keep);
        self
    }
}
