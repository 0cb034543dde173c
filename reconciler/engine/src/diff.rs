//! From what is wanted and what was seen to a plan. Pure; unchanged rows cost one comparison each.
//!
//! ```text
//! compare (every table, merge walk) → block (ensures, down the order) ⇄ hold (removes, up) → stages
//! ```
//! A row is in a plan only if it was looked at in this pass (G2), and goes only if every source it can
//! come from has synced (G7).

use crate::driver::Step;
use crate::ladder;
use crate::order::{Gate, Stage};
use crate::plan::{Phase, Plan, StepList, Steps, Verb, Withheld};
use crate::realise::{new_needs, still_needs};
use crate::state::{
    BackendId, BackendRow, CoverageOf, Covered, DesiredState, Kind, ObservedState, Policy, PolicyKey,
    Resource, RowId, Source, SourceSet, Table, TableOf, Why,
};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// How the rows of one kind differ.
pub(crate) struct Difference<'a, R: Resource> {
    /// Creates and updates.
    pub(crate) ensures: Vec<(Step<R>, Why)>,
    /// Removals.
    pub(crate) removes: Vec<Step<R>>,
    /// Rows that stay although they are not wanted as they are.
    kept: Vec<Kept<'a, R>>,
    /// Rows that must wait.
    withheld: Vec<(R::Key, Withheld)>,
}

/// A row that stays although it is not wanted as it is.
struct Kept<'a, R: Resource> {
    key: &'a R::Key,
    seen: &'a R::Row,
    want: Option<&'a R::Row>,
}

impl<R: Resource> Difference<'_, R> {
    fn none() -> Self {
        Self { ensures: Vec::new(), removes: Vec::new(), kept: Vec::new(), withheld: Vec::new() }
    }
}

impl<'a, R: Resource> Difference<'a, R> {
    /// Compares two tables as far as the one was read.
    fn of(want: &'a Table<R>, seen: &'a Table<R>, covered: &Covered<R>, synced: SourceSet) -> Self {
        let mut out = Self::none();
        match covered {
            Covered::Unread(_) => {}
            Covered::Keys(keys) => {
                for key in keys {
                    // The table's own key lives as long as the table; the scope's does not.
                    let seen = seen.range(key..=key).next();
                    match want.range(key..=key).next() {
                        Some((key, entry)) => {
                            out.row(key, Some((&entry.row, &entry.why)), seen.map(|(_, e)| &e.row), synced);
                        }
                        None => {
                            if let Some((key, entry)) = seen {
                                out.row(key, None, Some(&entry.row), synced);
                            }
                        }
                    }
                }
            }
            Covered::All => {
                let (mut want, mut seen) = (want.iter().peekable(), seen.iter().peekable());
                loop {
                    let side = match (want.peek(), seen.peek()) {
                        (None, None) => break,
                        (Some(_), None) => Ordering::Less,
                        (None, Some(_)) => Ordering::Greater,
                        (Some((w, _)), Some((s, _))) => w.cmp(s),
                    };
                    let w = if side.is_le() { want.next() } else { None };
                    let s = if side.is_ge() { seen.next() } else { None };
                    if let Some((key, _)) = w.or(s) {
                        out.row(key, w.map(|(_, e)| (&e.row, &e.why)), s.map(|(_, e)| &e.row), synced);
                    }
                }
            }
        }
        out
    }

