//! Annotations of a Service. They are no fields of the API, so that the API server takes any value. Where an
//! unreadable one could expose the Service more widely than it was meant, the whole Service is invalid; else
//! the annotation does nothing, which is told.

use super::node_selector;
use crate::lower::cursor::{Cursor, Notes};
use crate::schema::{nearest, quoted};
use cilium_engine::world::{
    ForwardingMode, FrontendKind, Label, LbAlgorithm, Operator, RangesPolicy, Requirement, Selector,
};
use std::collections::BTreeMap;

const PREFIX: &str = "service.cilium.io/";
const ALGORITHM: &str = "service.cilium.io/lb-algorithm";
const FORWARDING: &str = "service.cilium.io/forwarding-mode";
const ONLY: &str = "service.cilium.io/type";
const NODE: &str = "service.cilium.io/node";
const NODE_SELECTOR: &str = "service.cilium.io/node-selector";
const RANGES_POLICY: &str = "service.cilium.io/src-ranges-policy";
const WEIGHT: &str = "service.cilium.io/weight";
const LB_L7: &str = "service.cilium.io/lb-l7";
const DELEGATION: &str = "service.cilium.io/proxy-delegation";
const OWN: &[&str] =
    &[ALGORITHM, FORWARDING, ONLY, NODE, NODE_SELECTOR, RANGES_POLICY, WEIGHT, LB_L7, DELEGATION];
/// Of clusters that share Services.
const MESH: &[&str] = &[
    "service.cilium.io/global",
    "service.cilium.io/shared",
    "service.cilium.io/affinity",
    "service.cilium.io/global-sync-endpoint-slices",
];
const IPS: &str = "lbipam.cilium.io/ips";
const IPS_ALIAS: &str = "io.cilium/lb-ipam-ips";
const TOPOLOGY: &str = "service.kubernetes.io/topology-mode";
const TOPOLOGY_ALIAS: &str = "service.kubernetes.io/topology-aware-hints";
const BETA_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// What keys of annotations that may be read begin with.
const GROUPS: &[&str] =
    &[PREFIX, "lbipam.cilium.io/", "io.cilium/", "service.kubernetes.io/", "service.beta.kubernetes.io/"];

/// What the annotations say.
#[derive(Debug, Default)]
pub(super) struct Said<'a> {
    pub(super) algorithm: Option<LbAlgorithm>,
    pub(super) forwarding: Option<ForwardingMode>,
    pub(super) only: Option<FrontendKind>,
    pub(super) nodes: Option<Selector>,
    pub(super) ranges_policy: RangesPolicy,
    /// The EndpointSlice controller writes hints by the size of zones.
    pub(super) hints_by_topology: bool,
    /// Load balancer addresses asked for, as written, and where.
    pub(super) ips: Option<(&'a str, Cursor<'a>)>,
}

impl<'a> Said<'a> {
    pub(super) fn read(root: &Cursor<'a>, all: &BTreeMap<String, String>, notes: &mut Notes) -> Self {
        let Some(annotations) = root.at("metadata").key("annotations") else { return Self::default() };
        let mut said = Self::default();
        let ours = |key: &str| GROUPS.iter().any(|group| key.starts_with(group));
        for (key, at) in annotations.entries(ours) {
            let Some(value) = at.node.text() else { continue };
            match key {
                ALGORITHM => said.algorithm = known(&at, value, ALGORITHMS, notes),
                FORWARDING => said.forwarding = known(&at, value, MODES, notes),
                ONLY => said.only = exposing(&at, value, TYPES, notes),
                RANGES_POLICY => {
                    said.ranges_policy = exposing(&at, value, POLICIES, notes).unwrap_or_default();
                }
                NODE_SELECTOR => said.nodes = node_selector::read(&at, value, notes),
                // The selector has precedence where both stand.
                NODE if !all.contains_key(NODE_SELECTOR) => said.nodes = Some(labelled(value)),
                NODE => {}
                IPS => said.ips = Some((value, at)),
                IPS_ALIAS if !all.contains_key(IPS) => said.ips = Some((value, at)),
                TOPOLOGY => said.hints_by_topology = auto(&at, value, notes),
                TOPOLOGY_ALIAS if !all.contains_key(TOPOLOGY) => {
                    said.hints_by_topology = auto(&at, value, notes);
                }
                _ => foreign(&at, key, value, notes),
            }
        }
        said
    }
}

