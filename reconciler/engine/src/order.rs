//! The order of writes. One list ([`crate::for_each_resource`]) gives it: ensure walks it down, remove
//! walks it up, removes after ensures (make before break).
//!
//! ```text
//! ensure   sysctl → … → policy₀ … policy₅ → policy-digest → ipcache → endpoint ─┐
//!                                                        policy (closing)  ◀────┘
//!          ┌────────────────────────────────────────────────┘
//!          └▶ endpoint-config → link-up → route → file
//! remove   file → route → link-up → … → sysctl
//! ```
//! Only policy rows have places of their own: edits of a policy in force are ordered within it
//! (the module `ladder`), and rows whose removal can only close go before the next pod opens, though after
//! addresses have moved to their new identities.

use crate::state::Kind;
use serde::{Deserialize, Serialize};

/// Which half of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pass {
    /// Rows are made, or made right.
    Ensure,
    /// Rows go.
    Remove,
}

/// How far failures spread within one stage's steps: the groups ([`crate::state::Resource::groups`]) of
/// which no row may have failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// Each step for itself.
    #[default]
    Open,
    /// Steps whose narrowest group has a failed row are skipped.
    Narrow,
    /// Steps of which any group but the last has a failed row are skipped.
    Wide,
}

/// A place in the order of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stage {
    /// Which half.
    pub pass: Pass,
    place: u16,
    rank: u8,
}

impl Stage {
    /// Where rows of a kind are created and updated.
    pub fn ensure(kind: Kind) -> Self {
        Self { pass: Pass::Ensure, place: place(kind), rank: 0 }
    }

    /// Where rows of a kind are removed.
    pub fn remove(kind: Kind) -> Self {
        Self { pass: Pass::Remove, place: u16::MAX - place(kind), rank: 0 }
    }

    /// Just before rows of a kind are created and updated.
    pub fn before(kind: Kind) -> Self {
        Self { pass: Pass::Ensure, place: place(kind) - 1, rank: 0 }
    }

    /// A place within this one; higher is later.
    #[must_use]
    pub fn rank(self, rank: u8) -> Self {
        Self { rank, ..self }
    }
}

/// Odd numbers, so that there is one place before each.
fn place(kind: Kind) -> u16 {
    2 * kind as u16 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ensures_walk_down_then_removes_walk_up() {
        let mut stages: Vec<Stage> = Kind::ALL.iter().map(|k| Stage::ensure(*k)).collect();
        stages.extend(Kind::ALL.iter().rev().map(|k| Stage::remove(*k)));
        assert!(stages.is_sorted());
        assert!(Stage::ensure(Kind::Endpoint) < Stage::before(Kind::EndpointConfig));
        assert!(Stage::before(Kind::EndpointConfig) < Stage::ensure(Kind::EndpointConfig));
        assert!(Stage::ensure(Kind::Policy).rank(5) < Stage::ensure(Kind::PolicyDigest));
    }
}
