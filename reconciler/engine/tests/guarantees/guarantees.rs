//! The properties, over any engine; and their runs with the real one.

use crate::consistent::{Case, case};
use crate::engines::{Engine, Real};
use crate::generate::{any_coverage, as_good, knows, row_of, seen_of, sources_of, undeclared_needs};
use crate::traffic::Watch;
use cilium_engine::check::check;
use cilium_engine::fake::FakeKernel;
use cilium_engine::pace::Pace;
use cilium_engine::plan::{Plan, Verb};
use cilium_engine::realise::{observe, realise};
use cilium_engine::scope::Scopes;
use cilium_engine::state::*;
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

/// What a property finds.
pub(crate) type Finding = Result<(), String>;

fn require(holds: bool, message: impl FnOnce() -> String) -> Finding {
    if holds { Ok(()) } else { Err(message()) }
}

/// A kernel with these rows; after every write nothing is broken that must not be, and nothing passes
/// that may not.
fn watched<'a>(rows: State, watch: &'a Watch, found: &'a RefCell<Finding>) -> FakeKernel<'a> {
    let mut kernel = FakeKernel::with(rows);
    kernel.witness = Some(Box::new(move |state, id| {
        let mut found = found.borrow_mut();
        if found.is_err() {
            return;
        }
        if let Some(violation) = check(state).first() {
            *found = Err(format!("after {id}: {violation}"));
        } else if let Some(probe) = watch.breach(state) {
            *found = Err(format!("after {id}: {probe:?} passes"));
        }
    }));
    kernel
}

/// G1: a trigger carries no data. Whatever wakes it, in whatever order and however often, it does nothing
/// a whole look would not, and ends where a whole look ends; looking only at what changed is enough.
pub(crate) fn g1<E: Engine + Default>(case: &Case, wakes: &[Vec<Kind>]) -> Finding {
    let desired = case.desired();
    let mut kernel = FakeKernel::with(case.before.clone());
    let mut engine = E::default();
    for wake in wakes.iter().chain(wakes.first()) {
        let mut scopes = Scopes::between(&case.before, &case.wanted);
        wake.iter().for_each(|kind| scopes.add(*kind));
        let part = engine.plan(&desired, &observe(&mut kernel, &scopes));
        let whole = E::default().plan(&desired, &observe(&mut kernel, &Scopes::all()));
        let whole: BTreeSet<_> =
            whole.lines().into_iter().map(|line| (line.id(), line.verb, line.row)).collect();
        for line in part.lines() {
            require(whole.contains(&(line.id(), line.verb, line.row.clone())), || {
                format!("only when woken: {line}")
            })?;
        }
        engine.apply(&part, &mut kernel);
        require(check(&kernel.ours).is_empty(), || format!("after {wake:?}: {:?}", check(&kernel.ours)))?;
        as_good(&case.wanted, &kernel.ours)?;
    }
    kernel.ours = case.junk.clone();
    for wake in wakes {
        let mut scopes = Scopes::none();
        wake.iter().rev().for_each(|kind| scopes.add(*kind));
        let observed = observe(&mut kernel, &scopes);
        let plan = engine.plan(&desired, &observed);
        engine.apply(&plan, &mut kernel);
    }
    engine.pass(&desired, &mut kernel);
    as_good(&case.wanted, &kernel.ours)
}

/// G2: never diff against memory. A row is in a plan only if it was read in this pass.
pub(crate) fn g2<E: Engine + Default>(case: &Case, coverage: &Coverage) -> Finding {
    let mut engine = E::default();
    engine.plan(&case.desired(), &ObservedState::whole(case.before.clone()));
    let observed = seen_of(&case.junk, coverage);
    let plan = engine.plan(&case.desired(), &observed);
    for line in plan.lines() {
        require(knows(coverage, &line.id()), || format!("not looked at: {line}"))?;
        let seen = row_of(&observed.state, &line.id()).unwrap_or_default();
        require(seen == line.seen, || format!("saw {seen:?}: {line}"))?;
    }
    require(plan.unread.len() == coverage.unread().len(), || "unread kinds are told".to_owned())
}

