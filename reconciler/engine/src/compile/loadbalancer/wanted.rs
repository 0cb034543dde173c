//! What a frontend is to be: who has it, with which backends, for which clients.

use super::asked::{Asking, Claim, Claimant, Sort, everywhere};
use super::directory::{self, Directory, Found, Guest};
use super::{Place, Stage, Stale, forwarding, place};
use crate::compile::Pass;
use crate::compile::rows::{Edits, error, warning};
use crate::compile::site::Family;
use crate::compile::view::HealthCheckView;
use crate::config::{Algorithm, Config, NoBackendResponse};
use crate::eligible::{Backend, Client, DEFAULT_WEIGHT, Fitness, Here, Slices, choose, policy, ready_here};
use crate::problem::Problem;
use crate::shared::Shared;
use crate::state::{FrontendKey, Origin, Reason};
use crate::world::{
    FrontendKind, IpFamily, LbAlgorithm, Name, ObjectName, RangesPolicy, Service, ServicePort, TrafficPolicy,
    World,
};
use cilium_abi::lb::{
    FRONTEND_DSR, FRONTEND_EXTERNAL, FRONTEND_REJECT, FRONTEND_SOURCE_DENY, FRONTEND_SOURCE_RANGES,
    FRONTEND_TWO_SCOPES, SCOPE_EXTERNAL, SCOPE_INTERNAL,
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::rc::Rc;

/// A frontend before it has numbers.
pub(super) struct Wanted {
    pub(super) name: Name,
    pub(super) origin: Reason,
    pub(super) port_name: String,
    pub(super) flags: u32,
    pub(super) affinity: u32,
    /// All that have connections, in their order.
    pub(super) backends: Rc<Vec<(IpAddr, u16, Fitness)>>,
    /// Those for new connections, in their order.
    pub(super) chosen: Vec<Chosen>,
    /// New connections choose by a Maglev table.
    pub(super) maglev: bool,
    /// Sources that are listed.
    pub(super) ranges: Vec<IpNet>,
    pub(super) problems: Vec<Shared<Problem>>,
}

/// A backend for new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) addr: IpAddr,
    pub(super) port: u16,
    pub(super) weight: u16,
}

/// As many backends as a list has room for.
const MOST: usize = u16::MAX as usize;

/// Backends of one port in one family.
#[derive(Default)]
struct Behind<'w> {
    backends: Vec<Backend<'w>>,
    listed: Rc<Vec<(IpAddr, u16, Fitness)>>,
    portless: Option<(usize, Name)>,
}

impl<'w> Behind<'w> {
    fn new((mut backends, portless): Found<'w>) -> Self {
        backends.truncate(MOST);
        let listed = backends.iter().map(|b| (b.addr, b.port, b.fitness)).collect();
        Self { backends, listed: Rc::new(listed), portless }
    }

    /// Whether nobody anywhere takes new connections.
    fn is_empty(&self) -> bool {
        self.backends.iter().all(|b| b.fitness == Fitness::Maintenance)
    }

    fn chosen(&self, policy: TrafficPolicy, here: Here<'_>) -> Vec<Chosen> {
        let chosen = choose(&self.backends, policy, here).into_iter();
        chosen.map(|b| Chosen { addr: b.addr, port: b.port, weight: b.weight }).collect()
    }
}

/// Finds backends, those of each port once.
struct Finder<'w> {
    world: &'w World,
    directory: &'w Directory,
    node: &'w String,
    slices: HashMap<Name, Option<Slices<'w>>>,
    behind: HashMap<(Name, usize, IpFamily), Rc<Behind<'w>>>,
}

impl<'w> Finder<'w> {
    fn here(&self) -> Here<'w> {
        let zone = self.world.nodes.get(self.node).and_then(|node| node.zone());
        Here { node: self.node, zone: zone.map(String::as_str) }
    }

    fn behind(&mut self, name: &Name, service: &Service, port: usize, family: IpFamily) -> Rc<Behind<'w>> {
        let key = (name.clone(), port, family);
        if let Some(behind) = self.behind.get(&key) {
            return behind.clone();
        }
        let found = service.ports.get(port).map(|port| self.find(name, service, port, family));
        let behind = Rc::new(found.map(Behind::new).unwrap_or_default());
        self.behind.insert(key, behind.clone());
        behind
    }

    fn find(&mut self, name: &Name, service: &Service, port: &ServicePort, family: IpFamily) -> Found<'w> {
        let (world, directory) = (self.world, self.directory);
        let slices = self.slices.entry(name.clone()).or_insert_with(|| directory.slices_of(world, name));
        match (slices, &service.selector) {
            (Some(slices), _) => (slices.backends(service, port, family, &world.nodes), None),
            (None, Some(_)) => directory.of_pods(world, self.node, name, service, port, family),
            (None, None) => (Vec::new(), None),
        }
    }
}

