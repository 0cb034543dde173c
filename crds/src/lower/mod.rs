//! API object → facts in the engine's words. Pure: no file, no clock, no config.
//!
//! ```text
//! document ─▶ schema::check ─▶ read (this file) ─▶ Object { facts, problems } ─▶ combined ─▶ world pieces
//!                                 └ cluster, service, slice, network_policy, cilium_policy ┘
//! ```
//! An object is lowered once, when its file is read; `combine` only sorts facts into place, and only those of
//! objects that are others than before.

mod cilium_policy;
mod clause;
mod cluster;
mod combine;
mod cursor;
mod network_policy;
mod pool;
mod ports;
mod selector;
mod service;
mod slice;
mod tiers;
mod values;

pub use combine::{Combined, LowerOptions, Pieces, combine};
pub use pool::LabelPool;
pub use selector::{NAMESPACE_LABELS, POD_NAMESPACE};

use crate::finding::{Class, Finding};
use crate::kind::ObjectKind;
use crate::yaml::Node;
use cilium_engine::shared::{Shared, Text};
use cilium_engine::world::{
    CidrGroup, EndpointSlice, IdentityClaim, Name, Namespace, Node as WorldNode, Place, Pod, PolicyRule,
    RemoteEndpoint, RuleVerdict, Service,
};
use cursor::{Cursor, Notes};
use serde::{Deserialize, Serialize};

/// Who the object is, as its header says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Header {
    /// Kind.
    pub kind: ObjectKind,
    /// Namespace and name.
    pub name: Name,
    /// The node that published it, if any.
    pub published_by: Option<Text>,
    /// Where it is written.
    pub place: Place,
}

impl Header {
    /// As origins and problems name it: `Pod shop/cart-0`.
    pub fn title(&self) -> String {
        format!("{} {}", self.kind, self.name)
    }
}

/// What an object says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Facts {
    /// Nothing that counts (not readable, or nothing said yet).
    Nothing,
    /// A namespace.
    Namespace(Shared<Namespace>),
    /// A node, from the core kind.
    Node(Shared<WorldNode>),
    /// A node, from CiliumNode.
    CiliumNode(Shared<WorldNode>),
    /// A pod, with all addresses its status has.
    Pod(Shared<Pod>),
    /// A service.
    Service(Shared<Service>),
    /// A slice.
    Slice(Shared<EndpointSlice>),
    /// A group of prefixes.
    Group(Shared<CidrGroup>),
    /// Rules of a policy.
    Policy(Shared<Vec<Shared<PolicyRule>>>),
    /// A claim of an identity number.
    Claim(Shared<IdentityClaim>),
    /// An endpoint of some node.
    Endpoint(Shared<RemoteEndpoint>),
}

/// Facts of an object that passed, or did not pass, its schema. `findings` are those of the schema; the ones
/// of values are added.
pub(crate) fn lower(header: &Header, root: &Node, findings: &mut Vec<Finding>) -> Facts {
    let mut notes = Notes::new(std::mem::take(findings));
    let cursor = Cursor::new(root);
    let mut facts = match header.kind {
        ObjectKind::NetworkPolicy => network_policy::lower(header, &cursor, &mut notes),
        ObjectKind::CiliumNetworkPolicy | ObjectKind::CiliumClusterwideNetworkPolicy => {
            cilium_policy::lower(header, &cursor, &mut notes)
        }
        ObjectKind::ClusterNetworkPolicy
        | ObjectKind::AdminNetworkPolicy
        | ObjectKind::BaselineAdminNetworkPolicy => tiers::lower(header, &cursor, &mut notes),
        // Other kinds are wanted whole: half a Service would be another Service.
        _ if notes.findings.iter().any(|f| f.class == Class::Invalid) => Facts::Nothing,
        ObjectKind::Namespace => cluster::namespace(header, &cursor, &mut notes),
        ObjectKind::Node => cluster::node(header, &cursor, &mut notes),
        ObjectKind::Pod => cluster::pod(header, &cursor, &mut notes),
        ObjectKind::Service => service::service(header, &cursor, &mut notes),
        ObjectKind::EndpointSlice => slice::slice(header, &cursor, &mut notes),
        ObjectKind::CiliumNode => cluster::cilium_node(header, &cursor, &mut notes),
        ObjectKind::CiliumEndpoint => cluster::endpoint(header, &cursor, &mut notes),
        ObjectKind::CiliumIdentity => cluster::identity(header, &cursor, &mut notes),
        ObjectKind::CiliumCIDRGroup => cluster::group(header, &cursor, &mut notes),
    };
    let unsure = notes.unsure();
    *findings = notes.findings;
    if let (Facts::Policy(rules), true) = (&mut facts, unsure) {
        for rule in rules.iter_mut() {
            rule.clauses.retain(|clause| clause.verdict == RuleVerdict::Deny);
        }
    }
    if !header.kind.is_policy() && findings.iter().any(|f| f.class == Class::Invalid) {
        return Facts::Nothing;
    }
    facts
}
