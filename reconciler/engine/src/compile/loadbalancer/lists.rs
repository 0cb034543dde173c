//! Numbers of lists. A list's number is made of its whole content: a changed list is another list beside
//! the old one, and the frontend row flips from one to the other.

use crate::compile::book::IdBook;
use crate::compile::number::{ContentHash, NUMBERS, probe};
use crate::state::{BackendId, FrontendKey, ListId};
use std::collections::{BTreeMap, HashSet};

/// How many numbers from its own place on a list is looked for.
const NEAR: u32 = 16;

/// Which numbers are taken.
pub(super) struct Lists<'b> {
    book: &'b IdBook,
    /// Every list of the book is some frontend's, but these.
    freed: Option<HashSet<ListId>>,
    taken: HashSet<ListId>,
}

impl<'b> Lists<'b> {
    /// Of the lists that stand, none need be wanted (`freed`: none), or all but those freed.
    pub(super) fn new(book: &'b IdBook, freed: Option<HashSet<ListId>>) -> Self {
        Self { book, freed, taken: HashSet::new() }
    }

    fn is_taken(&self, list: ListId) -> bool {
        let others =
            |freed: &HashSet<ListId>| !freed.contains(&list) && self.book.list(list).next().is_some();
        self.taken.contains(&list) || self.freed.as_ref().is_some_and(others)
    }

    fn stands(&self, list: ListId, slots: &[BackendId]) -> bool {
        let wanted = (0..).zip(slots.iter().copied());
        self.book.list(list).eq(wanted)
    }

    /// Numbers of lists with these contents, in the order of the frontends.
    pub(super) fn number(
        &mut self,
        wanted: &BTreeMap<&FrontendKey, Vec<BackendId>>,
    ) -> BTreeMap<FrontendKey, ListId> {
        let mut numbers = BTreeMap::new();
        // First those that keep theirs, so that no other takes it.
        for (key, slots) in wanted {
            let list = match self.book.frontends.find(key) {
                _ if slots.is_empty() => ListId(0),
                Some(row) if row.list.0 != 0 && !self.is_taken(row.list) && self.stands(row.list, slots) => {
                    row.list
                }
                Some(_) | None => continue,
            };
            self.taken.insert(list);
            numbers.insert((*key).clone(), list);
        }
        for (key, slots) in wanted {
            if !numbers.contains_key(*key) {
                let list = self.find(key, slots);
                self.taken.insert(list);
                numbers.insert((*key).clone(), list);
            }
        }
        numbers
    }

    fn find(&self, key: &FrontendKey, slots: &[BackendId]) -> ListId {
        let parts = std::iter::once(key.to_string()).chain(slots.iter().map(BackendId::to_string));
        let hash = ContentHash::of(parts);
        let first = probe(&hash, 1, NUMBERS, |_| true).expect("any number will do");
        // A list that stands whole is used where it is, also when a number nearer to its place has become
        // free since: it was written by one who was killed before the frontend could flip to it.
        let near = (0..NEAR).filter_map(|step| first.checked_add(step)).map(ListId);
        let whole = near.into_iter().find(|list| !self.is_taken(*list) && self.stands(*list, slots));
        // Part of a list is as good as all of it: the rest was being written, or is being removed.
        let wanted = |slot: u32| usize::try_from(slot).ok().and_then(|at| slots.get(at));
        let part = |list: ListId| {
            self.book.list(list).all(|(slot, id)| wanted(slot).is_none_or(|other| *other == id))
        };
        let free = |n: u32| !self.is_taken(ListId(n)) && part(ListId(n));
        whole.unwrap_or_else(|| {
            ListId(probe(&hash, 1, NUMBERS, free).expect("fewer lists than 2^32 - 1 fit in memory"))
        })
    }
}
