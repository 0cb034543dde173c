//! Who is who: labels and numbers of identities.
//!
//! Numbers of cluster scope are agreed on without an allocator: 256 + hash(labels) mod 65 280, upward
//! past numbers that others have claimed; claims that stand are kept. If one number is claimed for two
//! label sets, it selects nothing, and the claim with the greater label hash moves, here and on every
//! other node alike. A claim nobody publishes (written by hand) never moves.

use super::book::IdBook;
use super::labels;
use super::memo::{Memo, Part, recall};
use super::number::{ContentHash, probe};
use super::rows::Rows;
use super::shared::Shared;
use super::site::{Family, Site};
use crate::config::Config;
use crate::state::{Digest, IdentityId, Origin};
use crate::world::{IdentityClaim, Labels, ObjectName, Peer, PeerSet, RemoteEndpoint, World};
use cilium_abi::identity as number;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What an identity stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// A number with a fixed meaning.
    Reserved,
    /// Endpoints of the cluster with the same labels.
    Endpoints,
    /// Addresses outside the cluster within a prefix of a policy.
    Prefix(IpNet),
}

/// An identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its labels.
    pub labels: Arc<Labels>,
    /// What it stands for.
    pub sort: Sort,
}

/// All identities of a compilation.
#[derive(Clone, Debug, Default)]
pub(super) struct Identities {
    /// Those that selectors see.
    pub(super) known: BTreeMap<IdentityId, Identity>,
    /// Claimed for two label sets: they select nothing.
    pub(super) clashed: BTreeSet<IdentityId>,
    /// Of local endpoints, by endpoint number.
    pub(super) endpoints: BTreeMap<u16, (IdentityId, Arc<Labels>)>,
    /// Of pods elsewhere that no CiliumEndpoint speaks for.
    pub(super) pods: BTreeMap<ObjectName, IdentityId>,
    /// Of prefixes in policies.
    pub(super) prefixes: BTreeMap<IpNet, IdentityId>,
    /// Numbers this node gave, with what they stand for.
    pub(super) own: BTreeMap<IdentityId, (Digest, Origin)>,
}

const CLUSTER_COUNT: u32 = number::CLUSTER_MAX - number::CLUSTER_MIN + 1;
/// How many numbers prefixes may take.
const LOCAL_COUNT: u32 = (1 << 24) - 1;

/// Others' claims: who says that a number stands for these labels.
type Claims = BTreeMap<IdentityId, BTreeMap<Arc<Labels>, Claim>>;

#[derive(Clone, Copy, Debug)]
struct Claim {
    /// Some node published it, and can take another number.
    movable: bool,
}

/// Others' claims, found by both of their sides.
#[derive(Debug, Default)]
pub(super) struct Claimed {
    by_number: Claims,
    by_labels: BTreeMap<Arc<Labels>, Vec<IdentityId>>,
}

/// All that claims are made of.
#[derive(Hash)]
struct Inputs<'a> {
    claims: &'a [IdentityClaim],
    /// CiliumEndpoints whose identity no CiliumIdentity speaks for.
    told: Vec<(&'a ObjectName, &'a RemoteEndpoint)>,
}

/// Origins of the claims' stage are numbered by themselves; it has no rows.
const PART: u8 = 3;

/// Numbers everyone who needs one.
pub(super) fn assign(
    world: &World,
    config: &Config,
    site: &Site,
    book: &IdBook,
    memo: Option<&mut Memo>,
    rows: &mut Rows,
) -> Identities {
    let mut all = Identities { known: reserved(site), ..Identities::default() };
    let claimed = claimed(world, memo, rows);
    let claims = &claimed.by_number;
    let pods = foreign_pods(world, config);
    let wanted = wanted(world, config, &pods);
    let own = number_labels(&wanted, &claimed, book, &mut all, rows);
    let init = (IdentityId(number::INIT), all.known[&IdentityId(number::INIT)].labels.clone());
    for (id, record) in &world.endpoints {
        let identity = labels::of_endpoint(record, world, &config.cluster.name)
            .and_then(|labels| own.get_key_value(&labels).map(|(labels, id)| (*id, labels.clone())));
        all.endpoints.insert(*id, identity.unwrap_or_else(|| init.clone()));
    }
    for (name, (labels, _)) in pods {
        all.pods.insert(name.clone(), own.get(&labels).copied().unwrap_or(init.0));
    }
    let own_by_number: BTreeMap<IdentityId, &Arc<Labels>> = own.iter().map(|(l, id)| (*id, l)).collect();
    for (id, claimed) in claims {
        let mut names: BTreeSet<Arc<Labels>> = claimed.keys().cloned().collect();
        names.extend(own_by_number.get(id).copied().cloned());
        learn(&mut all, *id, names);
    }
    for (labels, id) in own {
        if !all.clashed.contains(&id) {
            learn(&mut all, id, BTreeSet::from([labels]));
        }
    }
    number_prefixes(world, site, book, &mut all);
    all
}

