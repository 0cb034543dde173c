//! The policy truth table as data: what is in force, who is kept out by it, and who is not.
//!
//! A case is judged on real traffic by [`stage::Stage`]. Its categories are read off the case itself, so
//! that none can be claimed that is not there. Nothing here knows how policy is enforced.

pub mod stage;

mod cidr;
mod deny;
mod egress;
mod entities;
mod ingress;
mod kubernetes;
mod objects;
mod tiers;

use std::fmt;

/// An object's kind and its `spec`, in which `$NS` is the namespace of the case, and `$NAME-n` the name of its nth object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// `networking.k8s.io/v1` NetworkPolicy.
    Np(&'static str),
    /// CiliumNetworkPolicy.
    Cnp(&'static str),
    /// CiliumClusterwideNetworkPolicy.
    Ccnp(&'static str),
    /// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
    Tiered(&'static str),
    /// CiliumCIDRGroup, for policies to name.
    Group(&'static str),
    /// A Service, for policies to name.
    Service(&'static str),
}

/// Why a packet is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No rule allows it: reason 133.
    NotAllowed,
    /// A rule denies it: reason 181.
    DeniedByRule,
}

impl Why {
    /// Number of the drop reason.
    pub fn reason(self) -> u64 {
        match self {
            Self::NotAllowed => 133,
            Self::DeniedByRule => 181,
        }
    }
}

/// One row of the truth table.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What it shows.
    pub name: &'static str,
    /// What is in force.
    pub policies: &'static [Policy],
    /// The probe that must be dropped, and passes without the policies.
    pub denied: &'static str,
    /// Why it is dropped.
    pub why: Why,
    /// The probe that must pass all the same.
    pub mirror: &'static str,
}

/// One end of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// `web` of the case's namespace, on the first node: `app: web, tier: back`.
    Web,
    /// `near`, on the first node: `app: near, tier: front, env: prod`.
    Near,
    /// `far`, on the second node: `app: far, tier: front, env: test`.
    Far,
    /// `odd`, on the second node: `app: odd, tier: back`.
    Odd,
    /// `blue/guest`, on the first node, in a namespace with `team: blue`.
    Blue,
    /// `green/guest`, on the second node, in a namespace with `team: green, trust: low`.
    Green,
    /// The first node.
    Host1,
    /// The second node.
    Host2,
    /// A host of the world: 203.0.113.10 and 2001:db8:1:a::10.
    OutA,
    /// Another: 203.0.113.200 and 2001:db8:1:f::10.
    OutB,
}

/// All ends, with the words for them.
const ENDS: [(&str, End); 10] = [
    ("web", End::Web),
    ("near", End::Near),
    ("far", End::Far),
    ("odd", End::Odd),
    ("blue", End::Blue),
    ("green", End::Green),
    ("host1", End::Host1),
    ("host2", End::Host2),
    ("out-a", End::OutA),
    ("out-b", End::OutB),
];

impl End {
    /// The node it is on; `None` outside the cluster.
    pub fn node(self) -> Option<usize> {
        match self {
            Self::Web | Self::Near | Self::Blue | Self::Host1 => Some(0),
            Self::Far | Self::Odd | Self::Green | Self::Host2 => Some(1),
            Self::OutA | Self::OutB => None,
        }
    }
}

/// What a probe sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proto {
    /// A TCP request to a port.
    Tcp(u16),
    /// A UDP request to a port.
    Udp(u16),
    /// An echo request.
    Icmp,
}

/// A packet and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    /// Who sends.
    pub from: End,
    /// Who answers.
    pub to: End,
    /// What.
    pub proto: Proto,
    /// IPv6 rather than IPv4.
    pub v6: bool,
}

impl Probe {
    /// Reads `near>web tcp/80 v4`.
    ///
    /// # Panics
    /// If the text is none.
    pub fn parse(text: &str) -> Self {
        let end = |word: &str| ENDS.iter().find(|(name, _)| *name == word).map(|(_, end)| *end);
        let read = || {
            let mut words = text.split_whitespace();
            let (from, to) = words.next()?.split_once('>')?;
            let proto = match words.next()?.split_once('/') {
                None => Proto::Icmp,
                Some(("tcp", port)) => Proto::Tcp(port.parse().ok()?),
                Some(("udp", port)) => Proto::Udp(port.parse().ok()?),
                Some(_) => return None,
            };
            let v6 = match words.next()? {
                "v4" => false,
                "v6" => true,
                _ => return None,
            };
            Some(Self { from: end(from)?, to: end(to)?, proto, v6 })
        };
        read().unwrap_or_else(|| panic!("{text:?} is no probe"))
    }

    /// Whether its ends are on different nodes of the cluster.
    pub fn crosses_nodes(&self) -> bool {
        matches!((self.from.node(), self.to.node()), (Some(a), Some(b)) if a != b)
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |end| ENDS.iter().find(|(_, e)| *e == end).map_or("?", |(name, _)| name);
        write!(f, "{}>{} ", word(self.from), word(self.to))?;
        match self.proto {
            Proto::Tcp(port) => write!(f, "tcp/{port}"),
            Proto::Udp(port) => write!(f, "udp/{port}"),
            Proto::Icmp => write!(f, "icmp"),
        }?;
        write!(f, " {}", if self.v6 { "v6" } else { "v4" })
    }
}

/// Kind of a policy and its `spec`.
fn parts(policy: &Policy) -> (&'static str, &'static str, &'static str) {
    match policy {
        Policy::Np(spec) => ("networking.k8s.io/v1", "NetworkPolicy", spec),
        Policy::Cnp(spec) => ("cilium.io/v2", "CiliumNetworkPolicy", spec),
        Policy::Ccnp(spec) => ("cilium.io/v2", "CiliumClusterwideNetworkPolicy", spec),
        Policy::Tiered(spec) => ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", spec),
        Policy::Group(spec) => ("cilium.io/v2", "CiliumCIDRGroup", spec),
        Policy::Service(spec) => ("v1", "Service", spec),
    }
}

