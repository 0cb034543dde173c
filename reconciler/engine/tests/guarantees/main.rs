//! The guarantees G1 to G8 of the design, each a property over every kind of row, on a kernel made of
//! values; and mutants of the engine which they must catch.
//!
//! The expanders: inputs reversed, states emptied, steps squashed into one pass, killed at each step,
//! memory dropped, each step failing once.

mod consistent;
mod engines;
mod generate;
mod guarantees;
mod ladders;
mod mutants;
mod traffic;

/// So many cases, or as many as `PROPTEST_CASES` says.
fn config(cases: u32) -> proptest::test_runner::Config {
    let given = proptest::test_runner::Config::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { given.cases } else { cases };
    proptest::test_runner::Config { cases, failure_persistence: None, ..given }
}
