//! Labels that rules ask for of whoever is no pod: only these are told apart.

use crate::map::Set;
use crate::shared::Shared;
use crate::state::Origin;
use crate::world::{Operator, Peer, PeerSet, PolicyRule, Requirement, Selector};
use std::collections::BTreeMap;

/// Keys of labels of a source that some rule asks peers beyond pods for, each with the first rule that does.
pub(super) fn keys<'r>(rules: &'r Set<Shared<PolicyRule>>, source: &str) -> BTreeMap<&'r str, &'r Origin> {
    let mut keys = BTreeMap::new();
    for rule in rules.keys() {
        let requirements = selectors(rule).flat_map(|selector| &selector.requirements);
        for requirement in requirements.filter(|r| r.label.source == "any" || r.label.source == source) {
            let first = keys.entry(&*requirement.label.key).or_insert(&rule.origin);
            *first = (*first).min(&rule.origin);
        }
    }
    keys
}

/// Selectors of peers that may mean somebody who is no pod.
fn selectors(rule: &PolicyRule) -> impl Iterator<Item = &Selector> {
    let peers = rule.clauses.iter().filter_map(|clause| match &clause.peers {
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
