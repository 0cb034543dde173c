//! How long CNI ADD takes, beside the fewest netlink messages that make the same pair; and what must hold
//! though it is answered as soon as that.

use cilium_tests_kernel::cni::Call;
use cilium_tests_kernel::probe::eventually;
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

/// `reserved:init`: what a pod is of which no object has been read. Its connections fail.
const INIT: u64 = 5;

/// The object is in a file that was written a moment before, and may not be whole yet.
#[test]
fn a_pod_is_known_when_its_add_returns() {
    let cluster = Cluster::start(&Options { nodes: 1, ..Options::default() });
    for n in 0..5 {
        let pod = cluster.pod(0, &format!("known{n}"), "app: known");
        let listed = cluster.nodes[0].cilium(&["endpoint", "list", "-o", "json"]).stdout;
        let listed: serde_json::Value = serde_json::from_slice(&listed).expect("JSON");
        let name = format!("default/{}", pod.name);
        let status = listed.as_array().into_iter().flatten().map(|endpoint| &endpoint["status"]);
        let own = status.clone().find(|status| status["external-identifiers"]["pod-name"] == name.as_str());
        let identity = own.expect("it is listed")["identity"]["id"].as_u64();
        assert!(identity.is_some_and(|id| id != INIT), "{name}: {identity:?}");
    }
    // Of one without an object nobody waits for one.
    let began = Instant::now();
    cluster.attach(0, "unknown");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

/// Pods' programs begin as filters, which is quick, and end at TCX, which costs packets less.
#[test]
fn programs_of_pods_move_to_tcx_when_nobody_waits() {
    let cluster = Cluster::start(&Options { nodes: 1, ..Options::default() });
    let node = &cluster.nodes[0];
    let links = node.pins.join("links");
    if !links.join("cilium_host_egress").exists() {
        println!("SKIP: this kernel has no TCX");
        return;
    }
    let pods: Vec<_> = (0..10).map(|n| cluster.pod(0, &format!("moved{n}"), "app: moved")).collect();
    let at_tcx = || {
        let pins = std::fs::read_dir(&links).expect("the pins of links").flatten();
        pins.filter(|pin| pin.file_name().to_string_lossy().starts_with("lxc")).count()
    };
    assert!(eventually(Duration::from_secs(10), || at_tcx() == pods.len()), "{} at TCX", at_tcx());
    let each = "for link in $(ip -o link | grep -o 'lxc[0-9a-f]*'); do tc filter show dev $link ingress; echo seen; done";
    let filters = node.netns.shell(each).stdout;
    assert_eq!(String::from_utf8_lossy(&filters), "seen\n".repeat(pods.len()));
    assert!(node.plan_is_empty());
    assert!(!node.log().contains("changed by others"), "{}", node.log_tail());
}
