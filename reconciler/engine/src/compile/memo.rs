//! Results of stages, kept for the next compilation: used again when everything the stage reads is the
//! same, and else made anew, whole; never mended.
//!
//! ```text
//! inputs ──hash──▶ the same as last time? ── yes ─▶ the result kept (shared, not copied)
//!    │                                    └─ no ──▶ stage(inputs) ─▶ kept
//!    └── the one value a stage gets to see: what is not hashed cannot be read
//! ```
//! Of the inputs only a hash is kept (SipHash with a key of this process's own, so that no object can be
//! made to look like another): the world itself is too large to hold twice.

use super::identity::Claimed;
use super::ipcache::Entries;
use super::loadbalancer::Served;
use super::rows::Rows;
use super::shared::Shared;
use std::hash::{BuildHasher, Hash, RandomState};

/// What a stage makes: rows, and what else it tells.
#[derive(Clone, Debug)]
pub(super) struct Part<T> {
    pub(super) rows: Rows,
    pub(super) told: T,
}

/// The last result of a stage.
#[derive(Clone, Debug)]
pub(super) struct Kept<T> {
    of: u64,
    part: Part<T>,
}

/// All results kept. Dropping them costs time, and changes nothing.
#[derive(Debug, Default)]
pub(super) struct Memo {
    key: RandomState,
    pub(super) claims: Option<Kept<Shared<Claimed>>>,
    pub(super) services: Option<Kept<Served>>,
    pub(super) addresses: Option<Kept<Entries>>,
}

/// Which result of a [`Memo`].
pub(super) type Slot<T> = fn(&mut Memo) -> &mut Option<Kept<T>>;

/// The stage's result for these inputs: the one kept if they are the same, else a new one.
pub(super) fn recall<I: Hash, T: Clone>(
    memo: Option<&mut Memo>,
    slot: Slot<T>,
    inputs: &I,
    stage: impl FnOnce(&I) -> Part<T>,
) -> Part<T> {
    let Some(memo) = memo else { return stage(inputs) };
    let of = memo.key.hash_one(inputs);
    let kept = slot(memo);
    if let Some(kept) = kept.as_ref().filter(|kept| kept.of == of) {
        return kept.part.clone();
    }
    // The old result goes before the new one comes: never two of them in memory.
    *kept = None;
    let part = stage(inputs);
    *kept = Some(Kept { of, part: part.clone() });
    part
}
