//! Which identities a peer means: all of them at once, or one of them asked by itself. Both must agree.

use crate::compile::identity::{Identity, Sort};
use crate::compile::labels::CLUSTER;
use crate::compile::site::{Family, Site};
use crate::config::Config;
use crate::map::Map;
use crate::shared::Text;
use crate::state::IdentityId;
use crate::world::{Entity, Label, Operator, Peer, PeerSet, PodPort, Requirement, Selector};
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

/// The identities there are, found by their labels.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    known: Map<IdentityId, Identity>,
    /// Label key → value → who has it, whatever the source.
    index: HashMap<Text, HashMap<Text, Vec<IdentityId>>>,
}

impl Catalogue {
    /// Takes over the identities there are now; those that are others than before.
    pub(super) fn learn(&mut self, known: &Map<IdentityId, Identity>) -> Vec<IdentityId> {
        let before = std::mem::replace(&mut self.known, known.clone());
        let mut stale = Vec::new();
        for (id, was, is) in before.differences(known) {
            stale.push(*id);
            for (label, value) in was.iter().flat_map(|identity| identity.all_labels()) {
                self.forget(&label.key, value, *id);
            }
            for (label, value) in is.iter().flat_map(|identity| identity.all_labels()) {
                self.note(&label.key, value, *id);
            }
        }
        stale
    }

    fn note(&mut self, key: &Text, value: &Text, id: IdentityId) {
        if !self.index.contains_key(key) {
            self.index.insert(key.clone(), HashMap::new());
        }
        let Some(values) = self.index.get_mut(key) else { return };
        match values.get_mut(value) {
            Some(holders) => {
                if let Err(at) = holders.binary_search(&id) {
                    holders.insert(at, id);
                }
            }
            None => drop(values.insert(value.clone(), vec![id])),
        }
    }

    fn forget(&mut self, key: &str, value: &str, id: IdentityId) {
        let Some(values) = self.index.get_mut(key) else { return };
        if let Some(holders) = values.get_mut(value) {
            holders.retain(|holder| *holder != id);
            if holders.is_empty() {
                values.remove(value);
            }
        }
    }
}

/// Named ports of the pods with an identity, sorted.
pub(super) type Ports = BTreeMap<IdentityId, Vec<PodPort>>;

/// Answers for the identities of one compilation. Each distinct selector is asked once.
pub(super) struct Chooser<'a> {
    catalogue: &'a Catalogue,
    site: &'a Site,
    /// The name of this cluster.
    own_cluster: &'a str,
    /// The cluster that selectors without one mean, if they mean one.
    cluster: Option<&'a str>,
    /// Named ports of the pods with an identity, where some rule asks for them.
    pub(super) ports: &'a Ports,
    asked: BTreeMap<&'a Selector, Rc<Vec<IdentityId>>>,
}

impl<'a> Chooser<'a> {
    pub(super) fn new(
        catalogue: &'a Catalogue,
        site: &'a Site,
        config: &'a Config,
        ports: &'a Ports,
    ) -> Self {
        let cluster = config.policy.default_local_cluster.then_some(config.cluster.name.as_str());
        let own_cluster = config.cluster.name.as_str();
        Self { catalogue, site, own_cluster, cluster, ports, asked: BTreeMap::new() }
    }

