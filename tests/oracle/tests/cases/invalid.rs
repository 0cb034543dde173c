//! What the documentation forbids is found, with its path; and what an invalid object then does.

use cilium_tests_oracle::{Finding, Invalid, Kind, validate};
use serde_json::{Value, json};

use crate::scene::Scene;

fn found(object: &Value) -> Vec<(String, Kind)> {
    validate(object).into_iter().map(|Finding { path, kind, .. }| (path, kind)).collect()
}

#[track_caller]
fn finds(kind: &str, spec: Value, path: &str) {
    let namespace =
        if kind.starts_with("Cilium") || kind == "NetworkPolicy" { json!("red") } else { Value::Null };
    let object = json!({"kind": kind, "metadata": {"namespace": namespace, "name": "default"}, "spec": spec});
    let found = found(&object);
    assert!(found.contains(&(path.to_owned(), Kind::Invalid)), "{object}: {found:?}");
}

fn cnp(direction: &str, element: Value, path: &str) {
    finds("CiliumNetworkPolicy", json!({"endpointSelector": {}, direction: [element]}), path);
}

#[test]
fn members_that_cannot_be_combined() {
    cnp("ingress", json!({"fromEndpoints": [{}], "fromEntities": ["all"]}), "spec.ingress[0]");
    cnp(
        "egress",
        json!({"toCIDR": ["10.0.0.0/8"], "toServices": [{"k8sService": {"serviceName": "s"}}]}),
        "spec.egress[0]",
    );
    cnp("egressDeny", json!({"toCIDR": ["10.0.0.0/8"], "toEntities": ["world"]}), "spec.egressDeny[0]");
    let ports = json!([{"ports": [{"port": "80"}]}]);
    cnp("ingress", json!({"toPorts": ports, "icmps": [{"fields": [{"type": 8}]}]}), "spec.ingress[0].icmps");
    finds(
        "CiliumNetworkPolicy",
        json!({"endpointSelector": {}, "nodeSelector": {}, "ingress": [{}]}),
        "spec",
    );
    finds("CiliumNetworkPolicy", json!({"ingress": [{}]}), "spec");
    finds("CiliumNetworkPolicy", json!({"nodeSelector": {}, "ingress": [{}]}), "spec.nodeSelector");
    finds("CiliumNetworkPolicy", json!({"endpointSelector": {}}), "spec");
    cnp(
        "ingress",
        json!({"fromCIDRSet": [{"cidr": "10.0.0.0/8", "cidrGroupRef": "g"}]}),
        "spec.ingress[0].fromCIDRSet[0]",
    );
    cnp("ingress", json!({"fromCIDRSet": [{"except": []}]}), "spec.ingress[0].fromCIDRSet[0]");
}

#[test]
fn values_that_cannot_be() {
    for (element, path) in [
        (json!({"fromEntities": ["wrold"]}), "fromEntities[0]"),
        (json!({"fromCIDR": ["10.0.0.0/33"]}), "fromCIDR[0]"),
        (json!({"fromCIDRSet": [{"cidr": "10.0.0.1"}]}), "fromCIDRSet[0].cidr"),
        (
            json!({"fromCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}]}),
            "fromCIDRSet[0].except[0]",
        ),
        (
            json!({"fromCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.0.0.0/7"]}]}),
            "fromCIDRSet[0].except[0]",
        ),
        (json!({"fromEndpoints": {}}), "fromEndpoints"),
        (json!({"fromEndpoints": [{"matchLabels": {"app": ["a"]}}]}), "fromEndpoints[0].matchLabels.app"),
        (json!({"toPorts": [{"ports": [{"port": "65536"}]}]}), "toPorts[0].ports[0].port"),
        (json!({"toPorts": [{"ports": [{"port": 80}]}]}), "toPorts[0].ports[0].port"),
        (json!({"toPorts": [{"ports": [{"protocol": "TCP"}]}]}), "toPorts[0].ports[0].port"),
        (
            json!({"toPorts": [{"ports": [{"port": "80", "protocol": "TPC"}]}]}),
            "toPorts[0].ports[0].protocol",
        ),
        (json!({"toPorts": [{"ports": [{"port": "80", "endPort": 79}]}]}), "toPorts[0].ports[0].endPort"),
        (json!({"toPorts": [{"ports": [{"port": "5", "protocol": "GRE"}]}]}), "toPorts[0].ports[0].port"),
        (json!({"icmps": [{"fields": [{"type": 256}]}]}), "icmps[0].fields[0].type"),
        (json!({"icmps": [{"fields": [{"type": "PacketTooBig"}]}]}), "icmps[0].fields[0].type"),
        (json!({"icmps": [{"fields": [{"type": 8, "family": "ipv4"}]}]}), "icmps[0].fields[0].family"),
    ] {
        cnp("ingress", element.clone(), &format!("spec.ingress[0].{path}"));
    }
}

