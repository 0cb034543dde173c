//! An ordered map whose clone costs nothing, and of which two versions are compared at the cost of what
//! differs between them.
//!
//! ```text
//! root ─▶ branches (≤ 64) ─▶ leaves (≤ 32 entries, sorted)     each behind an Arc
//! ```
//! A change copies one leaf and what leads to it, if another version holds them too; all else goes on being
//! shared, and what is shared is equal without looking.

mod few;
mod iter;
mod mostly;
mod rarely;
#[cfg(test)]
mod tests;

pub use few::Few;
pub use iter::Iter;
pub use mostly::Mostly;
pub use rarely::Rarely;

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::{Bound, Index, RangeBounds};
use std::sync::Arc;

/// Entries of a leaf.
const LEAF: usize = 32;
/// Leaves of a branch.
const BRANCH: usize = 64;

type Leaf<K, V> = Arc<Vec<(K, V)>>;
type Branch<K, V> = Arc<Vec<Leaf<K, V>>>;

/// The map.
pub struct Map<K, V> {
    /// Branches and leaves are never empty.
    root: Option<Arc<Vec<Branch<K, V>>>>,
    len: usize,
}

impl<K, V> Clone for Map<K, V> {
    fn clone(&self) -> Self {
        Self { root: self.root.clone(), len: self.len }
    }
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self { root: None, len: 0 }
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Map<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for Map<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.shares(other) || self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Eq, V: Eq> Eq for Map<K, V> {}

/// Where an entry is; normalised: it names an entry, or the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    branch: usize,
    leaf: usize,
    entry: usize,
}

impl Place {
    const START: Self = Self { branch: 0, leaf: 0, entry: 0 };
}

impl<K, V> Map<K, V> {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether both are one in memory: equal without looking.
    pub fn shares(&self, other: &Self) -> bool {
        match (&self.root, &other.root) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    fn branches(&self) -> &[Branch<K, V>] {
        self.root.as_ref().map_or(&[], |root| root.as_slice())
    }

    fn end(&self) -> Place {
        Place { branch: self.branches().len(), ..Place::START }
    }

    fn at(&self, place: Place) -> Option<&(K, V)> {
        self.branches().get(place.branch)?.get(place.leaf)?.get(place.entry)
    }

    fn after(&self, place: Place) -> Place {
        let Some(branch) = self.branches().get(place.branch) else { return place };
        if branch.get(place.leaf).is_some_and(|leaf| place.entry + 1 < leaf.len()) {
            return Place { entry: place.entry + 1, ..place };
        }
        self.after_leaf(place)
    }

    fn after_leaf(&self, place: Place) -> Place {
        let leaves = self.branches().get(place.branch).map_or(0, |branch| branch.len());
        if place.leaf + 1 < leaves {
            Place { leaf: place.leaf + 1, entry: 0, ..place }
        } else {
            Place { branch: place.branch + 1, ..Place::START }
        }
    }

    fn before(&self, place: Place) -> Place {
        if place.entry > 0 {
            return Place { entry: place.entry - 1, ..place };
        }
        let (branch, leaf) = match (place.branch, place.leaf) {
            (branch, leaf) if leaf > 0 => (branch, leaf - 1),
            (branch, _) => {
                let branch = branch.saturating_sub(1);
                (branch, self.branches().get(branch).map_or(0, |b| b.len().saturating_sub(1)))
            }
        };
        let entries = self.branches().get(branch).and_then(|b| b.get(leaf)).map_or(0, |l| l.len());
        Place { branch, leaf, entry: entries.saturating_sub(1) }
    }

    /// All entries in the order of their keys.
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter { map: self, front: Place::START, back: self.end() }
    }

    /// All keys in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// All values in the order of their keys.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> + Clone {
        self.iter().map(|(_, value)| value)
    }
}

/// The first place in a sorted slice for which `before` does not hold.
fn first<T>(items: &[T], before: impl Fn(&T) -> bool) -> usize {
    items.partition_point(before)
}

