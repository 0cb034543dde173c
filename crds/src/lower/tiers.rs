//! ClusterNetworkPolicy, AdminNetworkPolicy and BaselineAdminNetworkPolicy → rules that have a rank.
//!
//! As their API has it: a rule that accepts and cannot be read is about nothing; one that denies or passes on and
//! cannot be read denies everything.

use super::cursor::{Cursor, Notes};
use super::ports::{Bad, Gathered, port_name};
use super::selector::{Keys, in_any_namespace, selector, sorted};
use super::{Facts, Header};
use crate::api::tiers::{AdminPort, PortRange, ProtocolMatch};
use crate::kind::ObjectKind;
use cilium_engine::shared::Shared;
use cilium_engine::state::{Direction, Origin, Protocol};
use cilium_engine::world::{
    Clause, DefaultDeny, NamedPort, Peer, PeerSet, PolicyRule, PortMatch, PortSet, Rank, RuleVerdict,
    Selector, Subject, Tier,
};

/// After every ClusterNetworkPolicy that has a priority.
const AFTER_ALL: u16 = 1001;

/// The name of the one BaselineAdminNetworkPolicy.
const BASELINE_NAME: &str = "default";

/// The rule of a policy.
pub(super) fn lower(header: &Header, root: &Cursor<'_>, notes: &mut Notes) -> Facts {
    let Some(spec) = root.key("spec") else { return Facts::Policy(Shared::default()) };
    if header.kind == ObjectKind::BaselineAdminNetworkPolicy && header.name.name != BASELINE_NAME {
        let hint = "there is one in a cluster, and its name is `default`";
        notes.invalid(&root.at("metadata").at("name"), "it does nothing by this name", hint);
        return Facts::Policy(Shared::default());
    }
    let subject = match spec.key("subject").map(|at| pods(&at, notes)) {
        Some(Ok(selector)) => Subject::Endpoints(selector),
        Some(Err(Bad)) | None => Subject::Unreadable,
    };
    let rank = rank(header.kind, &spec, notes);
    let mut clauses = Vec::new();
    for (section, direction) in [("ingress", Direction::Ingress), ("egress", Direction::Egress)] {
        let entries = spec.key(section).map(|list| list.items()).unwrap_or_default();
        for (i, entry) in entries.iter().enumerate() {
            clauses.extend(clause(header.kind, entry, direction, &format!("{section}[{i}]"), notes));
        }
    }
    // Without a rank nobody knows what its rules come before.
    let Some(rank) = rank else { return Facts::Policy(Shared::default()) };
    if notes.broken_here(&spec) {
        clauses.retain(|clause| clause.verdict == RuleVerdict::Deny);
    }
    let origin = Origin { object: header.title(), place: header.place.to_string(), rule: spec.path.clone() };
    let default_deny = DefaultDeny::default();
    Facts::Policy(vec![PolicyRule { origin, subject, rank, default_deny, clauses }.into()].into())
}

fn rank(kind: ObjectKind, spec: &Cursor<'_>, notes: &mut Notes) -> Option<Rank> {
    let tier = match kind {
        ObjectKind::BaselineAdminNetworkPolicy => {
            return Some(Rank { tier: Tier::Baseline, priority: AFTER_ALL });
        }
        ObjectKind::ClusterNetworkPolicy => match spec.key("tier")?.node.text()? {
            "Admin" => Tier::Admin,
            "Baseline" => Tier::Baseline,
            _ => return None,
        },
        _ => Tier::Admin,
    };
    let priority: i64 = notes.read(&spec.key("priority")?)?;
    Some(Rank { tier, priority: u16::try_from(priority).ok()? })
}

