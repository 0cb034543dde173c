//! `[policy]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When a pod is closed to what no rule allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Enforcement {
    /// In each direction in which some policy selects it.
    #[default]
    Default,
    /// Always, also without a policy.
    Always,
    /// Never: policies are read and reported, not enforced.
    Never,
}

/// Whether the node may always reach its own pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AllowLocalhost {
    /// As `always`.
    #[default]
    Auto,
    /// Yes: kubelet's probes reach a pod under default deny. What a rule denies the node is denied.
    Always,
    /// Only as policies allow the entity `host`.
    Policy,
}

/// What a policy that was never seen valid does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum InvalidPolicy {
    /// Fails closed: what it allows is granted only where it can be read, what it denies is denied in its
    /// widest reading, and the pods it selects enter default deny.
    #[default]
    Isolate,
    /// Nothing, except that it is reported.
    Ignore,
}

/// Network policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// When a pod is closed to what no rule allows.
    #[schemars(extend("x-impact" = "hitless"))]
    pub enforcement: Enforcement,
    /// Whether the node may always reach its own pods.
    #[schemars(extend("x-impact" = "reload"))]
    pub allow_localhost: AllowLocalhost,
    /// What a policy that was never seen valid does.
    #[schemars(extend("x-impact" = "hitless"))]
    pub invalid: InvalidPolicy,
    /// Whether a selector of endpoints that names no cluster means those of this cluster alone. Without, one that only
    /// excludes (`NotIn`, `DoesNotExist`) selects nodes and the world as well.
    #[schemars(extend("x-impact" = "hitless"))]
    pub default_local_cluster: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            enforcement: Enforcement::default(),
            allow_localhost: AllowLocalhost::default(),
            invalid: InvalidPolicy::default(),
            default_local_cluster: true,
        }
    }
}

impl Policy {
    /// Whether the node reaches its own pods where no rule denies it.
    pub fn localhost_always_allowed(&self) -> bool {
        self.allow_localhost != AllowLocalhost::Policy
    }
}
