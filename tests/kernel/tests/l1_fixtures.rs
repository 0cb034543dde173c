//! Packet fixtures through the production programs, each also against the model.

use cilium_tests_kernel::l1::{lab::Lab, script::Fixture, world::Mode};
use std::sync::{Mutex, PoisonError};

#[path = "l1/answer.rs"]
mod answer;
#[path = "l1/basics.rs"]
mod basics;
#[path = "l1/case.rs"]
mod case;
#[path = "l1/choice.rs"]
mod choice;
#[path = "l1/conntrack.rs"]
mod conntrack;
#[path = "l1/dsr.rs"]
mod dsr;
#[path = "l1/elsewhere.rs"]
mod elsewhere;
#[path = "l1/fragments.rs"]
mod fragments;
#[path = "l1/hooks.rs"]
mod hooks;
#[path = "l1/host_stack.rs"]
mod host_stack;
#[path = "l1/ipip.rs"]
mod ipip;
#[path = "l1/malformed.rs"]
mod malformed;
#[path = "l1/masquerade.rs"]
mod masquerade;
#[path = "l1/north_south.rs"]
mod north_south;
#[path = "l1/own.rs"]
mod own;
#[path = "l1/policy.rs"]
mod policy;
#[path = "l1/refusals.rs"]
mod refusals;
#[path = "l1/roads.rs"]
mod roads;
#[path = "l1/service.rs"]
mod service;

/// Loaded once per kind of node, for all tests of this file.
static LABS: Mutex<Vec<Lab>> = Mutex::new(Vec::new());

fn with_lab(mode: Mode, work: &mut dyn FnMut(&mut Lab) -> Result<(), String>) -> Result<(), String> {
    let mut labs = LABS.lock().unwrap_or_else(PoisonError::into_inner);
    if !labs.iter().any(|lab| lab.mode == mode) {
        labs.push(Lab::new(mode));
    }
    let lab = labs.iter_mut().find(|lab| lab.mode == mode).ok_or("no lab")?;
    work(lab)
}

/// Runs all fixtures of a table; fails with everything that went otherwise. Gives how many frames ended in the
/// driver.
fn run(table: Vec<Fixture>) -> usize {
    let (mut wrong, mut driven, mut parts) = (Vec::new(), 0, 0);
    for fixture in &table {
        match fixture.run(&mut with_lab) {
            Ok(tally) => (driven, parts) = (driven + tally.driven, parts + tally.parts),
            Err(why) => wrong.push(format!("{}: {why}", fixture.name)),
        }
    }
    println!("{} fixtures, {driven} frames ended in the driver, {parts} fragments", table.len());
    assert!(wrong.is_empty(), "{} of {} fixtures fail:\n{}", wrong.len(), table.len(), wrong.join("\n"));
    driven
}
