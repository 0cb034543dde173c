//! From an event as the kernel wrote it to one with names.

use cilium_abi::event::{self, Event, point};
use cilium_abi::{Address, policy, proto};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use zerocopy::FromBytes;

/// Where names come from: the agent's view after its last pass.
pub trait Names {
    /// `namespace/pod`, or a node's name, for an address.
    fn name_of(&self, addr: IpAddr) -> Option<String>;
    /// Labels of an identity, as `k8s:app=web,…` or `reserved:world`.
    fn labels_of(&self, identity: u32) -> Option<String>;
    /// The object and rule behind a cookie.
    fn rule_of(&self, cookie: u32) -> Option<String>;
    /// Name of an interface.
    fn interface_of(&self, ifindex: u32) -> Option<String>;
}

/// What an event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A packet was dropped.
    Drop,
    /// A packet passed an observation point.
    Trace,
    /// Policy was asked.
    PolicyVerdict,
}

/// One end of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// Address, if the packet was IP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// Port of TCP, UDP and SCTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Identity; 0: not known.
    pub identity: u32,
    /// `namespace/pod` or node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Labels of the identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
}

/// An event with names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedEvent {
    /// Nanoseconds since the epoch.
    pub time: u64,
    /// What it tells.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// Drop reason, observation point or `allowed`/`denied`, in words.
    pub what: String,
    /// Number of the drop reason; 0 for other events.
    pub reason: u8,
    /// Source.
    pub source: Party,
    /// Destination.
    pub destination: Party,
    /// Address before translation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original: Option<IpAddr>,
    /// Protocol with flags or type: `TCP SYN`, `ICMPv4 EchoRequest`.
    pub l4: String,
    /// `ingress` or `egress`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// The endpoint it is about; 0: the host.
    pub endpoint: u16,
    /// How policy matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matched: Option<String>,
    /// State of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// The rule that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Where it happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Packet length in bytes.
    pub length: u32,
}

/// The event in these bytes; `None` if they are too few.
pub fn decode(bytes: &[u8]) -> Option<Event> {
    Event::read_from_prefix(bytes).ok().map(|(event, _)| event)
}

/// What one event of the kernel tells: the policy verdict that the drop of a refused packet carries with
/// it, then the event.
pub fn told(event: Event) -> impl Iterator<Item = Event> {
    let refusal = event.kind == event::DROP && event.flags & event::EVENT_VERDICT != 0;
    let verdict =
        Event { kind: event::POLICY_VERDICT, subtype: event.direction, verdict: event.subtype, ..event };
    refusal.then_some(verdict).into_iter().chain([event])
}

/// Names an event. `boot` is the epoch time of boot in nanoseconds; `None` if the kind is not known.
pub fn name(event: &Event, names: &impl Names, boot: u64) -> Option<NamedEvent> {
    let kind = match event.kind {
        event::DROP => EventKind::Drop,
        event::TRACE => EventKind::Trace,
        event::POLICY_VERDICT => EventKind::PolicyVerdict,
        _ => return None,
    };
    let what = match kind {
        EventKind::Drop => reason_text(event.subtype),
        EventKind::Trace => point_name(event.subtype).to_owned(),
        EventKind::PolicyVerdict if event.verdict == event::VERDICT_ALLOW => "allowed".to_owned(),
        EventKind::PolicyVerdict => format!("denied: {}", reason_text(event.verdict)),
    };
    let ported = matches!(event.proto, proto::TCP | proto::UDP | proto::SCTP);
    let party = |addr: Address, port: u16, identity: u32| {
        let ip = (!addr.is_none()).then(|| IpAddr::from(addr));
        Party {
            ip,
            port: ported.then_some(port),
            identity,
            name: ip.and_then(|ip| names.name_of(ip)),
            labels: names.labels_of(identity),
        }
    };
    Some(NamedEvent {
        time: boot.saturating_add(event.time),
        kind,
        what,
        reason: match kind {
            EventKind::Drop => event.subtype,
            EventKind::PolicyVerdict => event.verdict,
            EventKind::Trace => 0,
        },
        source: party(event.src, event.src_port.host(), event.src_identity),
        destination: party(event.dst, event.dst_port.host(), event.dst_identity),
        original: (!event.original.is_none()).then(|| event.original.into()),
        l4: l4_text(event),
        direction: match event.direction {
            cilium_abi::metrics::DIRECTION_INGRESS => Some("ingress".to_owned()),
            cilium_abi::metrics::DIRECTION_EGRESS => Some("egress".to_owned()),
            _ => None,
        },
        endpoint: event.endpoint_id,
        matched: (kind == EventKind::PolicyVerdict).then(|| match_name(event.reason).to_owned()),
        connection: (kind == EventKind::Trace).then(|| connection_name(event.reason).to_owned()),
        rule: (event.cookie != 0).then(|| names.rule_of(event.cookie)).flatten(),
        interface: names.interface_of(event.ifindex),
        length: event.len,
    })
}

