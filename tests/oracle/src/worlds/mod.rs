//! Random worlds for property tests: few names, so that selectors, prefixes and ports often meet.
//!
//! Every member of the policy APIs that is evaluated here is generated ([`policy`]); an object can then
//! be damaged ([`Damage`]). What is generated is valid unless damaged. For tests only.

mod damage;
mod policies;

use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

pub use damage::{Damage, damage};
pub use policies::{allow, deny, policy};

use crate::config::{AllowLocalhost, Config, Enforcement, Invalid};
use crate::packet::{Family, Packet, Party, Protocol, Reserved};
use crate::world::{CLUSTER_ANNOTATION, World};

pub(crate) const NAMESPACES: [&str; 3] = ["red", "blue", "green"];

/// Objects and settings, before they are a [`World`]. The node asked is `here`.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Nodes, namespaces, pods, Services, slices, groups, then policies.
    pub objects: Vec<Value>,
    /// The settings.
    pub config: Config,
}

impl Draft {
    /// The world they make.
    pub fn world(&self) -> World {
        World::new(&self.objects, self.config.clone(), "here")
    }

    /// With one more object.
    #[must_use]
    pub fn with(&self, object: Value) -> Draft {
        let mut draft = self.clone();
        draft.objects.push(object);
        draft
    }

    /// Whoever can be one end of a packet.
    pub fn parties(&self) -> Vec<Party> {
        let pods = self.objects.iter().filter(|object| object["kind"] == "Pod");
        let name =
            |pod: &Value, member: &str| pod["metadata"][member].as_str().unwrap_or_default().to_owned();
        let mut parties: Vec<Party> =
            pods.map(|pod| Party::pod(&name(pod, "namespace"), &name(pod, "name"))).collect();
        parties.extend([Party::Host, Party::Node("there".to_owned())]);
        parties.push(Party::Reserved { identity: Reserved::Health, address: None });
        parties.extend(ADDRESSES.iter().filter_map(|text| text.parse::<IpAddr>().ok()).map(Party::Address));
        parties
    }

    /// One question for every pair of parties, at least one of them of the node asked or a pod, and every
    /// protocol and port that something here may speak of.
    pub fn packets(&self) -> Vec<Packet> {
        let parties = self.parties();
        let mut packets = Vec::new();
        for from in &parties {
            for to in &parties {
                let local = |party: &Party| !matches!(party, Party::Address(_) | Party::Node(_));
                if !local(from) && !local(to) {
                    continue;
                }
                for (protocol, port) in PORTS {
                    let family = match (from, to, protocol) {
                        (_, _, Protocol::IcmpV6) => Family::V6,
                        (Party::Address(IpAddr::V6(_)), ..) | (_, Party::Address(IpAddr::V6(_)), _) => {
                            Family::V6
                        }
                        _ => Family::V4,
                    };
                    let fits = |party: &Party| !matches!(party, Party::Address(a) if !family.has(a));
                    if fits(from) && fits(to) && !(family == Family::V6 && protocol == Protocol::Icmp) {
                        packets.push(Packet { from: from.clone(), to: to.clone(), protocol, port, family });
                    }
                }
            }
        }
        packets
    }
}

/// Protocols and ports at and beside what policies name.
pub const PORTS: [(Protocol, u16); 14] = [
    (Protocol::Tcp, 79),
    (Protocol::Tcp, 80),
    (Protocol::Tcp, 81),
    (Protocol::Tcp, 8080),
    (Protocol::Udp, 53),
    (Protocol::Udp, 80),
    (Protocol::Sctp, 80),
    (Protocol::Sctp, 8080),
    (Protocol::Icmp, 0),
    (Protocol::Icmp, 8),
    (Protocol::IcmpV6, 1),
    (Protocol::IcmpV6, 128),
    (Protocol::Other(47), 0),
    (Protocol::Other(112), 0),
];

/// Addresses outside, in and beside the prefixes that policies name; the first may be an API server's.
const ADDRESSES: [&str; 6] =
    ["198.51.100.6", "20.0.0.1", "20.1.0.1", "20.1.1.1", "2001:db8::1", "2001:db8:1::1"];

/// Where an API server may be: outside, and at each node.
const API_SERVERS: [&str; 3] = ["198.51.100.6", "192.168.0.1", "192.168.0.2"];

/// A world with one to six policies.
pub fn drafts() -> impl Strategy<Value = Draft> {
    let policies = prop::collection::vec(policy(), 1..=6);
    let api_server = select(API_SERVERS.to_vec());
    (api_server, pods(), objects(), policies, configs()).prop_map(
        |(api_server, pods, objects, policies, config)| {
            let mut all = surroundings(api_server);
            all.extend(pods);
            all.extend(objects);
            all.extend(policies);
            let mut draft = Draft { objects: all, config };
            name_all(&mut draft.objects);
            draft
        },
    )
}

