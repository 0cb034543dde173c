//! ClusterNetworkPolicy, AdminNetworkPolicy and BaselineAdminNetworkPolicy, as their API documents them.

use cilium_tests_oracle::Enforcement;
use serde_json::{Value, json};

use crate::scene::{self, Scene};

fn pods() -> Scene {
    Scene::new()
        .pod("red", "a", "10.1.0.1", json!({"app": "a"}))
        .pod("red", "b", "10.1.0.2", json!({"app": "b"}))
        .pod("blue", "a", "10.2.0.1", json!({"app": "a"}))
}

/// A policy for the pods of `red`, with one ingress rule for pods of `blue`.
fn from_blue(tier: &str, priority: u16, action: &str) -> Value {
    json!({
        "tier": tier, "priority": priority, "subject": {"namespaces": {"matchLabels": {"team": "red"}}},
        "ingress": [{"action": action, "from": [{"namespaces": {"matchLabels": {"team": "blue"}}}]}],
    })
}

const ASKED: &str = "blue/a > red/a TCP/80";
const OTHER: &str = "red/b > red/a TCP/80";

fn cluster(scene: Scene, name: &str, spec: Value) -> Scene {
    scene.policy("ClusterNetworkPolicy", name, spec)
}

/// A NetworkPolicy that lets in nobody, or everybody.
fn network_policy(scene: Scene, ingress: Value) -> Scene {
    scene.policy("NetworkPolicy", "red/np", json!({"podSelector": {}, "ingress": ingress}))
}

#[test]
fn nothing_is_put_in_default_deny() {
    for tier in ["Admin", "Baseline"] {
        cluster(pods(), "p", from_blue(tier, 1, "Accept"))
            .check(&[ASKED, OTHER, "203.0.113.1 > red/a TCP/80"], &[]);
        let deny = cluster(pods(), "p", from_blue(tier, 1, "Deny"));
        deny.check(&[OTHER], &[ASKED]);
        assert_eq!(deny.says(ASKED).ingress.drop_reason(), Some(181));
    }
}

#[test]
fn admin_is_before_everything() {
    let accepted = cluster(network_policy(pods(), json!([])), "p", from_blue("Admin", 1, "Accept"));
    accepted.check(&[ASKED], &[OTHER]);
    let denied = cluster(network_policy(pods(), json!([{}])), "p", from_blue("Admin", 1, "Deny"));
    denied.check(&[OTHER], &[ASKED]);
    // Also before a deny of Cilium's.
    let cilium = pods().cnp(json!({"endpointSelector": {}, "ingressDeny": [{"fromEntities": ["all"]}]}));
    cluster(cilium, "p", from_blue("Admin", 1, "Accept")).check(&[ASKED], &[OTHER]);
}

#[test]
fn baseline_is_for_pods_no_policy_selects() {
    cluster(network_policy(pods(), json!([{}])), "p", from_blue("Baseline", 1, "Deny")).check(&[ASKED], &[]);
    cluster(network_policy(pods(), json!([])), "p", from_blue("Baseline", 1, "Accept")).check(&[], &[ASKED]);
    // Selected for egress only: ingress is Baseline's.
    let egress =
        pods().policy("NetworkPolicy", "red/np", json!({"podSelector": {}, "policyTypes": ["Egress"]}));
    cluster(egress, "p", from_blue("Baseline", 1, "Deny")).check(&[], &[ASKED]);
}

#[test]
fn pass_leaves_it_to_the_next_tier() {
    let both = |ingress: Option<Value>| {
        let scene = ingress.into_iter().fold(pods(), network_policy);
        let scene = cluster(scene, "first", from_blue("Admin", 1, "Pass"));
        cluster(scene, "second", from_blue("Admin", 2, "Deny"))
    };
    both(None).check(&[ASKED], &[]);
    both(Some(json!([{}]))).check(&[ASKED], &[]);
    both(Some(json!([]))).check(&[], &[ASKED]);
    let baseline = cluster(both(None), "third", from_blue("Baseline", 1, "Deny"));
    baseline.check(&[], &[ASKED]);
    let passed = cluster(pods(), "first", from_blue("Baseline", 1, "Pass"));
    cluster(passed, "second", from_blue("Baseline", 2, "Deny")).check(&[ASKED], &[]);
}

