//! Services: frontends, the lists they lead to, backends, and the way back.
//!
//! ```text
//! Services, slices, pods ─ directory ─▶ what to look at ─ asked ─▶ claims ─▶ frontends to make anew
//!                                                                     │   (wanted: who has it, with
//!                                                                     │    which backends)
//!                                      backends, ways back, lists ◀───┘
//! ```
//! Every number is made of what it stands for. Kept by frontend: what does not change keeps its number,
//! since the book says so, and is not looked at. A frontend whose clients outside and inside get different
//! backends has two rows, made anew together.

mod asked;
mod directory;
mod forwarding;
mod lists;
mod tables;
mod wanted;
mod ways;

use super::Pass;
use super::book::IdBook;
use super::number::{ContentHash, NUMBERS, probe};
use super::rows::{Edits, config_origin, error};
use super::view::{BackendView, HealthCheckView, ServiceView};
use crate::config::Config;
use crate::eligible::Fitness;
use crate::map::Map;
use crate::problem::Problem;
use crate::shared::Shared;
use crate::state::{
    Backend, BackendId, BackendRow, Frontend, FrontendKey, FrontendRow, ListId, Present, Protocol, Reason,
    RevNat, RevNatId, Slot, SlotKey, SourceRange, SourceRangeKey, State, TableId,
};
use crate::world::Name;
use asked::{Asking, Claim};
use cilium_abi::lb::{BACKEND_TERMINATING, maglev_flags};
use directory::Directory;
use lists::Lists;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use tables::Tables;
use wanted::Wanted;

/// Which backend.
type BackendKey = (IpAddr, u16, Protocol);

/// A frontend, whoever its clients are.
type Place = (IpAddr, u16, Protocol);

fn place(key: &FrontendKey) -> Place {
    (key.addr, key.port, key.proto)
}

/// Frontends to make anew; none: nobody wants it any more.
type Stale = BTreeMap<FrontendKey, Option<Wanted>>;

/// A frontend as it was last made.
#[derive(Clone, Debug)]
struct Front {
    view: Shared<ServiceView>,
    origin: Reason,
    ranges: Vec<SourceRangeKey>,
    problems: Vec<Shared<Problem>>,
}

/// Where Services are served.
#[derive(Clone, Debug, Default, PartialEq)]
struct Where {
    addresses: Vec<IpAddr>,
    labels: BTreeMap<String, String>,
    /// What other nodes know of the addresses.
    published: BTreeSet<IpAddr>,
}

/// Services, as they follow the world.
#[derive(Debug, Default)]
pub(super) struct Stage {
    begun: bool,
    place: Where,
    directory: Directory,
    /// Who wants a frontend; the first has it.
    claims: BTreeSet<Claim>,
    fronts: BTreeMap<FrontendKey, Front>,
    backends: HashMap<BackendKey, BackendId>,
    users: BTreeSet<(BackendKey, FrontendKey)>,
    tables: Tables,
    /// Frontends that cannot be served, and who is told.
    unserved: usize,
    problems: Vec<Shared<Problem>>,
    /// What is wrong with Services, but for their frontends.
    notes: BTreeMap<Name, Vec<Shared<Problem>>>,
    /// Frontends by name.
    pub(super) views: Map<FrontendKey, Shared<ServiceView>>,
    /// What `healthCheckNodePort`s are answered by.
    pub(super) health_checks: Map<Name, Shared<HealthCheckView>>,
}

