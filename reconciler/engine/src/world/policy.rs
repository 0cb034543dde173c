//! Policy rules in one form for all APIs (NetworkPolicy, CiliumNetworkPolicy, clusterwide).
//!
//! ```text
//! PolicyRule ── subject (which endpoints)
//!     ├─ rank: when it is asked
//!     ├─ default_deny per direction
//!     └─ clauses: direction, allow|deny|pass, peers ∧ ports
//! ```

use super::{Labels, ObjectName, Place, PodPort, Selector, Service};
use crate::state::{Direction, Origin, Protocol};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Which endpoints a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Subject {
    /// Endpoints whose labels are selected (a namespaced policy's namespace is a requirement).
    Endpoints(Selector),
    /// The rule's selector could not be read: it is reported, and selects nothing.
    Unreadable,
}

/// Directions in which the subjects enter default deny.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DefaultDeny {
    /// Ingress.
    pub ingress: bool,
    /// Egress.
    pub egress: bool,
}

/// One rule (`spec`, or one of `specs`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyRule {
    /// Object, place and index.
    pub origin: Origin,
    /// Which endpoints.
    pub subject: Subject,
    /// When it is asked.
    pub rank: Rank,
    /// Default deny.
    pub default_deny: DefaultDeny,
    /// What is allowed and denied.
    pub clauses: Vec<Clause>,
}

/// A tier of rules: earlier ones are asked first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Tier {
    /// The first rule that is about a packet decides.
    Admin,
    /// Order says nothing here, and deny wins over allow. Default deny ends it: no later tier is asked.
    #[default]
    Normal,
    /// As Admin, for what no rule of the tiers before is about.
    Baseline,
}

/// When a rule is asked (ClusterNetworkPolicy, `policy.networking.k8s.io/v1alpha2`). Of the same rank: by the names of
/// objects, then by place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rank {
    /// The tier.
    pub tier: Tier,
    /// Lower ones first; 0 in [`Tier::Normal`].
    pub priority: u16,
}

/// What a clause does with what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RuleVerdict {
    /// Allow.
    Allow,
    /// Deny.
    Deny,
    /// Ask no more rules of this tier (none of [`Tier::Normal`] says so).
    Pass,
}

/// One entry of `ingress`, `egress`, `ingressDeny` or `egressDeny`: any of the peers on any of the ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Clause {
    /// Direction.
    pub direction: Direction,
    /// Verdict.
    pub verdict: RuleVerdict,
    /// Peers.
    pub peers: PeerSet,
    /// Ports.
    pub ports: PortSet,
    /// Which entry of the rule, as `ingress[0]`.
    pub path: String,
}

/// Peers of a clause.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PeerSet {
    /// No condition on the peer.
    Any,
    /// Any of these; an empty list is nobody.
    Of(Vec<Peer>),
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Peer {
    /// Endpoints of the cluster whose labels are selected.
    Endpoints(Selector),
    /// Nodes whose labels are selected.
    Nodes {
        /// Which of them.
        selector: Selector,
        /// Whether this node counts, or others only.
        here: bool,
    },
    /// An entity.
    Entity(Entity),
    /// A prefix without the exceptions within it.
    Cidr {
        /// The prefix.
        net: IpNet,
        /// Exceptions, each within `net`.
        except: Vec<IpNet>,
    },
    /// The prefixes of groups without exceptions.
    Groups {
        /// Which groups.
        groups: GroupRef,
        /// Exceptions, wherever they lie.
        except: Vec<IpNet>,
    },
    /// What is behind Services.
    Services(ServiceRef),
}

/// CiliumCIDRGroups.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum GroupRef {
    /// The one of this name.
    Named(String),
    /// Those whose labels are selected.
    Labelled(Selector),
}

/// Services.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceRef {
    /// Their namespace; none: every one.
    pub namespace: Option<String>,
    /// Which of them.
    pub which: ServiceNames,
}

/// Which Services.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ServiceNames {
    /// The one of this name.
    Named(String),
    /// Those whose labels are selected.
    Labelled(Selector),
}

impl ServiceRef {
    /// Whether a Service is meant.
    pub fn means(&self, name: &ObjectName, service: &Service) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| name.namespace == *namespace.as_str())
            && match &self.which {
                ServiceNames::Named(wanted) => name.name == *wanted.as_str(),
                ServiceNames::Labelled(selector) => selector.matches(&service.labels),
            }
    }
}

/// A CiliumCIDRGroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CidrGroup {
    /// Its labels, of source `cidrgroup`.
    pub labels: Labels,
    /// Its prefixes.
    pub prefixes: Vec<IpNet>,
    /// Where it is written.
    pub place: Place,
}

/// Entities (features.md §1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Entity {
    /// Everything.
    All,
    /// Outside the cluster, both families, CIDR identities included.
    World,
    /// Outside the cluster, IPv4.
    WorldIpv4,
    /// Outside the cluster, IPv6.
    WorldIpv6,
    /// Everything within the cluster, hosts included.
    Cluster,
    /// The same of all clusters.
    ClusterMesh,
    /// This node.
    Host,
    /// Other nodes.
    RemoteNode,
    /// Endpoints without labels yet.
    Init,
    /// The ingress proxy.
    Ingress,
    /// Endpoints not managed.
    Unmanaged,
    /// The health endpoints.
    Health,
    /// API servers, be they nodes or outside.
    KubeApiserver,
    /// Nobody.
    None,
}

/// Ports of a clause.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PortSet {
    /// Every protocol and port.
    Any,
    /// Any of these; an empty list is none.
    Of(Vec<PortMatch>),
    /// As [`Self::Of`], and what the names stand for at the pod that the packet is for.
    Named(Vec<PortMatch>, Vec<NamedPort>),
}

impl PortSet {
    /// Of these ports and names.
    pub fn of(ports: Vec<PortMatch>, names: Vec<NamedPort>) -> Self {
        if names.is_empty() { Self::Of(ports) } else { Self::Named(ports, names) }
    }

    /// The names in it.
    pub fn names(&self) -> &[NamedPort] {
        match self {
            Self::Any | Self::Of(_) => &[],
            Self::Named(_, names) => names,
        }
    }
}

/// The name of a container's port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamedPort {
    /// Protocol; none: every one that has ports.
    pub proto: Option<Protocol>,
    /// The name.
    pub name: String,
}

impl NamedPort {
    /// Whether a container's port is meant.
    pub fn means(&self, port: &PodPort) -> bool {
        self.name == port.name && self.proto.is_none_or(|proto| proto == port.proto)
    }
}

/// A protocol with a range of ports, or an ICMP type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortMatch {
    /// Protocol, never 0: `ANY` is lowered to TCP, UDP and SCTP.
    pub proto: Protocol,
    /// First port (ICMP: type); 0 with `last` 65 535 means all.
    pub first: u16,
    /// Last port, inclusive.
    pub last: u16,
}
