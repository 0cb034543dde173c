//! What is common to the clauses of all policies: how they fail closed, and prefixes.

use super::cursor::{Cursor, Notes};
use super::ports::Bad;
use crate::schema::{nearest, quoted};
use cilium_engine::state::Direction;
use cilium_engine::world::{Clause, DefaultDeny, PeerSet, PortSet, RuleVerdict};
use ipnet::IpNet;
use std::net::IpAddr;

/// What could be read of an entry: `Err` is a part that was told to be unreadable or not enforced.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) peers: Result<PeerSet, Bad>,
    pub(super) ports: Result<PortSet, Bad>,
}

/// The clause of an entry. One with an unreadable part grants nothing if it allows, and is taken in its widest
/// reading if it denies.
pub(super) fn clause(direction: Direction, verdict: RuleVerdict, parts: Parts, path: &str) -> Option<Clause> {
    let (peers, ports) = match (verdict, parts.peers, parts.ports) {
        (_, Ok(peers), Ok(ports)) => (peers, ports),
        (RuleVerdict::Allow | RuleVerdict::Pass, _, _) => return None,
        (RuleVerdict::Deny, peers, ports) => (peers.unwrap_or(PeerSet::Any), ports.unwrap_or(PortSet::Any)),
    };
    Some(Clause { direction, verdict, peers, ports, path: path.to_owned() })
}

/// A prefix, or an address as the prefix of itself alone.
pub(super) fn prefix(at: &Cursor<'_>, text: &str, notes: &mut Notes) -> Result<IpNet, Bad> {
    if let Ok(net) = text.parse::<IpNet>() {
        if net != net.trunc() {
            let hint = format!("write `{}`", net.trunc());
            notes.warning(
                at,
                format!("{} has bits beyond its prefix length, which do not count", quoted(text)),
                &hint,
            );
        }
        return Ok(net.trunc());
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(ip));
    }
    notes.invalid(
        at,
        format!("{} is no prefix", quoted(text)),
        "write it as `10.0.0.0/8` or `2001:db8::/32`",
    );
    Err(Bad)
}

/// A prefix with its exceptions, each of which must be within it.
pub(super) fn excepted(
    at: &Cursor<'_>,
    text: &str,
    except: &[String],
    notes: &mut Notes,
) -> Result<(IpNet, Vec<IpNet>), Bad> {
    let net = if text.contains('/') {
        prefix(&at.at("cidr"), text, notes)
    } else {
        let hint = "write it with its length, as `10.0.0.1/32`";
        notes.invalid(&at.at("cidr"), format!("{} is no prefix", quoted(text)), hint);
        Err(Bad)
    };
    let except = exceptions(at, except, net.as_ref().ok(), notes);
    Ok((net?, except?))
}

/// Exceptions, sorted; each must be within a prefix, if one is given.
pub(super) fn exceptions(
    at: &Cursor<'_>,
    except: &[String],
    within: Option<&IpNet>,
    notes: &mut Notes,
) -> Result<Vec<IpNet>, Bad> {
    let items = at.key("except").map(|c| c.items()).unwrap_or_default();
    let mut list = Vec::new();
    let mut good = true;
    for (text, at) in except.iter().zip(&items) {
        match (prefix(at, text, notes), within) {
            (Ok(except), Some(net)) if !net.contains(&except) => {
                let hint = "an exception must be within the prefix";
                notes.invalid(at, format!("{except} is not within {net}"), hint);
                good = false;
            }
            (Ok(except), _) => list.push(except),
            (Err(Bad), _) => good = false,
        }
    }
    list.sort();
    list.dedup();
    if good { Ok(list) } else { Err(Bad) }
}

/// What unknown fields of a rule were probably meant to be.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Meant {
    /// Some field is unknown: what the rule allows is not sure.
    pub(super) unsure: bool,
    /// Directions that unknown fields name.
    pub(super) directions: DefaultDeny,
    /// Directions that unknown fields probably deny in.
    pub(super) deny: DefaultDeny,
}

/// Looks at the fields of a rule that are not in `known`.
pub(super) fn meant(rule: &Cursor<'_>, known: &[&str]) -> Meant {
    let mut out = Meant::default();
    for key in rule.keys().filter(|k| !known.contains(k)) {
        out.unsure = true;
        match nearest(key, known.iter().copied()) {
            Some("ingress") => out.directions.ingress = true,
            Some("egress") => out.directions.egress = true,
            Some("ingressDeny") => out.deny.ingress = true,
            Some("egressDeny") => out.deny.egress = true,
            _ => {}
        }
    }
    out.directions.ingress |= out.deny.ingress;
    out.directions.egress |= out.deny.egress;
    out
}