/// Gives every object of a kind a name of its own, in the order they are in; the one
/// BaselineAdminNetworkPolicy that may be is `default`, others are left out.
fn name_all(objects: &mut Vec<Value>) {
    let mut baseline = 0;
    objects.retain(|object| {
        baseline += usize::from(object["kind"] == "BaselineAdminNetworkPolicy");
        object["kind"] != "BaselineAdminNetworkPolicy" || baseline == 1
    });
    for (n, object) in objects.iter_mut().enumerate() {
        let name = &mut object["metadata"]["name"];
        if name.is_null() {
            *name = json!(format!("n{n}"));
        }
    }
}

fn configs() -> impl Strategy<Value = Config> {
    let enforcement = prop_oneof![
        8 => Just(Enforcement::Default),
        1 => Just(Enforcement::Always),
        1 => Just(Enforcement::Never),
    ];
    let localhost = select(vec![AllowLocalhost::Auto, AllowLocalhost::Always, AllowLocalhost::Policy]);
    let flags = any::<[bool; 4]>();
    (enforcement, localhost, flags).prop_map(|(enforcement, allow_localhost, [nodes, pods, local, host])| {
        Config {
            enforcement,
            allow_localhost,
            cidr_matches_nodes: nodes,
            cidr_matches_pods: pods,
            default_local_cluster: local,
            host_firewall: host,
            cluster: "default".to_owned(),
            audit: false,
            invalid: Invalid::IsolateObject,
        }
    })
}

/// Two nodes, three namespaces, the API server's slice.
fn surroundings(api_server: &str) -> Vec<Value> {
    let node = |name: &str, address: &str, role: &str| {
        json!({"kind": "Node", "metadata": {"name": name, "labels": {"role": role, "kubernetes.io/hostname": name}},
               "status": {"addresses": [{"type": "InternalIP", "address": address}]}})
    };
    let mut objects = vec![node("here", "192.168.0.1", "worker"), node("there", "192.168.0.2", "control")];
    for namespace in NAMESPACES {
        let team = if namespace == "red" { "one" } else { "two" };
        let labels = json!({"kubernetes.io/metadata.name": namespace, "team": team});
        objects.push(json!({"kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}));
    }
    let of = json!({"kubernetes.io/service-name": "kubernetes"});
    objects.push(json!({"kind": "EndpointSlice", "endpoints": [{"addresses": [api_server]}],
                        "metadata": {"namespace": "default", "name": "kubernetes", "labels": of}}));
    objects
}

fn pods() -> impl Strategy<Value = Vec<Value>> {
    let pod = (
        select(NAMESPACES.to_vec()),
        policies::labels(),
        prop::bool::weighted(0.7),
        prop::bool::weighted(0.05),
        prop::bool::weighted(0.1),
        prop::bool::ANY,
    );
    prop::collection::vec(pod, 1..=5).prop_map(|pods| {
        let pod = |(n, (namespace, labels, here, host_network, far, swapped))| {
            let (http, dns) = if swapped { (8080, 80) } else { (80, 53) };
            let annotations = if far { json!({CLUSTER_ANNOTATION: "far"}) } else { json!({}) };
            json!({
                "kind": "Pod",
                "metadata": {"namespace": namespace, "name": format!("p{n}"), "labels": labels, "annotations": annotations},
                "spec": {
                    "nodeName": if here && !far { "here" } else { "there" }, "hostNetwork": host_network,
                    "serviceAccountName": if swapped { "writer" } else { "reader" },
                    "containers": [{"name": "c", "ports": [
                        {"name": "http", "containerPort": http},
                        {"name": "dns", "containerPort": dns, "protocol": "UDP"}]}],
                },
                "status": {"podIPs": [{"ip": format!("10.0.{}.{n}", n % 2)}, {"ip": format!("fd00::{}:{n}", n % 2)}]},
            })
        };
        pods.into_iter().enumerate().map(pod).collect()
    })
}

/// A Service with a selector, one without, and two groups of prefixes.
fn objects() -> impl Strategy<Value = Vec<Value>> {
    (policies::labels(), select(NAMESPACES.to_vec()), policies::prefixes(0..3), policies::prefixes(0..3)).prop_map(
        |(selector, namespace, first, second)| {
            let service = |name: &str, env: &str, spec: Value| {
                json!({"kind": "Service", "metadata": {"namespace": namespace, "name": name, "labels": {"env": env}}, "spec": spec})
            };
            let group = |name: &str, env: &str, prefixes: Vec<&str>| {
                json!({"kind": "CiliumCIDRGroup", "metadata": {"name": name, "labels": {"env": env}}, "spec": {"externalCIDRs": prefixes}})
            };
            let of = json!({"kubernetes.io/service-name": "outside"});
            vec![
                service("inside", "x", json!({"selector": selector})),
                service("outside", "y", json!({})),
                json!({"kind": "EndpointSlice", "endpoints": [{"addresses": ["20.1.0.1"]}, {"addresses": ["10.0.0.0"]}],
                       "metadata": {"namespace": namespace, "name": "outside-1", "labels": of}}),
                group("first", "x", first),
                group("second", "y", second),
            ]
        },
    )
}
