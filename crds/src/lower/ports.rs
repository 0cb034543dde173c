//! Ports and ICMP types → [`PortSet`].

use super::cursor::{Cursor, Notes};
use crate::api::IntOrString;
use crate::api::policy::{IcmpField, PortProtocol};
use crate::schema::quoted;
use cilium_engine::state::Protocol;
use cilium_engine::world::{NamedPort, PortMatch, PortSet};

/// Something is wrong and was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bad;

/// Ports and names of ports, gathered.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// Every packet, of whichever protocol.
    pub(super) all: bool,
    pub(super) matches: Vec<PortMatch>,
    pub(super) names: Vec<NamedPort>,
}

impl Gathered {
    /// The set they make.
    pub(super) fn set(mut self) -> PortSet {
        if self.all {
            return PortSet::Any;
        }
        self.matches.sort();
        self.matches.dedup();
        self.names.sort();
        self.names.dedup();
        PortSet::of(self.matches, self.names)
    }
}

/// Every port of a protocol.
pub(super) fn all_of(proto: Protocol) -> PortMatch {
    PortMatch { proto, first: 0, last: u16::MAX }
}

/// The protocols that a name in `toPorts` means.
fn protocols(name: Option<&str>) -> Option<&'static [Protocol]> {
    Some(match name {
        None | Some("ANY") => &[Protocol::TCP, Protocol::UDP, Protocol::SCTP],
        Some("TCP") => &[Protocol::TCP],
        Some("UDP") => &[Protocol::UDP],
        Some("SCTP") => &[Protocol::SCTP],
        Some("ICMP") => &[Protocol::ICMP],
        Some("ICMPv6" | "ICMPV6") => &[Protocol::ICMPV6],
        Some(_) => return None,
    })
}

/// An entry of `toPorts[].ports`.
pub(super) fn port_protocol(cursor: &Cursor<'_>, notes: &mut Notes, out: &mut Gathered) -> Result<(), Bad> {
    let api: PortProtocol = notes.read(cursor).ok_or(Bad)?;
    let Some(protocols) = protocols(api.protocol.as_deref()) else {
        let at = cursor.at("protocol");
        notes.unsupported(
            &at,
            format!("protocol {} is not enforced yet", api.protocol.unwrap_or_default()),
            "",
        );
        return Err(Bad);
    };
    let icmp = protocols == [Protocol::ICMP] || protocols == [Protocol::ICMPV6];
    let Some(text) = api.port.as_deref() else {
        if icmp {
            out.matches.extend(protocols.iter().map(|p| all_of(*p)));
            return Ok(());
        }
        notes.invalid(cursor, "`port` is missing", "all ports are `port: \"0\"`");
        return Err(Bad);
    };
    let at = cursor.at("port");
    if !text.bytes().all(|b| b.is_ascii_digit()) && !icmp {
        let name = port_name(&at, text, notes)?;
        if api.end_port.is_some_and(|end| end > 0) {
            notes.warning(&cursor.at("endPort"), "`endPort` does not count where the port is a name", "");
        }
        let proto = match protocols {
            [one] => Some(*one),
            _ => None,
        };
        out.names.push(NamedPort { proto, name });
        return Ok(());
    }
    let first = number(&at, text, notes)?;
    let end = api.end_port.and_then(|end| u16::try_from(end).ok()).filter(|end| *end > 0);
    if first == 0 && end.is_none() && matches!(api.protocol.as_deref(), None | Some("ANY")) {
        out.all = true;
        return Ok(());
    }
    let (first, last) = match (first, end) {
        (0, None) => (0, u16::MAX),
        (0, Some(_)) => {
            notes.invalid(&cursor.at("endPort"), "a range cannot begin with port 0", "begin it with 1");
            return Err(Bad);
        }
        (first, Some(end)) if end < first => {
            notes.invalid(
                &cursor.at("endPort"),
                format!("the range ends at {end}, before it begins at {first}"),
                "",
            );
            return Err(Bad);
        }
        (first, end) => (first, end.unwrap_or(first)),
    };
    if icmp && (first, last) != (0, u16::MAX) {
        notes.invalid(
            &at,
            "ICMP has no ports",
            "choose types with `icmps: [{fields: [{family: IPv4, type: 8}]}]`",
        );
        return Err(Bad);
    }
    out.matches.extend(protocols.iter().map(|proto| PortMatch { proto: *proto, first, last }));
    Ok(())
}

