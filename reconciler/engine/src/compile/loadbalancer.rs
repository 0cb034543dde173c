//! ClusterIP Services: frontends, the lists they lead to, backends, and the way back.
//!
//! Every number is made of what it stands for, and a list's of its whole content: a changed list is
//! another list beside the old one, and the frontend row flips from one to the other.

use super::backends::{Backends, Directory, Fitness};
use super::book::IdBook;
use super::memo::{Memo, Part, recall};
use super::number::{ContentHash, probe};
use super::rows::{Rows, config_origin};
use super::shared::Shared;
use super::site::{Family, Site};
use super::view::{BackendView, ServiceView};
use crate::config::Config;
use crate::state::{
    Backend, BackendId, BackendRow, Frontend, FrontendKey, FrontendRow, ListId, Origin, OriginId, Protocol,
    RevNat, RevNatId, RevNatRow, Slot, SlotKey,
};
use crate::world::{ObjectName, Service, World};
use cilium_abi::lb::{BACKEND_TERMINATING, FRONTEND_CLUSTER_IP, SCOPE_EXTERNAL};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Origins of this stage are numbered by themselves.
const PART: u8 = 1;

/// What the stage tells: the rows by name.
pub(super) type Served = Shared<Vec<ServiceView>>;

/// A frontend before it has numbers.
#[derive(Hash)]
struct Wanted<'w> {
    service: &'w ObjectName,
    origin: Arc<Origin>,
    port_name: &'w str,
    backends: Backends,
}

/// All that numbers and rows are made of.
#[derive(Hash)]
struct Inputs<'a> {
    frontends: &'a BTreeMap<FrontendKey, Wanted<'a>>,
    kept: KeptNumbers<'a>,
}

/// Numbers in use.
#[derive(Clone, Copy, Hash)]
struct KeptNumbers<'a> {
    backends: &'a BTreeMap<BackendId, BackendKey>,
    rev_nats: &'a BTreeMap<RevNatId, (IpAddr, u16)>,
    lists: &'a BTreeMap<ListId, BTreeMap<u32, BackendId>>,
}

/// Which backend.
type BackendKey = (IpAddr, u16, Protocol);

fn origin(name: &ObjectName, service: &Service) -> Origin {
    Origin { object: format!("Service {name}"), place: service.place.to_string(), rule: String::new() }
}

/// Writes the rows.
pub(super) fn compile(
    world: &World,
    config: &Config,
    site: &Site,
    book: &IdBook,
    memo: Option<&mut Memo>,
    rows: &mut Rows,
) -> Served {
    let frontends = frontends(world, site, rows);
    if frontends.len() > config.bpf.lb_max as usize {
        rows.error(
            &config_origin("bpf.lb_max"),
            format!("{} frontends are wanted, and there is room for {}", frontends.len(), config.bpf.lb_max),
            "raise it",
        );
    }
    let kept = KeptNumbers { backends: &book.backends, rev_nats: &book.rev_nats, lists: &book.lists };
    let inputs = Inputs { frontends: &frontends, kept };
    let part = recall(memo, |memo| &mut memo.services, &inputs, number);
    rows.absorb(part.rows);
    part.told
}

/// Numbers and rows of the frontends.
fn number(inputs: &Inputs<'_>) -> Part<Served> {
    let Inputs { frontends, kept } = *inputs;
    let mut rows = Rows::of_part(PART);
    let backends = number_backends(frontends, kept, &mut rows);
    let rev_nats = number_ways_back(frontends, kept, &mut rows);
    let mut lists = Lists { kept, taken: HashSet::new() };
    let mut views = Vec::new();
    for (key, wanted) in frontends {
        let Some(rev_nat) = rev_nats.get(&(key.addr, key.port)) else { continue };
        let why = rows.why(&wanted.origin);
        let number = |(addr, port): &(IpAddr, u16)| backends[&(*addr, *port, key.proto)];
        let chosen = |fitness| wanted.backends.iter().filter(move |(_, f)| **f == fitness).map(|(at, _)| at);
        let mut slots: Vec<BackendId> = chosen(Fitness::Ready).map(number).collect();
        if slots.is_empty() {
            slots.extend(chosen(Fitness::Terminating).map(number));
        }
        let list = lists.write(key, &slots, why, &mut rows);
        let count = u16::try_from(slots.len()).unwrap_or(u16::MAX);
        let row = FrontendRow { list, count, rev_nat: *rev_nat, flags: FRONTEND_CLUSTER_IP };
        rows.put::<Frontend>(key.clone(), row, why);
        rows.put::<RevNat>(*rev_nat, RevNatRow { addr: key.addr, port: key.port }, why);
        let backend = |fitness| {
            chosen(fitness).map(move |at| BackendView {
                id: number(at),
                addr: at.0,
                port: at.1,
                terminating: fitness == Fitness::Terminating,
            })
        };
        views.push(ServiceView {
            service: wanted.service.clone(),
            port_name: wanted.port_name.to_owned(),
            addr: key.addr,
            port: key.port,
            proto: key.proto,
            rev_nat: *rev_nat,
            list,
            backends: backend(Fitness::Ready).chain(backend(Fitness::Terminating)).collect(),
        });
    }
    Part { rows, told: views.into() }
}

