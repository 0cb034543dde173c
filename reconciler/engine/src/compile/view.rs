//! What people are shown: the compiled state by name. Built beside the rows, from the same values;
//! nothing reads it to decide.

use super::identity::Identity;
use super::policy::clause_origin;
use crate::map::Map;
use crate::shared::Shared;
use crate::state::{
    BackendId, Cookie, Digest, Direction, EndpointId, FrontendKey, IdentityId, Ipcache, LinkName, ListId,
    Origin, PolicyId, Protocol, RevNatId, Table,
};
use crate::world::{Clause, Created, EndpointRecord, Labels, Name, ObjectName, PolicyRule, RuleVerdict};
use ipnet::IpNet;
use std::net::IpAddr;

/// Everything named. A clone costs nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Name of this node.
    pub node: String,
    /// It is about to be taken out of the cluster.
    pub leaving: bool,
    /// Endpoints of this node, by number.
    pub endpoints: Map<u16, Shared<EndpointView>>,
    /// Identities that selectors see.
    pub identities: Map<IdentityId, Identity>,
    /// Numbers claimed for two label sets, which select nothing.
    pub clashed: Vec<IdentityId>,
    /// Addresses and prefixes with their identities.
    pub addresses: Table<Ipcache>,
    /// Nodes, this one first.
    pub nodes: Shared<Vec<NodeView>>,
    /// Frontends.
    pub services: Map<FrontendKey, Shared<ServiceView>>,
    /// Services whose `healthCheckNodePort` is to be answered here.
    pub health_checks: Map<Name, Shared<HealthCheckView>>,
    /// Rules by the number their rows carry.
    pub rules: Map<Cookie, Shared<RuleView>>,
    /// Policies in use.
    pub policies: Map<PolicyId, Shared<PolicyView>>,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointView {
    /// Its number.
    pub id: EndpointId,
    /// The pod, if it is one.
    pub pod: Option<ObjectName>,
    /// Container id of its attachment.
    pub container_id: String,
    /// Its identity's number.
    pub identity: IdentityId,
    /// Its identity's labels.
    pub labels: Shared<Labels>,
    /// Host-side interface.
    pub link: LinkName,
    /// IPv4 address.
    pub ipv4: Option<IpAddr>,
    /// IPv6 address.
    pub ipv6: Option<IpAddr>,
    /// Whose rows apply to it.
    pub policy: Option<PolicyId>,
    /// Ingress.
    pub ingress: ViewWay,
    /// Egress.
    pub egress: ViewWay,
}

impl EndpointView {
    /// Whether it shows this attachment.
    pub(super) fn is_of(&self, record: &EndpointRecord) -> bool {
        self.pod == record.pod
            && self.container_id == record.container_id
            && self.link.0 == record.link
            && (self.ipv4, self.ipv6) == (record.ipv4, record.ipv6)
    }
}

/// How a direction is subject to policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewWay {
    /// Not at all.
    Open,
    /// Only deny rules are about it.
    DenyRulesOnly,
    /// What no rule allows is denied.
    DefaultDeny,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Its addresses on the underlay.
    pub addresses: Vec<IpAddr>,
    /// Its router addresses.
    pub routers: Vec<IpAddr>,
    /// Its pod CIDRs.
    pub pod_cidrs: Vec<IpNet>,
}

/// A frontend of a Service, or of a pod with a hostPort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceView {
    /// The Service, or the pod.
    pub service: Name,
    /// Name of its port, empty if it has none.
    pub port_name: String,
    /// Address.
    pub addr: IpAddr,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub proto: Protocol,
    /// `cilium_abi::lb::SCOPE_` constant: whose clients.
    pub scope: u8,
    /// `cilium_abi::lb::FRONTEND_` flags.
    pub flags: u32,
    /// Seconds for which a client keeps its backend; 0: it does not.
    pub affinity: u32,
    /// Number by which replies find it.
    pub rev_nat: RevNatId,
    /// Its list.
    pub list: ListId,
    /// How many backends new connections go to.
    pub count: u16,
    /// Backends, also those that only keep connections; these last.
    pub backends: Vec<BackendView>,
}

/// What `healthCheckNodePort` of a Service answers by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheckView {
    /// The port, on every address of the node.
    pub port: u16,
    /// How many ready backends the Service has on this node.
    pub ready: usize,
    /// When the Service was made: of two that want one port, the older has it.
    pub created: Option<Created>,
}

/// A backend of a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendView {
    /// Its number.
    pub id: BackendId,
    /// Address.
    pub addr: IpAddr,
    /// Port.
    pub port: u16,
    /// Gets no new connections.
    pub terminating: bool,
}

/// A clause of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleView {
    /// The policy, where it is written, and which clause of it.
    pub origin: Origin,
    /// Direction.
    pub direction: Direction,
    /// Verdict.
    pub verdict: RuleVerdict,
}

impl RuleView {
    pub(super) fn of(rule: &PolicyRule, clause: &Clause) -> Self {
        Self { origin: clause_origin(rule, clause), direction: clause.direction, verdict: clause.verdict }
    }
}

/// A policy in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyView {
    /// Its content.
    pub digest: Digest,
    /// Its clauses.
    pub rules: Vec<Cookie>,
    /// Endpoints it applies to.
    pub endpoints: Vec<u16>,
}
