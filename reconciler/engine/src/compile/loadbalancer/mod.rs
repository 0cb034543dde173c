//! ClusterIP Services: frontends, the lists they lead to, backends, and the way back.
//!
//! ```text
//! Services, slices, pods ─ directory ─▶ Services to look at ─▶ frontends to make anew
//!                                            and with them: backends, ways back, lists
//! ```
//! Every number is made of what it stands for. Kept by frontend: what does not change keeps its number,
//! since the book says so, and is not looked at.

mod directory;
mod lists;

use super::Pass;
use super::book::IdBook;
use super::number::{ContentHash, NUMBERS, probe};
use super::rows::{Edits, config_origin, error, warning};
use super::site::{Family, Site};
use super::view::{BackendView, ServiceView};
use crate::config::Config;
use crate::map::Map;
use crate::problem::Problem;
use crate::shared::Shared;
use crate::state::{
    Backend, BackendId, BackendRow, Frontend, FrontendKey, FrontendRow, ListId, Origin, Protocol, RevNat,
    RevNatId, RevNatRow, Slot, SlotKey, State,
};
use crate::world::{Name, ObjectName, Service, ServicePort, World};
use cilium_abi::lb::{BACKEND_TERMINATING, FRONTEND_CLUSTER_IP, SCOPE_EXTERNAL};
use directory::{Backends, Directory, Fitness};
use lists::Lists;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

/// Which backend.
type BackendKey = (IpAddr, u16, Protocol);

/// A frontend before it has numbers.
struct Wanted {
    service: Name,
    origin: Shared<Origin>,
    port_name: String,
    backends: Backends,
    problems: Vec<Shared<Problem>>,
}

/// Frontends to make anew; none: nobody wants it any more.
type Stale = BTreeMap<FrontendKey, Option<Wanted>>;

/// A frontend as it was last made.
#[derive(Clone, Debug)]
struct Front {
    view: Shared<ServiceView>,
    origin: Shared<Origin>,
    problems: Vec<Shared<Problem>>,
}

/// Services, as they follow the world.
#[derive(Debug, Default)]
pub(super) struct Stage {
    begun: bool,
    directory: Directory,
    /// Who wants a frontend; the first has it. The number is that of the Service's address and port.
    claims: BTreeSet<(FrontendKey, Name, usize)>,
    fronts: BTreeMap<FrontendKey, Front>,
    backends: HashMap<BackendKey, BackendId>,
    users: BTreeSet<(BackendKey, FrontendKey)>,
    /// Frontends that cannot be served, and who is told.
    unserved: usize,
    problems: Vec<Shared<Problem>>,
    views: Map<FrontendKey, Shared<ServiceView>>,
}

/// The frontends a Service asks for, in its order.
fn asked<'s>(
    service: &'s Service,
    site: &'s Site,
) -> impl Iterator<Item = (usize, FrontendKey, &'s ServicePort)> {
    let addrs = service.cluster_ips.iter().filter(|addr| site.enabled(Family::of(**addr)));
    let both = addrs.flat_map(|addr| service.ports.iter().map(move |port| (*addr, port)));
    both.enumerate().map(|(at, (addr, port))| {
        (at, FrontendKey { addr, port: port.port, proto: port.proto, scope: SCOPE_EXTERNAL }, port)
    })
}

fn origin(name: &ObjectName, service: &Service) -> Origin {
    Origin { object: format!("Service {name}"), place: service.place.to_string(), rule: String::new() }
}

