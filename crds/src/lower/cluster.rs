//! Objects of the cluster but Services → facts. They are whole (the schema passed), or not lowered at all.

use super::clause::prefix;
use super::cursor::{Cursor, Notes};
use super::selector::GROUP_SOURCE;
use super::values::{cidr, ip, protocol};
use super::{Facts, Header};
use crate::api::cilium::{CiliumCIDRGroup, CiliumEndpoint, CiliumIdentity, CiliumNode};
use crate::api::core;
use crate::schema::{nearest, quoted};
use cilium_engine::state::IdentityId;
use cilium_engine::world::{
    CidrGroup, HostPort, IdentityClaim, Label, Labels, Namespace, Node, NodeAddress, NodeAddressKind, Pod,
    PodPort, RemoteEndpoint,
};
use std::collections::BTreeSet;

pub(super) fn namespace(header: &Header, root: &Cursor<'_>, notes: &mut Notes) -> Facts {
    let Some(api) = notes.read::<core::Namespace>(root) else { return Facts::Nothing };
    let mut labels = api.metadata.labels;
    // As an API server does with every namespace.
    labels.insert(NAMESPACE_NAME.to_owned(), header.name.name.to_string());
    Facts::Namespace(Namespace { labels, place: header.place.clone() }.into())
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
    let tainted = spec.taints.unwrap_or_default().iter().any(|taint| taint.key == TO_BE_DELETED);
    let leaving = tainted || api.metadata.deletion_timestamp.is_some();
    let labels = api.metadata.labels;
    Facts::Node(Node { addresses, pod_cidrs, labels, leaving, place: header.place.clone() }.into())
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
    let (labels, place) = (api.metadata.labels, header.place.clone());
    Facts::CiliumNode(Node { addresses, pod_cidrs, labels, leaving: false, place }.into())
}

/// The label of every namespace that says its name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// The cluster autoscaler's mark on a node that it is about to take away.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

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
    // The addresses of a pod that has ended may be another pod's by now, and its ports on the node too.
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let host_network = spec.host_network.unwrap_or(false);
    // On the node's network a container port is one of the node by itself.
    let host_ports = if ended || host_network { Vec::new() } else { host_ports(root, &spec, notes) };
    let containers = spec.containers.into_iter().chain(spec.init_containers).flatten();
    let mut ports = Vec::new();
    for port in containers.filter_map(|c| c.ports).flatten() {
        if let (Some(name), Ok(number)) = (port.name, u16::try_from(port.container_port)) {
            ports.push(PodPort { name, port: number, proto: protocol(port.protocol.as_deref()) });
        }
    }
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
        host_network,
        ports,
        host_ports,
        ips,
        place: header.place.clone(),
    };
    Facts::Pod(pod.into())
}

/// Ports of the node that lead to the pod's containers and sidecars; other init containers have ended.
fn host_ports(root: &Cursor<'_>, spec: &core::PodSpec, notes: &mut Notes) -> Vec<HostPort> {
    let at = root.at("spec");
    let lists = [("containers", &spec.containers), ("initContainers", &spec.init_containers)];
    let (mut taken, mut found) = (BTreeSet::new(), Vec::new());
    for (field, list) in lists {
        for (container, at) in list.iter().flatten().zip(at.at(field).items()) {
            if field == "initContainers" && container.restart_policy.as_deref() != Some("Always") {
                continue;
            }
            for (port, at) in container.ports.iter().flatten().zip(at.at("ports").items()) {
                let number = |n: i64| u16::try_from(n).ok().filter(|n| *n > 0);
                let (Some(host), Some(target)) =
                    (port.host_port.and_then(number), number(port.container_port))
                else {
                    continue;
                };
                let text = port.host_ip.as_deref().filter(|text| !text.is_empty());
                let ip = match text {
                    Some(text) => match ip(&at.at("hostIP"), text, notes) {
                        None => continue,
                        some => some,
                    },
                    None => None,
                };
                let proto = protocol(port.protocol.as_deref());
                if !taken.insert((ip, host, proto)) {
                    let hint = "each port of the node leads to one container";
                    notes.invalid(&at, format!("hostPort {host}/{proto} is given twice"), hint);
                }
                found.push(HostPort { ip, port: host, proto, target });
            }
        }
    }
    found
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
        labels.0.insert(sourced(key), value);
    }
    let ports = status.named_ports.unwrap_or_default().into_iter();
    let endpoint = RemoteEndpoint {
        ips: ips.into(),
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

/// A group with a prefix that cannot be read has the others.
pub(super) fn group(header: &Header, root: &Cursor<'_>, notes: &mut Notes) -> Facts {
    let Some(api) = notes.read::<CiliumCIDRGroup>(root) else { return Facts::Nothing };
    let at = root.at("spec").at("externalCIDRs");
    let items = at.items();
    let texts = api.spec.external_cidrs.iter().zip(&items);
    let prefixes = texts.filter_map(|(text, at)| prefix(at, text, notes).ok()).collect();
    let labels = api.metadata.labels.iter();
    let labels = labels.fold(Labels::default(), |all, (key, value)| all.with(GROUP_SOURCE, key, value));
    Facts::Group(CidrGroup { labels, prefixes, place: header.place.clone() }.into())
}
