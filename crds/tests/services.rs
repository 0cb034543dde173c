//! Services and EndpointSlices with hostile values: no panic, no time without end, and what is lowered keeps
//! what the rest of the system relies on. What is wrong with one object is no matter of the others.

use cilium_crds::lower::Facts;
use cilium_crds::object::{Object, Reading};
use cilium_crds::read_file;
use cilium_engine::problem::Severity;
use cilium_engine::world::{EndpointSlice, IpFamily, Service, ServiceKind};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

fn objects(bytes: &[u8]) -> Vec<Object> {
    let begin = Instant::now();
    let file = read_file(bytes, "f.yaml");
    assert!(begin.elapsed() < Duration::from_secs(20), "took {:?}", begin.elapsed());
    assert!(file.broken.is_none(), "{:?}", file.broken);
    let object = |reading| match reading {
        Reading::Object(object, _) => Some(*object),
        Reading::Nameless(_) | Reading::Other(_) => None,
    };
    file.readings.into_iter().filter_map(object).collect()
}

fn one(value: &Value) -> Object {
    objects(value.to_string().as_bytes()).pop().expect("it has a name")
}

fn service(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": spec})
}

fn slice(endpoints: Value, ports: Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "endpoints": endpoints, "ports": ports,
    })
}

fn told(object: &Object, what: &str) -> bool {
    object.problems.iter().any(|problem| problem.message.contains(what))
}

#[test]
fn a_thousand_ports_are_a_service() {
    let ports: Vec<Value> =
        (1..=1000).map(|n| json!({"name": format!("p{n}"), "port": n, "nodePort": 30_000 + n})).collect();
    let object = one(&service(json!({"type": "NodePort", "clusterIP": "10.96.0.1", "ports": ports})));
    assert!(matches!(&object.facts, Facts::Service(service) if service.ports.len() == 1000));
}

#[test]
fn what_one_object_may_cost_is_bounded() {
    let ports: Vec<Value> = (1..=1000).map(|n| json!({"name": format!("p{n}"), "port": n})).collect();
    let ips: Vec<String> = (0..1000).map(|n| format!("198.51.{}.{}", n / 250, n % 250 + 1)).collect();
    let many = one(&service(json!({"clusterIP": "10.96.0.1", "ports": ports, "externalIPs": ips})));
    assert!(many.facts == Facts::Nothing && told(&many, "too many"));
    let ranges: Vec<String> = (0..2000).map(|n| format!("10.{}.{}.0/24", n / 250, n % 250)).collect();
    let spec = json!({"type": "LoadBalancer", "ports": ports, "loadBalancerSourceRanges": ranges});
    let many = one(&service(spec));
    assert!(many.facts == Facts::Nothing && told(&many, "too many"));
    let endpoints: Vec<Value> =
        (0..5000).map(|n| json!({"addresses": [format!("10.{}.{}.1", n / 250, n % 250)]})).collect();
    let many = one(&slice(json!(endpoints), json!([{"port": 80}])));
    assert!(many.facts == Facts::Nothing && told(&many, "5000 entries, more than the 1000 possible"));
    let ports: Vec<Value> = (1..2000).map(|n| json!({"name": format!("p{n}"), "port": n})).collect();
    let many = one(&slice(json!(endpoints[..1000]), json!(ports)));
    assert!(many.facts == Facts::Nothing && told(&many, "too many"));
    let most = one(&slice(json!(endpoints[..1000]), json!(ports[..1000])));
    assert!(matches!(&most.facts, Facts::Slice(slice) if slice.endpoints.len() == 1000));
}

#[test]
fn huge_annotations_are_refused_in_no_time() {
    let mut object = service(json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}));
    object["metadata"]["annotations"] = json!({"service.cilium.io/type": "x".repeat(1 << 20)});
    assert!(one(&object).facts == Facts::Nothing);
    for (group, count) in [("service.cilium.io/", 50_000), ("a/", 50_000), ("service.cilium.io/", 8_000)] {
        let many: serde_json::Map<_, _> = (0..count).map(|n| (format!("{group}{n}"), json!("x"))).collect();
        object["metadata"]["annotations"] = Value::Object(many);
        let read = one(&object);
        assert_eq!(read.facts == Facts::Nothing, count > 10_000, "{group} {count}");
        assert!(read.problems.len() <= 200);
    }
    object["metadata"]["annotations"] = json!({"service.cilium.io/node-selector": "a,".repeat(100_000)});
    assert!(one(&object).facts == Facts::Nothing);
}

