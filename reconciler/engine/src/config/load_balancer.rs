//! `[load_balancer]`.

use super::{Maglev, optional};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// How a backend is chosen for a new connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// At random, all alike.
    #[default]
    Random,
    /// By a Maglev table, for frontends that clients outside reach: a connection meets the same backend on whichever
    /// node it comes in, and few move when backends come or go. Others choose at random.
    Maglev,
}

/// How clients outside are sent on to backends of other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LbMode {
    /// With an address of this node as source, so that answers come back here.
    #[default]
    Snat,
    /// With their own address (direct server return): the backend's node answers them itself, with the frontend's
    /// address. Every node has to be of a version that knows how, and the network between nodes has to let packets
    /// pass as `dsr_dispatch` makes them, and answers with other nodes' addresses.
    Dsr,
    /// TCP as with `dsr`, all else as with `snat`.
    Hybrid,
}

/// How packets come to a backend that answers clients itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DsrDispatch {
    /// By an IP option (IPv4) or a Destination Options header (IPv6), as Cilium's: of TCP in the packets that open a
    /// connection, of UDP in each. What is too long with it is answered with ICMP.
    #[default]
    Opt,
    /// By an option of the tunnel's header, as Cilium's, with `routing.mode = "tunnel"` and `routing.tunnel_protocol =
    /// "geneve"`: in the same packets; the network between nodes sees nothing of it but Geneve.
    Geneve,
    /// For backends outside the cluster, rather than for those in it: every packet as it came, in another IP header
    /// from this node (IPv4 in IPv4, IPv6 in IPv6). The backend takes that off, and has the frontend's address itself,
    /// for example on its loopback device. A backend's port has to be the frontend's; others, NodePorts and backends in
    /// the cluster are served as with `mode = "snat"`. What is too long with the header is answered with ICMP.
    Ipip,
}

/// What becomes of a packet to a Service without backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NoBackendResponse {
    /// It is dropped, and its sender told: a TCP reset, else ICMP "port unreachable".
    #[default]
    Reject,
    /// It is dropped.
    Drop,
    /// It goes on as if the Service were not there: to the network, or to a process of the node. Where the traffic
    /// policy is `Local` it is dropped.
    Pass,
}

/// Whether drivers serve clients outside, before the stack sees a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Acceleration {
    /// They do not.
    #[default]
    Disabled,
    /// They do (XDP), in the driver of every device; one whose driver cannot is reported as a failure. Some cards lose
    /// their link for a moment when a program is attached.
    Native,
    /// They do where the driver can, but for veth devices, which may lose what they send back; `cilium status` says
    /// why a device is left out.
    BestEffort,
}

