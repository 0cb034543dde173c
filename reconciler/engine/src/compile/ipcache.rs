//! Address and prefix → identity and tunnel. Every exact address has one claimant; where two claim it,
//! the nearer source wins and both are told: the host, its endpoints, the other nodes, their endpoints,
//! pods without one. Kept by address: an address is settled anew when one of those who claim it changes.

use super::Pass;
use super::identity::{Foreign, Identities, Prefix};
use super::rows::{Edits, because, error, warning};
use super::site::{Family, Neighbour, Site};
use crate::map::Map;
use crate::problem::Problem;
use crate::shared::{Shared, Text};
use crate::state::{IdentityId, Ipcache, IpcacheKey, IpcacheRow, Origin, Reason, State, Why};
use crate::world::{EndpointRecord, Name, ObjectName, RemoteEndpoint, World};
use cilium_abi::identity;
use cilium_abi::ipcache::FLAG_IN_CLUSTER;
use ipnet::IpNet;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// Who claims an address; the first wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claimant {
    Host,
    Local(u16),
    /// A node, by its place among the neighbours.
    Node(usize),
    Remote(Name),
    Pod(Name),
}

/// The endpoint of a claim, if it is one elsewhere.
type Elsewhere = Option<Shared<RemoteEndpoint>>;

/// The other nodes by what endpoints say of theirs: places among the neighbours.
#[derive(Debug, Default)]
struct Neighbours {
    by_name: HashMap<Text, usize>,
    by_addr: HashMap<IpAddr, usize>,
}

impl Neighbours {
    fn new(site: &Site) -> Self {
        let mut by_addr = HashMap::new();
        for (at, node) in site.neighbours.iter().enumerate() {
            for addr in &node.all {
                // The first by name, where two claim an address.
                by_addr.entry(*addr).or_insert(at);
            }
        }
        let by_name =
            site.neighbours.iter().enumerate().map(|(at, node)| (node.name.as_str().into(), at)).collect();
        Self { by_name, by_addr }
    }

    fn named<'s>(&self, site: &'s Site, name: Option<&str>) -> Option<&'s Neighbour> {
        site.neighbours.get(*self.by_name.get(name?)?)
    }

    fn at<'s>(&self, site: &'s Site, addr: Option<IpAddr>) -> Option<&'s Neighbour> {
        site.neighbours.get(*self.by_addr.get(&addr?)?)
    }
}

/// The ipcache, as it follows the world.
#[derive(Debug, Default)]
pub(super) struct Stage {
    neighbours: Neighbours,
    local: BTreeMap<u16, (Shared<EndpointRecord>, IdentityId)>,
    remote: Map<Name, Shared<RemoteEndpoint>>,
    pods: Map<Name, Foreign>,
    nodes: Shared<BTreeMap<String, IdentityId>>,
    prefixes: Shared<BTreeMap<IpNet, Prefix>>,
    /// With the endpoint, if it is one elsewhere.
    claims: Map<(IpAddr, Claimant), Elsewhere>,
    /// What is to be other of the claims, in the order of what was said.
    said: Vec<((IpAddr, Claimant), Option<Elsewhere>)>,
    /// Rows that nobody's address takes the place of.
    fixed: BTreeMap<IpNet, (IpcacheRow, Why)>,
    contested: BTreeMap<IpAddr, Vec<Shared<Problem>>>,
    refused: BTreeMap<Name, Vec<Shared<Problem>>>,
}