fn origin_of(who: &Claimant, finder: &Finder<'_>) -> Option<Origin> {
    match who {
        Claimant::Service(name) => {
            finder.world.services.get::<ObjectName>(name).map(|service| service.origin(name))
        }
        Claimant::Pod(name) => finder.directory.hosting(name).map(|guest| guest.origin.clone()),
    }
}

impl Stage {
    /// The frontends that these Services and pods ask for, or asked for; one that several want belongs to the
    /// oldest.
    pub(super) fn frontends(
        &mut self,
        pass: &Pass<'_>,
        asking: Asking<'_>,
        stale: directory::Stale,
        edits: &mut Edits,
    ) -> Stale {
        let world = pass.world;
        let mut places: BTreeSet<Place> = BTreeSet::new();
        let asked = |who: &Claimant, was: Option<&Service>, pod: Option<&Guest>| match who {
            Claimant::Service(name) => was.map(|service| asking.of_service(name, service)),
            Claimant::Pod(name) => pod.map(|pod| asking.of_pod(name, pod)),
        };
        let mut touched = Vec::new();
        for (name, was) in &stale.services {
            let is = world.services.get::<ObjectName>(name);
            let who = Claimant::Service(name.clone());
            touched.push((asked(&who, was.as_deref(), None), asked(&who, is.map(|is| &**is), None)));
        }
        for (name, was) in &stale.pods {
            let is = self.directory.hosting(name);
            let who = Claimant::Pod(name.clone());
            touched.push((asked(&who, None, was.as_deref()), asked(&who, None, is.map(|is| &**is))));
        }
        for (was, is) in touched {
            for claim in was.into_iter().flatten() {
                self.claims.remove(&claim);
                places.insert(place(&claim.key));
            }
            for claim in is.into_iter().flatten() {
                places.insert(place(&claim.key));
                self.claims.insert(claim);
            }
        }
        places.extend(self.tables.lacking().map(place));
        let mut finder = Finder {
            world,
            directory: &self.directory,
            node: &pass.site.name,
            slices: HashMap::new(),
            behind: HashMap::new(),
        };
        let mut frontends = Stale::new();
        for (addr, port, proto) in places {
            let outside = FrontendKey { addr, port, proto, scope: SCOPE_EXTERNAL };
            let inside = FrontendKey { scope: SCOPE_INTERNAL, ..outside.clone() };
            let (first, second) = match self.wanted(&outside, asking, &mut finder) {
                Some((first, second)) => (Some(first), second),
                None => (None, None),
            };
            if second.is_some() || self.fronts.contains_key(&inside) {
                frontends.insert(inside, second);
            }
            frontends.insert(outside, first);
        }
        let mut notes = BTreeMap::new();
        let mut health = Vec::new();
        for name in stale.services.keys() {
            let service = world.services.get::<ObjectName>(name);
            notes.insert(name.clone(), service.map(|s| self::notes(name, s, asking, &mut finder)));
            let check = service.and_then(|service| health_check(name, service, asking, &mut finder));
            health.push((name.clone(), check.map(Shared::from)));
        }
        drop(finder);
        self.health_checks.edit(health);
        for (name, now) in notes {
            let mut told = self.notes.remove(&name).unwrap_or_default();
            edits.tell(&mut told, now.unwrap_or_default());
            if !told.is_empty() {
                self.notes.insert(name, told);
            }
        }
        frontends
    }

    fn claims_of<'s>(&'s self, key: &'s FrontendKey) -> impl Iterator<Item = &'s Claim> + Clone {
        let first = Claim::least(key.clone());
        self.claims.range(first..).take_while(move |claim| claim.key == *key)
    }

    /// Who is told of this owner at the frontend that stands for all of the node's addresses.
    fn told_everywhere(&self, key: &FrontendKey, owner: &Claim) -> BTreeSet<Claimant> {
        let every = FrontendKey { addr: everywhere(Family::of(key.addr)), ..key.clone() };
        let mut claims = self.claims_of(&every).map(|claim| &claim.who);
        match claims.next() {
            Some(first) if every != *key && *first == owner.who => claims.cloned().collect(),
            Some(_) | None => BTreeSet::new(),
        }
    }

