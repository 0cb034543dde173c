//! Observing and carrying out, over whichever host: the order is the plan's, and nothing is decided
//! here but what a failure keeps back.
//!
//! A failed step never stops a pass. Rows that require a failed row are skipped; a row that an old row
//! still requires, since that could not be updated or removed, is kept. Trying again is the next pass.

use crate::driver::{Driver, DriverError, Host, Scope, Step};
use crate::order::{Gate, Pass};
use crate::plan::{Phase, Plan, StepList, Steps, Verb};
use crate::scope::Scopes;
use crate::state::{Covered, Kind, ObservedState, Resource, RowId, Table};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Carried out.
    Done,
    /// Tried, in vain.
    Failed(DriverError),
    /// Not tried.
    Skipped {
        /// Why.
        because: String,
    },
}

/// What became of every step of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// By row.
    pub outcomes: BTreeMap<RowId, Outcome>,
}

impl Report {
    /// Number of steps carried out.
    pub fn done(&self) -> usize {
        self.count(|o| matches!(o, Outcome::Done))
    }
    /// Number of steps tried in vain.
    pub fn failed(&self) -> usize {
        self.count(|o| matches!(o, Outcome::Failed(_)))
    }
    /// Number of steps not tried.
    pub fn skipped(&self) -> usize {
        self.count(|o| matches!(o, Outcome::Skipped { .. }))
    }
    /// Whether every step was carried out.
    pub fn is_clean(&self) -> bool {
        self.done() == self.outcomes.len()
    }
    fn count(&self, which: impl Fn(&Outcome) -> bool) -> usize {
        self.outcomes.values().filter(|o| which(o)).count()
    }
}

/// Where an apply stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Steps of one kind are about to be handed to its driver.
    Begin {
        /// The kind.
        kind: Kind,
        /// Which half of the pass.
        pass: Pass,
        /// How many steps, those skipped included.
        steps: usize,
    },
    /// They have come back.
    End {
        /// The kind.
        kind: Kind,
        /// Which half of the pass.
        pass: Pass,
        /// How many were carried out.
        done: usize,
        /// How many were tried in vain.
        failed: usize,
        /// How many were not tried.
        skipped: usize,
    },
}

macro_rules! observe {
    ($(($field:ident, $resource:ident)),* $(,)?) => {
        /// Reads what the scopes name. A kind whose driver fails is unread; the others are not touched by it.
        pub fn observe<H: Host>(host: &mut H, scopes: &Scopes) -> ObservedState {
            let mut observed = ObservedState::default();
            $((observed.state.$field, observed.coverage.$field) = read(host, &scopes.$field);)*
            observed
        }

        /// Carries out the steps in order. Rows in `later` are left for another pass, as if they had
        /// failed. `watch` sees every phase begin and end; when it breaks, the rest is skipped.
        pub fn realise<H: Host>(
            plan: &Plan,
            host: &mut H,
            later: &BTreeSet<RowId>,
            watch: &mut impl FnMut(Progress) -> ControlFlow<()>,
        ) -> Report {
            let mut run = Run::new(later);
            for phase in &plan.phases {
                let (kind, pass, before) = (phase.kind(), phase.pass(), run.tally);
                if run.stopped.is_continue() {
                    run.stopped = watch(Progress::Begin { kind, pass, steps: phase.steps.len() });
                }
                match &phase.steps {
                    $(Steps::$resource(list) => run.phase(phase, list, host),)*
                }
                if run.stopped.is_continue() {
                    let [done, failed, skipped] = std::array::from_fn(|i| run.tally[i] - before[i]);
                    run.stopped = watch(Progress::End { kind, pass, done, failed, skipped });
                }
            }
            run.report
        }
    };
}
crate::for_each_resource!(observe);

fn read<R: Resource, H: Driver<R>>(host: &mut H, scope: &Scope<R::Key>) -> (Table<R>, Covered<R>) {
    if let Scope::Keys(keys) = scope
        && keys.is_empty()
    {
        return (Table::default(), Covered::of(scope.clone()));
    }
    match host.observe(scope) {
        Ok(rows) => {
            let covered = Covered::of(scope.clone());
            let rows = rows.into_iter().filter(|(key, _)| covered.knows(key)).collect();
            (rows, covered)
        }
        Err(error) => (Table::default(), Covered::Unread(error)),
    }
}

struct Run<'a> {
    later: &'a BTreeSet<RowId>,
    report: Report,
    /// Done, failed, skipped.
    tally: [usize; 3],
    /// Rows that are not as wanted, and the groups they are members of.
    bad: HashSet<RowId>,
    /// Rows and groups that an old row still requires, with that row.
    held: HashMap<RowId, RowId>,
    stopped: ControlFlow<()>,
}

