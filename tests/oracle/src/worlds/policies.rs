//! Random policies of every kind.

use std::ops::Range;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};

use super::NAMESPACES;

const PREFIXES: [&str; 10] = [
    "0.0.0.0/0",
    "20.0.0.0/8",
    "20.1.0.0/16",
    "20.1.1.0/24",
    "20.1.1.1/32",
    "10.0.0.0/16",
    "192.168.0.2/32",
    "::/0",
    "2001:db8::/32",
    "2001:db8:1::/48",
];

const ENTITIES: [&str; 14] = [
    "all",
    "world",
    "world-ipv4",
    "world-ipv6",
    "cluster",
    "cluster-mesh",
    "host",
    "remote-node",
    "init",
    "ingress",
    "unmanaged",
    "health",
    "kube-apiserver",
    "none",
];

/// A policy of any kind, without a name.
pub fn policy() -> BoxedStrategy<Value> {
    let cilium = |kind: &'static str| {
        let one = rule(kind).prop_map(|spec| ("spec", spec));
        let several = prop::collection::vec(rule(kind), 1..=2).prop_map(|specs| ("specs", json!(specs)));
        prop_oneof![3 => one, 1 => several].prop_map(move |(member, spec)| object(kind, member, spec))
    };
    let of_namespace = (cilium("CiliumNetworkPolicy"), select(NAMESPACES.to_vec()));
    let network = (network_policy(), select(NAMESPACES.to_vec()));
    let of_cluster = |kind: &'static str| tiered(kind).prop_map(move |spec| object(kind, "spec", spec));
    let in_namespace = |(mut object, namespace): (Value, &str)| {
        object["metadata"] = json!({"namespace": namespace});
        object
    };
    prop_oneof![
        6 => of_namespace.prop_map(in_namespace),
        4 => cilium("CiliumClusterwideNetworkPolicy"),
        4 => network.prop_map(move |(spec, namespace)| in_namespace((object("NetworkPolicy", "spec", spec), namespace))),
        3 => of_cluster("ClusterNetworkPolicy"),
        1 => of_cluster("AdminNetworkPolicy"),
        1 => of_cluster("BaselineAdminNetworkPolicy").prop_map(|mut object| {
            object["metadata"] = json!({"name": "default"});
            object
        }),
    ]
    .boxed()
}

/// A cluster-wide policy that allows, and puts nobody in default deny.
pub fn allow() -> BoxedStrategy<Value> {
    one_sided("ingress", "egress")
}

/// A cluster-wide policy that denies, and puts nobody in default deny.
pub fn deny() -> BoxedStrategy<Value> {
    one_sided("ingressDeny", "egressDeny")
}

fn one_sided(ingress: &'static str, egress: &'static str) -> BoxedStrategy<Value> {
    (selector(Keys::Subject), list(element("from")), list(element("to")))
        .prop_map(move |(subject, from, to)| {
            let spec = json!({"endpointSelector": subject, ingress: from, egress: to,
                              "enableDefaultDeny": {"ingress": false, "egress": false}});
            let mut object = object("CiliumClusterwideNetworkPolicy", "spec", spec);
            object["metadata"] = json!({"name": "added"});
            object
        })
        .boxed()
}

fn object(kind: &str, member: &str, spec: Value) -> Value {
    json!({"kind": kind, "metadata": {}, member: spec})
}

/// Labels of a pod; the last is none of its identity's.
pub(super) fn labels() -> impl Strategy<Value = Value> {
    let value = |values: &'static [&'static str]| prop::option::weighted(0.8, select(values));
    (value(&["a", "b", "c"]), value(&["x", "y"]), value(&["h"])).prop_map(|(app, env, hash)| {
        let all = [("app", app), ("env", env), ("pod-template-hash", hash)];
        let there = all.into_iter().filter_map(|(key, value)| Some((key.to_owned(), json!(value?))));
        Value::Object(there.collect::<Map<_, _>>())
    })
}