    /// A frontend, and the one beside it for clients inside, if they get something else.
    fn wanted(
        &self,
        key: &FrontendKey,
        asking: Asking<'_>,
        finder: &mut Finder<'_>,
    ) -> Option<(Wanted, Option<Wanted>)> {
        let mut claims = self.claims_of(key);
        let claim = claims.next()?;
        let (mut wanted, inside) = match (&claim.who, claim.sort) {
            (Claimant::Service(name), Sort::Of(kind)) => of_service(claim, name, kind, asking, finder)?,
            (Claimant::Pod(name), _) => (of_pod(claim, name, asking, finder)?, None),
            (Claimant::Service(name), Sort::HealthCheck) => {
                (of_health_check(claim, name, asking, finder)?, None)
            }
            (Claimant::Service(_), Sort::HostPort) => return None,
        };
        let target = |claim: &Claim| match &claim.who {
            Claimant::Pod(name) => finder.directory.hosting(name)?.ports.get(claim.port).map(|p| p.target),
            Claimant::Service(_) => None,
        };
        let told_everywhere = match claims.clone().next() {
            Some(_) => self.told_everywhere(key, claim),
            None => BTreeSet::new(),
        };
        for other in claims.filter(|other| (&other.who, other.port) != (&claim.who, claim.port)) {
            // A pod's object and its runtime may both ask.
            if other.who == claim.who && target(other).is_some_and(|at| Some(at) == target(claim)) {
                continue;
            }
            // Who wants all of the node's addresses is told once.
            if claim.sort.is_of_node() && other.sort.is_of_node() && told_everywhere.contains(&other.who) {
                continue;
            }
            let Some(told) = origin_of(&other.who, finder) else { continue };
            let hint = "one Service or hostPort per address, port and protocol; the oldest Service has it";
            let message = format!("{key} already belongs to {}", wanted.origin);
            wanted.problems.push(error(&told, message, hint));
            let message = format!("{key} is also wanted by {told}");
            wanted.problems.push(warning(&wanted.origin.origin(), message, hint));
        }
        Some((wanted, inside))
    }
}

/// Flags of a frontend that has no backend anywhere: one that has some elsewhere says nothing, as kube-proxy.
fn refusal(config: &Config, is_empty: bool) -> u32 {
    let tells = config.load_balancer.no_backend_response == NoBackendResponse::Reject;
    if tells && is_empty { FRONTEND_REJECT } else { 0 }
}

fn of_service(
    claim: &Claim,
    name: &Name,
    kind: FrontendKind,
    asking: Asking<'_>,
    finder: &mut Finder<'_>,
) -> Option<(Wanted, Option<Wanted>)> {
    let service = finder.world.services.get::<ObjectName>(name)?;
    let behind = finder.behind(name, service, claim.port, IpFamily::of(claim.key.addr));
    let [outside, inside] = [Client::Outside, Client::Inside].map(|client| policy(service, kind, client));
    let passes = asking.config.load_balancer.no_backend_response == NoBackendResponse::Pass;
    // One that terminates still has connections.
    if passes && behind.backends.is_empty() && [outside, inside] == [TrafficPolicy::Cluster; 2] {
        return None;
    }
    let here = finder.here();
    let mut wanted = Wanted {
        name: name.clone(),
        origin: Reason::Service(name.clone(), service.clone()),
        port_name: service.ports.get(claim.port)?.name.clone(),
        flags: claim.sort.flags(asking.config)
            | refusal(asking.config, behind.is_empty())
            | forwarding::flag(service, claim, asking),
        affinity: service.affinity.unwrap_or(0),
        backends: behind.listed.clone(),
        chosen: behind.chosen(outside, here),
        maglev: by_table(service, claim, asking.config),
        ranges: Vec::new(),
        problems: Vec::new(),
    };
    let within = (outside != inside).then(|| Wanted {
        name: wanted.name.clone(),
        origin: wanted.origin.clone(),
        port_name: wanted.port_name.clone(),
        flags: wanted.flags & !FRONTEND_DSR,
        affinity: wanted.affinity,
        backends: behind.listed.clone(),
        chosen: behind.chosen(inside, here),
        maglev: false,
        ranges: Vec::new(),
        problems: Vec::new(),
    });
    if within.is_some() {
        wanted.flags |= FRONTEND_TWO_SCOPES;
    }
    let listed = &service.source_ranges;
    if claim.sort.has_ranges(asking.config) && !listed.ranges.is_empty() && !claim.key.addr.is_unspecified() {
        wanted.flags |= FRONTEND_SOURCE_RANGES;
        if listed.policy == RangesPolicy::Deny {
            wanted.flags |= FRONTEND_SOURCE_DENY;
        }
        let family = Family::of(claim.key.addr);
        let of_family = listed.ranges.iter().filter(|net| Family::of(net.addr()) == family);
        wanted.ranges = of_family.map(IpNet::trunc).collect();
    }
    Some((wanted, within))
}

/// Whether a frontend's clients choose by a table: it makes nodes agree on connections that come from outside.
fn by_table(service: &Service, claim: &Claim, config: &Config) -> bool {
    let algorithm = service.algorithm.unwrap_or(match config.load_balancer.algorithm {
        Algorithm::Random => LbAlgorithm::Random,
        Algorithm::Maglev => LbAlgorithm::Maglev,
    });
    let outside = claim.sort.flags(config) & FRONTEND_EXTERNAL != 0 && !claim.key.addr.is_unspecified();
    algorithm == LbAlgorithm::Maglev && outside
}

