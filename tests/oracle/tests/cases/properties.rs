//! What holds in every world.

use cilium_tests_oracle::worlds::{Draft, allow, damage, deny, drafts, policy};
use cilium_tests_oracle::{Decision, Direction, Kind, Packet, World, validate, verdict};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

/// A few of a world's questions.
fn some(draft: &Draft, picks: &[Index]) -> Vec<Packet> {
    let packets = draft.packets();
    picks.iter().map(|pick| packets[pick.index(packets.len())].clone()).collect()
}

/// Worlds to a property; more of them with `CILIUM_TEST_LONG` set.
fn config() -> ProptestConfig {
    let cases = if std::env::var_os("CILIUM_TEST_LONG").is_some() { 5000 } else { 250 };
    ProptestConfig {
        failure_persistence: None,
        max_global_rejects: 10 * cases,
        ..ProptestConfig::with_cases(cases)
    }
}

fn picks() -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), 40)
}

/// Each end's decision before and after.
fn both(before: &World, after: &World, packet: &Packet) -> [(Direction, Decision, Decision); 2] {
    let (before, after) = (verdict(before, packet), verdict(after, packet));
    [(Direction::Egress, before.egress, after.egress), (Direction::Ingress, before.ingress, after.ingress)]
}

fn is_policy(object: &Value) -> bool {
    object["kind"].as_str().is_some_and(|kind| kind.ends_with("NetworkPolicy"))
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn generated_policies_are_sound(draft in drafts()) {
        let world = draft.world();
        prop_assert!(world.findings().is_empty(), "{:?}", world.findings());
    }

    #[test]
    fn an_added_allow_takes_nothing_away(draft in drafts(), added in allow(), picks in picks()) {
        let (before, after) = (draft.world(), draft.with(added).world());
        for packet in some(&draft, &picks) {
            for (direction, before, after) in both(&before, &after, &packet) {
                prop_assert!(!before.passes() || after.passes(), "{packet:?} {direction:?}: {before:?}, then {after:?}");
            }
        }
    }

    #[test]
    fn an_added_policy_takes_away_by_a_deny_or_by_default_deny(draft in drafts(), added in policy(), picks in picks()) {
        let mut added = added;
        added["metadata"]["name"] = json!("added");
        prop_assume!(added["kind"] != "BaselineAdminNetworkPolicy");
        let (before, after) = (draft.world(), draft.with(added.clone()).world());
        for packet in some(&draft, &picks) {
            for (direction, before, after) in both(&before, &after, &packet) {
                if before.passes() && !after.passes() {
                    let by = match &after {
                        Decision::Denied { rule } => rule,
                        Decision::DefaultDenied { by } => by,
                        other => return Err(TestCaseError::fail(format!("{other:?}"))),
                    };
                    // Or the new policy passed the packet on to a tier that drops it.
                    let passes = added["kind"] == "ClusterNetworkPolicy" || added["kind"] == "AdminNetworkPolicy";
                    prop_assert!(by.name == "added" || passes, "{packet:?} {direction:?}: {before:?}, then {after:?}");
                }
            }
        }
    }

    #[test]
    fn an_added_deny_beats_every_allow_but_those_of_administrators(draft in drafts(), added in deny(), picks in picks()) {
        let (before, after) = (draft.world(), draft.with(added).world());
        for packet in some(&draft, &picks) {
            let seen = verdict(&after, &packet);
            for (direction, before, after) in both(&before, &after, &packet) {
                prop_assert!(before.passes() || !after.passes(), "a deny lets through: {packet:?} {direction:?}");
                let matched = seen.matched.iter().any(|m| m.direction == direction && m.rule.name == "added");
                let by_administrator = |decision: &Decision| match decision {
                    Decision::Allowed { rule } => rule.kind == "ClusterNetworkPolicy" || rule.kind == "AdminNetworkPolicy",
                    _ => false,
                };
                if matched && !by_administrator(&after) {
                    prop_assert!(matches!(after, Decision::Denied { .. }), "{packet:?} {direction:?}: {after:?}");
                }
                if !matched {
                    prop_assert_eq!(&before, &after);
                }
            }
        }
    }

    #[test]
    fn the_order_of_objects_says_nothing(draft in drafts(), order in any::<u64>(), picks in picks()) {
        let mut shuffled = draft.clone();
        let mut state = order | 1;
        shuffled.objects.sort_by_cached_key(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 32
        });
        let (before, after) = (draft.world(), shuffled.world());
        for packet in some(&draft, &picks) {
            prop_assert_eq!(verdict(&before, &packet), verdict(&after, &packet));
        }
    }

    #[test]
    fn the_order_of_specs_and_of_their_elements_says_nothing(draft in drafts(), picks in picks()) {
        let mut reversed = draft.clone();
        for object in reversed.objects.iter_mut().filter(|object| is_policy(object)) {
            let ordered = !object["spec"]["subject"].is_null();
            if let Some(specs) = object.get_mut("specs").and_then(Value::as_array_mut) {
                specs.reverse();
            }
            for list in ["ingress", "egress", "ingressDeny", "egressDeny"] {
                let list = object.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
                if let (Some(list), false) = (list, ordered) {
                    list.reverse();
                }
            }
        }
        let (before, after) = (draft.world(), reversed.world());
        for packet in some(&draft, &picks) {
            for (direction, before, after) in both(&before, &after, &packet) {
                prop_assert_eq!(before.drop_reason(), after.drop_reason(), "{:?} {:?}", packet, direction);
            }
        }
    }

    #[test]
    fn names_say_nothing_where_priorities_differ(draft in drafts(), picks in picks()) {
        let mut one = draft.clone();
        for (n, object) in one.objects.iter_mut().enumerate() {
            if !object["spec"]["priority"].is_null() {
                object["spec"]["priority"] = json!(n);
            }
        }
        let mut other = one.clone();
        for (n, object) in other.objects.iter_mut().enumerate().filter(|(_, object)| is_policy(object)) {
            if object["metadata"]["name"] != "default" {
                object["metadata"]["name"] = json!(format!("z{}", 1000 - n));
            }
        }
        let (before, after) = (one.world(), other.world());
        for packet in some(&one, &picks) {
            for (direction, before, after) in both(&before, &after, &packet) {
                prop_assert_eq!(before.drop_reason(), after.drop_reason(), "{:?} {:?}", packet, direction);
            }
        }
    }

    #[test]
    fn a_damaged_policy_never_lets_through_what_passes_without_it_not(
        draft in drafts(), added in policy(), blow in damage(), picks in picks(),
    ) {
        let mut added = added;
        if added["metadata"]["name"].is_null() {
            added["metadata"]["name"] = json!("added");
        }
        prop_assume!(added["kind"] != "BaselineAdminNetworkPolicy");
        blow.apply(&mut added);
        let invalid = validate(&added).iter().any(|finding| finding.kind == Kind::Invalid);
        prop_assume!(invalid);
        let (before, after) = (draft.world(), draft.with(added.clone()).world());
        for packet in some(&draft, &picks) {
            for (direction, before, after) in both(&before, &after, &packet) {
                prop_assert!(before.passes() || !after.passes(), "{added}: {packet:?} {direction:?}: {after:?}");
            }
        }
    }
}