impl Stage {
    /// The frontends, by name.
    pub(super) fn update(
        &mut self,
        pass: &Pass<'_>,
        edits: &mut Edits,
    ) -> &Map<FrontendKey, Shared<ServiceView>> {
        let Pass { world, config, site, book, before, .. } = *pass;
        let mut services = self.directory.update(world);
        if services.is_empty() {
            return &self.views;
        }
        if self.unserved > 0 {
            // A way back that becomes free may be anybody's.
            self.end(before, edits);
            *self = Self::default();
            services = self.directory.update(world);
        }
        let stale = self.frontends(world, site, services);
        self.number_backends(&stale, book, edits);
        let rev_nats = self.number_ways_back(&stale, book, edits);
        let slots = slots(&stale, &rev_nats, &self.backends);
        let freed: HashSet<ListId> =
            stale.keys().filter_map(|key| self.fronts.get(key)).map(|front| front.view.list).collect();
        for list in &freed {
            let first = SlotKey { list: *list, slot: 0 };
            for (key, _) in before.slots.range(first..).take_while(|(key, _)| key.list == *list) {
                edits.unset::<Slot>(*key);
            }
        }
        let numbers = Lists::new(book, self.begun.then_some(freed)).number(&slots);
        let mut views = Vec::with_capacity(stale.len());
        for (key, wanted) in &stale {
            let rev_nat = rev_nats.get(&(key.addr, key.port));
            let front = match (wanted, rev_nat) {
                (Some(wanted), Some(rev_nat)) => {
                    let (slots, list) = (&slots[key], numbers[key]);
                    Some(put(key, wanted, *rev_nat, list, slots, &self.backends, edits))
                }
                (Some(_), None) | (None, _) => {
                    edits.unset::<Frontend>(key.clone());
                    None
                }
            };
            let problems = wanted.as_ref().map_or(Vec::new(), |wanted| wanted.problems.clone());
            views.push((key.clone(), front.as_ref().map(|front| front.view.clone())));
            self.set(key, front, problems, edits);
        }
        self.views.edit(views);
        self.begun = true;
        self.tell(config, stale, &rev_nats, edits);
        &self.views
    }

    /// Wants nothing any more.
    fn end(&mut self, before: &State, edits: &mut Edits) {
        before.backends.keys().for_each(|key| edits.unset::<Backend>(*key));
        before.rev_nats.keys().for_each(|key| edits.unset::<RevNat>(*key));
        before.slots.keys().for_each(|key| edits.unset::<Slot>(*key));
        before.frontends.keys().for_each(|key| edits.unset::<Frontend>(key.clone()));
        let told = self.fronts.values_mut().map(|front| &mut front.problems);
        told.chain([&mut self.problems]).for_each(|problems| edits.tell(problems, Vec::new()));
    }

    fn set(
        &mut self,
        key: &FrontendKey,
        front: Option<Front>,
        problems: Vec<Shared<Problem>>,
        edits: &mut Edits,
    ) {
        let mut told = self.fronts.remove(key).map(|front| front.problems).unwrap_or_default();
        match front {
            Some(front) => {
                edits.tell(&mut told, problems);
                self.fronts.insert(key.clone(), Front { problems: told, ..front });
            }
            None => edits.tell(&mut told, Vec::new()),
        }
    }

    /// The frontends that these Services ask for, or asked for; one that two Services want belongs to the
    /// first by name.
    fn frontends(&mut self, world: &World, site: &Site, services: directory::Stale) -> Stale {
        let mut keys: BTreeSet<FrontendKey> = BTreeSet::new();
        for (name, was) in services {
            for (at, key, _) in was.iter().flat_map(|service| asked(service, site)) {
                self.claims.remove(&(key.clone(), name.clone(), at));
                keys.insert(key);
            }
            let is = world.services.get::<ObjectName>(&name);
            for (at, key, _) in is.into_iter().flat_map(|service| asked(service, site)) {
                self.claims.insert((key.clone(), name.clone(), at));
                keys.insert(key);
            }
        }
        let wanted = |key: FrontendKey| {
            let wanted = self.wanted(&key, world, site);
            (key, wanted)
        };
        keys.into_iter().map(wanted).collect()
    }

