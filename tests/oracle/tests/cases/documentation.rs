//! What Cilium's policy documentation says of its own examples, layer 3: peers.

use crate::scene::{self, Scene};
use cilium_tests_oracle::CLUSTER_ANNOTATION;
use serde_json::json;

fn two_roles() -> Scene {
    Scene::new()
        .pod("red", "front", "10.1.0.1", json!({"role": "frontend"}))
        .pod("red", "back", "10.1.0.2", json!({"role": "backend"}))
        .pod("red", "other", "10.1.0.3", json!({"role": "other"}))
        .pod("blue", "front", "10.2.0.1", json!({"role": "frontend"}))
        .pod("blue", "back", "10.2.0.2", json!({"role": "backend"}))
}

#[test]
fn an_ingress_rule_lets_in_whom_it_selects_in_its_own_namespace() {
    let scene = two_roles().cnp(json!({
        "endpointSelector": {"matchLabels": {"role": "backend"}},
        "ingress": [{"fromEndpoints": [{"matchLabels": {"role": "frontend"}}]}],
    }));
    scene.check(
        &["red/front > red/back TCP/80", "red/front > red/back ICMP/8", "red/back > red/other TCP/80"],
        &["red/other > red/back TCP/80", "blue/front > red/back TCP/80", "203.0.113.1 > red/back TCP/80"],
    );
    // The policy's namespace has no say over another's pods.
    scene.check(&["red/other > blue/back TCP/80"], &[]);
}

