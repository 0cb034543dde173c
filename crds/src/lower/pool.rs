//! Label sets held once: thousands of endpoints share an identity, and each tells all of its labels.

use super::Facts;
use cilium_engine::shared::Shared;
use cilium_engine::world::Labels;
use std::collections::HashSet;

/// How many label sets there are before those nobody holds any more are looked for.
const FEW: usize = 1024;

impl Facts {
    /// The labels of an identity, where objects tell all of them.
    pub fn identity_labels_mut(&mut self) -> Option<&mut Shared<Labels>> {
        match self {
            Facts::Claim(claim) => Some(&mut claim.labels),
            Facts::Endpoint(endpoint) => Some(&mut endpoint.labels),
            Facts::Nothing
            | Facts::Namespace(_)
            | Facts::Node(_)
            | Facts::CiliumNode(_)
            | Facts::Pod(_)
            | Facts::Service(_)
            | Facts::Slice(_)
            | Facts::Policy(_) => None,
        }
    }
}

/// The label sets in use.
#[derive(Debug, Default)]
pub struct LabelPool {
    held: HashSet<Shared<Labels>>,
    /// How many there were when the pool was last cleared of those not in use.
    cleared: usize,
}

impl LabelPool {
    /// Lets an object that was just read hold the labels that others hold already.
    pub fn share(&mut self, facts: &mut Facts) {
        if let Some(labels) = facts.identity_labels_mut() {
            self.share_set(labels);
        }
    }

    /// The same for a set of labels.
    pub fn share_set(&mut self, labels: &mut Shared<Labels>) {
        match self.held.get(labels) {
            Some(held) => *labels = held.clone(),
            None => drop(self.held.insert(labels.clone())),
        }
        if self.held.len() > FEW.max(2 * self.cleared) {
            self.held.retain(|labels| !labels.is_alone());
            self.cleared = self.held.len();
        }
    }
}