fn learn(all: &mut Identities, id: IdentityId, names: BTreeSet<Arc<Labels>>) {
    let mut names = names.into_iter();
    match (names.next(), names.next()) {
        (Some(labels), None) => {
            all.known.insert(id, Identity { labels, sort: Sort::Endpoints });
        }
        (Some(_), Some(_)) => {
            all.clashed.insert(id);
        }
        (None, _) => {}
    }
}

fn reserved(site: &Site) -> BTreeMap<IdentityId, Identity> {
    let mut names = vec![
        (number::HOST, "host"),
        (number::UNMANAGED, "unmanaged"),
        (number::HEALTH, "health"),
        (number::INIT, "init"),
        (number::REMOTE_NODE, "remote-node"),
        (number::KUBE_APISERVER, "kube-apiserver"),
        (number::INGRESS, "ingress"),
    ];
    if site.ipv4 && site.ipv6 {
        names.extend([(number::WORLD_IPV4, "world-ipv4"), (number::WORLD_IPV6, "world-ipv6")]);
    } else {
        names.push((number::WORLD, "world"));
    }
    names
        .into_iter()
        .map(|(id, name)| {
            let labels = Arc::new(Labels::default().with("reserved", name, ""));
            (IdentityId(id), Identity { labels, sort: Sort::Reserved })
        })
        .collect()
}

/// Others' claims that can be one: cluster scope, and no label that only the datapath gives. What a
/// CiliumEndpoint says of its identity counts where no CiliumIdentity speaks for the number.
fn claimed(world: &World, memo: Option<&mut Memo>, rows: &mut Rows) -> Shared<Claimed> {
    let claimed: BTreeSet<IdentityId> = world.claims.iter().map(|claim| claim.number).collect();
    let told = |(_, endpoint): &(&ObjectName, &RemoteEndpoint)| {
        !endpoint.labels.0.is_empty() && !claimed.contains(&endpoint.identity)
    };
    let inputs = Inputs { claims: &world.claims, told: world.remote_endpoints.iter().filter(told).collect() };
    let part = recall(memo, |memo| &mut memo.claims, &inputs, claims);
    rows.absorb(part.rows);
    part.told
}

fn claims(inputs: &Inputs<'_>) -> Part<Shared<Claimed>> {
    let mut rows = Rows::of_part(PART);
    let mut claims = Claims::new();
    let mut add = |id: IdentityId, labels: &Labels, movable: bool, origin: &dyn Fn() -> Origin| {
        let in_scope = (number::CLUSTER_MIN..=number::CLUSTER_MAX).contains(&id.0);
        if !in_scope || labels.0.keys().any(|l| l.source == "reserved" || l.source == "cidr") {
            if labels.0.keys().any(|l| l.source == "reserved") && id.0 < number::CLUSTER_MIN {
                return;
            }
            rows.warning(
                &origin(),
                format!(
                    "identity {id} with labels {labels} is no identity of endpoints, and selects nothing"
                ),
                "numbers 256 to 65535, and labels but `reserved:` and `cidr:` ones",
            );
            return;
        }
        let names = claims.entry(id).or_default();
        match names.get_mut(labels) {
            Some(claim) => claim.movable &= movable,
            None => {
                names.insert(Arc::new(labels.clone()), Claim { movable });
            }
        }
    };
    for claim in inputs.claims {
        add(claim.number, &claim.labels, claim.published_by.is_some(), &|| Origin {
            object: format!("CiliumIdentity {}", claim.number),
            place: claim.place.to_string(),
            rule: String::new(),
        });
    }
    for (name, endpoint) in &inputs.told {
        add(endpoint.identity, &endpoint.labels, endpoint.node_name.is_some(), &|| Origin {
            object: format!("CiliumEndpoint {name}"),
            place: endpoint.place.to_string(),
            rule: String::new(),
        });
    }
    let mut by_labels: BTreeMap<Arc<Labels>, Vec<IdentityId>> = BTreeMap::new();
    for (id, names) in &claims {
        for labels in names.keys() {
            by_labels.entry(labels.clone()).or_default().push(*id);
        }
    }
    Part { rows, told: Claimed { by_number: claims, by_labels }.into() }
}

