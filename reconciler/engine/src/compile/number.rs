//! Numbers from content: the same content gets the same number on every node and after every restart,
//! without a memory. Where two contents meet on one number, probing goes upward past those taken.

use crate::state::Digest;
use crate::world::Labels;
use sha2::{Digest as _, Sha256};

/// Hash of some content: its first 64 bits place a number, its first 128 recognise it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ContentHash([u8; 32]);

impl ContentHash {
    /// Hash of these parts in this order. Each is hashed with its length, so that no part can pose as two.
    pub(super) fn of<I>(parts: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<[u8]>,
    {
        let mut sha = Sha256::new();
        for part in parts {
            let bytes = part.as_ref();
            sha.update((bytes.len() as u64).to_le_bytes());
            sha.update(bytes);
        }
        Self(sha.finalize().into())
    }

    /// Hash of labels: what identity numbers are computed from, the same on all nodes.
    pub(super) fn of_labels(labels: &Labels) -> Self {
        Self::of(labels.sorted_lines())
    }

    /// The first 64 bits as a number.
    pub(super) fn place(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// The first 128 bits.
    pub(super) fn digest(&self) -> Digest {
        let mut digest = [0; 16];
        digest.copy_from_slice(&self.0[..16]);
        Digest(digest)
    }
}

/// How many numbers there are for policies, backends and lists. Few in the tests of this crate: there they
/// collide all the time.
pub(super) const NUMBERS: u32 = if cfg!(test) { 127 } else { u32::MAX };

/// The first number from `first` on, of `count` numbers and beginning where the hash says, that is free.
pub(super) fn probe(hash: &ContentHash, first: u32, count: u32, free: impl Fn(u32) -> bool) -> Option<u32> {
    let start = u32::try_from(hash.place() % u64::from(count)).expect("a remainder of a u32 is a u32");
    (0..count)
        .map(|step| {
            first + u32::try_from((u64::from(start) + u64::from(step)) % u64::from(count)).expect("as above")
        })
        .find(|number| free(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probing_passes_taken_numbers_and_wraps() {
        let hash = ContentHash::of(["x"]);
        let start = probe(&hash, 256, 10, |_| true).unwrap();
        let next = probe(&hash, 256, 10, |n| n != start).unwrap();
        assert_eq!((next - 256) % 10, (start - 256 + 1) % 10);
        assert_eq!(probe(&hash, 256, 10, |n| n == 256), Some(256));
        assert_eq!(probe(&hash, 256, 10, |_| false), None);
    }

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(ContentHash::of(["ab", "c"]), ContentHash::of(["a", "bc"]));
        assert_ne!(ContentHash::of(["a\nb"]), ContentHash::of(["a", "b"]));
    }
}
