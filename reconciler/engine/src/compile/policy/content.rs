//! What the rules that select an endpoint make of it: equal for all endpoints they select together.

use super::ladder::{ADMIN, BASELINE, NORMAL_ALLOW, NORMAL_DENY};
use super::rules::Numbered;
use super::select::some;
use crate::compile::number::ContentHash;
use crate::compile::view::ViewWay;
use crate::config::{Config, Enforcement};
use crate::state::{Cookie, Direction, IdentityId, PolicyId};
use crate::world::{Clause, Labels, PodPort, PolicyRule, Rank, RuleVerdict, Subject, Tier};
use cilium_abi::endpoint::{
    CONFIG_EGRESS_NO_ANY, CONFIG_EGRESS_NO_PEERS, CONFIG_INGRESS_NO_ANY, CONFIG_INGRESS_NO_PEERS,
    CONFIG_OPEN_EGRESS, CONFIG_OPEN_INGRESS,
};
use cilium_abi::identity as number;
use std::sync::Arc;

/// How one direction of an endpoint is subject to policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// Not at all.
    Open,
    /// What no rule denies is allowed.
    Denied,
    /// What no rule allows is denied.
    Closed,
    /// As closed, by a policy: Baseline rules are not asked.
    Isolated,
}

impl Entry<'_> {
    /// Whether ladders of peers are about it: where it is about some, or about ports that each peer has its own of.
    pub(super) fn is_about_some(&self) -> bool {
        some(&self.clause.peers).is_some()
            || self.clause.direction == Direction::Egress && !self.clause.ports.names().is_empty()
    }

    /// Whether the ladder for everyone is about it.
    pub(super) fn is_about_any(&self) -> bool {
        some(&self.clause.peers).is_none()
    }
}

impl Way {
    pub(super) fn is_closed(self) -> bool {
        match self {
            Self::Closed | Self::Isolated => true,
            Self::Open | Self::Denied => false,
        }
    }
}

/// A clause, as a content has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'c> {
    pub(super) clause: &'c Clause,
    pub(super) cookie: Cookie,
    /// Higher wins.
    pub(super) precedence: u32,
}

/// What is in force for an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::compile) struct Enforced {
    /// Whose rows apply; `None`: none, closed where not open.
    pub(in crate::compile) policy: Option<PolicyId>,
    pub(super) ingress: Way,
    pub(super) egress: Way,
    /// `CONFIG_` flags of ladders that the policy never has.
    pub(super) hints: u16,
}

impl Enforced {
    /// The `CONFIG_` flags that say it.
    pub(in crate::compile) fn flags(&self) -> u16 {
        let open = |way, flag| if way == Way::Open { flag } else { 0 };
        open(self.ingress, CONFIG_OPEN_INGRESS) | open(self.egress, CONFIG_OPEN_EGRESS) | self.hints
    }

    /// For display.
    pub(in crate::compile) fn way(&self, direction: Direction) -> ViewWay {
        let way = match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        };
        match way {
            Way::Open => ViewWay::Open,
            Way::Denied => ViewWay::DenyRulesOnly,
            Way::Closed | Way::Isolated => ViewWay::DefaultDeny,
        }
    }
}

/// Rules that select an endpoint, and what they make of it.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) ingress: Way,
    pub(super) egress: Way,
    pub(super) rules: Vec<Arc<Numbered>>,
    /// The endpoint's named ports, those that its rules on ingress name.
    pub(super) ports: Vec<PodPort>,
    /// Of ways, rules and ports; never of who they mean.
    pub(super) hash: ContentHash,
}