#[test]
fn lists_without_end_end() {
    for (field, entry) in [
        ("externalIPs", json!("198.51.100.1")),
        ("externalIPs", json!("x")),
        ("clusterIPs", json!("10.0.0.1")),
        ("ipFamilies", json!("IPv4")),
        ("loadBalancerSourceRanges", json!("10.0.0.0/8")),
        ("ports", json!({"port": 80, "nodePort": 30080})),
        ("ports", json!({"port": 0})),
    ] {
        let mut spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
        spec[field] = json!(vec![entry; 20_000]);
        let object = one(&service(spec));
        assert!(object.problems.len() <= 300, "{field}: {}", object.problems.len());
    }
    let ports: Vec<Value> = (0..60_000).map(|n| json!({"containerPort": 1, "hostPort": n + 1})).collect();
    let pod = json!({"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"ports": ports}]}});
    assert!(matches!(&one(&pod).facts, Facts::Pod(pod) if pod.host_ports.len() == 60_000));
}

/// Every field of the API's, one at a time: a misspelt one is told, and the object does nothing new.
#[test]
fn a_misspelt_field_is_told() {
    let text = include_str!("objects/services.yaml");
    let fields = [
        "allocateLoadBalancerNodePorts",
        "clusterIP",
        "clusterIPs",
        "externalIPs",
        "externalTrafficPolicy",
        "healthCheckNodePort",
        "internalTrafficPolicy",
        "ipFamilies",
        "ipFamilyPolicy",
        "loadBalancerClass",
        "loadBalancerSourceRanges",
        "targetPort",
        "nodePort",
        "appProtocol",
        "publishNotReadyAddresses",
        "selector",
        "sessionAffinity",
        "sessionAffinityConfig",
        "clientIP",
        "timeoutSeconds",
        "trafficDistribution",
        "ipMode",
        "ingress",
        "loadBalancer",
        "conditions",
        "serving",
        "terminating",
        "hints",
        "forZones",
        "forNodes",
        "nodeName",
        "zone",
        "targetRef",
        "addressType",
        "endpoints",
        "addresses",
        "externalName",
        "loadBalancerIP",
    ];
    let good = objects(text.as_bytes());
    assert!(good.iter().all(|object| object.valid));
    for field in fields {
        let bad = text.replace(&format!("{field}:"), &format!("{field}x:"));
        assert_ne!(bad, text, "{field} is not in the example");
        let read = objects(bad.as_bytes());
        assert!(read.iter().any(|object| !object.valid && told(object, &format!("`{field}x`"))), "{field}");
        for (object, good) in read.iter().zip(&good) {
            if object.valid {
                assert_eq!(object.facts, good.facts, "{field}");
            } else {
                assert_eq!(object.facts, Facts::Nothing, "{field}");
            }
        }
    }
}

/// Objects that hold every field, to be mutated.
fn templates() -> [Value; 3] {
    let port = |name: &str, n: u16| json!({"name": name, "port": n, "targetPort": "web", "nodePort": 30_000 + n, "protocol": "TCP"});
    [
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "s", "creationTimestamp": "2026-03-01T10:00:00Z",
                "labels": {"service.kubernetes.io/service-proxy-name": "x"},
                "annotations": {
                    "service.cilium.io/type": "LoadBalancer", "service.cilium.io/node-selector": "a in (b,c),!d",
                    "service.cilium.io/src-ranges-policy": "allow", "lbipam.cilium.io/ips": "192.0.2.1,2001:db8::1",
                    "service.cilium.io/lb-algorithm": "maglev", "service.kubernetes.io/topology-mode": "Auto",
                },
            },
            "spec": {
                "type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
                "externalIPs": ["198.51.100.1", "2001:db8::2"], "ipFamilies": ["IPv4", "IPv6"],
                "ipFamilyPolicy": "RequireDualStack", "externalTrafficPolicy": "Local",
                "internalTrafficPolicy": "Cluster", "healthCheckNodePort": 31_000,
                "loadBalancerSourceRanges": ["10.0.0.0/8", "2001:db8::/32"], "loadBalancerIP": "192.0.2.3",
                "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
                "ports": [port("http", 80), port("https", 443), port("alt", 8080)], "selector": {"app": "web"},
                "trafficDistribution": "PreferClose", "publishNotReadyAddresses": false,
                "allocateLoadBalancerNodePorts": true,
            },
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}, {"hostname": "x"}]}},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": "s-1", "labels": {"kubernetes.io/service-name": "s"},
                "annotations": {"service.cilium.io/weight": "7"},
            },
            "endpoints": [
                {
                    "addresses": ["10.1.0.1"], "nodeName": "n1", "zone": "a",
                    "conditions": {"ready": true, "serving": true, "terminating": false},
                    "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "n1"}]},
                },
                {"addresses": ["10.1.0.2"], "conditions": {"ready": false}},
            ],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "https", "port": 8443}],
        }),
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"containers": [{"ports": [
                {"containerPort": 80, "hostPort": 8080, "hostIP": "192.0.2.1", "protocol": "TCP", "name": "http"},
                {"containerPort": 81, "hostPort": 8081},
            ]}]},
        }),
    ]
}