/// Pods elsewhere whose addresses are given, but by no CiliumEndpoint. They are numbered here too: their
/// node will come to the same number.
fn foreign_pods<'w>(world: &'w World, config: &Config) -> BTreeMap<&'w ObjectName, (Arc<Labels>, Origin)> {
    let local: BTreeSet<&ObjectName> = world.endpoints.values().filter_map(|r| r.pod.as_ref()).collect();
    world
        .pods
        .iter()
        .filter(|(name, pod)| {
            let spoken_for = world.remote_endpoints.contains_key(*name) || local.contains(name);
            !pod.host_network && !pod.ips.is_empty() && !spoken_for
        })
        .map(|(name, pod)| {
            let labels = Arc::new(labels::of_pod(name, pod, world, &config.cluster.name));
            let place = pod.place.to_string();
            (name, (labels, Origin { object: format!("Pod {name}"), place, rule: String::new() }))
        })
        .collect()
}

/// Label sets this node must have numbers for, each with its reason.
fn wanted(
    world: &World,
    config: &Config,
    pods: &BTreeMap<&ObjectName, (Arc<Labels>, Origin)>,
) -> BTreeMap<Arc<Labels>, Origin> {
    let mut wanted = BTreeMap::new();
    for record in world.endpoints.values() {
        if let Some(labels) = labels::of_endpoint(record, world, &config.cluster.name) {
            wanted.entry(Arc::new(labels)).or_insert_with(|| record.origin());
        }
    }
    for (labels, origin) in pods.values() {
        wanted.entry(labels.clone()).or_insert_with(|| origin.clone());
    }
    wanted
}

fn number_labels(
    wanted: &BTreeMap<Arc<Labels>, Origin>,
    claimed: &Claimed,
    book: &IdBook,
    all: &mut Identities,
    rows: &mut Rows,
) -> BTreeMap<Arc<Labels>, IdentityId> {
    let mut kept: BTreeMap<Digest, Vec<IdentityId>> = BTreeMap::new();
    for (id, digest) in &book.identities {
        kept.entry(*digest).or_default().push(*id);
    }
    let claims = &claimed.by_number;
    let mut order: Vec<(ContentHash, &Arc<Labels>)> =
        wanted.keys().map(|labels| (ContentHash::of_labels(labels), labels)).collect();
    order.sort();
    let mut taken: BTreeMap<IdentityId, Arc<Labels>> = BTreeMap::new();
    // First those that keep a number, so that no newcomer takes it.
    for (hash, labels) in &order {
        let mine = kept.get(&hash.digest()).into_iter().flatten();
        let others = claimed.by_labels.get(*labels).into_iter().flatten();
        let stands = |id: &&IdentityId| !taken.contains_key(*id) && may_stay(claims.get(*id), hash, labels);
        if let Some(id) = mine.chain(others).find(stands) {
            taken.insert(*id, (*labels).clone());
        }
    }
    let settled: BTreeSet<Arc<Labels>> = taken.values().cloned().collect();
    for (hash, labels) in order.iter().filter(|(_, labels)| !settled.contains(*labels)) {
        let free = |n: u32| {
            let id = IdentityId(n);
            let others = claims.get(&id).is_some_and(|names| names.keys().any(|l| l != *labels));
            let mine = book.identities.get(&id).is_some_and(|digest| *digest != hash.digest());
            !others && !mine && !taken.contains_key(&id)
        };
        match probe(hash, number::CLUSTER_MIN, CLUSTER_COUNT, free) {
            Some(n) => {
                taken.insert(IdentityId(n), (*labels).clone());
            }
            None => rows.error(
                &wanted[*labels],
                format!(
                    "no identity number is free: the endpoint keeps {}, as if it had no labels",
                    number::INIT
                ),
                "fewer distinct label sets: leave out labels that differ between equal pods",
            ),
        }
    }
    let own: BTreeMap<Arc<Labels>, IdentityId> = taken.into_iter().map(|(id, labels)| (labels, id)).collect();
    for (hash, labels) in &order {
        if let Some(id) = own.get(*labels) {
            all.own.insert(*id, (hash.digest(), wanted[*labels].clone()));
        }
    }
    own
}

