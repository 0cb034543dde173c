//! Values that several kinds have: addresses, prefixes, protocols, names of ports.

use super::cursor::{Cursor, Notes};
use crate::schema::quoted;
use cilium_engine::state::Protocol;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

pub(super) fn protocol(name: Option<&str>) -> Protocol {
    match name {
        Some("UDP") => Protocol::UDP,
        Some("SCTP") => Protocol::SCTP,
        _ => Protocol::TCP,
    }
}

pub(super) fn ip(at: &Cursor<'_>, text: &str, notes: &mut Notes) -> Option<IpAddr> {
    let ip = text.parse().ok();
    if ip.is_none() {
        notes.invalid(at, format!("{} is no IP address", quoted(text)), "");
    }
    ip
}

pub(super) fn cidr(at: &Cursor<'_>, text: &str, notes: &mut Notes) -> Option<IpNet> {
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

/// Which addresses may stand where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Also link-local ones.
    Link,
    /// Those that more than one link can have.
    Beyond,
}

/// Why traffic of a Service cannot be for, or go to, this address; `None`: it can.
pub(super) fn unusable(ip: IpAddr, reach: Reach) -> Option<&'static str> {
    let (mapped, link_local) = match ip {
        IpAddr::V4(ip) => (false, ip.is_link_local()),
        IpAddr::V6(ip) => (ip.to_ipv4_mapped().is_some(), ip.is_unicast_link_local()),
    };
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    if ip.is_unspecified() {
        Some("stands for no address")
    } else if ip.is_loopback() {
        Some("is a loopback address")
    } else if ip.is_multicast() || broadcast {
        Some("is a multicast or broadcast address")
    } else if mapped {
        Some("is an IPv4 address written as IPv6")
    } else if reach == Reach::Beyond && link_local {
        Some("is a link-local address")
    } else {
        None
    }
}

/// An address that traffic of a Service can be for, or go to.
pub(super) fn usable_ip(at: &Cursor<'_>, text: &str, reach: Reach, notes: &mut Notes) -> Option<IpAddr> {
    let ip = ip(at, text, notes)?;
    match unusable(ip, reach) {
        None => Some(ip),
        Some(why) => {
            notes.invalid(at, format!("{ip} {why}"), "write a unicast address of a network");
            None
        }
    }
}

/// Whether it can be the name of a Service's or a slice's port (a DNS label).
pub(super) fn is_label(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Whether it can be the name of a container's port (RFC 6335 §5.1).
pub(super) fn is_port_name(name: &str) -> bool {
    name.len() <= 15 && is_label(name) && name.bytes().any(|b| b.is_ascii_lowercase()) && !name.contains("--")
}

/// Most bytes of all annotations of an object, as the API server has it.
const MAX_ANNOTATIONS: usize = 256 << 10;

/// Whether an API server would take as many; that it would not is told.
pub(super) fn check_annotations(
    root: &Cursor<'_>,
    annotations: &BTreeMap<String, String>,
    notes: &mut Notes,
) -> bool {
    let bytes: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > MAX_ANNOTATIONS {
        let at = root.at("metadata").at("annotations");
        notes.invalid(&at, format!("has {bytes} bytes, more than the {MAX_ANNOTATIONS} possible"), "");
    }
    bytes <= MAX_ANNOTATIONS
}

#[cfg(test)]
mod tests {
    use super::{Reach, is_label, is_port_name, unusable};

    #[test]
    fn addresses_that_hijack_or_lead_nowhere_are_told() {
        let bad = |text: &str, reach| unusable(text.parse().expect("an address"), reach).is_some();
        for text in [
            "0.0.0.0",
            "::",
            "127.0.0.1",
            "::1",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(bad(text, Reach::Link), "{text}");
        }
        for text in ["169.254.1.1", "fe80::1"] {
            assert!(bad(text, Reach::Beyond) && !bad(text, Reach::Link), "{text}");
        }
        assert!(!bad("10.0.0.1", Reach::Beyond) && !bad("fd00::1", Reach::Beyond));
    }

    #[test]
    fn names_of_ports() {
        assert!(is_label("http-2") && is_label("80") && is_label(&"a".repeat(63)));
        assert!(
            !is_label("")
                && !is_label("-a")
                && !is_label("a-")
                && !is_label("A")
                && !is_label(&"a".repeat(64))
        );
        assert!(is_port_name("http-2"));
        for bad in ["80", "a--b", "sixteen-letters-", "abcdefghijklmnop", ""] {
            assert!(!is_port_name(bad), "{bad}");
        }
    }
}
