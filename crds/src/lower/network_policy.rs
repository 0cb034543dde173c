//! NetworkPolicy → one rule.

use super::clause::{Parts, clause, excepted, meant};
use super::cursor::{Cursor, Notes};
use super::ports::{Bad, Gathered, all_of, port_name};
use super::selector::{Keys, in_any_namespace, in_namespace, selector, sorted, with};
use super::{Facts, Header};
use crate::api::IntOrString;
use crate::api::network_policy::{IpBlock, Port};
use crate::schema::quoted;
use cilium_engine::shared::Shared;
use cilium_engine::state::{Direction, Origin, Protocol};
use cilium_engine::world::{
    DefaultDeny, NamedPort, Peer, PeerSet, PolicyRule, PortMatch, PortSet, Rank, RuleVerdict, Selector,
    Subject,
};

/// The rule of a policy.
pub(super) fn lower(header: &Header, root: &Cursor<'_>, notes: &mut Notes) -> Facts {
    let Some(spec) = root.key("spec") else { return Facts::Policy(Shared::default()) };
    let namespace = &header.name.namespace;
    let subject = match spec.key("podSelector") {
        // Absent is empty: all pods of the namespace.
        None => Some(Selector::default()),
        Some(cursor) => selector(&cursor, Keys::Pod, notes),
    };
    let meant = meant(&spec, &["podSelector", "ingress", "egress", "policyTypes"]);
    // A misspelt `podSelector` is not an absent one.
    let unsure = meant.unsure || notes.broken_here(&spec);
    let subject = match subject {
        Some(selector) if !(unsure && spec.key("podSelector").is_none()) => {
            Subject::Endpoints(with(selector, in_namespace(namespace)))
        }
        Some(_) | None => Subject::Unreadable,
    };
    let default_deny = directions(&spec, meant.directions, notes);
    let mut clauses = Vec::new();
    for (section, way, direction) in
        [("ingress", "from", Direction::Ingress), ("egress", "to", Direction::Egress)]
    {
        let Some(list) = spec.key(section) else { continue };
        let in_force = match direction {
            Direction::Ingress => default_deny.ingress,
            Direction::Egress => default_deny.egress,
        };
        if !in_force && !list.items().is_empty() {
            let message = format!("`{section}` does not count: `policyTypes` does not name it");
            notes.warning(&list, message, "add it to `policyTypes`");
        }
        for (i, entry) in list.items().iter().enumerate() {
            let whole = !notes.broken_here(entry);
            let peers = peers(entry, way, namespace, notes);
            let ports = ports(entry, notes);
            let parts =
                if whole { Parts { peers, ports } } else { Parts { peers: Err(Bad), ports: Err(Bad) } };
            if in_force && !unsure {
                clauses.extend(clause(direction, RuleVerdict::Allow, parts, &format!("{section}[{i}]")));
            }
        }
    }
    let origin = Origin { object: header.title(), place: header.place.to_string(), rule: spec.path.clone() };
    let rank = Rank::default();
    Facts::Policy(vec![PolicyRule { origin, subject, rank, default_deny, clauses }.into()].into())
}

/// `policyTypes`; without it ingress, and egress if there are egress rules.
fn directions(spec: &Cursor<'_>, meant: DefaultDeny, notes: &mut Notes) -> DefaultDeny {
    let present = |key: &str| spec.key(key).is_some_and(|c| c.node.list().is_none_or(|l| !l.is_empty()));
    let without_value = spec.key("egress").is_none() && spec.keys().any(|key| key == "egress");
    match spec.key("policyTypes") {
        Some(cursor) if !cursor.items().is_empty() || notes.broken(&cursor) => {
            // Those that can be read, and, if some cannot, those that have rules.
            let names: Vec<&str> = cursor.items().iter().filter_map(|c| c.node.text()).collect();
            let broken = notes.broken(&cursor);
            let named = |name: &str, section: &str| names.contains(&name) || (broken && present(section));
            DefaultDeny { ingress: named("Ingress", "ingress"), egress: named("Egress", "egress") }
        }
        Some(_) | None => {
            DefaultDeny { ingress: true, egress: present("egress") || meant.egress || without_value }
        }
    }
}

fn peers(entry: &Cursor<'_>, way: &str, namespace: &str, notes: &mut Notes) -> Result<PeerSet, Bad> {
    let Some(cursor) = entry.key(way) else { return Ok(PeerSet::Any) };
    if cursor.node.list().is_none() {
        return Err(Bad);
    }
    if cursor.items().is_empty() {
        return Ok(PeerSet::Any);
    }
    let mut list = Vec::new();
    let mut good = true;
    for item in cursor.items() {
        match peer(&item, namespace, notes) {
            Ok(peer) => list.push(peer),
            Err(Bad) => good = false,
        }
    }
    if good { Ok(PeerSet::Of(list)) } else { Err(Bad) }
}