/// Services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoadBalancer {
    /// Services are served here: at sockets, for packets of pods, and on the devices for clients outside. `false`
    /// leaves them to a kube-proxy, but for ClusterIPs that pods ask, whose packets are translated here still; the
    /// other keys about where Services are met then have no effect, and pods' traffic goes through the host's stack
    /// (`routing.host_stack`), where kube-proxy's rules are.
    #[schemars(extend("x-impact" = "disruptive"))]
    pub kube_proxy_replacement: bool,
    /// Sockets that connect, or send, to a Service meet a backend there and then, on the node itself and in its pods:
    /// no packet of theirs is translated. Needs a cgroup2 mount (`paths.cgroup_root`). `false`: packets of pods
    /// are translated one by one, and processes of the node itself do not reach Services. Without
    /// `kube_proxy_replacement` it is off.
    #[schemars(extend("x-impact" = "reload"))]
    pub socket: bool,
    /// Only sockets of the node's own network namespace do so; packets of pods are translated one by one.
    #[schemars(extend("x-impact" = "reload"))]
    pub socket_host_namespace_only: bool,
    /// Connected UDP sockets that met a backend through a Service are ended when no Service has it any more, on the
    /// node and in its pods: their owners' next calls fail, and they connect anew.
    #[schemars(extend("x-impact" = "hitless"))]
    pub socket_terminate: bool,
    /// TCP connections are ended likewise, although their backend may still answer.
    #[schemars(extend("x-impact" = "hitless"))]
    pub socket_terminate_tcp: bool,
    /// How a backend is chosen for a new connection.
    #[schemars(extend("x-impact" = "hitless"))]
    pub algorithm: Algorithm,
    /// How clients outside are sent on to backends of other nodes. The annotation
    /// `service.cilium.io/forwarding-mode: dsr` or `snat` of a Service comes before it. Connections keep the way they
    /// began with.
    #[schemars(extend("x-impact" = "hitless"))]
    pub mode: LbMode,
    /// How packets come to a backend that answers clients itself, where `mode` or an annotation asks for DSR, and which
    /// backends those are.
    #[schemars(extend("x-impact" = "disruptive"))]
    pub dsr_dispatch: DsrDispatch,
    /// Clients outside are sent on to backends of other nodes by the drivers of devices (XDP), before the stack sees
    /// a frame, and their answers back. What needs the stack (a tunnel, another device) goes there as without.
    #[schemars(extend("x-impact" = "reload"))]
    pub acceleration: Acceleration,
    /// What becomes of packets to a Service that has no backend. One that has some elsewhere, but none here where its
    /// traffic policy is `Local`, drops them in either case, so that clients try another node.
    #[schemars(extend("x-impact" = "hitless"))]
    pub no_backend_response: NoBackendResponse,
    /// ClusterIPs serve clients outside the cluster too, whose packets to them are dropped otherwise.
    #[schemars(extend("x-impact" = "hitless"))]
    pub external_cluster_ip: bool,
    /// `loadBalancerSourceRanges` hold for NodePorts and external IPs too, not for load balancer addresses alone.
    #[schemars(extend("x-impact" = "hitless"))]
    pub source_ranges_all_types: bool,
    /// First and last port that NodePorts may have. One outside is not served. The host keeps them from its own
    /// connections (`net.ipv4.ip_local_reserved_ports`, beside what is reserved there already).
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
    /// Services whose label `service.kubernetes.io/service-proxy-name` has this value are served, and no others. Empty:
    /// those without that label.
    #[schemars(extend("x-impact" = "disruptive"))]
    pub service_proxy_name: String,
    /// Processes of the node's own network namespace cannot bind a NodePort on the node's addresses, nor a load
    /// balancer's or external address with its port (`EADDRINUSE`): what comes in for it they would never see. Where
    /// sockets meet Services (`socket`).
    #[schemars(extend("x-impact" = "hitless"))]
    pub node_port_bind_protection: bool,
    /// The `healthCheckNodePort` of a Service is answered at its load balancer addresses too.
    #[schemars(extend("x-impact" = "hitless"))]
    pub health_check_load_balancer_ips: bool,
    /// Address and port on which `/healthz` and `/livez` are answered as by kube-proxy, for example `0.0.0.0:10256` or
    /// `[::]:10256`: 503 while the node has not been in sync for a minute, and, `/healthz` alone, while the node is
    /// about to be taken out of the cluster. Empty: not served.
    #[serde(with = "optional")]
    #[schemars(with = "String", extend("x-form" = "address:port", "x-impact" = "hitless"))]
    pub healthz_listen: Option<SocketAddr>,
    /// How Maglev tables are made.
    pub maglev: Maglev,
}

/// What Kubernetes gives NodePorts from by default.
const NODE_PORTS: [u16; 2] = [30_000, 32_767];

impl LoadBalancer {
    /// Whether clients outside are served at ClusterIPs.
    pub fn cluster_ips_outside(&self) -> bool {
        self.kube_proxy_replacement && self.external_cluster_ip
    }

    /// Whether programs of sockets are wanted.
    pub fn at_sockets(&self) -> bool {
        self.kube_proxy_replacement && self.socket
    }

    /// Whether Services that are for this proxy, if said, are served here.
    pub fn is_proxy(&self, named: Option<&str>) -> bool {
        let own = self.service_proxy_name.as_str();
        if own.is_empty() { named.is_none() } else { named == Some(own) }
    }

    /// Where the node's own health is answered.
    pub fn healthz_at(&self) -> Option<SocketAddr> {
        self.healthz_listen.filter(|_| self.kube_proxy_replacement)
    }

    /// Whether programs of drivers are wanted, and what of devices whose driver cannot.
    pub fn at_drivers(&self) -> Acceleration {
        if self.kube_proxy_replacement { self.acceleration } else { Acceleration::Disabled }
    }
}

impl Default for LoadBalancer {
    fn default() -> Self {
        Self {
            kube_proxy_replacement: true,
            socket: true,
            socket_host_namespace_only: false,
            socket_terminate: true,
            socket_terminate_tcp: false,
            algorithm: Algorithm::default(),
            mode: LbMode::default(),
            dsr_dispatch: DsrDispatch::default(),
            acceleration: Acceleration::default(),
            no_backend_response: NoBackendResponse::default(),
            external_cluster_ip: false,
            source_ranges_all_types: false,
            node_port_range: NODE_PORTS,
            node_port_addresses: Vec::new(),
            service_proxy_name: String::new(),
            node_port_bind_protection: true,
            health_check_load_balancer_ips: false,
            healthz_listen: None,
            maglev: Maglev::default(),
        }
    }
}
