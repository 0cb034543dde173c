//! All sources together make a world. Pure: values in, a value out.

use crate::folder::Snapshot;
use crate::records::{Records, RouterAddresses};
use cilium_crds::lower::{LowerOptions, Pieces, combine};
use cilium_engine::config::Config;
use cilium_engine::state::{Source, SourceSet};
use cilium_engine::world::{EndpointRecord, HostFacts, Node, NodeAddress, NodeAddressKind, World};
use std::net::IpAddr;
use std::sync::Arc;

/// The world as the folder, the records and the host tell it.
///
/// The router keeps the addresses it had: they are added to this node's own, if they still lie in its pod
/// CIDRs, are no pod's, and its CiliumNode gives none of that family.
pub fn assemble(snapshot: &Snapshot, records: &Records, host: HostFacts, config: &Config) -> World {
    let options = LowerOptions { node_name: config.node.name.clone(), invalid: config.policy.invalid };
    let pieces = combine(snapshot.objects.iter().map(Arc::as_ref), &options);
    let Pieces { namespaces, nodes, pods, services, slices, rules, claims, remote_endpoints, problems } =
        pieces;
    let mut world = World {
        synced: synced(snapshot, records),
        namespaces,
        nodes,
        pods,
        services,
        slices,
        rules,
        claims,
        remote_endpoints,
        endpoints: records.endpoints().clone(),
        host,
        problems,
    };
    world.problems.extend(snapshot.problems.iter().chain(records.problems()).cloned());
    keep_router(&mut world, records.router(), config);
    world
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
        if world.nodes.get(name).is_some_and(given)
            || world.endpoints.values().any(of_pod)
            || !cidrs.iter().any(|cidr| cidr.contains(&ip))
        {
            continue;
        }
        let address = NodeAddress { kind: NodeAddressKind::CiliumInternalIp, ip };
        world.nodes.entry(name.clone()).or_default().addresses.push(address);
    }
}
