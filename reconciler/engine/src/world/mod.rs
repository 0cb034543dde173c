//! Facts from all sources, in our own types: what `compile` reads. API objects are lowered into these
//! (`cilium-crds::lower`); nothing here knows YAML, Kubernetes or the kernel.

mod host;
mod labels;
mod object;
mod policy;
mod service;
mod slice;

pub use host::{Cgroup, HostDevice, HostFacts};
pub use labels::{Label, Labels, Operator, Requirement, Selector};
pub use object::{
    EndpointRecord, HostPort, IdentityClaim, Namespace, Node, NodeAddress, NodeAddressKind, ObjectName,
    Place, Pod, PodPort, PortMappings, RemoteEndpoint,
};
pub use policy::{
    CidrGroup, Clause, DefaultDeny, Entity, GroupRef, NamedPort, Peer, PeerSet, PolicyRule, PortMatch,
    PortSet, Rank, RuleVerdict, ServiceNames, ServiceRef, Subject, Tier,
};
pub use service::{
    Allocation, Created, Distribution, ForwardingMode, FrontendKind, IpFamily, LbAlgorithm,
    LoadBalancerAddresses, RangesPolicy, Service, ServiceKind, ServicePort, SourceRanges, TargetPort,
    TrafficPolicy,
};
pub use slice::{BackendAddress, EndpointSlice, Hints, SlicePort};

use crate::map::{Map, Set};
use crate::problem::Problems;
use crate::shared::Shared;
use crate::state::SourceSet;

/// An object's name as maps hold it.
pub type Name = Shared<ObjectName>;

/// Everything a pass knows, as values. A clone costs nothing, and two versions are compared at the cost of
/// what differs between them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// Sources that have delivered a whole picture since start.
    pub synced: SourceSet,
    /// Namespaces by name.
    pub namespaces: Map<String, Shared<Namespace>>,
    /// Nodes by name, this one included if described.
    pub nodes: Map<String, Shared<Node>>,
    /// Pods of the whole cluster as far as known.
    pub pods: Map<Name, Shared<Pod>>,
    /// Services.
    pub services: Map<Name, Shared<Service>>,
    /// EndpointSlices.
    pub slices: Map<Name, Shared<EndpointSlice>>,
    /// Groups of prefixes by name.
    pub cidr_groups: Map<String, Shared<CidrGroup>>,
    /// Rules of all policies.
    pub rules: Set<Shared<PolicyRule>>,
    /// Published claims of identity numbers, others' only.
    pub claims: Set<Shared<IdentityClaim>>,
    /// Endpoints of other nodes.
    pub remote_endpoints: Map<Name, Shared<RemoteEndpoint>>,
    /// This node's CNI attachments, by endpoint number.
    pub endpoints: Map<u16, Shared<EndpointRecord>>,
    /// This host's devices and kernel.
    pub host: HostFacts,
    /// What lowering and the sources found wrong.
    pub problems: Problems,
}
