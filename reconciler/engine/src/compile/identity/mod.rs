//! Who is who: labels and numbers of identities.
//!
//! Numbers of cluster scope are agreed on without an allocator: 256 + hash(labels) mod 65 280, upward
//! past numbers that others have claimed; claims that stand are kept. If one number is claimed for two
//! label sets, it selects nothing, and the claim with the greater label hash moves, here and on every
//! other node alike. A claim nobody publishes (written by hand) never moves.
//!
//! ```text
//! claims (by number) ─┬─▶ own (label sets of this node, all of them: few) ─┬─▶ known, by number
//!                     └──────────────────────────────────────────────────┘
//! rules ─▶ prefixes, nodes (all of them, when a rule or a node changes)
//! ```

mod asked;
mod claims;
mod groups;
mod local;
mod nodes;
mod own;
mod prefixes;

pub(super) use prefixes::Prefix;

use super::Pass;
use super::labels;
use super::number::ContentHash;
use super::rows::Edits;
use super::site::{Family, Site};
use crate::config::Config;
use crate::map::{Map, Rarely, Set};
use crate::problem::Problem;
use crate::shared::{Shared, Text};
use crate::state::{Digest, IdentityDigest, IdentityId, Origin, Why};
use crate::world::{
    CidrGroup, EndpointRecord, Label, Labels, Name, Namespace, Node, ObjectName, Pod, PolicyRule,
    RemoteEndpoint, Selector, World,
};
use cilium_abi::identity as number;
use claims::Claims;
use groups::Groups;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use own::{Bearer, Hashed, Wanted};
use std::collections::{BTreeMap, BTreeSet};

/// What an identity stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// A number with a fixed meaning.
    Reserved,
    /// Endpoints of the cluster with the same labels.
    Endpoints,
    /// Addresses outside the cluster within a prefix of a policy.
    Prefix(IpNet),
    /// Other nodes with the same labels, of those that rules ask for.
    Node,
}

/// An identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its labels.
    pub labels: Shared<Labels>,
    /// Labels of CiliumCIDRGroups around it that rules ask for; one may have several values.
    pub groups: Rarely<(Label, Text)>,
    /// What it stands for.
    pub sort: Sort,
}

impl Identity {
    fn new(labels: Shared<Labels>, sort: Sort) -> Self {
        Self { labels, groups: Rarely::default(), sort }
    }

    /// Its labels, those of groups included.
    pub fn all_labels(&self) -> impl Iterator<Item = (&Label, &Text)> {
        self.labels.0.iter().chain(self.groups.iter().map(|(label, value)| (label, value)))
    }

    /// Whether a selector means it.
    pub fn is_selected(&self, selector: &Selector) -> bool {
        selector.means(|| self.all_labels())
    }
}

/// A pod elsewhere that no CiliumEndpoint speaks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Foreign {
    pub(super) pod: Shared<Pod>,
    pub(super) identity: IdentityId,
}

/// All identities of a compilation.
#[derive(Clone, Debug, Default)]
pub(super) struct Identities {
    /// Those that selectors see.
    pub(super) known: Map<IdentityId, Identity>,
    /// Claimed for two label sets: they select nothing.
    pub(super) clashed: BTreeSet<IdentityId>,
    /// Of local endpoints, by endpoint number.
    pub(super) endpoints: BTreeMap<u16, (IdentityId, Shared<Labels>)>,
    /// Of pods elsewhere.
    pub(super) pods: Map<Name, Foreign>,
    /// Of other nodes, by name, where rules tell them apart.
    pub(super) nodes: Shared<BTreeMap<String, IdentityId>>,
    /// Of prefixes in policies.
    pub(super) prefixes: Shared<BTreeMap<IpNet, Prefix>>,
    /// Numbers this node gave to label sets, with what they stand for.
    pub(super) own: BTreeMap<IdentityId, (Digest, Why)>,
}

/// What the stage last read.
#[derive(Debug, Default)]
struct Seen {
    endpoints: Map<u16, Shared<EndpointRecord>>,
    pods: Map<Name, Shared<Pod>>,
    namespaces: Map<String, Shared<Namespace>>,
    remote: Map<Name, Shared<RemoteEndpoint>>,
    nodes: Map<String, Shared<Node>>,
    groups: Map<String, Shared<CidrGroup>>,
    rules: Set<Shared<PolicyRule>>,
}

