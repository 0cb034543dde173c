//! Services. What the API server would refuse is invalid here too; the whole Service then does nothing new.

mod addresses;
mod annotations;
mod node_selector;
mod ports;

use super::cursor::{Cursor, Notes};
use super::values::check_annotations;
use super::{Facts, Header};
use crate::api::service as api;
use annotations::Said;
use cilium_engine::map::Few;
use cilium_engine::world::{
    Created, Distribution, Labels, LoadBalancerAddresses, Service, ServiceKind, SourceRanges, TrafficPolicy,
};

/// Label: another proxy is to serve the Service.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Seconds a client keeps its backend, if not said.
const AFFINITY: i64 = 10_800;
/// Most frontends of one Service, as many as `bpf.lb_max` has room for by default.
const MAX_FRONTENDS: usize = 65_536;
/// Most rows that the source ranges of one Service make.
const MAX_RANGE_ROWS: usize = 1 << 20;

pub(super) fn service(header: &Header, root: &Cursor<'_>, notes: &mut Notes) -> Facts {
    let Some(api) = notes.read::<api::Service>(root) else { return Facts::Nothing };
    if !check_annotations(root, &api.metadata.annotations, notes) {
        return Facts::Nothing;
    }
    let at = root.at("spec");
    let spec = &api.spec;
    let kind = kind(&at, spec, notes);
    let created = created(root, notes);
    let proxy_name = api.metadata.labels.get(PROXY_NAME).cloned();
    if kind == ServiceKind::ExternalName {
        let place = header.place.clone();
        return Facts::Service(Service { kind, created, proxy_name, place, ..Service::default() }.into());
    }
    let said = Said::read(root, &api.metadata.annotations, notes);
    let cluster_ips = addresses::cluster_ips(&at, spec, notes);
    let families = addresses::families(&at, spec, &cluster_ips, notes);
    let external_ips = addresses::external_ips(&at, spec, &families, notes);
    let load_balancer = load_balancer(root, &api, &said, kind, &families, notes);
    let ports = ports::ports(&at, spec, kind, notes);
    let source_ranges = source_ranges(&at, spec, &said, kind, notes);
    let external =
        kind == ServiceKind::NodePort || kind == ServiceKind::LoadBalancer || !external_ips.is_empty();
    let external_policy = external_policy(&at, spec, external, notes);
    let service = Service {
        kind,
        external_policy,
        internal_policy: traffic_policy(spec.internal_traffic_policy.as_deref()),
        affinity: affinity(&at, spec, notes),
        health_check_node_port: ports::health_check(&at, spec, kind, external_policy, notes),
        allocate_node_ports: allocate_node_ports(&at, spec, kind, notes),
        distribution: distribution(&at, spec, &said, notes),
        cluster_ips,
        families,
        external_ips,
        load_balancer,
        ports,
        labels: api
            .metadata
            .labels
            .iter()
            .fold(Labels::default(), |all, (key, value)| all.with("k8s", key, value)),
        // An empty selector selects nothing: backends come from slices.
        selector: spec.selector.clone().filter(|s| !s.is_empty()).map(Few::from),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        source_ranges,
        algorithm: said.algorithm,
        forwarding: said.forwarding,
        only: said.only,
        nodes: said.nodes,
        proxy_name,
        created,
        place: header.place.clone(),
    };
    bound(&at, &service, notes);
    unserved(&at, &service, notes);
    Facts::Service(service.into())
}

