//! The ways a host can be unlucky, each tried on a whole scenario. None may change where it ends.

use crate::file::Scenario;
use crate::input::{Inputs, Known, Order};
use crate::run::{carry_out, drift, is_whole, look, pass, step, tamperings, unsettled, wanted};
use cilium_engine::check::check;
use cilium_engine::compile::compile;
use cilium_engine::diff::diff;
use cilium_engine::fake::FakeKernel;
use cilium_engine::state::{ObservedState, RowId, State};
use std::cell::RefCell;

/// Inputs and rows before and after each step that ends whole.
struct Walk {
    before: State,
    inputs: Inputs,
    known: Known,
    title: String,
    whole: bool,
}

fn walks(scenario: &Scenario) -> Result<Vec<Walk>, String> {
    let mut inputs = Inputs::default();
    inputs.change(&scenario.setup);
    let mut kernel = FakeKernel::default();
    let mut out = Vec::new();
    for now in &scenario.steps {
        let before = kernel.ours.clone();
        step(&mut inputs, now, &mut kernel)?;
        let known = inputs.read("", Order::Forward)?;
        out.push(Walk {
            before,
            inputs: inputs.clone(),
            known,
            title: now.title.clone(),
            whole: is_whole(now),
        });
    }
    Ok(out)
}

/// Objects in the opposite order: the same is wanted.
pub fn reversed(scenario: &Scenario) -> Result<(), String> {
    for walk in walks(scenario)? {
        if wanted(&walk.inputs, Order::Forward)?.state != wanted(&walk.inputs, Order::Reversed)?.state {
            return Err(format!("{:?}: the order of objects counts", walk.title));
        }
    }
    Ok(())
}

/// The kernel empty before each step, as after a reboot: one pass, and all is there.
pub fn emptied(scenario: &Scenario) -> Result<(), String> {
    for walk in walks(scenario)? {
        let mut kernel = FakeKernel::default();
        pass(&walk.known, &mut kernel);
        unsettled(&walk.known, &mut kernel).map_err(|m| format!("{:?}: {m}", walk.title))?;
    }
    Ok(())
}

/// From before each step straight to the end: one pass, and all is there.
pub fn squashed(scenario: &Scenario) -> Result<(), String> {
    let walks = walks(scenario)?;
    let Some(last) = walks.last() else { return Ok(()) };
    for walk in &walks {
        let mut kernel = FakeKernel::with(walk.before.clone());
        pass(&last.known, &mut kernel);
        unsettled(&last.known, &mut kernel).map_err(|m| format!("{:?} to the end: {m}", walk.title))?;
    }
    Ok(())
}

/// Looks at every state on the way.
fn watched<'a>(rows: &State, found: &'a RefCell<Option<String>>) -> FakeKernel<'a> {
    let mut kernel = FakeKernel::with(rows.clone());
    kernel.witness = Some(Box::new(|state, id: &RowId| {
        if let Some(violation) = check(state).first() {
            found.borrow_mut().get_or_insert_with(|| format!("after {id}: {violation}"));
        }
    }));
    kernel
}

fn sound(rows: &State) -> bool {
    check(rows).is_empty()
}

/// Killed before each write, and started again with an empty memory.
pub fn killed(scenario: &Scenario) -> Result<(), String> {
    let found = RefCell::new(None);
    for walk in walks(scenario)?.iter().filter(|walk| walk.whole && sound(&walk.before)) {
        for writes in 0.. {
            let mut kernel = watched(&walk.before, &found);
            kernel.killed_after = Some(writes);
            pass(&walk.known, &mut kernel);
            let last = !kernel.is_dead();
            kernel.killed_after = None;
            pass(&walk.known, &mut kernel);
            let at = |m| format!("{:?} killed after {writes} writes: {m}", walk.title);
            unsettled(&walk.known, &mut kernel).map_err(at)?;
            drop(kernel);
            if let Some(message) = found.take() {
                return Err(at(message));
            }
            if last {
                break;
            }
        }
    }
    Ok(())
}

/// Each row failing once.
pub fn failing(scenario: &Scenario) -> Result<(), String> {
    let found = RefCell::new(None);
    for walk in walks(scenario)?.iter().filter(|walk| walk.whole && sound(&walk.before)) {
        let (compiled, _) = look(&walk.known, &mut FakeKernel::with(walk.before.clone()));
        let plan = diff(&compiled.desired, &ObservedState::whole(walk.before.clone()));
        for id in plan.phases.iter().flat_map(|phase| phase.steps.ids()) {
            let mut kernel = watched(&walk.before, &found);
            kernel.failing.insert(id.clone(), 1);
            for _ in 0..3 {
                pass(&walk.known, &mut kernel);
            }
            let at = |m| format!("{:?} with {id} failing once: {m}", walk.title);
            unsettled(&walk.known, &mut kernel).map_err(at)?;
            drop(kernel);
            if let Some(message) = found.take() {
                return Err(at(message));
            }
        }
    }
    Ok(())
}

/// Each row taken away, or given another's content, after each step: one pass, and all is there.
pub fn drifted(scenario: &Scenario) -> Result<(), String> {
    for walk in walks(scenario)?.iter().filter(|walk| walk.whole) {
        let mut kernel = FakeKernel::with(walk.before.clone());
        pass(&walk.known, &mut kernel);
        let after = kernel.ours;
        for change in tamperings(&after) {
            let mut kernel = FakeKernel::with(after.clone());
            drift(&mut kernel.ours, &change)?;
            pass(&walk.known, &mut kernel);
            unsettled(&walk.known, &mut kernel).map_err(|m| format!("{:?}, {change:?}: {m}", walk.title))?;
        }
    }
    Ok(())
}

/// The numbers remembered from the last compilation, instead of read from the kernel: the same plans.
pub fn remembering(scenario: &Scenario) -> Result<(), String> {
    let mut book = Default::default();
    for walk in walks(scenario)? {
        let compiled = compile(&walk.known.world, &walk.known.config, &book);
        let mut kernel = FakeKernel::with(walk.before.clone());
        carry_out(&diff(&compiled.desired, &ObservedState::whole(walk.before)), &mut kernel);
        unsettled(&walk.known, &mut kernel).map_err(|m| format!("{:?} with a memory: {m}", walk.title))?;
        book = compiled.book;
    }
    Ok(())
}