impl<K: Ord, V> Map<K, V> {
    /// The first entry for which `before` does not hold.
    fn seek(&self, before: impl Fn(&K) -> bool) -> Place {
        let ends_before = |leaf: &Leaf<K, V>| leaf.last().is_some_and(|(key, _)| before(key));
        let branches = self.branches();
        let branch = first(branches, |branch| branch.last().is_some_and(ends_before));
        let Some(leaves) = branches.get(branch) else { return self.end() };
        let leaf = first(leaves, ends_before);
        let entry = leaves.get(leaf).map_or(0, |entries| first(entries, |(key, _)| before(key)));
        Place { branch, leaf, entry }
    }

    fn entry<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&(K, V)>
    where
        K: Borrow<Q>,
    {
        self.at(self.seek(|k| k.borrow() < key)).filter(|(k, _)| k.borrow() == key)
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entry(key).map(|(_, value)| value)
    }

    /// The key as it is held, with its value.
    pub fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        self.entry(key).map(|(key, value)| (key, value))
    }

    /// Whether there is such a key.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.entry(key).is_some()
    }

    /// Entries whose keys are within the range.
    pub fn range<Q: Ord + ?Sized>(&self, range: impl RangeBounds<Q>) -> Iter<'_, K, V>
    where
        K: Borrow<Q>,
    {
        let front = match range.start_bound() {
            Bound::Included(start) => self.seek(|key| key.borrow() < start),
            Bound::Excluded(start) => self.seek(|key| key.borrow() <= start),
            Bound::Unbounded => Place::START,
        };
        let back = match range.end_bound() {
            Bound::Included(end) => self.seek(|key| key.borrow() <= end),
            Bound::Excluded(end) => self.seek(|key| key.borrow() < end),
            Bound::Unbounded => self.end(),
        };
        Iter { map: self, front, back }
    }

    /// Calls `each` with every key whose entry is not one in memory in both, and its value before and now.
    /// The values may be equal all the same.
    pub fn changes<'a>(&'a self, now: &'a Self, mut each: impl FnMut(&'a K, Option<&'a V>, Option<&'a V>)) {
        if self.shares(now) {
            return;
        }
        let (mut b, mut n) = (Place::START, Place::START);
        loop {
            if b.entry == 0 && n.entry == 0 {
                // What is shared is stepped over, branch by branch or leaf by leaf.
                let branches = (self.branches().get(b.branch), now.branches().get(n.branch));
                if let (Some(before), Some(after)) = branches {
                    if b.leaf == 0 && n.leaf == 0 && Arc::ptr_eq(before, after) {
                        (b.branch, n.branch) = (b.branch + 1, n.branch + 1);
                        continue;
                    }
                    if let (Some(before), Some(after)) = (before.get(b.leaf), after.get(n.leaf))
                        && Arc::ptr_eq(before, after)
                    {
                        (b, n) = (self.after_leaf(b), now.after_leaf(n));
                        continue;
                    }
                }
            }
            match (self.at(b), now.at(n)) {
                (None, None) => return,
                (Some((key, value)), None) => {
                    each(key, Some(value), None);
                    b = self.after(b);
                }
                (None, Some((key, value))) => {
                    each(key, None, Some(value));
                    n = now.after(n);
                }
                (Some((key, before)), Some((other, after))) => match key.cmp(other) {
                    Ordering::Less => {
                        each(key, Some(before), None);
                        b = self.after(b);
                    }
                    Ordering::Greater => {
                        each(other, None, Some(after));
                        n = now.after(n);
                    }
                    Ordering::Equal => {
                        each(other, Some(before), Some(after));
                        (b, n) = (self.after(b), now.after(n));
                    }
                },
            }
        }
    }

    /// The keys whose values differ, with the values before and now.
    pub fn differences<'a>(&'a self, now: &'a Self) -> Vec<Difference<'a, K, V>>
    where
        V: PartialEq,
    {
        let mut out = Vec::new();
        self.changes(now, |key, before, now| {
            if before != now {
                out.push((key, before, now));
            }
        });
        out
    }
}

