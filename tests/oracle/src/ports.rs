//! Which protocols and ports a rule is for, and whether a packet is one of them.

use crate::packet::{Packet, Protocol};
use crate::world::Pod;

/// The ports part of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ports {
    /// Every packet of every protocol.
    All,
    /// What one of these matches; none matches nothing.
    OneOf(Vec<Port>),
}

/// A protocol and its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    /// `None`: every protocol; with numbers or a name, each that has ports (TCP, UDP, SCTP).
    pub(crate) protocol: Option<Protocol>,
    pub(crate) which: Which,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    All,
    /// Numbers (of ICMP: types), both ends included.
    Range(u16, u16),
    /// The name of a container's port of the pod the packet goes to.
    Named(String),
}

impl Ports {
    /// Whether they match; `to` is the pod the packet goes to, if it goes to one.
    pub(crate) fn matches(&self, packet: &Packet, to: Option<&Pod>) -> bool {
        match self {
            Ports::All => true,
            Ports::OneOf(ports) => ports.iter().any(|port| port.matches(packet, to)),
        }
    }
}

impl Port {
    fn matches(&self, packet: &Packet, to: Option<&Pod>) -> bool {
        let protocol = match self.protocol {
            Some(protocol) => protocol == packet.protocol,
            None => self.which == Which::All || packet.protocol.has_ports(),
        };
        protocol
            && match &self.which {
                Which::All => true,
                Which::Range(first, last) => (*first..=*last).contains(&packet.port),
                Which::Named(name) => to.is_some_and(|pod| {
                    let is = |port: &(String, Protocol, u16)| {
                        port.0 == *name && port.1 == packet.protocol && port.2 == packet.port
                    };
                    pod.ports.iter().any(is)
                }),
            }
    }
}

/// The number of an ICMP type by its name in the API, of ICMPv6 with `v6`; `None` if there is none.
///
/// Source: the `icmps` section of Cilium's "Layer 4 Policies", and the IANA registries.
pub(crate) fn icmp_type(name: &str, v6: bool) -> Option<u16> {
    let number = match (name, v6) {
        ("EchoReply", false) => 0,
        ("DestinationUnreachable", false) => 3,
        ("Redirect", false) => 5,
        ("Echo" | "EchoRequest", false) => 8,
        ("RouterAdvertisement", false) => 9,
        ("RouterSelection", false) => 10,
        ("TimeExceeded", false) => 11,
        ("ParameterProblem", false) => 12,
        ("Timestamp", false) => 13,
        ("TimestampReply", false) => 14,
        ("Photuris", false) => 40,
        ("ExtendedEchoRequest", false) => 42,
        ("ExtendedEchoReply", false) => 43,
        ("DestinationUnreachable", true) => 1,
        ("PacketTooBig", true) => 2,
        ("TimeExceeded", true) => 3,
        ("ParameterProblem", true) => 4,
        ("EchoRequest", true) => 128,
        ("EchoReply", true) => 129,
        ("MulticastListenerQuery", true) => 130,
        ("MulticastListenerReport", true) => 131,
        ("MulticastListenerDone", true) => 132,
        ("RouterSolicitation", true) => 133,
        ("RouterAdvertisement", true) => 134,
        ("NeighborSolicitation", true) => 135,
        ("NeighborAdvertisement", true) => 136,
        ("RedirectMessage", true) => 137,
        ("RouterRenumbering", true) => 138,
        ("ICMPNodeInformationQuery", true) => 139,
        ("ICMPNodeInformationResponse", true) => 140,
        ("InverseNeighborDiscoverySolicitation", true) => 141,
        ("InverseNeighborDiscoveryAdvertisement", true) => 142,
        ("HomeAgentAddressDiscoveryRequest", true) => 144,
        ("HomeAgentAddressDiscoveryReply", true) => 145,
        ("MobilePrefixSolicitation", true) => 146,
        ("MobilePrefixAdvertisement", true) => 147,
        ("DuplicateAddressRequestCodeSuffix", true) => 157,
        ("DuplicateAddressConfirmationCodeSuffix", true) => 158,
        ("ExtendedEchoRequest", true) => 160,
        ("ExtendedEchoReply", true) => 161,
        _ => return None,
    };
    Some(number)
}