/// Every frontend with its backends; one that two Services want belongs to the first by name.
fn frontends<'w>(world: &'w World, site: &Site, rows: &mut Rows) -> BTreeMap<FrontendKey, Wanted<'w>> {
    let directory = Directory::new(world);
    let mut frontends: BTreeMap<FrontendKey, Wanted<'w>> = BTreeMap::new();
    for (name, service) in &world.services {
        let origin = Arc::new(origin(name, service));
        for addr in service.cluster_ips.iter().filter(|a| site.enabled(Family::of(**a))) {
            for port in &service.ports {
                let key =
                    FrontendKey { addr: *addr, port: port.port, proto: port.proto, scope: SCOPE_EXTERNAL };
                if let Some(first) = frontends.get(&key).map(|wanted| wanted.origin.clone()) {
                    let hint = "one Service per address, port and protocol";
                    rows.error(&origin, format!("{key} already belongs to {first}"), hint);
                    rows.warning(&first, format!("{key} is also wanted by {origin}"), hint);
                    continue;
                }
                let (mut backends, portless) = directory.backends(name, service, port, Family::of(*addr));
                if let Some(pod) = portless.first() {
                    rows.warning(
                        &origin,
                        format!(
                            "port {} leads to a named port that {} of the selected pods do not have, as Pod {pod}",
                            port.port,
                            portless.len()
                        ),
                        "name the port in the containers' ports",
                    );
                }
                while backends.len() > usize::from(u16::MAX) {
                    backends.pop_last();
                }
                let wanted =
                    Wanted { service: name, origin: origin.clone(), port_name: &port.name, backends };
                frontends.insert(key, wanted);
            }
        }
    }
    frontends
}

/// Numbers and rows of all backends. One that terminates for every Service is marked; it stays while it
/// serves, for the connections it has.
fn number_backends(
    frontends: &BTreeMap<FrontendKey, Wanted<'_>>,
    book: KeptNumbers<'_>,
    rows: &mut Rows,
) -> HashMap<BackendKey, BackendId> {
    let mut wanted: BTreeMap<BackendKey, (Fitness, &Arc<Origin>)> = BTreeMap::new();
    for (key, frontend) in frontends {
        for ((addr, port), fitness) in &frontend.backends {
            let held = wanted.entry((*addr, *port, key.proto)).or_insert((*fitness, &frontend.origin));
            *held = (held.0.max(*fitness), held.1.min(&frontend.origin));
        }
    }
    let kept: HashMap<&BackendKey, BackendId> = book.backends.iter().map(|(id, key)| (key, *id)).collect();
    let mut numbers: HashMap<BackendKey, BackendId> = HashMap::with_capacity(wanted.len());
    let mut taken: HashSet<BackendId> = HashSet::with_capacity(wanted.len());
    for key in wanted.keys() {
        if let Some(id) = kept.get(key) {
            taken.insert(*id);
            numbers.insert(*key, *id);
        }
    }
    let mut fresh: Vec<(ContentHash, BackendKey)> = wanted
        .keys()
        .filter(|key| !kept.contains_key(key))
        .map(|key| (ContentHash::of([key.0.to_string(), key.1.to_string(), key.2.0.to_string()]), *key))
        .collect();
    fresh.sort_unstable();
    for (hash, key) in fresh {
        let free = |n: u32| !book.backends.contains_key(&BackendId(n)) && !taken.contains(&BackendId(n));
        let id =
            BackendId(probe(&hash, 1, u32::MAX, free).expect("fewer backends than 2^32 - 1 fit in memory"));
        taken.insert(id);
        numbers.insert(key, id);
    }
    for ((addr, port, proto), (fitness, origin)) in wanted {
        let flags = match fitness {
            Fitness::Ready => 0,
            Fitness::Terminating => BACKEND_TERMINATING,
        };
        let why = rows.why(origin);
        rows.put::<Backend>(numbers[&(addr, port, proto)], BackendRow { addr, port, proto, flags }, why);
    }
    numbers
}

