//! The engine under test, and mutants of it: each breaks one rule, and the guarantees must notice.

use cilium_engine::diff::diff;
use cilium_engine::fake::FakeKernel;
use cilium_engine::order::Pass;
use cilium_engine::plan::{Plan, StepList, Steps};
use cilium_engine::realise::{Report, observe, realise};
use cilium_engine::scope::Scopes;
use cilium_engine::state::*;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// What decides and what carries out.
pub(crate) trait Engine {
    fn plan(&mut self, desired: &DesiredState, observed: &ObservedState) -> Plan {
        diff(desired, observed)
    }

    fn apply(&mut self, plan: &Plan, kernel: &mut FakeKernel<'_>) -> Report {
        realise(plan, kernel, &BTreeSet::new(), &mut |_| ControlFlow::Continue(()))
    }

    /// Look, decide, carry out.
    fn pass(&mut self, desired: &DesiredState, kernel: &mut FakeKernel<'_>) -> (Plan, Report) {
        let observed = observe(kernel, &Scopes::all());
        let plan = self.plan(desired, &observed);
        let report = self.apply(&plan, kernel);
        (plan, report)
    }
}

/// The engine as it is.
#[derive(Default)]
pub(crate) struct Real;
impl Engine for Real {}

/// Removes before it ensures.
#[derive(Default)]
pub(crate) struct BreaksBeforeMaking;
impl Engine for BreaksBeforeMaking {
    fn plan(&mut self, desired: &DesiredState, observed: &ObservedState) -> Plan {
        let mut plan = diff(desired, observed);
        plan.phases.sort_by_key(|phase| phase.pass() == Pass::Ensure);
        plan
    }
}

/// Walks the order of writes up instead of down.
#[derive(Default)]
pub(crate) struct WalksUp;
impl Engine for WalksUp {
    fn plan(&mut self, desired: &DesiredState, observed: &ObservedState) -> Plan {
        let mut plan = diff(desired, observed);
        plan.phases.reverse();
        plan
    }
}

/// Forgets after each phase what has failed.
#[derive(Default)]
pub(crate) struct IgnoresFailures;
impl Engine for IgnoresFailures {
    fn apply(&mut self, plan: &Plan, kernel: &mut FakeKernel<'_>) -> Report {
        let mut report = Report::default();
        for phase in &plan.phases {
            let part = Plan { phases: vec![phase.clone()], ..Plan::default() };
            let part = realise(&part, kernel, &BTreeSet::new(), &mut |_| ControlFlow::Continue(()));
            report.outcomes.extend(part.outcomes);
        }
        report
    }
}

/// Writes policy rows in the order of their keys, and removes them last, whatever they say.
#[derive(Default)]
pub(crate) struct SortsPolicies;
impl Engine for SortsPolicies {
    fn plan(&mut self, desired: &DesiredState, observed: &ObservedState) -> Plan {
        let mut plan = diff(desired, observed);
        for phase in &mut plan.phases {
            phase.gate = Default::default();
        }
        for pass in [Pass::Ensure, Pass::Remove] {
            let is_one = |p: &cilium_engine::plan::Phase| p.pass() == pass && p.kind() == Kind::Policy;
            let Some(first) = plan.phases.iter().position(is_one) else { continue };
            let mut steps = Vec::new();
            for phase in plan.phases.iter().filter(|p| is_one(p)) {
                if let Steps::Policy(list) = &phase.steps {
                    steps.extend(list.steps.iter().cloned());
                }
            }
            steps.sort_by_key(|step| *step.key());
            let whys = vec![None; steps.len()];
            plan.phases[first].steps = Steps::Policy(StepList { steps, whys });
            let mut index = 0;
            plan.phases.retain(|phase| {
                index += 1;
                index - 1 == first || !is_one(phase)
            });
        }
        plan
    }
}

/// Takes every source for synced.
#[derive(Default)]
pub(crate) struct TrustsUnsynced;
impl Engine for TrustsUnsynced {
    fn plan(&mut self, desired: &DesiredState, observed: &ObservedState) -> Plan {
        diff(&DesiredState { synced: SourceSet::ALL, ..desired.clone() }, observed)
    }
}

/// Fills what it could not read from what it saw before.
#[derive(Default)]
pub(crate) struct Remembers {
    last: State,
}
impl Engine for Remembers {
    fn plan(&mut self, desired: &DesiredState, observed: &ObservedState) -> Plan {
        let mut state = self.last.clone();
        macro_rules! fill {
            ($(($field:ident, $resource:ident)),* $(,)?) => {
                $(for (key, entry) in observed.state.$field.iter() {
                    state.$field.insert(key.clone(), entry.row.clone(), entry.why.clone());
                })*
            };
        }
        cilium_engine::for_each_resource!(fill);
        self.last = state.clone();
        diff(desired, &ObservedState::whole(state))
    }
}

/// Takes what it wanted the last time for what is there.
#[derive(Default)]
pub(crate) struct TrustsItsWrites {
    written: Option<State>,
}
impl Engine for TrustsItsWrites {
    fn plan(&mut self, desired: &DesiredState, observed: &ObservedState) -> Plan {
        let seen = self.written.replace(desired.state.clone()).unwrap_or_else(|| observed.state.clone());
        diff(desired, &ObservedState::whole(seen))
    }
}