impl Stage {
    /// Settles the addresses that something was said of; all of them, if the place is another.
    pub(super) fn update(&mut self, pass: &Pass<'_>, identities: &Identities, edits: &mut Edits) {
        let Pass { world, site, moved, before, .. } = *pass;
        let mut stale: Vec<IpNet> = Vec::new();
        if moved {
            self.begin(site, before, &mut stale, edits);
        }
        self.local(world, identities, &mut stale);
        self.remote(world, site, &mut stale, edits);
        let pods = std::mem::replace(&mut self.pods, identities.pods.clone());
        for (name, was, is) in pods.differences(&identities.pods) {
            let said = |foreign: Option<&Foreign>| foreign.map_or(Vec::new(), |f| f.pod.ips.clone());
            self.claim(&Claimant::Pod(name.clone()), &said(was), &said(is), None, &mut stale);
        }
        if *self.nodes != *identities.nodes {
            let before = std::mem::replace(&mut self.nodes, identities.nodes.clone());
            let others = |node: &&Neighbour| before.get(&node.name) != self.nodes.get(&node.name);
            let addresses = site.neighbours.iter().filter(others).flat_map(|node| &node.all);
            stale.extend(addresses.map(|addr| IpNet::from(*addr)));
        }
        if moved || *self.prefixes != *identities.prefixes {
            self.prefixes = identities.prefixes.clone();
            let fixed = fixed(site, &self.prefixes);
            let was = std::mem::replace(&mut self.fixed, fixed);
            stale.extend(
                was.keys().chain(self.fixed.keys()).filter(|net| was.get(net) != self.fixed.get(net)),
            );
        }
        self.note();
        stale.sort_unstable();
        stale.dedup();
        for net in stale {
            self.settle(net, pass, identities, edits);
        }
    }

    /// Begins anew, at this place.
    fn begin(&mut self, site: &Site, before: &State, stale: &mut Vec<IpNet>, edits: &mut Edits) {
        for problems in self.contested.values_mut().chain(self.refused.values_mut()) {
            edits.tell(problems, Vec::new());
        }
        *self = Self { neighbours: Neighbours::new(site), ..Self::default() };
        stale.extend(before.ipcache.keys().map(|key| key.0));
        let own: Vec<IpAddr> = site.own.iter().copied().collect();
        self.claim(&Claimant::Host, &[], &own, None, stale);
        for (at, node) in site.neighbours.iter().enumerate() {
            let all: Vec<IpAddr> = node.all.iter().copied().collect();
            self.claim(&Claimant::Node(at), &[], &all, None, stale);
        }
    }

    /// Somebody claims these addresses, and no longer those.
    fn claim(
        &mut self,
        who: &Claimant,
        was: &[IpAddr],
        is: &[IpAddr],
        endpoint: Option<&Shared<RemoteEndpoint>>,
        stale: &mut Vec<IpNet>,
    ) {
        for addr in was.iter().filter(|addr| !is.contains(addr)) {
            self.said.push(((*addr, who.clone()), None));
        }
        for addr in is {
            self.said.push(((*addr, who.clone()), Some(endpoint.cloned())));
        }
        stale.extend(was.iter().chain(is).map(|addr| IpNet::from(*addr)));
    }

    /// Takes over what was said of claims; of two words on one the last counts.
    fn note(&mut self) {
        let mut said = std::mem::take(&mut self.said);
        said.reverse();
        said.sort_by(|(a, _), (b, _)| a.cmp(b));
        said.dedup_by(|(a, _), (b, _)| a == b);
        self.claims.edit(said);
    }

    fn local(&mut self, world: &World, identities: &Identities, stale: &mut Vec<IpNet>) {
        let said = |record: &EndpointRecord| -> Vec<IpAddr> {
            record.ipv4.iter().chain(&record.ipv6).copied().collect()
        };
        let gone: Vec<u16> =
            self.local.keys().filter(|id| !world.endpoints.contains_key(id)).copied().collect();
        for id in gone {
            if let Some((record, _)) = self.local.remove(&id) {
                self.claim(&Claimant::Local(id), &said(&record), &[], None, stale);
            }
        }
        for (id, record) in &world.endpoints {
            let now = (record.clone(), identities.endpoints[id].0);
            if self.local.get(id) != Some(&now) {
                let was = self.local.insert(*id, now).map_or(Vec::new(), |(record, _)| said(&record));
                self.claim(&Claimant::Local(*id), &was, &said(record), None, stale);
            }
        }
    }

