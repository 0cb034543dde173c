//! CiliumNode, CiliumEndpoint, CiliumIdentity, CiliumCIDRGroup.

use super::ObjectMeta;
use super::meta::Unread;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CiliumNode {
    /// `cilium.io/v2`.
    pub api_version: String,
    /// `CiliumNode`.
    pub kind: String,
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What the node is.
    pub spec: CiliumNodeSpec,
    /// Not read.
    #[serde(default, skip_serializing)]
    pub status: Unread,
}

impl CiliumNode {
    /// An object as an agent publishes it.
    pub fn new(metadata: ObjectMeta, spec: CiliumNodeSpec) -> Self {
        Self { api_version: "cilium.io/v2".into(), kind: "CiliumNode".into(), metadata, spec, status: Unread }
    }
}

/// What the node is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CiliumNodeSpec {
    /// Addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<CiliumNodeAddress>>,
    /// Boot id of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootid: Option<String>,
    /// Id of the machine at its provider.
    #[serde(rename = "instance-id", skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    /// Addresses of the health endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<AddressPair>,
    /// Addresses of the ingress proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<AddressPair>,
    /// Encryption.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<EncryptionSpec>,
    /// Addresses for pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipam: Option<IpamSpec>,
    /// Not read.
    #[serde(skip_serializing)]
    pub eni: Unread,
    /// Not read.
    #[serde(skip_serializing)]
    pub azure: Unread,
    /// Not read.
    #[serde(rename = "alibaba-cloud", skip_serializing)]
    pub alibaba_cloud: Unread,
}

/// An address of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CiliumNodeAddress {
    /// `InternalIP`, `ExternalIP`, `CiliumInternalIP`, `Hostname`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The address.
    pub ip: String,
}

/// One address of each family.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AddressPair {
    /// IPv4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<String>,
    /// IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<String>,
}

/// Encryption.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EncryptionSpec {
    /// Number of the key in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<i64>,
}

/// Addresses for pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IpamSpec {
    /// Prefixes of this node's pods.
    #[serde(rename = "podCIDRs", skip_serializing_if = "Option::is_none")]
    pub pod_cidrs: Option<Vec<String>>,
    /// Not read.
    #[serde(skip_serializing)]
    pub pool: Unread,
    /// Not read.
    #[serde(rename = "ipv6-pool", skip_serializing)]
    pub ipv6_pool: Unread,
    /// Not read.
    #[serde(skip_serializing)]
    pub pools: Unread,
    /// Not read.
    #[serde(rename = "min-allocate", skip_serializing)]
    pub min_allocate: Unread,
    /// Not read.
    #[serde(rename = "pre-allocate", skip_serializing)]
    pub pre_allocate: Unread,
    /// Not read.
    #[serde(rename = "max-allocate", skip_serializing)]
    pub max_allocate: Unread,
    /// Not read.
    #[serde(rename = "max-above-watermark", skip_serializing)]
    pub max_above_watermark: Unread,
    /// Not read.
    #[serde(rename = "static-ip-tags", skip_serializing)]
    pub static_ip_tags: Unread,
}

/// An endpoint of some node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CiliumEndpoint {
    /// `cilium.io/v2`.
    pub api_version: String,
    /// `CiliumEndpoint`.
    pub kind: String,
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<CiliumEndpointStatus>,
}

/// What an endpoint is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CiliumEndpointStatus {
    /// Number on its node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// Identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<EndpointIdentity>,
    /// Addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networking: Option<EndpointNetworking>,
    /// Encryption.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<EncryptionSpec>,
    /// State.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Named ports.
    #[serde(rename = "named-ports", skip_serializing_if = "Option::is_none")]
    pub named_ports: Option<Vec<NamedPort>>,
    /// Service account.
    #[serde(rename = "service-account", skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// Not read.
    #[serde(skip_serializing)]
    pub policy: Unread,
    /// Not read.
    #[serde(rename = "external-identifiers", skip_serializing)]
    pub external_identifiers: Unread,
    /// Not read.
    #[serde(skip_serializing)]
    pub health: Unread,
    /// Not read.
    #[serde(skip_serializing)]
    pub controllers: Unread,
    /// Not read.
    #[serde(skip_serializing)]
    pub log: Unread,
}

/// Identity of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointIdentity {
    /// Number.
    #[schemars(range(min = 1, max = 16_777_215))]
    pub id: i64,
    /// Labels as `source:key=value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
}

/// Addresses of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EndpointNetworking {
    /// Addresses, one of each family per entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addressing: Option<Vec<AddressPair>>,
    /// Address of its node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// A named port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedPort {
    /// Name.
    pub name: String,
    /// Number.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i64,
    /// Protocol.
    #[serde(default)]
    pub protocol: String,
}

/// What an identity's number stands for. The number is the object's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CiliumIdentity {
    /// `cilium.io/v2`.
    pub api_version: String,
    /// `CiliumIdentity`.
    pub kind: String,
    /// Metadata.
    pub metadata: ObjectMeta,
    /// Labels, as `source:key`, with their values.
    #[serde(rename = "security-labels")]
    pub security_labels: BTreeMap<String, String>,
}

/// Prefixes that policies name together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CiliumCIDRGroup {
    /// `cilium.io/v2`.
    pub api_version: String,
    /// `CiliumCIDRGroup`.
    pub kind: String,
    /// Metadata.
    pub metadata: ObjectMeta,
    /// The prefixes.
    pub spec: CiliumCIDRGroupSpec,
}

/// The prefixes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CiliumCIDRGroupSpec {
    /// Prefixes outside the cluster.
    #[serde(rename = "externalCIDRs")]
    pub external_cidrs: Vec<String>,
}
