//! Objects of a large cluster as text: Services with their backends, and what the agents of other nodes
//! publish. Pure; every name and address follows from a number.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Port of every Service.
pub(crate) const PORT: u16 = 80;
/// Port of their backends.
pub(crate) const TARGET: u16 = 8080;
/// Pods of each remote node.
const PODS_PER_NODE: u32 = 100;
/// Pods of each remote identity.
const PODS_PER_IDENTITY: u32 = 5;
/// Number of the first remote identity.
const FIRST_IDENTITY: u32 = 1_000;
/// Services in one file.
const SERVICES_PER_FILE: u32 = 100;

/// Address of the `n`th Service, from 10.96.1.0.
pub(crate) fn service_ip(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a60_0100 + n)
}

/// Address of the `n`th remote pod: its node's pods are a /24 from 10.128.0.0.
pub(crate) fn remote_pod(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a80_0000 + ((n / PODS_PER_NODE) << 8) + n % PODS_PER_NODE + 2)
}

/// The `backends` remote pods behind the `n`th of many Services.
pub(crate) fn backends_of(n: u32, backends: u32) -> impl Iterator<Item = Ipv4Addr> {
    (0..backends).map(move |i| remote_pod(n * backends + i))
}

/// A Service of type ClusterIP with one TCP port, and an EndpointSlice for each port its backends have.
pub(crate) fn service(name: &str, at: SocketAddrV4, backends: &[SocketAddrV4]) -> String {
    let (ip, port) = (at.ip(), at.port());
    let mut text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{type: ClusterIP, clusterIP: {ip}, clusterIPs: [{ip}], selector: {{app: {name}}}, \
         ports: [{{name: web, port: {port}, protocol: TCP, targetPort: web}}]}}\n"
    );
    let mut by_port: BTreeMap<u16, Vec<&Ipv4Addr>> = BTreeMap::new();
    for backend in backends {
        by_port.entry(backend.port()).or_default().push(backend.ip());
    }
    for (target, addresses) in by_port {
        let _ = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-{target}, namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: IPv4\nports: [{{name: web, port: {target}, protocol: TCP}}]\nendpoints:\n"
        );
        for address in addresses {
            let _ = writeln!(text, "- {{addresses: [{address}], conditions: {{ready: true}}}}");
        }
    }
    text
}

/// Files of Services with backends among the remote pods: name and text of each.
pub(crate) fn services(count: u32, backends: u32) -> impl Iterator<Item = (String, String)> {
    (0..count.div_ceil(SERVICES_PER_FILE)).map(move |file| {
        let of_file = file * SERVICES_PER_FILE..count.min((file + 1) * SERVICES_PER_FILE);
        let texts = of_file.map(|n| {
            let backends: Vec<SocketAddrV4> =
                backends_of(n, backends).map(|ip| SocketAddrV4::new(ip, TARGET)).collect();
            service(&format!("svc{n}"), SocketAddrV4::new(service_ip(n), PORT), &backends)
        });
        (format!("services-{file}.yaml"), texts.collect())
    })
}

/// What agents of other nodes publish for so many pods: a file for each node, endpoint and identity.
pub(crate) fn published(pods: u32) -> impl Iterator<Item = (String, String)> {
    let nodes = (0..pods.div_ceil(PODS_PER_NODE)).map(node);
    let identities = (0..pods.div_ceil(PODS_PER_IDENTITY)).map(identity);
    nodes.chain(identities).chain((0..pods).map(endpoint))
}

fn head(kind: &str, name: &str, namespace: &str, node: u32) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: {kind}\nmetadata:\n  name: {name:?}\n{namespace}  annotations:\n    \
         cilium.io/published-by: \"r{node}\"\n"
    )
}

fn node_ip(node: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0xac14_0001 + node)
}

fn node(n: u32) -> (String, String) {
    let (ip, cidr) = (node_ip(n), Ipv4Addr::from_bits(0x0a80_0000 + (n << 8)));
    let text = head("CiliumNode", &format!("r{n}"), "", n)
        + &format!(
            "spec:\n  addresses:\n  - type: InternalIP\n    ip: \"{ip}\"\n  ipam:\n    podCIDRs:\n    - \"{cidr}/24\"\n"
        );
    (format!("r{n}.ciliumnode.yaml"), text)
}

/// Labels as a pod of a Deployment has them.
fn labels(identity: u32) -> [(String, String); 4] {
    [
        ("k8s:app", format!("app{identity}")),
        ("k8s:io.cilium.k8s.policy.cluster", "test".into()),
        ("k8s:io.cilium.k8s.policy.serviceaccount", "default".into()),
        ("k8s:io.kubernetes.pod.namespace", "default".into()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
}

fn identity(n: u32) -> (String, String) {
    let (number, on) = (FIRST_IDENTITY + n, n * PODS_PER_IDENTITY / PODS_PER_NODE);
    let mut text = head("CiliumIdentity", &number.to_string(), "", on) + "security-labels:\n";
    for (key, value) in labels(n) {
        let _ = writeln!(text, "  {key:?}: {value:?}");
    }
    (format!("r{on}.ciliumidentity.{number}.yaml"), text)
}

fn endpoint(n: u32) -> (String, String) {
    let (on, of) = (n / PODS_PER_NODE, n / PODS_PER_IDENTITY);
    let name = format!("pod{n}");
    let mut text = head("CiliumEndpoint", &name, "  namespace: \"default\"\n", on);
    let _ = writeln!(
        text,
        "status:\n  id: {}\n  state: ready\n  identity:\n    id: {}\n    labels:",
        n % PODS_PER_NODE + 1,
        FIRST_IDENTITY + of
    );
    for (key, value) in labels(of) {
        let _ = writeln!(text, "    - \"{key}={value}\"");
    }
    let _ = writeln!(
        text,
        "  networking:\n    node: \"{}\"\n    addressing:\n    - ipv4: \"{}\"",
        node_ip(on),
        remote_pod(n)
    );
    (format!("r{on}.ciliumendpoint.default.{name}.yaml"), text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn addresses_are_apart() {
        let services: BTreeSet<Ipv4Addr> = (0..10_000).map(service_ip).collect();
        let pods: BTreeSet<Ipv4Addr> = (0..50_000).map(remote_pod).collect();
        assert_eq!((services.len(), pods.len()), (10_000, 50_000));
        assert!(services.is_disjoint(&pods));
        assert!(services.iter().all(|ip| ip.octets()[..2] == [10, 96]));
    }

    #[test]
    fn every_object_is_valid() {
        let files = services(250, 3).chain(published(300));
        let mut objects = 0;
        for (name, text) in files {
            let file = cilium_crds::read_file(text.as_bytes(), &name);
            assert!(file.broken.is_none(), "{name}");
            for reading in file.readings {
                let cilium_crds::object::Reading::Object(object, _) = reading else {
                    panic!("{name}: no object")
                };
                assert!(object.valid && object.problems.is_empty(), "{name}: {:?}", object.problems);
                objects += 1;
            }
        }
        assert_eq!(objects, 2 * 250 + 3 + 60 + 300);
    }
}