#[test]
fn lower_priorities_and_earlier_rules_come_first() {
    let scene = |a: u16, b: u16| {
        let scene = cluster(pods(), "a", from_blue("Admin", a, "Deny"));
        cluster(scene, "b", from_blue("Admin", b, "Accept"))
    };
    scene(5, 6).check(&[], &[ASKED]);
    scene(6, 5).check(&[ASKED], &[]);
    let peer = json!({"namespaces": {}});
    let rules = json!([
        {"action": "Accept", "from": [peer], "protocols": [{"tcp": {"destinationPort": {"number": 80}}}]},
        {"action": "Deny", "from": [peer], "protocols": [{"tcp": {"destinationPort": {"range": {"start": 79, "end": 81}}}}]},
        {"action": "Accept", "from": [peer]},
    ]);
    let one = json!({"tier": "Admin", "priority": 0, "subject": {"namespaces": {}}, "ingress": rules});
    let scene = cluster(pods(), "p", one);
    scene.check(
        &["red/b > red/a TCP/80", "red/b > red/a UDP/79"],
        &["red/b > red/a TCP/79", "red/b > red/a TCP/81"],
    );
    let seen = scene.says("red/b > red/a TCP/81");
    assert_eq!(scene::decided_by(&seen.ingress), "ClusterNetworkPolicy p spec.ingress[1]");
    assert_eq!(seen.matched.len(), 2);
}

#[test]
fn the_first_versions_mean_the_same() {
    let rule = |action: &str| {
        json!({"subject": {"pods": {"namespaceSelector": {"matchLabels": {"team": "red"}}, "podSelector": {"matchLabels": {"app": "a"}}}},
               "ingress": [{"action": action, "from": [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "a"}}}}],
                            "ports": [{"portNumber": {"port": 80}}, {"portRange": {"protocol": "UDP", "start": 5, "end": 7}},
                                      {"namedPort": "http"}]}]})
    };
    let mut admin = rule("Deny");
    admin["priority"] = json!(3);
    pods().policy("AdminNetworkPolicy", "p", admin).check(
        &["blue/a > red/b TCP/80", "red/b > red/a TCP/80", "blue/a > red/a TCP/81", "blue/a > red/a UDP/8"],
        &["blue/a > red/a TCP/80", "blue/a > red/a UDP/6", "blue/a > red/a TCP/8080"],
    );
    pods()
        .policy("BaselineAdminNetworkPolicy", "default", rule("Deny"))
        .check(&[], &["blue/a > red/a TCP/80"]);
    let np = network_policy(pods(), json!([{}]));
    np.policy("BaselineAdminNetworkPolicy", "default", rule("Deny")).check(&["blue/a > red/a TCP/80"], &[]);
}

#[test]
fn egress_knows_networks_and_nodes() {
    let deny = |peer: Value| {
        cluster(
            pods(),
            "p",
            json!({"tier": "Admin", "priority": 0, "subject": {"namespaces": {}},
                                    "egress": [{"action": "Deny", "to": [peer]}]}),
        )
    };
    // Networks are of every address, of pods too, and of every protocol.
    deny(json!({"networks": ["10.0.0.0/8"]})).check(
        &["red/a > 203.0.113.1 TCP/80", "red/a > host TCP/80"],
        &["red/a > red/b TCP/80", "red/a > 10.200.0.1 ICMP/8"],
    );
    deny(json!({"networks": ["192.168.0.2/32"]}))
        .check(&["red/a > host TCP/80"], &["red/a > node:there TCP/80"]);
    deny(json!({"nodes": {}}))
        .check(&["red/a > red/b TCP/80"], &["red/a > host TCP/80", "red/a > node:there TCP/80"]);
    deny(json!({"nodes": {"matchLabels": {"role": "worker"}}}))
        .check(&["red/a > node:there TCP/80"], &["red/a > host TCP/80"]);
}

#[test]
fn pods_in_the_network_of_their_node_are_neither_subjects_nor_peers() {
    let agent = json!({"kind": "Pod", "metadata": {"namespace": "blue", "name": "agent", "labels": {"app": "a"}},
                       "spec": {"hostNetwork": true, "nodeName": "there"}});
    let scene = cluster(pods().with(agent), "p", from_blue("Admin", 1, "Deny"));
    scene.check(&["blue/agent > red/a TCP/80"], &[ASKED]);
}

#[test]
fn enforcement_everywhere_comes_after_baseline() {
    let scene = cluster(
        pods(),
        "p",
        json!({"tier": "Baseline", "priority": 0, "subject": {"namespaces": {}},
        "ingress": [{"action": "Accept", "from": [{"namespaces": {"matchLabels": {"team": "blue"}}}]}],
        "egress": [{"action": "Accept", "to": [{"namespaces": {}}]}]}),
    );
    scene.config(|config| config.enforcement = Enforcement::Always).check(&[ASKED], &[OTHER]);
}
