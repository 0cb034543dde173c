//! `[ipv4]` and `[ipv6]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// IPv4.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ipv4 {
    /// Pods get IPv4 addresses.
    #[schemars(extend("x-impact" = "disruptive"))]
    pub enabled: bool,
}

impl Default for Ipv4 {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// IPv6.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ipv6 {
    /// Pods get IPv6 addresses.
    #[schemars(extend("x-impact" = "disruptive"))]
    pub enabled: bool,
}
