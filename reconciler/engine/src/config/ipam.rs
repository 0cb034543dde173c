//! `[ipam]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who says which addresses this node's pods get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IpamMode {
    /// The node's own pod CIDRs: `spec.ipam.podCIDRs` of its CiliumNode, else `spec.podCIDRs` of its Node,
    /// else `node.pod_cidrs`.
    #[default]
    Kubernetes,
}

/// Pod addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ipam {
    /// Who says which addresses this node's pods get.
    #[schemars(extend("x-impact" = "disruptive"))]
    pub mode: IpamMode,
}