/// Identities, as they follow the world.
#[derive(Debug, Default)]
pub(super) struct Stage {
    begun: bool,
    seen: Seen,
    claims: Claims,
    /// Labels of local endpoints; none while the pod is not known.
    local: BTreeMap<u16, Option<Hashed>>,
    foreign: BTreeMap<Name, Hashed>,
    wanted: Wanted,
    /// Something in `wanted` is other than when it was last numbered.
    touched: bool,
    given: BTreeMap<Hashed, IdentityId>,
    problems: Vec<Shared<Problem>>,
    nodes: nodes::Nodes,
    all: Identities,
}

impl Stage {
    /// Everyone who needs a number, with it.
    pub(super) fn update(&mut self, pass: &Pass<'_>, edits: &mut Edits) -> &Identities {
        let Pass { world, rules, config, site, moved, book, .. } = *pass;
        let first = !std::mem::replace(&mut self.begun, true);
        let rules_same = self.seen.rules.shares(rules);
        let groups_same = self.seen.groups.shares(&world.cidr_groups);
        let same = !first && !moved && rules_same && groups_same;
        let nodes_same = self.seen.nodes.shares(&world.nodes);
        let groups = (!same || !nodes_same).then(|| Groups::asked(rules, &world.cidr_groups));
        if let Some(groups) = &groups {
            self.learn_nodes(pass, groups, edits);
        }
        let mut stale = self.claims.update(world, edits);
        let mut bearers = self.local(world, config);
        bearers.extend(self.foreign(world, config));
        self.see(world);
        if first || !stale.is_empty() || std::mem::take(&mut self.touched) {
            self.touched = false;
            let (given, problems) = own::number(&self.wanted, &self.claims, book);
            edits.tell(&mut self.problems, problems);
            let before = std::mem::replace(&mut self.given, given);
            for hashed in before.keys().chain(self.given.keys()) {
                let (was, is) = (before.get(hashed), self.given.get(hashed));
                if was != is {
                    stale.extend(was.into_iter().chain(is));
                    bearers.extend(self.wanted.get(hashed).into_iter().flat_map(BTreeMap::keys).cloned());
                }
            }
            self.write_digests(edits);
            self.learn(stale);
        }
        self.tell_bearers(bearers);
        self.seen.rules = rules.clone();
        if let Some(groups) = groups.filter(|_| !same) {
            let prefixes = prefixes::number(rules, &groups, site, book);
            self.learn_prefixes(prefixes, edits);
        }
        &self.all
    }

    fn see(&mut self, world: &World) {
        self.seen.endpoints = world.endpoints.clone();
        self.seen.pods = world.pods.clone();
        self.seen.namespaces = world.namespaces.clone();
        self.seen.remote = world.remote_endpoints.clone();
        self.seen.nodes = world.nodes.clone();
        self.seen.groups = world.cidr_groups.clone();
    }

    /// Labels of local endpoints; those whose are others now.
    fn local(&mut self, world: &World, config: &Config) -> BTreeSet<Bearer> {
        let seen = &self.seen;
        let unchanged = seen.endpoints.shares(&world.endpoints)
            && seen.pods.shares(&world.pods)
            && seen.namespaces.shares(&world.namespaces);
        if unchanged {
            return BTreeSet::new();
        }
        let mut stale: BTreeSet<u16> =
            seen.endpoints.differences(&world.endpoints).into_iter().map(|(id, ..)| *id).collect();
        let namespaces: BTreeSet<&str> = seen
            .namespaces
            .differences(&world.namespaces)
            .into_iter()
            .map(|(name, ..)| name.as_str())
            .collect();
        stale.extend(world.endpoints.iter().filter_map(|(id, record)| {
            let name = record.pod.as_ref()?;
            let pods = seen.pods.get(name) != world.pods.get(name);
            (pods || namespaces.contains(name.namespace.as_str())).then_some(*id)
        }));
        let mut bearers = BTreeSet::new();
        for id in stale {
            let bearer = Bearer::Local(id);
            if let Some(hashed) = self.local.remove(&id).flatten() {
                self.part(&hashed, &bearer);
            }
            if let Some(record) = world.endpoints.get(&id) {
                let labels = labels::of_endpoint(record, world, &config.cluster.name);
                let hashed = labels.map(|labels| self.join(labels, bearer.clone(), record.origin()));
                self.local.insert(id, hashed);
            }
            bearers.insert(bearer);
        }
        bearers
    }

