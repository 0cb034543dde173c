//! Where a Service's traffic goes: the endpoints of its slices, or, where it has none, the pods it
//! selects. Numbers are given in `loadbalancer`.

use crate::eligible::{Backend, PodPlace, Slices, merge, of_pod};
use crate::map::{Map, Set};
use crate::shared::Shared;
use crate::state::Origin;
use crate::world::{
    Distribution, EndpointRecord, EndpointSlice, HostPort, IpFamily, Name, Node, NodeAddressKind, ObjectName,
    Pod, RemoteEndpoint, Service, ServicePort, TargetPort, World,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What rows of ports of the node say of themselves.
const HOST_PORT: &str = "hostPort";

/// Namespace, label key, value.
type Held = (String, String, String);

/// What something changed of, each as it was before.
#[derive(Debug, Default)]
pub(super) struct Stale {
    /// Services.
    pub(super) services: BTreeMap<Name, Option<Shared<Service>>>,
    /// Guests with ports of the node.
    pub(super) pods: BTreeMap<Name, Option<Shared<Guest>>>,
}

/// A pod of this node, or a container that is none, that ports of the node lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Guest {
    /// `hostPort`s of its object, then those of its attachments that the object does not have.
    pub(super) ports: Vec<HostPort>,
    /// When its attachments asked for them, milliseconds since 1970; 0: its object did, or nobody knows.
    pub(super) since: u64,
    pub(super) origin: Origin,
}

/// What attachments of this node say of a guest.
#[derive(Debug, Default)]
struct Attached {
    addresses: BTreeSet<IpAddr>,
    mapped: Vec<HostPort>,
    since: u64,
    /// Of the last with ports of the node.
    origin: Option<Origin>,
}

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
    /// Of which Service they are.
    slices: Set<(ObjectName, Name)>,
    /// Services whose backends are the pods they select, with the first label they ask for.
    selecting: BTreeMap<Name, Held>,
    by_label: BTreeMap<Held, BTreeSet<Name>>,
    /// Pods by label, while there are such Services.
    labelled: Option<BTreeMap<Held, BTreeSet<Name>>>,
    /// Services for which the zones of nodes count.
    zoned: BTreeSet<Name>,
    /// This node's pods and containers.
    here: BTreeMap<ObjectName, Attached>,
    /// Those of them with ports of the node.
    hosting: BTreeMap<Name, Shared<Guest>>,
}