impl<'a> Run<'a> {
    fn new(later: &'a BTreeSet<RowId>) -> Self {
        Self {
            later,
            report: Report::default(),
            tally: [0; 3],
            bad: HashSet::new(),
            held: HashMap::new(),
            stopped: ControlFlow::Continue(()),
        }
    }

    fn phase<R: Resource, H: Driver<R>>(&mut self, phase: &Phase, list: &StepList<R>, host: &mut H) {
        let steps = &list.steps;
        let mut from = 0;
        // Runs of steps without one to skip go to the driver as they stand.
        while from < steps.len() {
            let skip = (from..steps.len()).find_map(|i| Some((i, self.reason(phase.gate, &steps[i])?)));
            let to = skip.as_ref().map_or(steps.len(), |(i, _)| *i);
            if from < to {
                let mut results = host.apply(&steps[from..to]).into_iter();
                for step in &steps[from..to] {
                    let outcome = match results.next() {
                        Some(Ok(())) => Outcome::Done,
                        Some(Err(error)) => Outcome::Failed(error),
                        None => {
                            Outcome::Failed(DriverError::new(format!("no result for {}", R::id(step.key()))))
                        }
                    };
                    self.note(step, outcome);
                }
            }
            from = to;
            if let Some((_, because)) = skip {
                self.note(&steps[to], Outcome::Skipped { because });
                from = to + 1;
            }
        }
    }

    /// Why a step must not be tried.
    fn reason<R: Resource>(&self, gate: Gate, step: &Step<R>) -> Option<String> {
        if self.stopped.is_break() {
            return Some("the pass was stopped".to_owned());
        }
        if !self.later.is_empty() && self.later.contains(&R::id(step.key())) {
            return Some("failed before, and its next try is not due yet".to_owned());
        }
        if !self.bad.is_empty() {
            if let Some(id) = new_needs(step).into_iter().find(|id| self.bad.contains(id)) {
                return Some(format!("requires {id}, which is not as wanted"));
            }
            if let Some(id) = self.gated::<R>(gate, step.key()) {
                return Some(format!("must not go ahead of {id}, which is not as wanted"));
            }
        }
        if step.verb() == Verb::Remove && !self.held.is_empty() {
            let names = std::iter::once(R::id(step.key())).chain(R::groups(step.key()));
            if let Some(by) = names.into_iter().find_map(|id| self.held.get(&id)) {
                return Some(format!("still required by {by}, which could not be changed"));
            }
        }
        None
    }

    fn gated<R: Resource>(&self, gate: Gate, key: &R::Key) -> Option<RowId> {
        let groups = match gate {
            Gate::Open => return None,
            Gate::Narrow | Gate::Wide => R::groups(key),
        };
        let count = if gate == Gate::Narrow { 1 } else { groups.len().saturating_sub(1) };
        groups.into_iter().take(count).find(|id| self.bad.contains(id))
    }

    fn note<R: Resource>(&mut self, step: &Step<R>, outcome: Outcome) {
        let slot = match outcome {
            Outcome::Done => 0,
            Outcome::Failed(_) => 1,
            Outcome::Skipped { .. } => 2,
        };
        self.tally[slot] += 1;
        let id = R::id(step.key());
        if outcome != Outcome::Done {
            let serves = matches!(step, Step::Update { row, seen, .. } if R::serves(row, seen));
            if !serves {
                self.bad.extend(R::groups(step.key()));
                self.bad.insert(id.clone());
            }
            if let Some(seen) = step.seen() {
                for need in still_needs::<R>(step.key(), seen, step.want()) {
                    self.held.entry(need).or_insert_with(|| id.clone());
                }
            }
        }
        self.report.outcomes.insert(id, outcome);
    }
}

/// What a row requires once it is written, beyond what it requires already.
pub(crate) fn new_needs<R: Resource>(step: &Step<R>) -> Vec<RowId> {
    let Some(want) = step.want() else { return Vec::new() };
    let mut needs = R::requires(step.key(), want);
    if let Some(seen) = step.seen() {
        let had = R::requires(step.key(), seen);
        needs.retain(|id| !had.contains(id));
    }
    needs
}

/// What a row that stays as it was seen requires, beyond what it would require as wanted.
pub(crate) fn still_needs<R: Resource>(key: &R::Key, seen: &R::Row, want: Option<&R::Row>) -> Vec<RowId> {
    let mut needs = R::requires(key, seen);
    if let Some(want) = want {
        let wanted = R::requires(key, want);
        needs.retain(|id| !wanted.contains(id));
    }
    needs
}
