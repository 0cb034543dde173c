//! Engines with one rule broken. A guarantee that lets one through tests nothing.

use crate::consistent::case;
use crate::engines::{
    BreaksBeforeMaking, IgnoresFailures, Remembers, SortsPolicies, TrustsItsWrites, TrustsUnsynced, WalksUp,
};
use crate::generate::any_coverage;
use crate::guarantees::{Finding, g2, g3, g5, g6, g7, g8, indices, steps};
use cilium_engine::state::SourceSet;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

/// Runs a property until it fails; a mutant that never does is not caught.
fn caught<S: Strategy>(strategy: S, property: impl Fn(S::Value) -> Finding) -> bool {
    let config = Config { cases: 512, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let result = TestRunner::new_with_rng(config, rng)
        .run(&strategy, |value| property(value).map_err(TestCaseError::fail));
    matches!(result, Err(TestError::Fail(..)))
}

#[test]
fn diffing_against_memory_is_caught() {
    assert!(caught((case(), any_coverage()), |(case, coverage)| g2::<Remembers>(&case, &coverage)), "by g2");
    assert!(caught((case(), indices()), |(case, theirs)| g6::<Remembers>(&case, &theirs)), "by g6");
}

#[test]
fn trusting_its_own_writes_is_caught() {
    assert!(caught(case(), |case| g3::<TrustsItsWrites>(&case)), "by g3");
    assert!(caught((case(), indices()), |(case, failing)| g8::<TrustsItsWrites>(&case, &failing)), "by g8");
}

#[test]
fn breaking_before_making_is_caught() {
    assert!(caught((case(), steps()), |(case, at)| g5::<BreaksBeforeMaking>(&case, &at)), "by g5");
}

#[test]
fn walking_the_order_up_is_caught() {
    assert!(caught((case(), steps()), |(case, at)| g5::<WalksUp>(&case, &at)), "by g5");
}

#[test]
fn going_on_over_failures_is_caught() {
    assert!(caught((case(), steps()), |(case, at)| g5::<IgnoresFailures>(&case, &at)), "by g5");
}

#[test]
fn writing_policies_in_any_order_is_caught() {
    assert!(caught((case(), steps()), |(case, at)| g5::<SortsPolicies>(&case, &at)), "by g5");
}

#[test]
fn removing_before_sources_have_synced_is_caught() {
    assert!(caught((case(), 0u8..64), |(case, bits)| g7::<TrustsUnsynced>(&case, SourceSet(bits))), "by g7");
}
