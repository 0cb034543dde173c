//! `[routing]`.

use super::optional;
use ipnet::{Ipv4Net, Ipv6Net};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

/// How packets reach pods of other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RoutingMode {
    /// Inside UDP between nodes: needs nothing of the network but that nodes reach each other.
    #[default]
    Tunnel,
    /// As they are: the network, or `auto_direct_node_routes`, knows the way to every pod CIDR.
    Native,
}

/// Encapsulation of the overlay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TunnelProtocol {
    /// VXLAN, with the sender's identity as network identifier.
    #[default]
    Vxlan,
    /// Geneve, with the sender's identity as network identifier. Needs a kernel with `CONFIG_GENEVE`.
    Geneve,
}

impl TunnelProtocol {
    /// UDP port where none is configured: for VXLAN the kernel's own (`vxlan_port` in drivers/net/vxlan), which upstream
    /// uses too; for Geneve IANA's (RFC 8926, section 3.3).
    const fn port(self) -> u16 {
        match self {
            Self::Vxlan => 8472,
            Self::Geneve => 6081,
        }
    }
}

/// Name of a network device: 1 to 15 bytes without `/`, `:` or white space (the kernel's `dev_valid_name`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("x-form" = "device"))]
pub struct Device(String);

/// A text that cannot name a network device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` cannot name a network device (1 to 15 bytes, no `/`, `:` or white space)")]
pub struct NotADevice(String);

impl TryFrom<String> for Device {
    type Error = NotADevice;

    fn try_from(text: String) -> Result<Self, NotADevice> {
        let valid = (1..=15).contains(&text.len())
            && text != "."
            && text != ".."
            && !text.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace());
        if valid { Ok(Self(text)) } else { Err(NotADevice(text)) }
    }
}

impl FromStr for Device {
    type Err = NotADevice;

    fn from_str(text: &str) -> Result<Self, NotADevice> {
        text.to_owned().try_into()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.0
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Deref for Device {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// How packets reach pods of other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Routing {
    /// Overlay or the network's own routes.
    #[schemars(extend("x-impact" = "disruptive"))]
    pub mode: RoutingMode,
    /// Encapsulation, for `mode = "tunnel"`: the same on all nodes. Between nodes that differ nothing passes.
    #[schemars(extend("x-impact" = "disruptive"))]
    pub tunnel_protocol: TunnelProtocol,
    /// UDP port of the overlay, the same on all nodes. 0: the protocol's own, 8472 for VXLAN and 6081 for Geneve.
    #[schemars(range(min = 0, max = 65535), extend("x-impact" = "disruptive"))]
    pub tunnel_port: u16,
    /// IPv4 prefix whose addresses pods reach as themselves: nothing towards it is masqueraded. Empty: none.
    #[serde(with = "optional")]
    #[schemars(with = "String", extend("x-form" = "IPv4 prefix", "x-impact" = "reload"))]
    pub ipv4_native_cidr: Option<Ipv4Net>,
    /// IPv6 prefix whose addresses pods reach as themselves: nothing towards it is masqueraded. Empty: none.
    #[serde(with = "optional")]
    #[schemars(with = "String", extend("x-form" = "IPv6 prefix", "x-impact" = "reload"))]
    pub ipv6_native_cidr: Option<Ipv6Net>,
    /// For `mode = "native"`: a route per other node's pod CIDRs through that node's address. Nodes must
    /// share a link.
    #[schemars(extend("x-impact" = "reload"))]
    pub auto_direct_node_routes: bool,
    /// Devices that carry traffic of the cluster. Empty: those that hold the node's addresses or a default
    /// route.
    #[schemars(extend("x-impact" = "reload"))]
    pub devices: Vec<Device>,
    /// What pods send beyond the pods of this node and the overlay, and what comes to them from there, goes through
    /// the host's stack, so that netfilter (iptables, nftables) sees it: slower, and its FORWARD rules must let it pass.
    /// Without `load_balancer.kube_proxy_replacement` it is on in any case, for kube-proxy's rules.
    #[schemars(extend("x-impact" = "reload"))]
    pub host_stack: bool,
    /// MTU of the network between nodes, in bytes; pods get this less the encapsulation. 0: the least of the
    /// devices'.
    #[schemars(range(min = 0, max = 65535), extend("x-impact" = "hitless"))]
    pub mtu: u16,
}

impl Routing {
    /// UDP port of the overlay.
    pub const fn overlay_port(&self) -> u16 {
        match self.tunnel_port {
            0 => self.tunnel_protocol.port(),
            set => set,
        }
    }
}
