//! Where a Service's traffic goes: the endpoints of its slices, or, where it has none, the pods it
//! selects. Numbers are given in `loadbalancer`.

use crate::compile::site::Family;
use crate::map::Map;
use crate::shared::Shared;
use crate::world::{
    EndpointRecord, EndpointSlice, Name, Node, NodeAddressKind, ObjectName, Pod, RemoteEndpoint, Service,
    ServicePort, TargetPort, World,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What a backend is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fitness {
    /// Keeps its connections; gets new ones only if there is no other.
    Terminating,
    /// Gets new connections.
    Ready,
}

/// Backends of one port of a Service, by address and port.
pub(super) type Backends = BTreeMap<(IpAddr, u16), Fitness>;

/// Namespace, label key, value.
type Held = (String, String, String);

/// Services of which something changed, each as it was before.
pub(super) type Stale = BTreeMap<Name, Option<Shared<Service>>>;

/// What Services ask for, as the directory last read it.
#[derive(Debug, Default)]
struct Seen {
    services: Map<Name, Shared<Service>>,
    slices: Map<Name, Shared<EndpointSlice>>,
    pods: Map<Name, Shared<Pod>>,
    endpoints: Map<u16, Shared<EndpointRecord>>,
    remote: Map<Name, Shared<RemoteEndpoint>>,
    nodes: Map<String, Shared<Node>>,
}

/// Slices and pods, found by what Services ask for; and Services, by what they ask for.
#[derive(Debug, Default)]
pub(super) struct Directory {
    seen: Seen,
    /// By the Service they are of.
    slices: BTreeMap<ObjectName, BTreeSet<Name>>,
    /// Services whose backends are the pods they select, with the first label they ask for.
    selecting: BTreeMap<Name, Held>,
    by_label: BTreeMap<Held, BTreeSet<Name>>,
    /// Pods by label, while there are such Services.
    labelled: Option<BTreeMap<Held, BTreeSet<Name>>>,
    /// Addresses of this node's pods.
    here: BTreeMap<ObjectName, BTreeSet<IpAddr>>,
}

fn held(namespace: &str, key: &str, value: &str) -> Held {
    (namespace.to_owned(), key.to_owned(), value.to_owned())
}

fn labels<'p>(name: &'p ObjectName, pod: &'p Pod) -> impl Iterator<Item = Held> + 'p {
    pod.labels.iter().map(|(key, value)| held(&name.namespace, key, value))
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(selector) = &service.selector else { return false };
    selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
}

impl Directory {
    /// Takes over what the world says now; the Services that this is about.
    pub(super) fn update(&mut self, world: &World) -> Stale {
        let mut stale = Stale::new();
        let seen = std::mem::take(&mut self.seen);
        for (name, was, _) in seen.services.differences(&world.services) {
            stale.insert(name.clone(), was.cloned());
        }
        for (name, was, is) in seen.slices.differences(&world.slices) {
            for (slice, joins) in [(was, false), (is, true)] {
                let Some(slice) = slice else { continue };
                let service = ObjectName::new(&name.namespace, &slice.service);
                if let Some((name, service)) = world.services.get_key_value(&service) {
                    stale.entry(name.clone()).or_insert_with(|| Some(service.clone()));
                }
                self.sort_slice(service, name, joins);
            }
        }
        for name in stale.keys() {
            self.sort_service(name, world);
        }
        self.sort_pods(&seen, world);
        if !seen.endpoints.shares(&world.endpoints) {
            self.here.clear();
            for record in world.endpoints.values() {
                if let Some(pod) = &record.pod {
                    let addresses = self.here.entry(pod.clone()).or_default();
                    addresses.extend(record.ipv4.iter().chain(&record.ipv6));
                }
            }
        }
        if !self.selecting.is_empty() {
            for (name, pod) in affected(&seen, world) {
                let of_label = |label: Held| self.by_label.get(&label).into_iter().flatten();
                for service in labels(&name, &pod).flat_map(of_label) {
                    if let Some(now) = world.services.get::<ObjectName>(service)
                        && selects(now, &pod)
                    {
                        stale.entry(service.clone()).or_insert_with(|| Some(now.clone()));
                    }
                }
            }
        }
        self.seen = Seen {
            services: world.services.clone(),
            slices: world.slices.clone(),
            pods: world.pods.clone(),
            endpoints: world.endpoints.clone(),
            remote: world.remote_endpoints.clone(),
            nodes: world.nodes.clone(),
        };
        stale
    }

    fn sort_slice(&mut self, service: ObjectName, slice: &Name, joins: bool) {
        if joins {
            self.slices.entry(service).or_default().insert(slice.clone());
        } else if let Some(slices) = self.slices.get_mut(&service) {
            slices.remove(slice);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
    }

    fn sort_service(&mut self, name: &Name, world: &World) {
        if let Some(label) = self.selecting.remove(name)
            && let Some(services) = self.by_label.get_mut(&label)
        {
            services.remove(name);
            if services.is_empty() {
                self.by_label.remove(&label);
            }
        }
        let selector = world.services.get::<ObjectName>(name).and_then(|s| s.selector.as_ref());
        // A selector without conditions selects nothing (Kubernetes, Service v1).
        if let Some((key, value)) = selector.and_then(BTreeMap::first_key_value)
            && !self.slices.contains_key::<ObjectName>(name)
        {
            let label = held(&name.namespace, key, value);
            self.by_label.entry(label.clone()).or_default().insert(name.clone());
            self.selecting.insert(name.clone(), label);
        }
    }

    fn sort_pods(&mut self, seen: &Seen, world: &World) {
        if self.selecting.is_empty() {
            self.labelled = None;
            return;
        }
        let none = Map::default();
        let before = if self.labelled.is_some() { &seen.pods } else { &none };
        let labelled = self.labelled.get_or_insert_default();
        for (name, was, is) in before.differences(&world.pods) {
            for label in was.into_iter().flat_map(|pod| labels(name, pod)) {
                if let Some(pods) = labelled.get_mut(&label) {
                    pods.remove(name);
                    if pods.is_empty() {
                        labelled.remove(&label);
                    }
                }
            }
            for label in is.into_iter().flat_map(|pod| labels(name, pod)) {
                labelled.entry(label).or_default().insert(name.clone());
            }
        }
    }

    /// Backends of a port, and pods left out because they have no port of the name it leads to: how many,
    /// and the first.
    pub(super) fn backends(
        &self,
        world: &World,
        name: &ObjectName,
        service: &Service,
        port: &ServicePort,
        family: Family,
    ) -> (Backends, Option<(usize, Name)>) {
        match (self.slices.get(name), &service.selector) {
            (Some(slices), _) => {
                let slices = slices.iter().filter_map(|slice| world.slices.get::<ObjectName>(slice));
                (of_slices(slices, service, port, family), None)
            }
            (None, Some(selector)) => self.of_pods(world, &name.namespace, selector, service, port, family),
            (None, None) => (Backends::new(), None),
        }
    }

    fn of_pods(
        &self,
        world: &World,
        namespace: &str,
        selector: &BTreeMap<String, String>,
        service: &Service,
        port: &ServicePort,
        family: Family,
    ) -> (Backends, Option<(usize, Name)>) {
        let labelled = |(key, value): (&String, &String)| {
            self.labelled.as_ref().and_then(|pods| pods.get(&held(namespace, key, value)))
        };
        let holders: Option<Vec<&BTreeSet<Name>>> = selector.iter().map(labelled).collect();
        let fewest = holders.and_then(|holders| holders.into_iter().min_by_key(|pods| pods.len()));
        let mut backends = Backends::new();
        let mut portless: Option<(usize, Name)> = None;
        for name in fewest.into_iter().flatten() {
            let Some(pod) = world.pods.get::<ObjectName>(name).filter(|pod| selects(service, pod)) else {
                continue;
            };
            let number = match &port.target {
                TargetPort::Number(number) => Some(*number),
                TargetPort::Name(wanted) => {
                    pod.ports.iter().find(|p| p.name == *wanted && p.proto == port.proto).map(|p| p.port)
                }
            };
            let Some(number) = number else {
                portless.get_or_insert((0, name.clone())).0 += 1;
                continue;
            };
            for addr in self.addresses(world, name, pod).into_iter().filter(|a| Family::of(*a) == family) {
                backends.insert((addr, number), Fitness::Ready);
            }
        }
        (backends, portless)
    }

    /// Where a pod is: its attachment here, its CiliumEndpoint elsewhere, or what its object says; on its
    /// node's network, where the node is.
    fn addresses(&self, world: &World, name: &ObjectName, pod: &Pod) -> BTreeSet<IpAddr> {
        if let Some(addresses) = self.here.get(name) {
            return addresses.clone();
        }
        if let Some(endpoint) = world.remote_endpoints.get(name) {
            return endpoint.ips.iter().copied().collect();
        }
        if !pod.ips.is_empty() || !pod.host_network {
            return pod.ips.iter().copied().collect();
        }
        let node = pod.node_name.as_ref().and_then(|node| world.nodes.get(node));
        let addresses = node.into_iter().flat_map(|node| &node.addresses);
        addresses.filter(|a| a.kind == NodeAddressKind::InternalIp).map(|a| a.ip).collect()
    }
}

/// Pods of which something changed that backends are made of, as they were and as they are.
fn affected(seen: &Seen, world: &World) -> Vec<(Name, Shared<Pod>)> {
    let mut pods = Vec::new();
    for (name, was, is) in seen.pods.differences(&world.pods) {
        pods.extend(was.into_iter().chain(is).map(|pod| (name.clone(), pod.clone())));
    }
    let mut moved: BTreeSet<&ObjectName> = BTreeSet::new();
    for (_, was, is) in seen.endpoints.differences(&world.endpoints) {
        moved.extend(was.into_iter().chain(is).filter_map(|record| record.pod.as_ref()));
    }
    moved.extend(seen.remote.differences(&world.remote_endpoints).into_iter().map(|(name, ..)| &**name));
    let nodes: BTreeSet<&String> =
        seen.nodes.differences(&world.nodes).into_iter().map(|(name, ..)| name).collect();
    if !nodes.is_empty() {
        let on = |pod: &Pod| pod.node_name.as_ref().is_some_and(|node| nodes.contains(node));
        moved.extend(world.pods.iter().filter(|(_, pod)| pod.host_network && on(pod)).map(|(n, _)| &**n));
    }
    let known = |name: &ObjectName| world.pods.get_key_value(name).map(|(n, pod)| (n.clone(), pod.clone()));
    pods.extend(moved.into_iter().filter_map(known));
    pods
}

fn of_slices<'s>(
    slices: impl Iterator<Item = &'s Shared<EndpointSlice>>,
    service: &Service,
    port: &ServicePort,
    family: Family,
) -> Backends {
    let mut backends = Backends::new();
    for slice in slices {
        let Some(target) = slice.ports.iter().find(|p| p.name == port.name && p.proto == port.proto) else {
            continue;
        };
        for endpoint in slice.endpoints.iter().filter(|e| Family::of(e.ip) == family) {
            let fitness = if endpoint.ready || service.publish_not_ready {
                Fitness::Ready
            } else if endpoint.serving && endpoint.terminating {
                Fitness::Terminating
            } else {
                continue;
            };
            // In two slices at once while one is being rewritten: ready somewhere is ready.
            let held = backends.entry((endpoint.ip, target.port)).or_insert(fitness);
            *held = (*held).max(fitness);
        }
    }
    backends
}
