//! Address and prefix → identity and tunnel. Every exact address has one claimant; where two claim it,
//! the nearer source wins and both are told: the host, its endpoints, the other nodes, their endpoints,
//! pods without one.

use super::identity::Identities;
use super::memo::{Memo, Part, recall};
use super::rows::Rows;
use super::shared::Shared;
use super::site::{Family, Neighbour, Site};
use super::view::AddressView;
use crate::state::{IdentityId, Ipcache, IpcacheKey, IpcacheRow, Origin, OriginId};
use crate::world::{EndpointRecord, ObjectName, Pod, RemoteEndpoint, World};
use cilium_abi::identity;
use cilium_abi::ipcache::FLAG_IN_CLUSTER;
use ipnet::IpNet;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// Origins of this stage are numbered by themselves.
const PART: u8 = 2;

/// What the stage tells: the rows by name.
pub(super) type Entries = Shared<BTreeMap<IpNet, AddressView>>;

/// All that the rows are made of.
#[derive(Hash)]
struct Inputs<'a> {
    site: &'a Site,
    /// Local endpoints with their identities.
    local: Vec<(&'a EndpointRecord, IdentityId)>,
    remote: &'a BTreeMap<ObjectName, RemoteEndpoint>,
    /// Pods elsewhere that no CiliumEndpoint speaks for.
    pods: Vec<(&'a ObjectName, &'a Pod, IdentityId)>,
    /// Prefixes of policies.
    prefixes: Vec<(&'a IpNet, IdentityId, &'a Origin)>,
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    identity: IdentityId,
    tunnel: Option<IpAddr>,
    origin: OriginId,
}

#[derive(Default)]
struct Addresses {
    held: BTreeMap<IpAddr, Holder>,
    contested: Vec<(IpAddr, OriginId, OriginId)>,
}

impl Addresses {
    fn claim(&mut self, addr: IpAddr, identity: u32, tunnel: Option<IpAddr>, origin: OriginId) {
        match self.held.get(&addr) {
            None => {
                self.held.insert(addr, Holder { identity: IdentityId(identity), tunnel, origin });
            }
            Some(first) if first.origin == origin => {}
            Some(first) => self.contested.push((addr, first.origin, origin)),
        }
    }
}

/// The other nodes by what endpoints say of theirs.
struct Neighbours<'a> {
    by_name: HashMap<&'a str, &'a Neighbour>,
    by_addr: HashMap<IpAddr, &'a Neighbour>,
}

impl<'a> Neighbours<'a> {
    fn new(site: &'a Site) -> Self {
        let mut by_addr = HashMap::new();
        for node in &site.neighbours {
            for addr in &node.all {
                // The first by name, where two claim an address.
                by_addr.entry(*addr).or_insert(node);
            }
        }
        let by_name = site.neighbours.iter().map(|node| (node.name.as_str(), node)).collect();
        Self { by_name, by_addr }
    }

    fn named(&self, name: Option<&String>) -> Option<&'a Neighbour> {
        self.by_name.get(name?.as_str()).copied()
    }
}

/// Writes the rows.
pub(super) fn compile(
    world: &World,
    site: &Site,
    identities: &Identities,
    memo: Option<&mut Memo>,
    rows: &mut Rows,
) -> Entries {
    let local = |(id, record): (&u16, _)| (record, identities.endpoints[id].0);
    let pods = identities.pods.iter();
    let inputs = Inputs {
        site,
        local: world.endpoints.iter().map(local).collect(),
        remote: &world.remote_endpoints,
        pods: pods.filter_map(|(name, id)| Some((name, world.pods.get(name)?, *id))).collect(),
        prefixes: identities.prefixes.iter().map(|(net, id)| (net, *id, &identities.own[id].1)).collect(),
    };
    let part = recall(memo, |memo| &mut memo.addresses, &inputs, stage);
    rows.absorb(part.rows);
    part.told
}

