//! Numbers that only this node gives.

use crate::compile::book::IdBook;
use crate::compile::number::{ContentHash, probe};
use crate::state::{Digest, IdentityId};
use std::collections::{BTreeMap, BTreeSet};

/// Numbers of a scope for some contents, in whichever order: those they had, else the nearest free ones. A content is
/// left out if there is none.
pub(super) fn assign(
    contents: impl Iterator<Item = ContentHash>,
    scope: u32,
    count: u32,
    book: &IdBook,
) -> BTreeMap<ContentHash, IdentityId> {
    let mut held: BTreeMap<Digest, IdentityId> = BTreeMap::new();
    for (id, entry) in book.identities.range(IdentityId(scope)..).take_while(|(id, _)| id.0 - scope < count) {
        held.entry(entry.row).or_insert(*id);
    }
    let (kept, fresh): (Vec<_>, Vec<_>) =
        contents.map(|hash| (hash, held.get(&hash.digest()).copied())).partition(|(_, id)| id.is_some());
    let mut numbers: BTreeMap<ContentHash, IdentityId> =
        kept.into_iter().filter_map(|(hash, id)| Some((hash, id?))).collect();
    let mut taken: BTreeSet<IdentityId> = numbers.values().copied().collect();
    let fresh: BTreeSet<ContentHash> = fresh.into_iter().map(|(hash, _)| hash).collect();
    for hash in fresh {
        let free = |n: u32| !taken.contains(&IdentityId(n)) && book.identities.find(&IdentityId(n)).is_none();
        // The first number of a scope is nobody's.
        if let Some(n) = probe(&hash, scope + 1, count - 1, free) {
            taken.insert(IdentityId(n));
            numbers.insert(hash, IdentityId(n));
        }
    }
    numbers
}