fn reason_text(code: u8) -> String {
    cilium_abi::drop::text(code).map_or_else(|| format!("reason {code}"), str::to_owned)
}

fn point_name(point: u8) -> &'static str {
    match point {
        point::TO_ENDPOINT => "to-endpoint",
        point::TO_HOST => "to-host",
        point::TO_STACK => "to-stack",
        point::TO_OVERLAY => "to-overlay",
        point::FROM_ENDPOINT => "from-endpoint",
        point::FROM_HOST => "from-host",
        point::FROM_OVERLAY => "from-overlay",
        point::FROM_NETWORK => "from-network",
        point::TO_NETWORK => "to-network",
        _ => "unknown",
    }
}

fn match_name(matched: u8) -> &'static str {
    match matched {
        policy::MATCH_L3_ONLY => "L3-Only",
        policy::MATCH_L3_L4 => "L3-L4",
        policy::MATCH_L4_ONLY => "L4-Only",
        policy::MATCH_ALL => "all",
        policy::MATCH_L3_PROTO => "L3-Proto",
        policy::MATCH_PROTO_ONLY => "Proto-Only",
        _ => "none",
    }
}

fn connection_name(reason: u8) -> &'static str {
    match reason {
        event::reason::NEW => "new",
        event::reason::ESTABLISHED => "established",
        event::reason::REPLY => "reply",
        event::reason::RELATED => "related",
        _ => "unknown",
    }
}

/// TCP flags in the order in which tools print them.
const FLAGS: [(u8, &str); 8] = [
    (0x02, "SYN"),
    (0x10, "ACK"),
    (0x01, "FIN"),
    (0x04, "RST"),
    (0x08, "PSH"),
    (0x20, "URG"),
    (0x40, "ECE"),
    (0x80, "CWR"),
];

