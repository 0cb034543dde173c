//! Services and EndpointSlices with hostile values: no panic, no time without end, and what is lowered keeps
//! what the rest of the system relies on. What is wrong with one object is no matter of the others.

mod mutate;
mod together;

use cilium_crds::lower::Facts;
use cilium_crds::object::{Object, Reading};
use cilium_crds::read_file;
use cilium_engine::problem::Severity;
use cilium_engine::world::{EndpointSlice, IpFamily, Service, ServiceKind};
use mutate::{edit, mutate, size, templates};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// So many cases, or as many as `PROPTEST_CASES` says.
fn config(cases: u32) -> ProptestConfig {
    let given = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { given.cases } else { cases };
    ProptestConfig { cases, failure_persistence: None, ..given }
}

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
    let text = include_str!("../objects/services.yaml");
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
    #![proptest_config(config(1500))]

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
