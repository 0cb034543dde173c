//! Which ports and ICMP types an element of a Cilium policy is for.
//!
//! Source: Cilium's "Layer 4 Policies" and the comments of the API's types.

use crate::packet::Protocol;
use crate::policies::cilium::Context;
use crate::ports::{Port, Ports, Which, icmp_type};
use crate::read::{At, Findings};
use crate::rule::{Action, Defects, Direction};

/// The most ports of one `toPorts` item, and the most fields of one `icmps` item.
const MOST: usize = 40;

/// The ports; `None` if neither member says anything.
pub(super) fn read(
    at: &At<'_>,
    direction: Direction,
    action: Action,
    context: &Context<'_>,
    defects: &mut Defects,
    findings: &mut Findings,
) -> Option<Ports> {
    let mark = findings.mark();
    let items = at.list("toPorts", findings).unwrap_or_default();
    let icmps = at.list("icmps", findings).unwrap_or_default();
    defects.ports |= findings.any_since(mark);
    if !items.is_empty() && !icmps.is_empty() {
        findings.invalid(&at.below("icmps"), "cannot be combined with toPorts");
        defects.other = true;
    }
    if items.is_empty() && icmps.is_empty() {
        return None;
    }
    let mut ports = Vec::new();
    for item in items {
        read_item(&item, direction, action, context, &mut ports, defects, findings);
    }
    for item in icmps {
        read_icmp(&item, &mut ports, defects, findings);
    }
    Some(Ports::OneOf(ports))
}

fn read_item(
    at: &At<'_>,
    direction: Direction,
    action: Action,
    context: &Context<'_>,
    ports: &mut Vec<Port>,
    defects: &mut Defects,
    findings: &mut Findings,
) {
    let mark = findings.mark();
    let beyond = ["rules", "terminatingTLS", "originatingTLS", "serverNames", "listener"];
    match action {
        Action::Accept => {
            at.only(&[&["ports"], &beyond[..]].concat(), findings);
            read_beyond(at, direction, context, findings);
        }
        Action::Deny | Action::Pass => at.only(&["ports"], findings),
    }
    let items = at.list("ports", findings).unwrap_or_default();
    if items.len() > MOST {
        findings.invalid(&at.below("ports"), format!("has {} items, the most is {MOST}", items.len()));
    }
    defects.other |= findings.any_since(mark);
    // An item that is nothing at all, or ports that are no list: which ports it means is unknown.
    defects.ports |= !at.value.is_object() || at.member("ports").is_some_and(|ports| !ports.value.is_array());
    for item in items {
        let mark = findings.mark();
        ports.extend(read_port(&item, findings));
        defects.ports |= findings.any_since(mark);
    }
}

/// What is above layer 4: found wrong where the documentation says so, and not evaluated in any case.
fn read_beyond(at: &At<'_>, direction: Direction, context: &Context<'_>, findings: &mut Findings) {
    let Some(rules) = at.member("rules") else {
        for name in at.present(&["terminatingTLS", "originatingTLS", "serverNames", "listener"]) {
            findings.unsupported(&at.below(name), "TLS and listeners are not evaluated");
        }
        if direction == Direction::Ingress && at.member("listener").is_some() {
            findings.invalid(&at.below("listener"), "is not for ingress");
        }
        return;
    };
    findings.unsupported(&rules.path, "rules above layer 4 are not evaluated");
    let kinds = rules.present(&["http", "dns", "kafka", "l7proto"]);
    rules.only(&["http", "dns", "kafka", "l7proto", "l7"], findings);
    if kinds.len() > 1 {
        findings.invalid(&rules.path, format!("{} cannot be combined", kinds.join(" and ")));
    }
    let dns = kinds.contains(&"dns");
    if dns && direction == Direction::Ingress {
        findings.invalid(&rules.below("dns"), "is not for ingress");
    }
    if context.host && !(dns && kinds.len() == 1) {
        findings.invalid(&rules.path, "host policies have no rules above layer 4 but dns");
    }
    if at.member("listener").is_some() {
        findings.invalid(&at.below("listener"), "cannot be combined with rules");
    }
    if at.member("serverNames").is_some() && at.member("terminatingTLS").is_none() {
        findings.invalid(&at.below("serverNames"), "needs terminatingTLS beside rules");
    }
    let Some(ports) = at.member("ports").and_then(|ports| ports.value.as_array()) else {
        if dns {
            findings.invalid(&rules.below("dns"), "needs a port");
        }
        return;
    };
    let protocol = |port: &serde_json::Value| port["protocol"].as_str().unwrap_or("ANY").to_ascii_uppercase();
    if !dns && ports.iter().any(|port| protocol(port) != "TCP") {
        findings.invalid(&rules.path, "rules above layer 4, but for dns, are for TCP only");
    }
    if ports.iter().any(|port| port["port"] == "0") {
        findings.invalid(&rules.path, "rules above layer 4 cannot be for port 0");
    }
    if dns && ports.iter().any(|port| port["endPort"].as_i64().unwrap_or(0) > 0) {
        findings.invalid(&rules.below("dns"), "is not for ranges of ports");
    }
}

