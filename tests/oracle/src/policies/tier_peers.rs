//! Peers and ports of the rules of [`super::tiers`].

use crate::config::Config;
use crate::packet::Protocol;
use crate::policies::kubernetes::{cluster, is_port_name, read_protocol};
use crate::policies::prefix;
use crate::policies::tiers::{Api, read_pods};
use crate::ports::{Port, Ports, Which};
use crate::read::{At, Findings};
use crate::rule::{Action, Defects, Peer, Peers};
use crate::selector::{self, Keys};

/// Peers of egress rules that are no pods.
const BEYOND_PODS: [&str; 3] = ["nodes", "networks", "domainNames"];

pub(super) fn read_peers(
    rule: &At<'_>,
    member: &str,
    api: Api,
    action: Action,
    config: &Config,
    defects: &mut Defects,
    findings: &mut Findings,
) -> Peers {
    let mark = findings.mark();
    let items = rule.bounded(member, 1..api.most_items() + 1, findings);
    if items.is_none() {
        findings.invalid(&rule.below(member), "is required");
    }
    let mut peers = Vec::new();
    for item in items.unwrap_or_default() {
        let mut known = vec!["namespaces", "pods"];
        if member == "to" {
            known.extend(BEYOND_PODS);
        }
        item.only(&known, findings);
        item.exactly_one(&known, findings);
        peers.extend(read_peer(&item, action, config, findings));
    }
    defects.peers |= findings.any_since(mark);
    Peers::OneOf(peers)
}

fn read_peer(at: &At<'_>, action: Action, config: &Config, findings: &mut Findings) -> Vec<Peer> {
    if let Some(nodes) = at.member("nodes") {
        return vec![Peer::Nodes(selector::read(&nodes, Keys::Node, findings))];
    }
    if let Some(names) = at.member("domainNames") {
        match action {
            Action::Accept => findings.unsupported(&names.path, "names are not evaluated"),
            Action::Deny | Action::Pass => findings.invalid(&names.path, "is only for Accept"),
        }
        return Vec::new();
    }
    if let Some(networks) = at.bounded("networks", 1..26, findings) {
        let mut peers = Vec::new();
        for item in networks {
            let Some(text) = item.text(findings) else { continue };
            match prefix(text) {
                Some(prefix) => peers.push(Peer::Network(prefix)),
                None => findings.invalid(&item.path, format!("{text:?} is not a CIDR")),
            }
        }
        return peers;
    }
    let pods = read_pods(at, findings);
    let peer =
        pods.map(|(namespaces, pods)| Peer::Pods { cluster: cluster(config, &pods), namespaces, pods });
    peer.into_iter().collect()
}

/// Whether a peer of the rule is no pod, and so has no named ports.
pub(super) fn beyond_pods(rule: &At<'_>) -> bool {
    let peers = rule.member("to").and_then(|to| to.value.as_array());
    peers.into_iter().flatten().any(|peer| BEYOND_PODS.iter().any(|name| !peer[name].is_null()))
}

pub(super) fn has_name(ports: &Ports) -> bool {
    match ports {
        Ports::All => false,
        Ports::OneOf(ports) => ports.iter().any(|port| matches!(port.which, Which::Named(_))),
    }
}

pub(super) fn read_ports(
    rule: &At<'_>,
    member: &str,
    api: Api,
    defects: &mut Defects,
    findings: &mut Findings,
) -> Ports {
    let mark = findings.mark();
    let Some(items) = rule.bounded(member, 1..api.most_items() + 1, findings) else { return Ports::All };
    let read = |item: &At<'_>, findings: &mut Findings| match api {
        Api::Cluster => read_protocol_match(item, findings),
        Api::Admin | Api::Baseline => read_admin_port(item, findings),
    };
    let ports = items.iter().filter_map(|item| read(item, findings)).collect();
    defects.ports |= findings.any_since(mark);
    Ports::OneOf(ports)
}

/// `protocols[]` of v1alpha2.
fn read_protocol_match(at: &At<'_>, findings: &mut Findings) -> Option<Port> {
    let names = ["tcp", "udp", "sctp", "destinationNamedPort"];
    at.only(&names, findings);
    at.exactly_one(&names, findings);
    if let Some(name) = at.member("destinationNamedPort") {
        return Some(Port { protocol: None, which: read_name(&name, findings)? });
    }
    let protocols = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)];
    let (protocol, under) =
        protocols.iter().find_map(|(name, protocol)| Some((*protocol, at.member(name)?)))?;
    under.only(&["destinationPort"], findings);
    let Some(port) = under.member("destinationPort") else {
        findings.invalid(&under.path, "must say something");
        return None;
    };
    port.only(&["number", "range"], findings);
    port.exactly_one(&["number", "range"], findings);
    let which = match port.member("range") {
        Some(range) => read_range(&range, &["start", "end"], findings)?,
        None => {
            let number = port.member("number")?.integer(1, 65535, findings)? as u16;
            Which::Range(number, number)
        }
    };
    Some(Port { protocol: Some(protocol), which })
}

/// `ports[]` of v1alpha1.
fn read_admin_port(at: &At<'_>, findings: &mut Findings) -> Option<Port> {
    let names = ["portNumber", "namedPort", "portRange"];
    at.only(&names, findings);
    at.exactly_one(&names, findings);
    let protocol = |at: &At<'_>, findings: &mut Findings| match at.member("protocol") {
        None => Some(Protocol::Tcp),
        Some(protocol) => read_protocol(&protocol, findings),
    };
    if let Some(name) = at.member("namedPort") {
        return Some(Port { protocol: None, which: read_name(&name, findings)? });
    }
    if let Some(range) = at.member("portRange") {
        let protocol = Some(protocol(&range, findings)?);
        return Some(Port { protocol, which: read_range(&range, &["start", "end", "protocol"], findings)? });
    }
    let number = at.member("portNumber")?;
    number.only(&["protocol", "port"], findings);
    let protocol = Some(protocol(&number, findings)?);
    let Some(port) = number.member("port") else {
        findings.invalid(&number.below("port"), "is required");
        return None;
    };
    let port = port.integer(1, 65535, findings)? as u16;
    Some(Port { protocol, which: Which::Range(port, port) })
}

fn read_range(at: &At<'_>, members: &[&str], findings: &mut Findings) -> Option<Which> {
    at.only(members, findings);
    let mut end = |name: &str| match at.member(name) {
        Some(end) => end.integer(1, 65535, findings).map(|end| end as u16),
        None => {
            findings.invalid(&at.below(name), "is required");
            None
        }
    };
    let (start, end) = (end("start"), end("end"));
    let (start, end) = (start?, end?);
    if start >= end {
        findings.invalid(&at.path, "must start before it ends");
        return None;
    }
    Some(Which::Range(start, end))
}

fn read_name(at: &At<'_>, findings: &mut Findings) -> Option<Which> {
    let name = at.text(findings)?;
    if !is_port_name(name) {
        findings.invalid(&at.path, format!("{name:?} is not the name of a port"));
        return None;
    }
    Some(Which::Named(name.to_owned()))
}
