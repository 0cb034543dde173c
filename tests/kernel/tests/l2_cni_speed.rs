//! How long CNI ADD takes, beside the fewest netlink messages that make the same pair.

use cilium_tests_kernel::cni::Call;
use cilium_tests_kernel::{Cluster, Netns, Options, floor};
use std::time::{Duration, Instant};

fn long() -> bool {
    std::env::var_os("CILIUM_TEST_LONG").is_some()
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// The plugin's process is part of it: that is what a runtime waits for.
#[test]
fn add_takes_little_longer_than_its_messages() {
    let (pods, measured): (usize, usize) = if long() { (100, 100) } else { (10, 20) };
    let cluster = Cluster::start(&Options { nodes: 1, ..Options::default() });
    let node = &cluster.nodes[0];
    let _there: Vec<_> = (0..pods).map(|n| cluster.pod(0, &format!("there{n}"), "app: there")).collect();
    cluster.settle();
    for n in 0..measured {
        let object = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: new{n}, namespace: default, labels: {{app: there}}}}\nspec: \
             {{nodeName: n1, containers: [{{name: c}}]}}\n"
        );
        cluster.write(&format!("pod-new{n}.yaml"), &object);
    }
    cluster.settle();
    let beside = Netns::new("beside");
    let (mut add, mut del, mut fewest, mut process) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // In turn, so that a busy machine is as busy for all.
    let mut namespaces = Vec::new();
    for n in 0..measured {
        let (pod, other) = (Netns::new("pod"), Netns::new("pod"));
        fewest.push(floor::attach(&beside, &other, u8::try_from(n + 2).expect("few")));
        let timed = |into: &mut Vec<Duration>, command: &str| {
            let began = Instant::now();
            let result = Call::new(node, command, &pod).pod(&format!("new{n}")).run();
            into.push(began.elapsed());
            result.unwrap_or_else(|e| panic!("{command} {n}: {e}\n{}", node.log_tail()));
        };
        timed(&mut process, "VERSION");
        timed(&mut add, "ADD");
        timed(&mut del, "DEL");
        namespaces.extend([pod, other]);
    }
    for list in [&mut add, &mut del, &mut fewest, &mut process] {
        list.sort_unstable();
    }
    let p50 = percentile(&add, 50);
    let floor = percentile(&fewest, 50);
    println!(
        "CNI with {pods} pods there: ADD p50 {p50:?}, p99 {:?}; DEL p50 {:?}; netlink floor {floor:?}; the plugin's process \
         alone (nsenter, VERSION) {:?}; ratio {:.2}",
        percentile(&add, 99),
        percentile(&del, 50),
        percentile(&process, 50),
        p50.as_secs_f64() / floor.as_secs_f64()
    );
    let status = node.cilium(&["status", "-o", "json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("status is JSON");
    println!("last pass: {}", status["last-pass"]);
    if std::env::var_os("CILIUM_TEST_LOG").is_some() {
        println!("{}", std::fs::read_to_string(node.dir.join("agent.log")).expect("the log"));
    }
    // Of a debug build, or a busy machine, only the figures are shown.
    if long() && !cfg!(debug_assertions) {
        assert!(percentile(&add, 99) < Duration::from_millis(100), "ADD p99 {:?}", percentile(&add, 99));
    }
}