    fn wanted(&self, key: &FrontendKey, world: &World, site: &Site) -> Option<Wanted> {
        let first = (key.clone(), Name::default(), 0);
        let mut claims = self.claims.range(first..).take_while(|(k, ..)| k == key);
        let (_, name, at) = claims.next()?;
        let service = world.services.get::<ObjectName>(name)?;
        let origin = Shared::from(origin(name, service));
        let (.., port) = asked(service, site).find(|(n, ..)| n == at)?;
        let mut problems = Vec::new();
        for (_, other, _) in claims {
            let other = world.services.get::<ObjectName>(other).map(|service| self::origin(other, service));
            let hint = "one Service per address, port and protocol";
            if let Some(other) = other {
                problems.push(error(&other, format!("{key} already belongs to {origin}"), hint));
                problems.push(warning(&origin, format!("{key} is also wanted by {other}"), hint));
            }
        }
        let (mut backends, portless) =
            self.directory.backends(world, name, service, port, Family::of(key.addr));
        if let Some((count, pod)) = portless {
            problems.push(warning(
                &origin,
                format!(
                    "port {} leads to a named port that {count} of the selected pods do not have, as Pod {pod}",
                    port.port,
                ),
                "name the port in the containers' ports",
            ));
        }
        while backends.len() > usize::from(u16::MAX) {
            backends.pop_last();
        }
        Some(Wanted { service: name.clone(), origin, port_name: port.name.clone(), backends, problems })
    }

