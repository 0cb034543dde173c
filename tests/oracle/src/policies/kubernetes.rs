//! NetworkPolicy of networking.k8s.io/v1.
//!
//! Source: the API reference of NetworkPolicySpec, "Network Policies" of the Kubernetes documentation, and
//! the API server's validation. `ipBlock` is a CIDR rule as Cilium has them: for addresses outside the
//! cluster unless configured otherwise.

use crate::config::Config;
use crate::packet::Protocol;
use crate::policies::{contains, prefix};
use crate::ports::{Port, Ports, Which};
use crate::read::{At, Findings};
use crate::rule::{
    Action, Defects, Direction, Isolation, Namespaces, Peer, Peers, Rank, Read, Rule, RuleId, Subject, Tier,
};
use crate::selector::{self, Keys, Selector};

pub(super) fn read(root: &At<'_>, id: &RuleId, config: &Config) -> Read {
    let mut read = Read::default();
    root.only(&["apiVersion", "kind", "metadata", "spec", "status"], &mut read.findings);
    let Some(spec) = root.member("spec") else {
        read.findings.invalid("spec", "is required");
        return read;
    };
    let findings = &mut read.findings;
    spec.only(&["podSelector", "policyTypes", "ingress", "egress"], findings);
    let mark = findings.mark();
    let pods =
        spec.member("podSelector").map(|at| selector::read(&at, Keys::Pod, findings)).unwrap_or_default();
    let namespaces = Namespaces::Named(id.namespace.clone());
    let readable = !findings.any_since(mark);
    let subject = if readable { Subject::Pods { namespaces, pods } } else { Subject::Nobody };

    let directions = directions(&spec, findings);
    for direction in &directions {
        read.isolations.push(Isolation {
            id: id.at("spec"),
            direction: *direction,
            subject: subject.clone(),
        });
    }
    for (name, peers, direction) in
        [("ingress", "from", Direction::Ingress), ("egress", "to", Direction::Egress)]
    {
        for element in spec.list(name, findings).unwrap_or_default() {
            let mut defects = Defects::default();
            let mark = findings.mark();
            element.only(&[peers, "ports"], findings);
            defects.other |= findings.any_since(mark);
            let rule = Rule {
                id: id.at(&element.path),
                rank: Rank { tier: Tier::Normal, priority: 0 },
                place: read.rules.len(),
                direction,
                subject: subject.clone(),
                action: Action::Accept,
                peers: read_peers(&element, peers, &id.namespace, config, &mut defects, findings),
                ports: read_ports(&element, &mut defects, findings),
            };
            // Rules of a direction that policyTypes leaves out say nothing.
            if directions.contains(&direction) {
                read.rules.push((rule, defects));
            }
        }
    }
    read
}

/// `policyTypes`; without it Ingress, and Egress if there are egress rules.
fn directions(spec: &At<'_>, findings: &mut Findings) -> Vec<Direction> {
    let mark = findings.mark();
    let types = spec.list("policyTypes", findings).unwrap_or_default();
    if types.len() > 2 {
        findings.invalid(&spec.below("policyTypes"), "has more than two items");
    }
    let mut directions = Vec::new();
    for item in types {
        match item.text(findings) {
            Some("Ingress") => directions.push(Direction::Ingress),
            Some("Egress") => directions.push(Direction::Egress),
            Some(other) => findings.invalid(&item.path, format!("{other:?} is neither Ingress nor Egress")),
            None => {}
        }
    }
    if directions.is_empty() || findings.any_since(mark) {
        let egress =
            spec.member("egress").is_some_and(|egress| egress.value.as_array().is_none_or(|e| !e.is_empty()));
        if !directions.contains(&Direction::Ingress) {
            directions.push(Direction::Ingress);
        }
        if egress && !directions.contains(&Direction::Egress) {
            directions.push(Direction::Egress);
        }
    }
    directions
}

fn read_peers(
    element: &At<'_>,
    member: &str,
    namespace: &str,
    config: &Config,
    defects: &mut Defects,
    findings: &mut Findings,
) -> Peers {
    let mark = findings.mark();
    let items = element.list(member, findings).unwrap_or_default();
    defects.peers |= findings.any_since(mark);
    if items.is_empty() {
        return Peers::Everyone;
    }
    let mut peers = Vec::new();
    for item in items {
        let mark = findings.mark();
        peers.extend(read_peer(&item, namespace, config, findings));
        defects.peers |= findings.any_since(mark);
    }
    Peers::OneOf(peers)
}

