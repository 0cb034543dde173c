//! `[load_balancer]`.

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a backend is chosen for a new connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// At random, all alike.
    #[default]
    Random,
}

/// Services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoadBalancer {
    /// Services are translated here: for traffic of pods, and on the devices for clients outside. `false` leaves
    /// them to kube-proxy.
    #[schemars(extend("x-impact" = "disruptive"))]
    pub kube_proxy_replacement: bool,
    /// How a backend is chosen for a new connection.
    #[schemars(extend("x-impact" = "hitless"))]
    pub algorithm: Algorithm,
    /// ClusterIPs serve clients outside the cluster too, whose packets to them are dropped otherwise.
    #[schemars(extend("x-impact" = "hitless"))]
    pub external_cluster_ip: bool,
    /// `loadBalancerSourceRanges` hold for NodePorts and external IPs too, not for load balancer addresses alone.
    #[schemars(extend("x-impact" = "hitless"))]
    pub source_ranges_all_types: bool,
    /// First and last port that NodePorts may have. One outside is not served.
    #[schemars(
        with = "Vec<u16>",
        inner(range(min = 1, max = 65535)),
        extend("x-impact" = "hitless", "minItems" = 2, "maxItems" = 2)
    )]
    pub node_port_range: [u16; 2],
    /// Prefixes of the node's addresses that NodePorts and hostPorts are served on. Empty: all addresses of its
    /// devices.
    #[schemars(with = "Vec<String>", extend("x-form" = "prefix", "x-impact" = "reload"))]
    pub node_port_addresses: Vec<IpNet>,
}

/// What Kubernetes gives NodePorts from by default.
const NODE_PORTS: [u16; 2] = [30_000, 32_767];

impl Default for LoadBalancer {
    fn default() -> Self {
        Self {
            kube_proxy_replacement: true,
            algorithm: Algorithm::default(),
            external_cluster_ip: false,
            source_ranges_all_types: false,
            node_port_range: NODE_PORTS,
            node_port_addresses: Vec::new(),
        }
    }
}