impl Content {
    /// Of an endpoint with these labels.
    pub(super) fn of(
        rules: &[Arc<Numbered>],
        identity: IdentityId,
        labels: &Labels,
        ports: &[PodPort],
        config: &Config,
    ) -> Self {
        if config.policy.enforcement == Enforcement::Never {
            return Self::new(Way::Open, Way::Open, Vec::new(), Vec::new());
        }
        let selects = |numbered: &&Arc<Numbered>| match &numbered.rule.subject {
            Subject::Endpoints(selector) => selector.matches(labels),
            Subject::Unreadable => false,
        };
        let rules: Vec<Arc<Numbered>> = rules.iter().filter(selects).cloned().collect();
        // As upstream: an endpoint whose labels are not known yet is closed.
        let always = config.policy.enforcement == Enforcement::Always || identity.0 == number::INIT;
        let way = |direction: Direction| {
            let selecting = || rules.iter().map(|numbered| &*numbered.rule);
            let denies = |rule: &PolicyRule| match direction {
                Direction::Ingress => rule.default_deny.ingress,
                Direction::Egress => rule.default_deny.egress,
            };
            if selecting().any(denies) {
                return Way::Isolated;
            }
            if always {
                return Way::Closed;
            }
            let takes = |rule: &PolicyRule, clause: &Clause| {
                let allows = clause.verdict == RuleVerdict::Allow && rule.rank.tier == Tier::Normal;
                clause.direction == direction && !allows
            };
            let taken = selecting().any(|rule| rule.clauses.iter().any(|clause| takes(rule, clause)));
            if taken { Way::Denied } else { Way::Open }
        };
        let (ingress, egress) = (way(Direction::Ingress), way(Direction::Egress));
        let named = |port: &&PodPort| {
            let clauses = rules.iter().flat_map(|numbered| &numbered.rule.clauses);
            let mut inward = clauses.filter(|clause| clause.direction == Direction::Ingress);
            inward.any(|clause| clause.ports.names().iter().any(|name| name.means(port)))
        };
        let mut ports: Vec<PodPort> = ports.iter().filter(named).cloned().collect();
        ports.sort();
        ports.dedup();
        Self::new(ingress, egress, rules, ports)
    }

    fn new(ingress: Way, egress: Way, rules: Vec<Arc<Numbered>>, ports: Vec<PodPort>) -> Self {
        let ways = if ports.is_empty() {
            format!("{ingress:?} {egress:?}")
        } else {
            format!("{ingress:?} {egress:?} {ports:?}")
        };
        let hashes = rules.iter().map(|numbered| numbered.hash.digest().to_string());
        let hash = ContentHash::of(std::iter::once(ways).chain(hashes));
        Self { ingress, egress, rules, ports, hash }
    }

    /// The `CONFIG_` flags of ladders that it never has, whoever there is: no packet need ask for them.
    pub(super) fn hints(&self) -> u16 {
        let mut hints = 0;
        for (direction, way) in self.ways() {
            let entries = self.entries(direction);
            let about = |of_some: bool| {
                entries.iter().any(|e| if of_some { e.is_about_some() } else { e.is_about_any() })
            };
            let (no_peers, no_any) = match direction {
                Direction::Ingress => (CONFIG_INGRESS_NO_PEERS, CONFIG_INGRESS_NO_ANY),
                Direction::Egress => (CONFIG_EGRESS_NO_PEERS, CONFIG_EGRESS_NO_ANY),
            };
            if !about(true) {
                hints |= no_peers;
            }
            if way.is_closed() && !about(false) {
                hints |= no_any;
            }
        }
        hints
    }

    /// The directions in which there is something to enforce.
    pub(super) fn ways(&self) -> impl Iterator<Item = (Direction, Way)> {
        let ways = [(Direction::Ingress, self.ingress), (Direction::Egress, self.egress)];
        ways.into_iter().filter(|(_, way)| *way != Way::Open)
    }

    /// The clauses that count in a direction, in the order of rules.
    pub(super) fn entries(&self, direction: Direction) -> Vec<Entry<'_>> {
        let way = match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        };
        let all = self.rules.iter().flat_map(|numbered| {
            let clauses = numbered.rule.clauses.iter().zip(numbered.cookies.iter().copied());
            clauses.map(|(clause, cookie)| (numbered.rule.rank, clause, cookie))
        });
        let counts = |rank: &Rank| rank.tier != Tier::Baseline || way != Way::Isolated;
        let all: Vec<_> = all.filter(|(rank, c, _)| c.direction == direction && counts(rank)).collect();
        // Rules stand in the order of their objects' names already, and clauses in that of their places.
        let mut order: Vec<usize> = (0..all.len()).filter(|n| all[*n].0.tier != Tier::Normal).collect();
        order.sort_by_key(|n| all[*n].0);
        let mut precedences: Vec<u32> = all
            .iter()
            .map(
                |(_, clause, _)| if clause.verdict == RuleVerdict::Deny { NORMAL_DENY } else { NORMAL_ALLOW },
            )
            .collect();
        for (after, n) in (0..).zip(order.into_iter().rev()) {
            let tier = if all[n].0.tier == Tier::Admin { ADMIN } else { BASELINE };
            precedences[n] = tier + after;
        }
        let entry = |((_, clause, cookie), precedence)| Entry { clause, cookie, precedence };
        all.into_iter().zip(precedences).map(entry).collect()
    }

    /// Whether both are of the very same rules, also in what the hash leaves out.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.hash == other.hash
            && self.rules.len() == other.rules.len()
            && self.rules.iter().zip(&other.rules).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}
