//! Facts of all objects → the pieces of a world that objects make.

use super::{Facts, Header};
use crate::object::Object;
use cilium_engine::config::InvalidPolicy;
use cilium_engine::map::{Map, Set};
use cilium_engine::problem::{Problem, Problems, Severity};
use cilium_engine::shared::Shared;
use cilium_engine::state::Origin;
use cilium_engine::world::{
    CidrGroup, EndpointSlice, IdentityClaim, Name, Namespace, Node, ObjectName, Pod, PolicyRule,
    RemoteEndpoint, Service,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the pieces depend on besides objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LowerOptions {
    /// Name of this node: what it published itself does not count.
    pub node_name: String,
    /// What a policy with an unreadable part does.
    pub invalid: InvalidPolicy,
}

/// The pieces of a world that objects make. A clone costs nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pieces {
    /// Namespaces by name.
    pub namespaces: Map<String, Shared<Namespace>>,
    /// Nodes by name: a Node, its CiliumNode (which wins), and what the node published of itself.
    pub nodes: Map<String, Shared<Node>>,
    /// Pods; addresses only of those elsewhere or on host network.
    pub pods: Map<Name, Shared<Pod>>,
    /// Services.
    pub services: Map<Name, Shared<Service>>,
    /// EndpointSlices.
    pub slices: Map<Name, Shared<EndpointSlice>>,
    /// Groups of prefixes by name.
    pub cidr_groups: Map<String, Shared<CidrGroup>>,
    /// Rules.
    pub rules: Set<Shared<PolicyRule>>,
    /// Claims of other nodes, and those without a publisher.
    pub claims: Set<Shared<IdentityClaim>>,
    /// Endpoints of other nodes.
    pub remote_endpoints: Map<Name, Shared<RemoteEndpoint>>,
    /// What is wrong with the objects.
    pub problems: Problems,
}

/// Sorts the facts of objects into place. The result does not depend on the order of the objects, as long as
/// no two are of one kind, name and publisher (the source decides between such).
pub fn combine(objects: &[Arc<Object>], options: &LowerOptions) -> Pieces {
    let mut combined = Combined::new(options.clone());
    combined.change(&[], objects);
    combined.pieces
}

/// The pieces, kept: at the next look only objects that came or went are sorted.
#[derive(Debug)]
pub struct Combined {
    options: LowerOptions,
    /// All that speak of a node, by its name.
    nodes: BTreeMap<String, Vec<Arc<Object>>>,
    pieces: Pieces,
}

impl Combined {
    /// Of no objects yet.
    pub fn new(options: LowerOptions) -> Self {
        Self { options, nodes: BTreeMap::new(), pieces: Pieces::default() }
    }

    /// What the pieces depend on besides objects.
    pub fn options(&self) -> &LowerOptions {
        &self.options
    }

    /// The pieces as they were made last.
    pub fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    /// Takes out objects that have gone, as they were when they came, and in those that came. An object that is
    /// read anew goes and comes.
    pub fn change(&mut self, gone: &[Arc<Object>], come: &[Arc<Object>]) -> &Pieces {
        for object in gone {
            if self.counts(object) {
                self.part(object);
            }
        }
        for object in come {
            if self.counts(object) {
                self.join(object);
            }
        }
        &self.pieces
    }

    fn counts(&self, object: &Object) -> bool {
        object.header.published_by.as_deref() != Some(self.options.node_name.as_str())
    }

    fn join(&mut self, object: &Arc<Object>) {
        let (pieces, name) = (&mut self.pieces, &object.header.name);
        pieces.problems.extend(problems(object, &self.options));
        match &object.facts {
            Facts::Nothing => {}
            Facts::Namespace(namespace) => {
                pieces.namespaces.insert(name.name.to_string(), namespace.clone());
            }
            Facts::Node(_) | Facts::CiliumNode(_) => {
                let speak = self.nodes.entry(name.name.to_string()).or_default();
                speak.push(object.clone());
                speak.sort_by(|a, b| a.header.cmp(&b.header));
                self.merge(name);
            }
            Facts::Pod(pod) => {
                pieces.pods.insert(name.clone(), at_home(pod, &self.options));
            }
            Facts::Service(service) => {
                pieces.services.insert(name.clone(), service.clone());
            }
            Facts::Slice(slice) => {
                pieces.slices.insert(name.clone(), slice.clone());
            }
            Facts::Group(group) => {
                pieces.cidr_groups.insert(name.name.to_string(), group.clone());
            }
            Facts::Policy(_) if is_ignored(object, &self.options) => {}
            Facts::Policy(rules) => rules.iter().for_each(|rule| pieces.rules.add(rule.clone())),
            Facts::Claim(claim) => pieces.claims.add(claim.clone()),
            Facts::Endpoint(endpoint) => {
                pieces.remote_endpoints.insert(name.clone(), endpoint.clone());
            }
        }
    }

