//! Compilation as a whole, over small worlds built here.

mod acceleration;
mod forwarding;
mod host;
mod identity;
mod keyed;
mod kube_proxy;
mod loadbalancer;
mod maglev;
mod north_south;
mod oracle;
mod policy;
mod scale;
mod sockets;
mod stable;
mod stepwise;

use super::{Compiled, IdBook, compile};
use crate::config::Config;
use crate::map::Map;
use crate::problem::Severity;
use crate::shared::Shared;
use crate::state::{LinkName, Mac, Origin, SourceSet};
use crate::world::{
    EndpointRecord, HostDevice, IdentityClaim, Label, Labels, Namespace, Node, NodeAddress, NodeAddressKind,
    ObjectName, Operator, Pod, RemoteEndpoint, Requirement, Selector, World,
};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(super) fn strings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

pub(super) fn origin(object: &str) -> Origin {
    Origin { object: object.to_owned(), place: String::new(), rule: String::new() }
}

/// Two nodes in dual stack over VXLAN: this one (`n1`), and `n2`.
pub(super) fn config() -> Config {
    let mut config = Config::default();
    config.node.name = "n1".into();
    config.ipv6.enabled = true;
    config
}

pub(super) fn world() -> World {
    let mut world = World { synced: SourceSet::ALL, ..World::default() };
    world.host.object_digest = "object".into();
    world.host.devices.push(HostDevice {
        name: LinkName("eth0".into()),
        mac: Some(Mac([2, 0, 0, 0, 0, 1])),
        mtu: 1500,
        addresses: vec![net("192.168.0.1/24"), net("fd11::1/64")],
        default_route: true,
        is_veth: false,
    });
    world.nodes.insert("n1", node(&["192.168.0.1", "fd11::1"], &["10.1.0.0/24", "fd00:1::/64"]));
    world.nodes.insert("n2", node(&["192.168.0.2", "fd11::2"], &["10.2.0.0/24", "fd00:2::/64"]));
    world.namespaces.insert("shop", Namespace { labels: strings(&[("team", "a")]), ..Namespace::default() });
    world
}

pub(super) fn node(addresses: &[&str], pod_cidrs: &[&str]) -> Node {
    let address = |text: &&str| NodeAddress { kind: NodeAddressKind::InternalIp, ip: ip(text) };
    Node {
        addresses: addresses.iter().map(address).collect(),
        pod_cidrs: pod_cidrs.iter().map(|text| net(text)).collect(),
        ..Node::default()
    }
}

/// A pod of this node in namespace `shop`, with both families.
pub(super) fn add_local(world: &mut World, id: u16, name: &str, labels: &[(&str, &str)]) {
    let pod = ObjectName::new("shop", name);
    world.pods.insert(pod.clone(), Pod { labels: strings(labels), ..Pod::default() });
    world.endpoints.insert(id, record(id, Some(pod)));
}

pub(super) fn record(id: u16, pod: Option<ObjectName>) -> EndpointRecord {
    let [high, low] = id.to_be_bytes();
    EndpointRecord {
        id,
        container_id: format!("container{id}"),
        network: "cilium".into(),
        ifname: "eth0".into(),
        netns: "/run/netns/x".into(),
        pod,
        pod_uid: None,
        labels: BTreeMap::new(),
        link: format!("lxc{id}"),
        mac: Mac([2, 0, 0, 1, high, low]),
        node_mac: Mac([2, 0, 0, 2, high, low]),
        ipv4: Some(IpAddr::from([10, 1, high, low])),
        ipv6: Some(format!("fd00:1::{id:x}").parse().unwrap()),
        port_mappings: Default::default(),
    }
}

/// Labels as a pod of namespace `shop` has them in its identity.
pub(super) fn pod_labels(labels: &[(&str, &str)]) -> Labels {
    let base = Labels::default()
        .with("k8s", "io.kubernetes.pod.namespace", "shop")
        .with("k8s", "io.cilium.k8s.namespace.labels.team", "a")
        .with("k8s", "io.cilium.k8s.policy.cluster", "default")
        .with("k8s", "io.cilium.k8s.policy.serviceaccount", "default");
    labels.iter().fold(base, |all, (key, value)| all.with("k8s", key, value))
}

/// A pod of node `n2`, with the claim for its identity.
pub(super) fn add_remote(world: &mut World, name: &str, identity: u32, addr: &str, labels: &[(&str, &str)]) {
    let labels = Shared::from(pod_labels(labels));
    let identity = crate::state::IdentityId(identity);
    world.claims.add(claim(identity.0, &labels, Some("n2")));
    let endpoint = RemoteEndpoint {
        ips: vec![ip(addr)].into(),
        identity,
        labels,
        node_ip: Some(ip("192.168.0.2")),
        node_name: Some("n2".into()),
        ports: Default::default(),
        place: Default::default(),
    };
    world.remote_endpoints.insert(ObjectName::new("shop", name), endpoint);
}

pub(super) fn claim(number: u32, labels: &Labels, by: Option<&str>) -> IdentityClaim {
    IdentityClaim {
        number: crate::state::IdentityId(number),
        labels: labels.clone().into(),
        published_by: by.map(Into::into),
        place: Default::default(),
    }
}

/// Changes every object of a map.
pub(super) fn each<K: Ord + Clone, V: Clone>(map: &mut Map<K, Shared<V>>, change: impl Fn(&mut V)) {
    for key in map.keys().cloned().collect::<Vec<K>>() {
        change(map.get_mut(&key).unwrap());
    }
}

/// Endpoints with this label.
pub(super) fn having(key: &str, value: &str) -> Selector {
    let operator = Operator::In([value.to_owned()].into());
    Selector { requirements: vec![Requirement { label: Label::new("k8s", key), operator }] }
}

/// Compiles with an empty memory; the wish must be one, and a second compilation must agree.
pub(super) fn whole(world: &World, config: &Config) -> Compiled {
    let first = compile(world, config, &IdBook::default());
    let wrong = crate::check::check(&first.desired.state);
    assert!(wrong.is_empty(), "{wrong:?}");
    let second = compile(world, config, &first.book);
    assert_eq!(first, second);
    first
}

pub(super) fn errors(compiled: &Compiled) -> Vec<String> {
    let errors = compiled.problems.iter().filter(|p| p.severity == Severity::Error);
    errors.map(ToString::to_string).collect()
}
