//! From a content to rows: a ladder for every peer that some clause is about.

use super::content::{Content, Way};
use super::ladder::{Ladder, LadderRow, Rung};
use super::rules::Numbered;
use super::select::{Chooser, Peers, some};
use crate::state::{Cookie, Direction, IdentityId, PolicyId, PolicyKey, PolicyRow};
use crate::world::{Clause, PortSet, RuleVerdict};
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

/// Clauses of a content in one direction with their numbers, in order.
fn clauses(content: &Content, direction: Direction) -> impl Iterator<Item = (&Clause, Cookie)> {
    let all = content.rules.iter().flat_map(|numbered| {
        let Numbered { rule, cookies, .. } = &**numbered;
        rule.clauses.iter().zip(cookies.iter().copied())
    });
    all.filter(move |(clause, _)| clause.direction == direction)
}

fn rung(clause: &Clause, cookie: Cookie) -> Rung<'_> {
    Rung { verdict: clause.verdict, ports: &clause.ports, cookie }
}

/// The ladder for everyone.
fn anyone(content: &Content, direction: Direction, way: Way) -> Ladder {
    let everyone = clauses(content, direction).filter(|(clause, _)| some(&clause.peers).is_none());
    let mut any: Vec<Rung<'_>> = everyone.map(|(clause, cookie)| rung(clause, cookie)).collect();
    if way == Way::Denied {
        any.push(Rung { verdict: RuleVerdict::Allow, ports: &PortSet::Any, cookie: Cookie(0) });
    }
    Ladder::build(&any, None)
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
        let (listener, precedence) = (0, 0);
        let row = PolicyRow {
            verdict: row.verdict,
            listener,
            lengths: row.lengths,
            precedence,
            cookie: row.cookie,
        };
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
            let anyone = anyone(content, direction, way);
            put(&mut batch, policy, direction, IdentityId(0), &anyone.rows());
            let mut rungs: Vec<Rung<'_>> = Vec::new();
            let mut about: BTreeMap<IdentityId, Vec<u32>> = BTreeMap::new();
            for (clause, cookie) in clauses(content, direction) {
                let chosen = self.chosen.entry(cookie);
                let peers = chosen.or_insert_with(|| self.chooser.peers(&clause.peers)).clone();
                let Peers::Of(ids) = peers else { continue };
                let number = u32::try_from(rungs.len()).expect("fewer than 2^32 clauses fit in memory");
                rungs.push(rung(clause, cookie));
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
                        Ladder::build(&chosen, Some(&anyone)).rows().into()
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
        for (direction, way) in content.ways() {
            let mut above = None;
            for id in peers {
                let about = clauses(content, direction)
                    .filter(|(clause, _)| some(&clause.peers).is_some_and(|p| self.chooser.is_about(p, *id)));
                let rungs: Vec<Rung<'_>> = about.map(|(clause, cookie)| rung(clause, cookie)).collect();
                if rungs.is_empty() {
                    continue;
                }
                let anyone = above.get_or_insert_with(|| anyone(content, direction, way));
                put(&mut batch, policy, direction, *id, &Ladder::build(&rungs, Some(anyone)).rows());
            }
        }
        batch
    }
}
