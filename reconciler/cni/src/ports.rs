//! `runtimeConfig.portMappings` as runtimes give them (CNI conventions, "well-known capabilities").

use crate::error::{self, CniError};
use crate::wire::{PortMapping, Transport};
use serde_json::Value;
use std::net::IpAddr;
use std::num::NonZeroU16;

/// Most mappings of one attachment.
pub const MOST: usize = 1024;

/// Why one does not make sense: the field, and what it may be.
type Wrong = (&'static str, String);

/// Mappings, each once.
///
/// # Errors
/// One that does not make sense, or two that send one port of the node to different places; too many.
pub fn parse(given: &[Value]) -> Result<Vec<PortMapping>, CniError> {
    if given.len() > MOST {
        let message =
            format!("runtimeConfig.portMappings: {} mappings, and at most {MOST} are served", given.len());
        return Err(CniError::new(error::INVALID_CONFIG, message));
    }
    let mut all: Vec<PortMapping> = Vec::with_capacity(given.len());
    for (at, value) in given.iter().enumerate() {
        let invalid = |(field, why): Wrong| {
            CniError::new(error::INVALID_CONFIG, format!("runtimeConfig.portMappings[{at}].{field}: {why}"))
        };
        let mapping = one(value).map_err(invalid)?;
        let same = |m: &&PortMapping| {
            (m.host_ip, m.host_port, m.protocol) == (mapping.host_ip, mapping.host_port, mapping.protocol)
        };
        match all.iter().find(same) {
            None => all.push(mapping),
            Some(other) if *other == mapping => {}
            Some(other) => {
                let why = format!("{} leads to port {} already", mapping.host_port, other.container_port);
                return Err(invalid(("hostPort", why)));
            }
        }
    }
    Ok(all)
}

fn one(value: &Value) -> Result<PortMapping, Wrong> {
    let host_ip = match &value["hostIP"] {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => {
            Some(address(text).ok_or_else(|| ("hostIP", format!("{text:?} is no address")))?)
        }
        other => return Err(("hostIP", format!("{other} is no address"))),
    };
    let protocol = match &value["protocol"] {
        Value::Null => Transport::Tcp,
        Value::String(text) => transport(text).ok_or_else(|| ("protocol", unknown(text)))?,
        other => return Err(("protocol", unknown(other))),
    };
    let (host_port, container_port) = (number(value, "hostPort")?, number(value, "containerPort")?);
    Ok(PortMapping { host_ip, host_port, protocol, container_port })
}

fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

fn transport(text: &str) -> Option<Transport> {
    match text.to_ascii_lowercase().as_str() {
        "" | "tcp" => Some(Transport::Tcp),
        "udp" => Some(Transport::Udp),
        "sctp" => Some(Transport::Sctp),
        _ => None,
    }
}

fn unknown(protocol: &dyn std::fmt::Debug) -> String {
    format!("{protocol:?} is none of tcp, udp and sctp")
}

fn number(mapping: &Value, field: &'static str) -> Result<NonZeroU16, Wrong> {
    let value = &mapping[field];
    let number = value.as_u64().and_then(|n| u16::try_from(n).ok()).and_then(NonZeroU16::new);
    number.ok_or_else(|| match value {
        Value::Null => (field, "is missing".to_owned()),
        value => (field, format!("{value} is no port: 1 to 65535")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(given: Value) -> Result<Vec<PortMapping>, String> {
        parse(given.as_array().unwrap()).map_err(|e| {
            assert_eq!(e.code, error::INVALID_CONFIG);
            e.msg
        })
    }

    #[test]
    fn what_runtimes_give_is_read() {
        let given = json!([
            {"hostPort": 8080, "containerPort": 80},
            {"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "fd00::1"},
            {"hostPort": 9, "containerPort": 9, "protocol": "sctp", "hostIP": ""},
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 8080, "containerPort": 81, "protocol": "tcp", "hostIP": "127.0.0.1"},
        ]);
        let mappings = read(given).unwrap();
        let short = |m: &PortMapping| {
            (m.host_ip.map(|ip| ip.to_string()), m.host_port.get(), m.protocol, m.container_port.get())
        };
        let want = [
            (None, 8080, Transport::Tcp, 80),
            (Some("fd00::1".to_owned()), 53, Transport::Udp, 5353),
            (None, 9, Transport::Sctp, 9),
            (Some("127.0.0.1".to_owned()), 8080, Transport::Tcp, 81),
        ];
        assert_eq!(mappings.iter().map(short).collect::<Vec<_>>(), want);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_the_name_of_its_field() {
        let good = json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"});
        for (field, values) in [
            ("hostPort", vec![json!(0), json!(65_536), json!(-1), json!("80"), json!(1.5), Value::Null]),
            ("containerPort", vec![json!(0), json!(70_000), json!([]), Value::Null]),
            ("protocol", vec![json!("icmp"), json!("tcp "), json!(6)]),
            ("hostIP", vec![json!("here"), json!("10.0.0.0/8"), json!("fe80::1%eth0"), json!(1)]),
        ] {
            for value in values {
                let mut bad = good.clone();
                bad[field] = value.clone();
                let message = read(json!([good, bad])).expect_err(&format!("{field} {value}"));
                assert!(
                    message.starts_with(&format!("runtimeConfig.portMappings[1].{field}: ")),
                    "{message}"
                );
            }
        }
        assert!(read(json!([good, 7])).unwrap_err().contains("[1].hostPort: is missing"));
        let twice = json!({"hostPort": 8080, "containerPort": 81});
        assert!(read(json!([good, twice])).unwrap_err().ends_with("8080 leads to port 80 already"));
        assert!(read(Value::Array(vec![good; MOST + 1])).unwrap_err().contains("at most 1024"));
    }
}
