//! Core kinds: the fields that are read.

use super::{IntOrString, ObjectMeta};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
#[serde(default)]
pub struct Container {
    /// Ports it listens on.
    pub ports: Option<Vec<ContainerPort>>,
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

/// `v1` Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Service {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: ServiceSpec,
}

/// Of a Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// Type, `ClusterIP` if absent.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]))]
    pub kind: Option<String>,
    /// Address, or `None`.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// Addresses, or `None`.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Option<Vec<String>>,
    /// Ports.
    pub ports: Option<Vec<ServicePort>>,
    /// Which pods.
    pub selector: Option<BTreeMap<String, String>>,
    /// Also pods that are not ready.
    pub publish_not_ready_addresses: Option<bool>,
}

/// Of a Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Name.
    #[serde(default)]
    pub name: Option<String>,
    /// Number.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i64,
    /// Protocol, `TCP` if absent.
    #[serde(default)]
    #[schemars(extend("enum" = ["TCP", "UDP", "SCTP"]))]
    pub protocol: Option<String>,
    /// Port of the pods, as `port` if absent.
    #[serde(default)]
    pub target_port: Option<IntOrString>,
}

/// `discovery.k8s.io/v1` EndpointSlice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// Family.
    #[schemars(extend("enum" = ["IPv4", "IPv6", "FQDN"]))]
    pub address_type: String,
    /// Endpoints.
    #[serde(default)]
    pub endpoints: Option<Vec<SliceEndpoint>>,
    /// Ports.
    #[serde(default)]
    pub ports: Option<Vec<SlicePort>>,
}

/// Of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SliceEndpoint {
    /// Addresses; all lead to the same endpoint, the first counts.
    pub addresses: Vec<String>,
    /// Conditions.
    #[serde(default)]
    pub conditions: Option<SliceConditions>,
}

/// Of an EndpointSlice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SliceConditions {
    /// Ready for new connections; absent: yes.
    pub ready: Option<bool>,
    /// Serving; absent: as `ready`.
    pub serving: Option<bool>,
    /// Ending; absent: no.
    pub terminating: Option<bool>,
}

/// Of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SlicePort {
    /// Name.
    pub name: Option<String>,
    /// Number; absent: any.
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i64>,
    /// Protocol, `TCP` if absent.
    #[schemars(extend("enum" = ["TCP", "UDP", "SCTP"]))]
    pub protocol: Option<String>,
}
