//! The order of edits to policy rows: a policy is edited under live traffic, one row at a time, and no
//! row written on the way may let a packet through that neither the old nor the new policy would.
//!
//! A *ladder* is what the lookup climbs for one (policy, direction, peer): the L3 row, and below it rows
//! that count only while the L3 row's `lengths` has their bit ([`cilium_abi::policy::decide`]). So one
//! write of the L3 row switches a whole ladder:
//!
//! ```text
//! 0 prepare   rows nobody can see yet
//! 1 tighten   visible rows that only forbid more
//! 2 tighten   L3 rows that only forbid more          skipped if their ladder has a failure
//! 3 switch    L3 rows that do both                 ┐
//! 4 loosen    L3 rows that only permit more        ├ skipped if their policy has a failure
//! 5 loosen    visible rows that only permit more   ┘
//! …           digest, ipcache, endpoints …
//! 6 close     rows that leave, and whose leaving only forbids   (before the next pod opens)
//! …           endpoint configs, …; then, among the removes:
//! 7 open      rows that leave, and whose leaving permits: deny last out
//! 8 clean     rows nobody can see any more
//! ```
//! In a policy that is not in force yet, and in a direction where the rows for every peer change too, 6
//! and 7 happen at 1, 2 and 5: nothing stale may be there when the policy is switched to, and a peer's
//! stale allow must not outlive a general deny.
//!
//! Relied upon: rows of one ladder have one precedence, unless a redirect is among them; of two ladders
//! that both switch (3) in one plan, at most one answers a packet. The compiler gives the first, and
//! edits within a policy (peers that join and leave) the second.

use crate::driver::Step;
use crate::order::{Gate, Stage};
use crate::plan::{Phase, StepList};
use crate::state::{
    DesiredState, Direction, IdentityId, Kind, ObservedState, Policy, PolicyId, PolicyKey, PolicyRow,
    Protocol, Table, Why,
};
use cilium_abi::policy::{ALLOW, DENY};
use std::collections::{BTreeMap, BTreeSet};

/// Where in the order above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Prepare,
    Tighten,
    TightenL3,
    Switch,
    LoosenL3,
    Loosen,
    Close,
    Open,
    Clean,
    /// Rows of policies nobody wants: no order among them.
    Discard,
}

impl Place {
    fn stage(self) -> Stage {
        let rank = self as u8;
        match self {
            Self::Prepare
            | Self::Tighten
            | Self::TightenL3
            | Self::Switch
            | Self::LoosenL3
            | Self::Loosen => Stage::ensure(Kind::Policy).rank(rank),
            Self::Close => Stage::before(Kind::EndpointConfig),
            Self::Open | Self::Clean | Self::Discard => Stage::remove(Kind::Policy).rank(rank),
        }
    }

    fn gate(self) -> Gate {
        match self {
            Self::Prepare | Self::Tighten | Self::Close | Self::Discard => Gate::Open,
            Self::TightenL3 | Self::Clean => Gate::Narrow,
            Self::Switch | Self::LoosenL3 | Self::Loosen | Self::Open => Gate::Wide,
        }
    }
}

/// What a change of one row does by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Effect {
    tightens: bool,
    loosens: bool,
}

impl Effect {
    fn and(self, other: Self) -> Self {
        Self { tightens: self.tightens || other.tightens, loosens: self.loosens || other.loosens }
    }

    /// Of replacing one row by another. How much a row permits: deny, then none, then a redirect, then
    /// allow; of two that allow, the one of higher precedence; of two that deny, the lower.
    fn of(old: Option<&PolicyRow>, new: Option<&PolicyRow>) -> Self {
        let degree = |row: Option<&PolicyRow>| match row {
            Some(row) if row.verdict == DENY => (0, -i64::from(row.precedence)),
            Some(row) if row.verdict == ALLOW && row.listener != 0 => (2, i64::from(row.precedence)),
            Some(row) if row.verdict == ALLOW => (3, i64::from(row.precedence)),
            Some(_) | None => (1, 0),
        };
        let (before, after) = (degree(old), degree(new));
        // A redirect that goes may uncover a plain allow.
        let uncovers = before.0 == 2 && after.0 == 1;
        Self { tightens: after < before && !uncovers, loosens: after > before || uncovers }
    }
}

type LadderKey = (PolicyId, Direction, IdentityId);

fn ladder_of(key: &PolicyKey) -> LadderKey {
    (key.policy, key.direction, key.identity)
}

fn is_l3(key: &PolicyKey) -> bool {
    key.proto.0 == 0 && key.port_len == 0
}

fn sees(lengths: u32, key: &PolicyKey) -> bool {
    lengths >> u32::from(key.port_len & 31) & 1 == 1
}

/// Whether a policy is wanted, and not known to be in force: its digest does not stand.
pub(crate) fn pending(policy: PolicyId, desired: &DesiredState, observed: &ObservedState) -> bool {
    desired
        .state
        .policy_digests
        .find(&policy)
        .is_some_and(|want| observed.state.policy_digests.find(&policy) != Some(want))
}

#[derive(Default)]
struct Edits {
    l3: Option<(Step<Policy>, Why)>,
    below: Vec<(Step<Policy>, Why)>,
}

