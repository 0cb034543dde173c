//! Address and prefix → identity and tunnel. Every exact address has one claimant; where two claim it,
//! the nearer source wins and both are told: the host, its endpoints, the other nodes, their endpoints,
//! pods without one.

use super::identity::Identities;
use super::rows::Rows;
use super::site::{Family, Site};
use crate::state::{IdentityId, Ipcache, IpcacheKey, IpcacheRow, Origin};
use crate::world::World;
use cilium_abi::identity;
use cilium_abi::ipcache::FLAG_IN_CLUSTER;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    identity: IdentityId,
    tunnel: Option<IpAddr>,
    origin: Origin,
}

#[derive(Default)]
struct Addresses {
    held: BTreeMap<IpAddr, Holder>,
    contested: Vec<(IpAddr, Origin, Origin)>,
}

impl Addresses {
    fn claim(&mut self, addr: IpAddr, identity: u32, tunnel: Option<IpAddr>, origin: &Origin) {
        let holder = Holder { identity: IdentityId(identity), tunnel, origin: origin.clone() };
        match self.held.get(&addr) {
            None => {
                self.held.insert(addr, holder);
            }
            Some(first) if first.origin == holder.origin => {}
            Some(first) => self.contested.push((addr, first.origin.clone(), holder.origin)),
        }
    }
}

/// Writes the rows.
pub(super) fn compile(world: &World, site: &Site, identities: &Identities, rows: &mut Rows) {
    let mut addresses = Addresses::default();
    for addr in &site.own {
        addresses.claim(*addr, identity::HOST, None, &site.origin);
    }
    for (id, record) in &world.endpoints {
        for addr in record.ipv4.iter().chain(&record.ipv6) {
            addresses.claim(*addr, identities.endpoints[id].0.0, None, &record.origin());
        }
    }
    for node in &site.neighbours {
        for addr in &node.all {
            let tunnel = node.tunnel.filter(|_| node.routers.contains(addr));
            addresses.claim(*addr, identity::REMOTE_NODE, tunnel, &node.origin);
        }
    }
    remote_endpoints(world, site, &mut addresses, rows);
    foreign_pods(world, site, identities, &mut addresses);
    for (addr, first, second) in &addresses.contested {
        let message = |other: &Origin| format!("address {addr} is also claimed by {other}");
        rows.error(second, format!("{}, which keeps it", message(first)), "one address, one owner");
        rows.warning(first, message(second), "one address, one owner");
    }
    prefixes(site, identities, &addresses, rows);
    for (addr, holder) in addresses.held {
        if site.enabled(Family::of(addr)) {
            let why = rows.why(&holder.origin);
            let row = IpcacheRow { identity: holder.identity, tunnel: holder.tunnel, flags: FLAG_IN_CLUSTER };
            rows.put::<Ipcache>(IpcacheKey(IpNet::from(addr)), row, why);
        }
    }
}

/// Whether an endpoint elsewhere can have this identity: the host's or a prefix's would open doors here.
fn may_be_remote(number: u32) -> bool {
    matches!(number, identity::UNMANAGED | identity::HEALTH | identity::INIT | identity::INGRESS)
        || (identity::CLUSTER_MIN..=identity::CLUSTER_MAX).contains(&number)
}

fn remote_endpoints(world: &World, site: &Site, addresses: &mut Addresses, rows: &mut Rows) {
    for (name, endpoint) in &world.remote_endpoints {
        let origin = Origin {
            object: format!("CiliumEndpoint {name}"),
            place: endpoint.place.to_string(),
            rule: String::new(),
        };
        let identity = if may_be_remote(endpoint.identity.0) {
            endpoint.identity.0
        } else {
            rows.error(
                &origin,
                format!("identity {} is none of an endpoint: it counts as not managed", endpoint.identity),
                "numbers 256 to 65535",
            );
            identity::UNMANAGED
        };
        let by_name = endpoint.node_name.as_ref().and_then(|n| site.neighbours.iter().find(|o| o.name == *n));
        let by_addr = || endpoint.node_ip.and_then(|ip| site.neighbours.iter().find(|o| o.all.contains(&ip)));
        let tunnel = match by_name.or_else(by_addr) {
            Some(node) => node.tunnel,
            None => endpoint.node_ip.filter(|_| site.tunnel),
        };
        for addr in &endpoint.ips {
            // An endpoint on its node's own address shares the node's network: the node has it.
            let shared = endpoint.node_ip == Some(*addr) || by_name.is_some_and(|n| n.all.contains(addr));
            if !shared {
                addresses.claim(*addr, identity, tunnel, &origin);
            }
        }
    }
}

fn foreign_pods(world: &World, site: &Site, identities: &Identities, addresses: &mut Addresses) {
    for (name, identity) in &identities.pods {
        let Some(pod) = world.pods.get(name) else { continue };
        let origin =
            Origin { object: format!("Pod {name}"), place: pod.place.to_string(), rule: String::new() };
        let node = pod.node_name.as_ref().and_then(|n| site.neighbours.iter().find(|o| o.name == *n));
        for addr in &pod.ips {
            // Its pod CIDR says where it is, if its object does not.
            let home = || site.neighbours.iter().find(|o| o.pod_cidrs.iter().any(|c| c.contains(addr)));
            let tunnel = node.or_else(home).and_then(|n| n.tunnel);
            addresses.claim(*addr, identity.0, tunnel, &origin);
        }
    }
}

/// Pod CIDRs (an address nobody has spoken for yet is an endpoint not managed, and never one of the
/// world), and prefixes of policies.
fn prefixes(site: &Site, identities: &Identities, addresses: &Addresses, rows: &mut Rows) {
    let unmanaged =
        |tunnel| IpcacheRow { identity: IdentityId(identity::UNMANAGED), tunnel, flags: FLAG_IN_CLUSTER };
    let why = rows.why(&site.origin);
    for cidr in site.pod_cidrs.iter().filter(|c| c.prefix_len() < c.max_prefix_len()) {
        rows.put::<Ipcache>(IpcacheKey(*cidr), unmanaged(None), why);
    }
    for node in &site.neighbours {
        let why = rows.why(&node.origin);
        for cidr in &node.pod_cidrs {
            rows.put::<Ipcache>(IpcacheKey(*cidr), unmanaged(node.tunnel), why);
        }
    }
    for (net, id) in &identities.prefixes {
        let host = net.prefix_len() == net.max_prefix_len();
        if host && addresses.held.contains_key(&net.addr()) {
            continue;
        }
        let why = rows.why(&identities.own[id].1);
        rows.put::<Ipcache>(IpcacheKey(*net), IpcacheRow { identity: *id, tunnel: None, flags: 0 }, why);
    }
}