/// G2, on the way: with kinds that cannot be read nothing breaks or opens, and when they can, it converges.
pub(crate) fn g2_unreadable<E: Engine + Default>(case: &Case, kinds: &[Kind]) -> Finding {
    let (found, watch) = (RefCell::new(Ok(())), Watch::between(&case.before, &case.wanted));
    let mut kernel = watched(case.before.clone(), &watch, &found);
    kernel.unreadable = kinds.iter().copied().collect();
    let mut engine = E::default();
    let (plan, _) = engine.pass(&case.desired(), &mut kernel);
    for phase in &plan.phases {
        require(!kinds.contains(&phase.kind()), || format!("{} rows were not read:\n{plan}", phase.kind()))?;
    }
    kernel.unreadable.clear();
    converges(&mut engine, &case.desired(), &mut kernel)?;
    found.borrow().clone().map_err(|message| format!("{message}\nwith {kinds:?} not read in\n{plan}"))
}

fn converges<E: Engine>(engine: &mut E, desired: &DesiredState, kernel: &mut FakeKernel<'_>) -> Finding {
    let (_, report) = engine.pass(desired, kernel);
    require(report.is_clean(), || format!("{report}"))?;
    as_good(&desired.state, &kernel.ours)?;
    let again = engine.plan(desired, &observe(kernel, &Scopes::all()));
    require(again.is_settled(), || format!("second plan:\n{again}"))
}

/// G3: converges. With steady inputs and a healthy kernel the second pass has an empty plan, from
/// wherever it begins; also when what is there changes by itself, and when nothing is wanted any more.
pub(crate) fn g3<E: Engine + Default>(case: &Case) -> Finding {
    let mut engine = E::default();
    let mut kernel = FakeKernel::default();
    let desired = case.desired();
    converges(&mut engine, &desired, &mut kernel)?;
    kernel.ours = case.junk.clone();
    converges(&mut engine, &desired, &mut kernel)?;
    kernel.ours = case.before.clone();
    converges(&mut engine, &desired, &mut kernel)?;
    let nothing = DesiredState { synced: SourceSet::ALL, ..DesiredState::default() };
    converges(&mut engine, &nothing, &mut kernel)?;
    require(kernel.ours.is_empty(), || "destroyed, and still there".to_owned())
}

/// G4: every operation may run twice, whole or in part.
pub(crate) fn g4<E: Engine + Default>(case: &Case, part: usize) -> Finding {
    let desired = case.desired();
    let mut kernel = FakeKernel::with(case.before.clone());
    let mut engine = E::default();
    let plan = engine.plan(&desired, &observe(&mut kernel, &Scopes::all()));
    kernel.killed_after = Some(part % (plan.len() + 1));
    engine.apply(&plan, &mut kernel);
    kernel.killed_after = None;
    for _ in 0..2 {
        let report = engine.apply(&plan, &mut kernel);
        require(report.is_clean(), || format!("{report}"))?;
        as_good(&case.wanted, &kernel.ours)?;
    }
    Ok(())
}

/// G5: killed at any step and restarted, or failing at any step, it converges, and nothing on the way is
/// broken or open. `at` are the steps to try.
pub(crate) fn g5<E: Engine + Default>(case: &Case, at: &[usize]) -> Finding {
    let desired = case.desired();
    let watch = Watch::between(&case.before, &case.wanted);
    let plan = E::default().plan(&desired, &ObservedState::whole(case.before.clone()));
    let ids: Vec<RowId> = plan.phases.iter().flat_map(|phase| phase.steps.ids()).collect();
    let found = RefCell::new(Ok(()));
    for step in at.iter().filter_map(|n| n.checked_rem(ids.len())) {
        // Killed.
        let mut kernel = watched(case.before.clone(), &watch, &found);
        kernel.killed_after = Some(step);
        E::default().pass(&desired, &mut kernel);
        kernel.killed_after = None;
        converges(&mut E::default(), &desired, &mut kernel)?;
        // Failing once.
        let mut kernel = watched(case.before.clone(), &watch, &found);
        kernel.failing.insert(ids[step].clone(), 1);
        let mut engine = E::default();
        engine.pass(&desired, &mut kernel);
        engine.pass(&desired, &mut kernel);
        converges(&mut engine, &desired, &mut kernel)?;
        // Failing for ever, together with every third after it.
        let mut kernel = watched(case.before.clone(), &watch, &found);
        kernel.failing.extend(ids.iter().skip(step).step_by(3).map(|id| (id.clone(), usize::MAX)));
        engine.pass(&desired, &mut kernel);
        engine.pass(&desired, &mut kernel);
        found
            .borrow()
            .clone()
            .map_err(|message| format!("{message}\nwith {} failing or killed in\n{plan}", ids[step]))?;
    }
    Ok(())
}