/// Numbers of the ways back: one per address and port, whatever the protocol.
fn number_ways_back(
    frontends: &BTreeMap<FrontendKey, Wanted<'_>>,
    book: KeptNumbers<'_>,
    rows: &mut Rows,
) -> HashMap<(IpAddr, u16), RevNatId> {
    let kept: HashMap<&(IpAddr, u16), RevNatId> = book.rev_nats.iter().map(|(id, at)| (at, *id)).collect();
    let mut numbers = HashMap::new();
    let mut taken: HashSet<RevNatId> = HashSet::new();
    let mut fresh = Vec::new();
    for key in frontends.keys() {
        let at = (key.addr, key.port);
        if numbers.contains_key(&at) {
            continue;
        }
        match kept.get(&at) {
            Some(id) => {
                taken.insert(*id);
                numbers.insert(at, *id);
            }
            None => fresh.push((ContentHash::of([at.0.to_string(), at.1.to_string()]), at, key)),
        }
    }
    fresh.sort_unstable_by_key(|(hash, at, _)| (*hash, *at));
    for (hash, at, key) in fresh {
        if numbers.contains_key(&at) {
            continue;
        }
        let id = |n: u32| u16::try_from(n).map(RevNatId).expect("probing ends at 65 535");
        let free = |n: u32| !book.rev_nats.contains_key(&id(n)) && !taken.contains(&id(n));
        match probe(&hash, 1, u32::from(u16::MAX), free) {
            Some(n) => {
                taken.insert(id(n));
                numbers.insert(at, id(n));
            }
            None => rows.error(
                &frontends[key].origin,
                format!("{key} is not served: all 65535 ways back for replies are taken"),
                "fewer Services",
            ),
        }
    }
    numbers
}

/// How many numbers from its own place on a list is looked for.
const NEAR: u32 = 16;

/// Lists of backends.
struct Lists<'b> {
    kept: KeptNumbers<'b>,
    taken: HashSet<ListId>,
}

impl Lists<'_> {
    /// The number of the list with this content, and its slots.
    fn write(&mut self, key: &FrontendKey, slots: &[BackendId], why: OriginId, rows: &mut Rows) -> ListId {
        if slots.is_empty() {
            return ListId(0);
        }
        let parts = std::iter::once(key.to_string()).chain(slots.iter().map(BackendId::to_string));
        let hash = ContentHash::of(parts);
        let wanted = |slot: u32| usize::try_from(slot).ok().and_then(|at| slots.get(at));
        let taken = |n: u32| self.taken.contains(&ListId(n));
        let seen = |n: u32| self.kept.lists.get(&ListId(n));
        // A list that stands whole is used where it is, also when a number nearer to its place has become
        // free since: otherwise it would move again.
        let first = probe(&hash, 1, u32::MAX, |_| true).expect("any number will do");
        let near = (0..NEAR).filter_map(|step| first.checked_add(step));
        let stands = |content: &BTreeMap<u32, BackendId>| {
            content.len() == slots.len() && content.iter().all(|(slot, id)| wanted(*slot) == Some(id))
        };
        let whole = near.into_iter().find(|n| !taken(*n) && seen(*n).is_some_and(stands));
        // Part of a list is as good as all of it: the rest was being written, or is being removed.
        let part = |content: &BTreeMap<u32, BackendId>| {
            content.iter().all(|(slot, id)| wanted(*slot).is_none_or(|other| other == id))
        };
        let free = |n: u32| !taken(n) && seen(n).is_none_or(part);
        let list = whole.or_else(|| probe(&hash, 1, u32::MAX, free));
        let list = ListId(list.expect("fewer lists than 2^32 - 1 fit in memory"));
        for (slot, id) in (0..).zip(slots) {
            rows.put::<Slot>(SlotKey { list, slot }, *id, why);
        }
        self.taken.insert(list);
        list
    }
}
