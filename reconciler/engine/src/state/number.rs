//! Numbers that name rows, each a type of its own.

use std::fmt;

macro_rules! number {
    ($($(#[$doc:meta])* $name:ident($int:ty);)*) => {
        $($(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $int);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(&self.0, f) }
        })*
    };
}
number! {
    /// Number of a security identity.
    IdentityId(u32);
    /// Number of an endpoint on this node, 1 to 65 535.
    EndpointId(u16);
    /// Number of a policy: one content, never reused for another within a plan.
    PolicyId(u32);
    /// Number of a backend.
    BackendId(u32);
    /// Number by which replies find their frontend, 1 to 65 535.
    RevNatId(u16);
    /// Number of a list of backends.
    ListId(u32);
    /// First place of a Maglev table in the map of all of them.
    TableId(u32);
    /// Number of a rule, for counters and explanations; index into the compiled rules.
    Cookie(u32);
}

/// IP protocols that services and policies name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Protocol(pub u8);

impl Protocol {
    /// TCP.
    pub const TCP: Self = Self(cilium_abi::proto::TCP);
    /// UDP.
    pub const UDP: Self = Self(cilium_abi::proto::UDP);
    /// SCTP.
    pub const SCTP: Self = Self(cilium_abi::proto::SCTP);
    /// ICMP.
    pub const ICMP: Self = Self(cilium_abi::proto::ICMP);
    /// ICMPv6.
    pub const ICMPV6: Self = Self(cilium_abi::proto::ICMPV6);
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TCP => f.write_str("TCP"),
            Self::UDP => f.write_str("UDP"),
            Self::SCTP => f.write_str("SCTP"),
            Self::ICMP => f.write_str("ICMP"),
            Self::ICMPV6 => f.write_str("ICMPv6"),
            Self(0) => f.write_str("ANY"),
            Self(n) => write!(f, "proto-{n}"),
        }
    }
}
