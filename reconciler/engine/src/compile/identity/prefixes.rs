//! Prefixes named by policies, exceptions included, that are not the cluster's own addresses: each is an
//! identity of this node's own.

use crate::compile::book::IdBook;
use crate::compile::number::{ContentHash, probe};
use crate::compile::rows::because;
use crate::compile::site::{Family, Site};
use crate::map::Set;
use crate::shared::Shared;
use crate::state::{Digest, IdentityId, Origin, Why};
use crate::world::{Labels, Peer, PeerSet, PolicyRule};
use cilium_abi::identity as number;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// How many numbers prefixes may take.
const LOCAL_COUNT: u32 = (1 << 24) - 1;

/// A prefix with its number.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::compile) struct Prefix {
    pub(in crate::compile) id: IdentityId,
    pub(in crate::compile) why: Why,
    pub(super) labels: Shared<Labels>,
    pub(super) digest: Digest,
}

/// Numbers the prefixes of these rules.
pub(super) fn number(rules: &Set<Shared<PolicyRule>>, site: &Site, book: &IdBook) -> BTreeMap<IpNet, Prefix> {
    let prefixes = named(rules, site);
    let mut kept: BTreeMap<Digest, IdentityId> = BTreeMap::new();
    for (id, entry) in book.identities.range(IdentityId(number::LOCAL_SCOPE)..) {
        kept.entry(entry.row).or_insert(*id);
    }
    let mut out = BTreeMap::new();
    let mut fresh = Vec::new();
    let mut taken = BTreeSet::new();
    for (net, origin) in prefixes {
        let world_name = match (site.ipv4 && site.ipv6, Family::of(net.addr())) {
            (false, _) => "world",
            (true, Family::V4) => "world-ipv4",
            (true, Family::V6) => "world-ipv6",
        };
        let labels = Labels::default().with("cidr", &net.to_string(), "");
        let labels = labels.with("reserved", "world", "").with("reserved", world_name, "");
        let hash = ContentHash::of_labels(&labels);
        let prefix =
            |id| Prefix { id, why: because(origin), labels: labels.clone().into(), digest: hash.digest() };
        match kept.get(&hash.digest()) {
            Some(id) => {
                taken.insert(*id);
                out.insert(net, prefix(*id));
            }
            None => fresh.push((hash, net, prefix(IdentityId(0)))),
        }
    }
    fresh.sort_by_key(|(hash, net, _)| (*hash, *net));
    for (hash, net, prefix) in fresh {
        let free = |n: u32| !taken.contains(&IdentityId(n)) && book.identities.find(&IdentityId(n)).is_none();
        if let Some(n) = probe(&hash, number::LOCAL_SCOPE + 1, LOCAL_COUNT, free) {
            taken.insert(IdentityId(n));
            out.insert(net, Prefix { id: IdentityId(n), ..prefix });
        }
    }
    out
}

/// The prefixes, each with the first of the rules that name it.
fn named<'r>(rules: &'r Set<Shared<PolicyRule>>, site: &Site) -> BTreeMap<IpNet, &'r Origin> {
    let mut prefixes: BTreeMap<IpNet, &Origin> = BTreeMap::new();
    for rule in rules.keys() {
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
    prefixes
}
