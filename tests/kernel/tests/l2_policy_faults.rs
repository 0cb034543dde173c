//! Policies that cannot be read, and identity numbers claimed twice: what was in force stays, what was
//! never good closes its subjects and nobody else, and nobody is taken for another.

use cilium_tests_kernel::policy_cases::Probe;
use cilium_tests_kernel::policy_cases::stage::{PATIENCE, Stage};
use cilium_tests_kernel::probe::eventually;
use cilium_tests_kernel::{Node, Options};
use serde_json::Value;

fn probe(text: &str) -> Probe {
    Probe::parse(text)
}

#[track_caller]
fn expect(stage: &Stage, when: &str, expected: &[(&'static str, bool)]) {
    let wrong = std::thread::scope(|scope| {
        let ask = |(text, passes): &(&'static str, bool)| {
            let (probe, passes) = (probe(text), *passes);
            scope.spawn(move || (probe, stage.ask(0, probe) == passes))
        };
        let asked: Vec<_> = expected.iter().map(ask).collect();
        let answers =
            asked.into_iter().map(|thread| thread.join().expect("the right one answers, or nobody"));
        answers.filter(|(_, right)| !right).map(|(probe, _)| probe.to_string()).collect::<Vec<_>>()
    });
    assert!(wrong.is_empty(), "{when}: not as expected: {}", wrong.join(", "));
}

fn json(node: &Node, args: &[&str]) -> Value {
    let output = node.cilium(args);
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("cilium {args:?}: {e}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Waits until `status` has a problem with this file that says where in it: `file:line`.
#[track_caller]
fn told(stage: &Stage, file: &str, when: &str) {
    for node in &stage.cluster.nodes {
        let status = || json(node, &["status", "-o", "json"]);
        let has_line = |place: &str| {
            place
                .split_once(&format!("{file}:"))
                .is_some_and(|(_, line)| line.starts_with(|c: char| c.is_ascii_digit()))
        };
        let about = |status: &Value| {
            let problems = status["problems"].as_array().cloned().unwrap_or_default();
            problems.iter().any(|p| p["origin"]["place"].as_str().is_some_and(has_line))
        };
        assert!(
            eventually(PATIENCE, || about(&status())),
            "{when}: {} does not tell of {file}: {}",
            node.name,
            status()["problems"]
        );
    }
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: {name}\n  namespace: lane0\nspec: \
         {spec}\n"
    )
}

const ONLY_FAR: &str =
    "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEndpoints: [{matchLabels: {app: far}}]}]}";
const ONLY_NEAR: &str =
    "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEndpoints: [{matchLabels: {app: near}}]}]}";

#[test]
fn a_policy_that_breaks_keeps_its_last_good_version_and_one_never_good_fails_closed() {
    let mut stage = Stage::set(&Options::default(), 1);
    stage.put("held.yaml", &policy("held", ONLY_FAR));
    let held = [("near>web tcp/80 v4", false), ("far>web tcp/80 v4", true), ("far>near tcp/80 v6", true)];
    expect(&stage, "in force", &held);
    for (how, yaml) in [
        ("no YAML", policy("held", "{endpointSelector: {matchLabels: [")),
        ("an unknown field", policy("held", &ONLY_NEAR.replace("fromEndpoints", "fromEndpoint"))),
        ("a wrong type", policy("held", &ONLY_NEAR.replace("{matchLabels: {app: near}}", "near"))),
    ] {
        stage.put("held.yaml", &yaml);
        told(&stage, "held.yaml", how);
        expect(&stage, how, &held);
    }
    let node = &mut stage.cluster.nodes[0];
    node.stop_agent(libc::SIGKILL);
    node.start_agent();
    node.wait_healthy(PATIENCE);
    stage.settle();
    told(&stage, "held.yaml", "restarted while broken");
    expect(&stage, "restarted while broken", &held);
    stage.put("held.yaml", &policy("held", ONLY_NEAR));
    expect(&stage, "mended", &[("near>web tcp/80 v4", true), ("far>web tcp/80 v4", false)]);
    stage.put("held.yaml", &policy("held", "{"));
    stage.take("held.yaml");
    let open = [("near>web tcp/80 v4", true), ("far>web udp/80 v6", true), ("out-a>web tcp/80 v4", true)];
    expect(&stage, "removed while broken", &open);

    // Never good, as an operator first writes it.
    stage.put("new.yaml", &policy("new", &ONLY_FAR.replace("fromEndpoints", "fromEndpoint")));
    told(&stage, "new.yaml", "an allow rule with an unknown field");
    let closed = [
        ("near>web tcp/80 v4", false),
        ("far>web udp/80 v6", false),
        ("host1>web tcp/80 v4", true),
        ("web>far tcp/80 v4", true),
        ("web>near icmp v6", true),
        ("far>near tcp/80 v4", true),
        ("host2>far udp/80 v6", true),
    ];
    expect(&stage, "an allow rule with an unknown field closes what it is about", &closed);
    stage.take("new.yaml");
    expect(&stage, "removed", &open);

    let no_port = "{endpointSelector: {matchLabels: {app: web}}, enableDefaultDeny: {ingress: false}, ingressDeny: \
                      [{fromEndpoints: [{matchLabels: {app: near}}], toPorts: [{ports: [{port: \"99999\", protocol: TCP}]}]}]}";
    stage.put("new.yaml", &policy("new", no_port));
    told(&stage, "new.yaml", "a deny rule with a part that cannot be read");
    let denied = [
        ("near>web tcp/443 v4", false),
        ("near>web udp/80 v6", false),
        ("far>web tcp/443 v4", true),
        ("near>far tcp/443 v4", true),
    ];
    expect(&stage, "a deny rule with a part that cannot be read denies its widest reading", &denied);

    let selector = ONLY_FAR.replace("{matchLabels: {app: web}}", "{matchLabels: {app: [web]}}");
    stage.put("new.yaml", &policy("fresh", &selector));
    told(&stage, "new.yaml", "a selector that cannot be read");
    expect(&stage, "a selector that cannot be read selects nobody", &open);

    stage.put("new.yaml", &policy("fresh", "{endpointSelector: {"));
    told(&stage, "new.yaml", "no YAML, never seen");
    expect(&stage, "no YAML, never seen", &open);
}

/// Identity of a pod, from the node it is on, and its labels.
fn identity(node: &Node, pod: &str) -> (u64, Vec<String>) {
    let endpoints = json(node, &["endpoint", "list", "-o", "json"]);
    let mut endpoints = endpoints.as_array().expect("a list").iter();
    let named = |e: &&Value| e["status"]["external-identifiers"]["pod-name"] == pod;
    let endpoint = endpoints.find(named).unwrap_or_else(|| panic!("no endpoint {pod}"));
    let identity = &endpoint["status"]["identity"];
    let labels = identity["labels"].as_array().expect("labels").iter();
    (
        identity["id"].as_u64().expect("a number"),
        labels.filter_map(|l| l.as_str().map(str::to_owned)).collect(),
    )
}

/// A CiliumIdentity of pods with the labels of `near`, but for their `app`.
fn claim(number: u64, labels: &[String], app: &str, publisher: Option<&str>) -> String {
    let annotations =
        publisher.map_or_else(String::new, |p| format!(", annotations: {{cilium.io/published-by: {p}}}"));
    let mut yaml = format!(
        "apiVersion: cilium.io/v2\nkind: CiliumIdentity\nmetadata: {{name: \"{number}\"{annotations}}}\nsecurity-labels:\n"
    );
    for label in labels {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        let value = if key == "k8s:app" { app } else { value };
        yaml.push_str(&format!("  \"{key}\": \"{value}\"\n"));
    }
    yaml
}

/// Lets pods with these values of `app` in to `web` here and to `odd` on the other node.
fn let_in(apps: &str) -> String {
    policy(
        "who",
        &format!(
            "{{endpointSelector: {{matchLabels: {{tier: back}}}}, ingress: [{{fromEndpoints: [{{matchExpressions: \
             [{{key: app, operator: In, values: [{apps}]}}]}}]}}]}}"
        ),
    )
}

#[track_caller]
fn reaches(stage: &Stage, when: &str, passes: bool) {
    std::thread::scope(|scope| {
        for text in ["near>web tcp/80 v4", "near>odd tcp/80 v4", "near>web udp/80 v6", "near>odd udp/80 v6"] {
            scope.spawn(move || {
                // What one node publishes the other has to read first.
                let right = eventually(PATIENCE, || stage.ask(0, probe(text)) == passes);
                assert!(right, "{when}: {text}: not {passes}");
            });
        }
    });
}

#[test]
fn a_number_claimed_for_two_label_sets_selects_nobody_until_one_has_moved() {
    let stage = Stage::set(&Options::default(), 1);
    let here = &stage.cluster.nodes[0];
    let (mut number, labels) = identity(here, "lane0/near");
    stage.put("who.yaml", &let_in("near"));
    reaches(&stage, "no clash", true);
    let (mut kept, mut moved) = (0, 0);
    // Which of the two moves is a matter of hashes: some rival comes before `near`, and some after.
    for n in 0..24 {
        if kept > 0 && moved > 0 {
            break;
        }
        let rival = format!("rival-{n}");
        stage.put("rival.yaml", &claim(number, &labels, &rival, Some("n9")));
        let (now, same) = identity(here, "lane0/near");
        assert_eq!(labels, same, "labels are not what moves");
        if now == number && kept > 0 {
            kept += 1;
        } else if now == number {
            kept += 1;
            stage.put("who.yaml", &let_in(&format!("near, {rival}")));
            reaches(&stage, "a number claimed twice selects nobody", false);
            stage.put("rival.yaml", &claim(number ^ 1, &labels, &rival, Some("n9")));
            stage.put("who.yaml", &let_in("near"));
            reaches(&stage, "the other has moved", true);
        } else {
            moved += 1;
            let published = stage.cluster.manifests.join("published");
            let file = |number| published.join(format!("n1.ciliumidentity.{number}.yaml"));
            assert!(file(now).exists() && !file(number).exists(), "the claim moved from {number} to {now}");
            number = now;
            reaches(&stage, "this one has moved", true);
            stage.put("who.yaml", &let_in(&rival));
            reaches(&stage, "it is nobody else", false);
            stage.put("who.yaml", &let_in("near"));
        }
    }
    assert!(kept > 0 && moved > 0, "of 24 rivals {kept} had to move, and {moved} moved `near`");

    stage.put("rival.yaml", &claim(number, &labels, "rival", None));
    let (now, _) = identity(here, "lane0/near");
    assert_ne!(now, number, "a claim that no node published never moves");
    reaches(&stage, "moved past a claim written by hand", true);
    println!("identity clashes: {kept} kept their number, {} moved", moved + 1);
}
