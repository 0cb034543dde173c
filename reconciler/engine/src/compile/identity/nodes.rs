//! Other nodes: each carries those of its labels whose keys some rule names, so that nodes that no rule tells apart are
//! one identity, of this node's own.

use super::local;
use crate::compile::book::IdBook;
use crate::compile::number::ContentHash;
use crate::compile::rows::because;
use crate::compile::site::{Neighbour, Site};
use crate::shared::Shared;
use crate::state::{Digest, IdentityId, Origin, Why};
use crate::world::{Labels, World};
use cilium_abi::identity as number;
use std::collections::BTreeMap;

/// Source of the labels of nodes.
pub(super) const SOURCE: &str = "node";
/// How many numbers nodes may take.
const COUNT: u32 = 1 << 24;

/// Keys of labels that rules ask for.
type Keys<'r> = BTreeMap<&'r str, &'r Origin>;

/// An identity of other nodes that no fixed number stands for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Known {
    pub(super) labels: Shared<Labels>,
    pub(super) digest: Digest,
    pub(super) why: Why,
}

/// Who other nodes are.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Nodes {
    /// Those whose number is not a fixed one, by name.
    pub(super) named: BTreeMap<String, IdentityId>,
    /// What these numbers stand for.
    pub(super) known: BTreeMap<IdentityId, Known>,
}

/// Those labels of a node that rules ask for.
pub(super) fn labels(name: &str, keys: &Keys<'_>, world: &World, mut labels: Labels) -> Labels {
    let Some(node) = world.nodes.get(name) else { return labels };
    for (key, value) in node.labels.iter().filter(|(key, _)| keys.contains_key(key.as_str())) {
        labels = labels.with(SOURCE, key, value);
    }
    labels
}

/// Numbers the other nodes.
pub(super) fn number(keys: &Keys<'_>, world: &World, site: &Site, book: &IdBook) -> Nodes {
    let mut wanted: BTreeMap<ContentHash, (Labels, Vec<&Neighbour>)> = BTreeMap::new();
    for node in &site.neighbours {
        let fixed = Labels::default().with("reserved", "remote-node", "");
        let fixed = if node.is_apiserver { fixed.with("reserved", "kube-apiserver", "") } else { fixed };
        let labels = labels(&node.name, keys, world, fixed.clone());
        if labels != fixed {
            let hash = ContentHash::of_labels(&labels);
            wanted.entry(hash).or_insert_with(|| (labels, Vec::new())).1.push(node);
        }
    }
    let numbers = local::assign(wanted.keys().copied(), number::REMOTE_NODE_SCOPE, COUNT, book);
    let mut nodes = Nodes::default();
    for (hash, (labels, of)) in wanted {
        // Without a number they are nodes that no rule tells apart.
        let (Some(id), Some(first)) = (numbers.get(&hash), of.first()) else { continue };
        let known = Known { labels: labels.into(), digest: hash.digest(), why: because(&first.origin) };
        nodes.known.insert(*id, known);
        nodes.named.extend(of.iter().map(|node| (node.name.clone(), *id)));
    }
    nodes
}
