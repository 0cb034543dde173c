//! Programs in drivers of devices: switched on and off, taken off by others, kept out by others', and devices whose
//! drivers cannot or should not run one.

use cilium_tests_kernel::cluster::pass_in_driver;
use cilium_tests_kernel::probe::eventually;
use cilium_tests_kernel::{Cluster, Node, Options};
use serde_json::Value;
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(60);

fn options(acceleration: &str) -> Options {
    let extra = format!("[load_balancer]\nacceleration = \"{acceleration}\"\n");
    Options { nodes: 1, extra, ..Options::default() }
}

/// Changes the configuration of a node whose agent does not run.
fn configure(node: &Node, from: &str, to: &str) {
    let text = std::fs::read_to_string(node.config()).expect("read cilium.toml");
    assert!(text.contains(from), "{from} is not in\n{text}");
    std::fs::write(node.config(), text.replace(from, to)).expect("write cilium.toml");
}

/// Number of the program in the driver of a device.
fn in_driver(node: &Node, device: &str) -> Option<u64> {
    let output = node.netns.shell(&format!("ip -j -d link show {device}"));
    let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let xdp = &shown[0]["xdp"];
    assert!(xdp.is_null() || xdp["mode"] == 1, "in the driver, not imitated: {xdp}");
    xdp["prog"]["id"].as_u64()
}

/// What the status says of a device: whether its driver serves, and the remark.
fn told(node: &Node, device: &str) -> Option<(bool, String)> {
    let status = node.status();
    let row = status["acceleration"].as_array()?.iter().find(|row| row["device"] == device)?.clone();
    Some((row["active"].as_bool()?, row["remark"].as_str().unwrap_or_default().to_owned()))
}

/// Why the row of a device's driver failed.
fn failure(node: &Node, device: &str) -> Option<String> {
    let row = format!("program {device} xdp");
    let status = node.status();
    let failed = status["failed"].as_array()?.iter().find(|failed| failed["row"] == row)?.clone();
    Some(failed["reason"].as_str()?.to_owned())
}

#[test]
fn vm_it_is_repaired_and_taken_off_when_switched_off() {
    let mut cluster = Cluster::start(&options("native"));
    cluster.settle();
    let node = &cluster.nodes[0];
    let first = in_driver(node, "eth0").expect("a program runs in the driver");
    let (active, remark) = told(node, "eth0").expect("the device is listed");
    assert!(active && remark.contains("other end"), "{remark}");

    // Nobody else holds the link: without its pin the kernel takes the program off.
    let pin = node.pins.join("links/eth0_xdp");
    std::fs::remove_file(&pin).expect("remove the pin");
    assert!(
        eventually(WAIT, || pin.exists() && in_driver(node, "eth0") == Some(first)),
        "{}",
        node.log_tail()
    );
    assert!(eventually(WAIT, || told(node, "eth0").is_some_and(|(active, _)| active)));
    cluster.settle();

    let node = &mut cluster.nodes[0];
    node.stop_agent(libc::SIGTERM);
    assert_eq!(in_driver(node, "eth0"), Some(first), "it serves on without the agent");
    configure(node, "\"native\"", "\"disabled\"");
    node.start_agent();
    node.wait_healthy(WAIT);
    assert_eq!((in_driver(node, "eth0"), pin.exists()), (None, false));
    assert_eq!(node.status()["acceleration"], serde_json::json!([]));
    cluster.settle();
}

#[test]
fn anothers_program_stays_and_is_named() {
    let mut cluster = Cluster::prepare(&options("native"));
    let node = &mut cluster.nodes[0];
    let held = pass_in_driver(&node.netns, "eth0");
    let others = in_driver(node, "eth0").expect("it runs");
    node.start_agent();
    assert!(eventually(WAIT, || failure(node, "eth0").is_some()), "{}", node.log_tail());
    let reason = failure(node, "eth0").expect("just seen");
    let named = reason.contains("another program") && reason.contains(&format!("number {others}"));
    assert!(named, "{reason}");
    assert_eq!(told(node, "eth0"), Some((false, String::new())));
    let shown = String::from_utf8_lossy(&node.cilium(&["status"]).stdout).into_owned();
    assert!(shown.contains("Acceleration:  eth0 inactive") && shown.contains(&reason), "{shown}");
    assert_eq!(in_driver(node, "eth0"), Some(others), "it stays");

    // Once it is gone, ours comes.
    drop(held);
    assert!(eventually(WAIT, || told(node, "eth0").is_some_and(|(active, _)| active)), "{}", node.log_tail());
    assert!(in_driver(node, "eth0").is_some_and(|ours| ours != others));
    node.wait_healthy(WAIT);
}

#[test]
fn best_effort_leaves_out_what_cannot_and_native_says_so() {
    let mut cluster = Cluster::prepare(&options("best-effort"));
    let node = &mut cluster.nodes[0];
    // The drivers of taps have XDP, those of bridges have none.
    for (device, kind, net) in
        [("able", "tuntap add able mode tap", 8), ("unable", "link add unable type bridge", 9)]
    {
        node.netns.ip(kind);
        node.netns.ip(&format!("link set {device} up"));
        node.netns.ip(&format!("addr add 10.{net}.0.1/24 dev {device}"));
    }
    configure(node, "[routing]\n", "[routing]\ndevices = [\"eth0\", \"able\", \"unable\"]\n");
    node.start_agent();
    node.wait_healthy(WAIT);
    assert!(eventually(WAIT, || node.plan_is_empty()), "{}", node.log_tail());
    let runs = |node: &Node| ["eth0", "able", "unable"].map(|device| in_driver(node, device).is_some());
    assert_eq!(runs(node), [false, true, false]);
    assert_eq!(told(node, "able"), Some((true, String::new())));
    for (device, why) in [("eth0", "veth"), ("unable", "the driver cannot")] {
        let (active, remark) = told(node, device).expect("the device is listed");
        assert!(!active && remark.contains(why), "{device}: {remark}");
    }

    node.stop_agent(libc::SIGTERM);
    configure(node, "\"best-effort\"", "\"native\"");
    node.start_agent();
    assert!(eventually(WAIT, || failure(node, "unable").is_some()), "{}", node.log_tail());
    let reason = failure(node, "unable").expect("just seen");
    assert!(reason.contains("best-effort"), "{reason}");
    assert_eq!(runs(node), [true, true, false], "the others serve");

    // Back again: the end of a veth pair is left out again.
    node.stop_agent(libc::SIGTERM);
    configure(node, "\"native\"", "\"best-effort\"");
    node.start_agent();
    node.wait_healthy(WAIT);
    assert_eq!(runs(node), [false, true, false]);
}
