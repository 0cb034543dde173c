//! Network namespaces, clusters of real agents in them, and probes with real packets.
//!
//! Everything made here carries a name with this process's id and is removed on drop, also when a test
//! fails. Root is needed.

pub mod capture;
pub mod cgroup;
pub mod cluster;
pub mod cni;
pub mod floor;
pub mod flow;
pub mod footprint;
pub mod l1;
pub mod matrix;
pub mod netns;
pub mod policy_cases;
pub mod probe;
pub mod services;
pub mod staging;
pub mod standalone;

pub use cgroup::Cgroup;
pub use cluster::{Cluster, Mode, Node, Options, Pod};
pub use netns::Netns;
pub use services::Service;