/// Whether these labels may keep a number: no other claim on it that comes before.
fn may_stay(claims: Option<&BTreeMap<Arc<Labels>, Claim>>, hash: &ContentHash, labels: &Arc<Labels>) -> bool {
    claims.is_none_or(|names| {
        names.iter().filter(|(other, _)| *other != labels).all(|(other, claim)| {
            claim.movable && (ContentHash::of_labels(other).place(), other) > (hash.place(), labels)
        })
    })
}

/// Prefixes named by policies, exceptions included, that are not the cluster's own addresses.
fn number_prefixes(world: &World, site: &Site, book: &IdBook, all: &mut Identities) {
    let mut prefixes: BTreeMap<IpNet, &Origin> = BTreeMap::new();
    for rule in &world.rules {
        let peers = rule.clauses.iter().filter_map(|clause| match &clause.peers {
            PeerSet::Any => None,
            PeerSet::Of(peers) => Some(peers),
        });
        for peer in peers.flatten() {
            if let Peer::Cidr { net, except } = peer {
                for prefix in std::iter::once(net).chain(except) {
                    let best = prefixes.entry(prefix.trunc()).or_insert(&rule.origin);
                    *best = (*best).min(&rule.origin);
                }
            }
        }
    }
    prefixes.retain(|net, _| {
        net.prefix_len() > 0 && site.enabled(Family::of(net.addr())) && !site.in_pod_cidrs(net)
    });
    let mut kept: BTreeMap<Digest, IdentityId> = BTreeMap::new();
    for (id, digest) in book.identities.range(IdentityId(number::LOCAL_SCOPE)..) {
        kept.entry(*digest).or_insert(*id);
    }
    let mut fresh = Vec::new();
    let mut taken = BTreeSet::new();
    for (net, origin) in prefixes {
        let world_name = match (site.ipv4 && site.ipv6, Family::of(net.addr())) {
            (false, _) => "world",
            (true, Family::V4) => "world-ipv4",
            (true, Family::V6) => "world-ipv6",
        };
        let labels = Labels::default().with("cidr", &net.to_string(), "").with("reserved", world_name, "");
        let hash = ContentHash::of_labels(&labels);
        match kept.get(&hash.digest()) {
            Some(id) => {
                taken.insert(*id);
                admit(all, *id, net, labels, hash, origin);
            }
            None => fresh.push((hash, net, labels, origin)),
        }
    }
    fresh.sort_by_key(|(hash, net, ..)| (*hash, *net));
    for (hash, net, labels, origin) in fresh {
        let free = |n: u32| !taken.contains(&IdentityId(n)) && !book.identities.contains_key(&IdentityId(n));
        if let Some(n) = probe(&hash, number::LOCAL_SCOPE + 1, LOCAL_COUNT, free) {
            taken.insert(IdentityId(n));
            admit(all, IdentityId(n), net, labels, hash, origin);
        }
    }
}

fn admit(
    all: &mut Identities,
    id: IdentityId,
    net: IpNet,
    labels: Labels,
    hash: ContentHash,
    origin: &Origin,
) {
    all.known.insert(id, Identity { labels: Arc::new(labels), sort: Sort::Prefix(net) });
    all.prefixes.insert(net, id);
    all.own.insert(id, (hash.digest(), origin.clone()));
}
