//! Service and EndpointSlice: every field the API has (Kubernetes 1.36), strictly. What is not read is named,
//! so that a misspelt field is told and the output of `kubectl get -o yaml` can be pasted.

use super::meta::Unread;
use super::{IntOrString, ObjectMeta};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `v1` Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// `v1`.
    #[serde(default)]
    pub api_version: Option<String>,
    /// `Service`.
    #[serde(default)]
    pub kind: Option<String>,
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: ServiceSpec,
    /// What is.
    #[serde(default)]
    pub status: Option<ServiceStatus>,
}

/// Of a Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
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
    /// Further addresses, brought to the nodes by someone else.
    #[serde(rename = "externalIPs")]
    pub external_ips: Option<Vec<String>>,
    /// Name that stands for the Service, of type `ExternalName`.
    pub external_name: Option<String>,
    /// Backends for clients outside, `Cluster` if absent.
    #[schemars(extend("enum" = ["Cluster", "Local"]))]
    pub external_traffic_policy: Option<String>,
    /// Backends for clients inside, `Cluster` if absent.
    #[schemars(extend("enum" = ["Cluster", "Local"]))]
    pub internal_traffic_policy: Option<String>,
    /// Port that tells whether a node has a backend; 0: none given.
    #[schemars(range(min = 0, max = 65535))]
    pub health_check_node_port: Option<i64>,
    /// Address families, the primary first.
    pub ip_families: Option<Vec<String>>,
    /// How many address families.
    #[schemars(extend("enum" = ["SingleStack", "PreferDualStack", "RequireDualStack"]))]
    pub ip_family_policy: Option<String>,
    /// Whether a load balancer's Service gets NodePorts, `true` if absent.
    pub allocate_load_balancer_node_ports: Option<bool>,
    /// Whose load balancer.
    pub load_balancer_class: Option<String>,
    /// Load balancer address that is asked for.
    #[serde(rename = "loadBalancerIP")]
    pub load_balancer_ip: Option<String>,
    /// Sources that the load balancer serves.
    pub load_balancer_source_ranges: Option<Vec<String>>,
    /// Ports.
    pub ports: Option<Vec<ServicePort>>,
    /// Which pods.
    pub selector: Option<BTreeMap<String, String>>,
    /// Also pods that are not ready.
    pub publish_not_ready_addresses: Option<bool>,
    /// Whether a client keeps its backend.
    #[schemars(extend("enum" = ["None", "ClientIP"]))]
    pub session_affinity: Option<String>,
    /// For how long.
    pub session_affinity_config: Option<SessionAffinityConfig>,
    /// Which backends are preferred: `PreferClose`, `PreferSameZone`, `PreferSameNode`.
    pub traffic_distribution: Option<String>,
}

/// Of a Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SessionAffinityConfig {
    /// Of `ClientIP`.
    #[serde(rename = "clientIP")]
    pub client_ip: Option<ClientIpConfig>,
}

/// Of a Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClientIpConfig {
    /// Seconds without traffic after which a client may get another backend, 10 800 if absent.
    #[schemars(range(min = 1, max = 86400))]
    pub timeout_seconds: Option<i64>,
}

/// Of a Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
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
    /// Port on nodes; 0: none given.
    #[serde(default)]
    #[schemars(range(min = 0, max = 65535))]
    pub node_port: Option<i64>,
    /// Not read.
    #[serde(default)]
    pub app_protocol: Option<String>,
}

/// Of a Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServiceStatus {
    /// Of the load balancer.
    pub load_balancer: Option<LoadBalancerStatus>,
    /// Not read.
    #[serde(skip_serializing)]
    pub conditions: Unread,
}

/// Of a Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoadBalancerStatus {
    /// Where it takes traffic in.
    pub ingress: Option<Vec<LoadBalancerIngress>>,
}

/// Of a Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LoadBalancerIngress {
    /// Address.
    pub ip: Option<String>,
    /// Name, of balancers that have no fixed address.
    pub hostname: Option<String>,
    /// Whether packets come with this address as destination (`VIP`) or not (`Proxy`).
    #[schemars(extend("enum" = ["VIP", "Proxy"]))]
    pub ip_mode: Option<String>,
    /// Not read.
    #[serde(skip_serializing)]
    pub ports: Unread,
}

/// `discovery.k8s.io/v1` EndpointSlice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointSlice {
    /// `discovery.k8s.io/v1`.
    #[serde(default)]
    pub api_version: Option<String>,
    /// `EndpointSlice`.
    #[serde(default)]
    pub kind: Option<String>,
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
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SliceEndpoint {
    /// Addresses; all lead to the same endpoint, the first counts.
    pub addresses: Vec<String>,
    /// Conditions.
    #[serde(default)]
    pub conditions: Option<SliceConditions>,
    /// For whom it is meant.
    #[serde(default)]
    pub hints: Option<SliceHints>,
    /// The node it is on.
    #[serde(default)]
    pub node_name: Option<String>,
    /// The zone it is in.
    #[serde(default)]
    pub zone: Option<String>,
    /// Not read.
    #[serde(default, skip_serializing)]
    pub hostname: Unread,
    /// Not read.
    #[serde(default, skip_serializing)]
    pub target_ref: Unread,
    /// Not read.
    #[serde(default, skip_serializing)]
    pub deprecated_topology: Unread,
}

/// Of an EndpointSlice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
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
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SliceHints {
    /// Zones.
    pub for_zones: Option<Vec<NamedHint>>,
    /// Nodes.
    pub for_nodes: Option<Vec<NamedHint>>,
}

/// Of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedHint {
    /// Name of the zone or node.
    pub name: String,
}

/// Of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SlicePort {
    /// Name.
    pub name: Option<String>,
    /// Number; absent: any.
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i64>,
    /// Protocol, `TCP` if absent.
    #[schemars(extend("enum" = ["TCP", "UDP", "SCTP"]))]
    pub protocol: Option<String>,
    /// Not read.
    pub app_protocol: Option<String>,
}
