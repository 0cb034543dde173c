//! Facts of all objects → the pieces of a world that objects make.

use super::{Facts, Header};
use crate::object::Object;
use cilium_engine::config::InvalidPolicy;
use cilium_engine::problem::{Problem, Severity};
use cilium_engine::state::Origin;
use cilium_engine::world::{
    EndpointSlice, IdentityClaim, Namespace, Node, ObjectName, Pod, PolicyRule, RemoteEndpoint, Service,
};
use std::collections::BTreeMap;

/// What the pieces depend on besides objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LowerOptions {
    /// Name of this node: what it published itself does not count.
    pub node_name: String,
    /// What a policy with an unreadable part does.
    pub invalid: InvalidPolicy,
}

/// The pieces of a world that objects make.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pieces {
    /// Namespaces by name.
    pub namespaces: BTreeMap<String, Namespace>,
    /// Nodes by name: a Node, its CiliumNode (which wins), and what the node published of itself.
    pub nodes: BTreeMap<String, Node>,
    /// Pods; addresses only of those elsewhere or on host network.
    pub pods: BTreeMap<ObjectName, Pod>,
    /// Services.
    pub services: BTreeMap<ObjectName, Service>,
    /// EndpointSlices.
    pub slices: BTreeMap<ObjectName, EndpointSlice>,
    /// Rules, in the order of kind, namespace, name, index.
    pub rules: Vec<PolicyRule>,
    /// Claims of other nodes, and those without a publisher.
    pub claims: Vec<IdentityClaim>,
    /// Endpoints of other nodes.
    pub remote_endpoints: BTreeMap<ObjectName, RemoteEndpoint>,
    /// What is wrong with the objects.
    pub problems: Vec<Problem>,
}

/// Sorts the facts of objects into place. The result does not depend on the order of the objects, as long as
/// no two are of one kind and name (the source decides between such).
pub fn combine<'a>(objects: impl IntoIterator<Item = &'a Object>, options: &LowerOptions) -> Pieces {
    let mut objects: Vec<&Object> = objects
        .into_iter()
        .filter(|object| object.header.published_by.as_deref() != Some(options.node_name.as_str()))
        .collect();
    objects.sort_by(|a, b| a.header.cmp(&b.header));
    let mut out = Pieces::default();
    // Given before published, of each name: what was given comes first among a node's addresses.
    let (mut given, mut published) = (BTreeMap::new(), Vec::new());
    for object in objects {
        let name = &object.header.name;
        out.problems.extend(object.problems.iter().cloned());
        match &object.facts {
            Facts::Nothing => {}
            Facts::Namespace(namespace) => {
                out.namespaces.insert(name.name.clone(), namespace.clone());
            }
            Facts::Node(node) => {
                out.nodes.insert(name.name.clone(), node.clone());
            }
            Facts::CiliumNode(node) => match object.header.published_by {
                None => {
                    given.insert(name.name.clone(), node);
                }
                Some(_) => published.push((&object.header, node)),
            },
            Facts::Pod(pod) => {
                out.pods.insert(name.clone(), at_home(pod, options));
            }
            Facts::Service(service) => {
                out.services.insert(name.clone(), service.clone());
            }
            Facts::Slice(slice) => {
                out.slices.insert(name.clone(), slice.clone());
            }
            Facts::Policy(rules) => match options.invalid {
                InvalidPolicy::Ignore if object.problems.iter().any(|p| p.severity == Severity::Error) => {
                    out.problems.push(ignored(&object.header));
                }
                InvalidPolicy::Ignore | InvalidPolicy::Isolate => out.rules.extend(rules.iter().cloned()),
            },
            Facts::Claim(claim) => out.claims.push(claim.clone()),
            Facts::Endpoint(endpoint) => {
                out.remote_endpoints.insert(name.clone(), endpoint.clone());
            }
        }
    }
    for (name, node) in given {
        let merged = out.nodes.entry(name).or_default();
        if !node.addresses.is_empty() {
            merged.addresses.clone_from(&node.addresses);
        }
        if !node.pod_cidrs.is_empty() {
            merged.pod_cidrs.clone_from(&node.pod_cidrs);
        }
        merged.labels.extend(node.labels.clone());
        merged.place = node.place.clone();
    }
    for (header, node) in published {
        // A node speaks of itself only, and never of pod CIDRs.
        if header.published_by.as_deref() != Some(header.name.name.as_str()) {
            out.problems.push(foreign(header));
            continue;
        }
        let merged = out.nodes.entry(header.name.name.clone()).or_default();
        for address in &node.addresses {
            if !merged.addresses.contains(address) {
                merged.addresses.push(address.clone());
            }
        }
        for (key, value) in &node.labels {
            merged.labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
        if merged.place.file.is_empty() {
            merged.place = node.place.clone();
        }
    }
    out
}

/// The pod, with the addresses of its status only where they count: pods of this node have theirs from CNI.
fn at_home(pod: &Pod, options: &LowerOptions) -> Pod {
    let elsewhere = pod.node_name.as_ref().is_some_and(|node| *node != options.node_name);
    let mut pod = pod.clone();
    if !elsewhere && !pod.host_network {
        pod.ips.clear();
    }
    pod
}

fn ignored(header: &Header) -> Problem {
    Problem {
        severity: Severity::Error,
        origin: Origin { object: header.title(), place: header.place.to_string(), rule: String::new() },
        message: "the whole policy does nothing, because a part of it cannot be enforced".into(),
        hint: "`invalid = \"ignore\"` in `[policy]` says so; `isolate` fails closed instead".into(),
    }
}

fn foreign(header: &Header) -> Problem {
    Problem {
        severity: Severity::Warning,
        origin: Origin { object: header.title(), place: header.place.to_string(), rule: String::new() },
        message: format!(
            "published by {}, which is another node",
            header.published_by.as_deref().unwrap_or_default()
        ),
        hint: "a node publishes its own CiliumNode only; it does not count".into(),
    }
}
