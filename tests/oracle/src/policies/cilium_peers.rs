//! Whom an element of a Cilium policy is about: endpoints, entities, prefixes, Services, nodes.
//!
//! Source: Cilium's "Layer 3 Policies", "Using Kubernetes Constructs in Policy", CiliumCIDRGroup, and the
//! comments of the API's types.

use ipnet::IpNet;
use serde_json::Value;

use crate::labels::{POD_NAMESPACE, RESERVED};
use crate::policies::cilium::Context;
use crate::policies::{contains, prefix, prefix_or_address};
use crate::read::{At, Finding, Findings};
use crate::rule::{Action, Defects, Direction, Entity, Groups, Peer, ServiceRef};
use crate::selector::{self, Keys};

/// The members that name peers. No two of them go together in one element.
pub(super) fn members(direction: Direction, action: Action) -> Vec<&'static str> {
    match (direction, action) {
        (Direction::Ingress, _) => {
            vec!["fromEndpoints", "fromEntities", "fromCIDR", "fromCIDRSet", "fromNodes", "fromGroups"]
        }
        (Direction::Egress, Action::Deny | Action::Pass) => {
            vec!["toEndpoints", "toEntities", "toCIDR", "toCIDRSet", "toNodes", "toGroups", "toServices"]
        }
        (Direction::Egress, Action::Accept) => {
            let also = ["toFQDNs"];
            [&members(Direction::Egress, Action::Deny)[..], &also].concat()
        }
    }
}

/// The peers; `None` if no member names any, an empty list if a member is an empty list.
pub(super) fn read(
    at: &At<'_>,
    direction: Direction,
    action: Action,
    context: &Context<'_>,
    defects: &mut Defects,
    findings: &mut Findings,
) -> Option<Vec<Peer>> {
    let members = members(direction, action);
    let mut lists = Vec::new();
    for name in at.present(&members) {
        let mark = findings.mark();
        lists.push((name, at.list(name, findings).unwrap_or_default()));
        defects.peers |= findings.any_since(mark);
    }
    let filled: Vec<&str> =
        lists.iter().filter(|(_, items)| !items.is_empty()).map(|(name, _)| *name).collect();
    if filled.len() > 1 {
        findings.invalid(&at.path, format!("{} cannot be combined", filled.join(" and ")));
        defects.other = true;
    }
    if lists.is_empty() {
        return None;
    }
    let mut peers = Vec::new();
    for (name, items) in &lists {
        for item in items {
            peers.extend(read_peer(name, item, context, defects, findings));
        }
    }
    // An empty list is not "everyone" but "nobody", beside whatever else there is.
    if filled.len() < lists.len() {
        peers.clear();
    }
    Some(peers)
}

fn read_peer(
    member: &str,
    item: &At<'_>,
    context: &Context<'_>,
    defects: &mut Defects,
    findings: &mut Findings,
) -> Option<Peer> {
    let mark = findings.mark();
    let peer = match member {
        "fromEndpoints" | "toEndpoints" => Some(read_endpoints(item, context, findings)),
        "fromEntities" | "toEntities" => item.text(findings).and_then(|name| {
            let entity = Entity::named(name);
            if entity.is_none() {
                findings.invalid(&item.path, format!("{name:?} is not an entity"));
            }
            entity.map(Peer::Entity)
        }),
        "fromCIDR" | "toCIDR" => item.text(findings).and_then(|text| {
            let prefix = prefix_or_address(text);
            if prefix.is_none() {
                findings.invalid(&item.path, format!("{text:?} is not a CIDR"));
            }
            prefix.map(|prefix| Peer::Prefix { prefix, except: Vec::new() })
        }),
        "fromCIDRSet" | "toCIDRSet" => return read_cidr_rule(item, defects, findings),
        "fromNodes" | "toNodes" => {
            let selector = selector::read(item, Keys::Node, findings);
            let cluster = context.config.default_local_cluster.then(|| context.config.cluster.clone());
            Some(Peer::RemoteNodes { selector, cluster })
        }
        "toServices" => read_service(item, findings),
        "toFQDNs" => {
            findings.unsupported(&item.path, "names are not evaluated");
            None
        }
        "fromGroups" | "toGroups" => {
            findings.unsupported(&item.path, "groups of cloud providers are not evaluated");
            None
        }
        _ => None,
    };
    let sound = !findings.any_since(mark);
    defects.peers |= !sound;
    peer.filter(|_| sound)
}