/// The edits in phases.
pub(crate) fn phases(
    ensures: Vec<(Step<Policy>, Why)>,
    removes: Vec<Step<Policy>>,
    desired: &DesiredState,
    observed: &ObservedState,
) -> Vec<Phase> {
    let mut ladders: BTreeMap<LadderKey, Edits> = BTreeMap::new();
    let steps = ensures.into_iter().chain(removes.into_iter().map(|step| (step, None)));
    for edit in steps {
        let edits = ladders.entry(ladder_of(edit.0.key())).or_default();
        if is_l3(edit.0.key()) { edits.l3 = Some(edit) } else { edits.below.push(edit) }
    }
    let general: BTreeSet<(PolicyId, Direction)> = ladders
        .keys()
        .filter(|(.., peer)| peer.0 == 0)
        .map(|(policy, direction, _)| (*policy, *direction))
        .collect();

    let mut places: BTreeMap<Place, StepList<Policy>> = BTreeMap::new();
    for ((policy, direction, peer), edits) in ladders {
        let mut put = |place, (step, origin)| places.entry(place).or_default().push(step, origin);
        if desired.state.policy_digests.find(&policy).is_none() {
            // Nobody opens with it, so ensures (there should be none) and removes may come as they are.
            for (step, origin) in edits.l3.into_iter().chain(edits.below) {
                let place = if step.want().is_some() { Place::Prepare } else { Place::Discard };
                put(place, (step, origin));
            }
            continue;
        }
        let ladder = Ladder {
            seen: &observed.state.policies,
            want: &desired.state.policies,
            l3: PolicyKey { policy, direction, identity: peer, proto: Protocol(0), port: 0, port_len: 0 },
            early: pending(policy, desired, observed) || general.contains(&(policy, direction)),
        };
        ladder.place(edits, &mut put);
    }
    places
        .into_iter()
        .map(|(place, steps)| Phase { stage: place.stage(), gate: place.gate(), steps: steps.into() })
        .collect()
}

struct Ladder<'a> {
    seen: &'a Table<Policy>,
    want: &'a Table<Policy>,
    l3: PolicyKey,
    /// Rows that leave go among the ensures.
    early: bool,
}

impl Ladder<'_> {
    fn place(&self, edits: Edits, put: &mut impl FnMut(Place, (Step<Policy>, Why))) {
        let seen = self.seen.find(&self.l3);
        let after = match &edits.l3 {
            Some((step, _)) => step.want(),
            None => seen,
        };
        let (old, new) = (seen.map_or(0, |row| row.lengths), after.map_or(0, |row| row.lengths));
        if let Some((step, origin)) = edits.l3 {
            let effect =
                Effect::of(seen, step.want()).and(self.exposed(new & !old)).and(self.hidden(old & !new));
            put(self.l3_place(&step, effect), (step, origin));
        }
        for (step, origin) in edits.below {
            let place = self.below_place(&step, sees(old, step.key()), sees(new, step.key()));
            put(place, (step, origin));
        }
    }

    fn l3_place(&self, step: &Step<Policy>, effect: Effect) -> Place {
        match (effect.tightens, effect.loosens, step.want().is_some() || self.early) {
            (_, false, true) => Place::TightenL3,
            (true, true, true) => Place::Switch,
            (false, true, true) => Place::LoosenL3,
            (_, false, false) => Place::Close,
            (_, true, false) => Place::Open,
        }
    }

    fn below_place(&self, step: &Step<Policy>, visible: bool, stays_visible: bool) -> Place {
        let effect = Effect::of(step.seen(), step.want());
        let leaves = step.want().is_none();
        match (visible, stays_visible) {
            (false, true) => Place::Prepare,
            (false, false) if leaves => Place::Clean,
            (false, false) => Place::Prepare,
            // An allow may go while it is seen; a deny only once nobody asks it.
            (true, _) if leaves && !effect.loosens => {
                if self.early {
                    Place::Tighten
                } else {
                    Place::Close
                }
            }
            (true, true) if leaves => {
                if self.early {
                    Place::Loosen
                } else {
                    Place::Open
                }
            }
            (true, false) if leaves => Place::Clean,
            (true, true) if !effect.loosens => Place::Tighten,
            (true, true | false) => Place::Loosen,
        }
    }

    /// What rows do that come into sight with these lengths.
    fn exposed(&self, lengths: u32) -> Effect {
        self.below(self.want, lengths)
            .fold(Effect::default(), |sum, row| sum.and(Effect::of(None, Some(row))))
    }

    /// What rows do that go out of sight with these lengths. An allow among them has gone before, if it
    /// goes at all.
    fn hidden(&self, lengths: u32) -> Effect {
        let denies = self.below(self.seen, lengths).filter(|row| row.verdict == DENY || row.listener != 0);
        denies.fold(Effect::default(), |sum, row| sum.and(Effect::of(Some(row), None)))
    }

    fn below<'t>(&self, table: &'t Table<Policy>, lengths: u32) -> impl Iterator<Item = &'t PolicyRow> {
        let first = self.l3;
        let last = PolicyKey { proto: Protocol(u8::MAX), port: u16::MAX, port_len: u8::MAX, ..self.l3 };
        // Nothing to look for is the usual case of rows that stay in sight.
        let range = (lengths != 0).then(|| table.range(first..=last));
        range
            .into_iter()
            .flatten()
            .filter(move |(key, _)| !is_l3(key) && sees(lengths, key))
            .map(|(_, entry)| &entry.row)
    }
}
