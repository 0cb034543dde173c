//! Walking a map in order.

use super::{Map, Place};

/// Entries in order.
pub struct Iter<'a, K, V> {
    pub(super) map: &'a Map<K, V>,
    pub(super) front: Place,
    pub(super) back: Place,
}

impl<K, V> Clone for Iter<'_, K, V> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<K, V> Iter<'_, K, V> {
    fn is_done(&self) -> bool {
        let order = |p: &Place| (p.branch, p.leaf, p.entry);
        order(&self.front) >= order(&self.back)
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done() {
            return None;
        }
        let (key, value) = self.map.at(self.front)?;
        self.front = self.map.after(self.front);
        Some((key, value))
    }
}

impl<K, V> DoubleEndedIterator for Iter<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.is_done() {
            return None;
        }
        self.back = self.map.before(self.back);
        self.map.at(self.back).map(|(key, value)| (key, value))
    }
}