fn read_port(at: &At<'_>, findings: &mut Findings) -> Option<Port> {
    at.only(&["port", "endPort", "protocol"], findings);
    let protocol = match at.member("protocol") {
        None => None,
        Some(protocol) => read_protocol(&protocol, findings)?,
    };
    let end = match at.member("endPort") {
        None => None,
        Some(end) => Some(end.integer(0, 65535, findings)? as u16),
    };
    let Some(port) = at.member("port") else {
        if matches!(protocol, Some(Protocol::Other(_))) {
            return Some(Port { protocol, which: Which::All });
        }
        findings.invalid(&at.below("port"), "is required");
        return None;
    };
    let text = port.text(findings)?;
    if is_service_name(text) {
        // An end is nothing to a name.
        return Some(Port { protocol, which: Which::Named(text.to_ascii_lowercase()) });
    }
    let leading_zero = text.len() > 1 && text.starts_with('0');
    let number: Option<u16> = text.parse().ok().filter(|_| !leading_zero && !text.starts_with('+'));
    let Some(number) = number else {
        findings.invalid(&port.path, format!("{text:?} is neither a port number nor a name"));
        return None;
    };
    if matches!(protocol, Some(Protocol::Other(_))) && number != 0 {
        findings.invalid(&port.path, "must be 0 or absent for a protocol without ports");
        return None;
    }
    // An end of 0 is none.
    let which = match (number, end.filter(|end| *end != 0)) {
        (0, None) => Which::All,
        (number, None) => Which::Range(number, number),
        (number, Some(end)) if end >= number => Which::Range(number, end),
        (..) => {
            findings.invalid(&at.below("endPort"), "is less than port");
            return None;
        }
    };
    Some(Port { protocol, which })
}

/// The protocol by its name, in any case; `Some(None)` is every protocol.
fn read_protocol(at: &At<'_>, findings: &mut Findings) -> Option<Option<Protocol>> {
    let text = at.text(findings)?;
    Some(Some(match text.to_ascii_uppercase().as_str() {
        "" | "ANY" => return Some(None),
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        "ICMP" => Protocol::Icmp,
        "ICMPV6" => Protocol::IcmpV6,
        "VRRP" => Protocol::Other(112),
        "IGMP" => Protocol::Other(2),
        "GRE" => Protocol::Other(47),
        "IPIP" => Protocol::Other(4),
        "IPV6" => Protocol::Other(41),
        "ESP" => Protocol::Other(50),
        "AH" => Protocol::Other(51),
        _ => {
            findings.invalid(&at.path, format!("{text:?} is not a protocol"));
            return None;
        }
    }))
}

/// An IANA service name: letters, digits and single inner `-`, at least one letter. So `0x10` is a name.
fn is_service_name(text: &str) -> bool {
    let inner = !text.starts_with('-') && !text.ends_with('-') && !text.contains("--");
    inner
        && text.len() <= 15
        && text.chars().any(|c| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

fn read_icmp(at: &At<'_>, ports: &mut Vec<Port>, defects: &mut Defects, findings: &mut Findings) {
    let mark = findings.mark();
    at.only(&["fields"], findings);
    let fields = at.list("fields", findings).unwrap_or_default();
    defects.ports |= findings.any_since(mark);
    if fields.len() > MOST {
        findings.invalid(&at.below("fields"), format!("has {} items, the most is {MOST}", fields.len()));
        defects.other = true;
    }
    for field in fields {
        let mark = findings.mark();
        ports.extend(read_field(&field, findings));
        defects.ports |= findings.any_since(mark);
    }
}

fn read_field(at: &At<'_>, findings: &mut Findings) -> Option<Port> {
    at.only(&["family", "type"], findings);
    let v6 = match at.member("family") {
        None => false,
        Some(family) => match family.text(findings)? {
            "" | "IPv4" => false,
            "IPv6" => true,
            other => {
                findings.invalid(&family.path, format!("{other:?} is neither IPv4 nor IPv6"));
                return None;
            }
        },
    };
    let Some(kind) = at.member("type") else {
        findings.invalid(&at.below("type"), "is required");
        return None;
    };
    let number = match kind.value.as_str() {
        None => kind.integer(0, 255, findings)? as u16,
        Some(text) => match text.parse::<u8>().ok().map(u16::from).or_else(|| icmp_type(text, v6)) {
            Some(number) => number,
            None => {
                findings.invalid(&kind.path, format!("{text:?} is not an ICMP type of the family"));
                return None;
            }
        },
    };
    let protocol = Some(if v6 { Protocol::IcmpV6 } else { Protocol::Icmp });
    Some(Port { protocol, which: Which::Range(number, number) })
}