#[test]
fn more_than_forty_ports_or_types() {
    let ports: Vec<Value> = (1..=41).map(|port: u16| json!({"port": port.to_string()})).collect();
    cnp("ingress", json!({"toPorts": [{"ports": ports}]}), "spec.ingress[0].toPorts[0].ports");
    cnp("ingressDeny", json!({"toPorts": [{"ports": ports}]}), "spec.ingressDeny[0].toPorts[0].ports");
    let fields: Vec<Value> = (0..41).map(|kind| json!({"type": kind})).collect();
    cnp("ingress", json!({"icmps": [{"fields": fields}]}), "spec.ingress[0].icmps[0].fields");
}

#[test]
fn layer_seven_where_it_cannot_be() {
    let http = json!({"http": [{"path": "/"}]});
    let with = |ports: Value, rules: &Value| json!({"toPorts": [{"ports": ports, "rules": rules}]});
    cnp(
        "ingressDeny",
        with(json!([{"port": "80", "protocol": "TCP"}]), &http),
        "spec.ingressDeny[0].toPorts[0].rules",
    );
    cnp(
        "ingress",
        with(json!([{"port": "80", "protocol": "UDP"}]), &http),
        "spec.ingress[0].toPorts[0].rules",
    );
    cnp(
        "ingress",
        with(json!([{"port": "0", "protocol": "TCP"}]), &http),
        "spec.ingress[0].toPorts[0].rules",
    );
    let dns = json!({"dns": [{"matchPattern": "*"}]});
    cnp("ingress", with(json!([{"port": "53"}]), &dns), "spec.ingress[0].toPorts[0].rules.dns");
    cnp("egress", json!({"toPorts": [{"rules": dns}]}), "spec.egress[0].toPorts[0].rules.dns");
    let both = json!({"http": [], "dns": []});
    cnp("egress", with(json!([{"port": "53", "protocol": "TCP"}]), &both), "spec.egress[0].toPorts[0].rules");
    cnp("egressDeny", json!({"toFQDNs": [{"matchName": "a.example"}]}), "spec.egressDeny[0].toFQDNs");
    let host =
        json!({"nodeSelector": {}, "ingress": [with(json!([{"port": "80", "protocol": "TCP"}]), &http)]});
    finds("CiliumClusterwideNetworkPolicy", host, "spec.ingress[0].toPorts[0].rules");
}

#[test]
fn what_is_not_in_the_api() {
    cnp("ingress", json!({"fromRequires": [{}]}), "spec.ingress[0].fromRequires");
    cnp("egress", json!({"toRequires": [{}]}), "spec.egress[0].toRequires");
    cnp(
        "ingress",
        json!({"toPorts": [{"ports": [], "rules": {"icmp": []}}]}),
        "spec.ingress[0].toPorts[0].rules.icmp",
    );
    finds(
        "CiliumNetworkPolicy",
        json!({"endpointSelector": {}, "egressGateway": {}, "egress": [{}]}),
        "spec.egressGateway",
    );
    finds("NetworkPolicy", json!({"podSelector": {}, "endpointSelector": {}}), "spec.endpointSelector");
}

#[test]
fn network_policies_that_the_api_server_refuses() {
    for (element, path) in [
        (json!({"from": [{}]}), "from[0]"),
        (json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}), "from[0].ipBlock"),
        (
            json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}]}),
            "from[0].ipBlock.except[0]",
        ),
        (json!({"from": [{"ipBlock": {}}]}), "from[0].ipBlock.cidr"),
        (json!({"ports": [{"endPort": 80}]}), "ports[0].endPort"),
        (json!({"ports": [{"port": "http", "endPort": 80}]}), "ports[0].endPort"),
        (json!({"ports": [{"port": 80, "endPort": 79}]}), "ports[0].endPort"),
        (json!({"ports": [{"port": "80"}]}), "ports[0].port"),
        (json!({"ports": [{"port": 0}]}), "ports[0].port"),
        (json!({"ports": [{"protocol": "tcp"}]}), "ports[0].protocol"),
    ] {
        finds(
            "NetworkPolicy",
            json!({"podSelector": {}, "ingress": [element]}),
            &format!("spec.ingress[0].{path}"),
        );
    }
    finds("NetworkPolicy", json!({"podSelector": {}, "policyTypes": ["ingress"]}), "spec.policyTypes[0]");
}

