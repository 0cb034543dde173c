//! What rules mean that name other objects: Services and groups of prefixes become selectors and prefixes, here and
//! nowhere else.
//!
//! Kept by rule: those that name nothing are passed on as they are, and the others are read anew when an object has
//! changed that rules can name.

use crate::map::{Map, Set};
use crate::shared::Shared;
use crate::world::{
    CidrGroup, Clause, EndpointSlice, GroupRef, Label, Name, Operator, Peer, PeerSet, PolicyRule,
    Requirement, Selector, Service, World,
};
use ipnet::IpNet;

/// Rules as they are meant, as they follow the world.
#[derive(Debug, Default)]
pub(super) struct Stage {
    seen: Seen,
    meant: Set<Shared<PolicyRule>>,
}

/// What was last read.
#[derive(Debug, Default)]
struct Seen {
    rules: Set<Shared<PolicyRule>>,
    groups: Map<String, Shared<CidrGroup>>,
    services: Map<Name, Shared<Service>>,
    slices: Map<Name, Shared<EndpointSlice>>,
    /// Kinds of objects that some rule names.
    names: Names,
}

/// Kinds of objects that rules name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Names {
    groups: bool,
    services: bool,
}

impl Names {
    fn of(rule: &PolicyRule) -> Self {
        let peers = rule.clauses.iter().filter_map(|clause| match &clause.peers {
            PeerSet::Any => None,
            PeerSet::Of(peers) => Some(peers),
        });
        peers.flatten().fold(Self::default(), |names, peer| match peer {
            Peer::Groups { .. } => Self { groups: true, ..names },
            Peer::Services(_) => Self { services: true, ..names },
            Peer::Endpoints(_) | Peer::Nodes { .. } | Peer::Entity(_) | Peer::Cidr { .. } => names,
        })
    }

    fn any(self) -> bool {
        self.groups || self.services
    }
}

impl Stage {
    /// The rules, each naming identities and prefixes only.
    pub(super) fn update(&mut self, world: &World) -> &Set<Shared<PolicyRule>> {
        let seen = &self.seen;
        let objects_same = (!seen.names.groups || seen.groups.shares(&world.cidr_groups))
            && (!seen.names.services
                || seen.services.shares(&world.services) && seen.slices.shares(&world.slices));
        if objects_same && seen.rules.shares(&world.rules) {
            return &self.meant;
        }
        let mut names = Names::default();
        let mut meant = world.rules.clone();
        for rule in world.rules.keys() {
            let named = Names::of(rule);
            if named.any() {
                names = Names {
                    groups: names.groups || named.groups,
                    services: names.services || named.services,
                };
                meant.remove(rule);
                meant.add(Shared::from(meaning(rule, world)));
            }
        }
        self.seen = Seen {
            rules: world.rules.clone(),
            groups: world.cidr_groups.clone(),
            services: world.services.clone(),
            slices: world.slices.clone(),
            names,
        };
        // What came out as it was goes on being the same in memory.
        if self.meant != meant {
            self.meant = meant;
        }
        &self.meant
    }
}

fn meaning(rule: &PolicyRule, world: &World) -> PolicyRule {
    let clause = |clause: &Clause| match &clause.peers {
        PeerSet::Any => clause.clone(),
        PeerSet::Of(peers) => {
            let peers = peers.iter().flat_map(|peer| meant(peer, world)).collect();
            Clause { peers: PeerSet::Of(peers), ..clause.clone() }
        }
    };
    PolicyRule { clauses: rule.clauses.iter().map(clause).collect(), ..rule.clone() }
}

fn meant(peer: &Peer, world: &World) -> Vec<Peer> {
    match peer {
        Peer::Endpoints(_) | Peer::Nodes { .. } | Peer::Entity(_) | Peer::Cidr { .. } => vec![peer.clone()],
        Peer::Groups { groups, except } => {
            let all = world.cidr_groups.iter().filter(|(name, group)| match groups {
                GroupRef::Named(wanted) => wanted == *name,
                GroupRef::Labelled(selector) => selector.matches(&group.labels),
            });
            let prefixes = all.flat_map(|(_, group)| &group.prefixes);
            prefixes.filter_map(|net| without(*net, except)).collect()
        }
        Peer::Services(wanted) => {
            let all = world.services.iter().filter(|(name, service)| wanted.means(name, service));
            all.flat_map(|(name, service)| behind(name, service, world)).collect()
        }
    }
}

/// A prefix without exceptions, which need not lie in it; none if nothing is left.
fn without(net: IpNet, except: &[IpNet]) -> Option<Peer> {
    if except.iter().any(|e| e.contains(&net)) {
        return None;
    }
    Some(Peer::Cidr { net, except: except.iter().filter(|e| net.contains(*e)).copied().collect() })
}

/// The pods that a Service selects; of one without a selector the addresses of its slices.
fn behind(name: &Name, service: &Service, world: &World) -> Vec<Peer> {
    let is = |key: &str, value: &str| Requirement {
        label: Label::new("k8s", key),
        operator: Operator::In([value.to_owned()].into()),
    };
    match &service.selector {
        Some(labels) => {
            let mut requirements: Vec<Requirement> =
                labels.iter().map(|(key, value)| is(key, value)).collect();
            requirements.push(is(super::labels::NAMESPACE, &name.namespace));
            requirements.sort();
            vec![Peer::Endpoints(Selector { requirements })]
        }
        None => {
            let slices = world
                .slices
                .iter()
                .filter(|(slice, of)| slice.namespace == name.namespace && of.service == *name.name);
            let addresses = slices.flat_map(|(_, slice)| slice.endpoints.iter().map(|endpoint| endpoint.ip));
            addresses.map(|ip| Peer::Cidr { net: IpNet::from(ip), except: Vec::new() }).collect()
        }
    }
}
