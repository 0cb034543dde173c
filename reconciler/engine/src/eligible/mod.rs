//! Which backends a client's new connections may go to: fitness, traffic policies and topology, as kube-proxy
//! has them (`pkg/proxy/topology.go`, KEP-1669 terminating endpoints, KEP-2433 hints, KEP-3015 and KEP-4444
//! traffic distribution). Pure; numbers and rows are `compile`'s matter.
//!
//! ```text
//! slices ─ Slices::backends ─┐                  ┌─ policy(service, frontend, client)
//!                            ├─▶ [Backend] ─▶ choose ─▶ those for new connections
//! pods ─── of_pod ───────────┘   (all that       └─ Here { node, zone }
//!                                 keep connections)
//! ```

mod choose;
mod gather;
#[cfg(test)]
mod tests;

pub use choose::{Client, Here, choose, policy, ready_here};
pub use gather::{Nodes, PodPlace, Slices, merge, of_pod};

use std::net::IpAddr;

/// The weight of backends that have none of their own (upstream's default).
pub const DEFAULT_WEIGHT: u16 = 100;

/// What a backend is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fitness {
    /// Weight 0: keeps its connections and gets no new ones, also if there is no other backend.
    Maintenance,
    /// It ends, and still serves: keeps its connections, and gets new ones only if there is no other.
    Terminating,
    /// Gets new connections.
    Ready,
}

/// A backend of a Service's port: all that are told keep the connections they have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend<'w> {
    /// Address.
    pub addr: IpAddr,
    /// Port.
    pub port: u16,
    /// What it is good for.
    pub fitness: Fitness,
    /// Its share among others, not 0.
    pub weight: u16,
    /// The node it is on, if known.
    pub node: Option<&'w str>,
    /// Zones it is meant for; empty: nothing is said.
    pub zones: &'w [String],
    /// Nodes it is meant for; empty: nothing is said.
    pub nodes: &'w [String],
}