    /// Numbers and rows of the backends of these frontends. One that terminates for every Service is marked;
    /// it stays while it serves, for the connections it has.
    fn number_backends(&mut self, stale: &Stale, book: &IdBook, edits: &mut Edits) {
        let mut touched: BTreeMap<BackendKey, Option<Use<'_>>> = BTreeMap::new();
        let mut users = Vec::new();
        for (key, wanted) in stale {
            for backend in self.fronts.get(key).iter().flat_map(|front| &front.view.backends) {
                let backend = (backend.addr, backend.port, key.proto);
                self.users.remove(&(backend, key.clone()));
                touched.entry(backend).or_default();
            }
            let Some(wanted) = wanted else { continue };
            for ((addr, port), fitness) in &wanted.backends {
                let backend = (*addr, *port, key.proto);
                users.push((backend, key.clone()));
                join(touched.entry(backend).or_default(), (*fitness, &wanted.origin));
            }
        }
        for (backend, one) in &mut touched {
            for (_, key) in users_of(&self.users, backend).filter(|(_, key)| !stale.contains_key(key)) {
                let front = self.fronts.get(key);
                let found = front.into_iter().flat_map(|front| &front.view.backends);
                for found in found.filter(|found| (found.addr, found.port) == (backend.0, backend.1)) {
                    let fitness = if found.terminating { Fitness::Terminating } else { Fitness::Ready };
                    front.into_iter().for_each(|front| join(one, (fitness, &front.origin)));
                }
            }
        }
        if self.users.is_empty() {
            self.users = users.into_iter().collect();
        } else {
            self.users.extend(users);
        }
        let adopted: HashMap<BackendKey, BackendId> = match self.begun {
            true => HashMap::new(),
            false => book
                .backends
                .iter()
                .map(|(id, entry)| ((entry.row.addr, entry.row.port, entry.row.proto), *id))
                .collect(),
        };
        let mut fresh: Vec<(ContentHash, BackendKey)> = Vec::new();
        let mut rows: Vec<(BackendKey, Use<'_>)> = Vec::new();
        for (key, one) in touched {
            match one {
                None => {
                    if let Some(id) = self.backends.remove(&key) {
                        edits.unset::<Backend>(id);
                    }
                }
                Some(one) => {
                    rows.push((key, one));
                    match (self.backends.get(&key), adopted.get(&key)) {
                        (Some(_), _) => {}
                        (None, Some(id)) => drop(self.backends.insert(key, *id)),
                        (None, None) => {
                            let parts = [key.0.to_string(), key.1.to_string(), key.2.0.to_string()];
                            fresh.push((ContentHash::of(parts), key));
                        }
                    }
                }
            }
        }
        fresh.sort_unstable();
        let mut taken = HashSet::new();
        for (hash, key) in fresh {
            let free = |n: u32| book.backends.find(&BackendId(n)).is_none() && !taken.contains(&n);
            let n = probe(&hash, 1, NUMBERS, free).expect("fewer backends than 2^32 - 1 fit in memory");
            taken.insert(n);
            self.backends.insert(key, BackendId(n));
        }
        for (key @ (addr, port, proto), (fitness, origin)) in rows {
            let flags = match fitness {
                Fitness::Ready => 0,
                Fitness::Terminating => BACKEND_TERMINATING,
            };
            let id = self.backends[&key];
            edits.set::<Backend>(id, BackendRow { addr, port, proto, flags }, &Some(origin.clone()));
        }
    }

    /// Numbers of the ways back of these frontends: one per address and port, whatever the protocol.
    fn number_ways_back(
        &mut self,
        stale: &Stale,
        book: &IdBook,
        edits: &mut Edits,
    ) -> BTreeMap<(IpAddr, u16), RevNatId> {
        let adopted: HashMap<(IpAddr, u16), RevNatId> = match self.begun {
            true => HashMap::new(),
            false => {
                book.rev_nats.iter().map(|(id, entry)| ((entry.row.addr, entry.row.port), *id)).collect()
            }
        };
        let mut numbers = BTreeMap::new();
        let mut whys: BTreeMap<(IpAddr, u16), Shared<Origin>> = BTreeMap::new();
        let mut fresh = Vec::new();
        let places: BTreeSet<(IpAddr, u16)> = stale.keys().map(|key| (key.addr, key.port)).collect();
        for at in places {
            let first = FrontendKey { addr: at.0, port: at.1, proto: Protocol(0), scope: 0 };
            let last = FrontendKey { proto: Protocol(u8::MAX), scope: u8::MAX, ..first.clone() };
            let had = || self.fronts.range(first.clone()..=last.clone());
            let stay = had().filter(|(key, _)| !stale.contains_key(*key));
            let stay = stay.map(|(key, front)| (key, &front.origin));
            let come = stale.range(first.clone()..=last.clone());
            let come = come.filter_map(|(key, wanted)| Some((key, &wanted.as_ref()?.origin)));
            let known = had().next().map(|(_, front)| front.view.rev_nat);
            // The last of its frontends explains the row.
            let Some((_, origin)) = stay.chain(come).max_by_key(|(key, _)| *key) else {
                if let Some(id) = known {
                    edits.unset::<RevNat>(id);
                }
                continue;
            };
            whys.insert(at, origin.clone());
            match known.or_else(|| adopted.get(&at).copied()) {
                Some(id) => drop(numbers.insert(at, id)),
                None => fresh.push((ContentHash::of([at.0.to_string(), at.1.to_string()]), at)),
            }
        }
        fresh.sort_unstable();
        let mut taken = HashSet::new();
        for (hash, at) in fresh {
            let id = |n: u32| u16::try_from(n).map(RevNatId).expect("probing ends at 65 535");
            let free = |n: u32| book.rev_nats.find(&id(n)).is_none() && !taken.contains(&n);
            if let Some(n) = probe(&hash, 1, u32::from(u16::MAX), free) {
                taken.insert(n);
                numbers.insert(at, id(n));
            }
        }
        for (at, id) in &numbers {
            edits.set::<RevNat>(*id, RevNatRow { addr: at.0, port: at.1 }, &whys.get(at).cloned());
        }
        numbers
    }

    /// What is wrong with all of them together.
    fn tell(
        &mut self,
        config: &Config,
        stale: Stale,
        rev_nats: &BTreeMap<(IpAddr, u16), RevNatId>,
        edits: &mut Edits,
    ) {
        let mut problems = Vec::new();
        self.unserved = 0;
        let mut told = BTreeSet::new();
        for (key, wanted) in stale {
            let at = (key.addr, key.port);
            if let Some(wanted) = wanted.filter(|_| !rev_nats.contains_key(&at)) {
                self.unserved += 1;
                problems.extend(wanted.problems);
                if told.insert(at) {
                    let message = format!("{key} is not served: all 65535 ways back for replies are taken");
                    problems.push(error(&wanted.origin, message, "fewer Services"));
                }
            }
        }
        let (wanted, room) = (self.fronts.len() + self.unserved, config.bpf.lb_max);
        if wanted > room as usize {
            let message = format!("{wanted} frontends are wanted, and there is room for {room}");
            problems.push(error(&config_origin("bpf.lb_max"), message, "raise it"));
        }
        edits.tell(&mut self.problems, problems);
    }
}

/// What a backend is good for to those who use it, and the first of them.
type Use<'a> = (Fitness, &'a Shared<Origin>);

