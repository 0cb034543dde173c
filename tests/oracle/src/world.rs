//! The world as the objects tell it: pods, nodes, Services, groups of prefixes, and the policies in force.
//!
//! Read once from untyped objects; [`crate::seen`] answers who somebody is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use crate::config::Config;
use crate::fails_closed::in_force;
use crate::labels::{K8S, Label, NAMESPACE_LABELS, NODE, is_identity_relevant, of_pod};
use crate::packet::Protocol;
use crate::policies;
use crate::read::{Finding, name_of, strings};
use crate::rule::{Isolation, Rule};

/// On a Pod, Namespace or Node: the cluster it is of, if not this one. Only this oracle knows it.
pub const CLUSTER_ANNOTATION: &str = "oracle.cilium.io/cluster";

/// The prefix of the label that an address of a CiliumCIDRGroup has for the group's name.
pub(crate) const GROUP_NAME: &str = "io.cilium.policy.cidrgroupname";

/// Everything a verdict depends on but the packet.
#[derive(Debug)]
pub struct World {
    /// The node asked: who [`crate::Party::Host`] is.
    pub node: String,
    /// The settings.
    pub config: Config,
    pub(crate) pods: Vec<Pod>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) services: Vec<Service>,
    pub(crate) groups: Vec<CidrGroup>,
    /// Addresses behind the Service `default/kubernetes`.
    pub(crate) api_servers: Vec<IpAddr>,
    /// In the order they are asked.
    pub(crate) rules: Vec<Rule>,
    pub(crate) isolations: Vec<Isolation>,
    findings: Vec<(String, Finding)>,
}

#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) cluster: String,
    pub(crate) node: Option<String>,
    /// In its node's network namespace: it has the node's addresses and identity.
    pub(crate) host_network: bool,
    pub(crate) addresses: Vec<IpAddr>,
    /// Name, protocol and number of its containers' named ports.
    pub(crate) ports: Vec<(String, Protocol, u16)>,
    pub(crate) labels: Vec<Label>,
    /// Of its namespace, by their own keys: those that are part of its identity.
    pub(crate) namespace_labels: Vec<Label>,
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) cluster: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) labels: Vec<Label>,
}

#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) labels: Vec<Label>,
    /// `None`: a Service without selector.
    pub(crate) selector: Option<Vec<(String, String)>>,
    /// From its slices.
    pub(crate) addresses: Vec<IpAddr>,
}

#[derive(Debug, Clone)]
pub(crate) struct CidrGroup {
    pub(crate) name: String,
    pub(crate) labels: Vec<Label>,
    pub(crate) prefixes: Vec<IpNet>,
}

impl World {
    /// Reads the objects. What is wrong with policies among them is in [`World::findings`]; kinds it
    /// does not know are left alone.
    pub fn new(objects: &[Value], config: Config, node: impl Into<String>) -> World {
        let of = |kind: &'static str| objects.iter().filter(move |object| object["kind"] == kind);
        let namespaces = of("Namespace").map(|namespace| {
            let key = (cluster_of(namespace, &config), name_of(namespace).1);
            (key, strings(&namespace["metadata"]["labels"]))
        });
        let namespaces: BTreeMap<_, _> = namespaces.collect();
        let pods = of("Pod").map(|pod| read_pod(pod, &namespaces, &config)).collect();
        let nodes = of("Node").map(|node| read_node(node, &config)).collect();
        let groups = of("CiliumCIDRGroup").map(read_group).collect();

        let mut behind: BTreeMap<(String, String), Vec<IpAddr>> = BTreeMap::new();
        for slice in of("EndpointSlice") {
            if let Some(service) = slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str() {
                let addresses = addresses_of(&slice["endpoints"], |endpoint| &endpoint["addresses"]);
                behind.entry((name_of(slice).0, service.to_owned())).or_default().extend(addresses);
            }
        }
        let api_servers =
            behind.get(&("default".to_owned(), "kubernetes".to_owned())).cloned().unwrap_or_default();
        let services = of("Service").map(|service| read_service(service, &behind)).collect();

        let mut world = World {
            node: node.into(),
            pods,
            nodes,
            services,
            groups,
            api_servers,
            rules: Vec::new(),
            isolations: Vec::new(),
            findings: Vec::new(),
            config,
        };
        for object in objects {
            let Some((id, read)) = policies::read(object, &world.config) else { continue };
            let (rules, isolations, findings) = in_force(read, world.config.invalid);
            world.rules.extend(rules);
            world.isolations.extend(isolations);
            world
                .findings
                .extend(findings.into_iter().map(|finding| (id.to_string().trim_end().to_owned(), finding)));
        }
        // Objects come in any order; equal ranks are tried by kind, namespace, name, then place.
        world.rules.sort_by(|a, b| {
            let names =
                (&a.id.kind, &a.id.namespace, &a.id.name).cmp(&(&b.id.kind, &b.id.namespace, &b.id.name));
            a.rank.cmp(&b.rank).then(names).then(a.place.cmp(&b.place))
        });
        world.isolations.sort_by(|a, b| a.id.cmp(&b.id));
        world.findings.sort_by(|a, b| a.0.cmp(&b.0));
        world
    }

