//! Labels that rules ask for of whoever is no pod: only these are told apart.

use crate::map::Set;
use crate::shared::Shared;
use crate::world::{Operator, Peer, PeerSet, PolicyRule, Requirement, Selector};
use std::collections::BTreeSet;

/// Keys of labels of a source that some rule asks peers beyond pods for.
pub(super) fn keys(rules: &Set<Shared<PolicyRule>>, source: &str) -> BTreeSet<String> {
    let means = |r: &&Requirement| r.label.source == "any" || r.label.source == source;
    let requirements = selectors(rules).flat_map(|selector| &selector.requirements).filter(means);
    requirements.map(|requirement| requirement.label.key.to_string()).collect()
}

/// Selectors of peers that may mean somebody who is no pod.
fn selectors(rules: &Set<Shared<PolicyRule>>) -> impl Iterator<Item = &Selector> {
    let peers = rules.keys().flat_map(|rule| &rule.clauses).filter_map(|clause| match &clause.peers {
        PeerSet::Any => None,
        PeerSet::Of(peers) => Some(peers),
    });
    peers.flatten().filter_map(|peer| match peer {
        Peer::Nodes { selector, .. } => Some(selector),
        Peer::Endpoints(selector) if !selector.requirements.iter().any(is_of_pods) => Some(selector),
        Peer::Endpoints(_)
        | Peer::Entity(_)
        | Peer::Cidr { .. }
        | Peer::Groups { .. }
        | Peer::Services(_) => None,
    })
}

/// Whether nobody but a pod meets it.
fn is_of_pods(requirement: &Requirement) -> bool {
    requirement.label.source == "k8s" && matches!(requirement.operator, Operator::In(_) | Operator::Exists)
}
