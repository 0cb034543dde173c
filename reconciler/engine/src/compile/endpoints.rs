//! Rows of this node's pods: link, interface inside, programs, and the rows that let traffic in. What a
//! pod may do is decided in `policy`; here its verdict is only carried.

use super::identity::Identities;
use super::policy::Enforced;
use super::programs::{Hooked, attach};
use super::rows::Rows;
use super::site::{Family, Site};
use crate::state::{
    Endpoint, EndpointConfig, EndpointConfigRow, EndpointId, EndpointKey, EndpointRow, LINK_ALIAS_PREFIX,
    Link, LinkKind, LinkName, LinkRow, LinkUp, Origin, POD_LINK_PREFIX, PodInterface, PodInterfaceRow,
    PolicyId, Present, SetId,
};
use crate::world::{EndpointRecord, World};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Records that hold together: one link, one endpoint; addresses of families that are on, and of nobody
/// else on this node.
pub(super) fn records<'w>(
    world: &'w World,
    site: &Site,
    rows: &mut Rows,
) -> Vec<(&'w EndpointRecord, Option<IpAddr>, Option<IpAddr>)> {
    let mut links: BTreeMap<&str, Origin> = BTreeMap::new();
    let mut held: BTreeMap<IpAddr, Origin> = BTreeMap::new();
    let mut kept = Vec::new();
    for record in world.endpoints.values() {
        let origin = record.origin();
        if !record.link.starts_with(POD_LINK_PREFIX) || record.link.len() > 15 {
            rows.error(&origin, format!("interface name `{}` is none of ours", record.link), "");
            continue;
        }
        if let Some(first) = links.get(record.link.as_str()) {
            rows.error(&origin, format!("interface {} already belongs to {first}", record.link), "");
            continue;
        }
        links.insert(&record.link, origin.clone());
        let mut address = |addr: Option<IpAddr>, family: Family| {
            let addr = addr.filter(|a| Family::of(*a) == family && site.enabled(family))?;
            if site.own.contains(&addr) {
                rows.error(&origin, format!("its address {addr} is the node's own"), "attach the pod again");
                return None;
            }
            if let Some(first) = held.get(&addr) {
                rows.error(
                    &origin,
                    format!("its address {addr} already belongs to {first}"),
                    "attach the pod again",
                );
                return None;
            }
            held.insert(addr, origin.clone());
            Some(addr)
        };
        let ipv4 = address(record.ipv4, Family::V4);
        let ipv6 = address(record.ipv6, Family::V6);
        kept.push((record, ipv4, ipv6));
    }
    kept
}

/// Writes the rows of every endpoint.
pub(super) fn compile(
    world: &World,
    site: &Site,
    set: &SetId,
    identities: &Identities,
    enforced: &BTreeMap<u16, Enforced>,
    rows: &mut Rows,
) {
    for (record, ipv4, ipv6) in records(world, site, rows) {
        let why = rows.why(&record.origin());
        let link = LinkName(record.link.clone());
        let (identity, _) = identities.endpoints[&record.id];
        rows.put::<Link>(link.clone(), link_row(record, site), why);
        rows.put::<LinkUp>(link.clone(), Present, why);
        rows.put::<PodInterface>(link.clone(), interface_row(record, ipv4, ipv6, site), why);
        attach(&link, &Hooked::POD, set, why, rows);
        for addr in ipv4.into_iter().chain(ipv6) {
            let row = EndpointRow::Pod {
                link: link.clone(),
                endpoint: EndpointId(record.id),
                identity,
                mac: record.mac,
                node_mac: record.node_mac,
            };
            rows.put::<Endpoint>(EndpointKey(addr), row, why);
        }
        if let Some(enforced) = enforced.get(&record.id) {
            let row = EndpointConfigRow {
                endpoint: EndpointId(record.id),
                identity,
                policy: enforced.policy.unwrap_or(PolicyId(0)),
                flags: enforced.flags(),
                ipv4,
                ipv6,
                mac: record.mac,
                node_mac: record.node_mac,
            };
            rows.put::<EndpointConfig>(link, row, why);
        }
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