    fn row(
        &mut self,
        key: &'a R::Key,
        want: Option<(&'a R::Row, &Why)>,
        seen: Option<&'a R::Row>,
        synced: SourceSet,
    ) {
        match (want, seen) {
            (Some((want, _)), Some(seen)) if R::satisfied(want, seen) => {}
            (Some((want, why)), seen) => {
                let missing = synced.lacking(R::settled_by(key, want));
                let step = match seen {
                    None => Step::Create { key: key.clone(), row: want.clone() },
                    Some(seen) => Step::Update { key: key.clone(), row: want.clone(), seen: seen.clone() },
                };
                if missing.is_empty() {
                    self.ensures.push((step, why.clone()));
                } else {
                    self.withhold(&step, unsynced(&missing));
                    if let Some(seen) = seen {
                        self.kept.push(Kept { key, seen, want: Some(want) });
                    }
                }
            }
            (None, Some(seen)) if !R::is_ours(seen) => {}
            (None, Some(seen)) => {
                let missing = synced.lacking(R::sources(key, seen));
                let step = Step::Remove { key: key.clone(), seen: seen.clone() };
                if missing.is_empty() {
                    self.removes.push(step);
                } else {
                    self.withhold(&step, unsynced(&missing));
                    self.kept.push(Kept { key, seen, want: None });
                }
            }
            (None, None) => {}
        }
    }

    fn withhold(&mut self, step: &Step<R>, because: String) {
        let row = Withheld { id: R::id(step.key()), verb: step.verb(), because };
        self.withheld.push((step.key().clone(), row));
    }
}

fn unsynced(missing: &[Source]) -> String {
    let names: Vec<&str> = missing.iter().map(|s| s.name()).collect();
    format!("not yet synced: {}", names.join(", "))
}

/// What may not be removed, since something that stays may still need it.
#[derive(Default)]
struct Holds {
    /// By kinds that could not be read.
    kinds: BTreeMap<Kind, Kind>,
    /// By rows that stay.
    rows: HashMap<RowId, RowId>,
}

impl Holds {
    fn reason<R: Resource>(&self, key: &R::Key) -> Option<String> {
        if let Some(unread) = self.kinds.get(&R::KIND) {
            return Some(format!("{unread} rows, which may need it, were not read"));
        }
        if self.rows.is_empty() {
            return None;
        }
        let by = std::iter::once(R::id(key)).chain(R::groups(key)).find_map(|id| self.rows.get(&id))?;
        Some(format!("still required by {by}"))
    }

    fn need<R: Resource>(&mut self, key: &R::Key, seen: &R::Row, want: Option<&R::Row>) {
        for id in still_needs::<R>(key, seen, want) {
            self.rows.entry(id).or_insert_with(|| R::id(key));
        }
    }

