//! What others say: which number stands for which labels. Kept by number; a number is settled anew when
//! somebody speaks of it, or stops.

use crate::compile::rows::{Edits, warning};
use crate::map::{Map, Mostly, Set};
use crate::problem::Problem;
use crate::shared::Shared;
use crate::state::{IdentityId, Origin};
use crate::world::{IdentityClaim, Labels, Name, RemoteEndpoint, World};
use cilium_abi::identity as number;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A claim that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) labels: Shared<Labels>,
    /// Some node published it, and can take another number.
    pub(super) movable: bool,
}

/// How many say it.
#[derive(Clone, Copy, Debug, Default)]
struct Voices {
    /// CiliumIdentities, and those of them that nobody published.
    claimed: usize,
    claimed_fixed: usize,
    /// CiliumEndpoints, and those of them that nobody published.
    told: usize,
    told_fixed: usize,
}

/// All that is said of a number.
#[derive(Clone, Debug, Default)]
struct Said {
    /// How many CiliumIdentities speak of it: while there is one, CiliumEndpoints do not count.
    claims: usize,
    labels: Vec<(Shared<Labels>, Voices)>,
    /// CiliumEndpoints that cannot be right.
    refused: BTreeMap<Name, Shared<Problem>>,
}

/// What of it counts.
#[derive(Clone, Debug, Default, PartialEq)]
struct Settled {
    claims: Vec<Claim>,
    problems: Vec<Shared<Problem>>,
}

impl Said {
    fn settled(&self) -> Settled {
        let counts = |(labels, voices): &(Shared<Labels>, Voices)| {
            let (said, fixed) = match self.claims {
                0 => (voices.told, voices.told_fixed),
                _ => (voices.claimed, voices.claimed_fixed),
            };
            (said > 0).then(|| Claim { labels: labels.clone(), movable: fixed == 0 })
        };
        let mut claims: Vec<Claim> = self.labels.iter().filter_map(counts).collect();
        claims.shrink_to_fit();
        claims.sort_by(|a, b| a.labels.cmp(&b.labels));
        let refused = self.refused.values().filter(|_| self.claims == 0);
        Settled { claims, problems: refused.cloned().collect() }
    }

    fn voices(&mut self, labels: &Shared<Labels>) -> &mut Voices {
        let at = self.labels.iter().position(|(known, _)| known == labels).unwrap_or_else(|| {
            // Most numbers stand for one.
            self.labels.reserve_exact(1);
            self.labels.push((labels.clone(), Voices::default()));
            self.labels.len() - 1
        });
        &mut self.labels[at].1
    }
}

/// Others' claims, found by both of their sides.
#[derive(Debug, Default)]
pub(super) struct Claims {
    claims: Set<Shared<IdentityClaim>>,
    told: Map<Name, Shared<RemoteEndpoint>>,
    by_number: HashMap<IdentityId, (Said, Settled)>,
    /// Sorted; mostly one.
    by_labels: HashMap<Shared<Labels>, Mostly<IdentityId>>,
}

/// Whether labels under a number are those of endpoints.
enum Judged {
    Good,
    /// A reserved number with its reserved label: known without being told.
    Known,
    Bad,
}

fn judge(id: IdentityId, labels: &Labels) -> Judged {
    let reserved = || labels.0.keys().any(|l| l.source == "reserved");
    let in_scope = (number::CLUSTER_MIN..=number::CLUSTER_MAX).contains(&id.0);
    match (in_scope, labels.0.keys().any(|l| l.source == "reserved" || l.source == "cidr")) {
        (true, false) => Judged::Good,
        _ if id.0 < number::CLUSTER_MIN && reserved() => Judged::Known,
        _ => Judged::Bad,
    }
}

fn refusal(id: IdentityId, labels: &Labels, origin: &Origin) -> Shared<Problem> {
    warning(
        origin,
        format!("identity {id} with labels {labels} is no identity of endpoints, and selects nothing"),
        "numbers 256 to 65535, and labels but `reserved:` and `cidr:` ones",
    )
}

impl Claims {
    /// The claims on a number that count.
    pub(super) fn on(&self, id: IdentityId) -> &[Claim] {
        self.by_number.get(&id).map_or(&[], |(_, settled)| &settled.claims)
    }

