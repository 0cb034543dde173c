//! EndpointSlices: where the backends of Services are.

use super::Place;
use crate::map::Rarely;
use crate::state::Protocol;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A named port of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SlicePort {
    /// Name, matching the Service port's; empty for the only one.
    pub name: String,
    /// Number.
    pub port: u16,
    /// Protocol.
    pub proto: Protocol,
}

/// For whom an endpoint is meant (`hints`); empty: nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hints {
    /// Zones (`forZones`).
    pub zones: Rarely<String>,
    /// Nodes (`forNodes`).
    pub nodes: Rarely<String>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BackendAddress {
    /// Address.
    pub ip: IpAddr,
    /// `conditions.ready`, absent means true.
    pub ready: bool,
    /// `conditions.serving`, absent means `ready`.
    pub serving: bool,
    /// `conditions.terminating`, absent means false.
    pub terminating: bool,
    /// The node it is on.
    pub node: Option<String>,
    /// The zone it is in.
    pub zone: Option<String>,
    /// For whom it is meant.
    pub hints: Hints,
}

impl BackendAddress {
    /// A ready endpoint of which no more is known.
    pub fn ready(ip: IpAddr) -> Self {
        Self {
            ip,
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            zone: None,
            hints: Hints::default(),
        }
    }
}

/// An EndpointSlice, belonging to a Service by label `kubernetes.io/service-name`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Name of the Service in the same namespace.
    pub service: String,
    /// Ports.
    pub ports: Vec<SlicePort>,
    /// Endpoints, all of one family.
    pub endpoints: Vec<BackendAddress>,
    /// Weight of each endpoint (annotation `service.cilium.io/weight`), if said; 0: no new connections.
    pub weight: Option<u16>,
    /// Where it is written.
    pub place: Place,
}