fn join<'a>(one: &mut Option<Use<'a>>, (fitness, origin): Use<'a>) {
    *one = Some(match *one {
        None => (fitness, origin),
        Some((other, another)) => (fitness.max(other), origin.min(another)),
    });
}

fn users_of<'u>(
    users: &'u BTreeSet<(BackendKey, FrontendKey)>,
    backend: &'u BackendKey,
) -> impl Iterator<Item = &'u (BackendKey, FrontendKey)> {
    let first = FrontendKey { addr: IpAddr::from([0; 4]), port: 0, proto: Protocol(0), scope: 0 };
    users.range((*backend, first)..).take_while(move |(other, _)| other == backend)
}

fn number(backends: &HashMap<BackendKey, BackendId>, key: &FrontendKey, at: &(IpAddr, u16)) -> BackendId {
    backends[&(at.0, at.1, key.proto)]
}

fn chosen(wanted: &Wanted, fitness: Fitness) -> impl Iterator<Item = &(IpAddr, u16)> {
    wanted.backends.iter().filter(move |(_, f)| **f == fitness).map(|(at, _)| at)
}

/// The backends in the list of each frontend that is served: those ready, or else those that still serve.
fn slots<'s>(
    stale: &'s Stale,
    rev_nats: &BTreeMap<(IpAddr, u16), RevNatId>,
    backends: &HashMap<BackendKey, BackendId>,
) -> BTreeMap<&'s FrontendKey, Vec<BackendId>> {
    let served = stale.iter().filter(|(key, _)| rev_nats.contains_key(&(key.addr, key.port)));
    let slots = served.filter_map(|(key, wanted)| {
        let wanted = wanted.as_ref()?;
        let of = |fitness| chosen(wanted, fitness).map(|at| number(backends, key, at)).collect::<Vec<_>>();
        let ready = of(Fitness::Ready);
        Some((key, if ready.is_empty() { of(Fitness::Terminating) } else { ready }))
    });
    slots.collect()
}

/// Rows of a frontend that has all its numbers.
fn put(
    key: &FrontendKey,
    wanted: &Wanted,
    rev_nat: RevNatId,
    list: ListId,
    slots: &[BackendId],
    backends: &HashMap<BackendKey, BackendId>,
    edits: &mut Edits,
) -> Front {
    let why = Some(wanted.origin.clone());
    for (slot, id) in (0..).zip(slots) {
        edits.set::<Slot>(SlotKey { list, slot }, *id, &why);
    }
    let count = u16::try_from(slots.len()).unwrap_or(u16::MAX);
    edits.set::<Frontend>(
        key.clone(),
        FrontendRow { list, count, rev_nat, flags: FRONTEND_CLUSTER_IP },
        &why,
    );
    let backend = |fitness| {
        chosen(wanted, fitness).map(move |at| BackendView {
            id: number(backends, key, at),
            addr: at.0,
            port: at.1,
            terminating: fitness == Fitness::Terminating,
        })
    };
    let view = ServiceView {
        service: wanted.service.clone(),
        port_name: wanted.port_name.clone(),
        addr: key.addr,
        port: key.port,
        proto: key.proto,
        rev_nat,
        list,
        backends: backend(Fitness::Ready).chain(backend(Fitness::Terminating)).collect(),
    };
    Front { view: view.into(), origin: wanted.origin.clone(), problems: Vec::new() }
}