    /// Labels of pods elsewhere whose addresses are given, but by no CiliumEndpoint: their node will come to
    /// the same numbers. Those whose are others now.
    fn foreign(&mut self, world: &World, config: &Config) -> BTreeSet<Bearer> {
        let seen = &self.seen;
        let local: BTreeSet<&ObjectName> =
            world.endpoints.values().filter_map(|record| record.pod.as_ref()).collect();
        let mut stale: BTreeSet<Name> = BTreeSet::new();
        seen.pods.changes(&world.pods, |name, before, now| {
            if before != now {
                stale.insert(name.clone());
            }
        });
        if !seen.pods.is_empty() {
            // Who speaks for a pod, and who does so no more.
            let known = |name: &ObjectName| world.pods.get_key_value(name).map(|(name, _)| name.clone());
            seen.remote.changes(&world.remote_endpoints, |name, before, now| {
                if before.is_some() != now.is_some() {
                    stale.extend(known(name));
                }
            });
            seen.endpoints.changes(&world.endpoints, |_, before, now| {
                let names = before.into_iter().chain(now).filter_map(|record| record.pod.as_ref());
                stale.extend(names.filter_map(known));
            });
            for (namespace, ..) in seen.namespaces.differences(&world.namespaces) {
                let first = Name::from(ObjectName::new(namespace, ""));
                let within = world.pods.range(first..).take_while(|(name, _)| name.namespace == *namespace);
                stale.extend(within.map(|(name, _)| name.clone()));
            }
        }
        let mut bearers = BTreeSet::new();
        for name in stale {
            let spoken_for = world.remote_endpoints.contains_key::<ObjectName>(&name)
                || local.contains::<ObjectName>(&name);
            let pod = world.pods.get::<ObjectName>(&name);
            let pod = pod.filter(|pod| !pod.host_network && !pod.ips.is_empty() && !spoken_for);
            let bearer = Bearer::Foreign(name.clone());
            if let Some(hashed) = self.foreign.remove(&name) {
                self.part(&hashed, &bearer);
            } else if pod.is_none() {
                continue;
            }
            match pod {
                None => drop(self.all.pods.remove::<ObjectName>(&name)),
                Some(pod) => {
                    let labels = labels::of_pod(&name, pod, world, &config.cluster.name);
                    let place = pod.place.to_string();
                    let origin = Origin { object: format!("Pod {name}"), place, rule: String::new() };
                    let hashed = self.join(labels, bearer.clone(), origin);
                    self.foreign.insert(name.clone(), hashed);
                    let identity = IdentityId(number::INIT);
                    self.all.pods.insert(name, Foreign { pod: pod.clone(), identity });
                }
            }
            bearers.insert(bearer);
        }
        bearers
    }

    fn join(&mut self, labels: Labels, bearer: Bearer, origin: Origin) -> Hashed {
        self.touched = true;
        let hashed = (ContentHash::of_labels(&labels), Shared::from(labels));
        self.wanted.entry(hashed.clone()).or_default().insert(bearer, origin.into());
        hashed
    }

    fn part(&mut self, hashed: &Hashed, bearer: &Bearer) {
        self.touched = true;
        if let Some(bearers) = self.wanted.get_mut(hashed) {
            bearers.remove(bearer);
            if bearers.is_empty() {
                self.wanted.remove(hashed);
            }
        }
    }

    fn tell_bearers(&mut self, bearers: BTreeSet<Bearer>) {
        let init = (IdentityId(number::INIT), self.all.known[&IdentityId(number::INIT)].labels.clone());
        let given = |hashed: Option<&Hashed>| {
            hashed.and_then(|h| self.given.get_key_value(h)).map(|((_, labels), id)| (*id, labels.clone()))
        };
        for bearer in bearers {
            match bearer {
                Bearer::Local(id) => match self.local.get(&id) {
                    Some(hashed) => {
                        let identity = given(hashed.as_ref()).unwrap_or_else(|| init.clone());
                        self.all.endpoints.insert(id, identity);
                    }
                    None => drop(self.all.endpoints.remove(&id)),
                },
                Bearer::Foreign(name) => {
                    let (identity, _) = given(self.foreign.get(&name)).unwrap_or_else(|| init.clone());
                    if let Some(foreign) = self.all.pods.get_mut::<ObjectName>(&name) {
                        foreign.identity = identity;
                    }
                }
            }
        }
    }

