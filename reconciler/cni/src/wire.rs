//! Messages between plugin and agent.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

/// Path of the request.
pub const PATH: &str = "/v1/cni";
/// Name of the agent's socket in `run_dir`.
pub const SOCKET: &str = "cilium.sock";
/// Directory in `run_dir` for tombstones of deletions done while the agent was away.
pub const DELETE_QUEUE: &str = "deleteQueue";
/// Largest request or answer, bytes.
pub const MAX_MESSAGE: usize = 1 << 20;

/// What the runtime asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "UPPERCASE")]
pub enum Request {
    /// Attach.
    Add(Box<Add>),
    /// Detach; always succeeds.
    Del(Attachment),
    /// Is the attachment as it should be?
    Check(Check),
    /// Detach everything of this network that is not listed.
    Gc {
        /// Network name.
        network: String,
        /// Attachments that live.
        valid: Vec<Attachment>,
    },
    /// Can ADD be served now?
    Status,
}

/// Names one attachment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

/// What CHECK asks about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Which attachment.
    #[serde(flatten)]
    pub attachment: Attachment,
    /// `runtimeConfig.portMappings`: ports of the node that must lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
}

/// A port of the node that leads to the container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortMapping {
    /// The one address of the node; an unspecified one stands for all of its family, none for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// Number on the node.
    pub host_port: NonZeroU16,
    /// Protocol.
    pub protocol: Transport,
    /// Number in the container.
    pub container_port: NonZeroU16,
}

/// Protocols with ports that can be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Parameters of ADD.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Add {
    /// Which attachment.
    pub attachment: Attachment,
    /// `CNI_NETNS`.
    pub netns: String,
    /// Network name from the configuration.
    pub network: String,
    /// `K8S_POD_NAMESPACE`, if given.
    pub pod_namespace: Option<String>,
    /// `K8S_POD_NAME`, if given.
    pub pod_name: Option<String>,
    /// `K8S_POD_UID`, if given.
    pub pod_uid: Option<String>,
    /// `args.cni.labels`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// `args.cni.ips`: addresses asked for.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    /// `runtimeConfig.portMappings`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// ADD: what was attached.
    Attached(Attached),
    /// Everything else: done.
    Done,
    /// It cannot be done.
    Failed(crate::error::CniError),
}

/// What ADD made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attached {
    /// Host-side interface.
    pub link: String,
    /// Its hardware address.
    pub link_mac: String,
    /// Hardware address inside.
    pub mac: String,
    /// MTU inside, bytes.
    pub mtu: u32,
    /// Addresses with their gateways.
    pub addresses: Vec<AttachedAddress>,
}

/// An address of an attachment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttachedAddress {
    /// The address.
    pub ip: IpAddr,
    /// Its gateway.
    pub gateway: IpAddr,
}
