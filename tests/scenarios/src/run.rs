//! Walks a scenario: every step's plan must be the one written there, and the next plan empty.

use crate::file::{Scenario, Step};
use crate::input::{Inputs, Known, Order};
use cilium_engine::check::{check, lint};
use cilium_engine::compile::{Compiled, IdBook, compile};
use cilium_engine::diff::diff;
use cilium_engine::fake::FakeKernel;
use cilium_engine::lines::Line;
use cilium_engine::plan::Plan;
use cilium_engine::realise::{Report, observe, realise};
use cilium_engine::scope::Scopes;
use cilium_engine::state::{DesiredState, ObservedState, RowId, State};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// What comes of a step.
#[derive(Clone, Debug)]
pub struct Came {
    /// The plan.
    pub plan: Plan,
    /// What was done of it.
    pub report: Report,
    /// What was wanted, and what was wrong.
    pub compiled: Compiled,
}

/// Looks and compiles: the numbers in use are read from the kernel.
pub fn look(known: &Known, kernel: &mut FakeKernel<'_>) -> (Compiled, ObservedState) {
    let observed = observe(kernel, &Scopes::all());
    (compile(&known.world, &known.config, &IdBook::adopt(&observed.state)), observed)
}

/// Carries out a plan.
pub fn carry_out(plan: &Plan, kernel: &mut FakeKernel<'_>) -> Report {
    realise(plan, kernel, &BTreeSet::new(), &mut |_| ControlFlow::Continue(()))
}

/// One pass.
pub fn pass(known: &Known, kernel: &mut FakeKernel<'_>) -> Came {
    let (compiled, observed) = look(known, kernel);
    let plan = diff(&compiled.desired, &observed);
    let report = carry_out(&plan, kernel);
    Came { plan, report, compiled }
}

/// The next plan, if there is something left to do or to wait for.
pub fn unsettled(known: &Known, kernel: &mut FakeKernel<'_>) -> Result<(), String> {
    let (compiled, observed) = look(known, kernel);
    let plan = diff(&compiled.desired, &observed);
    if plan.is_settled() { Ok(()) } else { Err(format!("the next plan is not empty:\n{plan}")) }
}

/// All ways to change one row: it goes, or gets the row of the one before it.
pub fn tamperings(state: &State) -> Vec<String> {
    let ids: Vec<RowId> = state.lines().into_iter().map(|(id, _)| id).collect();
    let gone = ids.iter().map(|id| format!("- {id}"));
    let pairs = ids.windows(2).filter(|pair| pair[0].kind == pair[1].kind);
    gone.chain(pairs.map(|pair| format!("~ {} as {}", pair[1], pair[0]))).collect()
}

/// Changes rows behind the agent's back.
pub fn drift(state: &mut State, text: &str) -> Result<(), String> {
    for line in text.lines() {
        let found =
            match (line.strip_prefix("- "), line.strip_prefix("~ ").and_then(|l| l.split_once(" as "))) {
                (Some(name), _) => remove(state, name),
                (None, Some((name, other))) => copy(state, name, other),
                (None, None) => false,
            };
        if !found {
            return Err(format!("drift: no such row, or not understood: {line:?}"));
        }
    }
    Ok(())
}

macro_rules! tampering {
    ($(($field:ident, $resource:ident)),* $(,)?) => {
        fn remove(state: &mut State, name: &str) -> bool {
            $(
                let key = state.$field.keys().find(|key| named::<cilium_engine::state::$resource>(key, name)).cloned();
                if let Some(key) = key {
                    return state.$field.remove(&key).is_some();
                }
            )*
            false
        }

        fn copy(state: &mut State, name: &str, other: &str) -> bool {
            $(
                let key = state.$field.keys().find(|key| named::<cilium_engine::state::$resource>(key, name)).cloned();
                let row = state.$field.iter().find(|(key, _)| named::<cilium_engine::state::$resource>(key, other));
                let row = row.map(|(_, entry)| entry.row.clone());
                if let (Some(key), Some(row)) = (key, row) {
                    return state.$field.insert(key, row, None).is_some();
                }
            )*
            false
        }
    };
}
cilium_engine::for_each_resource!(tampering);

