//! Rows of this node's pods: link, interface inside, programs, the rows that let traffic in, and what is
//! published of them. What a pod may do is decided in `policy`; here its verdict is only carried.

use super::Pass;
use super::identity::Identities;
use super::policy::{Enforced, Outcome};
use super::programs::{Hooked, attach};
use super::publish;
use super::rows::{Edits, Rows, because};
use super::site::{Family, Site};
use crate::shared::Shared;
use crate::state::{
    Endpoint, EndpointConfig, EndpointConfigRow, EndpointId, EndpointKey, EndpointRow, IdentityId,
    LINK_ALIAS_PREFIX, Link, LinkKind, LinkName, LinkRow, LinkUp, POD_LINK_PREFIX, PodInterface,
    PodInterfaceRow, PolicyId, Present, SetId,
};
use crate::world::{EndpointRecord, Labels, Pod, World};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Records that hold together: one link, one endpoint; addresses of families that are on, and of nobody
/// else on this node.
fn records<'w>(
    world: &'w World,
    site: &Site,
    rows: &mut Rows,
) -> BTreeMap<u16, (Option<IpAddr>, Option<IpAddr>)> {
    let mut links: BTreeMap<&'w str, &'w EndpointRecord> = BTreeMap::new();
    let mut held: BTreeMap<IpAddr, &'w EndpointRecord> = BTreeMap::new();
    let mut kept = BTreeMap::new();
    for record in world.endpoints.values() {
        let record: &'w EndpointRecord = record;
        if !record.link.starts_with(POD_LINK_PREFIX) || record.link.len() > 15 {
            rows.error(&record.origin(), format!("interface name `{}` is none of ours", record.link), "");
            continue;
        }
        if let Some(first) = links.get(record.link.as_str()) {
            let message = format!("interface {} already belongs to {}", record.link, first.origin());
            rows.error(&record.origin(), message, "");
            continue;
        }
        links.insert(&record.link, record);
        let mut address = |addr: Option<IpAddr>, family: Family| {
            let addr = addr.filter(|a| Family::of(*a) == family && site.enabled(family))?;
            if site.own.contains(&addr) {
                let message = format!("its address {addr} is the node's own");
                rows.error(&record.origin(), message, "attach the pod again");
                return None;
            }
            if let Some(first) = held.get(&addr) {
                let message = format!("its address {addr} already belongs to {}", first.origin());
                rows.error(&record.origin(), message, "attach the pod again");
                return None;
            }
            held.insert(addr, record);
            Some(addr)
        };
        let ipv4 = address(record.ipv4, Family::V4);
        let ipv6 = address(record.ipv6, Family::V6);
        kept.insert(record.id, (ipv4, ipv6));
    }
    kept
}

/// All that the rows of one endpoint are made of.
#[derive(Clone, Debug, PartialEq)]
struct Of {
    record: Shared<EndpointRecord>,
    pod: Option<Shared<Pod>>,
    /// What it has of its addresses; none: it does not hold together with the others.
    addresses: Option<(Option<IpAddr>, Option<IpAddr>)>,
    identity: IdentityId,
    labels: Shared<Labels>,
    enforced: Option<Enforced>,
    /// No other endpoint is published under its name, or those others come before it.
    published: bool,
}

/// The rows of every endpoint.
#[derive(Debug, Default)]
pub(super) struct Stage {
    /// What is wrong between them.
    problems: Rows,
    rows: BTreeMap<u16, (Of, Rows)>,
}