fn kind(at: &Cursor<'_>, spec: &api::ServiceSpec, notes: &mut Notes) -> ServiceKind {
    let kind = match spec.kind.as_deref() {
        Some("NodePort") => ServiceKind::NodePort,
        Some("LoadBalancer") => ServiceKind::LoadBalancer,
        Some("ExternalName") => ServiceKind::ExternalName,
        _ => ServiceKind::ClusterIp,
    };
    let headless = spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten()).any(|text| text == "None");
    match kind {
        ServiceKind::ExternalName => {
            if spec.external_name.as_deref().is_none_or(str::is_empty) {
                notes.invalid(at, "`externalName` is missing", "write the name that the Service stands for");
            }
            notes.warning(&at.at("type"), "a Service of type ExternalName is a matter of DNS alone", "");
            kind
        }
        ServiceKind::ClusterIp if headless => ServiceKind::Headless,
        ServiceKind::NodePort | ServiceKind::LoadBalancer if headless => {
            let hint = "a headless Service is of type ClusterIP";
            notes.invalid(&at.at("type"), "a Service of this type cannot be headless", hint);
            kind
        }
        ServiceKind::ClusterIp
        | ServiceKind::Headless
        | ServiceKind::NodePort
        | ServiceKind::LoadBalancer => kind,
    }
}

/// When it was made, if that is written as the API server writes it.
fn created(root: &Cursor<'_>, notes: &mut Notes) -> Option<Created> {
    let at = root.key("metadata")?.key("creationTimestamp")?;
    let shape = |text: &str| {
        let form = b"0000-00-00T00:00:00Z";
        let fits =
            |(byte, form): (u8, &u8)| if *form == b'0' { byte.is_ascii_digit() } else { byte == *form };
        text.len() == form.len() && text.bytes().zip(form).all(fits)
    };
    match at.node.text() {
        Some(text) if shape(text) => Some(Created(text.to_owned())),
        _ => {
            let hint = "write it as `2026-01-31T12:00:00Z`, or remove it: the oldest Service gets a frontend that several want";
            notes.warning(&at, "this is no time in UTC, so the age counts as unknown", hint);
            None
        }
    }
}

fn load_balancer(
    root: &Cursor<'_>,
    api: &api::Service,
    said: &Said<'_>,
    kind: ServiceKind,
    families: &[cilium_engine::world::IpFamily],
    notes: &mut Notes,
) -> LoadBalancerAddresses {
    let (at, spec) = (root.at("spec"), &api.spec);
    if kind != ServiceKind::LoadBalancer {
        if spec.load_balancer_class.is_some() {
            notes.invalid(
                &at.at("loadBalancerClass"),
                "only Services of type LoadBalancer have one",
                "remove it",
            );
        }
        return LoadBalancerAddresses::default();
    }
    LoadBalancerAddresses {
        assigned: addresses::assigned(root, api, families, notes),
        requested: addresses::requested(&at, spec, said, families, notes),
        class: spec.load_balancer_class.clone().filter(|class| !class.is_empty()),
    }
}

fn source_ranges(
    at: &Cursor<'_>,
    spec: &api::ServiceSpec,
    said: &Said<'_>,
    kind: ServiceKind,
    notes: &mut Notes,
) -> SourceRanges {
    let at = at.at("loadBalancerSourceRanges");
    let texts = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    if !texts.is_empty() && kind != ServiceKind::LoadBalancer {
        notes.invalid(&at, "only Services of type LoadBalancer have source ranges", "use a NetworkPolicy");
    }
    SourceRanges { ranges: addresses::ranges(&at, texts, notes), policy: said.ranges_policy }
}

fn traffic_policy(name: Option<&str>) -> TrafficPolicy {
    match name {
        Some("Local") => TrafficPolicy::Local,
        _ => TrafficPolicy::Cluster,
    }
}

fn external_policy(
    at: &Cursor<'_>,
    spec: &api::ServiceSpec,
    external: bool,
    notes: &mut Notes,
) -> TrafficPolicy {
    let policy = spec.external_traffic_policy.as_deref();
    if policy.is_some() && !external {
        let hint =
            "remove it: Services of type NodePort and LoadBalancer, and those with external IPs have one";
        notes.invalid(&at.at("externalTrafficPolicy"), "nobody outside reaches this Service", hint);
    }
    traffic_policy(policy)
}

fn affinity(at: &Cursor<'_>, spec: &api::ServiceSpec, notes: &mut Notes) -> Option<u32> {
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        if config.is_some() {
            let hint = "write `sessionAffinity: ClientIP`, or remove it";
            notes.invalid(&at.at("sessionAffinityConfig"), "the Service has no session affinity", hint);
        }
        return None;
    }
    let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(AFFINITY);
    u32::try_from(seconds).ok()
}