/// What a rule says; `None` if it grants and cannot be read.
fn clause(
    kind: ObjectKind,
    entry: &Cursor<'_>,
    direction: Direction,
    path: &str,
    notes: &mut Notes,
) -> Option<Clause> {
    let verdict = match entry.key("action").and_then(|action| action.node.text()) {
        Some("Accept" | "Allow") => Some(RuleVerdict::Allow),
        Some("Deny") => Some(RuleVerdict::Deny),
        Some("Pass") if kind == ObjectKind::BaselineAdminNetworkPolicy => {
            notes.invalid(&entry.at("action"), "nothing comes after it that `Pass` could leave it to", "");
            None
        }
        Some("Pass") => Some(RuleVerdict::Pass),
        _ => None,
    };
    let way = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let peers = peers(entry, way, notes);
    let ports = match (ports(entry, notes), &peers) {
        (Ok(ports), Ok(PeerSet::Of(peers)))
            if direction == Direction::Egress
                && !ports.names().is_empty()
                && peers.iter().any(|peer| !matches!(peer, Peer::Endpoints(_))) =>
        {
            notes.invalid(entry, "only pods name ports", "write numbers, or a rule of its own for the pods");
            Err(Bad)
        }
        (ports, _) => ports,
    };
    let whole = !notes.broken_here(entry) && !entry.key("action").is_some_and(|at| notes.broken(&at));
    match (verdict, peers, ports) {
        (Some(verdict), Ok(peers), Ok(ports)) if whole => {
            Some(Clause { direction, verdict, peers, ports, path: path.to_owned() })
        }
        (Some(RuleVerdict::Allow), ..) => None,
        (Some(RuleVerdict::Deny | RuleVerdict::Pass) | None, ..) => Some(Clause {
            direction,
            verdict: RuleVerdict::Deny,
            peers: PeerSet::Any,
            ports: PortSet::Any,
            path: path.to_owned(),
        }),
    }
}

fn peers(entry: &Cursor<'_>, way: &str, notes: &mut Notes) -> Result<PeerSet, Bad> {
    let Some(list) = entry.key(way) else { return Err(Bad) };
    if notes.broken_here(&list) || list.node.list().is_none() {
        return Err(Bad);
    }
    let mut all = Vec::new();
    let mut good = true;
    for item in list.items() {
        match peer(&item, notes) {
            Ok(peer) => all.push(peer),
            Err(Bad) => good = false,
        }
    }
    if good { Ok(PeerSet::Of(all)) } else { Err(Bad) }
}

fn peer(item: &Cursor<'_>, notes: &mut Notes) -> Result<Peer, Bad> {
    const KINDS: [&str; 5] = ["namespaces", "pods", "nodes", "networks", "domainNames"];
    if KINDS.iter().filter(|kind| item.key(kind).is_some()).count() > 1 {
        notes.invalid(
            item,
            "says more than one kind of peer",
            "write an item for each; they are alternatives",
        );
        return Err(Bad);
    }
    for (key, what) in
        [("networks", "networks are not enforced yet"), ("domainNames", "names in DNS are not enforced yet")]
    {
        if let Some(at) = item.key(key) {
            notes.unsupported(&at, what, "");
            return Err(Bad);
        }
    }
    match item.key("nodes") {
        Some(at) => {
            let selector = selector(&at, Keys::Node, notes).ok_or(Bad)?;
            Ok(Peer::Nodes { selector, here: true })
        }
        None => pods(item, notes).map(Peer::Endpoints),
    }
}

/// Pods by `namespaces` or `pods`: exactly one of them.
fn pods(at: &Cursor<'_>, notes: &mut Notes) -> Result<Selector, Bad> {
    if notes.broken_here(at) {
        return Err(Bad);
    }
    let mut requirements = match (at.key("namespaces"), at.key("pods")) {
        (Some(namespaces), None) => selector(&namespaces, Keys::Namespace, notes).ok_or(Bad)?.requirements,
        (None, Some(both)) => {
            let namespaces = both.key("namespaceSelector").ok_or(Bad)?;
            let namespaces = selector(&namespaces, Keys::Namespace, notes).ok_or(Bad)?;
            let pods = selector(&both.key("podSelector").ok_or(Bad)?, Keys::Pod, notes).ok_or(Bad)?;
            namespaces.requirements.into_iter().chain(pods.requirements).collect()
        }
        (Some(_), Some(pods)) => {
            notes.invalid(&pods, "`pods` cannot stand beside `namespaces`", "write one of them");
            return Err(Bad);
        }
        (None, None) => {
            notes.invalid(at, "needs one of `namespaces`, `pods`", "`namespaces: {}` is all pods");
            return Err(Bad);
        }
    };
    requirements.push(in_any_namespace());
    Ok(sorted(requirements))
}

