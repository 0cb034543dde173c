//! Whether a party is one of those a rule is about.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::labels::{K8S, Label};
use crate::packet::Reserved;
use crate::rule::{Entity, Groups, Namespaces, Peer, Peers, ServiceRef, Subject};
use crate::seen::{Kind, Seen};
use crate::selector::{Labelled, Selector};
use crate::world::{Pod, Service, World};

impl World {
    pub(crate) fn is_subject(&self, subject: &Subject, seen: &Seen<'_>) -> bool {
        match subject {
            Subject::Nobody => false,
            Subject::Node(selector) => seen.kind == Kind::Host && selector.matches(seen.labelled()),
            Subject::Pods { namespaces, pods } => seen.pod.is_some_and(|pod| is_pod(pod, namespaces, pods)),
            Subject::Endpoints { namespace, selector } => {
                let endpoint = match seen.kind {
                    Kind::Pod => true,
                    Kind::Reserved(reserved) => reserved != Reserved::Unmanaged,
                    Kind::Host | Kind::RemoteNode | Kind::Outside => false,
                };
                let of = seen.pod.map(|pod| &pod.namespace);
                endpoint
                    && namespace.as_ref().is_none_or(|namespace| of == Some(namespace))
                    && selector.matches(seen.labelled())
            }
        }
    }

    pub(crate) fn is_one_of(&self, peers: &Peers, seen: &Seen<'_>) -> bool {
        match peers {
            Peers::Everyone => true,
            Peers::OneOf(peers) => peers.iter().any(|peer| self.is_peer(peer, seen)),
        }
    }

    fn is_peer(&self, peer: &Peer, seen: &Seen<'_>) -> bool {
        let by_prefix = seen.address.filter(|_| seen.by_prefix);
        match peer {
            Peer::Identity(selector) => selector.matches(seen.labelled()),
            Peer::Pods { namespaces, pods, cluster } => seen.pod.is_some_and(|pod| {
                cluster.as_ref().is_none_or(|cluster| pod.cluster == *cluster)
                    && is_pod(pod, namespaces, pods)
            }),
            Peer::Entity(entity) => self.is_entity(*entity, seen),
            Peer::Prefix { prefix, except } => {
                by_prefix.is_some_and(|address| prefix.contains(&address) && !within(except, address))
            }
            Peer::Groups { groups, except } => by_prefix.is_some_and(|address| {
                let mut named = self.groups.iter().filter(|group| match groups {
                    Groups::Named(name) => group.name == *name,
                    Groups::Labelled(selector) => selector.matches(Labelled::plain(&group.labels)),
                });
                named.any(|group| within(&group.prefixes, address)) && !within(except, address)
            }),
            Peer::Service(wanted) => {
                let mut services = self.services.iter().filter(|service| is_service(service, wanted));
                services.any(|service| self.is_behind(service, seen))
            }
            Peer::RemoteNodes { selector, cluster } => {
                let here = |seen: &Seen<'_>| {
                    let of = seen.node.map_or(&self.config.cluster, |node| &node.cluster);
                    cluster.as_ref().is_none_or(|cluster| of == cluster)
                };
                seen.kind == Kind::RemoteNode && selector.matches(seen.labelled()) && here(seen)
            }
            Peer::Nodes(selector) => {
                matches!(seen.kind, Kind::Host | Kind::RemoteNode) && selector.matches(seen.labelled())
            }
            Peer::Network(prefix) => seen.address.is_some_and(|address| prefix.contains(&address)),
        }
    }

    fn is_entity(&self, entity: Entity, seen: &Seen<'_>) -> bool {
        let in_cluster = || {
            matches!(seen.kind, Kind::Host | Kind::RemoteNode | Kind::Reserved(_))
                || seen.is_reserved("kube-apiserver")
        };
        match entity {
            Entity::All => true,
            Entity::None => false,
            Entity::World => seen.is_reserved("world"),
            Entity::WorldIpv4 => seen.is_reserved("world-ipv4"),
            Entity::WorldIpv6 => seen.is_reserved("world-ipv6"),
            Entity::Cluster => in_cluster() || seen.pod.is_some_and(|pod| pod.cluster == self.config.cluster),
            Entity::ClusterMesh => in_cluster() || seen.pod.is_some(),
            Entity::Reserved(name) => seen.is_reserved(name),
        }
    }

    /// Pods the Service selects; of a Service without selector, the addresses of its slices, as CIDR
    /// rules have them.
    fn is_behind(&self, service: &Service, seen: &Seen<'_>) -> bool {
        match &service.selector {
            Some(selector) => seen.pod.is_some_and(|pod| {
                let is = |(key, value): &(String, String)| pod.labels.contains(&Label::new(K8S, key, value));
                let cluster = !self.config.default_local_cluster || pod.cluster == self.config.cluster;
                cluster && pod.namespace == service.namespace && selector.iter().all(is)
            }),
            None => {
                seen.address.is_some_and(|address| seen.by_prefix && service.addresses.contains(&address))
            }
        }
    }
}

fn is_pod(pod: &Pod, namespaces: &Namespaces, pods: &Selector) -> bool {
    let namespace = match namespaces {
        Namespaces::Named(name) => pod.namespace == *name,
        Namespaces::Labelled(selector) => selector.matches(Labelled::plain(&pod.namespace_labels)),
    };
    namespace && pods.matches(Labelled::plain(&pod.labels))
}

fn is_service(service: &Service, wanted: &ServiceRef) -> bool {
    let of = |namespace: &Option<String>| {
        namespace.as_ref().is_none_or(|namespace| service.namespace == *namespace)
    };
    let named = wanted.named.as_ref().is_some_and(|(namespace, name)| of(namespace) && service.name == *name);
    let labelled = |(namespace, selector): &(Option<String>, Selector)| {
        of(namespace) && selector.matches(Labelled::plain(&service.labels))
    };
    named || wanted.labelled.as_ref().is_some_and(labelled)
}

fn within(prefixes: &[IpNet], address: IpAddr) -> bool {
    prefixes.iter().any(|prefix| prefix.contains(&address))
}
