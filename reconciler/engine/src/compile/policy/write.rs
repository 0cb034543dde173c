//! From a content to rows: a ladder for every peer that some clause is about.

use super::content::{Content, Entry, Way};
use super::ladder::{Beside, Ladder, LadderRow, REST, Rung};
use super::select::{Chooser, Peers, some};
use crate::state::{Cookie, Direction, IdentityId, PolicyId, PolicyKey, PolicyRow};
use crate::world::{PodPort, PortSet, RuleVerdict};
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

/// What a peer's rows follow from: the clauses that are about it, and its named ports where one of them asks for ports.
type Question<'a> = (Vec<u32>, &'a [PodPort]);

/// A clause as a rung, of ladders that are about packets for a pod with these ports.
fn rung<'c>(entry: &Entry<'c>, at: &'c [PodPort]) -> Rung<'c> {
    let Entry { clause, cookie, precedence } = *entry;
    Rung { verdict: clause.verdict, precedence, ports: &clause.ports, at, cookie }
}

/// What a content says in one direction, about everyone and about some.
struct Side<'c> {
    direction: Direction,
    /// The subject's named ports.
    own: &'c [PodPort],
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
        // Towards everyone a name stands for nothing; what it stands for at some is in their ladders.
        let own = if direction == Direction::Ingress { &*content.ports } else { &[] };
        let any = entries.iter().filter(|entry| entry.is_about_any());
        let mut about_any: Vec<Rung<'_>> = any.map(|entry| rung(entry, own)).collect();
        if way == Way::Denied {
            let (verdict, ports) = (RuleVerdict::Allow, &PortSet::Any);
            about_any.push(Rung { verdict, precedence: REST, ports, at: &[], cookie: Cookie(0) });
        }
        let anyone = Ladder::build(about_any.iter().copied());
        let about_some = entries.into_iter().filter(Entry::is_about_some).collect();
        Self { direction, own, about_any, about_some, anyone, passes }
    }

    /// The rows about a peer with these named ports, that these clauses are about.
    fn rows(&self, entries: &[Entry<'c>], peer: &'c [PodPort]) -> Vec<LadderRow> {
        let at = if self.direction == Direction::Ingress { self.own } else { peer };
        let rungs = entries.iter().map(|entry| rung(entry, at));
        match self.passes {
            false => Ladder::build(rungs).rows(Some(Beside::Any(&self.anyone))),
            true => {
                let all = rungs.chain(self.about_any.iter().copied());
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
            let mut about: BTreeMap<IdentityId, Vec<u32>> = BTreeMap::new();
            for (number, entry) in (0..).zip(&side.about_some) {
                let chosen = self.chosen.entry(entry.cookie);
                match chosen.or_insert_with(|| self.chooser.peers(&entry.clause.peers)).clone() {
                    Peers::Of(ids) => ids.iter().for_each(|id| about.entry(*id).or_default().push(number)),
                    Peers::Any => {
                        self.chooser.ports.keys().for_each(|id| about.entry(*id).or_default().push(number));
                    }
                }
            }
            // Most peers have the same clauses as many others: each distinct set is settled once.
            let mut settled: HashMap<Question<'_>, Arc<[LadderRow]>> = HashMap::new();
            for (identity, numbers) in about {
                let named =
                    numbers.iter().any(|n| !side.about_some[*n as usize].clause.ports.names().is_empty());
                let peer = if named { self.chooser.ports_of(identity) } else { &[] };
                let ladder = settled
                    .entry((numbers, peer))
                    .or_insert_with_key(|(numbers, peer)| {
                        let chosen: Vec<Entry<'_>> =
                            numbers.iter().map(|n| side.about_some[*n as usize]).collect();
                        side.rows(&chosen, peer).into()
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
                let ports = self.chooser.ports_of(*id);
                let is_about = |entry: &&Entry<'_>| match some(&entry.clause.peers) {
                    Some(peers) => self.chooser.is_about(peers, *id),
                    None => !ports.is_empty(),
                };
                let entries: Vec<Entry<'_>> = side.about_some.iter().filter(is_about).copied().collect();
                if !entries.is_empty() {
                    put(&mut batch, policy, direction, *id, &side.rows(&entries, ports));
                }
            }
        }
        batch
    }
}
