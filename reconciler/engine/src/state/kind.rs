//! Kinds of rows, in the order of writes.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! kinds {
    ($(($field:ident, $resource:ident)),* $(,)?) => {
        /// One sort of row; the order of the variants is the order of writes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Kind { $(#[doc = concat!("See [`super::", stringify!($resource), "`].")] $resource,)* }

        impl Kind {
            /// All kinds, in the order of writes.
            pub const ALL: &[Kind] = &[$(Kind::$resource),*];
        }
    };
}
crate::for_each_resource!(kinds);

impl Kind {
    /// The name in plans, metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Sysctl => "sysctl",
            Kind::BpfMap => "map",
            Kind::Link => "link",
            Kind::ProgramSet => "program-set",
            Kind::Runtime => "runtime",
            Kind::Device => "device",
            Kind::Attachment => "program",
            Kind::PodInterface => "pod-interface",
            Kind::Address => "address",
            Kind::Route => "route",
            Kind::Backend => "backend",
            Kind::RevNat => "revnat",
            Kind::Slot => "slot",
            Kind::SourceRange => "source-range",
            Kind::MaglevTable => "maglev-table",
            Kind::Frontend => "frontend",
            Kind::SocketProgram => "socket-program",
            Kind::IdentityDigest => "identity-digest",
            Kind::Policy => "policy",
            Kind::PolicyDigest => "policy-digest",
            Kind::Ipcache => "ipcache",
            Kind::Endpoint => "endpoint",
            Kind::EndpointConfig => "endpoint-config",
            Kind::LinkUp => "link-up",
            Kind::File => "file",
        }
    }
}

impl Kind {
    /// Whether a node does its work without rows of this kind: where the kernel refuses one, that is a
    /// problem to be told, and nothing waits for it.
    pub const fn is_optional(self) -> bool {
        matches!(self, Kind::SocketProgram)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A row's name across kinds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RowId {
    /// The kind.
    pub kind: Kind,
    /// The key as text.
    pub key: String,
}

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.key)
    }
}
