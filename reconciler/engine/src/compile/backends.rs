//! Where a Service's traffic goes: the endpoints of its slices, or, where it has none, the pods it
//! selects. Numbers are given in `loadbalancer`.

use super::site::Family;
use crate::world::{
    EndpointSlice, NodeAddressKind, ObjectName, Pod, Service, ServicePort, TargetPort, World,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// What a backend is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Fitness {
    /// Keeps its connections; gets new ones only if there is no other.
    Terminating,
    /// Gets new connections.
    Ready,
}

/// Backends of one port of a Service, by address and port.
pub(super) type Backends = BTreeMap<(IpAddr, u16), Fitness>;

/// Pods by name.
type Pods<'w> = Vec<(&'w ObjectName, &'w Pod)>;

/// Slices and pods, found by what Services ask for.
pub(super) struct Directory<'w> {
    world: &'w World,
    slices: BTreeMap<(&'w str, &'w str), Vec<&'w EndpointSlice>>,
    local: BTreeMap<&'w ObjectName, Vec<IpAddr>>,
    /// (namespace, label key, value) → pods.
    labelled: HashMap<(&'w str, &'w str, &'w str), Pods<'w>>,
}

impl<'w> Directory<'w> {
    pub(super) fn new(world: &'w World) -> Self {
        let mut slices: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (name, slice) in &world.slices {
            slices.entry((name.namespace.as_str(), slice.service.as_str())).or_default().push(slice);
        }
        let mut local: BTreeMap<_, Vec<IpAddr>> = BTreeMap::new();
        for record in world.endpoints.values() {
            if let Some(pod) = &record.pod {
                local.entry(pod).or_default().extend(record.ipv4.iter().chain(&record.ipv6));
            }
        }
        let mut labelled: HashMap<_, Vec<_>> = HashMap::new();
        for (name, pod) in &world.pods {
            for (key, value) in &pod.labels {
                labelled
                    .entry((name.namespace.as_str(), key.as_str(), value.as_str()))
                    .or_default()
                    .push((name, pod));
            }
        }
        Self { world, slices, local, labelled }
    }

    /// Backends of a port, and pods left out because they have no port of the name it leads to.
    pub(super) fn backends(
        &self,
        name: &ObjectName,
        service: &Service,
        port: &ServicePort,
        family: Family,
    ) -> (Backends, Vec<&'w ObjectName>) {
        let slices = self.slices.get(&(name.namespace.as_str(), name.name.as_str()));
        match (slices, &service.selector) {
            (Some(slices), _) => (of_slices(slices, service, port, family), Vec::new()),
            // A selector without conditions selects nothing (Kubernetes, Service v1).
            (None, Some(selector)) if !selector.is_empty() => {
                self.of_pods(&name.namespace, selector, port, family)
            }
            (None, _) => (Backends::new(), Vec::new()),
        }
    }

    fn of_pods(
        &self,
        namespace: &str,
        selector: &BTreeMap<String, String>,
        port: &ServicePort,
        family: Family,
    ) -> (Backends, Vec<&'w ObjectName>) {
        let holders = selector.iter().map(|(key, value)| {
            self.labelled.get(&(namespace, key.as_str(), value.as_str())).map_or(&[][..], Vec::as_slice)
        });
        let fewest = holders.min_by_key(|pods| pods.len()).unwrap_or(&[]);
        let mut backends = Backends::new();
        let mut portless = Vec::new();
        for (name, pod) in fewest {
            if !selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value)) {
                continue;
            }
            let number = match &port.target {
                TargetPort::Number(number) => Some(*number),
                TargetPort::Name(wanted) => {
                    pod.ports.iter().find(|p| p.name == *wanted && p.proto == port.proto).map(|p| p.port)
                }
            };
            let Some(number) = number else {
                portless.push(*name);
                continue;
            };
            for addr in self.addresses(name, pod).into_iter().filter(|a| Family::of(*a) == family) {
                backends.insert((addr, number), Fitness::Ready);
            }
        }
        (backends, portless)
    }

    /// Where a pod is: its attachment here, its CiliumEndpoint elsewhere, or what its object says; on its
    /// node's network, where the node is.
    fn addresses(&self, name: &ObjectName, pod: &Pod) -> BTreeSet<IpAddr> {
        if let Some(addrs) = self.local.get(name) {
            return addrs.iter().copied().collect();
        }
        if let Some(endpoint) = self.world.remote_endpoints.get(name) {
            return endpoint.ips.iter().copied().collect();
        }
        if !pod.ips.is_empty() || !pod.host_network {
            return pod.ips.iter().copied().collect();
        }
        let node = pod.node_name.as_ref().and_then(|node| self.world.nodes.get(node));
        let addresses = node.into_iter().flat_map(|node| &node.addresses);
        addresses.filter(|a| a.kind == NodeAddressKind::InternalIp).map(|a| a.ip).collect()
    }
}

fn of_slices(slices: &[&EndpointSlice], service: &Service, port: &ServicePort, family: Family) -> Backends {
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
