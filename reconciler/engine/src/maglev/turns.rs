//! Whose turn it is, by weights.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

/// Turns without end. Everyone has a first one, so that nobody of any weight is left out; the next come at
/// the times 3/2, 5/2, 7/2 … divided by the weight, which rounds shares to the nearest slot. Equal weights
/// take turns in order.
pub(super) struct Turns {
    heap: BinaryHeap<Turn>,
}

/// Someone's next turn.
struct Turn {
    /// Twice its time, before it is divided by the weight.
    time: u64,
    weight: u64,
    who: usize,
}

impl Turns {
    /// Turns of parties with these weights, none of them 0.
    pub(super) fn new(weights: impl Iterator<Item = u16>) -> Self {
        let first = |(who, weight): (usize, u16)| Turn { time: 0, weight: u64::from(weight), who };
        Self { heap: weights.enumerate().map(first).collect() }
    }
}

impl Iterator for Turns {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let mut turn = self.heap.peek_mut()?;
        let who = turn.who;
        turn.time += if turn.time == 0 { 3 } else { 2 };
        drop::<PeekMut<'_, Turn>>(turn);
        Some(who)
    }
}

impl Ord for Turn {
    /// The greatest is the next to come. Times stay below 2^19 and weights below 2^16: products fit.
    fn cmp(&self, other: &Self) -> Ordering {
        let time = |a: &Self, b: &Self| a.time * b.weight;
        time(other, self).cmp(&time(self, other)).then(other.who.cmp(&self.who))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Turn {}
