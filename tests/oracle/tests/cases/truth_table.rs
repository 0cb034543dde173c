//! The upstream truth table of NetworkPolicy: every case, every probe.
//!
//! The data is found by `CILIUM_TEST_DATA`; it expects `ipBlock` to match pods' addresses, and leaves a
//! pod's traffic to itself to the reader: a datapath never sees it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use cilium_tests_oracle::{Config, Family, Packet, Party, Protocol, World, verdict};
use serde_json::{Value, json};

const FILE: &str = "networkpolicy-cases.json.gz";

fn cases() -> Option<Vec<Value>> {
    let folder = std::env::var_os("CILIUM_TEST_DATA")?;
    let file = PathBuf::from(folder).join(FILE);
    let unzipped = Command::new("gzip").arg("-dc").arg(&file).output().expect("gzip runs");
    assert!(unzipped.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&unzipped.stderr));
    Some(serde_json::from_slice(&unzipped.stdout).expect("a list of cases"))
}

fn objects(step: &Value) -> Vec<Value> {
    let mut objects: Vec<Value> = step["policies"].as_array().into_iter().flatten().cloned().collect();
    // Some of them leave out what they all are.
    for policy in &mut objects {
        policy["kind"] = json!("NetworkPolicy");
    }
    for (name, labels) in step["namespaces"].as_object().into_iter().flatten() {
        objects.push(json!({"kind": "Namespace", "metadata": {"name": name, "labels": labels}}));
    }
    for pod in step["pods"].as_array().into_iter().flatten() {
        let mut ports = Vec::new();
        for number in [80, 81] {
            for protocol in ["TCP", "UDP", "SCTP"] {
                let name = format!("serve-{number}-{}", protocol.to_lowercase());
                ports.push(json!({"name": name, "containerPort": number, "protocol": protocol}));
            }
        }
        objects.push(json!({
            "kind": "Pod",
            "metadata": {"namespace": pod["NS"], "name": pod["Name"], "labels": pod["Labels"]},
            "spec": {"containers": [{"name": "c", "ports": ports}]},
            "status": {"podIPs": [{"ip": pod["IP"]}]},
        }));
    }
    objects
}

/// `x/a>y/b:TCP/80`
fn packet(probe: &str) -> Packet {
    let party = |text: &str| {
        let (namespace, name) = text.split_once('/').expect("a namespace and a name");
        Party::pod(namespace, name)
    };
    let (from, rest) = probe.split_once('>').expect("a sender");
    let (to, port) = rest.split_once(':').expect("a receiver");
    let (protocol, port) = port.split_once('/').expect("a protocol and a port");
    let protocol = match protocol {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        other => panic!("{other}"),
    };
    Packet {
        from: party(from),
        to: party(to),
        protocol,
        port: port.parse().expect("a port"),
        family: Family::V4,
    }
}

#[test]
fn every_probe_of_every_case_is_as_upstream_says() {
    let Some(cases) = cases() else {
        println!("SKIP: CILIUM_TEST_DATA does not name the folder of {FILE}");
        return;
    };
    let (mut steps, mut probes, mut to_itself) = (0, 0, 0);
    let mut wrong: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for case in &cases {
        for step in case["steps"].as_array().expect("steps") {
            steps += 1;
            let config = Config { cidr_matches_pods: true, ..Config::default() };
            let world = World::new(&objects(step), config, "node");
            for (list, wanted) in [("allowed", true), ("denied", false)] {
                for probe in step[list].as_array().into_iter().flatten() {
                    let probe = probe.as_str().expect("a probe");
                    let packet = packet(probe);
                    probes += 1;
                    let itself = packet.from == packet.to;
                    to_itself += usize::from(itself);
                    let seen = verdict(&world, &packet);
                    if seen.allowed() != (wanted || itself) {
                        let case = case["description"].as_str().unwrap_or_default().to_owned();
                        wrong.entry(case).or_default().push(format!("{probe}: {seen:?}"));
                    }
                }
            }
        }
    }
    println!("{} cases, {steps} steps, {probes} probes ({to_itself} of a pod to itself)", cases.len());
    for (case, probes) in &wrong {
        println!("{case}: {} wrong, first {}", probes.len(), probes[0]);
    }
    assert!(wrong.is_empty(), "{} cases have wrong verdicts", wrong.len());
    assert!(cases.len() >= 230 && probes >= 123_669, "the data is not whole");
}