/// A key with its value before and now.
pub type Difference<'a, K, V> = (&'a K, Option<&'a V>, Option<&'a V>);

impl<K: Ord + Clone, V: Clone> Map<K, V> {
    /// From entries in the strict order of their keys.
    fn of_sorted(entries: impl Iterator<Item = (K, V)>) -> Self {
        let mut entries = entries.peekable();
        let (mut root, mut branch, mut len) = (Vec::new(), Vec::new(), 0);
        while entries.peek().is_some() {
            let mut leaf = Vec::with_capacity(LEAF);
            leaf.extend(entries.by_ref().take(LEAF));
            len += leaf.len();
            branch.push(Arc::new(leaf));
            if branch.len() == BRANCH {
                root.push(Arc::new(std::mem::take(&mut branch)));
            }
        }
        if !branch.is_empty() {
            root.push(Arc::new(branch));
        }
        Self { root: (!root.is_empty()).then(|| Arc::new(root)), len }
    }

    /// The value of a key, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let place = self.seek(|k| k.borrow() < key);
        self.at(place).filter(|(k, _)| k.borrow() == key)?;
        let branch = Arc::make_mut(self.root.as_mut()?).get_mut(place.branch)?;
        let leaf = Arc::make_mut(branch).get_mut(place.leaf)?;
        Some(&mut Arc::make_mut(leaf).get_mut(place.entry)?.1)
    }

    /// The value of a key, a new one if there is none, to be changed.
    pub fn get_or_default(&mut self, key: impl Into<K>) -> &mut V
    where
        V: Default,
    {
        let key = key.into();
        if !self.contains_key(&key) {
            self.insert(key.clone(), V::default());
        }
        self.get_mut(&key).expect("just set")
    }

    /// Sets a value; the old one is returned.
    pub fn insert(&mut self, key: impl Into<K>, value: impl Into<V>) -> Option<V> {
        let (key, value) = (key.into(), value.into());
        let mut place = self.seek(|k| *k < key);
        let found = self.at(place).is_some_and(|(k, _)| *k == key);
        let root = Arc::make_mut(self.root.get_or_insert_default());
        if place.branch == root.len() {
            // Behind all: into the last leaf, a new one if that is full.
            match root.last() {
                None => root.push(Arc::new(vec![Arc::new(Vec::with_capacity(LEAF / 4))])),
                Some(_) => place.branch -= 1,
            }
            let branch = &root[place.branch];
            place.leaf = branch.len() - 1;
            place.entry = branch[place.leaf].len();
        }
        let branch = Arc::make_mut(&mut root[place.branch]);
        let leaf = Arc::make_mut(&mut branch[place.leaf]);
        if found {
            return Some(std::mem::replace(&mut leaf[place.entry].1, value));
        }
        self.len += 1;
        if leaf.len() == leaf.capacity() {
            leaf.reserve_exact((LEAF / 4).max(leaf.len() / 2).min(LEAF + 1 - leaf.len()));
        }
        leaf.insert(place.entry, (key, value));
        if leaf.len() > LEAF {
            // Who appends leaves full leaves behind.
            let keep = if place.entry == LEAF { LEAF } else { leaf.len() / 2 };
            let rest = leaf.split_off(keep);
            branch.insert(place.leaf + 1, Arc::new(rest));
            if branch.len() > BRANCH {
                let keep = if place.leaf + 1 == BRANCH { BRANCH } else { branch.len() / 2 };
                let rest = branch.split_off(keep);
                root.insert(place.branch + 1, Arc::new(rest));
            }
        }
        None
    }

    /// Removes a key.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let place = self.seek(|k| k.borrow() < key);
        self.at(place).filter(|(k, _)| k.borrow() == key)?;
        let root = Arc::make_mut(self.root.as_mut()?);
        let branch = Arc::make_mut(root.get_mut(place.branch)?);
        let leaf = Arc::make_mut(branch.get_mut(place.leaf)?);
        let (_, value) = leaf.remove(place.entry);
        self.len -= 1;
        if leaf.is_empty() {
            branch.remove(place.leaf);
        } else if leaf.len() < LEAF / 4 {
            merge(branch, place.leaf, LEAF);
        }
        if branch.is_empty() {
            root.remove(place.branch);
        } else if branch.len() < BRANCH / 4 {
            merge(root, place.branch, BRANCH);
        }
        if root.is_empty() {
            self.root = None;
        }
        Some(value)
    }

    /// Keeps the entries for which `keep` holds.
    pub fn retain(&mut self, keep: impl Fn(&K, &V) -> bool) {
        let gone: Vec<K> = self.iter().filter(|(k, v)| !keep(k, v)).map(|(k, _)| k.clone()).collect();
        if gone.len() * 4 > self.len {
            *self = self.iter().filter(|(k, v)| keep(k, v)).map(|(k, v)| (k.clone(), v.clone())).collect();
        } else {
            for key in gone {
                self.remove(&key);
            }
        }
    }

    /// Sets (`Some`) or removes (`None`) many keys, each named once, in order. One by one where they are few,
    /// so that the rest goes on being shared; in one go where they are many.
    pub fn edit(&mut self, edits: Vec<(K, Option<V>)>) {
        debug_assert!(edits.is_sorted_by(|(a, _), (b, _)| a < b));
        if self.is_empty() {
            *self = Self::of_sorted(edits.into_iter().filter_map(|(key, value)| Some((key, value?))));
        } else if edits.len() * 8 < self.len {
            for (key, value) in edits {
                match value {
                    Some(value) => drop(self.insert(key, value)),
                    None => drop(self.remove(&key)),
                }
            }
        } else {
            let old = std::mem::take(self);
            let mut old = old.iter().peekable();
            let mut entries = Vec::new();
            for (key, value) in edits {
                while let Some((k, v)) = old.next_if(|(k, _)| **k < key) {
                    entries.push((k.clone(), v.clone()));
                }
                old.next_if(|(k, _)| **k == key);
                entries.extend(value.map(|value| (key, value)));
            }
            entries.extend(old.map(|(k, v)| (k.clone(), v.clone())));
            *self = Self::of_sorted(entries.into_iter());
        }
    }
}

