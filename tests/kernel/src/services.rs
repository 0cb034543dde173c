//! Manifests of Services: each with a port for TCP and one for UDP, in both families, and with the
//! EndpointSlices of its backends. Addresses and NodePorts are made of a number per Service.

use crate::{Node, Pod};
use std::fmt::Write as _;
use std::net::IpAddr;

/// Port of a Service, at its own addresses.
pub const PORT: u16 = 80;
/// Port of its backends.
pub const TARGET: u16 = 7000;
/// Of [`balancer`], by family.
pub const BALANCERS: [&str; 2] = ["203.0.113.0/24", "2001:db8:99::/64"];
/// Of [`external`], by family.
pub const EXTERNALS: [&str; 2] = ["198.51.100.0/24", "2001:db8:51::/64"];
/// Of [`cluster_ip`], by family.
pub const CLUSTER_IPS: [&str; 2] = ["10.96.0.0/16", "fd96::/64"];

/// A literal address.
///
/// # Panics
/// It is none.
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// ClusterIPs of the Service `n`.
pub fn cluster_ip(n: u8) -> [IpAddr; 2] {
    [ip(&format!("10.96.0.{n}")), ip(&format!("fd96::{n}"))]
}

/// A load balancer's addresses for the Service `n`.
pub fn balancer(n: u8) -> [IpAddr; 2] {
    [ip(&format!("203.0.113.{n}")), ip(&format!("2001:db8:99::{n}"))]
}

/// External IPs of the Service `n`.
pub fn external(n: u8) -> [IpAddr; 2] {
    [ip(&format!("198.51.100.{n}")), ip(&format!("2001:db8:51::{n}"))]
}

/// NodePort of the Service `n`.
pub fn node_port(n: u8) -> u16 {
    30_000 + u16::from(n)
}

/// What serves.
#[derive(Clone, Debug)]
pub struct Backend {
    /// By family.
    pub addresses: [IpAddr; 2],
    /// Name of its node, unless outside of the cluster.
    pub node: Option<String>,
}

impl From<&Pod> for Backend {
    fn from(pod: &Pod) -> Self {
        Self { addresses: pod.addresses(), node: Some(format!("n{}", pod.node + 1)) }
    }
}

/// A process of the node itself.
impl From<&Node> for Backend {
    fn from(node: &Node) -> Self {
        Self { addresses: node.addresses(), node: Some(node.name.clone()) }
    }
}

/// Outside of the cluster.
impl From<[IpAddr; 2]> for Backend {
    fn from(addresses: [IpAddr; 2]) -> Self {
        Self { addresses, node: None }
    }
}

/// A Service to be written. Of type LoadBalancer if it has a balancer's addresses, else NodePort if it has such
/// a port, else ClusterIP.
#[derive(Clone, Debug)]
pub struct Service<'a> {
    /// Name, in namespace `default`.
    pub name: &'a str,
    /// More fields of its metadata, separated by commas.
    pub metadata: &'a str,
    /// ClusterIPs; a load balancer without pods needs none.
    pub cluster_ips: Option<[IpAddr; 2]>,
    /// NodePort of both protocols.
    pub node_port: Option<u16>,
    /// Addresses of a load balancer.
    pub balancer: Option<[IpAddr; 2]>,
    /// External IPs.
    pub external: Option<[IpAddr; 2]>,
    /// In one EndpointSlice a family.
    pub backends: Vec<Backend>,
    /// Port of the backends.
    pub target: u16,
    /// More lines of its spec, each indented by two blanks.
    pub spec: &'a str,
}

fn quoted(ips: [IpAddr; 2]) -> String {
    ips.map(|ip| format!("\"{ip}\"")).join(", ")
}

impl<'a> Service<'a> {
    /// One with ClusterIPs alone.
    pub fn new(name: &'a str, cluster_ips: [IpAddr; 2], backends: &[&Pod]) -> Self {
        Self {
            name,
            metadata: "",
            cluster_ips: Some(cluster_ips),
            node_port: None,
            balancer: None,
            external: None,
            backends: backends.iter().map(|pod| Backend::from(*pod)).collect(),
            target: TARGET,
            spec: "",
        }
    }

    /// One with every kind of frontend, each made of `n`.
    pub fn numbered(name: &'a str, n: u8, backends: &[&Pod]) -> Self {
        Self {
            node_port: Some(node_port(n)),
            balancer: Some(balancer(n)),
            external: Some(external(n)),
            ..Self::new(name, cluster_ip(n), backends)
        }
    }

    /// Its documents, each begun by `---`.
    pub fn manifest(&self) -> String {
        let Self { name, metadata, cluster_ips, node_port, balancer, external, target, spec, .. } = self;
        let kind = match (balancer, node_port) {
            (Some(_), _) => "LoadBalancer",
            (None, Some(_)) => "NodePort",
            (None, None) => "ClusterIP",
        };
        let more = if metadata.is_empty() { "" } else { ", " };
        let ports = ["TCP", "UDP"].map(|proto| {
            let own = node_port.map_or_else(String::new, |number| format!(", nodePort: {number}"));
            let name = proto.to_lowercase();
            format!("{{name: {name}, port: {PORT}, protocol: {proto}, targetPort: {target}{own}}}")
        });
        let mut text = format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default{more}{metadata}}}\nspec:\n  \
             type: {kind}\n  ipFamilyPolicy: RequireDualStack\n  ports: [{}]\n",
            ports.join(", ")
        );
        if let Some(ips) = cluster_ips {
            let _ = writeln!(text, "  clusterIP: {}\n  clusterIPs: [{}]", ips[0], quoted(*ips));
        }
        if let Some(external) = external {
            let _ = writeln!(text, "  externalIPs: [{}]", quoted(*external));
        }
        text.push_str(spec);
        if let Some(balancer) = balancer {
            let ingress = balancer.map(|ip| format!("{{ip: \"{ip}\"}}")).join(", ");
            let _ = writeln!(text, "status: {{loadBalancer: {{ingress: [{ingress}]}}}}");
        }
        text + &self.slices()
    }

    fn slices(&self) -> String {
        let Self { name, target, .. } = self;
        let slice = |family: usize| {
            let endpoint = |backend: &Backend| {
                let node =
                    backend.node.as_ref().map_or_else(String::new, |node| format!(", nodeName: {node}"));
                format!("{{addresses: [\"{}\"]{node}}}", backend.addresses[family])
            };
            let endpoints: Vec<String> = self.backends.iter().map(endpoint).collect();
            let (version, kind) = [("ipv4", "IPv4"), ("ipv6", "IPv6")][family];
            format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-{version}, \
                 namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: {kind}\nports: \
                 [{{name: tcp, port: {target}, protocol: TCP}}, {{name: udp, port: {target}, protocol: \
                 UDP}}]\nendpoints: [{}]\n",
                endpoints.join(", "),
            )
        };
        [0, 1].map(slice).concat()
    }
}

/// The Pod `near` of the first node, whose [`TARGET`] is asked at a port of its node, too.
pub fn with_host_port(host_port: u16) -> String {
    let ports = ["TCP", "UDP"]
        .map(|proto| format!("{{containerPort: {TARGET}, hostPort: {host_port}, protocol: {proto}}}"));
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: near, namespace: default}}\nspec: {{nodeName: n1, containers: \
         [{{name: c, ports: [{}]}}]}}\n",
        ports.join(", ")
    )
}
