//! Label sets held once: thousands of endpoints share an identity, and each tells all of its labels.

use super::Facts;
use cilium_engine::shared::Shared;
use cilium_engine::world::Labels;
use std::collections::HashSet;

/// How many label sets there are before those nobody holds any more are looked for.
const FEW: usize = 1024;

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
        let labels = match facts {
            Facts::Claim(claim) => &mut claim.labels,
            Facts::Endpoint(endpoint) => &mut endpoint.labels,
            Facts::Nothing
            | Facts::Namespace(_)
            | Facts::Node(_)
            | Facts::CiliumNode(_)
            | Facts::Pod(_)
            | Facts::Service(_)
            | Facts::Slice(_)
            | Facts::Policy(_) => return,
        };
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
