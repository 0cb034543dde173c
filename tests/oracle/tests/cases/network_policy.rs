//! NetworkPolicy where the truth table does not look: inference of directions, blocks, odd ports.

use serde_json::{Value, json};

use crate::scene::Scene;

fn pods() -> Scene {
    Scene::new()
        .pod("red", "a", "10.1.0.1", json!({"app": "a", "pod-template-hash": "x"}))
        .pod("red", "b", "10.1.0.2", json!({"app": "b"}))
        .pod("blue", "a", "10.2.0.1", json!({"app": "a"}))
}

fn policy(spec: Value) -> Scene {
    pods().policy("NetworkPolicy", "red/p", spec)
}

const TO_A: &[&str] = &["red/b > red/a TCP/80"];
const FROM_A: &[&str] = &["red/a > red/b TCP/80"];

#[test]
fn directions_follow_from_the_rules_where_they_are_not_said() {
    let selector = json!({"matchLabels": {"app": "a"}});
    policy(json!({"podSelector": selector})).check(FROM_A, TO_A);
    policy(json!({"podSelector": selector, "egress": [{}]})).check(FROM_A, TO_A);
    policy(
        json!({"podSelector": selector, "egress": [{"to": [{"podSelector": {}}], "ports": [{"port": 1}]}]}),
    )
    .check(&[], &[TO_A[0], FROM_A[0]]);
    policy(json!({"podSelector": selector, "egress": []})).check(FROM_A, TO_A);
    policy(json!({"podSelector": selector, "policyTypes": ["Egress"]})).check(TO_A, FROM_A);
    // Rules of a direction that is not one of the types do nothing, not even where another policy isolates.
    let egress_only = json!({
        "podSelector": selector, "policyTypes": ["Egress"], "ingress": [{"from": [{"podSelector": {}}]}],
    });
    let scene = policy(egress_only);
    scene.check(&[TO_A[0], "203.0.113.1 > red/a TCP/80"], FROM_A);
    scene.policy("NetworkPolicy", "red/q", json!({"podSelector": selector})).check(&[], TO_A);
}

#[test]
fn an_absent_peer_is_everyone_and_an_absent_rule_is_no_one() {
    policy(json!({"podSelector": {}, "ingress": [{}]}))
        .check(&["203.0.113.1 > red/a TCP/80", "blue/a > red/a 47/0"], &[]);
    policy(json!({"podSelector": {}, "ingress": [{"from": [], "ports": []}]}))
        .check(&["203.0.113.1 > red/a TCP/80"], &[]);
    policy(json!({"podSelector": {}, "ingress": []}))
        .check(&["host > red/a TCP/80"], &["203.0.113.1 > red/a TCP/80", TO_A[0]]);
}

#[test]
fn a_namespace_selector_with_a_pod_selector_is_both() {
    let blue = json!({"matchLabels": {"team": "blue"}});
    let from = |peer: Value| {
        policy(json!({"podSelector": {"matchLabels": {"app": "b"}}, "ingress": [{"from": [peer]}]}))
    };
    from(json!({"podSelector": {"matchLabels": {"app": "a"}}}))
        .check(&["red/a > red/b TCP/80"], &["blue/a > red/b TCP/80"]);
    from(json!({"namespaceSelector": blue})).check(&["blue/a > red/b TCP/80"], &["red/a > red/b TCP/80"]);
    from(json!({"namespaceSelector": blue, "podSelector": {"matchLabels": {"app": "b"}}}))
        .check(&[], &["blue/a > red/b TCP/80"]);
    from(json!({"namespaceSelector": {}})).check(
        &["blue/a > red/b TCP/80", "red/a > red/b TCP/80"],
        &["203.0.113.1 > red/b TCP/80", "node:there > red/b TCP/80"],
    );
}

#[test]
fn a_block_is_of_addresses_outside_unless_configured() {
    let scene = policy(json!({"podSelector": {"matchLabels": {"app": "b"}}, "ingress": [{"from": [
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/31"]}}]}]}));
    scene.check(&["10.200.0.1 > red/b TCP/80"], &["blue/a > red/b TCP/80", "10.1.0.0 > red/b TCP/80"]);
    scene
        .config(|config| config.cidr_matches_pods = true)
        .check(&["blue/a > red/b TCP/80"], &["red/a > red/b TCP/80", "node:there > red/b TCP/80"]);
}

#[test]
fn ports_default_to_tcp_and_names_need_their_protocol() {
    let ports = |ports: Value| {
        policy(json!({"podSelector": {"matchLabels": {"app": "a"}}, "ingress": [{"ports": ports}]}))
    };
    ports(json!([{"port": 80}])).check(&["red/b > red/a TCP/80"], &["red/b > red/a UDP/80"]);
    ports(json!([{"protocol": "UDP"}])).check(&["red/b > red/a UDP/80"], &["red/b > red/a TCP/80"]);
    ports(json!([{}])).check(&["red/b > red/a TCP/80"], &["red/b > red/a UDP/80"]);
    ports(json!([{"port": 80, "endPort": 90, "protocol": "SCTP"}]))
        .check(&["red/b > red/a SCTP/90"], &["red/b > red/a SCTP/91"]);
    ports(json!([{"port": "http"}])).check(&["red/b > red/a TCP/8080"], &["red/b > red/a TCP/80"]);
    ports(json!([{"port": "dns"}])).check(&[], &["red/b > red/a UDP/53", "red/b > red/a TCP/53"]);
    ports(json!([{"port": "dns", "protocol": "UDP"}])).check(&["red/b > red/a UDP/53"], &[]);
}

#[test]
fn labels_that_are_no_part_of_the_identity_select_nothing() {
    let scene = policy(json!({"podSelector": {"matchLabels": {"pod-template-hash": "x"}}}));
    scene.check(TO_A, &[]);
    let labels = json!({"beta.kubernetes.io/tier": "x", "team": "grey"});
    let from = |labels: Value| {
        let peer = json!({"namespaceSelector": {"matchLabels": labels}});
        let spec = json!({"podSelector": {"matchLabels": {"app": "b"}}, "ingress": [{"from": [peer]}]});
        policy(spec)
            .with(json!({"kind": "Namespace", "metadata": {"name": "grey", "labels": {"beta.kubernetes.io/tier": "x", "team": "grey"}}}))
            .pod("grey", "a", "10.3.0.1", json!({}))
    };
    from(json!({"team": "grey"})).check(&["grey/a > red/b TCP/80"], &["blue/a > red/b TCP/80"]);
    from(labels).check(&[], &["grey/a > red/b TCP/80"]);
}

#[test]
fn policies_add_up() {
    let scene = policy(json!({"podSelector": {"matchLabels": {"app": "a"}}}))
        .policy("NetworkPolicy", "red/q", json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]}))
        .cnp(json!({"endpointSelector": {}, "ingress": [{"fromEntities": ["world"]}]}));
    scene.check(&["red/b > red/a TCP/80", "203.0.113.1 > red/a UDP/9"], &["red/b > red/a TCP/81"]);
}
