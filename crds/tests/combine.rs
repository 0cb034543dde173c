//! Objects put together: what a policy with an unreadable part does, and that order does not matter.

use cilium_crds::lower::{LowerOptions, Pieces, combine};
use cilium_crds::object::{Object, Reading};
use cilium_crds::read_file;
use cilium_engine::config::InvalidPolicy;

fn objects(text: &str) -> Vec<Object> {
    let readings = read_file(text.as_bytes(), "f.yaml").readings;
    readings
        .into_iter()
        .filter_map(|reading| match reading {
            Reading::Object(object, _) => Some(*object),
            Reading::Nameless(_) | Reading::Other(_) => None,
        })
        .collect()
}

fn pieces(objects: &[Object], invalid: InvalidPolicy) -> Pieces {
    combine(objects, &LowerOptions { node_name: "n1".into(), invalid })
}

#[test]
fn a_policy_with_an_unreadable_or_unsupported_part_is_isolated_or_ignored_as_configured() {
    for file in [include_str!("objects/cnp-broken.yaml"), include_str!("objects/cnp-unsupported.yaml")] {
        let objects = objects(file);
        let isolated = pieces(&objects, InvalidPolicy::Isolate);
        assert!(isolated.rules.iter().any(|rule| rule.default_deny.ingress));
        let ignored = pieces(&objects, InvalidPolicy::Ignore);
        assert!(ignored.rules.is_empty());
        // Nothing goes untold, and that it does nothing is told as well.
        assert!(isolated.problems.iter().all(|p| ignored.problems.contains(p)));
        assert_eq!(ignored.problems.len(), isolated.problems.len() + objects.len());
    }
    let good = objects(include_str!("objects/cnp-good.yaml"));
    assert_eq!(pieces(&good, InvalidPolicy::Ignore), pieces(&good, InvalidPolicy::Isolate));
    assert!(!pieces(&good, InvalidPolicy::Ignore).rules.is_empty());
}

#[test]
fn the_order_of_objects_does_not_matter() {
    let mut all: Vec<Object> = Vec::new();
    for file in [
        include_str!("objects/cluster.yaml"),
        include_str!("objects/np-basic.yaml"),
        include_str!("objects/cnp-good.yaml"),
        include_str!("objects/cnp-broken.yaml"),
    ] {
        all.extend(objects(file));
    }
    let forward = pieces(&all, InvalidPolicy::Isolate);
    all.reverse();
    let mut backward = pieces(&all, InvalidPolicy::Isolate);
    backward.problems.sort();
    let mut sorted = forward.problems.clone();
    sorted.sort();
    assert_eq!(sorted, backward.problems);
    assert_eq!(forward.rules, backward.rules);
    assert_eq!(forward.nodes, backward.nodes);
    assert_eq!(
        (forward.pods, forward.services, forward.slices),
        (backward.pods, backward.services, backward.slices)
    );
    assert_eq!(forward.rules.iter().filter(|r| r.origin.object.starts_with("NetworkPolicy")).count(), 4);
}