    fn remote(&mut self, world: &World, site: &Site, stale: &mut Vec<IpNet>, edits: &mut Edits) {
        let remote = std::mem::replace(&mut self.remote, world.remote_endpoints.clone());
        for (name, was, is) in remote.differences(&world.remote_endpoints) {
            let said = |endpoint: Option<&Shared<RemoteEndpoint>>| {
                endpoint.map_or(Vec::new(), |endpoint| self.addresses(endpoint, site))
            };
            let (was, now) = (said(was), said(is));
            self.claim(&Claimant::Remote(name.clone()), &was, &now, is, stale);
            let refusal = is.filter(|endpoint| !may_be_remote(endpoint.identity.0)).map(|endpoint| {
                let message = format!(
                    "identity {} is none of an endpoint: it counts as not managed",
                    endpoint.identity
                );
                error(&endpoint.origin(name), message, "numbers 256 to 65535")
            });
            match (refusal, self.refused.remove(name)) {
                (None, None) => {}
                (None, Some(mut told)) => edits.tell(&mut told, Vec::new()),
                (Some(problem), told) => {
                    let mut told = told.unwrap_or_default();
                    edits.tell(&mut told, vec![problem]);
                    self.refused.insert(name.clone(), told);
                }
            }
        }
    }

    /// The addresses an endpoint has for itself: on its node's own address it shares the node's network, and
    /// the node has it.
    fn addresses(&self, endpoint: &RemoteEndpoint, site: &Site) -> Vec<IpAddr> {
        let node = self.neighbours.named(site, endpoint.node_name.as_deref());
        let shared = |addr: &IpAddr| {
            endpoint.node_ip == Some(*addr) || node.is_some_and(|node| node.all.contains(addr))
        };
        endpoint.ips.iter().copied().filter(|addr| !shared(addr)).collect()
    }

    /// Who has it: the row, and what is wrong.
    fn settle(&mut self, net: IpNet, pass: &Pass<'_>, identities: &Identities, edits: &mut Edits) {
        let Pass { world, site, .. } = *pass;
        let addr = net.addr();
        let host = net.prefix_len() == net.max_prefix_len();
        let claims = self
            .claims
            .range::<(IpAddr, Claimant)>((addr, Claimant::Host)..)
            .take_while(|((a, _), _)| host && *a == addr);
        let mut claimants = claims.map(|((_, claimant), endpoint)| (claimant, endpoint.as_ref()));
        let first = claimants.next();
        let origin = |(claimant, endpoint)| origin(claimant, endpoint, world, site);
        let problems: Vec<Shared<Problem>> = first.map_or(Vec::new(), |first| {
            claimants.flat_map(|second| contest(addr, &origin(first), &origin(second))).collect()
        });
        let row = match first {
            Some(first) if site.enabled(Family::of(addr)) => {
                Some((self.row(addr, first, site, identities), Some(reason(first, origin))))
            }
            Some(_) => None,
            None => self.fixed.get(&net).cloned(),
        };
        match row {
            Some((row, why)) => edits.set::<Ipcache>(IpcacheKey(net), row, &why),
            None => edits.unset::<Ipcache>(IpcacheKey(net)),
        }
        if !problems.is_empty() || self.contested.contains_key(&addr) && host {
            let told = self.contested.entry(addr).or_default();
            edits.tell(told, problems);
            if told.is_empty() {
                self.contested.remove(&addr);
            }
        }
    }

    fn row(
        &self,
        addr: IpAddr,
        (claimant, endpoint): (&Claimant, Option<&Shared<RemoteEndpoint>>),
        site: &Site,
        identities: &Identities,
    ) -> IpcacheRow {
        let (identity, tunnel) = match claimant {
            Claimant::Host => (IdentityId(identity::HOST), None),
            Claimant::Local(id) => (identities.endpoints[id].0, None),
            Claimant::Node(at) => {
                let node = &site.neighbours[*at];
                let fixed = if node.is_apiserver { identity::KUBE_APISERVER } else { identity::REMOTE_NODE };
                let identity = identities.nodes.get(&node.name).copied().unwrap_or(IdentityId(fixed));
                (identity, node.tunnel.filter(|_| node.routers.contains(&addr)))
            }
            Claimant::Remote(_) => {
                let endpoint = endpoint.expect("claims of endpoints elsewhere have theirs");
                let good = may_be_remote(endpoint.identity.0);
                let identity = if good { endpoint.identity } else { IdentityId(identity::UNMANAGED) };
                let node = self.neighbours.named(site, endpoint.node_name.as_deref());
                let tunnel = match node.or_else(|| self.neighbours.at(site, endpoint.node_ip)) {
                    Some(node) => node.tunnel,
                    None => endpoint.node_ip.filter(|_| site.tunnel),
                };
                (identity, tunnel)
            }
            Claimant::Pod(name) => {
                let Foreign { pod, identity } = &identities.pods[&**name];
                let node = self.neighbours.named(site, pod.node_name.as_deref());
                // Its pod CIDR says where it is, if its object does not.
                let home = || site.neighbours.iter().find(|o| o.pod_cidrs.iter().any(|c| c.contains(&addr)));
                (*identity, node.or_else(home).and_then(|n| n.tunnel))
            }
        };
        IpcacheRow { identity, tunnel, flags: FLAG_IN_CLUSTER }
    }
}

