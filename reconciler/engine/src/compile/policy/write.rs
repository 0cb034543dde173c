//! From a content to rows: a ladder for every peer that some clause is about.

use super::content::{Content, Entry, Way};
use super::ladder::{Beside, Ladder, LadderRow, REST, Rung};
use super::select::{Chooser, Peers, some};
use crate::state::{Cookie, Direction, IdentityId, PolicyId, PolicyKey, PolicyRow};
use crate::world::{PortSet, RuleVerdict};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Rows of a content.
pub(super) type Batch = Vec<(PolicyKey, PolicyRow)>;

/// Turns contents into rows.
pub(super) struct Writer<'a> {
    pub(super) chooser: Chooser<'a>,
    /// What was chosen for a clause, by its number.
    chosen: HashMap<Cookie, Peers>,
}

fn rung<'c>(entry: &Entry<'c>) -> Rung<'c> {
    let Entry { clause, cookie, precedence } = *entry;
    Rung { verdict: clause.verdict, precedence, ports: &clause.ports, cookie }
}

/// What a content says in one direction, about everyone and about some.
struct Side<'c> {
    about_any: Vec<Rung<'c>>,
    about_some: Vec<Entry<'c>>,
    /// The ladder for everyone.
    anyone: Ladder,
    /// Some clause passes on: then who decides depends on all clauses at once, and ladders of peers hold all of them.
    passes: bool,
}

impl<'c> Side<'c> {
    fn of(content: &'c Content, direction: Direction, way: Way) -> Self {
        let entries = content.entries(direction);
        let passes = entries.iter().any(|entry| entry.clause.verdict == RuleVerdict::Pass);
        let (some, any): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| some(&entry.clause.peers).is_some());
        let mut about_any: Vec<Rung<'_>> = any.iter().map(rung).collect();
        if way == Way::Denied {
            let (verdict, ports) = (RuleVerdict::Allow, &PortSet::Any);
            about_any.push(Rung { verdict, precedence: REST, ports, cookie: Cookie(0) });
        }
        let anyone = Ladder::build(about_any.iter().copied());
        Self { about_any, about_some: some, anyone, passes }
    }

    /// The rows about a peer that these clauses are about.
    fn rows(&self, rungs: &[Rung<'c>]) -> Vec<LadderRow> {
        match self.passes {
            false => Ladder::build(rungs.iter().copied()).rows(Some(Beside::Any(&self.anyone))),
            true => {
                let all = rungs.iter().chain(&self.about_any).copied();
                Ladder::build(all).rows(Some(Beside::Nothing))
            }
        }
    }
}

fn put(batch: &mut Batch, policy: PolicyId, direction: Direction, identity: IdentityId, rows: &[LadderRow]) {
    batch.extend(rows.iter().map(|row| {
        let key = PolicyKey {
            policy,
            direction,
            identity,
            proto: row.proto,
            port: row.prefix.port,
            port_len: row.prefix.len,
        };
        let LadderRow { verdict, lengths, precedence, cookie, .. } = *row;
        let row = PolicyRow { verdict, listener: 0, lengths, precedence, cookie };
        (key, row)
    }));
}

impl<'a> Writer<'a> {
    pub(super) fn new(chooser: Chooser<'a>) -> Self {
        Self { chooser, chosen: HashMap::new() }
    }

    /// All rows of a content.
    pub(super) fn all(&mut self, content: &'a Content, policy: PolicyId) -> Batch {
        let mut batch = Batch::new();
        for (direction, way) in content.ways() {
            let side = Side::of(content, direction, way);
            put(&mut batch, policy, direction, IdentityId(0), &side.anyone.rows(None));
            let mut rungs: Vec<Rung<'_>> = Vec::new();
            let mut about: BTreeMap<IdentityId, Vec<u32>> = BTreeMap::new();
            for entry in &side.about_some {
                let chosen = self.chosen.entry(entry.cookie);
                let peers = chosen.or_insert_with(|| self.chooser.peers(&entry.clause.peers)).clone();
                let Peers::Of(ids) = peers else { continue };
                let number = u32::try_from(rungs.len()).expect("fewer than 2^32 clauses fit in memory");
                rungs.push(rung(entry));
                for id in ids.iter() {
                    about.entry(*id).or_default().push(number);
                }
            }
            // Most peers have the same clauses as many others: each distinct set is settled once.
            let mut settled: HashMap<Vec<u32>, Arc<[LadderRow]>> = HashMap::new();
            for (identity, numbers) in about {
                let ladder = settled
                    .entry(numbers)
                    .or_insert_with_key(|numbers| {
                        let chosen: Vec<Rung<'_>> = numbers.iter().map(|n| rungs[*n as usize]).collect();
                        side.rows(&chosen).into()
                    })
                    .clone();
                put(&mut batch, policy, direction, identity, &ladder);
            }
        }
        batch
    }

    /// The rows of a content that are about these peers.
    pub(super) fn about(&self, content: &Content, policy: PolicyId, peers: &[IdentityId]) -> Batch {
        let mut batch = Batch::new();
        if peers.is_empty() {
            return batch;
        }
        for (direction, way) in content.ways() {
            let side = Side::of(content, direction, way);
            for id in peers {
                let is_about = |entry: &&Entry<'_>| {
                    some(&entry.clause.peers).is_some_and(|peers| self.chooser.is_about(peers, *id))
                };
                let rungs: Vec<Rung<'_>> = side.about_some.iter().filter(is_about).map(rung).collect();
                if !rungs.is_empty() {
                    put(&mut batch, policy, direction, *id, &side.rows(&rungs));
                }
            }
        }
        batch
    }
}
