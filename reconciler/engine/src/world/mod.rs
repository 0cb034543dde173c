//! Facts from all sources, in our own types: what `compile` reads. API objects are lowered into these
//! (`cilium-crds::lower`); nothing here knows YAML, Kubernetes or the kernel.

mod host;
mod labels;
mod object;
mod policy;
mod service;
mod slice;

pub use host::{HostDevice, HostFacts};
pub use labels::{Label, Labels, Operator, Requirement, Selector};
pub use object::{
    EndpointRecord, HostPort, IdentityClaim, Namespace, Node, NodeAddress, NodeAddressKind, ObjectName,
    Place, Pod, PodPort, RemoteEndpoint,
};
pub use policy::{
    Clause, DefaultDeny, Entity, Peer, PeerSet, PolicyRule, PortMatch, PortSet, RuleVerdict, Subject,
};
pub use service::{
    Allocation, Created, Distribution, ForwardingMode, FrontendKind, IpFamily, LbAlgorithm,
    LoadBalancerAddresses, RangesPolicy, Service, ServiceKind, ServicePort, SourceRanges, TargetPort,
    TrafficPolicy,
};
pub use slice::{BackendAddress, EndpointSlice, Hints, SlicePort};

use crate::state::SourceSet;
use std::collections::BTreeMap;

/// Everything a pass knows, as values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// Sources that have delivered a whole picture since start.
    pub synced: SourceSet,
    /// Namespaces by name.
    pub namespaces: BTreeMap<String, Namespace>,
    /// Nodes by name, this one included if described.
    pub nodes: BTreeMap<String, Node>,
    /// Pods of the whole cluster as far as known.
    pub pods: BTreeMap<ObjectName, Pod>,
    /// Services.
    pub services: BTreeMap<ObjectName, Service>,
    /// EndpointSlices.
    pub slices: BTreeMap<ObjectName, EndpointSlice>,
    /// Rules of all policies, in the order of (kind, namespace, name, index).
    pub rules: Vec<PolicyRule>,
    /// Published claims of identity numbers, others' only.
    pub claims: Vec<IdentityClaim>,
    /// Endpoints of other nodes.
    pub remote_endpoints: BTreeMap<ObjectName, RemoteEndpoint>,
    /// This node's CNI attachments, by endpoint number.
    pub endpoints: BTreeMap<u16, EndpointRecord>,
    /// This host's devices and kernel.
    pub host: HostFacts,
    /// What lowering and the sources found wrong.
    pub problems: Vec<crate::problem::Problem>,
}
