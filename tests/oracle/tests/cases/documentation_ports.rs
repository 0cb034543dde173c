//! What Cilium's policy documentation says of its own examples: ports, modes, default deny, hosts.

use crate::scene::{self, Scene};
use cilium_tests_oracle::{AllowLocalhost, Enforcement};
use serde_json::{Value, json};

fn service() -> Scene {
    Scene::new()
        .pod("red", "app", "10.1.0.1", json!({"app": "myService"}))
        .pod("red", "peer", "10.1.0.2", json!({"app": "peer"}))
        .pod("blue", "web", "10.2.0.1", json!({"app": "web"}))
}

fn ports(ports: Value) -> Scene {
    service().cnp(json!({
        "endpointSelector": {"matchLabels": {"app": "myService"}}, "egress": [{"toPorts": [{"ports": ports}]}],
    }))
}

#[test]
fn a_port_alone_is_for_any_destination() {
    ports(json!([{"port": "80", "protocol": "TCP"}])).check(
        &["red/app > 203.0.113.1 TCP/80", "red/app > red/peer TCP/80", "red/app > host TCP/80"],
        &["red/app > red/peer TCP/81", "red/app > red/peer UDP/80", "red/app > red/peer ICMP/8"],
    );
}

#[test]
fn ranges_include_both_ends() {
    ports(json!([{"port": "80", "endPort": 444, "protocol": "TCP"}])).check(
        &["red/app > red/peer TCP/80", "red/app > red/peer TCP/100", "red/app > red/peer TCP/444"],
        &["red/app > red/peer TCP/79", "red/app > red/peer TCP/445", "red/app > red/peer UDP/100"],
    );
}

#[test]
fn any_protocol_is_each_that_has_ports_and_port_zero_is_all_ports() {
    for any in [json!([{"port": "80", "protocol": "ANY"}]), json!([{"port": "80"}])] {
        ports(any).check(
            &["red/app > red/peer TCP/80", "red/app > red/peer UDP/80", "red/app > red/peer SCTP/80"],
            &["red/app > red/peer ICMP/80", "red/app > red/peer 47/0"],
        );
    }
    ports(json!([{"port": "0", "protocol": "TCP"}])).check(
        &["red/app > red/peer TCP/1", "red/app > red/peer TCP/65535"],
        &["red/app > red/peer UDP/1", "red/app > red/peer ICMP/8"],
    );
    ports(json!([{"port": "0", "protocol": "ANY"}]))
        .check(&["red/app > red/peer TCP/1", "red/app > red/peer ICMP/8", "red/app > red/peer 47/0"], &[]);
    ports(json!([{"port": "0", "protocol": "GRE"}, {"protocol": "VRRP"}]))
        .check(&["red/app > red/peer 47/0", "red/app > red/peer 112/0"], &["red/app > red/peer TCP/1"]);
}

#[test]
fn a_name_is_looked_up_at_the_pod_the_packet_goes_to() {
    let named = ports(json!([{"port": "HTTP", "protocol": "TCP"}, {"port": "dns"}]));
    named.check(
        &["red/app > red/peer TCP/8080", "red/app > blue/web TCP/8080", "red/app > red/peer UDP/53"],
        &[
            "red/app > red/peer TCP/80",
            "red/app > red/peer UDP/8080",
            "red/app > red/peer TCP/53",
            "red/app > 203.0.113.1 TCP/8080",
            "red/app > host TCP/8080",
        ],
    );
    let ingress = service().cnp(json!({
        "endpointSelector": {"matchLabels": {"app": "myService"}},
        "ingress": [{"toPorts": [{"ports": [{"port": "http", "protocol": "TCP"}]}]}],
    }));
    ingress.check(&["203.0.113.1 > red/app TCP/8080"], &["203.0.113.1 > red/app TCP/80"]);
    let deny = service().cnp(json!({
        "endpointSelector": {"matchLabels": {"app": "myService"}},
        "egress": [{"toEntities": ["all"]}],
        "egressDeny": [{"toPorts": [{"ports": [{"port": "http"}]}]}],
    }));
    deny.check(
        &["red/app > red/peer TCP/80", "red/app > 203.0.113.1 TCP/8080"],
        &["red/app > red/peer TCP/8080"],
    );
}

