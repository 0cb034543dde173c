//! Maglev tables and their places. A table is never changed where it is: another set of backends is another
//! table beside the old one, and the frontend's row leads from one to the other. Frontends with the same
//! backends share one.

use super::{BackendKey, Stale};
use crate::compile::book::IdBook;
use crate::compile::number::{ContentHash, probe};
use crate::compile::rows::{Edits, error};
use crate::config::Config;
use crate::maglev::{Member, table};
use crate::problem::Problem;
use crate::shared::Shared;
use crate::state::{BackendId, FrontendKey, MaglevRow, MaglevTable, Reason, TableId};
use cilium_abi::lb::FRONTEND_MAGLEV;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Backends with their weights, in the order of addresses and ports.
type Members = Shared<Vec<(Member, BackendId)>>;

/// A table that is wanted.
#[derive(Debug)]
struct Shown {
    members: Members,
    row: MaglevRow,
    users: BTreeMap<FrontendKey, Reason>,
}

/// All that are wanted.
#[derive(Debug, Default)]
pub(super) struct Tables {
    shown: BTreeMap<TableId, Shown>,
    by_members: HashMap<Members, TableId>,
    used: BTreeMap<FrontendKey, TableId>,
    /// Frontends for whose tables there is no room.
    lacking: BTreeMap<FrontendKey, Reason>,
    told: Vec<Shared<Problem>>,
}

/// What the work of one compilation goes by.
struct Making<'a> {
    config: &'a Config,
    book: &'a IdBook,
    /// Tables made so far.
    rows: HashMap<Members, MaglevRow>,
}

impl Making<'_> {
    fn row(&mut self, members: &Members) -> MaglevRow {
        if let Some(row) = self.rows.get(members) {
            return row.clone();
        }
        let maglev = &self.config.load_balancer.maglev;
        let of_table: Vec<Member> = members.iter().map(|(member, _)| *member).collect();
        let places = table(&of_table, maglev.table_size, &maglev.hash_seed);
        let backend = |at: u32| members[usize::try_from(at).expect("a place in a list in memory")].1;
        let row = MaglevRow(places.into_iter().map(backend).collect::<Vec<_>>().into());
        self.rows.insert(members.clone(), row.clone());
        row
    }

    fn stands(&mut self, at: TableId, members: &Members) -> bool {
        let book = self.book;
        book.maglev_tables.find(&at).is_some_and(|seen| *seen == self.row(members))
    }

    /// Where the kernel's row of a frontend leads to.
    fn led(&self, key: &FrontendKey) -> Option<TableId> {
        let row = self.book.frontends.find(key)?;
        (row.flags & FRONTEND_MAGLEV != 0).then_some(row.maglev)
    }
}

impl Tables {
    /// Frontends that would have a table if there were room.
    pub(super) fn lacking(&self) -> impl Iterator<Item = &FrontendKey> {
        self.lacking.keys()
    }

    /// Tables of these frontends, as far as they choose by one and there is room.
    pub(super) fn update(
        &mut self,
        stale: &Stale,
        backends: &HashMap<BackendKey, BackendId>,
        book: &IdBook,
        config: &Config,
        edits: &mut Edits,
    ) -> BTreeMap<FrontendKey, TableId> {
        let mut touched = self.release(stale.keys());
        let mut asked: Vec<(&FrontendKey, Members, &Reason)> = Vec::new();
        for (key, wanted) in stale {
            // One backend is the choice of any table.
            let Some(wanted) = wanted.as_ref().filter(|wanted| wanted.maglev && wanted.chosen.len() > 1)
            else {
                continue;
            };
            let members = wanted.chosen.iter().map(|chosen| {
                let (addr, port, proto, weight) = (chosen.addr, chosen.port, key.proto, chosen.weight);
                (Member { addr, port, proto, weight }, backends[&(addr, port, proto)])
            });
            asked.push((key, members.collect::<Vec<_>>().into(), &wanted.origin));
        }
        let mut making = Making { config, book, rows: HashMap::new() };
        // First those that keep theirs, so that the others join them.
        for (key, members, _) in &asked {
            if !self.by_members.contains_key(members)
                && let Some(at) = making.led(key)
                && !self.shown.contains_key(&at)
                && making.stands(at, members)
            {
                self.show(at, members, making.row(members));
            }
        }
        let fresh: HashSet<&Members> = asked
            .iter()
            .map(|(_, members, _)| members)
            .filter(|m| !self.by_members.contains_key(*m))
            .collect();
        self.place(fresh, &mut making);
        let mut tables = BTreeMap::new();
        for (key, members, origin) in &asked {
            let Some(at) = self.by_members.get(members).copied() else {
                self.lacking.insert((*key).clone(), (*origin).clone());
                continue;
            };
            touched.insert(at);
            self.used.insert((*key).clone(), at);
            if let Some(shown) = self.shown.get_mut(&at) {
                shown.users.insert((*key).clone(), (*origin).clone());
            }
            tables.insert((*key).clone(), at);
        }
        for at in touched {
            match self.shown.get(&at) {
                Some(shown) => {
                    edits.set::<MaglevTable>(at, shown.row.clone(), &shown.users.values().min().cloned());
                }
                None => edits.unset::<MaglevTable>(at),
            }
        }
        self.tell(config, edits);
        tables
    }