/// G6: only what is recognisably ours is ever changed or removed: what is not shown, or no longer shown,
/// is another's.
pub(crate) fn g6<E: Engine + Default>(case: &Case, theirs: &[prop::sample::Index]) -> Finding {
    let mut engine = E::default();
    let mut kernel = FakeKernel::with(case.before.clone());
    engine.pass(
        &DesiredState { synced: SourceSet::ALL, ..DesiredState::default() },
        &mut FakeKernel::with(case.before.clone()),
    );
    engine.plan(&case.desired(), &ObservedState::whole(case.before.clone()));
    let lines = kernel.ours.lines();
    let taken: BTreeSet<RowId> =
        theirs.iter().filter(|_| !lines.is_empty()).map(|i| i.get(&lines).0.clone()).collect();
    macro_rules! take {
        ($(($field:ident, $resource:ident)),* $(,)?) => {
            $(for (key, entry) in case.before.$field.iter().filter(|(key, _)| taken.contains(&$resource::id(key))) {
                kernel.ours.$field.remove(key);
                kernel.others.$field.insert(key.clone(), entry.row.clone(), entry.why.clone());
            })*
        };
    }
    cilium_engine::for_each_resource!(take);
    let others = kernel.others.clone();
    engine.pass(&case.desired(), &mut kernel);
    engine.pass(&DesiredState { synced: SourceSet::ALL, ..DesiredState::default() }, &mut kernel);
    require(kernel.trespasses.is_empty(), || format!("another's: {:?}", kernel.trespasses))?;
    require(kernel.others == others, || "another's rows have changed".to_owned())
}

/// G7: nothing is removed whose sources have not synced, nor anything such a row still needs.
pub(crate) fn g7<E: Engine + Default>(case: &Case, synced: SourceSet) -> Finding {
    let synced = synced.with(Source::Config);
    let desired = case.desired_with(synced);
    let plan = E::default().plan(&desired, &ObservedState::whole(case.before.clone()));
    for line in plan.lines().into_iter().filter(|line| line.verb == Verb::Remove) {
        let sources = sources_of(&case.before, &line.id()).unwrap_or_default();
        require(synced.contains(sources), || format!("not synced ({sources:?}): {line}"))?;
    }
    let (found, watch) = (RefCell::new(Ok(())), Watch::between(&case.before, &case.wanted));
    let mut kernel = watched(case.before.clone(), &watch, &found);
    E::default().pass(&desired, &mut kernel);
    found.borrow().clone()?;
    for (id, _) in case.before.lines() {
        let sources = sources_of(&case.before, &id).unwrap_or_default();
        let stays = synced.contains(sources) || row_of(&kernel.ours, &id).is_some();
        require(stays, || format!("{id} is gone, and {sources:?} had not synced"))?;
    }
    converges(&mut E::default(), &case.desired(), &mut kernel)?;
    found.borrow().clone()
}