/// Random worlds must not be all alike: every kind of answer comes, from every kind of policy.
#[test]
fn generated_worlds_give_every_answer() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..300 {
        let draft = drafts().new_tree(&mut runner).expect("a world").current();
        let world = draft.world();
        for packet in draft.packets().iter().step_by(7) {
            let verdict = verdict(&world, packet);
            for decision in [verdict.egress, verdict.ingress] {
                let answer = match &decision {
                    Decision::NotEnforced => "not enforced".to_owned(),
                    Decision::Allowed { rule } => format!("allowed by {}", rule.kind),
                    Decision::DefaultDenied { by } => format!("default-denied by {}", by.kind),
                    Decision::Denied { rule } => format!("denied by {}", rule.kind),
                };
                *seen.entry(answer).or_default() += 1;
            }
        }
    }
    println!("{seen:#?}");
    for kind in ["CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy", "NetworkPolicy"] {
        assert!(seen.contains_key(&format!("allowed by {kind}")), "{kind}");
        assert!(seen.contains_key(&format!("default-denied by {kind}")), "{kind}");
    }
    for kind in
        ["ClusterNetworkPolicy", "AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "CiliumNetworkPolicy"]
    {
        assert!(seen.contains_key(&format!("denied by {kind}")), "{kind}");
    }
}
