//! What one peer may do in one direction, as the rows the kernel climbs (`cilium_abi::policy`).
//!
//! The kernel takes the longest port prefix of a ladder. So each row says what all clauses together say about its
//! prefix, and those that say no other than what is around them are left out.

use super::portprefix::{PortPrefix, prefixes};
use crate::state::{Cookie, Protocol};
use crate::world::{PodPort, PortMatch, PortSet, RuleVerdict};
use cilium_abi::policy::{ALLOW, DENY, NONE, UNALLOWED};
use std::collections::BTreeMap;

/// One clause that is about the peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rung<'w> {
    /// Verdict.
    pub(super) verdict: RuleVerdict,
    /// Higher wins.
    pub(super) precedence: u32,
    /// On which ports.
    pub(super) ports: &'w PortSet,
    /// The named ports of the pod that packets are for.
    pub(super) at: &'w [PodPort],
    /// The clause's number.
    pub(super) cookie: Cookie,
}

/// Precedence of what no clause says anything about, where that is allowed.
pub(super) const REST: u32 = 0;
/// Precedences of Baseline clauses: from here, the last of them first.
pub(super) const BASELINE: u32 = 1;
/// Precedence of clauses without a rank that allow.
pub(super) const NORMAL_ALLOW: u32 = 1 << 24;
/// Precedence of clauses without a rank that deny.
pub(super) const NORMAL_DENY: u32 = NORMAL_ALLOW + 1;
/// Precedences of Admin clauses: from here, the last of them first.
pub(super) const ADMIN: u32 = NORMAL_DENY + 1;
/// Added to those of a ladder that stands for all clauses: no other ladder counts beside it.
const ALONE: u32 = 1 << 31;

/// Where in a ladder: at all, or a protocol's ports.
type At = Option<(Protocol, PortPrefix)>;

/// Who has the say about something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Say {
    verdict: RuleVerdict,
    precedence: u32,
    cookie: Cookie,
}

/// What is said of exactly one place: the highest of each tier, the first tier first; last what holds where no
/// clause says anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cell([Option<Say>; 4]);

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Decision {
    verdict: u8,
    precedence: u32,
    cookie: Cookie,
}

/// All clauses about one peer in one direction, settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ladder {
    all: Cell,
    ports: BTreeMap<(Protocol, PortPrefix), Cell>,
}

/// A row of a ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LadderRow {
    pub(super) proto: Protocol,
    pub(super) prefix: PortPrefix,
    pub(super) verdict: u8,
    pub(super) lengths: u32,
    pub(super) precedence: u32,
    pub(super) cookie: Cookie,
}

/// What else is in force beside a ladder.
#[derive(Clone, Copy, Debug)]
pub(super) enum Beside<'l> {
    /// The ladder for any peer: what that says with a higher precedence need not be said.
    Any(&'l Ladder),
    /// Nothing: all clauses are in this one, those about any peer too.
    Nothing,
}

/// The highest of two; of equals the first.
fn higher(first: Option<Say>, second: Option<Say>) -> Option<Say> {
    match (first, second) {
        (Some(a), Some(b)) if b.precedence > a.precedence => Some(b),
        (Some(a), _) => Some(a),
        (None, b) => b,
    }
}

impl Cell {
    fn add(&mut self, say: Say) {
        let of = match say.precedence {
            ADMIN.. => 0,
            NORMAL_ALLOW.. => 1,
            BASELINE.. => 2,
            _ => 3,
        };
        self.0[of] = higher(self.0[of], Some(say));
    }

    fn join(self, wider: Self) -> Self {
        let mut joined = self;
        joined.0.iter_mut().zip(wider.0).for_each(|(own, wider)| *own = higher(*own, wider));
        joined
    }

    /// The first tier that does not pass on decides.
    fn decision(self) -> Option<Decision> {
        let decided =
            |say: Say, verdict| Decision { verdict, precedence: say.precedence, cookie: say.cookie };
        let mut passed = None;
        for say in self.0.into_iter().flatten() {
            match say.verdict {
                RuleVerdict::Allow => return Some(decided(say, ALLOW)),
                RuleVerdict::Deny => return Some(decided(say, DENY)),
                RuleVerdict::Pass => passed = passed.or(Some(decided(say, UNALLOWED))),
            }
        }
        passed
    }
}

