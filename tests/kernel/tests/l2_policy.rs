//! The policy truth table on real traffic: each case's dropped probe passes without the policy, is dropped
//! with it and told of by `cilium monitor` with the right reason and names, and its mirror passes.

use cilium_tests_kernel::policy_cases::stage::{PATIENCE, Stage};
use cilium_tests_kernel::policy_cases::{CATEGORIES, Case, Category, Probe, Why, all};
use cilium_tests_kernel::probe::eventually;
use cilium_tests_kernel::{Mode, Options};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long to wait for an answer that must not come. That it was dropped is what the monitor tells.
const SILENCE: Duration = Duration::from_millis(250);

/// Runs a check for every case at once and collects what is wrong.
fn together(cases: &[Case], check: impl Fn(usize, &Case) -> Vec<String> + Sync) -> Vec<String> {
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (lane, case) in cases.iter().enumerate() {
            let (check, wrong) = (&check, &wrong);
            scope.spawn(move || {
                let found = check(lane, case);
                wrong.lock().expect("no check panics").extend(found);
            });
        }
    });
    wrong.into_inner().expect("no check panics")
}

/// Without policies both probes pass: the path is there.
fn open(stage: &Stage, lane: usize, case: &Case) -> Vec<String> {
    let mut wrong = Vec::new();
    for text in [case.denied, case.mirror] {
        // The first packet may wait for a neighbour.
        if !eventually(PATIENCE, || stage.ask(lane, Probe::parse(text))) {
            wrong.push(format!("{}: {text}: does not pass without a policy", case.name));
        }
    }
    wrong
}

/// With them one is dropped, and the other passes at once.
fn enforced(stage: &Stage, lane: usize, case: &Case) -> Vec<String> {
    let (denied, mirror) = (Probe::parse(case.denied), Probe::parse(case.mirror));
    let (passes, let_in) = std::thread::scope(|scope| {
        let denied = scope.spawn(|| stage.ask_within(lane, denied, SILENCE));
        (stage.ask(lane, mirror), denied.join().expect("the right one answers, or nobody"))
    });
    let mut wrong = Vec::new();
    if !passes {
        wrong.push(format!("{}: {mirror}: does not pass", case.name));
    }
    if let_in {
        wrong.push(format!("{}: {denied}: is not dropped", case.name));
        return wrong;
    }
    let object = format!("{}/", stage.namespace(lane));
    let told = || {
        stage.drops().iter().any(|drop| {
            let by_rule = case.why == Why::NotAllowed
                || drop.rule.as_ref().is_some_and(|r| r.contains(&object) || r.contains("Cluster"));
            drop.reason == case.why.reason() && by_rule && stage.is_about(lane, denied, drop)
        })
    };
    if !eventually(PATIENCE, told) {
        let seen: Vec<String> = stage
            .drops()
            .iter()
            .filter(|d| [d.source.1, d.destination.1].contains(&stage.address(lane, denied.to, denied.v6)))
            .map(|d| format!("{d:?}"))
            .collect();
        wrong.push(format!(
            "{}: {denied}: dropped, but not told with reason {} and both names; seen: {}",
            case.name,
            case.why.reason(),
            seen.join("; ")
        ));
    }
    wrong
}

/// Plays the cases, `lanes` of them at once, each in a namespace of its own.
fn truth_table(mode: Mode, cases: &[Case], lanes: usize) {
    let begin = Instant::now();
    let stage = Stage::set(&Options { mode, ..Options::default() }, lanes);
    let set = begin.elapsed();
    let mut wrong = Vec::new();
    for batch in cases.chunks(lanes) {
        wrong.extend(together(batch, |lane, case| open(&stage, lane, case)));
    }
    assert!(wrong.is_empty(), "{mode:?}:\n  {}", wrong.join("\n  "));
    for (n, batch) in cases.chunks(lanes).enumerate() {
        let yaml = |(lane, case): (usize, &Case)| {
            case.yaml(&format!("case-{}", n * lanes + lane), stage.namespace(lane))
        };
        stage.put("policies.yaml", &batch.iter().enumerate().map(yaml).collect::<String>());
        stage.forget();
        wrong.extend(together(batch, |lane, case| enforced(&stage, lane, case)));
    }
    stage.take("policies.yaml");
    wrong.extend(together(&cases[..lanes], |lane, case| open(&stage, lane, case)));
    println!("policy truth table, {mode:?}: {:?}, of it {set:?} to set the stage", begin.elapsed());
    for (category, _) in CATEGORIES {
        println!("{:>6}  {category:?}", count(cases, category));
    }
    assert!(
        wrong.is_empty(),
        "{mode:?}: {} of {} cases:\n  {}",
        wrong.len(),
        cases.len(),
        wrong.join("\n  ")
    );
}

fn count(cases: &[Case], category: Category) -> usize {
    cases.iter().filter(|case| case.is_of(category)).count()
}

#[test]
fn truth_table_over_the_overlay() {
    let cases = all();
    for (category, least) in CATEGORIES {
        let count = count(&cases, category);
        assert!(count >= least, "{category:?}: {count} cases, at least {least} are wanted");
    }
    truth_table(Mode::Tunnel, &cases, 6);
}

/// Every eighth case by default, all of them in the long form.
#[test]
fn truth_table_with_node_routes() {
    let step = if std::env::var_os("CILIUM_TEST_LONG").is_some() { 1 } else { 8 };
    let cases: Vec<Case> = all().into_iter().step_by(step).collect();
    truth_table(Mode::Native, &cases, 3);
}
