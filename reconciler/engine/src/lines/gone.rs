//! What a plan takes away of load balancing, in words: such rows are numbers, and what they stood for is
//! wanted no longer. What can be known is in the plan itself: frontends with their numbers, and where slots lead.
//!
//! ```text
//! - Service shop/cart (cart.yaml:1): 2 frontends, 1 backend, 9 rows in all
//! -   10.96.0.10:80/TCP [ClusterIP, non-routable] to 10.1.0.11:8080/TCP, 10.2.0.12:8080/TCP
//! -   192.168.0.1:30080/TCP [NodePort] to 10.1.0.11:8080/TCP, 10.2.0.12:8080/TCP
//! -   backend 10.1.0.11:8080/TCP
//! ```

use crate::driver::Step;
use crate::plan::{Plan, Steps};
use crate::state::{
    Backend, BackendId, BackendRow, Frontend, FrontendKey, FrontendRow, ListId, MaglevTable, Resource,
    RevNat, RevNatId, RowId, Slot, SlotKey, SourceRange, SourceRangeKey, TableId, Why,
};
use cilium_abi::lb::FRONTEND_MAGLEV;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Rows of load balancing that go, found by their numbers.
#[derive(Default)]
struct Gone<'p> {
    frontends: BTreeMap<&'p FrontendKey, (&'p FrontendRow, &'p Why)>,
    /// Frontends that lead, or led, there.
    lists: BTreeMap<ListId, &'p FrontendKey>,
    ways_back: BTreeMap<RevNatId, &'p FrontendKey>,
    of_tables: BTreeMap<TableId, BTreeSet<&'p FrontendKey>>,
    slots: BTreeMap<SlotKey, BackendId>,
    backends: BTreeMap<BackendId, &'p BackendRow>,
    rev_nats: BTreeSet<RevNatId>,
    ranges: Vec<SourceRangeKey>,
    tables: BTreeSet<TableId>,
}

impl<'p> Gone<'p> {
    fn of(plan: &'p Plan) -> Self {
        let mut gone = Self::default();
        for phase in &plan.phases {
            match &phase.steps {
                Steps::Frontend(list) => {
                    for (step, why) in list.iter() {
                        let Some(seen) = step.seen() else { continue };
                        gone.led(step.key(), seen);
                        if matches!(step, Step::Remove { .. }) {
                            gone.frontends.insert(step.key(), (seen, why));
                        }
                    }
                }
                Steps::Slot(list) => gone.slots.extend(removed(&list.steps).map(|(key, id)| (*key, *id))),
                Steps::Backend(list) => {
                    gone.backends.extend(removed(&list.steps).map(|(id, row)| (*id, row)));
                }
                Steps::RevNat(list) => gone.rev_nats.extend(removed(&list.steps).map(|(id, _)| *id)),
                Steps::SourceRange(list) => gone.ranges.extend(removed(&list.steps).map(|(key, _)| *key)),
                Steps::MaglevTable(list) => gone.tables.extend(removed(&list.steps).map(|(id, _)| *id)),
                _ => {}
            }
        }
        gone
    }

    fn led(&mut self, key: &'p FrontendKey, row: &FrontendRow) {
        self.lists.insert(row.list, key);
        // Its own clients outside name a frontend that has two rows.
        self.ways_back.insert(row.rev_nat, key);
        if row.flags & FRONTEND_MAGLEV != 0 {
            self.of_tables.entry(row.maglev).or_default().insert(key);
        }
    }

    fn list(&self, list: ListId) -> impl Iterator<Item = (&SlotKey, &BackendId)> {
        self.slots.range(SlotKey { list, slot: 0 }..=SlotKey { list, slot: u32::MAX })
    }
}

fn removed<R: Resource>(steps: &[Step<R>]) -> impl Iterator<Item = (&R::Key, &R::Row)> {
    steps.iter().filter_map(|step| match step {
        Step::Remove { key, seen } => Some((key, seen)),
        Step::Create { .. } | Step::Update { .. } => None,
    })
}

