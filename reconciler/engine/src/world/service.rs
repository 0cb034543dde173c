//! Services: what clients use, and what the objects say about who may use it and where it leads.
//! `slice` holds where the backends are; [`crate::eligible`] joins both.

use super::{Label, Labels, ObjectName, Place, Selector};
use crate::map::Few;
use crate::state::{Origin, Protocol};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpFamily {
    /// The family of an address.
    pub fn of(addr: IpAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// What `targetPort` says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// The name of a container port.
    Name(String),
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServicePort {
    /// Name, empty if it is the only one.
    pub name: String,
    /// Number clients use.
    pub port: u16,
    /// Protocol.
    pub proto: Protocol,
    /// Where it leads in pods (folder mode without EndpointSlices).
    pub target: TargetPort,
    /// Number clients use on addresses of nodes.
    pub node_port: Option<u16>,
}

/// `spec.type`; a headless Service is a kind of its own here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ServiceKind {
    /// Reached by its ClusterIPs (and external IPs).
    #[default]
    ClusterIp,
    /// `clusterIP: None`: a matter of DNS alone.
    Headless,
    /// Also by a port on every node.
    NodePort,
    /// Also by addresses of a load balancer.
    LoadBalancer,
    /// A DNS alias.
    ExternalName,
}

/// The kinds of frontend a Service can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FrontendKind {
    /// A ClusterIP and the Service's port.
    ClusterIp,
    /// An address of a node and the port's NodePort.
    NodePort,
    /// A load balancer's address and the Service's port.
    LoadBalancer,
    /// An external IP and the Service's port.
    ExternalIp,
}

/// `internalTrafficPolicy` and `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// Backends anywhere.
    #[default]
    Cluster,
    /// Backends on the node that the traffic came to, only.
    Local,
}

/// Where load balancer addresses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Allocation {
    /// Someone writes `status.loadBalancer`; what the spec asks for is no more than a wish.
    ByStatus,
    /// Nobody does: without a status the addresses that the object asks for are in force as written.
    AsWritten,
}

/// Load balancer addresses of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LoadBalancerAddresses {
    /// `status.loadBalancer.ingress` with `ipMode: VIP`; `None`: the status has no entry at all.
    pub assigned: Option<Vec<IpAddr>>,
    /// Asked for: annotation `lbipam.cilium.io/ips`, else `spec.loadBalancerIP`.
    pub requested: Vec<IpAddr>,
    /// `spec.loadBalancerClass`.
    pub class: Option<String>,
}

/// Classes of load balancers that are Cilium's own; no class is, too.
const OWN_CLASSES: &[&str] = &["io.cilium/bgp-control-plane", "io.cilium/l2-announcer", "io.cilium/node"];

/// What `loadBalancerSourceRanges` is a list of (annotation `service.cilium.io/src-ranges-policy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RangesPolicy {
    /// Sources that are served; all others are not.
    #[default]
    Allow,
    /// Sources that are not served.
    Deny,
}

/// `loadBalancerSourceRanges`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SourceRanges {
    /// Prefixes without bits beyond their length, each once. Empty: no condition.
    pub ranges: Vec<IpNet>,
    /// What they are a list of. An allow list with ranges of the other family only allows nobody.
    pub policy: RangesPolicy,
}

/// How a backend is chosen (annotation `service.cilium.io/lb-algorithm`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LbAlgorithm {
    /// At random.
    Random,
    /// By a Maglev table.
    Maglev,
}

/// How packets get to backends on other nodes (annotation `service.cilium.io/forwarding-mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ForwardingMode {
    /// With this node's address as source, so that replies come back here.
    Snat,
    /// With the client's; the backend's node replies by itself.
    Dsr,
}

/// Which backends a Service prefers (`trafficDistribution`). Hints in its slices count in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Distribution {
    /// None, but for hints.
    #[default]
    AsHinted,
    /// Those of the client's zone (`PreferSameZone`, `PreferClose`).
    SameZone,
    /// Those of the client's node, then of its zone (`PreferSameNode`).
    SameNode,
}

