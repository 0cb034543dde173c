//! Objects of the cluster → facts. They are whole (the schema passed), or not lowered at all.

use super::cursor::{Cursor, Notes};
use super::{Facts, Header};
use crate::api::cilium::{CiliumEndpoint, CiliumIdentity, CiliumNode};
use crate::api::{IntOrString, core};
use crate::schema::{nearest, quoted};
use cilium_engine::state::{IdentityId, Protocol};
use cilium_engine::world::{
    BackendAddress, EndpointSlice, IdentityClaim, Label, Labels, Namespace, Node, NodeAddress,
    NodeAddressKind, Pod, PodPort, RemoteEndpoint, Service, ServicePort, SlicePort, TargetPort,
};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Label of an EndpointSlice: its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

pub(super) fn namespace(header: &Header, root: &Cursor<'_>, notes: &mut Notes) -> Facts {
    let Some(api) = notes.read::<core::Namespace>(root) else { return Facts::Nothing };
    Facts::Namespace(Namespace { labels: api.metadata.labels, place: header.place.clone() }.into())
}

pub(super) fn node(header: &Header, root: &Cursor<'_>, notes: &mut Notes) -> Facts {
    let Some(api) = notes.read::<core::Node>(root) else { return Facts::Nothing };
    let spec = api.spec.unwrap_or_default();
    let cidrs = spec.pod_cidrs.unwrap_or_else(|| spec.pod_cidr.into_iter().collect());
    let at = root.at("spec").at("podCIDRs");
    let pod_cidrs = cidrs.iter().filter_map(|text| cidr(&at, text, notes)).collect();
    let at = root.at("status").at("addresses");
    let addresses = api.status.unwrap_or_default().addresses.unwrap_or_default();
    let addresses = addresses
        .iter()
        .filter_map(|a| Some(NodeAddress { kind: address_kind(&a.kind)?, ip: ip(&at, &a.address, notes)? }))
        .collect();
    Facts::Node(Node { addresses, pod_cidrs, labels: api.metadata.labels, place: header.place.clone() })
}

pub(super) fn cilium_node(header: &Header, root: &Cursor<'_>, notes: &mut Notes) -> Facts {
    let Some(api) = notes.read::<CiliumNode>(root) else { return Facts::Nothing };
    let spec = root.at("spec");
    let mut addresses = Vec::new();
    for (address, at) in api.spec.addresses.unwrap_or_default().iter().zip(spec.at("addresses").items()) {
        match address_kind(&address.kind) {
            Some(kind) => {
                addresses.extend(ip(&at.at("ip"), &address.ip, notes).map(|ip| NodeAddress { kind, ip }))
            }
            None if OTHER_ADDRESSES.contains(&address.kind.as_str()) => {}
            None => {
                let hint = match nearest(&address.kind, KINDS.iter().map(|(name, _)| *name)) {
                    Some(name) => format!("did you mean `{name}`?"),
                    None => "the types are InternalIP, ExternalIP and CiliumInternalIP".to_owned(),
                };
                notes.invalid(
                    &at.at("type"),
                    format!("there is no address type {}", quoted(&address.kind)),
                    &hint,
                );
            }
        }
    }
    let at = spec.at("ipam").at("podCIDRs");
    let cidrs = api.spec.ipam.unwrap_or_default().pod_cidrs.unwrap_or_default();
    let pod_cidrs = cidrs.iter().filter_map(|text| cidr(&at, text, notes)).collect();
    Facts::CiliumNode(Node { addresses, pod_cidrs, labels: api.metadata.labels, place: header.place.clone() })
}

const KINDS: &[(&str, NodeAddressKind)] = &[
    ("InternalIP", NodeAddressKind::InternalIp),
    ("ExternalIP", NodeAddressKind::ExternalIp),
    ("CiliumInternalIP", NodeAddressKind::CiliumInternalIp),
];

/// Types of addresses that are names, and not read.
const OTHER_ADDRESSES: &[&str] = &["Hostname", "InternalDNS", "ExternalDNS"];

fn address_kind(name: &str) -> Option<NodeAddressKind> {
    KINDS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
}

pub(super) fn pod(header: &Header, root: &Cursor<'_>, notes: &mut Notes) -> Facts {
    let Some(api) = notes.read::<core::Pod>(root) else { return Facts::Nothing };
    let spec = api.spec.unwrap_or_default();
    let status = api.status.unwrap_or_default();
    let containers = spec.containers.into_iter().chain(spec.init_containers).flatten();
    let mut ports = Vec::new();
    for port in containers.filter_map(|c| c.ports).flatten() {
        if let (Some(name), Ok(number)) = (port.name, u16::try_from(port.container_port)) {
            ports.push(PodPort { name, port: number, proto: protocol(port.protocol.as_deref()) });
        }
    }
    // The addresses of a pod that has ended may be another pod's by now.
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let mut texts: Vec<String> = status.pod_ips.unwrap_or_default().into_iter().map(|p| p.ip).collect();
    if texts.is_empty() {
        texts.extend(status.pod_ip);
    }
    let at = root.at("status").at("podIPs");
    let ips = if ended { Vec::new() } else { texts.iter().filter_map(|text| ip(&at, text, notes)).collect() };
    let pod = Pod {
        labels: api.metadata.labels,
        service_account: spec.service_account_name.unwrap_or_default(),
        node_name: spec.node_name.filter(|name| !name.is_empty()),
        host_network: spec.host_network.unwrap_or(false),
        ports,
        ips,
        place: header.place.clone(),
    };
    Facts::Pod(pod.into())
}

