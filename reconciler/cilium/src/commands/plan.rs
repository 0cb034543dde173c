//! `plan`: what the next pass would do, without doing it.

use super::{load, print};
use crate::agent::offline::Offline;
use crate::agent::pass::Reconciler;
use crate::cli::{ConfigSource, PlanArgs};
use anyhow::{Result, bail};
use cilium_engine::config::{Change, Impact, changes};
use cilium_engine::plan::Plan;
use cilium_engine::problem::{Problem, Problems, Severity};
use cilium_engine::state::{ObservedState, State};
use serde::Serialize;
use std::fmt::Write;
use std::process::ExitCode;

/// Exit code of a plan with something to do.
const PENDING: u8 = 2;

#[derive(Serialize)]
struct Printed {
    /// Changes of the configuration, each with what it costs.
    changes: Vec<Change>,
    /// The worst of them.
    impact: Option<Impact>,
    plan: Plan,
    problems: Problems,
}

/// Runs it.
pub(super) fn run(source: &ConfigSource, args: &PlanArgs) -> Result<ExitCode> {
    let loaded = load(source)?;
    let mut printed =
        Printed { changes: Vec::new(), impact: None, plan: Plan::default(), problems: Problems::default() };
    if let Some(old) = &args.against {
        let old = load(&ConfigSource { config: old.clone(), sets: Vec::new() })?;
        printed.changes = changes(&old.config, &loaded.config);
        printed.impact = printed.changes.iter().map(|c| c.impact).max();
        let before = Offline::open(&old, args.manifests.as_deref())?.compile()?;
        let now = Offline::open(&loaded, args.manifests.as_deref())?.compile()?;
        printed.plan = cilium_engine::diff::diff(&now.desired, &ObservedState::whole(before.desired.state));
        printed.problems = now.problems;
    } else if let Some(observed) = &args.observed {
        if observed != "none" {
            bail!("--observed {observed}: reading a bundle is not built yet (hint: `--observed none`)");
        }
        let now = Offline::open(&loaded, args.manifests.as_deref())?.compile()?;
        printed.plan = cilium_engine::diff::diff(&now.desired, &ObservedState::whole(State::default()));
        printed.problems = now.problems;
    } else {
        let mut reconciler = Reconciler::open_to_look(loaded, args.manifests.as_deref())?;
        let thought = reconciler.think()?;
        printed.plan = thought.plan;
        printed.problems = thought.problems;
    }
    print(args.form, &printed, || text(&printed))?;
    let failing = |p: &Problem| p.severity == Severity::Error;
    Ok(if args.strict && printed.problems.iter().any(failing) {
        ExitCode::FAILURE
    } else if printed.plan.is_empty() {
        ExitCode::SUCCESS
    } else {
        PENDING.into()
    })
}

fn text(printed: &Printed) -> String {
    let mut text = String::new();
    for change in &printed.changes {
        let _ = writeln!(text, "{change}");
    }
    text.push_str(&printed.plan.to_string());
    for problem in printed.problems.iter() {
        let _ = writeln!(text, "{problem}");
    }
    text
}