/// A selector of endpoints: within the policy's namespace, or of a cluster-wide policy within any, unless
/// it says otherwise; within this cluster, if so configured. One that names a reserved label is left alone.
fn read_endpoints(at: &At<'_>, context: &Context<'_>, findings: &mut Findings) -> Peer {
    let mut selector = selector::read(at, Keys::Identity, findings);
    if selector.names_source(RESERVED) {
        return Peer::Identity(selector);
    }
    let (names_cluster, names_namespace) = (selector.names_cluster(), selector.names_namespace());
    if !names_namespace {
        match context.namespace {
            Some(namespace) if !selector.names_namespace_labels() => {
                selector.require(POD_NAMESPACE, namespace)
            }
            Some(_) => {}
            None if context.for_init => {}
            None => selector.require_any(POD_NAMESPACE),
        }
    }
    if !names_cluster && context.config.default_local_cluster {
        selector.require(crate::labels::CLUSTER, &context.config.cluster);
    }
    Peer::Identity(selector)
}

fn read_cidr_rule(at: &At<'_>, defects: &mut Defects, findings: &mut Findings) -> Option<Peer> {
    let mark = findings.mark();
    at.only(&["cidr", "cidrGroupRef", "cidrGroupSelector", "except"], findings);
    at.exactly_one(&["cidr", "cidrGroupRef", "cidrGroupSelector"], findings);
    let cidr = at.member("cidr").and_then(|at| {
        let text = at.text(findings)?;
        let read = prefix(text);
        if read.is_none() {
            findings.invalid(&at.path, format!("{text:?} is not a CIDR"));
        }
        read
    });
    let named = at.member("cidrGroupRef").and_then(|at| at.text(findings));
    let labelled = at.member("cidrGroupSelector").map(|at| selector::read(&at, Keys::Object, findings));
    if findings.any_since(mark) {
        defects.peers = true;
        return None;
    }
    // An exception that cannot be is left out: the peers are then more, not others.
    let mark = findings.mark();
    let except = read_except(at, cidr.as_ref(), findings);
    defects.other |= findings.any_since(mark);
    match (cidr, named, labelled) {
        (Some(prefix), ..) => Some(Peer::Prefix { prefix, except }),
        (_, Some(name), _) => Some(Peer::Groups { groups: Groups::Named(name.to_owned()), except }),
        (_, _, Some(selector)) => Some(Peer::Groups { groups: Groups::Labelled(selector), except }),
        _ => None,
    }
}

fn read_except(at: &At<'_>, cidr: Option<&IpNet>, findings: &mut Findings) -> Vec<IpNet> {
    let mut except = Vec::new();
    for item in at.list("except", findings).unwrap_or_default() {
        let Some(text) = item.text(findings) else { continue };
        match prefix(text) {
            None => findings.invalid(&item.path, format!("{text:?} is not a CIDR")),
            Some(part) if cidr.is_some_and(|cidr| !contains(cidr, &part)) => {
                findings.invalid(&item.path, format!("{text} is not within the cidr"));
            }
            Some(part) => except.push(part),
        }
    }
    except
}

fn read_service(at: &At<'_>, findings: &mut Findings) -> Option<Peer> {
    at.only(&["k8sService", "k8sServiceSelector"], findings);
    let namespace = |at: &At<'_>, findings: &mut Findings| {
        let text = at.member("namespace").and_then(|at| at.text(findings));
        text.filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let mut wanted = ServiceRef::default();
    if let Some(by_name) = at.member("k8sService") {
        by_name.only(&["serviceName", "namespace"], findings);
        match by_name.member("serviceName").and_then(|at| at.text(findings)) {
            Some(name) => wanted.named = Some((namespace(&by_name, findings), name.to_owned())),
            None => findings.invalid(&by_name.below("serviceName"), "is required"),
        }
    }
    if let Some(by_labels) = at.member("k8sServiceSelector") {
        by_labels.only(&["selector", "namespace"], findings);
        match by_labels.member("selector") {
            Some(selector) => {
                let selector = selector::read(&selector, Keys::Object, findings);
                wanted.labelled = Some((namespace(&by_labels, findings), selector));
            }
            None => findings.invalid(&by_labels.below("selector"), "is required"),
        }
    }
    if at.present(&["k8sService", "k8sServiceSelector"]).is_empty() {
        findings.invalid(&at.path, "must have k8sService or k8sServiceSelector");
    }
    Some(Peer::Service(wanted))
}

/// What is wrong with a CiliumCIDRGroup.
pub(super) fn validate_group(object: &Value) -> Vec<Finding> {
    let mut findings = Findings::default();
    let root = At::root(object);
    match root.member("spec") {
        None => findings.invalid("spec", "is required"),
        Some(spec) => {
            spec.only(&["externalCIDRs"], &mut findings);
            match spec.list("externalCIDRs", &mut findings) {
                None => findings.invalid(&spec.below("externalCIDRs"), "is required"),
                Some(items) => {
                    for item in items {
                        if item.text(&mut findings).is_some_and(|text| prefix(text).is_none()) {
                            findings.invalid(&item.path, "is not a CIDR");
                        }
                    }
                }
            }
        }
    }
    findings.0
}
