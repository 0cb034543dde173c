//! What every kind of policy is read into: rules for subjects, and subjects put in default deny.
//!
//! ```text
//! object ─ cilium / kubernetes / tiers ─▶ Read { rules, isolations, findings } ─ fails_closed ─▶ World
//! ```

use std::fmt;

use ipnet::IpNet;

use crate::ports::Ports;
use crate::read::{Finding, Findings};
use crate::selector::Selector;

/// A rule by its object and place. Ordered as the rules of one tier and priority are tried.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId {
    /// The object's kind; `implicit` for what no object says.
    pub kind: String,
    /// The object's namespace; empty if it has none.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// JSON path of the rule in the object.
    pub path: String,
}

impl RuleId {
    pub(crate) fn implicit(name: &str) -> RuleId {
        let (kind, namespace, path) = ("implicit".to_owned(), String::new(), String::new());
        RuleId { kind, namespace, name: name.to_owned(), path }
    }

    pub(crate) fn at(&self, path: &str) -> RuleId {
        RuleId { path: path.to_owned(), ..self.clone() }
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RuleId { kind, namespace, name, path } = self;
        let slash = if namespace.is_empty() { "" } else { "/" };
        write!(f, "{kind} {namespace}{slash}{name} {path}")
    }
}

/// Which way a packet crosses the subject's edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To the subject.
    Ingress,
    /// From the subject.
    Egress,
}

/// What a rule does with what it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Lets it through, and no later rule is asked.
    Accept,
    /// Drops it, and no later rule is asked.
    Deny,
    /// Leaves it to the next tier.
    Pass,
}

/// When a rule is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tier {
    Admin,
    /// NetworkPolicy and both kinds of Cilium's; here deny beats allow, order says nothing.
    Normal,
    Baseline,
}

/// Where a rule stands in its tier: lower first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) tier: Tier,
    pub(crate) priority: i64,
}

#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) id: RuleId,
    pub(crate) rank: Rank,
    /// Its place in its object.
    pub(crate) place: usize,
    pub(crate) direction: Direction,
    pub(crate) subject: Subject,
    pub(crate) action: Action,
    pub(crate) peers: Peers,
    pub(crate) ports: Ports,
}

/// A subject that drops in a direction what nothing allows.
#[derive(Debug, Clone)]
pub(crate) struct Isolation {
    pub(crate) id: RuleId,
    pub(crate) direction: Direction,
    pub(crate) subject: Subject,
}

/// Whom a policy is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Endpoints, of one namespace or of the cluster; never the host.
    Endpoints { namespace: Option<String>, selector: Selector },
    /// The host of nodes so labelled.
    Node(Selector),
    /// Pods of namespaces.
    Pods { namespaces: Namespaces, pods: Selector },
    /// Nobody: it could not be read.
    Nobody,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Namespaces {
    Named(String),
    Labelled(Selector),
}

/// The peers part of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Peers {
    Everyone,
    /// Whom one of these matches; none: nobody.
    OneOf(Vec<Peer>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Every identity the selector matches, also those that are no pods.
    Identity(Selector),
    /// Pods of namespaces; of one cluster if given.
    Pods {
        namespaces: Namespaces,
        pods: Selector,
        cluster: Option<String>,
    },
    Entity(Entity),
    /// Addresses outside the cluster (of pods and nodes, if so configured).
    Prefix {
        prefix: IpNet,
        except: Vec<IpNet>,
    },
    /// The prefixes of CiliumCIDRGroups.
    Groups {
        groups: Groups,
        except: Vec<IpNet>,
    },
    /// What is behind a Service.
    Service(ServiceRef),
    /// Nodes other than the subject's own; of one cluster if given.
    RemoteNodes {
        selector: Selector,
        cluster: Option<String>,
    },
    /// Nodes, the subject's own among them.
    Nodes(Selector),
    /// Whoever has an address in the prefix, also pods and nodes.
    Network(IpNet),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Groups {
    Named(String),
    Labelled(Selector),
}

/// `toServices[]`: by name or by labels, in one namespace or in any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ServiceRef {
    pub(crate) named: Option<(Option<String>, String)>,
    pub(crate) labelled: Option<(Option<String>, Selector)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entity {
    All,
    World,
    WorldIpv4,
    WorldIpv6,
    Cluster,
    ClusterMesh,
    None,
    /// A reserved identity by its name.
    Reserved(&'static str),
}

impl Entity {
    pub(crate) fn named(name: &str) -> Option<Entity> {
        Some(match name {
            "all" => Entity::All,
            "world" => Entity::World,
            "world-ipv4" => Entity::WorldIpv4,
            "world-ipv6" => Entity::WorldIpv6,
            "cluster" => Entity::Cluster,
            "cluster-mesh" => Entity::ClusterMesh,
            "none" => Entity::None,
            "host" => Entity::Reserved("host"),
            "remote-node" => Entity::Reserved("remote-node"),
            "kube-apiserver" => Entity::Reserved("kube-apiserver"),
            "health" => Entity::Reserved("health"),
            "init" => Entity::Reserved("init"),
            "ingress" => Entity::Reserved("ingress"),
            "unmanaged" => Entity::Reserved("unmanaged"),
            _ => return None,
        })
    }
}

/// What was found wrong in the parts of one rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Defects {
    /// Somebody the rule is about could not be read.
    pub(crate) peers: bool,
    /// A port it is about could not be read.
    pub(crate) ports: bool,
    /// Something else about it: it asks for more than is evaluated, or contradicts itself.
    pub(crate) other: bool,
}

impl Defects {
    pub(crate) fn any(self) -> bool {
        self.peers || self.ports || self.other
    }
}

/// One policy object as it was read, before it is decided what its defects mean.
#[derive(Debug, Default)]
pub(crate) struct Read {
    pub(crate) rules: Vec<(Rule, Defects)>,
    pub(crate) isolations: Vec<Isolation>,
    pub(crate) findings: Findings,
}

impl Read {
    pub(crate) fn findings(self) -> Vec<Finding> {
        self.findings.0
    }
}
