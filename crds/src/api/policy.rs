//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy: the whole schema, whether enforced yet or not.

use super::l7::{L7Rules, Listener, TlsContext};
use super::meta::Unread;
use super::{EntityName, IntOrString, LabelSelector, ObjectMeta};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The object, of both kinds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CiliumNetworkPolicy {
    /// `cilium.io/v2`.
    pub api_version: String,
    /// `CiliumNetworkPolicy` or `CiliumClusterwideNetworkPolicy`.
    pub kind: String,
    /// Metadata.
    pub metadata: ObjectMeta,
    /// The rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<Rule>,
    /// Further rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub specs: Option<Vec<Rule>>,
    /// Not read.
    #[serde(default, skip_serializing)]
    pub status: Unread,
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rule {
    /// Which endpoints the rule is for. Either this or `nodeSelector`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_selector: Option<LabelSelector>,
    /// Which nodes the rule is for (clusterwide policies only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
    /// What may come in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<IngressRule>>,
    /// What must not come in; wins over `ingress`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_deny: Option<Vec<IngressDenyRule>>,
    /// What may go out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<EgressRule>>,
    /// What must not go out; wins over `egress`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_deny: Option<Vec<EgressDenyRule>>,
    /// Labels of the rule itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<RuleLabel>>,
    /// Whether the endpoints are closed to what no rule allows, per direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_default_deny: Option<DefaultDeny>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A text that flows show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<Log>,
}

/// A label of a rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleLabel {
    /// Key.
    pub key: String,
    /// Value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// Default deny, per direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DefaultDeny {
    /// Ingress; absent: if there are ingress rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<bool>,
    /// Egress; absent: if there are egress rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<bool>,
}

/// A text that flows show.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// The text.
    pub value: String,
}

/// An entry of `ingress`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IngressRule {
    /// Endpoints. `[]`: none; `[{}]`: all.
    #[serde(rename = "fromEndpoints", skip_serializing_if = "Option::is_none")]
    pub from_endpoints: Option<Vec<LabelSelector>>,
    /// Prefixes and addresses.
    #[serde(rename = "fromCIDR", skip_serializing_if = "Option::is_none")]
    pub from_cidr: Option<Vec<String>>,
    /// Prefixes with exceptions.
    #[serde(rename = "fromCIDRSet", skip_serializing_if = "Option::is_none")]
    pub from_cidr_set: Option<Vec<CidrRule>>,
    /// Entities.
    #[serde(rename = "fromEntities", skip_serializing_if = "Option::is_none")]
    pub from_entities: Option<Vec<EntityName>>,
    /// Groups of a cloud provider.
    #[serde(rename = "fromGroups", skip_serializing_if = "Option::is_none")]
    pub from_groups: Option<Vec<Group>>,
    /// Nodes by labels.
    #[serde(rename = "fromNodes", skip_serializing_if = "Option::is_none")]
    pub from_nodes: Option<Vec<LabelSelector>>,
    /// Ports; absent: all.
    #[serde(rename = "toPorts", skip_serializing_if = "Option::is_none")]
    pub to_ports: Option<Vec<PortRule>>,
    /// ICMP types.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmps: Option<Vec<IcmpRule>>,
    /// Mutual authentication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
}

/// An entry of `ingressDeny`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IngressDenyRule {
    /// Endpoints. `[]`: none; `[{}]`: all.
    #[serde(rename = "fromEndpoints", skip_serializing_if = "Option::is_none")]
    pub from_endpoints: Option<Vec<LabelSelector>>,
    /// Prefixes and addresses.
    #[serde(rename = "fromCIDR", skip_serializing_if = "Option::is_none")]
    pub from_cidr: Option<Vec<String>>,
    /// Prefixes with exceptions.
    #[serde(rename = "fromCIDRSet", skip_serializing_if = "Option::is_none")]
    pub from_cidr_set: Option<Vec<CidrRule>>,
    /// Entities.
    #[serde(rename = "fromEntities", skip_serializing_if = "Option::is_none")]
    pub from_entities: Option<Vec<EntityName>>,
    /// Groups of a cloud provider.
    #[serde(rename = "fromGroups", skip_serializing_if = "Option::is_none")]
    pub from_groups: Option<Vec<Group>>,
    /// Nodes by labels.
    #[serde(rename = "fromNodes", skip_serializing_if = "Option::is_none")]
    pub from_nodes: Option<Vec<LabelSelector>>,
    /// Ports; absent: all.
    #[serde(rename = "toPorts", skip_serializing_if = "Option::is_none")]
    pub to_ports: Option<Vec<PortDenyRule>>,
    /// ICMP types.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmps: Option<Vec<IcmpRule>>,
}

/// An entry of `egress`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EgressRule {
    /// Endpoints. `[]`: none; `[{}]`: all.
    #[serde(rename = "toEndpoints", skip_serializing_if = "Option::is_none")]
    pub to_endpoints: Option<Vec<LabelSelector>>,
    /// Prefixes and addresses.
    #[serde(rename = "toCIDR", skip_serializing_if = "Option::is_none")]
    pub to_cidr: Option<Vec<String>>,
    /// Prefixes with exceptions.
    #[serde(rename = "toCIDRSet", skip_serializing_if = "Option::is_none")]
    pub to_cidr_set: Option<Vec<CidrRule>>,
    /// Entities.
    #[serde(rename = "toEntities", skip_serializing_if = "Option::is_none")]
    pub to_entities: Option<Vec<EntityName>>,
    /// Groups of a cloud provider.
    #[serde(rename = "toGroups", skip_serializing_if = "Option::is_none")]
    pub to_groups: Option<Vec<Group>>,
    /// Nodes by labels.
    #[serde(rename = "toNodes", skip_serializing_if = "Option::is_none")]
    pub to_nodes: Option<Vec<LabelSelector>>,
    /// Services.
    #[serde(rename = "toServices", skip_serializing_if = "Option::is_none")]
    pub to_services: Option<Vec<ServiceRef>>,
    /// Names in DNS.
    #[serde(rename = "toFQDNs", skip_serializing_if = "Option::is_none")]
    pub to_fqdns: Option<Vec<FqdnSelector>>,
    /// Ports; absent: all.
    #[serde(rename = "toPorts", skip_serializing_if = "Option::is_none")]
    pub to_ports: Option<Vec<PortRule>>,
    /// ICMP types.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmps: Option<Vec<IcmpRule>>,
    /// Mutual authentication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
}