fn ports(entry: &Cursor<'_>, notes: &mut Notes) -> Result<PortSet, Bad> {
    let mut list = Gathered::default();
    let mut good = true;
    for (key, read) in
        [("protocols", protocol_match as fn(&_, &mut _, &mut _) -> Result<(), Bad>), ("ports", admin_port)]
    {
        let Some(at) = entry.key(key) else { continue };
        good &= !notes.broken_here(&at) && at.node.list().is_some();
        for item in at.items() {
            good &= read(&item, notes, &mut list).is_ok();
        }
    }
    let named = entry.key("protocols").is_some() || entry.key("ports").is_some();
    match (good, named) {
        (false, _) => Err(Bad),
        (true, false) => Ok(PortSet::Any),
        (true, true) => Ok(list.set()),
    }
}

fn protocol_match(item: &Cursor<'_>, notes: &mut Notes, out: &mut Gathered) -> Result<(), Bad> {
    let api: ProtocolMatch = notes.read(item).ok_or(Bad)?;
    let ProtocolMatch { tcp, udp, sctp, destination_named_port: name } = api;
    let mut of = [("tcp", Protocol::TCP, tcp), ("udp", Protocol::UDP, udp), ("sctp", Protocol::SCTP, sctp)]
        .into_iter()
        .filter_map(|(key, proto, port)| Some((key, proto, port?.destination_port)));
    match (of.next(), of.next(), name) {
        (Some((key, proto, port)), None, None) => {
            let at = item.at(key).at("destinationPort");
            match (port.number, port.range) {
                (Some(port), None) => out.matches.push(PortMatch { proto, first: port, last: port }),
                (None, Some(given)) => out.matches.push(range(&at.at("range"), proto, &given, notes)?),
                _ => return one_of(&at, "`number`, `range`", notes),
            }
        }
        (None, None, Some(name)) => {
            out.names.push(named(&item.at("destinationNamedPort"), &name, notes)?);
        }
        _ => return one_of(item, "`tcp`, `udp`, `sctp`, `destinationNamedPort`", notes),
    }
    Ok(())
}

fn admin_port(item: &Cursor<'_>, notes: &mut Notes, out: &mut Gathered) -> Result<(), Bad> {
    let api: AdminPort = notes.read(item).ok_or(Bad)?;
    let protocol = |name: Option<&str>| super::values::protocol(name);
    match (api.port_number, api.named_port, api.port_range) {
        (Some(number), None, None) => {
            let proto = protocol(number.protocol.as_deref());
            out.matches.push(PortMatch { proto, first: number.port, last: number.port });
        }
        (None, Some(name), None) => out.names.push(named(&item.at("namedPort"), &name, notes)?),
        (None, None, Some(given)) => {
            let proto = protocol(given.protocol.as_deref());
            let ends = PortRange { start: given.start, end: given.end };
            out.matches.push(range(&item.at("portRange"), proto, &ends, notes)?);
        }
        _ => return one_of(item, "`portNumber`, `namedPort`, `portRange`", notes),
    }
    Ok(())
}

fn range(at: &Cursor<'_>, proto: Protocol, given: &PortRange, notes: &mut Notes) -> Result<PortMatch, Bad> {
    let PortRange { start, end } = *given;
    if start >= end {
        notes.invalid(at, format!("the range ends at {end}, and begins at {start}"), "");
        return Err(Bad);
    }
    Ok(PortMatch { proto, first: start, last: end })
}

/// A name is that of a port of whichever protocol.
fn named(at: &Cursor<'_>, name: &str, notes: &mut Notes) -> Result<NamedPort, Bad> {
    Ok(NamedPort { proto: None, name: port_name(at, name, notes)? })
}

fn one_of(at: &Cursor<'_>, names: &str, notes: &mut Notes) -> Result<(), Bad> {
    notes.invalid(at, format!("needs exactly one of {names}"), "");
    Err(Bad)
}
