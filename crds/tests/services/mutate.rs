//! Objects of the API with something in them changed: other values of the same type, other types, lists that
//! grow, parts that are gone.

use proptest::prelude::*;
use serde_json::{Value, json};

/// Objects that hold every field, to be mutated.
pub(crate) fn templates() -> [Value; 3] {
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

pub(crate) fn size(value: &Value) -> usize {
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
    "192.168.0.1",
    "127.0.0.1",
    "169.254.1.1",
    "224.0.0.1",
    "ff02::1",
    "fd11::1",
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
    "SCTP",
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
        "[a-z.-]{253,254}".prop_map(Value::from),
        Just(Value::Null),
        Just(json!([])),
        Just(json!({})),
        (0usize..40).prop_map(|n| Value::from("x".repeat(n * n))),
    ]
}

/// One change of one place of an object.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    /// Another value of the same type; of a list or mapping, one entry less.
    Alike(&'static str, i64, prop::sample::Index),
    Set(Value),
    Repeat(usize),
    Wrap,
    /// A value from elsewhere in the object.
    Copy(prop::sample::Index),
}

pub(crate) fn edit() -> impl Strategy<Value = Edit> {
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

pub(crate) fn mutate(value: &mut Value, edits: &[(prop::sample::Index, Edit)]) {
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