fn allocate_node_ports(
    at: &Cursor<'_>,
    spec: &api::ServiceSpec,
    kind: ServiceKind,
    notes: &mut Notes,
) -> bool {
    if spec.allocate_load_balancer_node_ports.is_some() && kind != ServiceKind::LoadBalancer {
        let at = at.at("allocateLoadBalancerNodePorts");
        notes.invalid(&at, "only Services of type LoadBalancer have this choice", "remove it");
    }
    spec.allocate_load_balancer_node_ports.unwrap_or(true)
}

fn distribution(
    at: &Cursor<'_>,
    spec: &api::ServiceSpec,
    said: &Said<'_>,
    notes: &mut Notes,
) -> Distribution {
    let at = at.at("trafficDistribution");
    let distribution = match spec.traffic_distribution.as_deref() {
        None => Distribution::AsHinted,
        Some("PreferClose" | "PreferSameZone") => Distribution::SameZone,
        Some("PreferSameNode") => Distribution::SameNode,
        Some(other) => {
            let hint = "PreferClose, PreferSameZone and PreferSameNode are known; without one, all backends are alike";
            notes.warning(
                &at,
                format!("the distribution {} is not known", crate::schema::quoted(other)),
                hint,
            );
            Distribution::AsHinted
        }
    };
    // Kubernetes: the annotation takes precedence.
    if said.hints_by_topology { Distribution::AsHinted } else { distribution }
}

/// What one object may cost is bounded before anything is made of it.
fn bound(at: &Cursor<'_>, service: &Service, notes: &mut Notes) {
    let balancer = &service.load_balancer;
    let balanced = balancer.assigned.as_ref().map_or(0, Vec::len).max(balancer.requested.len());
    let addresses = service.cluster_ips.len() + service.external_ips.len() + balanced;
    let frontends = service.ports.len().saturating_mul(addresses);
    if frontends > MAX_FRONTENDS || service.ports.len() > MAX_FRONTENDS {
        let message = format!("{addresses} addresses with {} ports each are too many", service.ports.len());
        notes.invalid(&at.at("ports"), message, &format!("a Service has at most {MAX_FRONTENDS} frontends"));
    }
    let ranges = service.source_ranges.ranges.len();
    if ranges.saturating_mul(service.ports.len()).saturating_mul(balanced.max(1)) > MAX_RANGE_ROWS {
        let message = format!("{ranges} ranges for each port and address are too many");
        let hint = format!("at most {MAX_RANGE_ROWS} for all: write fewer and wider ones");
        notes.invalid(&at.at("loadBalancerSourceRanges"), message, &hint);
    }
}

/// Tells where a Service lacks what others give it in a cluster with an API server.
fn unserved(at: &Cursor<'_>, service: &Service, notes: &mut Notes) {
    let balancer = &service.load_balancer;
    match service.kind {
        ServiceKind::Headless | ServiceKind::ExternalName => {}
        ServiceKind::ClusterIp if service.cluster_ips.is_empty() && service.external_ips.is_empty() => {
            let hint = "give it one as `clusterIP`, or `clusterIP: None` for a headless Service";
            notes.warning(at, "it has no ClusterIP, so nothing is served", hint);
        }
        ServiceKind::ClusterIp => {}
        ServiceKind::NodePort => {
            for (port, at) in service.ports.iter().zip(at.at("ports").items()) {
                if port.node_port.is_none() {
                    let hint = "give it one as `nodePort`";
                    notes.warning(&at, "it has no NodePort, so it is not served on nodes", hint);
                }
            }
        }
        ServiceKind::LoadBalancer => {
            let none = balancer.requested.is_empty() && balancer.assigned.as_ref().is_none_or(Vec::is_empty);
            if none && balancer.assigned.is_none() {
                let hint = "in a folder, write one as `loadBalancerIP` or `status.loadBalancer.ingress`";
                notes.warning(at, "it has no load balancer address yet", hint);
            }
        }
    }
}
