//! Which identities a peer means. Each distinct selector is asked once per compilation.

use super::identity::{Identity, Sort};
use super::site::{Family, Site};
use crate::state::IdentityId;
use crate::world::{Entity, Operator, Peer, PeerSet, Requirement, Selector};
use cilium_abi::identity as number;
use ipnet::IpNet;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// Peers of a clause, as numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Peers {
    /// Everyone: the ladder of identity 0.
    Any,
    /// These, sorted.
    Of(Rc<Vec<IdentityId>>),
}

/// Answers selectors over the identities of one compilation.
pub(super) struct Chooser<'a> {
    known: &'a BTreeMap<IdentityId, Identity>,
    site: &'a Site,
    /// Label key → value → who has it, whatever the source.
    index: HashMap<&'a str, HashMap<&'a str, Vec<IdentityId>>>,
    asked: BTreeMap<&'a Selector, Rc<Vec<IdentityId>>>,
}

impl<'a> Chooser<'a> {
    pub(super) fn new(known: &'a BTreeMap<IdentityId, Identity>, site: &'a Site) -> Self {
        let mut index: HashMap<&str, HashMap<&str, Vec<IdentityId>>> = HashMap::new();
        for (id, identity) in known {
            for (label, value) in &identity.labels.0 {
                index.entry(&label.key).or_default().entry(value).or_default().push(*id);
            }
        }
        Self { known, site, index, asked: BTreeMap::new() }
    }

    /// The peers of a clause.
    pub(super) fn peers(&mut self, set: &'a PeerSet) -> Peers {
        let PeerSet::Of(peers) = set else { return Peers::Any };
        if let [Peer::Endpoints(selector)] = peers.as_slice() {
            return Peers::Of(self.selector(selector));
        }
        let mut ids = Vec::new();
        for peer in peers {
            match peer {
                Peer::Entity(Entity::All) => return Peers::Any,
                Peer::Entity(entity) => {
                    ids.extend(
                        self.known.iter().filter(|(id, i)| self.is(*entity, **id, i)).map(|(id, _)| *id),
                    );
                }
                Peer::Endpoints(selector) => ids.extend(self.selector(selector).iter()),
                Peer::Cidr { net, except } => self.prefix(net, except, &mut ids),
            }
        }
        ids.sort_unstable();
        ids.dedup();
        Peers::Of(Rc::new(ids))
    }

    fn selector(&mut self, selector: &'a Selector) -> Rc<Vec<IdentityId>> {
        if let Some(ids) = self.asked.get(selector) {
            return ids.clone();
        }
        let named = selector.requirements.iter().any(positive);
        let chosen = |id: &IdentityId| {
            let identity = &self.known[id];
            // Who is not an endpoint is selected only by a label of its own.
            (named || identity.sort == Sort::Endpoints) && selector.matches(&identity.labels)
        };
        let mut ids: Vec<IdentityId> = match self.candidates(selector) {
            Some(candidates) => candidates.into_iter().filter(chosen).collect(),
            None => self.known.keys().copied().filter(chosen).collect(),
        };
        ids.sort_unstable();
        ids.dedup();
        let ids = Rc::new(ids);
        self.asked.insert(selector, ids.clone());
        ids
    }

    /// The fewest who can be selected, if some requirement names a label's values.
    fn candidates(&self, selector: &Selector) -> Option<Vec<IdentityId>> {
        let named = |r: &Requirement| match &r.operator {
            Operator::In(values) => {
                let holders = self.index.get(r.label.key.as_str());
                let lists = values.iter().filter_map(|v| holders?.get(v.as_str()));
                Some(lists.flatten().copied().collect::<Vec<_>>())
            }
            Operator::Exists => {
                let holders = self.index.get(r.label.key.as_str());
                Some(holders.into_iter().flat_map(HashMap::values).flatten().copied().collect())
            }
            Operator::NotIn(_) | Operator::DoesNotExist => None,
        };
        selector.requirements.iter().filter_map(named).min_by_key(Vec::len)
    }

    fn is(&self, entity: Entity, id: IdentityId, identity: &Identity) -> bool {
        let world = |family: Family| {
            self.site.enabled(family) && id == self.site.world(family)
                || matches!(identity.sort, Sort::Prefix(net) if Family::of(net.addr()) == family)
        };
        let reserved = identity.sort == Sort::Reserved;
        match entity {
            Entity::All => true,
            Entity::World => world(Family::V4) || world(Family::V6),
            Entity::WorldIpv4 => world(Family::V4),
            Entity::WorldIpv6 => world(Family::V6),
            Entity::Cluster => {
                identity.sort == Sort::Endpoints || reserved && !world(Family::V4) && !world(Family::V6)
            }
            Entity::Host => id.0 == number::HOST,
            Entity::RemoteNode => id.0 == number::REMOTE_NODE,
            Entity::Init => id.0 == number::INIT,
            Entity::Ingress => id.0 == number::INGRESS,
            Entity::Unmanaged => id.0 == number::UNMANAGED,
            Entity::Health => id.0 == number::HEALTH,
            Entity::KubeApiserver => id.0 == number::KUBE_APISERVER,
            Entity::None => false,
        }
    }

    /// Prefixes within `net` and not within an exception; and the rest of the world, if `net` is all of it.
    fn prefix(&self, net: &IpNet, except: &[IpNet], ids: &mut Vec<IdentityId>) {
        let family = Family::of(net.addr());
        if net.prefix_len() == 0 && self.site.enabled(family) && !except.iter().any(|e| e.prefix_len() == 0) {
            ids.push(self.site.world(family));
        }
        for (id, identity) in self.known.range(IdentityId(number::LOCAL_SCOPE)..) {
            if let Sort::Prefix(prefix) = &identity.sort
                && net.contains(prefix)
                && !except.iter().any(|e| e.contains(prefix))
            {
                ids.push(*id);
            }
        }
    }
}

fn positive(requirement: &Requirement) -> bool {
    match requirement.operator {
        Operator::In(_) | Operator::Exists => true,
        Operator::NotIn(_) | Operator::DoesNotExist => false,
    }
}
