//! Objects put together: what a policy with an unreadable part does, and that order does not matter.

use cilium_crds::lower::{Combined, LowerOptions, Pieces, combine};
use cilium_crds::object::{Object, Reading};
use cilium_crds::read_file;
use cilium_engine::config::InvalidPolicy;
use std::sync::Arc;

fn objects(text: &str) -> Vec<Arc<Object>> {
    let readings = read_file(text.as_bytes(), "f.yaml").readings;
    readings
        .into_iter()
        .filter_map(|reading| match reading {
            Reading::Object(object, _) => Some(Arc::new(*object)),
            Reading::Nameless(_) | Reading::Other(_) => None,
        })
        .collect()
}

fn pieces(objects: &[Arc<Object>], invalid: InvalidPolicy) -> Pieces {
    combine(objects, &LowerOptions { node_name: "n1".into(), invalid })
}

#[test]
fn a_policy_with_an_unreadable_or_unsupported_part_is_isolated_or_ignored_as_configured() {
    for file in [include_str!("objects/cnp-broken.yaml"), include_str!("objects/cnp-unsupported.yaml")] {
        let objects = objects(file);
        let isolated = pieces(&objects, InvalidPolicy::Isolate);
        assert!(isolated.rules.keys().any(|rule| rule.default_deny.ingress));
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
    let mut all: Vec<Arc<Object>> = Vec::new();
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
    let backward = pieces(&all, InvalidPolicy::Isolate);
    assert_eq!(forward, backward);
    assert_eq!(forward.rules.keys().filter(|r| r.origin.object.starts_with("NetworkPolicy")).count(), 4);
}

/// Objects that come, go and change between looks make what they would make by themselves.
#[test]
fn looks_one_after_another_make_what_the_last_one_makes() {
    let mut all: Vec<Arc<Object>> = Vec::new();
    for file in [
        include_str!("objects/cluster.yaml"),
        include_str!("objects/np-basic.yaml"),
        include_str!("objects/cnp-good.yaml"),
        include_str!("objects/cnp-broken.yaml"),
    ] {
        all.extend(objects(file));
    }
    for invalid in [InvalidPolicy::Isolate, InvalidPolicy::Ignore] {
        let options = LowerOptions { node_name: "n1".into(), invalid };
        let mut combined = Combined::new(options.clone());
        let mut before: Vec<Arc<Object>> = Vec::new();
        let without = |of: &[Arc<Object>], others: &[Arc<Object>]| -> Vec<Arc<Object>> {
            of.iter().filter(|o| !others.iter().any(|other| Arc::ptr_eq(o, other))).cloned().collect()
        };
        for n in 0..all.len() * 3 {
            let mut now = all.clone();
            match n % 3 {
                0 => drop(now.remove(n / 3)),
                1 => now.rotate_left(n / 3),
                // Read anew, as it was.
                _ => now[n / 3] = Arc::new(Object::clone(&all[n / 3])),
            }
            let (gone, come) = (without(&before, &now), without(&now, &before));
            assert_eq!(*combined.change(&gone, &come), combine(&now, &options), "{n}");
            before = now;
        }
        assert_eq!(*combined.change(&before, &[]), Pieces::default());
    }
}

/// The cluster autoscaler marks a node that it takes away; a CiliumNode beside it says nothing of that.
#[test]
fn a_node_that_is_taken_away_is_leaving() {
    let node = |more: &str, spec: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: n1{more}}}\nspec: {{{spec}}}\n---\napiVersion: \
             cilium.io/v2\nkind: CiliumNode\nmetadata: {{name: n1}}\nspec: {{ipam: {{podCIDRs: [10.1.0.0/24]}}}}\n"
        )
    };
    for (more, spec, leaving) in [
        ("", "", false),
        ("", "taints: [{key: node.kubernetes.io/not-ready, effect: NoExecute}]", false),
        ("", "taints: [{key: a}, {key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]", true),
        (", deletionTimestamp: \"2026-01-31T12:00:00Z\"", "", true),
    ] {
        let pieces = pieces(&objects(&node(more, spec)), InvalidPolicy::Isolate);
        assert_eq!(pieces.nodes.get("n1").map(|node| node.leaving), Some(leaving), "{more} {spec}");
    }
}