fn peer(item: &Cursor<'_>, namespace: &str, notes: &mut Notes) -> Result<Peer, Bad> {
    if notes.broken(item) {
        return Err(Bad);
    }
    let pods = item.key("podSelector").map(|c| selector(&c, Keys::Pod, notes).ok_or(Bad));
    let namespaces = item.key("namespaceSelector").map(|c| selector(&c, Keys::Namespace, notes).ok_or(Bad));
    match (pods, namespaces, item.key("ipBlock")) {
        (None, None, Some(block)) => {
            let api: IpBlock = notes.read(&block).ok_or(Bad)?;
            let (net, except) = excepted(&block, &api.cidr, &api.except.unwrap_or_default(), notes)?;
            Ok(Peer::Cidr { net, except })
        }
        (_, _, Some(block)) => {
            let hint = "write two peers; they are alternatives";
            notes.invalid(&block, "`ipBlock` cannot stand beside `podSelector` or `namespaceSelector`", hint);
            Err(Bad)
        }
        (None, None, None) => {
            let hint =
                "all pods of the namespace are `podSelector: {}`; all pods are `namespaceSelector: {}`";
            notes.invalid(item, "needs one of `podSelector`, `namespaceSelector`, `ipBlock`", hint);
            Err(Bad)
        }
        (Some(pods), None, None) => Ok(Peer::Endpoints(with(pods?, in_namespace(namespace)))),
        (pods, Some(namespaces), None) => {
            let mut requirements = namespaces?.requirements;
            // Who is in no namespace is no pod.
            requirements.push(in_any_namespace());
            requirements.extend(pods.unwrap_or(Ok(Selector::default()))?.requirements);
            Ok(Peer::Endpoints(sorted(requirements)))
        }
    }
}

fn ports(entry: &Cursor<'_>, notes: &mut Notes) -> Result<PortSet, Bad> {
    let Some(cursor) = entry.key("ports") else { return Ok(PortSet::Any) };
    if cursor.node.list().is_none() {
        return Err(Bad);
    }
    if cursor.items().is_empty() {
        return Ok(PortSet::Any);
    }
    let mut list = Gathered::default();
    let mut good = true;
    for item in cursor.items() {
        good &= port(&item, notes, &mut list).is_ok();
    }
    if good { Ok(list.set()) } else { Err(Bad) }
}

fn port(item: &Cursor<'_>, notes: &mut Notes, out: &mut Gathered) -> Result<(), Bad> {
    let api: Port = notes.read(item).ok_or(Bad)?;
    let proto = match api.protocol.as_deref() {
        Some("UDP") => Protocol::UDP,
        Some("SCTP") => Protocol::SCTP,
        _ => Protocol::TCP,
    };
    let end = api.end_port.and_then(|end| u16::try_from(end).ok());
    let first = match (&api.port, end) {
        (None, None) => {
            out.matches.push(all_of(proto));
            return Ok(());
        }
        (None, Some(_)) => {
            notes.invalid(&item.at("endPort"), "`endPort` needs `port`", "");
            return Err(Bad);
        }
        (Some(IntOrString::Int(number)), _) => match u16::try_from(*number) {
            Ok(number) if number > 0 => number,
            _ => {
                notes.invalid(
                    &item.at("port"),
                    format!("there is no port `{number}`"),
                    "ports are 1 to 65535",
                );
                return Err(Bad);
            }
        },
        (Some(IntOrString::Text(name)), _) => {
            let at = item.at("port");
            if name.bytes().all(|b| b.is_ascii_digit()) {
                notes.invalid(
                    &at,
                    format!("{} is a text, taken for the name of a port", quoted(name)),
                    "remove the quotes",
                );
                return Err(Bad);
            }
            if end.is_some() {
                notes.invalid(&item.at("endPort"), "a range cannot begin with a name", "write its number");
                return Err(Bad);
            }
            out.names.push(NamedPort { proto: Some(proto), name: port_name(&at, name, notes)? });
            return Ok(());
        }
    };
    let last = end.unwrap_or(first);
    if last < first {
        let message = format!("the range ends at {last}, before it begins at {first}");
        notes.invalid(&item.at("endPort"), message, "");
        return Err(Bad);
    }
    out.matches.push(PortMatch { proto, first, last });
    Ok(())
}