fn named<R: cilium_engine::state::Resource>(key: &R::Key, name: &str) -> bool {
    R::id(key).to_string() == name
}

/// Rows that cannot be written, by name.
pub fn failing(plan: &Plan, text: &str) -> Result<Vec<RowId>, String> {
    let ids: Vec<RowId> = plan.phases.iter().flat_map(|phase| phase.steps.ids()).collect();
    let find = |name: &str| {
        let id = ids.iter().find(|id| id.to_string() == name);
        id.cloned().ok_or_else(|| format!("failing: {name:?} is in no step of\n{plan}"))
    };
    text.lines().map(find).collect()
}

/// The text of a section that says what must come, as it came.
fn came(name: &str, came: &Came) -> Option<String> {
    let lines = |items: Vec<String>| items.into_iter().map(|item| item + "\n").collect::<String>();
    match name {
        "plan" => Some(came.plan.to_string()),
        "report" => Some(came.report.to_string()),
        "problems" => Some(lines(came.compiled.problems.iter().map(ToString::to_string).collect())),
        _ => {
            let kinds: Vec<&str> = name.strip_prefix("plan:")?.split_whitespace().collect();
            let of_kind = |line: &&Line| kinds.contains(&line.kind.name());
            let mut out: Vec<String> =
                came.plan.lines().iter().filter(of_kind).map(ToString::to_string).collect();
            let waiting = came.plan.withheld.iter().filter(|w| kinds.contains(&w.id.kind.name()));
            out.extend(waiting.map(ToString::to_string));
            Some(lines(out))
        }
    }
}

/// A step, on a kernel: what came of it.
pub fn step(inputs: &mut Inputs, step: &Step, kernel: &mut FakeKernel<'_>) -> Result<Came, String> {
    inputs.change(&step.sections);
    drift(&mut kernel.ours, step.text("drift"))?;
    let known = inputs.read(step.text("unsynced"), Order::Forward)?;
    let (compiled, observed) = look(&known, kernel);
    let wrong = lint(&compiled.desired.state);
    if let Some(wrong) = wrong.first() {
        return Err(format!("what is wanted cannot be: {wrong}"));
    }
    let plan = diff(&compiled.desired, &observed);
    kernel.failing = failing(&plan, step.text("failing"))?.into_iter().map(|id| (id, usize::MAX)).collect();
    let report = carry_out(&plan, kernel);
    kernel.failing.clear();
    Ok(Came { plan, report, compiled })
}

/// Whether everything the step wants is there after it.
pub fn is_whole(step: &Step) -> bool {
    step.text("unsynced").is_empty() && step.text("failing").is_empty()
}

/// Walks a scenario. What came of it is written into the copy that is given back; where that differs from
/// the scenario, the scenario does not hold.
pub fn walk(scenario: &Scenario) -> Result<Scenario, String> {
    let mut written = scenario.clone();
    let mut inputs = Inputs::default();
    inputs.change(&scenario.setup);
    let mut kernel = FakeKernel::default();
    for now in &mut written.steps {
        let at = |message| format!("step {:?}: {message}", now.title);
        let result = step(&mut inputs, now, &mut kernel).map_err(at)?;
        if is_whole(now) {
            unsettled(&inputs.read("", Order::Forward)?, &mut kernel).map_err(at)?;
        }
        if let Some(wrong) = check(&kernel.ours).first() {
            return Err(at(wrong.to_string()));
        }
        for section in &mut now.sections {
            if let Some(text) = came(&section.name, &result) {
                section.text = text;
            }
        }
    }
    Ok(written)
}

/// What is wanted at the end, whatever was seen.
pub fn wanted(inputs: &Inputs, order: Order) -> Result<DesiredState, String> {
    let known = inputs.read("", order)?;
    Ok(compile(&known.world, &known.config, &IdBook::default()).desired)
}