impl Case {
    /// The policies as documents, for a namespace. Their names begin with `name`.
    pub fn yaml(&self, name: &str, namespace: &str) -> String {
        let mut yaml = String::new();
        for (n, policy) in self.policies.iter().enumerate() {
            let (version, kind, spec) = parts(policy);
            let is_clusters = matches!(policy, Policy::Ccnp(_) | Policy::Tiered(_) | Policy::Group(_));
            let home = if is_clusters { "" } else { ", namespace: $NS" };
            let text = format!(
                "---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}-{n}{home}}}\nspec: {spec}\n"
            );
            yaml.push_str(&text.replace("$NS", namespace).replace("$NAME", name));
        }
        yaml
    }

    /// Whether it is of a category, by what it says.
    pub fn is_of(&self, category: Category) -> bool {
        let denied = Probe::parse(self.denied);
        let says = |word: &str| self.policies.iter().any(|p| parts(p).2.contains(word));
        match category {
            Category::All => true,
            Category::AcrossNodes => denied.crosses_nodes(),
            Category::Ipv6 => denied.v6,
            Category::Udp => matches!(denied.proto, Proto::Udp(_)),
            Category::Icmp => denied.proto == Proto::Icmp,
            Category::DenyOverAllow => {
                self.why == Why::DeniedByRule && (says("ingress: [{") || says("egress: [{"))
            }
            Category::Except => says("except: ["),
            Category::Entities => says("Entities: ["),
            Category::DefaultDenySwitch => says("enableDefaultDeny: {"),
            Category::EndPort => says("endPort: "),
            Category::NamespaceSelector => says("namespaceSelector: {"),
            Category::MatchExpressions => says("matchExpressions: ["),
            Category::NetworkPolicy => self.policies.iter().any(|p| matches!(p, Policy::Np(_))),
            Category::CiliumNetworkPolicy => self.policies.iter().any(|p| matches!(p, Policy::Cnp(_))),
            Category::Clusterwide => self.policies.iter().any(|p| matches!(p, Policy::Ccnp(_))),
            Category::Tiers => self.policies.iter().any(|p| matches!(p, Policy::Tiered(_))),
            Category::NamedPort => says("port: main") || says("port: alt") || says("NamedPort: "),
            Category::Nodes => says("Nodes: [") || says("nodes: {"),
        }
    }
}

/// What cases are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// All of them.
    All,
    /// The dropped probe goes from one node to the other.
    AcrossNodes,
    /// The dropped probe is IPv6.
    Ipv6,
    /// The dropped probe is UDP.
    Udp,
    /// The dropped probe is an echo request.
    Icmp,
    /// A deny rule drops what an allow rule is there for.
    DenyOverAllow,
    /// A prefix with exceptions.
    Except,
    /// Entities.
    Entities,
    /// `enableDefaultDeny`.
    DefaultDenySwitch,
    /// Ranges of ports.
    EndPort,
    /// `namespaceSelector`.
    NamespaceSelector,
    /// `matchExpressions`.
    MatchExpressions,
    /// Kind NetworkPolicy.
    NetworkPolicy,
    /// Kind CiliumNetworkPolicy.
    CiliumNetworkPolicy,
    /// Kind CiliumClusterwideNetworkPolicy.
    Clusterwide,
    /// Kind ClusterNetworkPolicy.
    Tiers,
    /// Ports by name.
    NamedPort,
    /// Nodes by labels.
    Nodes,
}

/// Categories, and how many cases each must have.
pub const CATEGORIES: [(Category, usize); 18] = [
    (Category::All, 60),
    (Category::AcrossNodes, 12),
    (Category::Ipv6, 15),
    (Category::Udp, 12),
    (Category::Icmp, 6),
    (Category::DenyOverAllow, 10),
    (Category::Except, 6),
    (Category::Entities, 15),
    (Category::DefaultDenySwitch, 4),
    (Category::EndPort, 5),
    (Category::NamespaceSelector, 4),
    (Category::MatchExpressions, 6),
    (Category::NetworkPolicy, 10),
    (Category::CiliumNetworkPolicy, 40),
    (Category::Clusterwide, 5),
    (Category::Tiers, 7),
    (Category::NamedPort, 3),
    (Category::Nodes, 3),
];

/// The truth table.
pub fn all() -> Vec<Case> {
    let old = [ingress::CASES, egress::CASES, entities::CASES, cidr::CASES, deny::CASES, kubernetes::CASES];
    let new = [objects::CASES, tiers::CASES];
    [old.concat(), new.concat()].concat()
}

/// A case in which no rule allows the dropped probe.
const fn case(
    name: &'static str,
    policies: &'static [Policy],
    denied: &'static str,
    mirror: &'static str,
) -> Case {
    Case { name, policies, denied, why: Why::NotAllowed, mirror }
}

/// A case in which a rule denies the dropped probe.
const fn denied_by_rule(
    name: &'static str,
    policies: &'static [Policy],
    denied: &'static str,
    mirror: &'static str,
) -> Case {
    Case { name, policies, denied, why: Why::DeniedByRule, mirror }
}

/// `spec` of a rule about the pods with `app: $app` in the namespace of the policy.
macro_rules! on {
    ($app:literal, $rest:literal) => {
        concat!("{endpointSelector: {matchLabels: {app: ", $app, "}}, ", $rest, "}")
    };
}
use on;
