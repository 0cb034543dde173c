//! Named ports of containers, where rules name some: those of this node's endpoints, and of all pods by identity.
//!
//! Gone through whole when a pod has changed, but only while some rule names a port.

use super::rules::Names;
use super::select;
use crate::compile::identity::Identities;
use crate::map::Map;
use crate::shared::Shared;
use crate::state::IdentityId;
use crate::world::{EndpointRecord, Name, Pod, PodPort, RemoteEndpoint, World};
use std::collections::{BTreeMap, BTreeSet};

/// Named ports, as they follow the world.
#[derive(Debug, Default)]
pub(super) struct Ports {
    seen: Option<Seen>,
    own: BTreeMap<u16, Vec<PodPort>>,
    pub(super) of_peers: select::Ports,
}

/// What was last read.
#[derive(Debug)]
struct Seen {
    names: Names,
    pods: Map<Name, Shared<Pod>>,
    remote: Map<Name, Shared<RemoteEndpoint>>,
    endpoints: Map<u16, Shared<EndpointRecord>>,
    identities: BTreeMap<u16, IdentityId>,
}

impl Ports {
    /// The named ports of an endpoint of this node.
    pub(super) fn own(&self, endpoint: u16) -> Vec<PodPort> {
        self.own.get(&endpoint).cloned().unwrap_or_default()
    }

    /// Takes over the pods there are now; the identities whose ports are others than before.
    pub(super) fn update(&mut self, world: &World, identities: &Identities, names: Names) -> Vec<IdentityId> {
        let numbers = || identities.endpoints.iter().map(|(id, (number, _))| (*id, *number));
        let same = self.seen.as_ref().is_some_and(|seen| {
            seen.names == names
                && (names == Names::default()
                    || seen.pods.shares(&world.pods)
                        && seen.remote.shares(&world.remote_endpoints)
                        && seen.endpoints.shares(&world.endpoints)
                        && seen.identities.iter().map(|(id, number)| (*id, *number)).eq(numbers()))
        });
        if same {
            return Vec::new();
        }
        self.seen = Some(Seen {
            names,
            pods: world.pods.clone(),
            remote: world.remote_endpoints.clone(),
            endpoints: world.endpoints.clone(),
            identities: numbers().collect(),
        });
        let of_pod = |id: &u16| {
            let record = world.endpoints.get(id)?;
            world.pods.get(record.pod.as_ref()?)
        };
        self.own = match names.own {
            false => BTreeMap::new(),
            true => numbers().filter_map(|(id, _)| Some((id, of_pod(&id)?.ports.clone()))).collect(),
        };
        let before = std::mem::take(&mut self.of_peers);
        if names.peers {
            let mut all: BTreeMap<IdentityId, BTreeSet<PodPort>> = BTreeMap::new();
            let mut add = |number: IdentityId, ports: &[PodPort]| {
                if !ports.is_empty() {
                    all.entry(number).or_default().extend(ports.iter().cloned());
                }
            };
            for (id, number) in numbers() {
                add(number, of_pod(&id).map_or(&[], |pod| &pod.ports));
            }
            identities.pods.iter().for_each(|(_, foreign)| add(foreign.identity, &foreign.pod.ports));
            world.remote_endpoints.iter().for_each(|(_, remote)| add(remote.identity, &remote.ports));
            self.of_peers = all.into_iter().map(|(id, ports)| (id, ports.into_iter().collect())).collect();
        }
        let ids: BTreeSet<IdentityId> = before.keys().chain(self.of_peers.keys()).copied().collect();
        ids.into_iter().filter(|id| before.get(id) != self.of_peers.get(id)).collect()
    }
}