const ALGORITHMS: &[(&str, LbAlgorithm)] =
    &[("random", LbAlgorithm::Random), ("maglev", LbAlgorithm::Maglev)];
const MODES: &[(&str, ForwardingMode)] = &[("snat", ForwardingMode::Snat), ("dsr", ForwardingMode::Dsr)];
const TYPES: &[(&str, FrontendKind)] = &[
    ("ClusterIP", FrontendKind::ClusterIp),
    ("NodePort", FrontendKind::NodePort),
    ("LoadBalancer", FrontendKind::LoadBalancer),
];
const POLICIES: &[(&str, RangesPolicy)] = &[("allow", RangesPolicy::Allow), ("deny", RangesPolicy::Deny)];

fn find<T: Copy>(value: &str, values: &[(&str, T)]) -> Option<T> {
    values.iter().find(|(known, _)| *known == value).map(|(_, meant)| *meant)
}

fn choice<T>(values: &[(&str, T)]) -> String {
    format!("one of {}", values.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", "))
}

/// The value; another one does nothing.
fn known<T: Copy>(at: &Cursor<'_>, value: &str, values: &[(&str, T)], notes: &mut Notes) -> Option<T> {
    let found = find(value, values);
    if found.is_none() {
        let message = format!("{} is not possible here: the node's own setting counts", quoted(value));
        notes.unsupported(at, message, &choice(values));
    }
    found
}

/// The value; without it the Service would be open to more clients.
fn exposing<T: Copy>(at: &Cursor<'_>, value: &str, values: &[(&str, T)], notes: &mut Notes) -> Option<T> {
    let found = find(value, values);
    if found.is_none() {
        notes.invalid(at, format!("{} is not possible here", quoted(value)), &choice(values));
    }
    found
}

/// Nodes whose label of this name has the value.
fn labelled(value: &str) -> Selector {
    let operator = Operator::In([value.to_owned()].into());
    Selector { requirements: vec![Requirement { label: Label::new("k8s", NODE), operator }] }
}

fn auto(at: &Cursor<'_>, value: &str, notes: &mut Notes) -> bool {
    match value {
        "Auto" | "auto" => true,
        "Disabled" | "disabled" | "" => false,
        other => {
            notes.warning(
                at,
                format!("the topology mode {} is not known", quoted(other)),
                "Auto or Disabled",
            );
            false
        }
    }
}

/// Annotations that are not read, but look as if they were.
fn foreign(at: &Cursor<'_>, key: &str, value: &str, notes: &mut Notes) {
    match (key, value) {
        (LB_L7, "disabled") | (DELEGATION, "none") => {}
        (LB_L7, _) => {
            notes.warning(at, "balancing at layer 7 is not supported: connections are balanced", "")
        }
        (DELEGATION, _) => {
            notes.warning(at, "delegation to a proxy is not supported: backends are reached directly", "")
        }
        (WEIGHT, _) => notes.warning(at, "a Service has no weight", "it goes on EndpointSlices"),
        (BETA_RANGES, _) => {
            let hint = "write them as `spec.loadBalancerSourceRanges`";
            notes.warning(at, "source ranges are not read here: they restrict nobody", hint);
        }
        (key, _) if MESH.contains(&key) => {
            notes.warning(
                at,
                "Services of several clusters are not supported: this one's backends count",
                "",
            );
        }
        (key, _) if key.starts_with(PREFIX) => {
            let hint = nearest(key, OWN.iter().copied()).map(|name| format!("did you mean `{name}`?"));
            let message = format!("there is no annotation {}", quoted(key));
            notes.warning(at, message, &hint.unwrap_or_default());
        }
        _ => {}
    }
}
