//! The engine, asked the oracle's questions: a draft's objects go the way of real ones (read, checked, lowered,
//! compiled) on each of its nodes, and a packet's verdict is looked up in the rows, as the programs do.
//!
//! ```text
//! Draft ─ objects as YAML ─ crds ─▶ World of a node ─ compile ─▶ rows ─┐
//!                                                        Packet ───────┴ verdict ─▶ passes, or a drop reason
//! ```
#![forbid(unsafe_code)]

mod rows;
mod site;

pub use rows::{Outcome, Side};
pub use site::{NODES, enforced};

use cilium_tests_oracle::worlds::Draft;
use cilium_tests_oracle::{Direction, Packet};

/// A draft, compiled on all its nodes.
#[derive(Debug)]
pub struct Engine {
    sides: Vec<Side>,
}

impl Engine {
    /// Compiles a draft.
    pub fn of(draft: &Draft) -> Self {
        Self { sides: NODES.iter().map(|node| Side::of(draft, node)).collect() }
    }

    /// What the rows at one end of a packet say; `None`: there is no endpoint of any node there.
    pub fn verdict(&self, packet: &Packet, direction: Direction) -> Option<Outcome> {
        self.sides.iter().find_map(|side| side.verdict(packet, direction))
    }
}
