//! `[cluster]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The cluster this node belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    /// Name of the cluster: at most 32 lower-case letters, digits and `-`, beginning and ending with a
    /// letter or digit. Part of every pod's identity (`io.cilium.k8s.policy.cluster`).
    #[schemars(extend("x-impact" = "disruptive"))]
    pub name: String,
}

impl Default for Cluster {
    fn default() -> Self {
        Self { name: "default".into() }
    }
}
