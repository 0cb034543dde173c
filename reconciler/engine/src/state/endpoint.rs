//! Rows about addresses and pods: ipcache, endpoints, and the row that opens a pod.

use super::policy::POLICY_SOURCES;
use super::{
    EndpointId, IdentityId, Kind, LinkName, Mac, Policy, PolicyDigest, PolicyId, Resource, RowId, Source,
    SourceSet,
};
use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;

/// Address or prefix → identity and tunnel. Host prefixes stand in the exact map, others in the trie.
#[derive(Clone, Debug)]
pub struct Ipcache;

/// A prefix, host bits zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IpcacheKey(pub IpNet);

impl fmt::Display for IpcacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpcacheRow {
    /// Identity.
    pub identity: IdentityId,
    /// Node to encapsulate to.
    pub tunnel: Option<IpAddr>,
    /// `cilium_abi::ipcache::FLAG_` flags.
    pub flags: u32,
}

impl fmt::Display for IpcacheRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "identity {}", self.identity)?;
        if let Some(tunnel) = self.tunnel {
            write!(f, " tunnel {tunnel}")?;
        }
        if self.flags != 0 { write!(f, " flags {:#x}", self.flags) } else { Ok(()) }
    }
}

impl Resource for Ipcache {
    const KIND: Kind = Kind::Ipcache;
    const NEEDS: &'static [Kind] = &[Kind::Policy];
    type Key = IpcacheKey;
    type Row = IpcacheRow;
    /// What policies say of an identity stands before an address brings it in, and until it has gone.
    fn requires(_: &IpcacheKey, row: &IpcacheRow) -> Vec<RowId> {
        vec![Policy::rows_about(row.identity)]
    }
    /// An identity is made of the pod's and the namespace's labels.
    fn settled_by(_: &IpcacheKey, _: &IpcacheRow) -> SourceSet {
        SourceSet::of(&[Source::Nodes, Source::Policies])
    }
    fn sources(_: &IpcacheKey, _: &IpcacheRow) -> SourceSet {
        SourceSet::of(&[Source::Endpoints, Source::Nodes, Source::Policies, Source::Identities])
    }
}

/// Address of this node → endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint;

/// An address on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointKey(pub IpAddr);

impl fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who has the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointRow {
    /// The host itself.
    Host {
        /// Identity of the host.
        identity: IdentityId,
    },
    /// A pod.
    Pod {
        /// Host-side interface.
        link: LinkName,
        /// Endpoint number.
        endpoint: EndpointId,
        /// Its identity.
        identity: IdentityId,
        /// Hardware address inside.
        mac: Mac,
        /// Hardware address of the host side.
        node_mac: Mac,
    },
}

impl fmt::Display for EndpointRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { identity } => write!(f, "host identity {identity}"),
            Self::Pod { link, endpoint, identity, mac, node_mac } => {
                write!(f, "endpoint {endpoint} dev {link} identity {identity} mac {mac} node mac {node_mac}")
            }
        }
    }
}

impl Resource for Endpoint {
    const KIND: Kind = Kind::Endpoint;
    const NEEDS: &'static [Kind] = &[Kind::Link];
    type Key = EndpointKey;
    type Row = EndpointRow;
    fn requires(_: &EndpointKey, row: &EndpointRow) -> Vec<RowId> {
        match row {
            EndpointRow::Host { .. } => vec![],
            EndpointRow::Pod { link, .. } => vec![super::Link::id(link)],
        }
    }
    fn settled_by(_: &EndpointKey, row: &EndpointRow) -> SourceSet {
        match row {
            EndpointRow::Host { .. } => SourceSet::default(),
            EndpointRow::Pod { .. } => SourceSet::of(&[Source::Policies]),
        }
    }
    fn sources(_: &EndpointKey, row: &EndpointRow) -> SourceSet {
        match row {
            EndpointRow::Host { .. } => SourceSet::of(&[Source::Config, Source::Nodes]),
            // Its identity is made of the pod's and the namespace's labels.
            EndpointRow::Pod { .. } => SourceSet::of(&[Source::Endpoints, Source::Policies]),
        }
    }
}

/// What the shared programs know of a pod: the one row that opens it.
#[derive(Clone, Debug)]
pub struct EndpointConfig;

/// Configuration of a pod's datapath.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointConfigRow {
    /// Endpoint number.
    pub endpoint: EndpointId,
    /// Its identity.
    pub identity: IdentityId,
    /// Which policy rows apply; 0: everything is denied.
    pub policy: PolicyId,
    /// `cilium_abi::endpoint::CONFIG_` flags.
    pub flags: u16,
    /// Its IPv4 address.
    pub ipv4: Option<IpAddr>,
    /// Its IPv6 address.
    pub ipv6: Option<IpAddr>,
    /// Hardware address inside.
    pub mac: Mac,
    /// Hardware address of the host side.
    pub node_mac: Mac,
}

impl fmt::Display for EndpointConfigRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "endpoint {} identity {} policy {}", self.endpoint, self.identity, self.policy)?;
        if self.flags & cilium_abi::endpoint::CONFIG_OPEN_INGRESS != 0 {
            f.write_str(" open-ingress")?;
        }
        if self.flags & cilium_abi::endpoint::CONFIG_OPEN_EGRESS != 0 {
            f.write_str(" open-egress")?;
        }
        let open = cilium_abi::endpoint::CONFIG_OPEN_INGRESS | cilium_abi::endpoint::CONFIG_OPEN_EGRESS;
        if self.flags & !open != 0 {
            write!(f, " flags {:#x}", self.flags & !open)?;
        }
        for addr in self.ipv4.iter().chain(&self.ipv6) {
            write!(f, " {addr}")?;
        }
        write!(f, " mac {} node mac {}", self.mac, self.node_mac)
    }
}

impl Resource for EndpointConfig {
    const KIND: Kind = Kind::EndpointConfig;
    const NEEDS: &'static [Kind] = &[Kind::Link, Kind::Policy, Kind::PolicyDigest];
    type Key = LinkName;
    type Row = EndpointConfigRow;
    /// A pod opens only when its link is there and the content of its policy stands.
    fn requires(key: &LinkName, row: &EndpointConfigRow) -> Vec<RowId> {
        let mut needs = vec![super::Link::id(key)];
        if row.policy.0 != 0 {
            needs.push(PolicyDigest::id(&row.policy));
            needs.push(Policy::rows_of(row.policy));
        }
        needs
    }
    /// A pod opens only when everything that could close it is known; closing it needs no knowledge.
    fn settled_by(_: &LinkName, row: &EndpointConfigRow) -> SourceSet {
        let open = cilium_abi::endpoint::CONFIG_OPEN_INGRESS | cilium_abi::endpoint::CONFIG_OPEN_EGRESS;
        if row.policy.0 == 0 && row.flags & open == 0 { SourceSet::default() } else { POLICY_SOURCES }
    }
    /// Which policy it names depends on all that policies depend on.
    fn sources(_: &LinkName, _: &EndpointConfigRow) -> SourceSet {
        SourceSet::of(&[Source::Endpoints, Source::Policies, Source::Identities])
    }
}
