//! Who a party is, seen from a node: kind, labels, address. The same address is `host` on its own node
//! and `remote-node` on every other.

use std::net::IpAddr;

use crate::labels::{CIDR_GROUP, Label};
use crate::packet::{Family, Party, Reserved};
use crate::selector::Labelled;
use crate::world::{GROUP_NAME, Node, Pod, World};

/// What a party is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Pod,
    Host,
    RemoteNode,
    Outside,
    Reserved(Reserved),
}

/// A party seen from a node.
#[derive(Debug, Clone)]
pub(crate) struct Seen<'a> {
    pub(crate) kind: Kind,
    pub(crate) pod: Option<&'a Pod>,
    pub(crate) node: Option<&'a Node>,
    pub(crate) address: Option<IpAddr>,
    /// Whether CIDR rules are for it.
    pub(crate) by_prefix: bool,
    /// Reserved identities, labels of a node, of groups of prefixes; a pod's labels are the pod's.
    own_labels: Vec<Label>,
}

impl<'a> Seen<'a> {
    pub(crate) fn labels(&self) -> &[Label] {
        self.pod.map_or(&self.own_labels, |pod| &pod.labels)
    }

    /// For selectors of identities.
    pub(crate) fn labelled(&self) -> Labelled<'_> {
        Labelled { labels: self.labels(), prefixes_of: self.address.filter(|_| self.by_prefix) }
    }

    pub(crate) fn is_reserved(&self, name: &str) -> bool {
        self.own_labels.contains(&Label::reserved(name))
    }
}

/// The pod or node a party is, where it is one.
enum Found<'a> {
    Pod(&'a Pod, Option<IpAddr>),
    /// Its name, and what is known of it.
    Node(&'a str, Option<&'a Node>, Option<IpAddr>),
    Outside(IpAddr),
    Reserved(Reserved, Option<IpAddr>),
}

impl World {
    /// The node from which a party looks at others: the one it runs on.
    pub(crate) fn viewpoint<'a>(&'a self, party: &'a Party) -> &'a str {
        match self.find(party) {
            Found::Pod(pod, _) => pod.node.as_deref().unwrap_or(&self.node),
            Found::Node(name, ..) => name,
            Found::Outside(_) | Found::Reserved(..) => &self.node,
        }
    }

    /// Who `party` is for endpoints on the node `from`.
    pub(crate) fn see<'a>(&'a self, party: &'a Party, family: Family, from: &str) -> Seen<'a> {
        let of_family = |addresses: &[IpAddr]| addresses.iter().copied().find(|address| family.has(address));
        match self.find(party) {
            Found::Pod(pod, address) => Seen {
                kind: Kind::Pod,
                pod: Some(pod),
                node: None,
                address: address.or_else(|| of_family(&pod.addresses)),
                by_prefix: self.config.cidr_matches_pods,
                own_labels: Vec::new(),
            },
            Found::Node(name, node, address) => {
                let kind = if name == from { Kind::Host } else { Kind::RemoteNode };
                let mut labels =
                    vec![Label::reserved(if kind == Kind::Host { "host" } else { "remote-node" })];
                let addresses = node.map_or(&[][..], |node| &node.addresses);
                if addresses.iter().chain(&address).any(|address| self.api_servers.contains(address)) {
                    labels.push(Label::reserved("kube-apiserver"));
                }
                labels.extend(node.into_iter().flat_map(|node| node.labels.iter().cloned()));
                Seen {
                    kind,
                    pod: None,
                    node,
                    address: address.or_else(|| of_family(addresses)),
                    by_prefix: self.config.cidr_matches_nodes && kind == Kind::RemoteNode,
                    own_labels: labels,
                }
            }
            Found::Outside(address) => Seen {
                kind: Kind::Outside,
                pod: None,
                node: None,
                address: Some(address),
                by_prefix: true,
                own_labels: self.labels_outside(address),
            },
            Found::Reserved(identity, address) => Seen {
                kind: Kind::Reserved(identity),
                pod: None,
                node: None,
                address,
                by_prefix: false,
                own_labels: vec![Label::reserved(identity.name())],
            },
        }
    }

    fn labels_outside(&self, address: IpAddr) -> Vec<Label> {
        let by_family = if address.is_ipv4() { "world-ipv4" } else { "world-ipv6" };
        let mut labels = vec![Label::reserved("world"), Label::reserved(by_family)];
        if self.api_servers.contains(&address) {
            labels.push(Label::reserved("kube-apiserver"));
        }
        let around = |prefixes: &[ipnet::IpNet]| prefixes.iter().any(|prefix| prefix.contains(&address));
        for group in self.groups.iter().filter(|group| around(&group.prefixes)) {
            labels.push(Label::new(CIDR_GROUP, format!("{GROUP_NAME}/{}", group.name), ""));
            labels.extend(group.labels.iter().map(|label| Label { source: CIDR_GROUP, ..label.clone() }));
        }
        labels
    }

    fn find<'a>(&'a self, party: &'a Party) -> Found<'a> {
        match party {
            Party::Pod { namespace, name, address } => {
                let is = |pod: &&Pod| pod.namespace == *namespace && pod.name == *name;
                match (self.pods.iter().find(is), address) {
                    (Some(pod), address) => self.pod_or_its_node(pod, *address),
                    // A pod that is told of nowhere: in the cluster, and nobody's endpoint.
                    (None, address) => Found::Reserved(Reserved::Unmanaged, *address),
                }
            }
            Party::Host => self.node_named(&self.node, None),
            Party::Node(name) => self.node_named(name, None),
            Party::Reserved { identity, address } => Found::Reserved(*identity, *address),
            Party::Address(address) => {
                let pod = self.pods.iter().find(|pod| !pod.host_network && pod.addresses.contains(address));
                let node = self.nodes.iter().find(|node| node.addresses.contains(address));
                match (pod, node) {
                    (Some(pod), _) => Found::Pod(pod, Some(*address)),
                    (None, Some(node)) => Found::Node(&node.name, Some(node), Some(*address)),
                    (None, None) => Found::Outside(*address),
                }
            }
        }
    }

    fn pod_or_its_node<'a>(&'a self, pod: &'a Pod, address: Option<IpAddr>) -> Found<'a> {
        if pod.host_network {
            self.node_named(pod.node.as_deref().unwrap_or(&self.node), address)
        } else {
            Found::Pod(pod, address)
        }
    }

    fn node_named<'a>(&'a self, name: &'a str, address: Option<IpAddr>) -> Found<'a> {
        Found::Node(name, self.nodes.iter().find(|node| node.name == name), address)
    }
}
