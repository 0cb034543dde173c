//! `plan`: what the next pass would do, without doing it.

use super::{load, print};
use crate::agent::offline::Offline;
use crate::agent::pass::Reconciler;
use crate::cli::{ConfigSource, PlanArgs};
use crate::client::Agent;
use anyhow::{Result, bail};
use cilium_abi::lb::{SCOPE_EXTERNAL, SCOPE_INTERNAL};
use cilium_engine::config::{Change, Impact, changes};
use cilium_engine::plan::Plan;
use cilium_engine::problem::{Problem, Problems, Severity};
use cilium_engine::state::{FrontendKey, ObservedState, Origin, Protocol, State};
use cilium_engine::world::ObjectName;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
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
        printed.plan =
            cilium_engine::diff::diff(&now.desired, &ObservedState::whole(before.desired.state.clone()));
        printed.plan.remember(&before.desired.state);
        printed.problems = now.problems;
    } else if let Some(observed) = &args.observed {
        if observed != "none" {
            bail!("--observed {observed}: reading a bundle is not built yet (hint: `--observed none`)");
        }
        let now = Offline::open(&loaded, args.manifests.as_deref())?.compile()?;
        printed.plan = cilium_engine::diff::diff(&now.desired, &ObservedState::whole(State::default()));
        printed.problems = now.problems;
    } else {
        let agent = Agent::new(&loaded.config.paths.run_dir);
        let mut reconciler = Reconciler::open_to_look(loaded, args.manifests.as_deref())?;
        let thought = reconciler.think()?;
        printed.plan = thought.plan;
        name_orphans(&mut printed.plan, &agent);
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

/// Whose the frontends were that go: what is wanted does not say any more, but an agent that runs may know.
fn name_orphans(plan: &mut Plan, agent: &Agent) {
    if plan.orphans().next().is_none() {
        return;
    }
    let Ok(view) = agent.json::<Value>("/v1/view") else { return };
    let owners: BTreeMap<FrontendKey, Origin> =
        view["services"].as_array().into_iter().flatten().filter_map(owner).collect();
    for (key, why) in plan.orphans() {
        *why = owners.get(key).map(|owner| owner.clone().into());
    }
}

fn owner(shown: &Value) -> Option<(FrontendKey, Origin)> {
    let spec = &shown["spec"];
    let (at, flags) = (&spec["frontend-address"], &spec["flags"]);
    let proto = match at["protocol"].as_str()? {
        "TCP" => Protocol::TCP,
        "UDP" => Protocol::UDP,
        "SCTP" => Protocol::SCTP,
        _ => return None,
    };
    let inside = at["scope"].as_str() == Some("internal");
    let key = FrontendKey {
        addr: at["ip"].as_str()?.parse().ok()?,
        port: u16::try_from(at["port"].as_u64()?).ok()?,
        proto,
        scope: if inside { SCOPE_INTERNAL } else { SCOPE_EXTERNAL },
    };
    let kind = if flags["type"].as_str() == Some("HostPort") { "Pod" } else { "Service" };
    let name = ObjectName::new(flags["namespace"].as_str()?, flags["name"].as_str()?);
    Some((key, Origin { object: format!("{kind} {name}"), place: String::new(), rule: String::new() }))
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
