//! Manifests of Services: each with a port for TCP and one for UDP, in both families, and with the
//! EndpointSlices of its backends.

use crate::Pod;
use std::fmt::Write as _;
use std::net::IpAddr;

/// Port of a Service, at its own addresses.
pub const PORT: u16 = 80;
/// Port of its backends.
pub const TARGET: u16 = 7000;

/// A Service to be written. Of type LoadBalancer if it has a balancer's addresses, else NodePort if it has such
/// a port, else ClusterIP.
#[derive(Clone, Debug)]
pub struct Service<'a> {
    /// Name, in namespace `default`.
    pub name: &'a str,
    /// ClusterIPs.
    pub cluster_ips: [IpAddr; 2],
    /// NodePort of both protocols.
    pub node_port: Option<u16>,
    /// Addresses of a load balancer.
    pub balancer: Option<[IpAddr; 2]>,
    /// External IPs.
    pub external: Option<[IpAddr; 2]>,
    /// Backends, by node names.
    pub backends: &'a [&'a Pod],
    /// More lines of its spec, each indented by two blanks.
    pub spec: &'a str,
}

fn quoted(ips: [IpAddr; 2]) -> String {
    ips.map(|ip| format!("\"{ip}\"")).join(", ")
}

impl<'a> Service<'a> {
    /// One with ClusterIPs alone.
    pub fn new(name: &'a str, cluster_ips: [IpAddr; 2], backends: &'a [&'a Pod]) -> Self {
        Self { name, cluster_ips, node_port: None, balancer: None, external: None, backends, spec: "" }
    }

    /// Its documents, each begun by `---`.
    pub fn manifest(&self) -> String {
        let Self { name, cluster_ips, node_port, balancer, external, spec, .. } = self;
        let kind = match (balancer, node_port) {
            (Some(_), _) => "LoadBalancer",
            (None, Some(_)) => "NodePort",
            (None, None) => "ClusterIP",
        };
        let ports = ["TCP", "UDP"].map(|proto| {
            let own = node_port.map_or_else(String::new, |number| format!(", nodePort: {number}"));
            let name = proto.to_lowercase();
            format!("{{name: {name}, port: {PORT}, protocol: {proto}, targetPort: {TARGET}{own}}}")
        });
        let mut text = format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  type: {kind}\n  \
             clusterIP: {}\n  clusterIPs: [{}]\n  ipFamilyPolicy: RequireDualStack\n  ports: [{}]\n",
            cluster_ips[0],
            quoted(*cluster_ips),
            ports.join(", ")
        );
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
        let families = [("IPv4", (|pod| pod.ipv4) as fn(&Pod) -> IpAddr), ("IPv6", |pod| pod.ipv6)];
        let slice = |(family, of): (&str, fn(&Pod) -> IpAddr)| {
            let endpoint =
                |pod: &&Pod| format!("{{addresses: [\"{}\"], nodeName: n{}}}", of(pod), pod.node + 1);
            let endpoints: Vec<String> = self.backends.iter().map(endpoint).collect();
            format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-{}, namespace: \
                 default, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: {family}\nports: [{{name: \
                 tcp, port: {TARGET}, protocol: TCP}}, {{name: udp, port: {TARGET}, protocol: UDP}}]\nendpoints: \
                 [{}]\n",
                family.to_lowercase(),
                endpoints.join(", "),
                name = self.name,
            )
        };
        families.map(slice).concat()
    }
}
