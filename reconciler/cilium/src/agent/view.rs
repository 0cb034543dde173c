//! The view as JSON, with the field names that tools for Cilium read. Rendered when somebody asks.

use cilium_abi::lb;
use cilium_engine::compile::{EndpointView, ServiceView, View, ViewWay};
use cilium_engine::world::Labels;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

/// What a pass shows.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// The view.
    pub view: View,
    /// Interfaces with rows that are not as wanted.
    failing: BTreeSet<String>,
    json: OnceLock<Arc<str>>,
}

impl Shown {
    /// A view, and names of interfaces whose endpoints are not ready.
    pub(super) fn new(view: View, failing: BTreeSet<String>) -> Self {
        Self { view, failing, json: OnceLock::new() }
    }

    /// As JSON. The first to ask pays for it.
    pub(super) fn json(&self) -> Arc<str> {
        self.json.get_or_init(|| render(&self.view, &self.failing).to_string().into()).clone()
    }
}

/// Everything, one array per list. Endpoints with a row among `failing` are not ready.
fn render(view: &View, failing: &BTreeSet<String>) -> Value {
    json!({
        "node": view.node,
        "endpoints": view.endpoints.values().map(|e| endpoint(view, e, failing)).collect::<Vec<_>>(),
        "identities": view.identities.iter().map(|(id, identity)| json!({
            "id": id.0,
            "labels": labels(&identity.labels),
        })).collect::<Vec<_>>(),
        "addresses": view.addresses.iter().map(|(net, address)| json!({
            "cidr": net.to_string(),
            "identity": address.row.identity.0,
            "hostIP": address.row.tunnel.map(|ip| ip.to_string()).unwrap_or_default(),
            "metadata": {"source": address.why.as_ref().map(ToString::to_string).unwrap_or_default()},
        })).collect::<Vec<_>>(),
        "nodes": view.nodes.iter().map(node).collect::<Vec<_>>(),
        "services": view.services.values().map(|s| service(s)).collect::<Vec<_>>(),
    })
}

fn text(ip: Option<IpAddr>) -> String {
    ip.map(|ip| ip.to_string()).unwrap_or_default()
}

/// `source:key=value`, or `source:key` where there is no value.
fn labels(labels: &Labels) -> Vec<String> {
    labels.sorted_lines().into_iter().map(|line| line.trim_end_matches('=').to_owned()).collect()
}

fn way(way: ViewWay) -> &'static str {
    match way {
        ViewWay::Open => "disabled",
        ViewWay::DenyRulesOnly => "deny-rules",
        ViewWay::DefaultDeny => "enabled",
    }
}

fn endpoint(view: &View, e: &EndpointView, failing: &BTreeSet<String>) -> Value {
    let rules: Vec<String> = e
        .policy
        .and_then(|id| view.policies.get(&id))
        .map(|p| p.rules.iter().filter_map(|c| view.rules.get(c)).map(|r| r.origin.to_string()).collect())
        .unwrap_or_default();
    let enforcing = match (e.ingress, e.egress) {
        (ViewWay::Open, ViewWay::Open) => "none",
        (_, ViewWay::Open) => "ingress",
        (ViewWay::Open, _) => "egress",
        _ => "both",
    };
    json!({
        "id": e.id.0,
        "status": {
            "state": if failing.contains(&e.link.0) { "not-ready" } else { "ready" },
            "identity": {"id": e.identity.0, "labels": labels(&e.labels)},
            "external-identifiers": {
                "container-id": e.container_id,
                "pod-name": e.pod.as_ref().map(ToString::to_string).unwrap_or_default(),
                "k8s-namespace": e.pod.as_ref().map(|p| p.namespace.clone()).unwrap_or_default(),
                "k8s-pod-name": e.pod.as_ref().map(|p| p.name.clone()).unwrap_or_default(),
            },
            "networking": {
                "addressing": [{"ipv4": text(e.ipv4), "ipv6": text(e.ipv6)}],
                "interface-name": e.link.to_string(),
            },
            "policy": {
                "realized": {
                    "id": e.policy.map_or(0, |p| p.0),
                    "policy-enabled": enforcing,
                    "ingress": way(e.ingress),
                    "egress": way(e.egress),
                    "rules": rules,
                },
            },
        },
    })
}

fn node(node: &cilium_engine::compile::NodeView) -> Value {
    let of = |v6: bool| {
        let address = node.addresses.iter().find(|ip| ip.is_ipv6() == v6).copied();
        let range = node.pod_cidrs.iter().find(|c| c.addr().is_ipv6() == v6);
        json!({"ip": text(address), "alloc-range": range.map(ToString::to_string).unwrap_or_default()})
    };
    json!({
        "name": node.name,
        "primary-address": {"ipv4": of(false), "ipv6": of(true)},
        "routers": node.routers.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// The sort of a frontend, as tools for Cilium call it.
fn kind(flags: u32) -> &'static str {
    let kinds = [
        (lb::FRONTEND_NODE_PORT, "NodePort"),
        (lb::FRONTEND_LOAD_BALANCER, "LoadBalancer"),
        (lb::FRONTEND_EXTERNAL_IP, "ExternalIPs"),
        (lb::FRONTEND_HOST_PORT, "HostPort"),
    ];
    kinds.into_iter().find(|(flag, _)| flags & flag != 0).map_or("ClusterIP", |(_, name)| name)
}

fn service(s: &ServiceView) -> Value {
    let backends: Vec<Value> = s
        .backends
        .iter()
        .map(|b| {
            json!({
                "ip": b.addr.to_string(),
                "port": b.port,
                "protocol": s.proto.to_string(),
                "state": if b.terminating { "terminating" } else { "active" },
            })
        })
        .collect();
    let spec = json!({
        "id": s.rev_nat.0,
        "flags": {"name": s.service.name, "namespace": s.service.namespace, "type": kind(s.flags)},
        "frontend-address": {
            "ip": s.addr.to_string(), "port": s.port, "protocol": s.proto.to_string(), "scope": if s.scope == lb::SCOPE_INTERNAL { "internal" } else { "external" },
        },
        "backend-addresses": backends,
    });
    json!({"spec": spec.clone(), "status": {"realized": spec}})
}