#[test]
fn an_empty_selector_is_everybody_of_the_namespace_an_empty_list_nobody() {
    let everybody = two_roles().cnp(json!({
        "endpointSelector": {"matchLabels": {"role": "backend"}},
        "ingress": [{"fromEndpoints": [{}]}],
    }));
    everybody.check(
        &["red/front > red/back TCP/1", "red/other > red/back UDP/2"],
        &["blue/front > red/back TCP/1", "203.0.113.1 > red/back TCP/1", "node:there > red/back TCP/1"],
    );
    for member in ["fromEndpoints", "fromEntities", "fromCIDR", "fromCIDRSet"] {
        let nobody = two_roles().cnp(json!({
            "endpointSelector": {"matchLabels": {"role": "backend"}},
            "ingress": [{member: [], "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}],
        }));
        nobody.check(&[], &["red/front > red/back TCP/80", "203.0.113.1 > red/back TCP/80"]);
    }
    let beside = two_roles().cnp(json!({
        "endpointSelector": {"matchLabels": {"role": "backend"}},
        "ingress": [{"fromEndpoints": [], "fromCIDR": ["203.0.113.0/24"]}],
    }));
    beside.check(&[], &["red/front > red/back TCP/80", "203.0.113.1 > red/back TCP/80"]);
    let absent = two_roles().cnp(json!({
        "endpointSelector": {"matchLabels": {"role": "backend"}},
        "ingress": [{"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}],
    }));
    absent.check(
        &["red/front > red/back TCP/80", "203.0.113.1 > red/back TCP/80", "blue/front > red/back TCP/80"],
        &["red/front > red/back TCP/81"],
    );
}

#[test]
fn a_rule_that_says_nothing_only_starts_default_deny_in_its_direction() {
    let scene = two_roles().cnp(json!({
        "endpointSelector": {"matchLabels": {"role": "backend"}},
        "egress": [{}],
    }));
    scene.check(
        &["red/front > red/back TCP/80", "red/front > red/other TCP/80"],
        &["red/back > red/front TCP/80", "red/back > 203.0.113.1 TCP/80", "red/back > host TCP/80"],
    );
    assert_eq!(scene.says("red/back > red/front TCP/80").egress.drop_reason(), Some(133));
}

#[test]
fn a_list_of_rules_that_is_empty_is_as_absent() {
    let scene = two_roles().cnp(json!({
        "endpointSelector": {"matchLabels": {"role": "backend"}},
        "ingress": [],
        "egress": [{"toEntities": ["all"]}],
    }));
    scene.check(&["red/front > red/back TCP/80", "red/back > 203.0.113.1 UDP/53"], &[]);
}

#[test]
fn a_deny_beats_every_allow() {
    let scene = two_roles().cnp(json!({
        "endpointSelector": {"matchLabels": {"role": "frontend"}},
        "egress": [{"toEntities": ["all"]}],
        "egressDeny": [{"toEndpoints": [{"matchLabels": {"role": "backend"}}]}],
    }));
    scene.check(
        &["red/front > red/other TCP/80", "red/front > blue/back TCP/80"],
        &["red/front > red/back TCP/80"],
    );
    let seen = scene.says("red/front > red/back TCP/80");
    assert_eq!(seen.egress.drop_reason(), Some(181));
    assert_eq!(scene::decided_by(&seen.egress), "CiliumNetworkPolicy red/p9 spec.egressDeny[0]");
    assert_eq!(seen.matched.len(), 2, "the allow matches too: {seen:?}");
}

#[test]
fn other_namespaces_are_reached_by_naming_them() {
    for peer in [
        json!({"matchLabels": {"role": "frontend", "k8s:io.kubernetes.pod.namespace": "blue"}}),
        json!({"matchLabels": {"role": "frontend", "io.kubernetes.pod.namespace": "blue"}}),
        json!({"matchLabels": {"role": "frontend", "k8s:io.cilium.k8s.namespace.labels.team": "blue"}}),
        json!({"matchLabels": {"role": "frontend"}, "matchExpressions": [
            {"key": "k8s:io.kubernetes.pod.namespace", "operator": "NotIn", "values": ["red"]}]}),
    ] {
        let scene = two_roles().cnp(json!({
            "endpointSelector": {"matchLabels": {"role": "backend"}}, "ingress": [{"fromEndpoints": [peer]}],
        }));
        scene.check(
            &["blue/front > red/back TCP/80"],
            &["red/front > red/back TCP/80", "blue/back > red/back TCP/80"],
        );
    }
    // The subject cannot be taken elsewhere.
    let scene = two_roles().cnp(json!({
        "endpointSelector": {"matchLabels": {"k8s:io.kubernetes.pod.namespace": "blue"}}, "ingress": [{}],
    }));
    scene.check(&["red/front > blue/back TCP/80"], &["blue/front > red/back TCP/80"]);
}

#[test]
fn a_cluster_wide_policy_means_pods_of_all_namespaces_and_nothing_else() {
    let scene = two_roles().ccnp(json!({
        "endpointSelector": {"matchLabels": {"role": "backend"}}, "ingress": [{"fromEndpoints": [{}]}],
    }));
    scene.check(
        &["blue/front > red/back UDP/53", "red/front > blue/back UDP/53"],
        &["203.0.113.1 > red/back UDP/53", "node:there > red/back UDP/53", "health > red/back TCP/4240"],
    );
}

#[test]
fn a_cluster_wide_policy_means_pods_also_where_any_cluster_is_meant() {
    let any = two_roles().config(|config| config.default_local_cluster = false).ccnp(json!({
        "endpointSelector": {"matchLabels": {"role": "backend"}}, "ingress": [{"fromEndpoints": [{}]}],
    }));
    any.check(
        &["blue/front > red/back UDP/53"],
        &["203.0.113.1 > red/back UDP/53", "node:there > red/back UDP/53"],
    );
    // For endpoints without labels it cannot ask for a namespace.
    let init = any.ccnp(json!({
        "endpointSelector": {"matchLabels": {"reserved:init": ""}}, "ingress": [{"fromEndpoints": [{}]}],
    }));
    init.check(&["203.0.113.1 > init UDP/53", "blue/front > init UDP/53"], &[]);
}

#[test]
fn service_accounts_are_labels() {
    let scene = two_roles().cnp(json!({
        "endpointSelector": {"matchLabels": {"io.cilium.k8s.policy.serviceaccount": "back"}},
        "ingress": [{"fromEndpoints": [{"matchLabels": {"io.cilium.k8s.policy.serviceaccount": "front"}}]}],
    }));
    scene.check(&["red/front > red/back TCP/80"], &["red/other > red/back TCP/80"]);
}

#[test]
fn selectors_mean_this_cluster_unless_they_name_one() {
    let annotations = json!({CLUSTER_ANNOTATION: "far"});
    let far = |scene: Scene| {
        scene.with(json!({"kind": "Pod", "status": {"podIPs": [{"ip": "10.9.0.1"}]}, "spec": {"nodeName": "there"},
            "metadata": {"namespace": "red", "name": "far", "labels": {"role": "frontend"}, "annotations": annotations}}))
    };
    let policy = |peer| json!({"endpointSelector": {}, "ingress": [{"fromEndpoints": [peer]}]});
    let plain = far(two_roles()).cnp(policy(json!({"matchLabels": {"role": "frontend"}})));
    plain.check(&["red/front > red/back TCP/80"], &["red/far > red/back TCP/80"]);
    let any = plain.config(|config| config.default_local_cluster = false);
    any.check(&["red/front > red/back TCP/80", "red/far > red/back TCP/80"], &[]);
    let named = far(two_roles()).cnp(policy(json!({"matchLabels": {"io.cilium.k8s.policy.cluster": "far"}})));
    named.check(&["red/far > red/back TCP/80"], &["red/front > red/back TCP/80"]);
    let cluster =
        far(two_roles()).cnp(json!({"endpointSelector": {}, "ingress": [{"fromEntities": ["cluster"]}]}));
    cluster.check(&["blue/front > red/back TCP/80"], &["red/far > red/back TCP/80"]);
    let mesh = far(two_roles())
        .cnp(json!({"endpointSelector": {}, "ingress": [{"fromEntities": ["cluster-mesh"]}]}));
    mesh.check(
        &["blue/front > red/back TCP/80", "red/far > red/back TCP/80"],
        &["203.0.113.1 > red/back TCP/80"],
    );
}

#[test]
fn entities_are_who_they_are() {
    let everybody = [
        ("host", "host"),
        ("remote-node", "node:there"),
        ("health", "health"),
        ("init", "init"),
        ("ingress", "ingress"),
        ("unmanaged", "unmanaged"),
        ("kube-apiserver", "198.51.100.6"),
        ("world-ipv4", "203.0.113.1"),
        ("world-ipv6", "2001:db8::1"),
        ("", "blue/front"),
    ];
    let apiserver = json!({"kind": "EndpointSlice", "endpoints": [{"addresses": ["198.51.100.6"]}],
        "metadata": {"namespace": "default", "name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}}});
    let scene = |entity: &str| {
        let policy = json!({"endpointSelector": {"matchLabels": {"role": "backend"}},
                            "egress": [{"toEntities": [entity]}]});
        two_roles().with(apiserver.clone()).cnp(policy)
    };
    for (entity, allowed) in [
        ("host", vec!["host"]),
        ("remote-node", vec!["node:there"]),
        ("health", vec!["health"]),
        ("init", vec!["init"]),
        ("ingress", vec!["ingress"]),
        ("unmanaged", vec!["unmanaged"]),
        ("kube-apiserver", vec!["198.51.100.6"]),
        ("world", vec!["198.51.100.6", "203.0.113.1", "2001:db8::1"]),
        ("world-ipv4", vec!["198.51.100.6", "203.0.113.1"]),
        ("world-ipv6", vec!["2001:db8::1"]),
        (
            "cluster",
            vec![
                "host",
                "node:there",
                "health",
                "init",
                "ingress",
                "unmanaged",
                "198.51.100.6",
                "blue/front",
            ],
        ),
        ("all", everybody.iter().map(|(_, party)| *party).collect()),
        ("none", vec![]),
    ] {
        for (_, party) in everybody {
            let seen = scene(entity).says(&format!("red/back > {party} TCP/443"));
            assert_eq!(seen.egress.passes(), allowed.contains(&party), "{entity}: {party}: {seen:?}");
        }
    }
}

#[test]
fn an_api_server_on_a_node_is_that_node_too() {
    let apiserver = json!({"kind": "EndpointSlice", "endpoints": [{"addresses": ["192.168.0.2"]}],
        "metadata": {"namespace": "default", "name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}}});
    for entity in ["kube-apiserver", "remote-node", "cluster"] {
        let scene = two_roles().with(apiserver.clone()).cnp(json!({
            "endpointSelector": {"matchLabels": {"role": "backend"}}, "egress": [{"toEntities": [entity]}],
        }));
        scene.check(
            &["red/back > node:there TCP/6443", "red/back > 192.168.0.2 TCP/6443"],
            &["red/back > 203.0.113.1 TCP/1"],
        );
    }
}

#[test]
fn reserved_labels_can_be_selected_without_a_namespace() {
    let scene = two_roles().cnp(json!({
        "endpointSelector": {"matchLabels": {"role": "backend"}},
        "egress": [{"toEndpoints": [{"matchLabels": {"reserved:remote-node": ""}}]}],
    }));
    scene
        .check(&["red/back > node:there TCP/80"], &["red/back > host TCP/80", "red/back > red/front TCP/80"]);
}

#[test]
fn prefixes_are_of_the_world_outside() {
    let scene = two_roles().cnp(json!({
        "endpointSelector": {"matchLabels": {"role": "backend"}},
        "egress": [{"toCIDR": ["20.1.1.1/32"]}, {"toCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.96.0.0/12"]}]}],
    }));
    scene.check(
        &["red/back > 20.1.1.1 TCP/80", "red/back > 10.200.0.1 TCP/80", "red/back > 10.95.255.255 TCP/80"],
        &[
            "red/back > 20.1.1.2 TCP/80",
            "red/back > 10.96.0.1 TCP/80",
            "red/back > 10.111.255.255 TCP/80",
            "red/back > red/front TCP/80",
            "red/back > 2001:db8::1 TCP/80",
        ],
    );
    scene.config(|config| config.cidr_matches_pods = true).check(&["red/back > red/front TCP/80"], &[]);
    let nodes = two_roles().cnp(json!({
        "endpointSelector": {"matchLabels": {"role": "backend"}}, "egress": [{"toCIDR": ["192.168.0.0/24"]}],
    }));
    nodes.check(
        &["red/back > 192.168.0.99 TCP/80"],
        &["red/back > node:there TCP/80", "red/back > host TCP/80"],
    );
    let matched = nodes.config(|config| config.cidr_matches_nodes = true);
    matched.check(&["red/back > node:there TCP/80"], &["red/back > host TCP/80"]);
}

#[test]
fn an_exception_is_of_its_own_rule_only() {
    let scene = two_roles().cnp(json!({
        "endpointSelector": {"matchLabels": {"role": "backend"}},
        "egress": [{"toCIDRSet": [{"cidr": "20.0.0.0/8", "except": ["20.1.0.0/16"]}]}, {"toCIDR": ["20.1.2.0/24"]}],
    }));
    scene.check(&["red/back > 20.1.2.3 TCP/80"], &["red/back > 20.1.3.3 TCP/80"]);
}

#[test]
fn groups_of_prefixes_are_named_or_selected() {
    let group = |name: &str, tier: &str, prefix: &str| {
        json!({"kind": "CiliumCIDRGroup", "metadata": {"name": name, "labels": {"tier": tier}},
               "spec": {"externalCIDRs": [prefix]}})
    };
    let scene = |peer| {
        let scene =
            two_roles().with(group("vpn", "gold", "20.0.0.0/8")).with(group("lab", "lead", "30.0.0.0/8"));
        scene.cnp(json!({"endpointSelector": {"matchLabels": {"role": "backend"}}, "ingress": [{"fromCIDRSet": [peer]}]}))
    };
    scene(json!({"cidrGroupRef": "vpn", "except": ["20.1.0.0/16"]})).check(
        &["20.2.0.1 > red/back TCP/80"],
        &["20.1.0.1 > red/back TCP/80", "30.0.0.1 > red/back TCP/80"],
    );
    scene(json!({"cidrGroupSelector": {"matchLabels": {"tier": "lead"}}}))
        .check(&["30.0.0.1 > red/back TCP/80"], &["20.2.0.1 > red/back TCP/80"]);
    scene(json!({"cidrGroupSelector": {"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["gold"]}]}}))
        .check(&["30.0.0.1 > red/back TCP/80"], &["20.2.0.1 > red/back TCP/80", "40.0.0.1 > red/back TCP/80"]);
    scene(json!({"cidrGroupRef": "absent"})).check(&[], &["20.2.0.1 > red/back TCP/80"]);
}

#[test]
fn services_stand_for_their_pods_or_their_addresses() {
    let service = |namespace: &str, name: &str, labels: serde_json::Value, selector: serde_json::Value| {
        json!({"kind": "Service", "metadata": {"namespace": namespace, "name": name, "labels": labels},
               "spec": {"selector": selector}})
    };
    let slice = json!({"kind": "EndpointSlice", "endpoints": [{"addresses": ["20.1.1.1"]}, {"addresses": ["10.1.0.1"]}],
        "metadata": {"namespace": "red", "name": "ext-1", "labels": {"kubernetes.io/service-name": "ext"}}});
    let scene = |peer| {
        two_roles()
            .with(service("blue", "front", json!({"env": "staging"}), json!({"role": "frontend"})))
            .with(service("red", "ext", json!({}), json!(null)))
            .with(slice.clone())
            .cnp(json!({"endpointSelector": {"matchLabels": {"role": "backend"}}, "egress": [{"toServices": [peer]}]}))
    };
    for by in [
        json!({"k8sService": {"serviceName": "front", "namespace": "blue"}}),
        json!({"k8sService": {"serviceName": "front"}}),
        json!({"k8sServiceSelector": {"selector": {"matchLabels": {"env": "staging"}}, "namespace": "blue"}}),
        json!({"k8sServiceSelector": {"selector": {"matchLabels": {"env": "staging"}}}}),
    ] {
        scene(by).check(
            &["red/back > blue/front TCP/80"],
            &["red/back > red/front TCP/80", "red/back > blue/back TCP/80", "red/back > 20.1.1.1 TCP/80"],
        );
    }
    // Without selector: the addresses, as a CIDR rule has them, so not those of pods.
    scene(json!({"k8sService": {"serviceName": "ext", "namespace": "red"}})).check(
        &["red/back > 20.1.1.1 TCP/80"],
        &["red/back > 20.1.1.2 TCP/80", "red/back > red/front TCP/80"],
    );
    scene(json!({"k8sService": {"serviceName": "absent", "namespace": "red"}}))
        .check(&[], &["red/back > 20.1.1.1 TCP/80", "red/back > blue/front TCP/80"]);
}

#[test]
fn nodes_are_selected_by_their_labels() {
    let scene = two_roles().cnp(json!({
        "endpointSelector": {"matchLabels": {"role": "backend"}},
        "egress": [{"toNodes": [{"matchLabels": {"role": "control-plane"}}]}],
    }));
    scene
        .check(&["red/back > node:there TCP/80"], &["red/back > host TCP/80", "red/back > red/front TCP/80"]);
}
