//! What one peer may do in one direction, as the rows the kernel climbs (`cilium_abi::policy`).
//!
//! The kernel takes the longest port prefix. So that deny wins whatever the lengths, an allow that a
//! broader or equal deny covers is left out; a deny within a broader allow is longer, and wins as it is.

use super::portprefix::{PortPrefix, prefixes};
use crate::state::{Cookie, Protocol};
use crate::world::{PortSet, RuleVerdict};
use cilium_abi::policy::{ALLOW, DENY, NONE};
use std::collections::BTreeMap;

/// One clause that is about the peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rung<'w> {
    /// Verdict.
    pub(super) verdict: RuleVerdict,
    /// On which ports.
    pub(super) ports: &'w PortSet,
    /// The clause's number.
    pub(super) cookie: Cookie,
}

/// A verdict and the clause it comes from.
type Decision = (RuleVerdict, Cookie);

/// All clauses about one peer in one direction, settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ladder {
    all: Option<Decision>,
    ports: BTreeMap<(Protocol, PortPrefix), Decision>,
}

/// A row of a ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LadderRow {
    pub(super) proto: Protocol,
    pub(super) prefix: PortPrefix,
    pub(super) verdict: u8,
    pub(super) lengths: u32,
    pub(super) cookie: Cookie,
}

impl Ladder {
    /// Settles the clauses, earlier ones first where several say the same. `above` is the ladder for any
    /// peer: what it denies need not be allowed here.
    pub(super) fn build(rungs: &[Rung<'_>], above: Option<&Ladder>) -> Self {
        let mut ladder = Self::default();
        for pass in [RuleVerdict::Deny, RuleVerdict::Allow] {
            for rung in rungs.iter().filter(|rung| rung.verdict == pass) {
                ladder.add(rung, above);
            }
        }
        ladder
    }

    fn add(&mut self, rung: &Rung<'_>, above: Option<&Ladder>) {
        let decision = (rung.verdict, rung.cookie);
        let denied = |ladder: &Self, at| rung.verdict == RuleVerdict::Allow && ladder.denies(at);
        match rung.ports {
            PortSet::Any => {
                if !denied(self, None) && above.is_none_or(|a| !denied(a, None)) {
                    self.all.get_or_insert(decision);
                }
            }
            PortSet::Of(matches) => {
                for m in matches {
                    for prefix in prefixes(m.first, m.last) {
                        let at = Some((m.proto, prefix));
                        if !denied(self, at) && above.is_none_or(|a| !denied(a, at)) {
                            self.ports.entry((m.proto, prefix)).or_insert(decision);
                        }
                    }
                }
            }
        }
    }

    /// Whether everything there (`None`: at all) is denied by one row.
    fn denies(&self, at: Option<(Protocol, PortPrefix)>) -> bool {
        let deny = |decision: Option<&Decision>| decision.is_some_and(|(v, _)| *v == RuleVerdict::Deny);
        deny(self.all.as_ref())
            || at.is_some_and(|(proto, prefix)| {
                (0..=prefix.len).any(|len| deny(self.ports.get(&(proto, prefix.cut(len)))))
            })
    }

    /// The rows, the L3 row first; none if nothing is said.
    pub(super) fn rows(&self) -> Vec<LadderRow> {
        let first = self.all.iter().chain(self.ports.values()).next();
        let Some((_, first_cookie)) = first else { return Vec::new() };
        let lengths = self.ports.keys().fold(0, |bits, (_, prefix)| bits | 1 << prefix.len);
        let (verdict, cookie) = match self.all {
            Some((verdict, cookie)) => (number(verdict), cookie),
            None => (NONE, *first_cookie),
        };
        let l3 = LadderRow {
            proto: Protocol(0),
            prefix: PortPrefix { port: 0, len: 0 },
            verdict,
            lengths,
            cookie,
        };
        let ports = self.ports.iter().map(|((proto, prefix), (verdict, cookie))| LadderRow {
            proto: *proto,
            prefix: *prefix,
            verdict: number(*verdict),
            lengths: 0,
            cookie: *cookie,
        });
        std::iter::once(l3).chain(ports).collect()
    }
}

fn number(verdict: RuleVerdict) -> u8 {
    match verdict {
        RuleVerdict::Allow => ALLOW,
        RuleVerdict::Deny => DENY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::PortMatch;

    fn tcp(first: u16, last: u16) -> PortSet {
        PortSet::Of(vec![PortMatch { proto: Protocol::TCP, first, last }])
    }

    fn rung(verdict: RuleVerdict, ports: &PortSet, cookie: u32) -> Rung<'_> {
        Rung { verdict, ports, cookie: Cookie(cookie) }
    }

    #[test]
    fn an_allow_within_a_broader_deny_is_left_out() {
        let (wide, narrow) = (tcp(80, 87), tcp(80, 80));
        let ladder =
            Ladder::build(&[rung(RuleVerdict::Allow, &narrow, 1), rung(RuleVerdict::Deny, &wide, 2)], None);
        let rows = ladder.rows();
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].verdict, rows[0].lengths), (NONE, 1 << 13));
        assert_eq!((rows[1].verdict, rows[1].cookie), (DENY, Cookie(2)));
        let all = Ladder::build(
            &[rung(RuleVerdict::Allow, &narrow, 1), rung(RuleVerdict::Deny, &PortSet::Any, 2)],
            None,
        );
        assert_eq!(all.rows().len(), 1);
    }

    #[test]
    fn a_deny_within_a_broader_allow_stays() {
        let (wide, narrow) = (tcp(0, 65_535), tcp(22, 22));
        let ladder =
            Ladder::build(&[rung(RuleVerdict::Allow, &wide, 1), rung(RuleVerdict::Deny, &narrow, 2)], None);
        let rows = ladder.rows();
        assert_eq!(rows[0].lengths, 1 | 1 << 16);
        assert_eq!(rows.len(), 3);
    }
}