/// Why a claimant's row is there. Most are of endpoints elsewhere, which say it themselves.
fn reason<'c>(
    (claimant, endpoint): (&'c Claimant, Option<&'c Shared<RemoteEndpoint>>),
    origin: impl Fn((&'c Claimant, Option<&'c Shared<RemoteEndpoint>>)) -> Origin,
) -> Reason {
    match (claimant, endpoint) {
        (Claimant::Remote(name), Some(endpoint)) => Reason::Endpoint(name.clone(), endpoint.clone()),
        _ => origin((claimant, endpoint)).into(),
    }
}

fn origin(
    claimant: &Claimant,
    endpoint: Option<&Shared<RemoteEndpoint>>,
    world: &World,
    site: &Site,
) -> Origin {
    match (claimant, endpoint) {
        (Claimant::Host, _) => site.origin.clone(),
        (Claimant::Local(id), _) => world.endpoints[id].origin(),
        (Claimant::Node(at), _) => site.neighbours[*at].origin.clone(),
        (Claimant::Remote(name), Some(endpoint)) => endpoint.origin(name),
        (Claimant::Pod(name) | Claimant::Remote(name), _) => {
            let place = world.pods.get::<ObjectName>(name).map(|pod| pod.place.to_string());
            Origin { object: format!("Pod {name}"), place: place.unwrap_or_default(), rule: String::new() }
        }
    }
}

/// Two claim one address.
fn contest(addr: IpAddr, first: &Origin, second: &Origin) -> [Shared<Problem>; 2] {
    let message = |other: &Origin| format!("address {addr} is also claimed by {other}");
    let hint = "one address, one owner";
    [
        error(second, format!("{}, which keeps it", message(first)), hint),
        warning(first, message(second), hint),
    ]
}

/// Whether an endpoint elsewhere can have this identity: the host's or a prefix's would open doors here.
fn may_be_remote(number: u32) -> bool {
    matches!(number, identity::UNMANAGED | identity::HEALTH | identity::INIT | identity::INGRESS)
        || (identity::CLUSTER_MIN..=identity::CLUSTER_MAX).contains(&number)
}

/// Pod CIDRs (an address nobody has spoken for yet is an endpoint not managed, and never one of the
/// world), and prefixes of policies.
fn fixed(site: &Site, prefixes: &BTreeMap<IpNet, Prefix>) -> BTreeMap<IpNet, (IpcacheRow, Why)> {
    let mut fixed = BTreeMap::new();
    let unmanaged =
        |tunnel| IpcacheRow { identity: IdentityId(identity::UNMANAGED), tunnel, flags: FLAG_IN_CLUSTER };
    let why = because(&site.origin);
    for cidr in site.pod_cidrs.iter().filter(|c| c.prefix_len() < c.max_prefix_len()) {
        fixed.insert(*cidr, (unmanaged(None), why.clone()));
    }
    for node in &site.neighbours {
        let why = because(&node.origin);
        for cidr in &node.pod_cidrs {
            fixed.insert(*cidr, (unmanaged(node.tunnel), why.clone()));
        }
    }
    for (net, Prefix { id, why, .. }) in prefixes {
        fixed.insert(*net, (IpcacheRow { identity: *id, tunnel: None, flags: 0 }, why.clone()));
    }
    fixed
}