impl Stage {
    /// Makes anew the rows of those endpoints whose inputs are others; of all of them, if the place is.
    pub(super) fn update(
        &mut self,
        pass: &Pass<'_>,
        set: &SetId,
        identities: &Identities,
        policies: &Outcome,
        edits: &mut Edits,
    ) {
        let Pass { world, config, site, moved, .. } = *pass;
        let mut problems = Rows::default();
        let records = records(world, site, &mut problems);
        edits.replace(&mut self.problems, problems);
        let publishes = config.source.manifests.publish.is_some();
        let published = if publishes { publish::last_of_each_name(world) } else { BTreeSet::new() };
        for (id, (_, rows)) in &mut self.rows {
            if !world.endpoints.contains_key(id) {
                edits.replace(rows, Rows::default());
            }
        }
        self.rows.retain(|id, _| world.endpoints.contains_key(id));
        for (id, record) in &world.endpoints {
            let (identity, labels) = identities.endpoints[id].clone();
            let inputs = Of {
                record: record.clone(),
                pod: record.pod.as_ref().and_then(|name| world.pods.get(name)).cloned(),
                addresses: records.get(id).copied(),
                identity,
                labels,
                enforced: policies.enforced.get(id).copied(),
                published: published.contains(id),
            };
            if !moved && self.rows.get(id).is_some_and(|(before, _)| *before == inputs) {
                continue;
            }
            let mut rows = Rows::default();
            put(&inputs, site, set, &mut rows);
            if inputs.published {
                let pod = inputs.pod.as_deref();
                publish::endpoint(config, site, record, pod, (identity, &inputs.labels), &mut rows);
            }
            let before = self.rows.entry(*id).or_insert_with(|| (inputs.clone(), Rows::default()));
            before.0 = inputs;
            edits.replace(&mut before.1, rows);
        }
    }
}

fn put(inputs: &Of, site: &Site, set: &SetId, rows: &mut Rows) {
    let (record, Some((ipv4, ipv6))) = (&inputs.record, inputs.addresses) else { return };
    let why = because(&record.origin());
    let link = LinkName(record.link.clone());
    rows.put::<Link>(link.clone(), link_row(record, site), &why);
    rows.put::<LinkUp>(link.clone(), Present, &why);
    rows.put::<PodInterface>(link.clone(), interface_row(record, ipv4, ipv6, site), &why);
    attach(&link, &Hooked::POD, set, &why, rows);
    for addr in ipv4.into_iter().chain(ipv6) {
        let row = EndpointRow::Pod {
            link: link.clone(),
            endpoint: EndpointId(record.id),
            identity: inputs.identity,
            mac: record.mac,
            node_mac: record.node_mac,
        };
        rows.put::<Endpoint>(EndpointKey(addr), row, &why);
    }
    if let Some(enforced) = inputs.enforced {
        let row = EndpointConfigRow {
            endpoint: EndpointId(record.id),
            identity: inputs.identity,
            policy: enforced.policy.unwrap_or(PolicyId(0)),
            flags: enforced.flags(),
            ipv4,
            ipv6,
            mac: record.mac,
            node_mac: record.node_mac,
        };
        rows.put::<EndpointConfig>(link, row, &why);
    }
}
fn link_row(record: &EndpointRecord, site: &Site) -> LinkRow {
    LinkRow {
        kind: LinkKind::PodVeth,
        mac: Some(record.node_mac),
        mtu: site.pod_mtu,
        alias: format!("{LINK_ALIAS_PREFIX}endpoint:{}", record.id),
    }
}

/// Inside, the interface itself has the pod's MTU: what fits it, fits the way to every other pod.
fn interface_row(
    record: &EndpointRecord,
    ipv4: Option<IpAddr>,
    ipv6: Option<IpAddr>,
    site: &Site,
) -> PodInterfaceRow {
    let mut addresses: Vec<IpNet> = ipv4.into_iter().chain(ipv6).map(IpNet::from).collect();
    addresses.sort();
    let mut gateways: Vec<IpAddr> =
        ipv4.into_iter().chain(ipv6).filter_map(|addr| site.router(Family::of(addr))).collect();
    gateways.sort();
    PodInterfaceRow {
        netns: record.netns.clone(),
        ifname: LinkName(record.ifname.clone()),
        mac: record.mac,
        mtu: site.pod_mtu,
        addresses,
        gateways,
        route_mtu: 0,
    }
}