impl Ladder {
    /// Settles the clauses, earlier ones first where several say the same.
    pub(super) fn build<'w>(rungs: impl IntoIterator<Item = Rung<'w>>) -> Self {
        let mut ladder = Self::default();
        for rung in rungs {
            let Rung { verdict, precedence, ports, at, cookie } = rung;
            let say = Say { verdict, precedence, cookie };
            match ports {
                PortSet::Any => ladder.all.add(say),
                PortSet::Of(matches) => ladder.add(matches.iter().copied(), say),
                PortSet::Named(matches, names) => {
                    let meant = at.iter().filter(|port| names.iter().any(|name| name.means(port)));
                    let meant = meant.map(|p| PortMatch { proto: p.proto, first: p.port, last: p.port });
                    ladder.add(matches.iter().copied().chain(meant), say);
                }
            }
        }
        ladder
    }

    fn add(&mut self, matches: impl Iterator<Item = PortMatch>, say: Say) {
        for PortMatch { proto, first, last } in matches {
            for prefix in prefixes(first, last) {
                self.ports.entry((proto, prefix)).or_default().add(say);
            }
        }
    }

    /// All that is said about a place: by its own cell, and by those around it, the nearest first.
    fn cell(&self, at: At) -> Cell {
        let Some((proto, prefix)) = at else { return self.all };
        let around = (0..=prefix.len).rev().filter_map(|len| self.ports.get(&(proto, prefix.cut(len))));
        around.fold(Cell::default(), |cell, wider| cell.join(*wider)).join(self.all)
    }

    fn decision(&self, at: At) -> Option<Decision> {
        self.cell(at).decision()
    }

    /// What is decided around a place, where something is.
    fn around(&self, (proto, prefix): (Protocol, PortPrefix)) -> Option<Decision> {
        let wider = (0..prefix.len).rev().map(|len| (proto, prefix.cut(len)));
        let nearest = wider.into_iter().find(|at| self.ports.contains_key(at));
        self.decision(nearest)
    }

    /// The rows, the L3 row first; none if nothing is said.
    pub(super) fn rows(&self, beside: Option<Beside<'_>>) -> Vec<LadderRow> {
        let counts = |at: At, decision: &Decision| match beside {
            Some(Beside::Any(any)) => any.decision(at).is_none_or(|d| d.precedence <= decision.precedence),
            Some(Beside::Nothing) | None => true,
        };
        let more = if let Some(Beside::Nothing) = beside { ALONE } else { 0 };
        let all = self.decision(None).filter(|decision| counts(None, decision));
        let mut below = Vec::new();
        for (proto, prefix) in self.ports.keys() {
            let at = (*proto, *prefix);
            let Some(decision) = self.decision(Some(at)) else { continue };
            if self.around(at) != Some(decision) && counts(Some(at), &decision) {
                below.push((at, decision));
            }
        }
        let Some(first) = all.or(below.first().map(|(_, decision)| *decision)) else { return Vec::new() };
        let l3 = LadderRow {
            proto: Protocol(0),
            prefix: PortPrefix { port: 0, len: 0 },
            verdict: all.map_or(NONE, |decision| decision.verdict),
            lengths: below.iter().fold(0, |bits, ((_, prefix), _)| bits | 1 << prefix.len),
            precedence: all.map_or(0, |decision| decision.precedence + more),
            cookie: first.cookie,
        };
        let ports = below.iter().map(|((proto, prefix), decision)| LadderRow {
            proto: *proto,
            prefix: *prefix,
            verdict: decision.verdict,
            lengths: 0,
            precedence: decision.precedence + more,
            cookie: decision.cookie,
        });
        std::iter::once(l3).chain(ports).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(first: u16, last: u16) -> PortSet {
        PortSet::Of(vec![PortMatch { proto: Protocol::TCP, first, last }])
    }

    fn rung(verdict: RuleVerdict, ports: &PortSet, cookie: u32) -> Rung<'_> {
        let precedence = if verdict == RuleVerdict::Deny { NORMAL_DENY } else { NORMAL_ALLOW };
        Rung { verdict, precedence, ports, at: &[], cookie: Cookie(cookie) }
    }

    #[test]
    fn an_allow_within_a_broader_deny_is_left_out() {
        let (wide, narrow) = (tcp(80, 87), tcp(80, 80));
        let ladder = Ladder::build([rung(RuleVerdict::Allow, &narrow, 1), rung(RuleVerdict::Deny, &wide, 2)]);
        let rows = ladder.rows(None);
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].verdict, rows[0].lengths), (NONE, 1 << 13));
        assert_eq!((rows[1].verdict, rows[1].cookie), (DENY, Cookie(2)));
        let all =
            Ladder::build([rung(RuleVerdict::Allow, &narrow, 1), rung(RuleVerdict::Deny, &PortSet::Any, 2)]);
        assert_eq!(all.rows(None).len(), 1);
    }

    #[test]
    fn a_deny_within_a_broader_allow_stays() {
        let (wide, narrow) = (tcp(0, 65_535), tcp(22, 22));
        let ladder = Ladder::build([rung(RuleVerdict::Allow, &wide, 1), rung(RuleVerdict::Deny, &narrow, 2)]);
        let rows = ladder.rows(None);
        assert_eq!(rows[0].lengths, 1 | 1 << 16);
        assert_eq!(rows.len(), 3);
    }

    #[test]
    fn what_is_passed_on_is_decided_by_the_rest() {
        let (web, wide) = (tcp(80, 80), tcp(0, 65_535));
        let admin = |verdict, ports, n| {
            let precedence = ADMIN + n;
            Rung { verdict, precedence, ports, at: &[], cookie: Cookie(n) }
        };
        let ladder = Ladder::build([
            admin(RuleVerdict::Pass, &web, 2),
            admin(RuleVerdict::Allow, &wide, 1),
            rung(RuleVerdict::Deny, &PortSet::Any, 9),
        ]);
        let verdicts: Vec<_> = ladder.rows(None).iter().map(|row| (row.prefix.len, row.verdict)).collect();
        assert_eq!(verdicts, [(0, DENY), (0, ALLOW), (16, DENY)]);
        let unsaid = Ladder::build([admin(RuleVerdict::Pass, &web, 2), admin(RuleVerdict::Allow, &wide, 1)]);
        assert_eq!(unsaid.rows(None)[2].verdict, UNALLOWED);
    }
}