    /// The numbers claimed for labels.
    pub(super) fn of(&self, labels: &Shared<Labels>) -> impl Iterator<Item = IdentityId> + '_ {
        self.by_labels.get(labels).into_iter().flatten().copied()
    }

    /// Takes over what the world says now; the numbers of which other things count than before.
    pub(super) fn update(&mut self, world: &World, edits: &mut Edits) -> BTreeSet<IdentityId> {
        let mut spoken_of: BTreeSet<IdentityId> = BTreeSet::new();
        let before = std::mem::replace(&mut self.claims, world.claims.clone());
        before.changes(&world.claims, |claim, before, now| {
            if before.is_some() != now.is_some() {
                spoken_of.insert(claim.number);
                self.claim(claim, now.is_some(), edits);
            }
        });
        let before = std::mem::replace(&mut self.told, world.remote_endpoints.clone());
        for (name, before, now) in before.differences(&world.remote_endpoints) {
            for (endpoint, joins) in [(before, false), (now, true)] {
                if let Some(endpoint) = endpoint.filter(|e| !e.labels.0.is_empty()) {
                    spoken_of.insert(endpoint.identity);
                    self.tell(name, endpoint, joins);
                }
            }
        }
        let settled = |id: &IdentityId| self.settle(*id, edits);
        spoken_of.into_iter().filter(settled).collect()
    }

    fn claim(&mut self, claim: &IdentityClaim, joins: bool, edits: &mut Edits) {
        let (said, _) = self.by_number.entry(claim.number).or_default();
        count(&mut said.claims, joins);
        match judge(claim.number, &claim.labels) {
            Judged::Known => {}
            Judged::Bad => {
                let origin = Origin {
                    object: format!("CiliumIdentity {}", claim.number),
                    place: claim.place.to_string(),
                    rule: String::new(),
                };
                let problem = vec![refusal(claim.number, &claim.labels, &origin)];
                match joins {
                    true => edits.tell(&mut Vec::new(), problem),
                    false => edits.tell(&mut problem.clone(), Vec::new()),
                }
            }
            Judged::Good => {
                let voices = said.voices(&claim.labels);
                count(&mut voices.claimed, joins);
                if claim.published_by.is_none() {
                    count(&mut voices.claimed_fixed, joins);
                }
            }
        }
    }

    fn tell(&mut self, name: &Name, endpoint: &RemoteEndpoint, joins: bool) {
        let (said, _) = self.by_number.entry(endpoint.identity).or_default();
        match judge(endpoint.identity, &endpoint.labels) {
            Judged::Known => {}
            Judged::Bad => {
                let origin = Origin {
                    object: format!("CiliumEndpoint {name}"),
                    place: endpoint.place.to_string(),
                    rule: String::new(),
                };
                match joins {
                    true => {
                        let problem = refusal(endpoint.identity, &endpoint.labels, &origin);
                        said.refused.insert(name.clone(), problem);
                    }
                    false => drop(said.refused.remove(name)),
                }
            }
            Judged::Good => {
                let voices = said.voices(&endpoint.labels);
                count(&mut voices.told, joins);
                if endpoint.node_name.is_none() {
                    count(&mut voices.told_fixed, joins);
                }
            }
        }
    }

    /// Whether other things count of the number than before.
    fn settle(&mut self, id: IdentityId, edits: &mut Edits) -> bool {
        let Some((said, settled)) = self.by_number.get_mut(&id) else { return false };
        said.labels.retain(|(_, voices)| voices.claimed > 0 || voices.told > 0);
        let now = said.settled();
        if *settled == now {
            return false;
        }
        edits.tell(&mut settled.problems, now.problems);
        if settled.claims == now.claims {
            return false;
        }
        let before = std::mem::replace(&mut settled.claims, now.claims);
        for claim in &settled.claims {
            let ids = self.by_labels.entry(claim.labels.clone()).or_default();
            *ids = ids.iter().copied().chain([id]).collect::<BTreeSet<_>>().into_iter().collect();
        }
        for gone in before.iter().filter(|gone| settled.claims.iter().all(|c| c.labels != gone.labels)) {
            if let Some(ids) = self.by_labels.get_mut(&gone.labels) {
                *ids = ids.iter().copied().filter(|other| *other != id).collect();
                if ids.is_empty() {
                    self.by_labels.remove(&gone.labels);
                }
            }
        }
        if said.claims == 0 && said.labels.is_empty() && said.refused.is_empty() {
            self.by_number.remove(&id);
        }
        true
    }
}

fn count(voices: &mut usize, joins: bool) {
    *voices = if joins { *voices + 1 } else { voices.saturating_sub(1) };
}
