//! All sources together make a world. Pure: values in, a value out.

use crate::folder::{Objects, Snapshot};
use crate::records::{Records, RouterAddresses};
use cilium_crds::lower::{Combined, LowerOptions, Pieces};
use cilium_engine::config::Config;
use cilium_engine::map::Map;
use cilium_engine::shared::Shared;
use cilium_engine::state::{Source, SourceSet};
use cilium_engine::world::{EndpointRecord, HostFacts, Node, NodeAddress, NodeAddressKind, World};
use std::net::IpAddr;
use std::sync::Arc;

/// The world as the folder, the records and the host tell it.
pub fn assemble(snapshot: &Snapshot, records: &Records, host: HostFacts, config: &Config) -> World {
    Assembler::default().assemble(snapshot, records, host, config)
}

/// Makes worlds one after another: what did not change is the same in memory in both. The result is always
/// that of [`assemble`].
#[derive(Debug, Default)]
pub struct Assembler {
    combined: Option<Combined>,
    objects: Objects,
    world: World,
}

impl Assembler {
    /// The world as it is told now.
    ///
    /// The router keeps the addresses it had: they are added to this node's own, if they still lie in its pod
    /// CIDRs, are no pod's, and its CiliumNode gives none of that family.
    pub fn assemble(
        &mut self,
        snapshot: &Snapshot,
        records: &Records,
        host: HostFacts,
        config: &Config,
    ) -> World {
        let options = LowerOptions { node_name: config.node.name.clone(), invalid: config.policy.invalid };
        if self.combined.as_ref().is_none_or(|combined| *combined.options() != options) {
            *self = Self { combined: Some(Combined::new(options)), ..Self::default() };
        }
        let Some(combined) = &mut self.combined else { return World::default() };
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        self.objects.changes(&snapshot.objects, |_, before, now| match (before, now) {
            (Some(before), Some(now)) if Arc::ptr_eq(before, now) => {}
            (before, now) => {
                gone.extend(before.cloned());
                come.extend(now.cloned());
            }
        });
        combined.change(&gone, &come);
        self.objects = snapshot.objects.clone();
        let Pieces {
            namespaces,
            nodes,
            pods,
            services,
            slices,
            cidr_groups,
            rules,
            claims,
            remote_endpoints,
            problems,
        } = combined.pieces().clone();
        let mut world = World {
            synced: synced(snapshot, records),
            namespaces,
            nodes,
            pods,
            services,
            slices,
            cidr_groups,
            rules,
            claims,
            remote_endpoints,
            endpoints: endpoints(&self.world.endpoints, records),
            host,
            problems,
        };
        world.problems.extend(snapshot.problems.iter().chain(records.problems()).cloned());
        keep_router(&mut world, records.router(), config);
        // What came out as it was goes on being the same in memory.
        if world.nodes == self.world.nodes {
            world.nodes = self.world.nodes.clone();
        }
        self.world = world.clone();
        world
    }
}

fn endpoints(
    before: &Map<u16, Shared<EndpointRecord>>,
    records: &Records,
) -> Map<u16, Shared<EndpointRecord>> {
    let mut endpoints = before.clone();
    endpoints.retain(|id, _| records.endpoints().contains_key(id));
    for (id, record) in records.endpoints() {
        if endpoints.get(id).is_none_or(|known| **known != *record) {
            endpoints.insert(*id, record.clone());
        }
    }
    endpoints
}

fn synced(snapshot: &Snapshot, records: &Records) -> SourceSet {
    let mut synced = SourceSet::of(&[Source::Config]);
    if records.readable() {
        synced = synced.with(Source::Endpoints);
    }
    if snapshot.synced {
        for source in [Source::Nodes, Source::Services, Source::Policies, Source::Identities] {
            synced = synced.with(source);
        }
    }
    synced
}

fn keep_router(world: &mut World, router: RouterAddresses, config: &Config) {
    let cidrs = cilium_engine::compile::pod_cidrs(world, config);
    let name = &config.node.name;
    for ip in [router.ipv4, router.ipv6].into_iter().flatten() {
        let given = |node: &Node| {
            let routers = node.addresses.iter().filter(|a| a.kind == NodeAddressKind::CiliumInternalIp);
            routers.map(|a| a.ip).any(|other: IpAddr| other.is_ipv4() == ip.is_ipv4())
        };
        let of_pod = |record: &EndpointRecord| [record.ipv4, record.ipv6].contains(&Some(ip));
        if world.nodes.get(name).is_some_and(|node| given(node))
            || world.endpoints.values().any(|record| of_pod(record))
            || !cidrs.iter().any(|cidr| cidr.contains(&ip))
        {
            continue;
        }
        let address = NodeAddress { kind: NodeAddressKind::CiliumInternalIp, ip };
        world.nodes.get_or_default(name.clone()).addresses.push(address);
    }
}
