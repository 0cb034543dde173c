//! `[masquerade]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether pods appear as their node to the outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Masquerade {
    /// IPv4 packets of pods that leave the cluster carry the node's address.
    #[schemars(extend("x-impact" = "reload"))]
    pub ipv4: bool,
    /// IPv6 packets of pods that leave the cluster carry the node's address.
    #[schemars(extend("x-impact" = "reload"))]
    pub ipv6: bool,
}

impl Default for Masquerade {
    fn default() -> Self {
        Self { ipv4: true, ipv6: true }
    }
}