pub(super) fn service(header: &Header, root: &Cursor<'_>, notes: &mut Notes) -> Facts {
    let Some(api) = notes.read::<core::Service>(root) else { return Facts::Nothing };
    let spec = root.at("spec");
    let kind = api.spec.kind.as_deref().unwrap_or("ClusterIP");
    let external = kind == "ExternalName";
    match kind {
        "ClusterIP" => {}
        "ExternalName" => {
            notes.warning(&spec.at("type"), "a Service of type ExternalName is a matter of DNS alone", "")
        }
        _ => notes.unsupported(
            &spec.at("type"),
            format!("of a Service of type {kind} only the ClusterIP is in force yet"),
            "",
        ),
    }
    let texts = api.spec.cluster_ips.unwrap_or_else(|| api.spec.cluster_ip.into_iter().collect());
    let headless = texts.iter().any(|text| text == "None");
    let at = if spec.key("clusterIPs").is_some() { spec.at("clusterIPs") } else { spec.at("clusterIP") };
    let mut cluster_ips: Vec<IpAddr> = Vec::new();
    for text in texts.iter().filter(|text| !headless && !external && !text.is_empty()) {
        cluster_ips.extend(ip(&at, text, notes));
    }
    if cluster_ips.is_empty() && !headless && !external {
        let hint = "give it one as `clusterIP`, or `clusterIP: None` for a headless Service";
        notes.warning(&spec, "it has no ClusterIP, so nothing is served", hint);
    }
    let ports = service_ports(&spec, api.spec.ports.unwrap_or_default(), notes);
    let service = Service {
        cluster_ips,
        ports,
        // An empty selector selects nothing: backends come from slices.
        selector: api.spec.selector.filter(|s| !s.is_empty() && !external),
        publish_not_ready: api.spec.publish_not_ready_addresses.unwrap_or(false),
        place: header.place.clone(),
    };
    Facts::Service(service.into())
}

fn service_ports(spec: &Cursor<'_>, list: Vec<core::ServicePort>, notes: &mut Notes) -> Vec<ServicePort> {
    let several = list.len() > 1;
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    let mut ports = Vec::new();
    for (port, at) in list.into_iter().zip(spec.at("ports").items()) {
        let proto = protocol(port.protocol.as_deref());
        let name = port.name.unwrap_or_default();
        let Ok(number) = u16::try_from(port.port) else { continue };
        if several && name.is_empty() {
            notes.invalid(&at, "`name` is missing", "each of several ports needs a name");
        }
        if !names.insert(name.clone()) && !name.is_empty() {
            notes.invalid(&at, format!("the name {} is given twice", quoted(&name)), "");
        }
        if !numbers.insert((number, proto)) {
            notes.invalid(&at, format!("port {number}/{proto} is given twice"), "");
        }
        let target = match port.target_port {
            None => TargetPort::Number(number),
            Some(IntOrString::Int(target)) => match u16::try_from(target) {
                Ok(0) => TargetPort::Number(number),
                Ok(target) => TargetPort::Number(target),
                Err(_) => {
                    notes.invalid(&at.at("targetPort"), format!("there is no port `{target}`"), "");
                    continue;
                }
            },
            Some(IntOrString::Text(name)) => TargetPort::Name(name),
        };
        ports.push(ServicePort { name, port: number, proto, target });
    }
    ports
}

pub(super) fn slice(header: &Header, root: &Cursor<'_>, notes: &mut Notes) -> Facts {
    let Some(api) = notes.read::<core::EndpointSlice>(root) else { return Facts::Nothing };
    let Some(service) = api.metadata.labels.get(SERVICE_NAME).cloned() else {
        let hint = format!("add the label `{SERVICE_NAME}: NAME`");
        notes.warning(&root.at("metadata"), "belongs to no Service, so it does nothing", &hint);
        return Facts::Nothing;
    };
    if api.address_type == "FQDN" {
        notes.warning(&root.at("addressType"), "names are no addresses: the slice does nothing", "");
        return Facts::Nothing;
    }
    let mut ports = Vec::new();
    for (port, at) in api.ports.unwrap_or_default().into_iter().zip(root.at("ports").items()) {
        match port.port.and_then(|number| u16::try_from(number).ok()) {
            Some(number) => {
                let name = port.name.unwrap_or_default();
                ports.push(SlicePort { name, port: number, proto: protocol(port.protocol.as_deref()) });
            }
            None => notes.warning(&at, "a port without a number is not served", ""),
        }
    }
    let v6 = api.address_type == "IPv6";
    let mut endpoints = Vec::new();
    for (endpoint, at) in api.endpoints.unwrap_or_default().into_iter().zip(root.at("endpoints").items()) {
        let at = at.at("addresses");
        let Some(text) = endpoint.addresses.first() else {
            notes.invalid(&at, "has no address", "");
            continue;
        };
        let Some(ip) = ip(&at, text, notes) else { continue };
        if ip.is_ipv6() != v6 {
            let message = format!("{ip} is not of the address type {}", api.address_type);
            notes.invalid(&at, message, "a slice holds one family");
            continue;
        }
        let conditions = endpoint.conditions.unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        endpoints.push(BackendAddress {
            ip,
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
        });
    }
    Facts::Slice(EndpointSlice { service, ports, endpoints, place: header.place.clone() }.into())
}