/// What each row that goes belonged to, as far as it is known.
pub(super) fn belongings(plan: &Plan) -> BTreeMap<RowId, String> {
    let gone = Gone::of(plan);
    let mut named = BTreeMap::new();
    let mut behind: BTreeMap<BackendId, BTreeSet<&FrontendKey>> = BTreeMap::new();
    for (key, id) in &gone.slots {
        let frontend = gone.lists.get(&key.list);
        if let Some(frontend) = frontend {
            behind.entry(*id).or_default().insert(frontend);
        }
        let of = frontend.map(|frontend| format!("of {frontend}"));
        let to = plan.backends.get(id).map(|row| format!("to {row}"));
        named.insert(Slot::id(key), of.into_iter().chain(to).collect::<Vec<_>>().join(" "));
    }
    for id in gone.backends.keys() {
        named.extend(behind.get(id).and_then(of).map(|of| (Backend::id(id), of)));
    }
    for (id, frontends) in &gone.of_tables {
        named.extend(of(frontends).map(|of| (MaglevTable::id(id), of)));
    }
    let way_back = |id: &RevNatId| gone.ways_back.get(id).map(|frontend| format!("of {frontend}"));
    named.extend(gone.rev_nats.iter().filter_map(|id| Some((RevNat::id(id), way_back(id)?))));
    let ranges = gone.ranges.iter();
    named.extend(ranges.filter_map(|key| Some((SourceRange::id(key), way_back(&key.rev_nat)?))));
    named
}

fn of(frontends: &BTreeSet<&FrontendKey>) -> Option<String> {
    let first = frontends.first()?;
    Some(match frontends.len() - 1 {
        0 => format!("of {first}"),
        more => format!("of {first} and {more} more"),
    })
}

/// All that goes with some frontends.
#[derive(Default)]
pub(super) struct Group {
    /// Whose they were; empty: that is not known any more.
    owner: String,
    /// Each with where it led to.
    frontends: Vec<(String, Vec<String>)>,
    backends: Vec<String>,
    /// All rows of it.
    pub(super) rows: BTreeSet<RowId>,
}

/// Frontends that go, by whose they were, with all that goes with them.
pub(super) fn groups(plan: &Plan) -> Vec<Group> {
    let gone = Gone::of(plan);
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    let mut told = BTreeSet::new();
    for (key, (row, why)) in &gone.frontends {
        let owner = why.as_ref().map(ToString::to_string).unwrap_or_default();
        let group = groups.entry(owner.clone()).or_insert_with(|| Group { owner, ..Group::default() });
        group.rows.insert(Frontend::id(key));
        let mut leads = Vec::new();
        for (slot, id) in gone.list(row.list) {
            group.rows.insert(Slot::id(slot));
            leads.push(plan.backends.get(id).map_or_else(|| format!("backend {id}"), ToString::to_string));
            if let Some(backend) = gone.backends.get(id)
                && told.insert(*id)
            {
                group.rows.insert(Backend::id(id));
                group.backends.push(backend.to_string());
            }
        }
        if gone.rev_nats.contains(&row.rev_nat) {
            group.rows.insert(RevNat::id(&row.rev_nat));
        }
        let ranges = gone.ranges.iter().filter(|range| range.rev_nat == row.rev_nat);
        group.rows.extend(ranges.map(SourceRange::id));
        if row.flags & FRONTEND_MAGLEV != 0 && gone.tables.contains(&row.maglev) {
            group.rows.insert(MaglevTable::id(&row.maglev));
        }
        group.frontends.push((format!("{key} [{}]", row.words()), leads));
    }
    groups.into_values().collect()
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let owner = if self.owner.is_empty() { "no longer wanted" } else { &self.owner };
        let (fronts, backends) = (self.frontends.len(), self.backends.len());
        let (fronts, backends) = (count(fronts, "frontend"), count(backends, "backend"));
        writeln!(f, "- {owner}: {fronts}, {backends}, {} in all", count(self.rows.len(), "row"))?;
        for (frontend, leads) in &self.frontends {
            match leads.is_empty() {
                true => writeln!(f, "-   {frontend} to nobody")?,
                false => writeln!(f, "-   {frontend} to {}", leads.join(", "))?,
            }
        }
        for backend in &self.backends {
            writeln!(f, "-   backend {backend}")?;
        }
        Ok(())
    }
}