/// The value at the n-th place of the tree, in some order; the tree is as it was otherwise.
fn nth<'v>(value: &'v mut Value, n: &mut usize) -> Option<&'v mut Value> {
    if *n == 0 {
        return Some(value);
    }
    *n -= 1;
    match value {
        Value::Array(list) => list.iter_mut().find_map(|inner| nth(inner, n)),
        Value::Object(map) => map.values_mut().find_map(|inner| nth(inner, n)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(size).sum(),
        Value::Object(map) => map.values().map(size).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

const NUMBERS: [i64; 16] =
    [0, 1, 53, 80, 443, 8080, 30_000, 30_080, 30_443, 31_000, 65_535, 65_536, 86_400, -1, i64::MAX, i64::MIN];
const TEXTS: &[&str] = &[
    "",
    "None",
    "0.0.0.0",
    "::",
    "::1",
    "::ffff:10.0.0.1",
    "fe80::1%eth0",
    "10.0.0.1",
    "10.96.0.1",
    "198.51.100.9",
    "fd00::1",
    "255.255.255.255",
    "10.0.0.0/33",
    "10.0.0.1/8",
    "0.0.0.0/0",
    "::/0",
    "IPv4",
    "IPv6",
    "Local",
    "Cluster",
    "NodePort",
    "ClusterIP",
    "LoadBalancer",
    "ExternalName",
    "SingleStack",
    "ClientIP",
    "Proxy",
    "TCP",
    "UDP",
    "a,b=c,!d",
    "a in (",
    "-1",
    "0",
    "65536",
    "http",
    "deny",
    "\u{0}",
    "\u{202e}",
    "2026-13-99T99:99:99Z",
];

fn hostile() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop::sample::select(NUMBERS.to_vec()).prop_map(Value::from),
        prop::sample::select(TEXTS.to_vec()).prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,40}".prop_map(Value::from),
        Just(Value::Null),
        Just(json!([])),
        Just(json!({})),
        (0usize..40).prop_map(|n| Value::from("x".repeat(n * n))),
    ]
}