#[test]
fn policies_of_tiers_out_of_bounds() {
    let spec = |rule: Value| json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": [rule]});
    let to = json!([{"namespaces": {}}]);
    for (rule, path) in [
        (json!({"action": "Allow", "to": to}), "spec.egress[0].action"),
        (json!({"action": "Accept"}), "spec.egress[0].to"),
        (json!({"action": "Accept", "to": []}), "spec.egress[0].to"),
        (json!({"action": "Accept", "to": [{}]}), "spec.egress[0].to[0]"),
        (
            json!({"action": "Deny", "to": [{"domainNames": ["a.example"]}]}),
            "spec.egress[0].to[0].domainNames",
        ),
        (json!({"action": "Deny", "to": [{"networks": ["10.0.0.0"]}]}), "spec.egress[0].to[0].networks[0]"),
        (json!({"action": "Deny", "to": to, "protocols": []}), "spec.egress[0].protocols"),
        (json!({"action": "Deny", "to": to, "protocols": [{"tcp": {}}]}), "spec.egress[0].protocols[0].tcp"),
        (
            json!({"action": "Deny", "to": [{"networks": ["10.0.0.0/8"]}], "protocols": [{"destinationNamedPort": "http"}]}),
            "spec.egress[0]",
        ),
    ] {
        finds("ClusterNetworkPolicy", spec(rule), path);
    }
    finds(
        "ClusterNetworkPolicy",
        json!({"tier": "admin", "priority": 1, "subject": {"namespaces": {}}}),
        "spec.tier",
    );
    finds(
        "ClusterNetworkPolicy",
        json!({"tier": "Admin", "priority": 1001, "subject": {"namespaces": {}}}),
        "spec.priority",
    );
    finds("ClusterNetworkPolicy", json!({"tier": "Admin", "priority": 1, "subject": {}}), "spec.subject");
    finds("AdminNetworkPolicy", json!({"subject": {"namespaces": {}}}), "spec.priority");
}

