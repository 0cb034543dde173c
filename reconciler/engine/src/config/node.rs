//! `[node]`.

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// This node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// Name of this node, as Node and CiliumNode objects call it. Empty: the environment variable
    /// `K8S_NODE_NAME`, else the host name.
    #[schemars(extend("x-impact" = "disruptive"))]
    pub name: String,
    /// Addresses of this node, for hosts without a CiliumNode object (which wins over these).
    #[schemars(with = "Vec<String>", extend("x-form" = "address", "x-impact" = "reload"))]
    pub addresses: Vec<IpAddr>,
    /// Prefixes this node's pods get their addresses from, for hosts without a CiliumNode or Node object
    /// that names them (objects win over these).
    #[schemars(with = "Vec<String>", extend("x-form" = "prefix", "x-impact" = "disruptive"))]
    pub pod_cidrs: Vec<IpNet>,
}