#[derive(Clone, Debug)]
enum Edit {
    /// Another value of the same type; of a list or mapping, one entry less.
    Alike(&'static str, i64, prop::sample::Index),
    Set(Value),
    Repeat(usize),
    Wrap,
    /// A value from elsewhere in the object.
    Copy(prop::sample::Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let index = any::<prop::sample::Index>;
    let alike = (prop::sample::select(TEXTS.to_vec()), prop::sample::select(NUMBERS.to_vec()), index());
    prop_oneof![
        12 => alike.prop_map(|(text, number, index)| Edit::Alike(text, number, index)),
        2 => hostile().prop_map(Edit::Set),
        1 => (0usize..40).prop_map(Edit::Repeat),
        1 => Just(Edit::Wrap),
        1 => index().prop_map(Edit::Copy),
    ]
}

fn alike(place: &mut Value, text: &str, number: i64, index: prop::sample::Index) {
    match place {
        Value::Null => {}
        Value::Bool(flag) => *flag = !*flag,
        Value::Number(_) => *place = Value::from(number),
        Value::String(_) => *place = Value::from(text),
        Value::Array(list) if list.is_empty() => {}
        Value::Array(list) => drop(list.remove(index.index(list.len()))),
        Value::Object(map) => {
            let key = map.keys().nth(index.index(map.len().max(1))).cloned();
            key.and_then(|key| map.remove(&key));
        }
    }
}

fn mutate(value: &mut Value, edits: &[(prop::sample::Index, Edit)]) {
    for (at, edit) in edits {
        let count = size(value);
        let other = match edit {
            Edit::Copy(index) => nth(value, &mut index.index(count)).cloned(),
            Edit::Alike(..) | Edit::Set(_) | Edit::Repeat(_) | Edit::Wrap => None,
        };
        let Some(place) = nth(value, &mut at.index(count)) else { continue };
        match edit {
            Edit::Alike(text, number, index) => alike(place, text, *number, *index),
            Edit::Set(new) => *place = new.clone(),
            Edit::Repeat(times) => match place {
                Value::Array(list) => {
                    *list = list.iter().cycle().take(list.len() * times).cloned().collect();
                }
                other => *other = Value::Array(vec![other.clone(); *times]),
            },
            Edit::Wrap => *place = json!([place.clone()]),
            Edit::Copy(_) => *place = other.unwrap_or_default(),
        }
    }
}

/// What the compiler relies on.
fn sound(service: &Service) {
    let unicast = |ip: &IpAddr| !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast());
    let balancer = &service.load_balancer;
    let balanced = balancer.assigned.iter().flatten().chain(&balancer.requested);
    let all: Vec<&IpAddr> = service.cluster_ips.iter().chain(&service.external_ips).chain(balanced).collect();
    assert!(all.iter().all(|ip| unicast(ip) && ip.to_canonical() == **ip), "{all:?}");
    assert!(all.iter().all(|ip| service.in_family(IpFamily::of(**ip))), "{service:?}");
    assert!(service.cluster_ips.len() <= 2 && service.families.len() <= 2);
    let families: BTreeSet<_> = service.cluster_ips.iter().map(|ip| IpFamily::of(*ip)).collect();
    assert_eq!(families.len(), service.cluster_ips.len());
    let numbers: BTreeSet<_> = service.ports.iter().map(|p| (p.port, p.proto)).collect();
    let names: BTreeSet<_> = service.ports.iter().map(|p| &p.name).collect();
    assert!(numbers.len() == service.ports.len() && names.len() == service.ports.len());
    let node_ports: Vec<_> = service.ports.iter().filter_map(|p| Some((p.node_port?, p.proto))).collect();
    assert_eq!(node_ports.iter().collect::<BTreeSet<_>>().len(), node_ports.len());
    assert!(numbers.iter().all(|(port, _)| *port > 0) && node_ports.iter().all(|(port, _)| *port > 0));
    assert!(service.affinity.is_none_or(|seconds| (1..=86_400).contains(&seconds)));
    assert!(service.source_ranges.ranges.iter().all(|net| *net == net.trunc()));
    match service.kind {
        ServiceKind::Headless | ServiceKind::ExternalName => {
            assert!(service.unserved().is_some() && service.cluster_ips.is_empty() && node_ports.is_empty());
        }
        ServiceKind::ClusterIp => {
            assert!(
                node_ports.is_empty() && all.len() == service.cluster_ips.len() + service.external_ips.len()
            );
            assert!(service.source_ranges.ranges.is_empty());
        }
        ServiceKind::NodePort | ServiceKind::LoadBalancer => {}
    }
}

fn sound_slice(slice: &EndpointSlice) {
    assert!(slice.endpoints.len() <= 1000 && !slice.service.is_empty());
    let names: BTreeSet<_> = slice.ports.iter().map(|port| &port.name).collect();
    assert!(names.len() == slice.ports.len() && slice.ports.iter().all(|port| port.port > 0));
    let families: BTreeSet<_> = slice.endpoints.iter().map(|endpoint| IpFamily::of(endpoint.ip)).collect();
    assert!(families.len() <= 1);
    assert!(slice.endpoints.iter().all(|e| !e.ip.is_loopback() && e.ip.to_canonical() == e.ip));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_objects_are_sound_or_nothing(
        which in 0usize..3,
        edits in prop::collection::vec((any::<prop::sample::Index>(), edit()), 1..5),
    ) {
        let [first, second, third] = templates();
        let mut mutated = [first.clone(), second, third][which].clone();
        mutate(&mut mutated, &edits);
        // Larger ones are refused as a whole file (`tests/hostile.rs`).
        prop_assume!(size(&mutated) < 50_000);
        // An object beside it in the same file, of another name.
        let mut beside = first;
        beside["metadata"]["name"] = json!("beside");
        let alone = one(&beside);
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [mutated, beside]});
        let mut read = objects(list.to_string().as_bytes());
        let kept = read.pop().expect("the good one is there");
        prop_assert!(kept.valid);
        match (&alone.facts, &kept.facts) {
            (Facts::Service(alone), Facts::Service(kept)) => {
                prop_assert_eq!(Service { place: kept.place.clone(), ..Service::clone(alone) }, Service::clone(kept));
            }
            _ => prop_assert!(false, "no Service"),
        }
        for object in read {
            match &object.facts {
                Facts::Service(service) => sound(service),
                Facts::Slice(slice) => sound_slice(slice),
                Facts::Pod(pod) => {
                    let ports: BTreeSet<_> = pod.host_ports.iter().map(|p| (p.ip, p.port, p.proto)).collect();
                    prop_assert_eq!(ports.len(), pod.host_ports.len());
                    prop_assert!(pod.host_ports.iter().all(|p| p.port > 0 && p.target > 0));
                }
                _ => {}
            }
            if !object.valid {
                prop_assert_eq!(&object.facts, &Facts::Nothing);
                prop_assert!(object.problems.iter().any(|problem| problem.severity == Severity::Error));
            }
            for problem in &object.problems {
                prop_assert!(problem.origin.place.starts_with("f.yaml:") && !problem.message.is_empty());
                prop_assert!(problem.message.len() < 600, "{}", problem.message);
            }
        }
    }
}