/// When an object was made: RFC 3339 in UTC to the second, so that the order of texts is that of times.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Created(pub String);

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Service {
    /// Its type.
    pub kind: ServiceKind,
    /// ClusterIPs, at most one of a family, the primary first.
    pub cluster_ips: Vec<IpAddr>,
    /// Families it is served in, the primary first; empty: nobody decided, so all the node has.
    pub families: Vec<IpFamily>,
    /// External IPs.
    pub external_ips: Vec<IpAddr>,
    /// Load balancer addresses; empty unless [`ServiceKind::LoadBalancer`].
    pub load_balancer: LoadBalancerAddresses,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Its own labels, of source `k8s`.
    pub labels: Labels,
    /// Pod selector; `None`: backends come from EndpointSlices alone.
    pub selector: Option<Few<String, String>>,
    /// `publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// `externalTrafficPolicy`.
    pub external_policy: TrafficPolicy,
    /// `internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `sessionAffinity: ClientIP`: seconds a client keeps its backend, 1 to 86 400.
    pub affinity: Option<u32>,
    /// Which sources its load balancer addresses serve.
    pub source_ranges: SourceRanges,
    /// Port on nodes that tells whether one of its backends is here.
    pub health_check_node_port: Option<u16>,
    /// `allocateLoadBalancerNodePorts`: whoever gives out NodePorts gives it some.
    pub allocate_node_ports: bool,
    /// `trafficDistribution`; [`Distribution::AsHinted`] where the topology mode is `Auto`.
    pub distribution: Distribution,
    /// How a backend is chosen, if said.
    pub algorithm: Option<LbAlgorithm>,
    /// How packets get to backends elsewhere, if said.
    pub forwarding: Option<ForwardingMode>,
    /// The one kind of frontend it has, if said (annotation `service.cilium.io/type`); see [`Self::has`].
    pub only: Option<FrontendKind>,
    /// The nodes that serve it, if not all (annotations `service.cilium.io/node-selector` and `node`).
    pub nodes: Option<Selector>,
    /// Label `service.kubernetes.io/service-proxy-name`: another proxy is to serve it.
    pub proxy_name: Option<String>,
    /// When it was made, if known.
    pub created: Option<Created>,
    /// Where it is written.
    pub place: Place,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            kind: ServiceKind::default(),
            cluster_ips: Vec::new(),
            families: Vec::new(),
            external_ips: Vec::new(),
            load_balancer: LoadBalancerAddresses::default(),
            ports: Vec::new(),
            labels: Labels::default(),
            selector: None,
            publish_not_ready: false,
            external_policy: TrafficPolicy::default(),
            internal_policy: TrafficPolicy::default(),
            affinity: None,
            source_ranges: SourceRanges::default(),
            health_check_node_port: None,
            allocate_node_ports: true,
            distribution: Distribution::default(),
            algorithm: None,
            forwarding: None,
            only: None,
            nodes: None,
            proxy_name: None,
            created: None,
            place: Place::default(),
        }
    }
}

impl Service {
    /// Why it has no frontend at all, if so.
    pub fn unserved(&self) -> Option<&'static str> {
        match self.kind {
            ServiceKind::Headless => {
                Some("a headless Service has no address: its name leads to its backends themselves")
            }
            ServiceKind::ExternalName => Some("a Service of type ExternalName is a matter of DNS alone"),
            ServiceKind::ClusterIp | ServiceKind::NodePort | ServiceKind::LoadBalancer => None,
        }
    }

    /// Whether it has frontends of this kind. External IPs are not narrowed by [`Self::only`], as upstream.
    pub fn has(&self, frontend: FrontendKind) -> bool {
        let by_kind = match (self.kind, frontend) {
            (ServiceKind::Headless | ServiceKind::ExternalName, _) => false,
            (_, FrontendKind::ClusterIp | FrontendKind::ExternalIp) => true,
            (kind, FrontendKind::NodePort) => {
                matches!(kind, ServiceKind::NodePort | ServiceKind::LoadBalancer)
            }
            (kind, FrontendKind::LoadBalancer) => kind == ServiceKind::LoadBalancer,
        };
        by_kind && (frontend == FrontendKind::ExternalIp || self.only.is_none_or(|only| only == frontend))
    }

    /// Whether a node with these labels serves it.
    pub fn on_node(&self, labels: &BTreeMap<String, String>) -> bool {
        self.nodes.as_ref().is_none_or(|selector| {
            let labelled = labels.iter().map(|(key, value)| (Label::new("k8s", key), value.into()));
            selector.matches(&Labels(labelled.collect()))
        })
    }

    /// Load balancer addresses in force. A foreign class's wishes are for its own controller.
    pub fn load_balancer_ips(&self, allocation: Allocation) -> &[IpAddr] {
        let LoadBalancerAddresses { assigned, requested, class } = &self.load_balancer;
        let ours = class.as_deref().is_none_or(|class| OWN_CLASSES.contains(&class));
        match (assigned, allocation) {
            (Some(assigned), _) => assigned,
            (None, Allocation::AsWritten) if ours => requested,
            (None, _) => &[],
        }
    }

    /// How rows explain themselves by this Service, which is called so.
    pub fn origin(&self, name: &ObjectName) -> Origin {
        Origin { object: format!("Service {name}"), place: self.place.to_string(), rule: String::new() }
    }

    /// Whether it is served in this family.
    pub fn in_family(&self, family: IpFamily) -> bool {
        self.families.is_empty() || self.families.contains(&family)
    }

    /// Of two Services that want one frontend, the lesser by this, then by name, has it: the older one;
    /// one of unknown age comes after all others.
    pub fn seniority(&self) -> (bool, Option<&Created>) {
        (self.created.is_none(), self.created.as_ref())
    }
}