    /// The named ports of the pods with an identity.
    pub(super) fn ports_of(&self, id: IdentityId) -> &'a [PodPort] {
        self.ports.get(&id).map_or(&[], Vec::as_slice)
    }

    /// The peers of a clause.
    pub(super) fn peers(&mut self, set: &'a PeerSet) -> Peers {
        let Some(peers) = some(set) else { return Peers::Any };
        if let [Peer::Endpoints(selector)] = peers {
            return Peers::Of(self.selector(selector));
        }
        let known = &self.catalogue.known;
        let mut ids = Vec::new();
        for peer in peers {
            match peer {
                Peer::Entity(entity) => {
                    ids.extend(known.iter().filter(|(id, i)| self.is(*entity, **id, i)).map(|(id, _)| *id));
                }
                // Others by the time they come here.
                Peer::Groups { .. } | Peer::Services(_) => {}
                Peer::Nodes { selector, here } => {
                    let nodes = known.iter().filter(|(_, i)| is_node(i, selector, *here));
                    ids.extend(nodes.map(|(id, _)| *id));
                }
                Peer::Endpoints(selector) => ids.extend(self.selector(selector).iter()),
                Peer::Cidr { net, except } => {
                    let local = known.range(&IdentityId(number::LOCAL_SCOPE)..);
                    let within = local.filter(|(_, i)| is_within(i, net, except)).map(|(id, _)| *id);
                    ids.extend(self.rest(net, except).into_iter().chain(within));
                }
            }
        }
        ids.sort_unstable();
        ids.dedup();
        Peers::Of(Rc::new(ids))
    }

    /// Whether a clause that is not about everyone is about this one.
    pub(super) fn is_about(&self, peers: &[Peer], id: IdentityId) -> bool {
        let Some(identity) = self.catalogue.known.get(&id) else { return false };
        peers.iter().any(|peer| match peer {
            Peer::Entity(entity) => self.is(*entity, id, identity),
            Peer::Groups { .. } | Peer::Services(_) => false,
            Peer::Nodes { selector, here } => is_node(identity, selector, *here),
            Peer::Endpoints(selector) => self.selects(selector, identity),
            Peer::Cidr { net, except } => {
                self.rest(net, except) == Some(id) || is_within(identity, net, except)
            }
        })
    }

    fn selector(&mut self, selector: &'a Selector) -> Rc<Vec<IdentityId>> {
        if let Some(ids) = self.asked.get(selector) {
            return ids.clone();
        }
        let known = &self.catalogue.known;
        let mut ids: Vec<IdentityId> = match self.candidates(selector) {
            Some(candidates) => {
                candidates.into_iter().filter(|id| self.selects(selector, &known[id])).collect()
            }
            None => known.iter().filter(|(_, i)| self.selects(selector, i)).map(|(id, _)| *id).collect(),
        };
        ids.sort_unstable();
        ids.dedup();
        let ids = Rc::new(ids);
        self.asked.insert(selector, ids.clone());
        ids
    }

    /// Whether a selector of endpoints means these.
    fn selects(&self, selector: &Selector, identity: &Identity) -> bool {
        let of_cluster =
            |name: &str| identity.labels.0.get(&Label::new("k8s", CLUSTER)).is_some_and(|is| **is == *name);
        identity.is_selected(selector) && (self.cluster.is_none_or(of_cluster) || says_where(selector))
    }

    /// The fewest who can be selected, if some requirement names a label's values.
    fn candidates(&self, selector: &Selector) -> Option<Vec<IdentityId>> {
        let index = &self.catalogue.index;
        let named = |r: &Requirement| match &r.operator {
            Operator::In(values) => {
                let holders = index.get(&r.label.key);
                let lists = values.iter().filter_map(|v| holders?.get(v.as_str()));
                Some(lists.flatten().copied().collect::<Vec<_>>())
            }
            Operator::Exists => {
                let holders = index.get(&r.label.key);
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
        let carries = |name: &str| is_reserved(identity, name);
        let reserved = matches!(identity.sort, Sort::Reserved | Sort::Node);
        match entity {
            Entity::All => true,
            Entity::World => world(Family::V4) || world(Family::V6),
            Entity::WorldIpv4 => world(Family::V4),
            Entity::WorldIpv6 => world(Family::V6),
            Entity::Cluster | Entity::ClusterMesh => {
                identity.sort == Sort::Endpoints
                    && (entity == Entity::ClusterMesh || self.is_of_cluster(identity))
                    || reserved && !world(Family::V4) && !world(Family::V6)
                    || carries("kube-apiserver")
            }
            Entity::Host => id.0 == number::HOST,
            Entity::RemoteNode => carries("remote-node"),
            Entity::Init => id.0 == number::INIT,
            Entity::Ingress => id.0 == number::INGRESS,
            Entity::Unmanaged => id.0 == number::UNMANAGED,
            Entity::Health => id.0 == number::HEALTH,
            Entity::KubeApiserver => carries("kube-apiserver"),
            Entity::None => false,
        }
    }

    /// Whether they are of this cluster. Those of which nothing says so are nobody else's.
    fn is_of_cluster(&self, identity: &Identity) -> bool {
        let named = identity.labels.0.get(&Label::new("k8s", CLUSTER));
        named.is_none_or(|name| **name == *self.own_cluster)
    }

    /// The rest of the world, if `net` is all of it.
    fn rest(&self, net: &IpNet, except: &[IpNet]) -> Option<IdentityId> {
        let family = Family::of(net.addr());
        let whole = net.prefix_len() == 0 && self.site.enabled(family);
        (whole && !except.iter().any(|e| e.prefix_len() == 0)).then(|| self.site.world(family))
    }
}

fn is_reserved(identity: &Identity, name: &str) -> bool {
    identity.labels.0.contains_key(&Label::new("reserved", name))
}

/// Whether it is a selected node, be it another or, if that counts, this one.
fn is_node(identity: &Identity, selector: &Selector, here: bool) -> bool {
    let counts = is_reserved(identity, "remote-node") || here && is_reserved(identity, "host");
    counts && identity.is_selected(selector)
}

/// Whether it says of which cluster they are, or that they are none's.
fn says_where(selector: &Selector) -> bool {
    selector.requirements.iter().any(|r| r.label.key == CLUSTER || r.label.source == "reserved")
}

/// The peers, if the set is not everyone.
pub(super) fn some(set: &PeerSet) -> Option<&[Peer]> {
    match set {
        PeerSet::Any => None,
        PeerSet::Of(peers) if peers.contains(&Peer::Entity(Entity::All)) => None,
        PeerSet::Of(peers) => Some(peers),
    }
}

/// A prefix within `net` and not within an exception.
fn is_within(identity: &Identity, net: &IpNet, except: &[IpNet]) -> bool {
    matches!(&identity.sort, Sort::Prefix(prefix)
        if net.contains(prefix) && !except.iter().any(|e| e.contains(prefix)))
}