    /// What is wrong with the policies, each with the object it is of: `KIND NAMESPACE/NAME`.
    pub fn findings(&self) -> &[(String, Finding)] {
        &self.findings
    }
}

fn cluster_of(object: &Value, config: &Config) -> String {
    let named = object["metadata"]["annotations"][CLUSTER_ANNOTATION].as_str();
    named.unwrap_or(&config.cluster).to_owned()
}

type NamespaceLabels = BTreeMap<(String, String), Vec<(String, String)>>;

fn read_pod(pod: &Value, namespaces: &NamespaceLabels, config: &Config) -> Pod {
    let (namespace, name) = name_of(pod);
    let cluster = cluster_of(pod, config);
    let spec = &pod["spec"];
    let own = strings(&pod["metadata"]["labels"]);
    let of_namespace = namespaces.get(&(cluster.clone(), namespace.clone())).cloned().unwrap_or_default();
    let account = spec["serviceAccountName"].as_str().unwrap_or_default();
    let relevant = |(key, _): &&(String, String)| is_identity_relevant(&format!("{NAMESPACE_LABELS}.{key}"));
    let labels = of_pod(&own, &namespace, &of_namespace, account, &cluster);
    let mut addresses = addresses_of(&pod["status"]["podIPs"], |ip| &ip["ip"]);
    addresses.extend(addresses_of(&pod["status"]["podIP"], |ip| ip));
    let ports = spec["containers"].as_array().into_iter().flatten();
    let ports = ports.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    Pod {
        labels,
        namespace_labels: of_namespace.iter().filter(relevant).map(|(k, v)| Label::new(K8S, k, v)).collect(),
        namespace,
        name,
        cluster,
        node: spec["nodeName"].as_str().map(str::to_owned),
        host_network: spec["hostNetwork"] == true,
        addresses,
        ports: ports.filter_map(read_container_port).collect(),
    }
}

fn read_container_port(port: &Value) -> Option<(String, Protocol, u16)> {
    let protocol = match port["protocol"].as_str() {
        None | Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(_) => return None,
    };
    let number = u16::try_from(port["containerPort"].as_u64()?).ok()?;
    Some((port["name"].as_str()?.to_owned(), protocol, number))
}

fn read_node(node: &Value, config: &Config) -> Node {
    let labels = strings(&node["metadata"]["labels"]);
    let mut addresses = Vec::new();
    for address in node["status"]["addresses"].as_array().into_iter().flatten() {
        addresses.extend(addresses_of(&address["address"], |address| address));
    }
    Node {
        name: name_of(node).1,
        cluster: cluster_of(node, config),
        addresses,
        labels: labels.into_iter().map(|(key, value)| Label::new(NODE, key, value)).collect(),
    }
}

fn read_service(service: &Value, behind: &BTreeMap<(String, String), Vec<IpAddr>>) -> Service {
    let (namespace, name) = name_of(service);
    let labels = strings(&service["metadata"]["labels"]);
    let selector = strings(&service["spec"]["selector"]);
    Service {
        labels: labels.into_iter().map(|(key, value)| Label::new(K8S, key, value)).collect(),
        selector: Some(selector).filter(|selector| !selector.is_empty()),
        addresses: behind.get(&(namespace.clone(), name.clone())).cloned().unwrap_or_default(),
        namespace,
        name,
    }
}

fn read_group(group: &Value) -> CidrGroup {
    let name = name_of(group).1;
    let labels = strings(&group["metadata"]["labels"]);
    let prefixes = group["spec"]["externalCIDRs"].as_array().into_iter().flatten();
    CidrGroup {
        labels: labels.into_iter().map(|(key, value)| Label::new(K8S, key, value)).collect(),
        prefixes: prefixes.filter_map(|prefix| policies::prefix(prefix.as_str()?)).collect(),
        name,
    }
}

/// The addresses in a value: itself, or (at `member`) those of the items of a list.
fn addresses_of<'a>(value: &'a Value, member: impl Fn(&'a Value) -> &'a Value) -> Vec<IpAddr> {
    let Some(items) = value.as_array() else {
        return value.as_str().and_then(|text| text.parse().ok()).into_iter().collect();
    };
    let texts = items.iter().map(member).flat_map(|found| match found {
        Value::Array(several) => several.iter().collect(),
        one => vec![one],
    });
    texts.filter_map(|text| text.as_str()?.parse().ok()).collect()
}