fn number(at: &Cursor<'_>, text: &str, notes: &mut Notes) -> Result<u16, Bad> {
    text.parse().map_err(|_| {
        let message = format!("there is no port {}", quoted(text));
        notes.invalid(at, message, "ports are 1 to 65535; \"0\" means all");
        Bad
    })
}

/// The name of a container's port: such names have no capital letters, and are compared without regard to them.
pub(super) fn port_name(at: &Cursor<'_>, text: &str, notes: &mut Notes) -> Result<String, Bad> {
    if is_service_name(text) {
        return Ok(text.to_ascii_lowercase());
    }
    notes.invalid(at, format!("{} is no port", quoted(text)), "write a number in quotes, as \"80\"");
    Err(Bad)
}

/// As RFC 6335 §5.1: at most 15 letters, digits and hyphens, at least one letter.
fn is_service_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && text.bytes().any(|b| b.is_ascii_alphabetic())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}

/// An entry of `icmps[].fields`.
pub(super) fn icmp(cursor: &Cursor<'_>, notes: &mut Notes) -> Result<PortMatch, Bad> {
    let api: IcmpField = notes.read(cursor).ok_or(Bad)?;
    let (proto, names) = match api.family.as_deref() {
        Some("IPv6") => (Protocol::ICMPV6, V6_TYPES),
        _ => (Protocol::ICMP, V4_TYPES),
    };
    let at = cursor.at("type");
    let number = match &api.kind {
        IntOrString::Int(number) => u8::try_from(*number).ok(),
        IntOrString::Text(text) => {
            let named = names.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
            named.or_else(|| text.parse().ok())
        }
    };
    let Some(number) = number else {
        let shown = match &api.kind {
            IntOrString::Int(number) => format!("`{number}`"),
            IntOrString::Text(text) => quoted(text),
        };
        let hint = match &api.kind {
            IntOrString::Int(_) => "types are 0 to 255".to_owned(),
            IntOrString::Text(text) => {
                match crate::schema::nearest(text, names.iter().map(|(name, _)| *name)) {
                    Some(name) => format!("did you mean `{name}`?"),
                    None => "write its number, 0 to 255".to_owned(),
                }
            }
        };
        notes.invalid(&at, format!("there is no ICMP type {shown}"), &hint);
        return Err(Bad);
    };
    Ok(PortMatch { proto, first: number.into(), last: number.into() })
}

/// Names the API knows, with numbers of <https://www.iana.org/assignments/icmp-parameters>.
const V4_TYPES: &[(&str, u8)] = &[
    ("EchoReply", 0),
    ("DestinationUnreachable", 3),
    ("Redirect", 5),
    ("Echo", 8),
    ("EchoRequest", 8),
    ("RouterAdvertisement", 9),
    ("RouterSelection", 10),
    ("TimeExceeded", 11),
    ("ParameterProblem", 12),
    ("Timestamp", 13),
    ("TimestampReply", 14),
    ("Photuris", 40),
    ("ExtendedEchoRequest", 42),
    ("ExtendedEchoReply", 43),
];

/// Names the API knows, with numbers of <https://www.iana.org/assignments/icmpv6-parameters>.
const V6_TYPES: &[(&str, u8)] = &[
    ("DestinationUnreachable", 1),
    ("PacketTooBig", 2),
    ("TimeExceeded", 3),
    ("ParameterProblem", 4),
    ("EchoRequest", 128),
    ("EchoReply", 129),
    ("MulticastListenerQuery", 130),
    ("MulticastListenerReport", 131),
    ("MulticastListenerDone", 132),
    ("RouterSolicitation", 133),
    ("RouterAdvertisement", 134),
    ("NeighborSolicitation", 135),
    ("NeighborAdvertisement", 136),
    ("RedirectMessage", 137),
    ("RouterRenumbering", 138),
    ("ICMPNodeInformationQuery", 139),
    ("ICMPNodeInformationResponse", 140),
    ("InverseNeighborDiscoverySolicitation", 141),
    ("InverseNeighborDiscoveryAdvertisement", 142),
    ("HomeAgentAddressDiscoveryRequest", 144),
    ("HomeAgentAddressDiscoveryReply", 145),
    ("MobilePrefixSolicitation", 146),
    ("MobilePrefixAdvertisement", 147),
    ("DuplicateAddressRequestCodeSuffix", 157),
    ("DuplicateAddressConfirmationCodeSuffix", 158),
    ("ExtendedEchoRequest", 160),
    ("ExtendedEchoReply", 161),
];
