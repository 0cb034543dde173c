//! Objects of the cluster and records of this node.

use super::Labels;
use crate::map::{Mostly, Rarely};
use crate::shared::{Shared, Text};
use crate::state::{IdentityId, Mac, Origin, Protocol};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// Where an object was read: file and line.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Path relative to the manifest folder, or a source's name.
    pub file: Text,
    /// Line of the document, from 1; 0: unknown.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 { write!(f, ":{}", self.line) } else { Ok(()) }
    }
}

/// Namespace and name; the namespace of cluster-scoped objects is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// Namespace.
    pub namespace: Text,
    /// Name.
    pub name: Text,
}

impl ObjectName {
    /// From both parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its labels, without source.
    pub labels: BTreeMap<String, String>,
    /// Where it is written.
    pub place: Place,
}

/// What a node's address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NodeAddressKind {
    /// Reaches the node on the underlay.
    InternalIp,
    /// As seen from outside.
    ExternalIp,
    /// The router address (`cilium_host`).
    CiliumInternalIp,
}

/// An address of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeAddress {
    /// What it is for.
    pub kind: NodeAddressKind,
    /// The address.
    pub ip: IpAddr,
}

/// A node of the cluster, from CiliumNode (wins) and Node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Addresses, in the order given.
    pub addresses: Vec<NodeAddress>,
    /// Pod CIDRs.
    pub pod_cidrs: Vec<IpNet>,
    /// Labels, without source.
    pub labels: BTreeMap<String, String>,
    /// It is about to be taken out of the cluster.
    #[serde(default)]
    pub leaving: bool,
    /// Where it is written.
    pub place: Place,
}

/// Label of a node: the zone it is in.
const ZONE: &str = "topology.kubernetes.io/zone";

impl Node {
    /// The zone it is in, if labelled.
    pub fn zone(&self) -> Option<&String> {
        self.labels.get(ZONE).filter(|zone| !zone.is_empty())
    }
}

/// A named container port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodPort {
    /// Name.
    pub name: String,
    /// Number.
    pub port: u16,
    /// Protocol.
    pub proto: Protocol,
}

/// A container port that is reached on the node's addresses (`hostPort`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostPort {
    /// The one address of the node (`hostIP`); an unspecified one stands for all of its family.
    pub ip: Option<IpAddr>,
    /// Number on the node.
    pub port: u16,
    /// Protocol.
    pub proto: Protocol,
    /// Number in the pod.
    pub target: u16,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pod {
    /// Labels, without source.
    pub labels: BTreeMap<String, String>,
    /// Service account; empty: `default`.
    pub service_account: String,
    /// Node it is bound to, if said.
    pub node_name: Option<String>,
    /// It shares the node's network.
    pub host_network: bool,
    /// Named ports of all its containers.
    pub ports: Vec<PodPort>,
    /// Ports of the node that lead to it, of pods with a network of their own that have not ended.
    pub host_ports: Vec<HostPort>,
    /// `status.podIPs`, as far as they count (contract.md: pods elsewhere or on host network).
    pub ips: Vec<IpAddr>,
    /// Where it is written.
    pub place: Place,
}

/// A published claim: this number stands for these labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IdentityClaim {
    /// The number.
    pub number: IdentityId,
    /// The labels.
    pub labels: Shared<Labels>,
    /// Node that published it, if any.
    pub published_by: Option<Text>,
    /// Where it is written.
    pub place: Place,
}

/// An endpoint of another node (CiliumEndpoint).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RemoteEndpoint {
    /// Its addresses.
    pub ips: Mostly<IpAddr>,
    /// Its identity's number.
    pub identity: IdentityId,
    /// Labels of that identity as the publisher wrote them (may be empty: see the claim).
    pub labels: Shared<Labels>,
    /// Address of its node (`status.networking.node`), to encapsulate to.
    pub node_ip: Option<IpAddr>,
    /// Name of the node that published it.
    pub node_name: Option<Text>,
    /// Named ports.
    pub ports: Rarely<PodPort>,
    /// Where it is written.
    pub place: Place,
}

impl RemoteEndpoint {
    /// How rows explain themselves by this endpoint, which is called so.
    pub fn origin(&self, name: &ObjectName) -> Origin {
        let (object, place) = (format!("CiliumEndpoint {name}"), self.place.to_string());
        Origin { object, place, rule: String::new() }
    }
}

/// One CNI attachment on this node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointRecord {
    /// Endpoint number, 1 to 65 535.
    pub id: u16,
    /// Container id of the attachment.
    pub container_id: String,
    /// Network name of the attachment (CNI `name`).
    pub network: String,
    /// Interface inside the pod.
    pub ifname: String,
    /// Path of the pod's network namespace.
    pub netns: PathBuf,
    /// The pod, if named.
    pub pod: Option<ObjectName>,
    /// UID of the pod, if given.
    pub pod_uid: Option<String>,
    /// Labels given by the runtime, for containers without a pod name (source `container`).
    pub labels: BTreeMap<String, String>,
    /// Host-side interface.
    pub link: String,
    /// Hardware address inside.
    pub mac: Mac,
    /// Hardware address of the host side.
    pub node_mac: Mac,
    /// IPv4 address.
    pub ipv4: Option<IpAddr>,
    /// IPv6 address.
    pub ipv6: Option<IpAddr>,
    /// Ports of the node that lead to it.
    pub port_mappings: PortMappings,
}

/// Ports of the node that the runtime asked for with an attachment (CNI `runtimeConfig.portMappings`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortMappings {
    /// The ports.
    pub ports: Vec<HostPort>,
    /// When they were asked for, milliseconds since 1970: of two attachments that want one port, the older has
    /// it. 0: unknown.
    pub since: u64,
}

impl EndpointRecord {
    /// Its pod, or, without namespace, its container.
    pub fn guest(&self) -> ObjectName {
        self.pod.clone().unwrap_or_else(|| ObjectName::new("", &self.container_id))
    }

    /// How rows explain themselves by this attachment.
    pub fn origin(&self) -> Origin {
        let object = match &self.pod {
            Some(pod) => format!("Pod {pod}"),
            None => format!("container {:.12}", self.container_id),
        };
        Origin { object, place: String::new(), rule: format!("endpoint {}", self.id) }
    }
}