fn l4_text(event: &Event) -> String {
    // Type and code stand there in host order (see the abi), so not `host()`.
    let (kind, code) = ((event.dst_port.0 >> 8) as u8, event.dst_port.0 as u8);
    match event.proto {
        proto::TCP => {
            let flags: Vec<&str> =
                FLAGS.iter().filter(|(bit, _)| event.tcp_flags & bit != 0).map(|f| f.1).collect();
            if flags.is_empty() { "TCP".to_owned() } else { format!("TCP {}", flags.join(",")) }
        }
        proto::UDP => "UDP".to_owned(),
        proto::SCTP => "SCTP".to_owned(),
        proto::ICMP => match kind {
            0 => "ICMPv4 EchoReply".to_owned(),
            3 => format!("ICMPv4 DestinationUnreachable({code})"),
            8 => "ICMPv4 EchoRequest".to_owned(),
            11 => "ICMPv4 TimeExceeded".to_owned(),
            _ => format!("ICMPv4 type {kind} code {code}"),
        },
        proto::ICMPV6 => match kind {
            1 => format!("ICMPv6 DestinationUnreachable({code})"),
            2 => "ICMPv6 PacketTooBig".to_owned(),
            128 => "ICMPv6 EchoRequest".to_owned(),
            129 => "ICMPv6 EchoReply".to_owned(),
            135 => "ICMPv6 NeighborSolicitation".to_owned(),
            136 => "ICMPv6 NeighborAdvertisement".to_owned(),
            _ => format!("ICMPv6 type {kind} code {code}"),
        },
        0 => "non-IP".to_owned(),
        other => format!("protocol {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    struct Fixed;
    impl Names for Fixed {
        fn name_of(&self, addr: IpAddr) -> Option<String> {
            (addr.to_string() == "10.0.0.1").then(|| "shop/client".to_owned())
        }
        fn labels_of(&self, identity: u32) -> Option<String> {
            (identity == 300).then(|| "k8s:app=client".to_owned())
        }
        fn rule_of(&self, cookie: u32) -> Option<String> {
            (cookie == 7).then(|| "CiliumNetworkPolicy shop/web".to_owned())
        }
        fn interface_of(&self, _: u32) -> Option<String> {
            Some("lxc1".to_owned())
        }
    }

    fn dropped() -> Event {
        Event {
            kind: event::DROP,
            subtype: cilium_abi::drop::POLICY_DENIED,
            src: "10.0.0.1".parse::<IpAddr>().unwrap().into(),
            dst: "10.0.0.2".parse::<IpAddr>().unwrap().into(),
            src_port: cilium_abi::Be16::new(40000),
            dst_port: cilium_abi::Be16::new(80),
            proto: proto::TCP,
            tcp_flags: 2,
            src_identity: 300,
            dst_identity: 301,
            direction: cilium_abi::metrics::DIRECTION_INGRESS,
            endpoint_id: 12,
            cookie: 7,
            time: 5,
            ..Event::default()
        }
    }

    #[test]
    fn a_drop_is_printed_with_names() {
        let bytes = dropped();
        let event = decode(bytes.as_bytes()).unwrap();
        let named = name(&event, &Fixed, 1_000_000_000).unwrap();
        assert_eq!(named.reason, 133);
        assert_eq!(
            named.to_string(),
            "00:00:01.000 shop/client:40000 (ID:300) -> 10.0.0.2:80 (ID:301) TCP SYN DROPPED ingress endpoint 12: \
             Policy denied [CiliumNetworkPolicy shop/web]"
        );
        let back: NamedEvent = serde_json::from_str(&serde_json::to_string(&named).unwrap()).unwrap();
        assert_eq!(back, named);
    }

    #[test]
    fn a_refusal_tells_its_verdict_too() {
        let refused = Event { flags: event::EVENT_VERDICT, reason: policy::MATCH_L3_L4, ..dropped() };
        let told: Vec<NamedEvent> = told(refused).filter_map(|e| name(&e, &Fixed, 0)).collect();
        let kinds: Vec<EventKind> = told.iter().map(|e| e.kind).collect();
        assert_eq!(kinds, [EventKind::PolicyVerdict, EventKind::Drop]);
        assert_eq!((told[0].what.as_str(), told[0].reason), ("denied: Policy denied", 133));
        assert_eq!(told[0].matched.as_deref(), Some("L3-L4"));
        assert_eq!(told[0].direction.as_deref(), Some("ingress"));
        assert_eq!(super::told(dropped()).count(), 1);
    }

    #[test]
    fn icmp_types_are_named() {
        let ping = Event {
            proto: proto::ICMP,
            dst_port: cilium_abi::Be16(8 << 8),
            kind: event::TRACE,
            subtype: 0,
            ..dropped()
        };
        let named = name(&ping, &Fixed, 0).unwrap();
        assert_eq!((named.l4.as_str(), named.destination.port), ("ICMPv4 EchoRequest", None));
    }

    #[test]
    fn short_and_unknown_events_are_refused() {
        assert!(decode(&[0; 20]).is_none());
        assert!(name(&Event { kind: 99, ..dropped() }, &Fixed, 0).is_none());
    }
}