/// Puts what is in one node too few into its neighbour, if it fits there.
fn merge<T: Clone>(nodes: &mut Vec<Arc<Vec<T>>>, at: usize, most: usize) {
    let left = if at + 1 < nodes.len() { at } else { at.saturating_sub(1) };
    let right = left + 1;
    if right < nodes.len() && nodes[left].len() + nodes[right].len() <= most {
        let moved = nodes.remove(right);
        Arc::make_mut(&mut nodes[left]).extend(Arc::unwrap_or_clone(moved));
    }
}

/// Entries in the order of their keys, of those with the same key the last.
fn in_order<K: Ord, V>(entries: impl IntoIterator<Item = (K, V)>) -> Vec<(K, V)> {
    let mut entries: Vec<(K, V)> = entries.into_iter().collect();
    if !entries.is_sorted_by(|(a, _), (b, _)| a < b) {
        entries.reverse();
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        entries.dedup_by(|(a, _), (b, _)| a == b);
    }
    entries
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for Map<K, V> {
    /// Where a key comes twice, the last one counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self::of_sorted(in_order(entries).into_iter())
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for Map<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord + Borrow<Q>, Q: Ord + ?Sized, V> Index<&Q> for Map<K, V> {
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("the key is there")
    }
}

impl<'a, K, V> IntoIterator for &'a Map<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

/// An ordered set with the same properties.
pub type Set<T> = Map<T, ()>;

impl<T: Ord + Clone> Set<T> {
    /// One more.
    pub fn add(&mut self, item: impl Into<T>) {
        self.insert(item, ());
    }
}