fn of_pod(claim: &Claim, name: &Name, asking: Asking<'_>, finder: &Finder<'_>) -> Option<Wanted> {
    let guest = finder.directory.hosting(name)?;
    let target = guest.ports.get(claim.port)?.target;
    let family = Family::of(claim.key.addr);
    let here = finder.directory.addresses_here(name).filter(|addr| Family::of(*addr) == family);
    Some(Wanted::here(claim, name, guest.origin.clone(), "", here, target, asking.config))
}

/// The node itself, where its agent answers.
fn of_health_check(claim: &Claim, name: &Name, asking: Asking<'_>, finder: &Finder<'_>) -> Option<Wanted> {
    const FIELD: &str = "healthCheckNodePort";
    let service = finder.world.services.get::<ObjectName>(name)?;
    let origin = Origin { rule: FIELD.to_owned(), ..service.origin(name) };
    let here = asking.own_address(Family::of(claim.key.addr)).into_iter();
    Some(Wanted::here(claim, name, origin, FIELD, here, claim.key.port, asking.config))
}

impl Wanted {
    /// A frontend that leads to a port at addresses of this node alone, for whoever may ask.
    fn here(
        claim: &Claim,
        name: &Name,
        origin: Origin,
        port_name: &str,
        addresses: impl Iterator<Item = IpAddr>,
        port: u16,
        config: &Config,
    ) -> Self {
        let chosen: Vec<_> = addresses.map(|addr| Chosen { addr, port, weight: DEFAULT_WEIGHT }).collect();
        let backends = chosen.iter().map(|at| (at.addr, at.port, Fitness::Ready)).collect();
        Self {
            name: name.clone(),
            origin: origin.into(),
            port_name: port_name.to_owned(),
            flags: claim.sort.flags(config) | refusal(config, chosen.is_empty()),
            affinity: 0,
            backends: Rc::new(backends),
            chosen,
            maglev: false,
            ranges: Vec::new(),
            problems: Vec::new(),
        }
    }
}

/// What is wrong with a Service, whoever has its frontends.
fn notes(
    name: &Name,
    service: &Service,
    asking: Asking<'_>,
    finder: &mut Finder<'_>,
) -> Vec<Shared<Problem>> {
    let mut notes = Vec::new();
    let told = service.origin(name);
    let [first, last] = asking.config.load_balancer.node_port_range;
    for number in asking.out_of_range(service).filter_map(|port| port.node_port) {
        let message = format!("NodePort {number} is not served: it is outside of {first} to {last}");
        notes.push(error(&told, message, "give it another, or widen load_balancer.node_port_range"));
    }
    notes.extend(forwarding::note(service, asking, &told));
    let claims = asking.of_service(name, service);
    let asked: BTreeSet<(usize, IpFamily)> =
        claims.iter().map(|claim| (claim.port, IpFamily::of(claim.key.addr))).collect();
    let unchanged: BTreeSet<_> = forwarding::unchanged(service, &claims, asking).collect();
    let mut seen = BTreeSet::new();
    for (at, family) in asked {
        let behind = finder.behind(name, service, at, family);
        if let (Some((count, pod)), Some(port)) = (&behind.portless, service.ports.get(at))
            && seen.insert(at)
        {
            let message = format!(
                "port {} leads to a named port that {count} of the selected pods do not have, as Pod {pod}",
                port.port,
            );
            notes.push(warning(&told, message, "name the port in the containers' ports"));
        }
        if let Some(port) = service.ports.get(at).filter(|_| unchanged.contains(&(at, family))) {
            let mut others = behind.backends.iter().filter(|b| b.node.is_none() && b.port != port.port);
            if let Some(first) = others.next() {
                notes.push(forwarding::other_port(port.port, 1 + others.count(), first, &told));
            }
        }
    }
    notes
}

/// What `healthCheckNodePort` is answered by: ready backends here, by address.
fn health_check(
    name: &Name,
    service: &Service,
    asking: Asking<'_>,
    finder: &mut Finder<'_>,
) -> Option<HealthCheckView> {
    let port = asking.health_check(service)?;
    let here = finder.here();
    let mut ready = BTreeSet::new();
    for at in 0..service.ports.len() {
        for family in [IpFamily::V4, IpFamily::V6] {
            let behind = finder.behind(name, service, at, family);
            let local = behind.backends.iter().filter(|b| ready_here(std::slice::from_ref(b), here) > 0);
            ready.extend(local.map(|b| b.addr));
        }
    }
    Some(HealthCheckView { port, ready: ready.len(), created: service.created.clone() })
}
