//! Prefixes named by policies, exceptions included, and addresses of API servers, that are not the cluster's own
//! addresses: each is an identity of this node's own.

use super::groups::Groups;
use super::local;
use crate::compile::book::IdBook;
use crate::compile::number::ContentHash;
use crate::compile::rows::because;
use crate::compile::site::{Family, Site};
use crate::map::{Rarely, Set};
use crate::shared::{Shared, Text};
use crate::state::{Digest, IdentityId, Origin, Why};
use crate::world::{Label, Labels, Peer, PeerSet, PolicyRule};
use cilium_abi::identity as number;
use ipnet::IpNet;
use std::collections::BTreeMap;

/// How many numbers prefixes may take.
const COUNT: u32 = 1 << 24;

/// A prefix with its number.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::compile) struct Prefix {
    pub(in crate::compile) id: IdentityId,
    pub(in crate::compile) why: Why,
    pub(super) labels: Shared<Labels>,
    pub(super) groups: Rarely<(Label, Text)>,
    pub(super) digest: Digest,
}

/// Numbers the prefixes of these rules, and of the groups that they select.
pub(super) fn number(
    rules: &Set<Shared<PolicyRule>>,
    groups: &Groups,
    site: &Site,
    book: &IdBook,
) -> BTreeMap<IpNet, Prefix> {
    let prefixes: Vec<(ContentHash, IpNet, Labels, &Origin)> = named(rules, groups, site)
        .into_iter()
        .map(|(net, origin)| {
            let labels = labels(&net, site);
            (ContentHash::of_labels(&labels), net, labels, origin)
        })
        .collect();
    let contents = prefixes.iter().map(|(hash, ..)| *hash);
    let numbers = local::assign(contents, number::LOCAL_SCOPE, COUNT, book);
    let numbered = prefixes.into_iter().filter_map(|(hash, net, labels, origin)| {
        let prefix = Prefix {
            id: *numbers.get(&hash)?,
            why: because(origin),
            labels: labels.into(),
            groups: groups.labels_of(&net),
            digest: hash.digest(),
        };
        Some((net, prefix))
    });
    numbered.collect()
}

fn labels(net: &IpNet, site: &Site) -> Labels {
    let world_name = match (site.ipv4 && site.ipv6, Family::of(net.addr())) {
        (false, _) => "world",
        (true, Family::V4) => "world-ipv4",
        (true, Family::V6) => "world-ipv6",
    };
    let labels = Labels::default().with("cidr", &net.to_string(), "");
    let labels = labels.with("reserved", "world", "").with("reserved", world_name, "");
    let is_host = net.prefix_len() == net.max_prefix_len();
    if is_host && site.apiservers.contains_key(&net.addr()) {
        labels.with("reserved", "kube-apiserver", "")
    } else {
        labels
    }
}

/// The prefixes, each with the first of the rules that name it, or what says that it is an API server's.
fn named<'r>(
    rules: &'r Set<Shared<PolicyRule>>,
    groups: &'r Groups,
    site: &'r Site,
) -> BTreeMap<IpNet, &'r Origin> {
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
    for (net, origin) in groups.prefixes() {
        prefixes.entry(net).or_insert(origin);
    }
    for (addr, origin) in site.outer_apiservers() {
        prefixes.entry(IpNet::from(*addr)).or_insert(origin);
    }
    prefixes.retain(|net, _| {
        net.prefix_len() > 0 && site.enabled(Family::of(net.addr())) && !site.in_pod_cidrs(net)
    });
    prefixes
}
