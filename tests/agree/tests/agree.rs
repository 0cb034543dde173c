//! Every question of random worlds.

use cilium_tests_agree::{Engine, Outcome, enforced};
use cilium_tests_oracle::worlds::{Draft, drafts};
use cilium_tests_oracle::{Direction, verdict};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// The objects that matter to people.
fn told(draft: &Draft) -> String {
    let matters = |kind: &str| kind == "Pod" || kind.ends_with("Policy");
    let objects = draft.objects.iter().filter(|o| o["kind"].as_str().is_some_and(matters));
    objects.map(|object| format!("{object}\n")).collect()
}

fn compare(draft: &Draft) -> Result<usize, TestCaseError> {
    let (world, engine) = (draft.world(), Engine::of(draft));
    let mut asked = 0;
    for packet in draft.packets().iter().filter(|packet| packet.from != packet.to) {
        let said = verdict(&world, packet);
        for (direction, decision) in [(Direction::Egress, &said.egress), (Direction::Ingress, &said.ingress)]
        {
            let Some(outcome) = engine.verdict(packet, direction) else { continue };
            asked += 1;
            let expected = decision.drop_reason().map_or(Outcome::Passes, Outcome::Drops);
            prop_assert_eq!(
                outcome,
                expected,
                "{:?} {:?}: {:?}\n{:?}\n{}",
                direction,
                packet,
                decision,
                draft.config,
                told(draft)
            );
        }
    }
    Ok(asked)
}

#[test]
fn rows_say_what_the_documentation_says() {
    let cases = if std::env::var_os("CILIUM_TEST_LONG").is_some() { 5000 } else { 200 };
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(cases) });
    let (asked, left_out) = (Cell::new(0), RefCell::new(BTreeMap::<String, usize>::new()));
    let done = runner.run(&drafts(), |draft| {
        let (draft, out) = enforced(&draft);
        for why in out {
            *left_out.borrow_mut().entry(why).or_default() += 1;
        }
        asked.set(asked.get() + compare(&draft)?);
        Ok(())
    });
    println!("{} questions asked, left out: {:#?}", asked.get(), left_out.borrow());
    if let Err(why) = done {
        panic!("{why}");
    }
}