    fn part(&mut self, object: &Arc<Object>) {
        let (pieces, name) = (&mut self.pieces, &object.header.name);
        problems(object, &self.options).iter().for_each(|problem| pieces.problems.remove(problem));
        match &object.facts {
            Facts::Nothing => {}
            Facts::Namespace(_) => drop(pieces.namespaces.remove(name.name.as_str())),
            Facts::Node(_) | Facts::CiliumNode(_) => {
                if let Some(speak) = self.nodes.get_mut(name.name.as_str()) {
                    speak.retain(|other| !Arc::ptr_eq(other, object));
                }
                self.merge(name);
            }
            Facts::Pod(_) => drop(pieces.pods.remove(name)),
            Facts::Service(_) => drop(pieces.services.remove(name)),
            Facts::Slice(_) => drop(pieces.slices.remove(name)),
            Facts::Group(_) => drop(pieces.cidr_groups.remove(name.name.as_str())),
            Facts::Policy(rules) => {
                for rule in rules.iter() {
                    pieces.rules.remove(rule);
                }
            }
            Facts::Claim(claim) => drop(pieces.claims.remove(claim)),
            Facts::Endpoint(_) => drop(pieces.remote_endpoints.remove(name)),
        }
    }

    fn merge(&mut self, name: &ObjectName) {
        let speak = self.nodes.get(name.name.as_str()).map_or(&[][..], Vec::as_slice);
        match merged(speak) {
            Some(node) => drop(self.pieces.nodes.insert(name.name.to_string(), node)),
            None => drop(self.pieces.nodes.remove(name.name.as_str())),
        }
        if speak.is_empty() {
            self.nodes.remove(name.name.as_str());
        }
    }
}

/// A node as all who speak of it say together.
fn merged(speak: &[Arc<Object>]) -> Option<Node> {
    let mut out: Option<Node> = None;
    for object in speak {
        if let Facts::Node(node) = &object.facts {
            out = Some(Node::clone(node));
        }
    }
    // Given before published: what was given comes first among a node's addresses.
    for object in speak.iter().filter(|object| object.header.published_by.is_none()) {
        let Facts::CiliumNode(node) = &object.facts else { continue };
        let merged = out.get_or_insert_default();
        if !node.addresses.is_empty() {
            merged.addresses.clone_from(&node.addresses);
        }
        if !node.pod_cidrs.is_empty() {
            merged.pod_cidrs.clone_from(&node.pod_cidrs);
        }
        merged.labels.extend(node.labels.clone());
        merged.place = node.place.clone();
    }
    for object in speak.iter().filter(|object| speaks_of_itself(&object.header)) {
        let Facts::CiliumNode(node) = &object.facts else { continue };
        // Never of pod CIDRs.
        let merged = out.get_or_insert_default();
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

fn speaks_of_itself(header: &Header) -> bool {
    header.published_by.as_deref() == Some(header.name.name.as_str())
}

fn is_ignored(object: &Object, options: &LowerOptions) -> bool {
    options.invalid == InvalidPolicy::Ignore
        && matches!(object.facts, Facts::Policy(_))
        && object.problems.iter().any(|problem| problem.severity == Severity::Error)
}

fn problems(object: &Object, options: &LowerOptions) -> Vec<Problem> {
    let mut out = object.problems.to_vec();
    if is_ignored(object, options) {
        out.push(ignored(&object.header));
    }
    let published = object.header.published_by.is_some();
    if matches!(object.facts, Facts::CiliumNode(_)) && published && !speaks_of_itself(&object.header) {
        out.push(foreign(&object.header));
    }
    out
}

/// The pod, with the addresses of its status only where they count: pods of this node have theirs from CNI.
fn at_home(pod: &Shared<Pod>, options: &LowerOptions) -> Shared<Pod> {
    let elsewhere = pod.node_name.as_ref().is_some_and(|node| *node != options.node_name);
    let mut pod = pod.clone();
    if !elsewhere && !pod.host_network && !pod.ips.is_empty() {
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
