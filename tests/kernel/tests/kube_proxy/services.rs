//! Services of the test, each with one backend, so that who answers is known.

use cilium_tests_kernel::Pod;
use std::net::IpAddr;

/// Port of the Services.
pub(crate) const PORT: u16 = 80;
/// Port of their backends.
pub(crate) const TARGET: u16 = 7000;

/// What serves.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    /// By family.
    pub(crate) addresses: [IpAddr; 2],
    /// Where, unless outside of the cluster.
    pub(crate) node: Option<usize>,
}

impl From<&Pod> for Backend {
    fn from(pod: &Pod) -> Self {
        Self { addresses: [pod.ipv4, pod.ipv6], node: Some(pod.node) }
    }
}

/// A Service of type LoadBalancer with addresses made of `n`.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) n: u8,
    /// Its external traffic policy is `Local`.
    pub(crate) local: bool,
    pub(crate) backend: Backend,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

pub(crate) fn cluster_ip(n: u8) -> [IpAddr; 2] {
    [ip(&format!("10.96.0.{n}")), ip(&format!("fd96::{n}"))]
}

/// The load balancer's address.
pub(crate) fn external(n: u8) -> [IpAddr; 2] {
    [ip(&format!("203.0.113.{n}")), ip(&format!("2001:db8:99::{n}"))]
}

pub(crate) fn node_port(n: u8) -> u16 {
    30_000 + u16::from(n)
}

impl Service {
    /// The Service and its EndpointSlices.
    pub(crate) fn manifest(&self) -> String {
        let (name, n) = (self.name, self.n);
        let quoted = |ips: [IpAddr; 2]| ips.map(|ip| format!("\"{ip}\"")).join(", ");
        let ingress = external(n).map(|ip| format!("{{ip: \"{ip}\"}}")).join(", ");
        let ports = ["TCP", "UDP"].map(|proto| {
            format!(
                "{{name: {}, port: {PORT}, protocol: {proto}, targetPort: {TARGET}, nodePort: {}}}",
                proto.to_lowercase(),
                node_port(n)
            )
        });
        let policy = if self.local { "Local" } else { "Cluster" };
        let mut text = format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  type: \
             LoadBalancer\n  externalTrafficPolicy: {policy}\n  clusterIP: {}\n  clusterIPs: [{}]\n  ipFamilyPolicy: \
             RequireDualStack\n  ports: [{}]\nstatus: {{loadBalancer: {{ingress: [{ingress}]}}}}\n",
            cluster_ip(n)[0],
            quoted(cluster_ip(n)),
            ports.join(", ")
        );
        for (family, addr) in [("IPv4", self.backend.addresses[0]), ("IPv6", self.backend.addresses[1])] {
            let node =
                self.backend.node.map_or_else(String::new, |node| format!(", nodeName: n{}", node + 1));
            text.push_str(&format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-{}, namespace: \
                 default, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: {family}\nports: [{{name: tcp, \
                 port: {TARGET}, protocol: TCP}}, {{name: udp, port: {TARGET}, protocol: UDP}}]\nendpoints: [{{addresses: \
                 [\"{addr}\"]{node}}}]\n",
                family.to_lowercase()
            ));
        }
        text
    }
}