    /// Withholds removals of rows that are needed, and notes what the rows that stay need.
    fn apply<R: Resource>(&mut self, d: &mut Difference<'_, R>, covered: &Covered<R>) {
        if covered.is_unread() {
            self.kinds.extend(R::NEEDS.iter().map(|kind| (*kind, R::KIND)));
            return;
        }
        if !R::NEEDS.is_empty() {
            for row in &d.kept {
                self.need::<R>(row.key, row.seen, row.want);
            }
        }
        if self.kinds.is_empty() && self.rows.is_empty() {
            return;
        }
        for step in std::mem::take(&mut d.removes) {
            match (self.reason::<R>(step.key()), &step) {
                (Some(because), Step::Remove { key, seen }) => {
                    self.need::<R>(key, seen, None);
                    d.withhold(&step, because);
                }
                (Some(_) | None, _) => d.removes.push(step),
            }
        }
    }
}

/// What cannot be relied upon when rows are written.
#[derive(Default)]
struct Blocks {
    unread: BTreeSet<Kind>,
    rows: HashSet<RowId>,
}

impl Blocks {
    /// Withholds rows that would lead to what cannot be relied upon; an old row that stays for it goes on
    /// needing what it needs.
    fn apply<R: Resource>(&mut self, d: &mut Difference<'_, R>, holds: &mut Holds) {
        for (key, row) in d.withheld.iter().filter(|(_, row)| row.verb != Verb::Remove) {
            self.rows.insert(row.id.clone());
            self.rows.extend(R::groups(key));
        }
        let unread = R::NEEDS.iter().any(|kind| self.unread.contains(kind));
        if R::NEEDS.is_empty() || (!unread && self.rows.is_empty()) {
            return;
        }
        for (step, why) in std::mem::take(&mut d.ensures) {
            let because = new_needs(&step).into_iter().find_map(|id| {
                if self.unread.contains(&id.kind) {
                    Some(format!("requires {id}, and {} rows were not read", id.kind))
                } else if self.rows.contains(&id) {
                    Some(format!("requires {id}, which must wait"))
                } else {
                    None
                }
            });
            let Some(because) = because else {
                d.ensures.push((step, why));
                continue;
            };
            if let Some(seen) = step.seen() {
                holds.need::<R>(step.key(), seen, step.want());
            }
            let serves = matches!(&step, Step::Update { row, seen, .. } if R::serves(row, seen));
            if !serves {
                self.rows.insert(R::id(step.key()));
                self.rows.extend(R::groups(step.key()));
            }
            d.withhold(&step, because);
        }
    }
}

fn stages<R: Resource>(d: Difference<'_, R>, plan: &mut Plan)
where
    Steps: From<StepList<R>>,
{
    plan.withheld.extend(d.withheld.into_iter().map(|(_, row)| row));
    let mut phase = |stage, list: StepList<R>| {
        if !list.steps.is_empty() {
            plan.phases.push(Phase { stage, gate: Gate::Open, steps: list.into() });
        }
    };
    let (steps, whys) = d.ensures.into_iter().unzip();
    phase(Stage::ensure(R::KIND), StepList { steps, whys });
    let whys = vec![None; d.removes.len()];
    phase(Stage::remove(R::KIND), StepList { steps: d.removes, whys });
}

macro_rules! diff {
    ($(($field:ident, $resource:ident)),* $(,)?) => {
        struct Differences<'a> {
            $($field: Difference<'a, crate::state::$resource>,)*
        }

        impl<'a> Differences<'a> {
            fn of(desired: &'a DesiredState, observed: &'a ObservedState) -> Self {
                Self {
                    $($field: Difference::of(
                        desired.state.table(), observed.state.table(), observed.coverage.covered(), desired.synced,
                    ),)*
                }
            }

            fn any_removes(&self) -> bool {
                $(!self.$field.removes.is_empty() ||)* false
            }

            fn hold(&mut self, kind: Kind, holds: &mut Holds, observed: &ObservedState) {
                match kind {
                    $(Kind::$resource => holds.apply(&mut self.$field, observed.coverage.covered()),)*
                }
            }

            fn block(&mut self, blocks: &mut Blocks, holds: &mut Holds) {
                $(blocks.apply(&mut self.$field, holds);)*
            }

            fn into_plan(self) -> Plan {
                let mut plan = Plan::default();
                $(stages(self.$field, &mut plan);)*
                plan
            }
        }
    };
}
crate::for_each_resource!(diff);

/// What is to be done so that what is seen becomes what is wanted.
pub fn diff(desired: &DesiredState, observed: &ObservedState) -> Plan {
    let mut differences = Differences::of(desired, observed);
    let unread = observed.coverage.unread();
    let mut blocks = Blocks { unread: unread.iter().map(|(kind, _)| *kind).collect(), ..Blocks::default() };
    let mut holds = Holds::default();
    // What waits makes more wait, in both directions; once a round adds nothing, that is all.
    loop {
        differences.block(&mut blocks, &mut holds);
        if differences.any_removes() {
            for kind in Kind::ALL.iter().rev() {
                differences.hold(*kind, &mut holds, observed);
            }
        }
        let known = blocks.rows.len();
        blocks.rows.extend(unclean(&differences.policies.withheld, desired, observed));
        if blocks.rows.len() == known {
            break;
        }
    }

    let policies = std::mem::replace(&mut differences.policies, Difference::none());
    let withheld = policies.withheld.into_iter().map(|(_, row)| row);
    let edits = ladder::phases(policies.ensures, policies.removes, desired, observed);
    let mut plan = differences.into_plan();
    plan.withheld.extend(withheld);
    plan.withheld.sort();
    plan.phases.extend(edits);
    plan.phases.sort_by_key(|phase| phase.stage);
    plan.unread = unread.into_iter().map(|(kind, why)| (kind, why.clone())).collect();
    plan.backends = behind(&plan, desired, observed);
    plan
}

/// Where slots that go lead to.
fn behind(plan: &Plan, desired: &DesiredState, observed: &ObservedState) -> BTreeMap<BackendId, BackendRow> {
    let mut backends = BTreeMap::new();
    for phase in &plan.phases {
        let Steps::Slot(list) = &phase.steps else { continue };
        for step in &list.steps {
            let Step::Remove { seen, .. } = step else { continue };
            let found = [&observed.state, &desired.state].into_iter().find_map(|s| s.backends.find(seen));
            backends.extend(found.map(|row| (*seen, row.clone())));
        }
    }
    backends
}

/// Policies wanted but not yet in force that hold rows which cannot be removed now: nothing may switch
/// to them.
fn unclean(
    withheld: &[(PolicyKey, Withheld)],
    desired: &DesiredState,
    observed: &ObservedState,
) -> BTreeSet<RowId> {
    let stale = withheld.iter().filter(|(_, w)| w.verb == Verb::Remove).map(|(key, _)| key.policy);
    let ids: BTreeSet<_> = stale.collect();
    ids.into_iter().filter(|id| ladder::pending(*id, desired, observed)).map(Policy::rows_of).collect()
}
