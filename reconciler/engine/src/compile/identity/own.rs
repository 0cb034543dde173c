//! Numbers for label sets that this node must have one for: those of its endpoints, and of pods elsewhere
//! that nobody speaks for.

use super::claims::{Claim, Claims};
use crate::compile::book::IdBook;
use crate::compile::number::{ContentHash, probe};
use crate::compile::rows::error;
use crate::problem::Problem;
use crate::shared::Shared;
use crate::state::{Digest, IdentityId, Origin};
use crate::world::{Labels, Name};
use cilium_abi::identity as number;
use std::collections::{BTreeMap, BTreeSet};

const CLUSTER_COUNT: u32 = number::CLUSTER_MAX - number::CLUSTER_MIN + 1;

/// Who must have a number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bearer {
    /// An endpoint of this node.
    Local(u16),
    /// A pod elsewhere.
    Foreign(Name),
}

/// Labels with the hash their number is made of.
pub(super) type Hashed = (ContentHash, Shared<Labels>);

/// Label sets that must have a number, in the order in which they get one, and who bears them.
pub(super) type Wanted = BTreeMap<Hashed, BTreeMap<Bearer, Shared<Origin>>>;

/// The numbers, and what is wrong.
pub(super) fn number(
    wanted: &Wanted,
    claims: &Claims,
    book: &IdBook,
) -> (BTreeMap<Hashed, IdentityId>, Vec<Shared<Problem>>) {
    let mut kept: BTreeMap<Digest, Vec<IdentityId>> = BTreeMap::new();
    for (id, entry) in
        book.identities.range(IdentityId(number::CLUSTER_MIN)..=IdentityId(number::CLUSTER_MAX))
    {
        kept.entry(entry.row).or_default().push(*id);
    }
    let mut given = BTreeMap::new();
    let mut taken: BTreeSet<IdentityId> = BTreeSet::new();
    // First those that keep a number, so that no newcomer takes it.
    for hashed @ (hash, labels) in wanted.keys() {
        let mine = kept.get(&hash.digest()).into_iter().flatten().copied();
        let stands = |id: &IdentityId| !taken.contains(id) && may_stay(claims.on(*id), hash, labels);
        if let Some(id) = mine.chain(claims.of(labels)).find(stands) {
            taken.insert(id);
            given.insert(hashed.clone(), id);
        }
    }
    let mut problems = Vec::new();
    for (hashed @ (hash, labels), bearers) in wanted {
        if given.contains_key(hashed) {
            continue;
        }
        let free = |n: u32| {
            let id = IdentityId(n);
            let others = claims.on(id).iter().any(|claim| claim.labels != *labels);
            let mine = book.identities.find(&id).is_some_and(|digest| *digest != hash.digest());
            !others && !mine && !taken.contains(&id)
        };
        match (probe(hash, number::CLUSTER_MIN, CLUSTER_COUNT, free), bearers.values().next()) {
            (Some(n), _) => {
                taken.insert(IdentityId(n));
                given.insert(hashed.clone(), IdentityId(n));
            }
            (None, None) => {}
            (None, Some(origin)) => problems.push(error(
                origin,
                format!(
                    "no identity number is free: the endpoint keeps {}, as if it had no labels",
                    number::INIT
                ),
                "fewer distinct label sets: leave out labels that differ between equal pods",
            )),
        }
    }
    (given, problems)
}

/// Whether these labels may keep a number: no other claim on it that comes before.
fn may_stay(claims: &[Claim], hash: &ContentHash, labels: &Shared<Labels>) -> bool {
    claims.iter().filter(|claim| claim.labels != *labels).all(|claim| {
        let place = ContentHash::of_labels(&claim.labels).place();
        claim.movable && (place, &claim.labels) > (hash.place(), labels)
    })
}
