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
    /// As `always`, unless `enforcement` is `always`.
    #[default]
    Auto,
    /// Yes: kubelet's probes reach a pod under default deny.
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
}

impl Policy {
    /// Whether the node reaches its own pods whatever the policy says: `auto` decided.
    pub fn localhost_always_allowed(&self) -> bool {
        match (self.allow_localhost, self.enforcement) {
            (AllowLocalhost::Always, _) => true,
            (AllowLocalhost::Policy, _) => false,
            (AllowLocalhost::Auto, Enforcement::Default | Enforcement::Never) => true,
            (AllowLocalhost::Auto, Enforcement::Always) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_reaches_its_pods_unless_enforcement_is_always_or_policies_decide() {
        let allowed = |allow_localhost, enforcement| {
            Policy { allow_localhost, enforcement, ..Policy::default() }.localhost_always_allowed()
        };
        assert!(allowed(AllowLocalhost::Auto, Enforcement::Default));
        assert!(!allowed(AllowLocalhost::Auto, Enforcement::Always));
        assert!(allowed(AllowLocalhost::Always, Enforcement::Always));
        assert!(!allowed(AllowLocalhost::Policy, Enforcement::Default));
    }
}
