//! The question: who sends what to whom.

use std::net::IpAddr;

/// A first packet of a flow, after service translation. Replies are connection tracking's, not policy's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Who sends it.
    pub from: Party,
    /// Who it is for.
    pub to: Party,
    /// Its protocol.
    pub protocol: Protocol,
    /// Destination port, host byte order; of ICMP and ICMPv6 the type; of other protocols 0.
    pub port: u16,
    /// Which of the parties' addresses it carries.
    pub family: Family,
}

/// One end of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Party {
    /// A pod. One in its node's network namespace counts as that node.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its address, if not the one of the packet's family in `status.podIPs`.
        address: Option<IpAddr>,
    },
    /// The node asked ([`crate::World::node`]) itself.
    Host,
    /// A node by name; the same as [`Party::Host`] for the node asked.
    Node(String),
    /// Whoever has this address: a pod, a node, or the world outside. The API server's are found in
    /// the slices of the Service `default/kubernetes`.
    Address(IpAddr),
    /// What has a reserved identity and no object: an endpoint of the node asked if it is one.
    Reserved {
        /// Its identity.
        identity: Reserved,
        /// Its address, if that matters.
        address: Option<IpAddr>,
    },
}

impl Party {
    /// A pod with the address its object has.
    pub fn pod(namespace: &str, name: &str) -> Party {
        Party::Pod { namespace: namespace.to_owned(), name: name.to_owned(), address: None }
    }
}

/// Identities that no object tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reserved {
    /// A node's health endpoint.
    Health,
    /// An endpoint whose labels are not known yet.
    Init,
    /// A node's ingress (L7 load balancer) address.
    Ingress,
    /// An endpoint that is in the cluster but not managed.
    Unmanaged,
}

impl Reserved {
    /// The name, as in `reserved:NAME`.
    pub fn name(self) -> &'static str {
        match self {
            Reserved::Health => "health",
            Reserved::Init => "init",
            Reserved::Ingress => "ingress",
            Reserved::Unmanaged => "unmanaged",
        }
    }
}

/// An IP protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP of IPv4.
    Icmp,
    /// ICMP of IPv6.
    IcmpV6,
    /// Another, by its number in the IP header.
    Other(u8),
}

impl Protocol {
    /// Whether it has port numbers that policy knows.
    pub fn has_ports(self) -> bool {
        match self {
            Protocol::Tcp | Protocol::Udp | Protocol::Sctp => true,
            Protocol::Icmp | Protocol::IcmpV6 | Protocol::Other(_) => false,
        }
    }
}

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Whether the address is of this version.
    pub fn has(self, address: &IpAddr) -> bool {
        address.is_ipv4() == (self == Family::V4)
    }
}