    /// Wants nothing any more.
    pub(super) fn end(&mut self, edits: &mut Edits) {
        self.shown.keys().for_each(|at| edits.unset::<MaglevTable>(*at));
        edits.tell(&mut self.told, Vec::new());
    }

    /// These frontends have none; the tables that they had.
    fn release<'k>(&mut self, keys: impl Iterator<Item = &'k FrontendKey>) -> BTreeSet<TableId> {
        let mut touched = BTreeSet::new();
        for key in keys {
            self.lacking.remove(key);
            let Some(at) = self.used.remove(key) else { continue };
            touched.insert(at);
            if let Some(shown) = self.shown.get_mut(&at) {
                shown.users.remove(key);
            }
        }
        for at in &touched {
            if let Some(shown) = self.shown.get(at)
                && shown.users.is_empty()
            {
                self.by_members.remove(&shown.members);
                self.shown.remove(at);
            }
        }
        touched
    }

    fn show(&mut self, at: TableId, members: &Members, row: MaglevRow) {
        self.by_members.insert(members.clone(), at);
        self.shown.insert(at, Shown { members: members.clone(), row, users: BTreeMap::new() });
    }

    /// Finds places for these, in the order of what they are made of; none where a table stands.
    fn place(&mut self, fresh: HashSet<&Members>, making: &mut Making<'_>) {
        if fresh.is_empty() {
            return;
        }
        let stride = making.config.load_balancer.maglev.stride();
        let mut taken: HashSet<u32> = self.shown.keys().map(|at| at.0 / stride).collect();
        for (at, entry) in making.book.maglev_tables.iter() {
            // One of another size, or a part of one, may lie across several.
            let length = u32::try_from(entry.row.0.len()).unwrap_or(u32::MAX).max(1);
            taken.extend(at.0 / stride..=at.0.saturating_add(length - 1) / stride);
        }
        let mut fresh: Vec<(ContentHash, &Members)> =
            fresh.into_iter().map(|members| (hash(members), members)).collect();
        fresh.sort_unstable_by_key(|(hash, _)| *hash);
        for (hash, members) in fresh {
            let count = making.config.bpf.maglev_max;
            let whole = probe(&hash, 0, count, |_| true).map(|first| TableId(first * stride)).filter(|at| {
                // Written by one who was killed before a frontend could lead to it.
                !self.shown.contains_key(at) && making.stands(*at, members)
            });
            let free = || probe(&hash, 0, count, |n| !taken.contains(&n)).map(|n| TableId(n * stride));
            if let Some(at) = whole.or_else(free) {
                taken.insert(at.0 / stride);
                self.show(at, members, making.row(members));
            }
        }
    }

    /// Tells those who lack one.
    fn tell(&mut self, config: &Config, edits: &mut Edits) {
        let who: BTreeSet<&Reason> = self.lacking.values().collect();
        let message = format!(
            "its backends are chosen at random: there is room for {} Maglev tables, and all of it is taken",
            config.bpf.maglev_max,
        );
        let tell = |origin: &&Reason| error(&origin.origin(), message.clone(), "raise bpf.maglev_max");
        let problems = who.iter().map(tell).collect();
        edits.tell(&mut self.told, problems);
    }
}

fn hash(members: &Members) -> ContentHash {
    ContentHash::of(members.iter().map(|(member, id)| {
        format!("{} {} {} {} {id}", member.addr, member.port, member.proto.0, member.weight)
    }))
}
