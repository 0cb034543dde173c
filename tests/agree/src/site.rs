//! A draft's objects, completed to what a node is given.

use cilium_crds::lower::{LowerOptions, combine};
use cilium_crds::object::{Object, Reading};
use cilium_engine::config::{AllowLocalhost, Config, Enforcement, InvalidPolicy};
use cilium_engine::problem::Severity;
use cilium_engine::state::{Mac, SourceSet};
use cilium_engine::world::{EndpointRecord, ObjectName, World};
use cilium_tests_oracle as oracle;
use cilium_tests_oracle::worlds::Draft;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;

/// The nodes of every draft.
pub const NODES: [&str; 2] = ["here", "there"];

/// The version of each kind's API.
fn api_version(kind: &str) -> &'static str {
    match kind {
        "EndpointSlice" => "discovery.k8s.io/v1",
        "NetworkPolicy" => "networking.k8s.io/v1",
        "CiliumNetworkPolicy" | "CiliumClusterwideNetworkPolicy" | "CiliumCIDRGroup" => "cilium.io/v2",
        "ClusterNetworkPolicy" => "policy.networking.k8s.io/v1alpha2",
        "AdminNetworkPolicy" | "BaselineAdminNetworkPolicy" => "policy.networking.k8s.io/v1alpha1",
        _ => "v1",
    }
}

/// The object as somebody would write it.
fn complete(object: &Value) -> Value {
    let kind = object["kind"].as_str().unwrap_or_default();
    let mut object = without_nulls(object);
    object["apiVersion"] = json!(api_version(kind));
    match kind {
        // Of pods whose addresses are not spoken for: none of the draft's.
        "Node" => {
            let number =
                NODES.iter().position(|name| object["metadata"]["name"] == *name).unwrap_or_default();
            object["spec"]["podCIDRs"] =
                json!([format!("10.20{number}.0.0/24"), format!("fd20:{number}::/64")]);
        }
        "EndpointSlice" => {
            object["addressType"] = json!("IPv4");
            object["ports"] = json!([{"name": "http", "port": 80}]);
        }
        "Service" => object["spec"]["ports"] = json!([{"name": "http", "port": 80}]),
        _ => {}
    }
    object
}

/// As an API server passes objects on: what is nothing is not there.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let there = members.iter().filter(|(_, member)| !member.is_null());
            Value::Object(there.map(|(key, member)| (key.clone(), without_nulls(member))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        plain => plain.clone(),
    }
}

fn read(object: &Value) -> Vec<Reading> {
    cilium_crds::read_file(complete(object).to_string().as_bytes(), "draft.yaml").readings
}

/// The draft without what is not enforced yet, and why each policy was left out.
pub fn enforced(draft: &Draft) -> (Draft, Vec<String>) {
    let mut draft = draft.clone();
    let mut left_out = Vec::new();
    draft.objects.retain(|object| {
        if !object["metadata"]["annotations"][oracle::CLUSTER_ANNOTATION].is_null() {
            return false;
        }
        if !object["kind"].as_str().is_some_and(|kind| kind.ends_with("NetworkPolicy")) {
            return true;
        }
        let why = read(object).iter().find_map(|reading| match reading {
            Reading::Object(object, _) => {
                let error = object.problems.iter().find(|p| p.severity >= Severity::Error);
                error.map(|problem| problem.message.clone())
            }
            Reading::Nameless(_) | Reading::Other(_) => Some(format!("kind {}", object["kind"])),
        });
        left_out.extend(why.clone());
        why.is_none()
    });
    draft.config.cidr_matches_nodes = false;
    draft.config.cidr_matches_pods = false;
    draft.config.host_firewall = false;
    (draft, left_out)
}

pub(crate) fn config(draft: &Draft, node: &str) -> Config {
    let mut config = Config::default();
    config.node.name = node.to_owned();
    config.ipv6.enabled = true;
    config.policy.enforcement = match draft.config.enforcement {
        oracle::Enforcement::Default => Enforcement::Default,
        oracle::Enforcement::Always => Enforcement::Always,
        oracle::Enforcement::Never => Enforcement::Never,
    };
    config.policy.allow_localhost = match draft.config.allow_localhost {
        oracle::AllowLocalhost::Auto => AllowLocalhost::Auto,
        oracle::AllowLocalhost::Always => AllowLocalhost::Always,
        oracle::AllowLocalhost::Policy => AllowLocalhost::Policy,
    };
    config.policy.invalid = InvalidPolicy::Isolate;
    config.policy.default_local_cluster = draft.config.default_local_cluster;
    config
}

/// What a node of the draft knows.
pub(crate) fn world(draft: &Draft, node: &str) -> World {
    let readings = draft.objects.iter().flat_map(read);
    let objects: Vec<Arc<Object>> = readings
        .filter_map(|reading| match reading {
            Reading::Object(object, _) => Some(Arc::new(*object)),
            Reading::Nameless(_) | Reading::Other(_) => None,
        })
        .collect();
    let options = LowerOptions { node_name: node.to_owned(), invalid: InvalidPolicy::Isolate };
    let pieces = combine(&objects, &options);
    let mut world = World {
        synced: SourceSet::ALL,
        namespaces: pieces.namespaces,
        nodes: pieces.nodes,
        pods: pieces.pods,
        services: pieces.services,
        slices: pieces.slices,
        cidr_groups: pieces.cidr_groups,
        rules: pieces.rules,
        claims: pieces.claims,
        remote_endpoints: pieces.remote_endpoints,
        problems: pieces.problems,
        ..World::default()
    };
    let local =
        draft.objects.iter().filter(|object| object["kind"] == "Pod" && object["spec"]["nodeName"] == node);
    for (id, pod) in (1..).zip(local.filter(|pod| pod["spec"]["hostNetwork"] != true)) {
        world.endpoints.insert(id, attached(id, pod));
    }
    world
}

/// A pod as it was attached.
fn attached(id: u16, pod: &Value) -> EndpointRecord {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let [high, low] = id.to_be_bytes();
    EndpointRecord {
        id,
        container_id: format!("container{id}"),
        network: "cilium".to_owned(),
        ifname: "eth0".to_owned(),
        netns: "/run/netns/x".into(),
        pod: Some(ObjectName::new(&text(&pod["metadata"]["namespace"]), &text(&pod["metadata"]["name"]))),
        pod_uid: None,
        labels: Default::default(),
        link: format!("lxc{id}"),
        mac: Mac([2, 0, 0, 1, high, low]),
        node_mac: Mac([2, 0, 0, 2, high, low]),
        ipv4: address(pod, true),
        ipv6: address(pod, false),
        port_mappings: Default::default(),
    }
}

/// A pod's address of a family.
pub(crate) fn address(pod: &Value, v4: bool) -> Option<IpAddr> {
    let all = pod["status"]["podIPs"].as_array().into_iter().flatten();
    let mut all = all.filter_map(|ip| ip["ip"].as_str()?.parse::<IpAddr>().ok());
    all.find(|ip| ip.is_ipv4() == v4)
}