#[test]
fn what_is_above_layer_four_is_no_error_and_grants_nothing() {
    let element =
        json!({"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{}]}}]});
    let spec = json!({"endpointSelector": {}, "ingress": [element, {"fromEntities": ["health"]}]});
    let object =
        json!({"kind": "CiliumNetworkPolicy", "metadata": {"namespace": "red", "name": "p"}, "spec": spec});
    assert_eq!(found(&object), [("spec.ingress[0].toPorts[0].rules".to_owned(), Kind::Unsupported)]);
    let scene = Scene::new().pod("red", "a", "10.1.0.1", json!({})).with(object);
    // The other rule is not touched.
    scene.check_unsound(&["health > red/a TCP/80"], &["203.0.113.1 > red/a TCP/80"]);
}

fn pods() -> Scene {
    Scene::new().pod("red", "a", "10.1.0.1", json!({"app": "a"})).pod(
        "red",
        "b",
        "10.1.0.2",
        json!({"app": "b"}),
    )
}

#[test]
fn an_invalid_policy_closes_what_it_is_for_and_denies_what_it_denies() {
    let spec = json!({
        "endpointSelector": {"matchLabels": {"app": "a"}},
        "ingress": [{"fromEntities": ["wrold"]}, {"fromEndpoints": [{"matchLabels": {"app": "b"}}]}],
        "ingressDeny": [{"fromCIDR": ["20.0.0.0/8"]}],
    });
    let scene = pods().cnp(spec);
    scene.check_unsound(&["red/a > red/b TCP/80"], &["red/b > red/a TCP/80", "20.0.0.1 > red/a TCP/80"]);
    assert_eq!(scene.says("20.0.0.1 > red/a TCP/80").ingress.drop_reason(), Some(181));
    // Another policy's allows hold, its denies too.
    let beside = scene.clone().cnp(json!({"endpointSelector": {}, "ingress": [{"fromEntities": ["world"]}]}));
    beside.check_unsound(&["30.0.0.1 > red/a TCP/80"], &["20.0.0.1 > red/a TCP/80"]);
    let by_rule = scene.clone().config(|config| config.invalid = Invalid::IsolateRule);
    by_rule.check_unsound(&["red/b > red/a TCP/80"], &["30.0.0.1 > red/a TCP/80"]);
    let ignored = scene.config(|config| config.invalid = Invalid::Ignore);
    ignored.check_unsound(&["red/b > red/a TCP/80", "20.0.0.1 > red/a TCP/80"], &[]);
}

#[test]
fn a_deny_that_cannot_be_read_denies_its_widest_reading() {
    let deny = |element: Value| {
        pods().cnp(
            json!({"endpointSelector": {"matchLabels": {"app": "a"}}, "enableDefaultDeny": {"ingress": false},
                          "ingressDeny": [element]}),
        )
    };
    let port = json!([{"ports": [{"port": "80", "protocol": "TCP"}]}]);
    deny(json!({"fromEntities": ["wrold"], "toPorts": port}))
        .check_unsound(&["red/b > red/a TCP/81"], &["red/b > red/a TCP/80", "30.0.0.1 > red/a TCP/80"]);
    deny(json!({"fromCIDR": ["30.0.0.0/8"], "toPorts": [{"ports": [{"port": "eighty!"}]}]}))
        .check_unsound(&["red/b > red/a TCP/81"], &["30.0.0.1 > red/a TCP/80", "30.0.0.1 > red/a ICMP/8"]);
    // Rules above layer 4 cannot narrow a deny: the port is denied.
    deny(json!({"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": []}}]}))
        .check_unsound(&["red/b > red/a TCP/81"], &["red/b > red/a TCP/80"]);
    deny(json!({"fromRequires": [{}]})).check_unsound(&[], &["red/b > red/a TCP/81"]);
}

#[test]
fn nobody_is_closed_by_a_selector_that_cannot_be_read_nor_is_the_host() {
    let unreadable = pods().cnp(json!({"endpointSelector": {"matchLabels": {"app": 1}}, "ingress": [{}]}));
    unreadable.check_unsound(&["red/b > red/a TCP/80"], &[]);
    let host = pods().config(|config| config.host_firewall = true);
    let host = host.ccnp(json!({"nodeSelector": {}, "ingress": [{"fromEntities": ["wrold"]}]}));
    host.check_unsound(&["30.0.0.1 > host TCP/22"], &[]);
}

#[test]
fn a_rule_of_the_tiers_that_cannot_be_read_denies_all_or_accepts_nothing() {
    let rule = |action: &str| {
        pods().policy("ClusterNetworkPolicy", "p", json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
            "ingress": [{"action": action, "from": [{"namespaces": {"matchLabels": {"team": "blue"}}}, {"gateways": {}}]}]}))
    };
    for action in ["Deny", "Pass"] {
        rule(action).check_unsound(&[], &["red/b > red/a TCP/80", "30.0.0.1 > red/a UDP/1"]);
    }
    rule("Accept").check_unsound(&["red/b > red/a TCP/80", "30.0.0.1 > red/a UDP/1"], &[]);
}

#[test]
fn a_pass_of_an_invalid_policy_passes_nothing_by_a_later_deny() {
    let everyone = json!([{"namespaces": {}}]);
    let deny = json!({"tier": "Admin", "priority": 2, "subject": {"namespaces": {}},
                      "ingress": [{"action": "Deny", "from": everyone}]});
    let pass = |priority: Value| {
        json!({"tier": "Admin", "priority": priority, "subject": {"namespaces": {}},
               "ingress": [{"action": "Pass", "from": everyone}, {"action": "Allow", "from": everyone}]})
    };
    let scene = pods().policy("ClusterNetworkPolicy", "later", deny).policy(
        "ClusterNetworkPolicy",
        "p",
        pass(json!(1)),
    );
    scene.check_unsound(&[], &["red/b > red/a TCP/80"]);
    scene
        .config(|config| config.invalid = Invalid::IsolateRule)
        .check_unsound(&["red/b > red/a TCP/80"], &[]);
}
