//! From slices and pods to the backends of a port.

use super::{Backend, DEFAULT_WEIGHT, Fitness};
use crate::map::Map;
use crate::shared::Shared;
use crate::state::Protocol;
use crate::world::{BackendAddress, Distribution, EndpointSlice, IpFamily, Node, Service, ServicePort};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// Nodes by name, for the zones of endpoints that do not say theirs.
pub type Nodes = Map<String, Shared<Node>>;

/// The slices of one Service, with their ports by name.
pub struct Slices<'w> {
    ports: HashMap<(&'w str, Protocol), Vec<(&'w EndpointSlice, u16)>>,
}

impl<'w> Slices<'w> {
    /// Of these slices. Of what several say of one address, the fittest counts, then the first: give them in
    /// the order of their names.
    pub fn new(slices: impl IntoIterator<Item = &'w EndpointSlice>) -> Self {
        let mut ports: HashMap<_, Vec<_>> = HashMap::new();
        for slice in slices {
            for port in &slice.ports {
                ports.entry((port.name.as_str(), port.proto)).or_default().push((slice, port.port));
            }
        }
        Self { ports }
    }

    /// Backends of a port in one family, each address and port once, in their order. Endpoints that neither
    /// serve nor are to be published are not among them.
    pub fn backends(
        &self,
        service: &Service,
        port: &ServicePort,
        family: IpFamily,
        nodes: &'w Nodes,
    ) -> Vec<Backend<'w>> {
        let found = self.ports.get(&(port.name.as_str(), port.proto)).map_or(&[][..], Vec::as_slice);
        let all = found.iter().flat_map(|(slice, number)| {
            let endpoints = slice.endpoints.iter().filter(|e| IpFamily::of(e.ip) == family);
            endpoints.filter_map(|endpoint| {
                let fitness = fitness(endpoint, service, slice.weight)?;
                Some(of_endpoint(endpoint, *number, fitness, slice.weight, service, nodes))
            })
        });
        merge(all)
    }
}

/// Each address and port once, in their order: the fittest, of those the first.
pub fn merge<'w>(backends: impl IntoIterator<Item = Backend<'w>>) -> Vec<Backend<'w>> {
    let mut merged: BTreeMap<(IpAddr, u16), Backend<'w>> = BTreeMap::new();
    for backend in backends {
        match merged.entry((backend.addr, backend.port)) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(backend);
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                if backend.fitness > entry.get().fitness {
                    entry.insert(backend);
                }
            }
        }
    }
    merged.into_values().collect()
}

fn fitness(endpoint: &BackendAddress, service: &Service, weight: Option<u16>) -> Option<Fitness> {
    let serves = endpoint.serving && endpoint.terminating;
    let ready = endpoint.ready || service.publish_not_ready;
    match (ready || serves, weight) {
        (false, _) => None,
        (true, Some(0)) => Some(Fitness::Maintenance),
        (true, _) if ready => Some(Fitness::Ready),
        (true, _) => Some(Fitness::Terminating),
    }
}

fn of_endpoint<'w>(
    endpoint: &'w BackendAddress,
    port: u16,
    fitness: Fitness,
    weight: Option<u16>,
    service: &Service,
    nodes: &'w Nodes,
) -> Backend<'w> {
    let node = endpoint.node.as_ref();
    let zone = endpoint.zone.as_ref().or_else(|| nodes.get(node?)?.zone());
    // What the EndpointSlice controller writes for a distribution holds also where there is none.
    let (zones, hinted) = hints(service.distribution, node, zone);
    let own = |written: &'w [String], made: &'w [String]| match written.is_empty() {
        true => made,
        false => written,
    };
    Backend {
        addr: endpoint.ip,
        port,
        fitness,
        weight: weight.filter(|weight| *weight > 0).unwrap_or(DEFAULT_WEIGHT),
        node: node.map(String::as_str),
        zones: own(&endpoint.hints.zones, zones),
        nodes: own(&endpoint.hints.nodes, hinted),
    }
}

/// Zones and nodes that an endpoint is meant for by the Service's distribution.
fn hints<'w>(
    distribution: Distribution,
    node: Option<&'w String>,
    zone: Option<&'w String>,
) -> (&'w [String], &'w [String]) {
    let one = |name: Option<&'w String>| name.map_or(&[][..], std::slice::from_ref);
    match distribution {
        Distribution::AsHinted => (&[], &[]),
        Distribution::SameZone => (one(zone), &[]),
        Distribution::SameNode => (one(zone), one(node)),
    }
}

/// Where a selected pod is.
#[derive(Clone, Copy, Debug)]
pub struct PodPlace<'w> {
    /// Address.
    pub addr: IpAddr,
    /// The port that the Service's leads to.
    pub port: u16,
    /// The node it is on, if known.
    pub node: Option<&'w String>,
}

/// A pod as a backend: without slices nobody says more of it than that it is there.
pub fn of_pod<'w>(place: PodPlace<'w>, service: &Service, nodes: &'w Nodes) -> Backend<'w> {
    let zone = place.node.and_then(|node| nodes.get(node)?.zone());
    let (zones, hinted) = hints(service.distribution, place.node, zone);
    Backend {
        addr: place.addr,
        port: place.port,
        fitness: Fitness::Ready,
        weight: DEFAULT_WEIGHT,
        node: place.node.map(String::as_str),
        zones,
        nodes: hinted,
    }
}