fn stage(inputs: &Inputs<'_>) -> Part<Entries> {
    let mut rows = Rows::of_part(PART);
    let Inputs { site, local, .. } = inputs;
    let neighbours = Neighbours::new(site);
    let mut addresses = Addresses::default();
    let why = rows.why(&site.origin);
    for addr in &site.own {
        addresses.claim(*addr, identity::HOST, None, why);
    }
    for (record, identity) in local {
        let why = rows.why(&record.origin());
        for addr in record.ipv4.iter().chain(&record.ipv6) {
            addresses.claim(*addr, identity.0, None, why);
        }
    }
    for node in &site.neighbours {
        let why = rows.why(&node.origin);
        for addr in &node.all {
            let tunnel = node.tunnel.filter(|_| node.routers.contains(addr));
            addresses.claim(*addr, identity::REMOTE_NODE, tunnel, why);
        }
    }
    remote_endpoints(inputs, &neighbours, &mut addresses, &mut rows);
    foreign_pods(inputs, &neighbours, &mut addresses, &mut rows);
    for (addr, first, second) in &addresses.contested {
        let named = |id: &OriginId| rows.origins.find(*id).expect("added by this stage").clone();
        let (first, second) = (named(first), named(second));
        let message = |other: &Origin| format!("address {addr} is also claimed by {other}");
        let hint = "one address, one owner";
        rows.error(&second, format!("{}, which keeps it", message(&first)), hint);
        rows.warning(&first, message(&second), hint);
    }
    prefixes(inputs, &addresses, &mut rows);
    for (addr, holder) in addresses.held {
        if site.enabled(Family::of(addr)) {
            let row = IpcacheRow { identity: holder.identity, tunnel: holder.tunnel, flags: FLAG_IN_CLUSTER };
            rows.put::<Ipcache>(IpcacheKey(IpNet::from(addr)), row, holder.origin);
        }
    }
    let views = rows.state.ipcache.iter().map(|(key, entry)| {
        let origin = rows.origins.shared(entry.origin).expect("added by this stage").clone();
        (key.0, AddressView { identity: entry.row.identity, tunnel: entry.row.tunnel, origin })
    });
    let told = Entries::from(views.collect::<BTreeMap<_, _>>());
    Part { rows, told }
}

/// Whether an endpoint elsewhere can have this identity: the host's or a prefix's would open doors here.
fn may_be_remote(number: u32) -> bool {
    matches!(number, identity::UNMANAGED | identity::HEALTH | identity::INIT | identity::INGRESS)
        || (identity::CLUSTER_MIN..=identity::CLUSTER_MAX).contains(&number)
}

fn remote_endpoints(
    inputs: &Inputs<'_>,
    neighbours: &Neighbours<'_>,
    addresses: &mut Addresses,
    rows: &mut Rows,
) {
    for (name, endpoint) in inputs.remote {
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
        let by_name = neighbours.named(endpoint.node_name.as_ref());
        let by_addr = || neighbours.by_addr.get(&endpoint.node_ip?).copied();
        let tunnel = match by_name.or_else(by_addr) {
            Some(node) => node.tunnel,
            None => endpoint.node_ip.filter(|_| inputs.site.tunnel),
        };
        let why = rows.why(&origin);
        for addr in &endpoint.ips {
            // An endpoint on its node's own address shares the node's network: the node has it.
            let shared = endpoint.node_ip == Some(*addr) || by_name.is_some_and(|n| n.all.contains(addr));
            if !shared {
                addresses.claim(*addr, identity, tunnel, why);
            }
        }
    }
}

fn foreign_pods(
    inputs: &Inputs<'_>,
    neighbours: &Neighbours<'_>,
    addresses: &mut Addresses,
    rows: &mut Rows,
) {
    let site = inputs.site;
    for (name, pod, identity) in &inputs.pods {
        let origin =
            Origin { object: format!("Pod {name}"), place: pod.place.to_string(), rule: String::new() };
        let why = rows.why(&origin);
        let node = neighbours.named(pod.node_name.as_ref());
        for addr in &pod.ips {
            // Its pod CIDR says where it is, if its object does not.
            let home = || site.neighbours.iter().find(|o| o.pod_cidrs.iter().any(|c| c.contains(addr)));
            let tunnel = node.or_else(home).and_then(|n| n.tunnel);
            addresses.claim(*addr, identity.0, tunnel, why);
        }
    }
}

/// Pod CIDRs (an address nobody has spoken for yet is an endpoint not managed, and never one of the
/// world), and prefixes of policies.
fn prefixes(inputs: &Inputs<'_>, addresses: &Addresses, rows: &mut Rows) {
    let site = inputs.site;
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
    for (net, id, origin) in &inputs.prefixes {
        let host = net.prefix_len() == net.max_prefix_len();
        if host && addresses.held.contains_key(&net.addr()) {
            continue;
        }
        let why = rows.why(origin);
        rows.put::<Ipcache>(IpcacheKey(**net), IpcacheRow { identity: *id, tunnel: None, flags: 0 }, why);
    }
}
