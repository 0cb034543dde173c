//! A policy oracle: what Kubernetes' and Cilium's policies say about a packet, evaluated naively, straight
//! from the API documentation, on untyped objects.
//!
//! ```text
//! objects (serde_json::Value) ─ World::new ─▶ World ─┐
//!                                       Packet ──────┴ verdict ─▶ Verdict { egress, ingress, matched }
//! one object ─ validate ─▶ findings, each with a JSON path
//! ```
//!
//! It shares no code, types or ideas with the engine; that is its whole worth: where the two disagree, one
//! of them has misread the documentation. It must never depend on a crate of this workspace, and is never
//! made faster by being made clever.
//!
//! Not evaluated: everything above layer 4, names (`toFQDNs`, `domainNames`), TLS, authentication, groups of
//! cloud providers. Such a rule grants nothing and has a finding of kind [`Kind::Unsupported`].
//!
//! # Readings
//!
//! Where the documentation leaves a choice, this is what is read here:
//!
//! * An element that names no peers and no ports (`ingress: [{}]`) matches nothing; it makes the list not
//!   empty, so it means default deny. The same of a deny list. A list of peers that is there and empty is
//!   nobody. A `toPorts` item without ports, and an `icmps` item without fields, match nothing.
//! * `protocol: ANY` (or none) with a number or name is TCP, UDP and SCTP; with port `"0"`, every packet.
//! * An address outside carries both `reserved:world` and its family's label; an API server that is no node
//!   carries these and `reserved:kube-apiserver`, and CIDR rules are for it.
//! * `cidr_matches_nodes` is for nodes other than the subject's own. `networks` of ClusterNetworkPolicy match
//!   every address, of pods and nodes too, as its API says.
//! * A CIDR group selector selects groups by their labels, and their prefixes are united.
//! * Default deny ends the Normal tier: Baseline rules are not asked (ClusterNetworkPolicy: NetworkPolicy
//!   "always makes a final decision for selected pods"). `enforcement: always` is asked after Baseline.
//! * `fromNodes` and `toNodes` are other nodes only; `nodes` of ClusterNetworkPolicy all nodes.
//! * Selectors see what the default label filter leaves of pods' and namespaces' labels.
//!
//! What an invalid object does is this project's decision: `fails_closed` holds all of it.
#![forbid(unsafe_code)]

mod config;
mod fails_closed;
mod labels;
mod packet;
mod peer;
mod policies;
mod ports;
mod read;
mod rule;
mod seen;
mod selector;
mod verdict;
mod world;
pub mod worlds;

pub use config::{AllowLocalhost, Config, Enforcement, Invalid};
pub use packet::{Family, Packet, Party, Protocol, Reserved};
pub use policies::validate;
pub use read::{Finding, Kind};
pub use rule::{Action, Direction, RuleId};
pub use verdict::{Decision, Matched, Verdict, verdict};
pub use world::{CLUSTER_ANNOTATION, World};