pub(super) fn prefixes(sizes: Range<usize>) -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(PREFIXES.to_vec(), sizes)
}

#[derive(Clone, Copy, PartialEq)]
enum Keys {
    Identity,
    /// Of pods, as a Cilium policy's subject names them.
    Subject,
    Pod,
    Namespace,
    Node,
    Object,
}

/// Keys that make sense there, each with its values.
fn keys(of: Keys) -> Vec<(&'static str, &'static [&'static str])> {
    const APP: &[&str] = &["a", "b", "c"];
    const ENV: &[&str] = &["x", "y"];
    match of {
        Keys::Identity => vec![
            ("app", APP),
            ("k8s:app", APP),
            ("any:env", ENV),
            ("env", ENV),
            ("pod-template-hash", &["h"]),
            ("k8s:io.kubernetes.pod.namespace", &NAMESPACES),
            ("io.kubernetes.pod.namespace", &NAMESPACES),
            ("io.cilium.k8s.namespace.labels.team", &["one", "two"]),
            ("io.cilium.k8s.policy.serviceaccount", &["reader", "writer"]),
            ("io.cilium.k8s.policy.cluster", &["default", "far"]),
            ("reserved:host", &[""]),
            ("reserved:remote-node", &[""]),
            ("reserved:world", &[""]),
            ("cidr:20.0.0.0/8", &[""]),
            ("cidrgroup:env", ENV),
        ],
        Keys::Subject => vec![
            ("app", APP),
            ("k8s:env", ENV),
            ("any:env", ENV),
            ("io.cilium.k8s.policy.serviceaccount", &["reader", "writer"]),
            ("io.cilium.k8s.namespace.labels.team", &["one", "two"]),
            ("reserved:health", &[""]),
        ],
        Keys::Pod => vec![("app", APP), ("env", ENV), ("pod-template-hash", &["h"])],
        Keys::Namespace => vec![("team", &["one", "two"]), ("kubernetes.io/metadata.name", &NAMESPACES)],
        Keys::Node => vec![("role", &["worker", "control"]), ("kubernetes.io/hostname", &["here", "there"])],
        Keys::Object => vec![("env", ENV)],
    }
}

fn selector(of: Keys) -> BoxedStrategy<Value> {
    let requirement = select(keys(of)).prop_flat_map(|(key, values)| {
        let some = subsequence(values, 1..=values.len());
        (Just(key), select(values), some, 0..8_u8)
    });
    // Few requirements, or little would be selected.
    let count = prop_oneof![4 => Just(0_usize), 5 => Just(1), 2 => Just(2), 1 => Just(3)];
    count
        .prop_flat_map(move |count| prop::collection::vec(requirement.clone(), count))
        .prop_map(|requirements| {
            let (mut labels, mut expressions) = (Map::new(), Vec::new());
            for (key, value, values, how) in requirements {
                match how {
                    0 => expressions.push(json!({"key": key, "operator": "In", "values": values})),
                    1 => expressions.push(json!({"key": key, "operator": "NotIn", "values": values})),
                    2 => expressions.push(json!({"key": key, "operator": "Exists"})),
                    3 => expressions.push(json!({"key": key, "operator": "DoesNotExist"})),
                    _ => drop(labels.insert(key.to_owned(), json!(value))),
                }
            }
            let mut selector = Map::new();
            if !labels.is_empty() {
                selector.insert("matchLabels".to_owned(), Value::Object(labels));
            }
            if !expressions.is_empty() {
                selector.insert("matchExpressions".to_owned(), json!(expressions));
            }
            Value::Object(selector)
        })
        .boxed()
}

fn list(item: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    let count = prop_oneof![2 => Just(0_usize), 5 => Just(1), 3 => Just(2)];
    count
        .prop_flat_map(move |count| prop::collection::vec(item.clone(), count))
        .prop_map(Value::Array)
        .boxed()
}

/// One `spec` of a Cilium policy.
fn rule(kind: &'static str) -> BoxedStrategy<Value> {
    let lists = (list(element("from")), list(element("from")), list(element("to")), list(element("to")));
    let default_deny = prop::option::weighted(0.2, (any::<Option<bool>>(), any::<Option<bool>>()));
    let host = prop::bool::weighted(if kind == "CiliumClusterwideNetworkPolicy" { 0.3 } else { 0.0 });
    let subjects = (selector(Keys::Subject), selector(Keys::Node), host);
    (subjects, lists, default_deny)
        .prop_map(|((endpoints, nodes, host), (ingress, ingress_deny, egress, egress_deny), default_deny)| {
            let mut spec = Map::new();
            let (member, subject) =
                if host { ("nodeSelector", nodes) } else { ("endpointSelector", endpoints) };
            spec.insert(member.to_owned(), subject);
            // Denies are rarer, or little would pass.
            let lists = [("ingress", ingress), ("egress", egress)];
            let denies = [("ingressDeny", ingress_deny), ("egressDeny", egress_deny)];
            spec.extend(lists.map(|(name, list)| (name.to_owned(), list)));
            let one = |(_, list): &(&str, Value)| list.as_array().is_some_and(|list| list.len() == 1);
            spec.extend(denies.into_iter().filter(one).map(|(name, list)| (name.to_owned(), list)));
            let empty = |name: &str| spec.get(name).and_then(Value::as_array).is_none_or(Vec::is_empty);
            if ["ingress", "egress", "ingressDeny", "egressDeny"].into_iter().all(empty) {
                spec.insert("ingress".to_owned(), json!([{}]));
            }
            if let Some((ingress, egress)) = default_deny {
                spec.insert("enableDefaultDeny".to_owned(), json!({"ingress": ingress, "egress": egress}));
            }
            Value::Object(spec)
        })
        .boxed()
}

/// One element of a list of rules; `side` is `from` or `to`.
fn element(side: &'static str) -> BoxedStrategy<Value> {
    let member = move |name: &str| format!("{side}{name}");
    let peer = |name: &str, items: BoxedStrategy<Value>| {
        let name = member(name);
        list(items).prop_map(move |items| Some((name.clone(), items))).boxed()
    };
    let mut peers = vec![
        (3, Just(None).boxed()),
        (6, peer("Endpoints", selector(Keys::Identity))),
        (3, peer("Entities", select(ENTITIES.to_vec()).prop_map(|name| json!(name)).boxed())),
        (2, peer("CIDR", select(PREFIXES.to_vec()).prop_map(|prefix| json!(prefix)).boxed())),
        (3, peer("CIDRSet", cidr_rule())),
        (1, peer("Nodes", selector(Keys::Node))),
    ];
    if side == "to" {
        peers.push((2, peer("Services", service())));
    }
    let ports = prop_oneof![
        4 => Just(None),
        4 => list(ports()).prop_map(|items| Some(("toPorts", json!([{"ports": items}])))),
        1 => Just(Some(("toPorts", json!([])))),
        2 => list(icmp()).prop_map(|fields| Some(("icmps", json!([{"fields": fields}])))),
    ];
    (proptest::strategy::Union::new_weighted(peers), ports)
        .prop_map(|(peers, ports)| {
            let mut element: Map<String, Value> = peers.into_iter().collect();
            element.extend(ports.map(|(name, ports)| (name.to_owned(), ports)));
            Value::Object(element)
        })
        .boxed()
}

fn cidr_rule() -> BoxedStrategy<Value> {
    let nested = select(vec![
        ("20.0.0.0/8", vec!["20.1.0.0/16"]),
        ("20.0.0.0/8", vec!["20.1.1.0/24", "20.1.1.1/32"]),
        ("20.1.0.0/16", vec!["20.1.0.0/16"]),
        ("0.0.0.0/0", vec!["10.0.0.0/16", "20.0.0.0/8"]),
        ("2001:db8::/32", vec!["2001:db8:1::/48"]),
        ("::/0", vec![]),
    ]);
    let except = prefixes(0..2);
    let labelled = (selector(Keys::Object), prefixes(0..2));
    prop_oneof![
        nested.prop_map(|(cidr, except)| json!({"cidr": cidr, "except": except})),
        (select(vec!["first", "second", "absent"]), except)
            .prop_map(|(name, except)| json!({"cidrGroupRef": name, "except": except})),
        labelled.prop_map(|(selector, except)| json!({"cidrGroupSelector": selector, "except": except})),
    ]
    .boxed()
}

fn service() -> BoxedStrategy<Value> {
    let namespace = prop::option::of(select(NAMESPACES.to_vec()));
    let named = (select(vec!["inside", "outside", "absent"]), namespace.clone());
    prop_oneof![
        named.prop_map(|(name, namespace)| json!({"k8sService": {"serviceName": name, "namespace": namespace}})),
        (selector(Keys::Object), namespace).prop_map(
            |(selector, namespace)| json!({"k8sServiceSelector": {"selector": selector, "namespace": namespace}})
        ),
    ]
    .boxed()
}

fn ports() -> BoxedStrategy<Value> {
    let port = select(vec!["0", "79", "80", "81", "8080", "53", "http", "DNS", "absent"]);
    let protocol =
        select(vec![json!("TCP"), json!("UDP"), json!("SCTP"), json!("ANY"), json!("tcp"), Value::Null]);
    let end = select(vec![None, None, None, Some(0), Some(8080), Some(65535)]);
    let with_ports = (port, protocol, end)
        .prop_map(|(port, protocol, end)| json!({"port": port, "protocol": protocol, "endPort": end}));
    let without = select(vec!["GRE", "VRRP", "ICMP", "ICMPv6"])
        .prop_map(|protocol| json!({"port": "0", "protocol": protocol}));
    prop_oneof![8 => with_ports, 1 => without].boxed()
}

fn icmp() -> BoxedStrategy<Value> {
    select(vec![
        json!({"type": 8}),
        json!({"type": 0, "family": "IPv4"}),
        json!({"type": "EchoRequest", "family": "IPv4"}),
        json!({"type": "EchoReply"}),
        json!({"type": 128, "family": "IPv6"}),
        json!({"type": "DestinationUnreachable", "family": "IPv6"}),
        json!({"type": "EchoRequest", "family": "IPv6"}),
    ])
    .boxed()
}

fn network_policy() -> BoxedStrategy<Value> {
    let types =
        select(vec![Value::Null, json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"])]);
    let lists = (network_rules("from"), network_rules("to"));
    (selector(Keys::Pod), types, lists)
        .prop_map(|(pods, types, (ingress, egress))| {
            json!({"podSelector": pods, "policyTypes": types, "ingress": ingress, "egress": egress})
        })
        .boxed()
}

fn network_rules(side: &'static str) -> BoxedStrategy<Value> {
    let block = select(vec![
        json!({"cidr": "20.0.0.0/8", "except": ["20.1.0.0/16"]}),
        json!({"cidr": "10.0.0.0/16", "except": ["10.0.1.0/24"]}),
        json!({"cidr": "0.0.0.0/0"}),
        json!({"cidr": "2001:db8::/32", "except": ["2001:db8:1::/48"]}),
    ]);
    let both = (selector(Keys::Pod), selector(Keys::Namespace));
    let peer = prop_oneof![
        selector(Keys::Pod).prop_map(|pods| json!({"podSelector": pods})),
        selector(Keys::Namespace).prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        both.prop_map(|(pods, namespaces)| json!({"podSelector": pods, "namespaceSelector": namespaces})),
        block.prop_map(|block| json!({"ipBlock": block})),
    ];
    let port = select(vec![
        json!({}),
        json!({"port": 80}),
        json!({"port": 80, "endPort": 8080, "protocol": "SCTP"}),
        json!({"port": 53, "protocol": "UDP"}),
        json!({"port": "http"}),
        json!({"port": "dns", "protocol": "UDP"}),
        json!({"protocol": "UDP"}),
    ]);
    let rule = (list(peer.boxed()), list(port.boxed()))
        .prop_map(move |(peers, ports)| json!({side: peers, "ports": ports}));
    list(rule.boxed())
}

/// A policy of the tiers, of any of its APIs.
fn tiered(kind: &'static str) -> BoxedStrategy<Value> {
    let pods = |namespaces: Value, pods: Value| json!({"pods": {"namespaceSelector": namespaces, "podSelector": pods}});
    let subject = prop_oneof![
        selector(Keys::Namespace).prop_map(|selector| json!({"namespaces": selector})),
        (selector(Keys::Namespace), selector(Keys::Pod)).prop_map(move |(n, p)| pods(n, p)),
    ]
    .boxed();
    let beyond = prop_oneof![
        selector(Keys::Node).prop_map(|selector| json!({"nodes": selector})),
        prefixes(1..3).prop_map(|prefixes| json!({"networks": prefixes})),
    ]
    .boxed();
    let to = prop_oneof![2 => subject.clone(), 1 => beyond].boxed();
    let cluster = kind == "ClusterNetworkPolicy";
    let actions = match kind {
        "ClusterNetworkPolicy" => vec!["Accept", "Deny", "Pass"],
        "AdminNetworkPolicy" => vec!["Allow", "Deny", "Pass"],
        _ => vec!["Allow", "Deny"],
    };
    let rules = |member: &'static str, peer: BoxedStrategy<Value>| {
        let port = prop::option::of(if cluster { protocol_match() } else { admin_port() });
        let peers = prop::collection::vec(peer, 1..=2);
        let rule = (select(actions.clone()), peers, port).prop_map(move |(action, peers, port)| {
            // Names are for pods only.
            let pods = peers.iter().all(|peer| peer.get("nodes").or(peer.get("networks")).is_none());
            let named = |port: &Value| port.get("destinationNamedPort").or(port.get("namedPort")).is_some();
            let ports = port.filter(|port| pods || !named(port)).map(|port| json!([port]));
            json!({"action": action, member: peers, (if cluster { "protocols" } else { "ports" }): ports})
        });
        list(rule.boxed())
    };
    let rank = (select(vec!["Admin", "Baseline"]), 0..4_u8);
    (subject.clone(), rank, rules("from", subject), rules("to", to))
        .prop_map(move |(subject, (tier, priority), ingress, egress)| {
            let mut spec = json!({"subject": subject, "ingress": ingress, "egress": egress});
            if kind != "BaselineAdminNetworkPolicy" {
                spec["priority"] = json!(priority);
            }
            if cluster {
                spec["tier"] = json!(tier);
            }
            spec
        })
        .boxed()
}

fn protocol_match() -> BoxedStrategy<Value> {
    select(vec![
        json!({"tcp": {"destinationPort": {"number": 80}}}),
        json!({"tcp": {"destinationPort": {"range": {"start": 80, "end": 8080}}}}),
        json!({"udp": {"destinationPort": {"number": 53}}}),
        json!({"sctp": {"destinationPort": {"range": {"start": 1, "end": 65535}}}}),
        json!({"destinationNamedPort": "http"}),
    ])
    .boxed()
}

fn admin_port() -> BoxedStrategy<Value> {
    select(vec![
        json!({"portNumber": {"port": 80}}),
        json!({"portNumber": {"protocol": "UDP", "port": 53}}),
        json!({"portRange": {"protocol": "SCTP", "start": 80, "end": 8080}}),
        json!({"namedPort": "dns"}),
    ])
    .boxed()
}