/// An entry of `egressDeny`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EgressDenyRule {
    /// Endpoints. `[]`: none; `[{}]`: all.
    #[serde(rename = "toEndpoints", skip_serializing_if = "Option::is_none")]
    pub to_endpoints: Option<Vec<LabelSelector>>,
    /// Prefixes and addresses.
    #[serde(rename = "toCIDR", skip_serializing_if = "Option::is_none")]
    pub to_cidr: Option<Vec<String>>,
    /// Prefixes with exceptions.
    #[serde(rename = "toCIDRSet", skip_serializing_if = "Option::is_none")]
    pub to_cidr_set: Option<Vec<CidrRule>>,
    /// Entities.
    #[serde(rename = "toEntities", skip_serializing_if = "Option::is_none")]
    pub to_entities: Option<Vec<EntityName>>,
    /// Groups of a cloud provider.
    #[serde(rename = "toGroups", skip_serializing_if = "Option::is_none")]
    pub to_groups: Option<Vec<Group>>,
    /// Nodes by labels.
    #[serde(rename = "toNodes", skip_serializing_if = "Option::is_none")]
    pub to_nodes: Option<Vec<LabelSelector>>,
    /// Services.
    #[serde(rename = "toServices", skip_serializing_if = "Option::is_none")]
    pub to_services: Option<Vec<ServiceRef>>,
    /// Ports; absent: all.
    #[serde(rename = "toPorts", skip_serializing_if = "Option::is_none")]
    pub to_ports: Option<Vec<PortDenyRule>>,
    /// ICMP types.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmps: Option<Vec<IcmpRule>>,
}

/// Names of entities.
pub const ENTITIES: &[&str] = &[
    "all",
    "world",
    "world-ipv4",
    "world-ipv6",
    "cluster",
    "cluster-mesh",
    "host",
    "remote-node",
    "init",
    "ingress",
    "unmanaged",
    "health",
    "kube-apiserver",
    "none",
];

/// Names of protocols.
pub const PROTOCOLS: &[&str] =
    &["TCP", "UDP", "SCTP", "ICMP", "ICMPv6", "ICMPV6", "VRRP", "IGMP", "GRE", "IPIP", "ESP", "AH", "ANY"];

/// A prefix with exceptions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CidrRule {
    /// The prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
    /// The name of a CiliumCIDRGroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cidr_group_ref: Option<String>,
    /// CiliumCIDRGroups by labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cidr_group_selector: Option<LabelSelector>,
    /// What is not meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub except: Option<Vec<String>>,
}

/// A group of a cloud provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Group {
    /// Groups of AWS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws: Option<AwsGroup>,
}

/// A group of AWS.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AwsGroup {
    /// By labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Security groups by id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_groups_ids: Option<Vec<String>>,
    /// Security groups by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_groups_names: Option<Vec<String>>,
    /// Region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

/// Services.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServiceRef {
    /// By name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k8s_service: Option<NamedService>,
    /// By labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k8s_service_selector: Option<SelectedServices>,
}

/// A Service by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NamedService {
    /// Name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// Namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Services by labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SelectedServices {
    /// Their labels.
    pub selector: LabelSelector,
    /// Their namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Names in DNS.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FqdnSelector {
    /// One name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_name: Option<String>,
    /// A pattern with `*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_pattern: Option<String>,
}

/// Ports, with what may be said on them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PortRule {
    /// Ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub ports: Option<Vec<PortProtocol>>,
    /// TLS towards the client.
    #[serde(rename = "terminatingTLS", skip_serializing_if = "Option::is_none")]
    pub terminating_tls: Option<TlsContext>,
    /// TLS towards the server.
    #[serde(rename = "originatingTLS", skip_serializing_if = "Option::is_none")]
    pub originating_tls: Option<TlsContext>,
    /// Names of TLS servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_names: Option<Vec<String>>,
    /// A listener of one's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<Listener>,
    /// Layer 7 rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<L7Rules>,
}

/// Ports that are denied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PortDenyRule {
    /// Ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub ports: Option<Vec<PortProtocol>>,
}

/// A port, or a range.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortProtocol {
    /// Number (in quotes) or name; "0": all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Last of the range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub end_port: Option<i64>,
    /// Protocol, `ANY` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = PROTOCOLS))]
    pub protocol: Option<String>,
}

/// ICMP types.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IcmpRule {
    /// The types.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub fields: Option<Vec<IcmpField>>,
}

/// An ICMP type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IcmpField {
    /// Family, `IPv4` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["IPv4", "IPv6"]))]
    pub family: Option<String>,
    /// Number or name.
    #[serde(rename = "type")]
    pub kind: IntOrString,
}

/// Mutual authentication.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Authentication {
    /// Mode.
    #[schemars(extend("enum" = ["disabled", "required", "test-always-fail"]))]
    pub mode: String,
}