/// Backends of a port, and pods left out because they have no port of the name it leads to: how many, and the
/// first.
pub(super) type Found<'w> = (Vec<Backend<'w>>, Option<(usize, Name)>);

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
        let mut stale = BTreeMap::new();
        let seen = std::mem::take(&mut self.seen);
        for (name, was, _) in seen.services.differences(&world.services) {
            stale.insert(name.clone(), was.cloned());
        }
        for (name, was, is) in seen.slices.differences(&world.slices) {
            for (slice, joins) in [(was, false), (is, true)] {
                let Some(slice) = slice else { continue };
                let service = ObjectName::new(&name.namespace, &slice.service);
                let known = world.services.get_key_value(&service);
                if let Some((name, service)) = known {
                    stale.entry(name.clone()).or_insert_with(|| Some(service.clone()));
                }
                // The name as it is held already, if it is that of a Service there is.
                let service = known.map_or(service, |(name, _)| ObjectName::clone(name));
                self.sort_slice(service, name, joins);
            }
        }
        for name in stale.keys() {
            self.sort_service(name, world);
        }
        for (_, was, is) in seen.nodes.differences(&world.nodes) {
            if was.and_then(|node| node.zone()) != is.and_then(|node| node.zone()) {
                for service in &self.zoned {
                    let service = world.services.get_key_value::<ObjectName>(service);
                    let (service, now) = service.expect("what is zoned is sorted, and so there");
                    stale.entry(service.clone()).or_insert_with(|| Some(now.clone()));
                }
                break;
            }
        }
        self.sort_pods(&seen, world);
        if !seen.endpoints.shares(&world.endpoints) {
            self.here.clear();
            for record in world.endpoints.values() {
                let at = self.here.entry(record.guest()).or_default();
                at.addresses.extend(record.ipv4.iter().chain(&record.ipv6));
                let mapped = &record.port_mappings;
                if !mapped.ports.is_empty() {
                    at.since = if at.mapped.is_empty() { mapped.since } else { at.since.min(mapped.since) };
                    at.mapped.extend_from_slice(&mapped.ports);
                    at.origin = Some(Origin { rule: HOST_PORT.to_owned(), ..record.origin() });
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
        let pods = self.sort_hosting(&seen, world);
        self.seen = Seen {
            services: world.services.clone(),
            slices: world.slices.clone(),
            pods: world.pods.clone(),
            endpoints: world.endpoints.clone(),
            remote: world.remote_endpoints.clone(),
            nodes: world.nodes.clone(),
        };
        Stale { services: stale, pods }
    }

    /// Guests with ports of the node, of which something changed.
    fn sort_hosting(&mut self, seen: &Seen, world: &World) -> BTreeMap<Name, Option<Shared<Guest>>> {
        let mut touched: BTreeSet<Name> = BTreeSet::new();
        for (name, was, is) in seen.pods.differences(&world.pods) {
            let has_ports = was.into_iter().chain(is).any(|pod| !pod.host_ports.is_empty());
            if has_ports || self.hosting.contains_key(name) {
                touched.insert(name.clone());
            }
        }
        for (_, was, is) in seen.endpoints.differences(&world.endpoints) {
            touched.extend(was.into_iter().chain(is).map(|record| Name::from(record.guest())));
        }
        let mut stale = BTreeMap::new();
        for name in touched {
            let pod = world.pods.get::<ObjectName>(&name).map(|pod| &**pod);
            let is =
                self.here.get::<ObjectName>(&name).and_then(|at| guest(&name, pod, at)).map(Shared::from);
            let was = match is.clone() {
                Some(guest) => self.hosting.insert(name.clone(), guest),
                None => self.hosting.remove(&name),
            };
            if was.is_some() || is.is_some() {
                stale.insert(name, was);
            }
        }
        stale
    }

    /// A guest with ports of the node.
    pub(super) fn hosting(&self, name: &Name) -> Option<&Shared<Guest>> {
        self.hosting.get(name)
    }

    /// Addresses of a pod of this node.
    pub(super) fn addresses_here(&self, name: &ObjectName) -> impl Iterator<Item = IpAddr> {
        self.here.get(name).into_iter().flat_map(|at| &at.addresses).copied()
    }

    /// Slices of a Service, in the order of their names; `None`: it has none.
    pub(super) fn slices_of<'w>(&self, world: &'w World, name: &ObjectName) -> Option<Slices<'w>> {
        let mut names = self.names_of_slices(name).peekable();
        names.peek()?;
        let slices = names.filter_map(|slice| world.slices.get::<ObjectName>(slice));
        Some(Slices::new(slices.map(|slice| &**slice)))
    }

    fn names_of_slices(&self, service: &ObjectName) -> impl Iterator<Item = &Name> {
        let first = (service.clone(), Name::default());
        let slices = self.slices.range(first..).map(|(slice, ())| slice);
        slices.take_while(move |(of, _)| of == service).map(|(_, name)| name)
    }

    fn sort_slice(&mut self, service: ObjectName, slice: &Name, joins: bool) {
        let slice = (service, slice.clone());
        if joins {
            self.slices.add(slice);
        } else {
            self.slices.remove(&slice);
        }
    }

    fn sort_service(&mut self, name: &Name, world: &World) {
        let service = world.services.get::<ObjectName>(name);
        if service.is_some_and(|service| service.distribution != Distribution::AsHinted) {
            self.zoned.insert(name.clone());
        } else {
            self.zoned.remove(name);
        }
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
        if let Some((key, value)) = selector.and_then(|selector| selector.first_key_value())
            && self.names_of_slices(name).next().is_none()
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

    /// Backends of a port of a Service without slices: the pods it selects.
    pub(super) fn of_pods<'w>(
        &self,
        world: &'w World,
        here: &'w String,
        name: &ObjectName,
        service: &Service,
        port: &ServicePort,
        family: IpFamily,
    ) -> Found<'w> {
        let labelled = |(key, value): (&String, &String)| {
            self.labelled.as_ref().and_then(|pods| pods.get(&held(&name.namespace, key, value)))
        };
        let selector = service.selector.iter().flatten();
        let holders: Option<Vec<&BTreeSet<Name>>> = selector.map(labelled).collect();
        let fewest = holders.and_then(|holders| holders.into_iter().min_by_key(|pods| pods.len()));
        let mut backends = Vec::new();
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
            let node = match self.here.contains_key::<ObjectName>(name) {
                true => Some(here),
                false => pod.node_name.as_ref(),
            };
            let addresses = self.addresses(world, name, pod).into_iter();
            backends.extend(
                addresses
                    .filter(|addr| IpFamily::of(*addr) == family)
                    .map(|addr| of_pod(PodPlace { addr, port: number, node }, service, &world.nodes)),
            );
        }
        (merge(backends), portless)
    }

    /// Where a pod is: its attachment here, its CiliumEndpoint elsewhere, or what its object says; on its
    /// node's network, where the node is.
    fn addresses(&self, world: &World, name: &ObjectName, pod: &Pod) -> BTreeSet<IpAddr> {
        if let Some(at) = self.here.get(name) {
            return at.addresses.clone();
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

/// A guest, if ports of the node lead to it. What both its object and an attachment ask for, it asks for once.
fn guest(name: &ObjectName, pod: Option<&Pod>, at: &Attached) -> Option<Guest> {
    let mut ports = pod.map(|pod| pod.host_ports.clone()).unwrap_or_default();
    let by_object = !ports.is_empty();
    for port in &at.mapped {
        if !ports.contains(port) {
            ports.push(port.clone());
        }
    }
    let place = pod.map(|pod| pod.place.to_string()).unwrap_or_default();
    let origin = match &at.origin {
        None => Origin { object: format!("Pod {name}"), place, rule: HOST_PORT.to_owned() },
        Some(origin) => Origin { place, ..origin.clone() },
    };
    let since = if by_object { 0 } else { at.since };
    (!ports.is_empty()).then_some(Guest { ports, since, origin })
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
