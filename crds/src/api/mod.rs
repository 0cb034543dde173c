//! The objects as users write them. Names, nesting and types are those of the API; nothing here decides.
//!
//! Policies, Services, EndpointSlices and `cilium.io` kinds are strict (unknown fields are findings). Other core
//! kinds (Pod, Node, …) name only the fields that are read, so that `kubectl get -o yaml` output can be pasted;
//! unknown ones are ignored.

pub mod cilium;
pub mod core;
mod int_or_string;
pub mod l7;
pub mod meta;
mod named;
pub mod network_policy;
pub mod policy;
mod selector;
pub mod service;
pub mod tiers;

pub use int_or_string::IntOrString;
pub use meta::ObjectMeta;
pub use named::{EntityName, PolicyType};
pub use selector::{LabelSelector, LabelSelectorRequirement};