fn read_peer(at: &At<'_>, namespace: &str, config: &Config, findings: &mut Findings) -> Option<Peer> {
    at.only(&["podSelector", "namespaceSelector", "ipBlock"], findings);
    if let Some(block) = at.member("ipBlock") {
        if !at.present(&["podSelector", "namespaceSelector"]).is_empty() {
            findings.invalid(&block.path, "cannot be combined with selectors");
            return None;
        }
        return read_block(&block, findings);
    }
    let pods = at.member("podSelector").map(|at| selector::read(&at, Keys::Pod, findings));
    let labelled = at.member("namespaceSelector").map(|at| selector::read(&at, Keys::Namespace, findings));
    if pods.is_none() && labelled.is_none() {
        findings.invalid(&at.path, "must have podSelector, namespaceSelector or ipBlock");
        return None;
    }
    let pods = pods.unwrap_or_default();
    let namespaces = labelled.map_or_else(|| Namespaces::Named(namespace.to_owned()), Namespaces::Labelled);
    let cluster = cluster(config, &pods);
    Some(Peer::Pods { namespaces, pods, cluster })
}

/// The cluster that pods are of where the selector does not say.
pub(super) fn cluster(config: &Config, pods: &Selector) -> Option<String> {
    (config.default_local_cluster && !pods.names_cluster()).then(|| config.cluster.clone())
}

fn read_block(at: &At<'_>, findings: &mut Findings) -> Option<Peer> {
    at.only(&["cidr", "except"], findings);
    let Some(cidr) = at.member("cidr") else {
        findings.invalid(&at.below("cidr"), "is required");
        return None;
    };
    let text = cidr.text(findings)?;
    let Some(block) = prefix(text) else {
        findings.invalid(&cidr.path, format!("{text:?} is not a CIDR"));
        return None;
    };
    let mut except = Vec::new();
    for item in at.list("except", findings).unwrap_or_default() {
        let text = item.text(findings)?;
        match prefix(text) {
            None => findings.invalid(&item.path, format!("{text:?} is not a CIDR")),
            Some(part) if part == block || !contains(&block, &part) => {
                findings.invalid(&item.path, format!("{text} is not a part of the cidr"));
            }
            Some(part) => except.push(part),
        }
    }
    Some(Peer::Prefix { prefix: block, except })
}

fn read_ports(element: &At<'_>, defects: &mut Defects, findings: &mut Findings) -> Ports {
    let mark = findings.mark();
    let items = element.list("ports", findings).unwrap_or_default();
    defects.ports |= findings.any_since(mark);
    if items.is_empty() {
        return Ports::All;
    }
    let mut ports = Vec::new();
    for item in items {
        let mark = findings.mark();
        ports.extend(read_port(&item, findings));
        defects.ports |= findings.any_since(mark);
    }
    Ports::OneOf(ports)
}

fn read_port(at: &At<'_>, findings: &mut Findings) -> Option<Port> {
    at.only(&["port", "endPort", "protocol"], findings);
    let protocol = match at.member("protocol") {
        None => Protocol::Tcp,
        Some(protocol) => read_protocol(&protocol, findings)?,
    };
    let protocol = Some(protocol);
    let end = at.member("endPort");
    let Some(port) = at.member("port") else {
        if let Some(end) = end {
            findings.invalid(&end.path, "needs a port");
            return None;
        }
        return Some(Port { protocol, which: Which::All });
    };
    if let Some(name) = port.value.as_str() {
        if !is_port_name(name) {
            findings.invalid(&port.path, format!("{name:?} is not the name of a port"));
            return None;
        }
        if let Some(end) = end {
            findings.invalid(&end.path, "needs a port that is a number");
            return None;
        }
        return Some(Port { protocol, which: Which::Named(name.to_owned()) });
    }
    let first = port.integer(1, 65535, findings)? as u16;
    let last = match end {
        None => first,
        Some(end) => {
            let last = end.integer(1, 65535, findings)? as u16;
            if last < first {
                findings.invalid(&end.path, "is less than port");
                return None;
            }
            last
        }
    };
    Some(Port { protocol, which: Which::Range(first, last) })
}

/// TCP, UDP or SCTP, exactly so written.
pub(super) fn read_protocol(at: &At<'_>, findings: &mut Findings) -> Option<Protocol> {
    match at.text(findings)? {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        other => {
            findings.invalid(&at.path, format!("{other:?} is none of TCP, UDP, SCTP"));
            None
        }
    }
}

/// Lower-case letters, digits and single inner `-`, at most 15, at least one letter.
pub(super) fn is_port_name(text: &str) -> bool {
    let inner = !text.starts_with('-') && !text.ends_with('-') && !text.contains("--");
    inner
        && text.len() <= 15
        && text.chars().any(|c| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}
