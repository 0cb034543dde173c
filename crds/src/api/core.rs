//! Core kinds but Service: the fields that are read.

use super::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `v1` Namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Namespace {
    /// Metadata.
    pub metadata: ObjectMeta,
}

/// `v1` Node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Node {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: Option<NodeSpec>,
    /// What is.
    #[serde(default)]
    pub status: Option<NodeStatus>,
}

/// Of a Node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// Pod CIDR, if there is one only.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Option<String>,
    /// Pod CIDRs.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Option<Vec<String>>,
    /// What keeps pods away.
    pub taints: Option<Vec<Taint>>,
}

/// Keeps pods away from a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Taint {
    /// Its name.
    pub key: String,
}

/// Of a Node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NodeStatus {
    /// Addresses.
    pub addresses: Option<Vec<NodeAddress>>,
}

/// Of a Node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The address.
    pub address: String,
}

/// `v1` Pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pod {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: Option<PodSpec>,
    /// What is.
    #[serde(default)]
    pub status: Option<PodStatus>,
}

/// Of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// The node it is bound to.
    pub node_name: Option<String>,
    /// Whether it shares the node's network.
    pub host_network: Option<bool>,
    /// Its service account.
    pub service_account_name: Option<String>,
    /// Its containers.
    pub containers: Option<Vec<Container>>,
    /// Its init containers (sidecars are among them).
    pub init_containers: Option<Vec<Container>>,
}

/// Of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Ports it listens on.
    pub ports: Option<Vec<ContainerPort>>,
    /// `Always` makes an init container a sidecar.
    pub restart_policy: Option<String>,
}

/// Of a Pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// Name.
    #[serde(default)]
    pub name: Option<String>,
    /// Number.
    #[schemars(range(min = 1, max = 65535))]
    pub container_port: i64,
    /// Number on the node; 0: none.
    #[serde(default)]
    #[schemars(range(min = 0, max = 65535))]
    pub host_port: Option<i64>,
    /// The one address of the node that counts.
    #[serde(default, rename = "hostIP")]
    pub host_ip: Option<String>,
    /// Protocol, `TCP` if absent.
    #[serde(default)]
    #[schemars(extend("enum" = ["TCP", "UDP", "SCTP"]))]
    pub protocol: Option<String>,
}

/// Of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PodStatus {
    /// Phase: pods that have ended keep no address.
    pub phase: Option<String>,
    /// Address.
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    /// Addresses.
    #[serde(rename = "podIPs")]
    pub pod_ips: Option<Vec<PodIp>>,
}

/// Of a Pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PodIp {
    /// Address.
    pub ip: String,
}
