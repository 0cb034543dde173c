//! Services and where their backends are.

use super::Place;
use crate::state::Protocol;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What `targetPort` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// The name of a container port.
    Name(String),
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name, empty if it is the only one.
    pub name: String,
    /// Number clients use.
    pub port: u16,
    /// Protocol.
    pub proto: Protocol,
    /// Where it leads in pods (folder mode without EndpointSlices).
    pub target: TargetPort,
}

/// A ClusterIP Service (other types have their ClusterIPs here too).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// ClusterIPs, one or two; none for headless Services.
    pub cluster_ips: Vec<IpAddr>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Pod selector; `None`: backends come from EndpointSlices alone.
    pub selector: Option<BTreeMap<String, String>>,
    /// `publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// Where it is written.
    pub place: Place,
}

/// A named port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// Name, matching the Service port's.
    pub name: String,
    /// Number.
    pub port: u16,
    /// Protocol.
    pub proto: Protocol,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendAddress {
    /// Address.
    pub ip: IpAddr,
    /// `conditions.ready`, absent means true.
    pub ready: bool,
    /// `conditions.serving`, absent means `ready`.
    pub serving: bool,
    /// `conditions.terminating`, absent means false.
    pub terminating: bool,
}

/// An EndpointSlice, belonging to a Service by label `kubernetes.io/service-name`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Name of the Service in the same namespace.
    pub service: String,
    /// Ports.
    pub ports: Vec<SlicePort>,
    /// Endpoints.
    pub endpoints: Vec<BackendAddress>,
    /// Where it is written.
    pub place: Place,
}