#[test]
fn peers_and_ports_of_one_rule_go_together() {
    let scene = service().cnp(json!({
        "endpointSelector": {"matchLabels": {"app": "myService"}},
        "egress": [
            {"toEndpoints": [{"matchLabels": {"app": "peer"}}], "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]},
            {"toCIDR": ["192.0.2.0/24"], "toPorts": [{"ports": [{"port": "443", "protocol": "TCP"}]}]},
        ],
    }));
    scene.check(
        &["red/app > red/peer TCP/80", "red/app > 192.0.2.7 TCP/443"],
        &["red/app > red/peer TCP/443", "red/app > 192.0.2.7 TCP/80", "red/app > 203.0.113.1 TCP/443"],
    );
}

#[test]
fn icmp_types_are_numbers_or_names_of_their_family() {
    let scene = |fields: Value| {
        service().cnp(json!({"endpointSelector": {"matchLabels": {"app": "myService"}}, "egress": [{"icmps": [{"fields": fields}]}]}))
    };
    for fields in [
        json!([{"type": 8, "family": "IPv4"}, {"type": "EchoRequest", "family": "IPv6"}]),
        json!([{"type": "8"}, {"type": 128, "family": "IPv6"}]),
        json!([{"type": "Echo"}, {"type": "128", "family": "IPv6"}]),
    ] {
        scene(fields).check(
            &["red/app > 203.0.113.1 ICMP/8", "red/app > 2001:db8::1 ICMPv6/128"],
            &[
                "red/app > 203.0.113.1 ICMP/0",
                "red/app > 203.0.113.1 ICMP/128",
                "red/app > 2001:db8::1 ICMPv6/8",
                "red/app > 203.0.113.1 TCP/8",
            ],
        );
    }
    // The type 0 is a type, not all of them.
    scene(json!([{"type": "EchoReply"}]))
        .check(&["red/app > 203.0.113.1 ICMP/0"], &["red/app > 203.0.113.1 ICMP/8"]);
}

/// The table of "Deny Policies": which of the deny rules are there, and what then passes.
#[test]
fn the_table_of_deny_policies() {
    let client = json!([{"matchLabels": {"app": "peer"}}]);
    let port = |port: &str| json!([{"ports": [{"port": port, "protocol": "TCP"}]}]);
    let allow = json!([{"toPorts": port("80")}, {"toPorts": port("81")}, {"fromEndpoints": client}]);
    let by_port = json!({"toPorts": port("80")});
    let by_peer = json!({"fromEndpoints": client});
    for (allow, deny, [to_81, to_80, ping]) in [
        (allow.clone(), json!([]), [true, true, true]),
        (allow.clone(), json!([by_port]), [true, false, true]),
        (allow.clone(), json!([by_peer]), [false, false, false]),
        (allow, json!([by_port, by_peer]), [false, false, false]),
        (json!([]), json!([by_port]), [false, false, false]),
    ] {
        let scene = service().cnp(json!({
            "endpointSelector": {"matchLabels": {"app": "myService"}}, "ingress": allow, "ingressDeny": deny,
        }));
        for (what, wanted) in [("TCP/81", to_81), ("TCP/80", to_80), ("ICMP/8", ping)] {
            let seen = scene.says(&format!("red/peer > red/app {what}"));
            assert_eq!(seen.allowed(), wanted, "{deny}: {what}: {seen:?}");
        }
    }
}

#[test]
fn denying_the_world_leaves_the_cluster_alone() {
    let scene = service().ccnp(json!({
        "endpointSelector": {}, "ingressDeny": [{"fromEntities": ["world"]}], "ingress": [{"fromEntities": ["all"]}],
    }));
    scene.check(
        &["red/peer > red/app TCP/80", "node:there > red/app TCP/80", "host > red/app TCP/80"],
        &["203.0.113.1 > red/app TCP/80", "2001:db8::1 > red/app TCP/80"],
    );
}

#[test]
fn default_deny_can_be_left_out_and_asked_for() {
    let allow_dns = |deny: Value| {
        service().ccnp(json!({
            "endpointSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]},
            "enableDefaultDeny": deny,
            "egress": [{"toPorts": [{"ports": [{"port": "53", "protocol": "UDP"}]}]}],
            "egressDeny": [{"toCIDR": ["20.0.0.0/8"]}],
        }))
    };
    let without = allow_dns(json!({"egress": false, "ingress": false}));
    without
        .check(&["red/app > red/peer UDP/53", "red/app > red/peer TCP/80"], &["red/app > 20.0.0.1 TCP/80"]);
    assert_eq!(without.says("red/app > red/peer TCP/80").egress, cilium_tests_oracle::Decision::NotEnforced);
    allow_dns(json!({})).check(&["red/app > red/peer UDP/53"], &["red/app > red/peer TCP/80"]);
    // Any other policy that asks for it brings it.
    let other = without.ccnp(json!({"endpointSelector": {}, "egress": [{"toEntities": ["host"]}]}));
    other.check(&["red/app > host TCP/80"], &["red/app > red/peer TCP/80"]);
    let both = allow_dns(json!({"ingress": true}));
    both.check(&["203.0.113.1 > blue/web TCP/80"], &["203.0.113.1 > red/app TCP/80"]);
}

#[test]
fn the_own_host_gets_in_unless_told_otherwise() {
    let closed = service().cnp(json!({"endpointSelector": {}, "ingress": [{}], "egress": [{}]}));
    closed.check(&["host > red/app TCP/80"], &["node:there > red/app TCP/80", "red/app > host TCP/80"]);
    closed
        .clone()
        .config(|config| config.allow_localhost = AllowLocalhost::Policy)
        .check(&[], &["host > red/app TCP/80"]);
    let denied = closed.cnp(json!({"endpointSelector": {}, "ingressDeny": [{"fromEntities": ["host"]}]}));
    denied.check(&[], &["host > red/app TCP/80"]);
    // A node is another pod's own host.
    let elsewhere = Scene::new().with(json!({"kind": "Pod", "metadata": {"namespace": "red", "name": "app"},
        "spec": {"nodeName": "there"}, "status": {"podIPs": [{"ip": "10.3.0.1"}]}}));
    let elsewhere = elsewhere.cnp(json!({"endpointSelector": {}, "ingress": [{}]}));
    elsewhere.check(&["node:there > red/app TCP/80"], &["host > red/app TCP/80"]);
}

#[test]
fn enforcement_is_where_policies_are_or_everywhere_or_nowhere() {
    let policy = json!({"endpointSelector": {"matchLabels": {"app": "myService"}}, "ingress": [{"fromEntities": ["world"]}],
                        "egressDeny": [{"toEntities": ["world"]}]});
    let scene = service().cnp(policy);
    scene.check(
        &["203.0.113.1 > red/app TCP/80", "203.0.113.1 > red/peer TCP/80"],
        &["red/peer > red/app TCP/80", "red/app > 203.0.113.1 TCP/80"],
    );
    let always = scene.clone().config(|config| config.enforcement = Enforcement::Always);
    always.check(
        &["203.0.113.1 > red/app TCP/80", "host > red/peer TCP/80"],
        &["203.0.113.1 > red/peer TCP/80", "red/peer > host TCP/1"],
    );
    let never = scene.clone().config(|config| config.enforcement = Enforcement::Never);
    never.check(&["red/peer > red/app TCP/80", "red/app > 203.0.113.1 TCP/80"], &[]);
    let audit = scene.config(|config| config.audit = true).says("red/peer > red/app TCP/80");
    assert!(!audit.allowed() && audit.forwarded());
}

#[test]
fn an_endpoint_without_labels_yet_is_closed() {
    let open = service();
    open.check(&["red/app > health TCP/4240"], &["red/app > init TCP/80", "init > red/app TCP/80"]);
    let rules = json!({"endpointSelector": {"matchLabels": {"reserved:init": ""}}, "egress": [{"toEntities": ["all"]}]});
    open.ccnp(rules).check(&["init > red/app TCP/80"], &["red/app > init TCP/80"]);
}

#[test]
fn host_policies_are_for_nodes_so_labelled_and_only_with_the_host_firewall() {
    let lock_down = service().ccnp(json!({
        "nodeSelector": {"matchLabels": {"role": "worker"}},
        "ingress": [{"fromEntities": ["health"]}, {"toPorts": [{"ports": [{"port": "22", "protocol": "TCP"}]}]}],
    }));
    lock_down.check(&["203.0.113.1 > host TCP/80"], &[]);
    let on = lock_down.config(|config| config.host_firewall = true);
    on.check(
        &[
            "203.0.113.1 > host TCP/22",
            "health > host TCP/80",
            "host > 203.0.113.1 TCP/80",
            "203.0.113.1 > node:there TCP/80",
            "203.0.113.1 > red/app TCP/80",
        ],
        &[
            "203.0.113.1 > host TCP/80",
            "red/app > host TCP/80",
            "node:there > host TCP/80",
            "203.0.113.1 > 192.168.0.1 TCP/80",
        ],
    );
    // No policy of endpoints is ever the host's, and a pod of the host's network is the host.
    let endpoints = service().ccnp(json!({"endpointSelector": {}, "ingress": [{}]}));
    let endpoints = endpoints.config(|config| config.host_firewall = true).with(json!({"kind": "Pod",
        "metadata": {"namespace": "red", "name": "agent"}, "spec": {"hostNetwork": true, "nodeName": "here"}}));
    endpoints.check(
        &["203.0.113.1 > host TCP/80", "203.0.113.1 > red/agent TCP/80"],
        &["203.0.113.1 > red/app TCP/80"],
    );
}

#[test]
fn every_spec_of_specs_is_a_policy() {
    let object = json!({"kind": "CiliumNetworkPolicy", "metadata": {"namespace": "red", "name": "several"}, "specs": [
        {"endpointSelector": {"matchLabels": {"app": "myService"}}, "ingress": [{"fromEntities": ["world"]}]},
        {"endpointSelector": {"matchLabels": {"app": "peer"}}, "egress": [{"toEntities": ["host"]}]},
    ]});
    let scene = service().with(object);
    scene.check(
        &["203.0.113.1 > red/app TCP/80", "203.0.113.1 > red/peer TCP/80", "red/peer > host TCP/80"],
        &["red/peer > red/app TCP/80", "red/peer > 203.0.113.1 TCP/80"],
    );
    let seen = scene.says("203.0.113.1 > red/app TCP/80");
    assert_eq!(scene::decided_by(&seen.ingress), "CiliumNetworkPolicy red/several specs[0].ingress[0]");
}