pub(super) fn identity(header: &Header, root: &Cursor<'_>, notes: &mut Notes) -> Facts {
    let Some(api) = notes.read::<CiliumIdentity>(root) else { return Facts::Nothing };
    let at = root.at("metadata").at("name");
    let number = header.name.name.parse::<u32>().ok().filter(|n| (256..=0x00ff_ffff).contains(n));
    let Some(number) = number else {
        let hint = "its name is the identity's number, 256 to 16777215";
        notes.invalid(&at, format!("{} is no number of an identity", quoted(&header.name.name)), hint);
        return Facts::Nothing;
    };
    let mut labels = Labels::default();
    for (key, value) in api.security_labels {
        labels.0.insert(sourced(&key), value);
    }
    let claim = IdentityClaim {
        number: IdentityId(number),
        labels: labels.into(),
        published_by: header.published_by.clone(),
        place: header.place.clone(),
    };
    Facts::Claim(claim.into())
}

pub(super) fn endpoint(header: &Header, root: &Cursor<'_>, notes: &mut Notes) -> Facts {
    let Some(api) = notes.read::<CiliumEndpoint>(root) else { return Facts::Nothing };
    // An endpoint that is being made has no identity or address yet: nothing to know, nothing wrong.
    let Some(status) = api.status else { return Facts::Nothing };
    let (Some(identity), Some(networking)) = (status.identity, status.networking) else {
        return Facts::Nothing;
    };
    let at = root.at("status");
    let mut ips = Vec::new();
    for pair in networking.addressing.unwrap_or_default() {
        for text in pair.ipv4.iter().chain(&pair.ipv6).filter(|text| !text.is_empty()) {
            ips.extend(ip(&at.at("networking").at("addressing"), text, notes));
        }
    }
    let node_ip = networking.node.filter(|text| !text.is_empty());
    let node_ip = node_ip.and_then(|text| ip(&at.at("networking").at("node"), &text, notes));
    let Ok(number) = u32::try_from(identity.id) else { return Facts::Nothing };
    let mut labels = Labels::default();
    for line in identity.labels.unwrap_or_default() {
        let (key, value) = line.split_once('=').unwrap_or((&line, ""));
        labels.0.insert(sourced(key), value.to_owned());
    }
    let ports = status.named_ports.unwrap_or_default().into_iter();
    let endpoint = RemoteEndpoint {
        ips,
        identity: IdentityId(number),
        labels: labels.into(),
        node_ip,
        node_name: header.published_by.clone(),
        ports: ports
            .filter_map(|p| {
                let proto = protocol(Some(&p.protocol));
                Some(PodPort { name: p.name, port: u16::try_from(p.port).ok()?, proto })
            })
            .collect(),
        place: header.place.clone(),
    };
    Facts::Endpoint(endpoint.into())
}

fn sourced(key: &str) -> Label {
    let (source, key) = key.split_once(':').unwrap_or(("unspec", key));
    Label::new(source, key)
}

fn protocol(name: Option<&str>) -> Protocol {
    match name {
        Some("UDP") => Protocol::UDP,
        Some("SCTP") => Protocol::SCTP,
        _ => Protocol::TCP,
    }
}

fn ip(at: &Cursor<'_>, text: &str, notes: &mut Notes) -> Option<IpAddr> {
    let ip = text.parse().ok();
    if ip.is_none() {
        notes.invalid(at, format!("{} is no IP address", quoted(text)), "");
    }
    ip
}

fn cidr(at: &Cursor<'_>, text: &str, notes: &mut Notes) -> Option<IpNet> {
    match text.parse::<IpNet>() {
        Ok(net) if net == net.trunc() => Some(net),
        Ok(net) => {
            let message = format!("{} has bits beyond its prefix length", quoted(text));
            notes.invalid(at, message, &format!("write `{}`", net.trunc()));
            None
        }
        Err(_) => {
            notes.invalid(at, format!("{} is no prefix", quoted(text)), "write it as `10.0.0.0/24`");
            None
        }
    }
}