    /// What the numbers of this node's label sets stand for.
    fn write_digests(&mut self, edits: &mut Edits) {
        let entry = |(hashed, id): (&Hashed, &IdentityId)| {
            let origin = self.wanted.get(hashed)?.values().next()?;
            Some((*id, (hashed.0.digest(), Some(origin.clone().into()))))
        };
        let now: BTreeMap<IdentityId, (Digest, Why)> = self.given.iter().filter_map(entry).collect();
        for id in self.all.own.keys().filter(|id| !now.contains_key(id)) {
            edits.unset::<IdentityDigest>(*id);
        }
        for (id, entry) in now.iter().filter(|(id, entry)| self.all.own.get(id) != Some(entry)) {
            edits.set::<IdentityDigest>(*id, entry.0, &entry.1);
        }
        self.all.own = now;
    }

    /// What selectors see of these numbers.
    fn learn(&mut self, stale: BTreeSet<IdentityId>) {
        let own: BTreeMap<IdentityId, &Shared<Labels>> =
            self.given.iter().map(|((_, labels), id)| (*id, labels)).collect();
        let mut edits = Vec::new();
        for id in stale {
            let claims = self.claims.on(id);
            let own = own.get(&id).copied().filter(|own| claims.iter().all(|claim| claim.labels != **own));
            let mut names = claims.iter().map(|claim| &claim.labels).chain(own);
            let one = match (names.next(), names.next()) {
                (Some(labels), None) => Some(labels),
                (Some(_), Some(_)) | (None, _) => None,
            };
            let identity = one.map(|labels| Identity::new(labels.clone(), Sort::Endpoints));
            if identity.is_none() && !claims.is_empty() {
                self.all.clashed.insert(id);
            } else {
                self.all.clashed.remove(&id);
            }
            if self.all.known.get(&id) != identity.as_ref() {
                edits.push((id, identity));
            }
        }
        self.all.known.edit(edits);
    }

    /// Numbers with a fixed meaning, this node's and the world's among them, and other nodes'.
    fn learn_nodes(&mut self, pass: &Pass<'_>, groups: &Groups, edits: &mut Edits) {
        let Pass { world, rules, site, book, .. } = *pass;
        let keys = asked::keys(rules, nodes::SOURCE);
        for (id, mut identity) in reserved(site) {
            if id.0 == number::HOST {
                identity.labels = nodes::labels(&site.name, &keys, world, (*identity.labels).clone()).into();
            }
            for whole in [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())] {
                let family = Family::of(whole.addr());
                if site.enabled(family) && id == site.world(family) {
                    identity.groups = groups.labels_of(&whole);
                }
            }
            if self.all.known.get(&id) != Some(&identity) {
                self.all.known.insert(id, identity);
            }
        }
        let now = nodes::number(&keys, world, site, book);
        if self.nodes == now {
            return;
        }
        let before = std::mem::replace(&mut self.nodes, now);
        for gone in before.known.keys().filter(|id| !self.nodes.known.contains_key(id)) {
            edits.unset::<IdentityDigest>(*gone);
            self.all.known.remove(gone);
        }
        for (id, known) in &self.nodes.known {
            edits.set::<IdentityDigest>(*id, known.digest, &known.why);
            let identity = Identity::new(known.labels.clone(), Sort::Node);
            self.all.known.insert(*id, identity);
        }
        self.all.nodes = self.nodes.named.clone().into();
    }

    fn learn_prefixes(&mut self, now: BTreeMap<IpNet, Prefix>, edits: &mut Edits) {
        if *self.all.prefixes == now {
            return;
        }
        let before = std::mem::replace(&mut self.all.prefixes, now.into());
        for gone in before.values() {
            edits.unset::<IdentityDigest>(gone.id);
            self.all.known.remove(&gone.id);
        }
        for (net, prefix) in self.all.prefixes.iter() {
            edits.set::<IdentityDigest>(prefix.id, prefix.digest, &prefix.why);
            let identity = Identity {
                labels: prefix.labels.clone(),
                groups: prefix.groups.clone(),
                sort: Sort::Prefix(*net),
            };
            self.all.known.insert(prefix.id, identity);
        }
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
            let labels = Labels::default().with("reserved", name, "");
            let labels = match id {
                // Whoever is of one family's world is of the world.
                number::WORLD_IPV4 | number::WORLD_IPV6 => labels.with("reserved", "world", ""),
                number::KUBE_APISERVER => labels.with("reserved", "remote-node", ""),
                number::HOST if site.is_apiserver() => labels.with("reserved", "kube-apiserver", ""),
                _ => labels,
            };
            (IdentityId(id), Identity::new(labels.into(), Sort::Reserved))
        })
        .collect()
}