/// G8: all remembered state may be dropped between two passes without a change to the datapath.
pub(crate) fn g8<E: Engine + Default>(case: &Case, failing: &[prop::sample::Index]) -> Finding {
    let desired = case.desired();
    let run = |forgets: fn(&mut E, &mut Pace)| {
        let mut kernel = FakeKernel::with(case.before.clone());
        let (mut engine, mut pace, mut now) = (E::default(), Pace::default(), Duration::ZERO);
        let plan: Plan = engine.plan(&desired, &observe(&mut kernel, &Scopes::all()));
        let ids: Vec<RowId> = plan.phases.iter().flat_map(|phase| phase.steps.ids()).collect();
        kernel.failing =
            failing.iter().filter(|_| !ids.is_empty()).map(|i| (i.get(&ids).clone(), 2)).collect();
        for round in 0..60 {
            if round == 20 {
                kernel.ours = case.junk.clone();
            }
            let plan = engine.plan(&desired, &observe(&mut kernel, &Scopes::all()));
            let report = realise(&plan, &mut kernel, &pace.later(now), &mut |_| ControlFlow::Continue(()));
            pace.learn(&report, now, || 0.5);
            now += Duration::from_millis(70);
            forgets(&mut engine, &mut pace);
        }
        kernel.ours
    };
    let keeps = run(|_, _| {});
    let forgets = run(|engine, pace| {
        *engine = E::default();
        *pace = Pace::default();
    });
    as_good(&keeps, &forgets)?;
    as_good(&case.wanted, &keeps)
}

pub(crate) fn kinds() -> BoxedStrategy<Vec<Vec<Kind>>> {
    prop::collection::vec(prop::collection::vec(prop::sample::select(Kind::ALL), 1..4), 1..4).boxed()
}

fn some_kinds() -> BoxedStrategy<Vec<Kind>> {
    prop::collection::vec(prop::sample::select(Kind::ALL), 1..4).boxed()
}

pub(crate) fn indices() -> BoxedStrategy<Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..8).boxed()
}

pub(crate) fn steps() -> BoxedStrategy<Vec<usize>> {
    prop::collection::vec(any::<usize>(), 4).boxed()
}

fn holds(finding: Finding) -> Result<(), TestCaseError> {
    finding.map_err(TestCaseError::fail)
}

proptest! {
    #![proptest_config(crate::config(40))]

    #[test]
    fn g1_a_trigger_carries_no_data(case in case(), wakes in kinds()) {
        holds(g1::<Real>(&case, &wakes))?;
    }

    #[test]
    fn g2_only_rows_read_in_this_pass_are_in_its_plan(case in case(), coverage in any_coverage()) {
        holds(g2::<Real>(&case, &coverage))?;
    }

    #[test]
    fn g2_what_cannot_be_read_breaks_nothing(case in case(), kinds in some_kinds()) {
        holds(g2_unreadable::<Real>(&case, &kinds))?;
    }

    #[test]
    fn g3_the_second_pass_has_an_empty_plan(case in case()) {
        holds(g3::<Real>(&case))?;
    }

    #[test]
    fn g4_every_operation_may_run_twice(case in case(), part in any::<usize>()) {
        holds(g4::<Real>(&case, part))?;
    }

    #[test]
    fn g5_killed_or_failing_at_any_step_nothing_breaks_or_opens(case in case(), at in steps()) {
        holds(g5::<Real>(&case, &at))?;
    }

    #[test]
    fn g6_only_what_is_ours_is_touched(case in case(), theirs in indices()) {
        holds(g6::<Real>(&case, &theirs))?;
    }

    #[test]
    fn g7_nothing_goes_before_its_sources_have_synced(case in case(), synced in 0u8..64) {
        holds(g7::<Real>(&case, SourceSet(synced)))?;
    }

    #[test]
    fn g8_memory_may_be_dropped(case in case(), failing in indices()) {
        holds(g8::<Real>(&case, &failing))?;
    }

    #[test]
    fn requirements_are_declared_and_earlier_in_the_order(case in case()) {
        for state in [&case.junk, &case.wanted] {
            prop_assert_eq!(undeclared_needs(state), Vec::<String>::new());
        }
        prop_assert_eq!(check(&case.wanted), vec![]);
        prop_assert_eq!(check(&case.before), vec![]);
    }
}