impl Stage {
    /// Follows the world.
    pub(super) fn update(&mut self, pass: &Pass<'_>, edits: &mut Edits) {
        let Pass { world, config, site, book, before, .. } = *pass;
        let this = world.nodes.get(&site.name);
        let none = BTreeMap::new();
        let labels = this.map_or(&none, |node| &node.labels);
        let published = this.iter().flat_map(|node| &node.addresses).map(|known| known.ip).collect();
        let same = self.place.addresses == site.node_ports
            && self.place.labels == *labels
            && self.place.published == published;
        let mut stale = match same {
            true => self.directory.update(world),
            false => directory::Stale::default(),
        };
        let moved = self.begun && !same;
        let lacking = self.tables.lacking().next().is_some();
        if same && stale.services.is_empty() && stale.pods.is_empty() && !lacking {
            return;
        }
        // A way back that becomes free may be anybody's.
        if moved || self.unserved > 0 {
            self.end(before, edits);
            *self = Self::default();
            stale = self.directory.update(world);
        } else if !same {
            stale = self.directory.update(world);
        }
        let asking = Asking { site, config, labels, published: &published };
        let stale = self.frontends(pass, asking, stale, edits);
        let addresses = site.node_ports.clone();
        self.place = Where { addresses, labels: labels.clone(), published };
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
        let tables = self.tables.update(&stale, &self.backends, book, config, edits);
        let numbers = Lists::new(book, self.begun.then_some(freed)).number(&slots);
        let mut views = Vec::with_capacity(stale.len());
        for (key, wanted) in &stale {
            let rev_nat = rev_nats.get(&place(key));
            for range in self.fronts.get(key).iter().flat_map(|front| &front.ranges) {
                edits.unset::<SourceRange>(*range);
            }
            let front = match (wanted, rev_nat) {
                (Some(wanted), Some(rev_nat)) => {
                    let to = Leads {
                        rev_nat: *rev_nat,
                        list: numbers[key],
                        slots: &slots[key],
                        table: tables.get(key).copied(),
                    };
                    Some(put(key, wanted, &to, config, &self.backends, edits))
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
    }

    /// Wants nothing any more.
    fn end(&mut self, before: &State, edits: &mut Edits) {
        before.backends.keys().for_each(|key| edits.unset::<Backend>(*key));
        before.rev_nats.keys().for_each(|key| edits.unset::<RevNat>(*key));
        before.slots.keys().for_each(|key| edits.unset::<Slot>(*key));
        before.source_ranges.keys().for_each(|key| edits.unset::<SourceRange>(*key));
        before.frontends.keys().for_each(|key| edits.unset::<Frontend>(key.clone()));
        let told = self.fronts.values_mut().map(|front| &mut front.problems);
        let told = told.chain(self.notes.values_mut()).chain([&mut self.problems]);
        told.for_each(|problems| edits.tell(problems, Vec::new()));
        self.tables.end(edits);
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
            for (addr, port, fitness) in wanted.backends.iter() {
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
                Fitness::Terminating | Fitness::Maintenance => BACKEND_TERMINATING,
            };
            let id = self.backends[&key];
            edits.set::<Backend>(id, BackendRow { addr, port, proto, flags }, &Some(origin.clone()));
        }
    }

    /// What is wrong with all of them together.
    fn tell(
        &mut self,
        config: &Config,
        stale: Stale,
        rev_nats: &BTreeMap<Place, RevNatId>,
        edits: &mut Edits,
    ) {
        let mut problems = Vec::new();
        self.unserved = 0;
        let mut told = BTreeSet::new();
        for (key, wanted) in stale {
            let at = place(&key);
            if let Some(wanted) = wanted.filter(|_| !rev_nats.contains_key(&at)) {
                self.unserved += 1;
                problems.extend(wanted.problems);
                if told.insert(at) {
                    let message = format!("{key} is not served: all 65535 ways back for replies are taken");
                    problems.push(error(&wanted.origin.origin(), message, "fewer Services"));
                }
            }
        }
        let (wanted, room) = (self.fronts.len() + self.unserved, config.bpf.lb_max);
        if wanted > room as usize {
            let message = format!("{wanted} frontends are wanted, and there is room for {room}");
            problems.push(error(&config_origin("bpf.lb_max"), message, "raise it"));
        }
        let ranges: usize = self.fronts.values().map(|front| front.ranges.len()).sum();
        if ranges > room as usize {
            let message = format!("{ranges} source ranges are wanted, and there is room for {room}");
            problems.push(error(&config_origin("bpf.lb_max"), message, "raise it"));
        }
        edits.tell(&mut self.problems, problems);
    }
}

/// What a backend is good for to those who use it, and the first of them.
type Use<'a> = (Fitness, &'a Reason);

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
    let first = FrontendKey { addr: IpAddr::from([0; 4]), port: 0, proto: Protocol(0), scope: u8::MAX };
    users.range((*backend, first)..).take_while(move |(other, _)| other == backend)
}

fn number(
    backends: &HashMap<BackendKey, BackendId>,
    key: &FrontendKey,
    addr: IpAddr,
    port: u16,
) -> BackendId {
    backends[&(addr, port, key.proto)]
}

/// The backends in the list of each frontend that is served.
fn slots<'s>(
    stale: &'s Stale,
    rev_nats: &BTreeMap<Place, RevNatId>,
    backends: &HashMap<BackendKey, BackendId>,
) -> BTreeMap<&'s FrontendKey, Vec<BackendId>> {
    let served = stale.iter().filter(|(key, _)| rev_nats.contains_key(&place(key)));
    let slots = served.filter_map(|(key, wanted)| {
        let chosen = &wanted.as_ref()?.chosen;
        Some((key, chosen.iter().map(|at| number(backends, key, at.addr, at.port)).collect()))
    });
    slots.collect()
}

/// Where a frontend leads, in numbers.
struct Leads<'a> {
    rev_nat: RevNatId,
    list: ListId,
    slots: &'a [BackendId],
    table: Option<TableId>,
}

/// Rows of a frontend that has all its numbers.
fn put(
    key: &FrontendKey,
    wanted: &Wanted,
    leads: &Leads<'_>,
    config: &Config,
    backends: &HashMap<BackendKey, BackendId>,
    edits: &mut Edits,
) -> Front {
    let Leads { rev_nat, list, slots, table } = *leads;
    let why = Some(wanted.origin.clone());
    for (slot, id) in (0..).zip(slots) {
        edits.set::<Slot>(SlotKey { list, slot }, *id, &why);
    }
    let ranges: Vec<_> = wanted.ranges.iter().map(|net| SourceRangeKey { rev_nat, net: *net }).collect();
    for range in &ranges {
        edits.set::<SourceRange>(*range, Present, &why);
    }
    let count = u16::try_from(slots.len()).unwrap_or(u16::MAX);
    let by_table = || maglev_flags(config.load_balancer.maglev.table_size.get());
    let flags = wanted.flags | table.map_or(0, |_| by_table());
    let (maglev, affinity) = (table.unwrap_or_default(), wanted.affinity);
    let row = FrontendRow { list, count, rev_nat, flags, maglev, affinity };
    edits.set::<Frontend>(key.clone(), row, &why);
    let of = |ready: bool| {
        let fit = wanted.backends.iter().filter(move |(_, _, f)| (*f == Fitness::Ready) == ready);
        fit.map(move |(addr, port, _)| BackendView {
            id: number(backends, key, *addr, *port),
            addr: *addr,
            port: *port,
            terminating: !ready,
        })
    };
    let view = ServiceView {
        service: wanted.name.clone(),
        port_name: wanted.port_name.clone(),
        addr: key.addr,
        port: key.port,
        proto: key.proto,
        scope: key.scope,
        flags,
        affinity,
        rev_nat,
        list,
        count,
        backends: of(true).chain(of(false)).collect(),
    };
    Front { view: view.into(), origin: wanted.origin.clone(), ranges, problems: Vec::new() }
}
