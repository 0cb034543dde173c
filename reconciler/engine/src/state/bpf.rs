//! Rows in BPF maps, the maps themselves, and programs.

use super::{Kind, LinkName, Mac, Resource, RowId, Source, SourceSet};
use cilium_abi::maps::MapType;
use cilium_abi::node::NodeConstants;
use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;

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
    /// Number of a rule, for counters and explanations; index into the compiled rules.
    Cookie(u32);
}

/// A pinned map exists with this shape.
#[derive(Clone, Debug)]
pub struct BpfMap;

/// Pin name under `maps/`, with version: `cilium_ipcache_v1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MapKey(pub String);

impl fmt::Display for MapKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Shape of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapRow {
    /// Type.
    pub kind: MapType,
    /// Key size in bytes.
    pub key_size: u32,
    /// Row size in bytes.
    pub value_size: u32,
    /// Entries (ring buffer: bytes).
    pub max_entries: u32,
    /// Creation flags.
    pub flags: u32,
}

impl fmt::Display for MapRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} key {} row {} max {}", self.kind, self.key_size, self.value_size, self.max_entries)
    }
}

impl Resource for BpfMap {
    const KIND: Kind = Kind::BpfMap;
    type Key = MapKey;
    type Row = MapRow;
    fn sources(_: &MapKey, _: &MapRow) -> SourceSet {
        SourceSet::of(&[Source::Config])
    }
}

/// A loaded and pinned set of programs, named by the digest of object, constants and map shapes.
#[derive(Clone, Debug)]
pub struct ProgramSet;

/// Digest as hex (32 characters): directory under `progs/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(pub String);

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a set is loaded with. When read, a complete set pinned under its digest is known to be that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramSetRow {
    /// Wanted with these constants.
    Constants(Box<NodeConstants>),
    /// Seen: all programs pinned, using the pinned maps.
    Complete,
    /// Seen: programs missing, or using other maps than the pinned ones.
    Broken,
}

impl fmt::Display for ProgramSetRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Constants(_) => "loaded",
            Self::Complete => "complete",
            Self::Broken => "broken",
        })
    }
}

impl Resource for ProgramSet {
    const KIND: Kind = Kind::ProgramSet;
    type Key = SetId;
    type Row = ProgramSetRow;
    fn satisfied(_: &ProgramSetRow, seen: &ProgramSetRow) -> bool {
        !matches!(seen, ProgramSetRow::Broken)
    }
    fn sources(_: &SetId, _: &ProgramSetRow) -> SourceSet {
        SourceSet::of(&[Source::Config])
    }
}

/// A program of a set is attached to an interface, first in order.
#[derive(Clone, Debug)]
pub struct Attachment;

/// Where on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// TC ingress.
    Ingress,
    /// TC egress.
    Egress,
    /// XDP.
    Xdp,
}

/// Interface and hook.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttachmentKey {
    /// The interface.
    pub link: LinkName,
    /// The hook.
    pub hook: Hook,
}

impl fmt::Display for AttachmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hook = match self.hook {
            Hook::Ingress => "ingress",
            Hook::Egress => "egress",
            Hook::Xdp => "xdp",
        };
        write!(f, "{} {hook}", self.link)
    }
}

/// Which program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachmentRow {
    /// Name of the program, as `cil_from_container`.
    pub program: String,
    /// The set it belongs to. When read: empty if the attached program is of no known set.
    pub set: SetId,
    /// It is the first program at the hook (always wanted).
    pub first: Position,
}

/// Place among the programs at a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Before all others.
    First,
    /// Another program runs before it.
    Behind,
}

impl fmt::Display for AttachmentRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of set {:.12}", self.program, self.set)?;
        match self.first {
            Position::First => Ok(()),
            Position::Behind => f.write_str(" (not first)"),
        }
    }
}

impl Resource for Attachment {
    const KIND: Kind = Kind::Attachment;
    const NEEDS: &'static [Kind] = &[Kind::ProgramSet, Kind::Link];
    type Key = AttachmentKey;
    type Row = AttachmentRow;
    /// Our program of an older set, or behind another's, still filters.
    fn serves(want: &AttachmentRow, seen: &AttachmentRow) -> bool {
        want.program == seen.program && !seen.set.0.is_empty()
    }
    fn requires(key: &AttachmentKey, row: &AttachmentRow) -> Vec<RowId> {
        let mut needs = vec![ProgramSet::id(&row.set)];
        if key.link.0.starts_with("cilium_") || key.link.0.starts_with(super::POD_LINK_PREFIX) {
            needs.push(super::Link::id(&key.link));
        }
        needs
    }
    fn sources(key: &AttachmentKey, _: &AttachmentRow) -> SourceSet {
        if key.link.0.starts_with(super::POD_LINK_PREFIX) {
            SourceSet::of(&[Source::Endpoints])
        } else {
            SourceSet::of(&[Source::Config])
        }
    }
}

/// The one row of `cilium_runtime`.
#[derive(Clone, Debug)]
pub struct Runtime;

/// The only key there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Only;

impl fmt::Display for Only {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("node")
    }
}

/// Interfaces the programs redirect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeRow {
    /// `cilium_host`.
    pub host: LinkName,
    /// `cilium_vxlan`, if there is an overlay.
    pub overlay: Option<LinkName>,
    /// Hardware address of `cilium_host`.
    pub host_mac: Mac,
}

impl fmt::Display for RuntimeRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {} mac {}", self.host, self.host_mac)?;
        if let Some(overlay) = &self.overlay {
            write!(f, " overlay {overlay}")?;
        }
        Ok(())
    }
}

impl Resource for Runtime {
    const KIND: Kind = Kind::Runtime;
    const NEEDS: &'static [Kind] = &[Kind::Link];
    type Key = Only;
    type Row = RuntimeRow;
    fn requires(_: &Only, row: &RuntimeRow) -> Vec<RowId> {
        std::iter::once(&row.host).chain(&row.overlay).map(super::Link::id).collect()
    }
    fn sources(_: &Only, _: &RuntimeRow) -> SourceSet {
        SourceSet::of(&[Source::Config])
    }
}

/// A device of the host in `cilium_device`.
#[derive(Clone, Debug)]
pub struct Device;

/// What the programs need to know of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRow {
    /// Source of masqueraded IPv4 traffic.
    pub ipv4: Option<IpAddr>,
    /// Source of masqueraded IPv6 traffic.
    pub ipv6: Option<IpAddr>,
    /// Its hardware address, zero on layer 3 devices.
    pub mac: Mac,
    /// `cilium_abi::node::DEVICE_` flags.
    pub flags: u32,
}

impl fmt::Display for DeviceRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mac {}", self.mac)?;
        for addr in self.ipv4.iter().chain(&self.ipv6) {
            write!(f, " {addr}")?;
        }
        write!(f, " flags {:#x}", self.flags)
    }
}

impl Resource for Device {
    const KIND: Kind = Kind::Device;
    type Key = LinkName;
    type Row = DeviceRow;
    fn sources(_: &LinkName, _: &DeviceRow) -> SourceSet {
        SourceSet::of(&[Source::Config])
    }
}

/// IP protocols that services and policies name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// A backend of services.
#[derive(Clone, Debug)]
pub struct Backend;

/// Where a backend is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendRow {
    /// Address.
    pub addr: IpAddr,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub proto: Protocol,
    /// `cilium_abi::lb::BACKEND_` flags.
    pub flags: u8,
}

impl fmt::Display for BackendRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", std::net::SocketAddr::new(self.addr, self.port), self.proto)?;
        if self.flags & cilium_abi::lb::BACKEND_TERMINATING != 0 { f.write_str(" terminating") } else { Ok(()) }
    }
}

impl Resource for Backend {
    const KIND: Kind = Kind::Backend;
    type Key = BackendId;
    type Row = BackendRow;
    fn sources(_: &BackendId, _: &BackendRow) -> SourceSet {
        SourceSet::of(&[Source::Services])
    }
}

/// The way back for replies.
#[derive(Clone, Debug)]
pub struct RevNat;

/// Address and port of a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevNatRow {
    /// Address.
    pub addr: IpAddr,
    /// Port.
    pub port: u16,
}

impl fmt::Display for RevNatRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::net::SocketAddr::new(self.addr, self.port).fmt(f)
    }
}

impl Resource for RevNat {
    const KIND: Kind = Kind::RevNat;
    type Key = RevNatId;
    type Row = RevNatRow;
    fn sources(_: &RevNatId, _: &RevNatRow) -> SourceSet {
        SourceSet::of(&[Source::Services])
    }
}

/// One place in a list of backends.
#[derive(Clone, Debug)]
pub struct Slot;

/// List and place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotKey {
    /// The list.
    pub list: ListId,
    /// Place, from 0.
    pub slot: u32,
}

impl fmt::Display for SlotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.list, self.slot)
    }
}

impl Resource for Slot {
    const KIND: Kind = Kind::Slot;
    const NEEDS: &'static [Kind] = &[Kind::Backend];
    type Key = SlotKey;
    type Row = BackendId;
    fn requires(_: &SlotKey, row: &BackendId) -> Vec<RowId> {
        vec![Backend::id(row)]
    }
    fn sources(_: &SlotKey, _: &BackendId) -> SourceSet {
        SourceSet::of(&[Source::Services])
    }
}

/// An address and port that clients use.
#[derive(Clone, Debug)]
pub struct Frontend;

/// What makes a frontend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrontendKey {
    /// Address.
    pub addr: IpAddr,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub proto: Protocol,
    /// `cilium_abi::lb::SCOPE_` constant.
    pub scope: u8,
}

impl fmt::Display for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", std::net::SocketAddr::new(self.addr, self.port), self.proto)?;
        if self.scope == cilium_abi::lb::SCOPE_INTERNAL { f.write_str("/i") } else { Ok(()) }
    }
}

/// Where a frontend leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendRow {
    /// The list.
    pub list: ListId,
    /// How many slots it has.
    pub count: u16,
    /// The way back.
    pub rev_nat: RevNatId,
    /// `cilium_abi::lb::FRONTEND_` flags.
    pub flags: u32,
}

impl fmt::Display for FrontendRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "list {} of {} revnat {} flags {:#x}", self.list, self.count, self.rev_nat, self.flags)
    }
}

impl Resource for Frontend {
    const KIND: Kind = Kind::Frontend;
    const NEEDS: &'static [Kind] = &[Kind::RevNat, Kind::Slot];
    type Key = FrontendKey;
    type Row = FrontendRow;
    fn requires(_: &FrontendKey, row: &FrontendRow) -> Vec<RowId> {
        let mut needs = vec![RevNat::id(&row.rev_nat)];
        needs.extend((0..u32::from(row.count)).map(|slot| Slot::id(&SlotKey { list: row.list, slot })));
        needs
    }
    fn settled_by(_: &FrontendKey, _: &FrontendRow) -> SourceSet {
        SourceSet::of(&[Source::Services])
    }
    fn sources(_: &FrontendKey, _: &FrontendRow) -> SourceSet {
        SourceSet::of(&[Source::Services])
    }
}

/// 128 bits that stand for labels, or for a policy's subject and rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 16]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// What an identity number stands for, for a start with an empty memory.
#[derive(Clone, Debug)]
pub struct IdentityDigest;

impl Resource for IdentityDigest {
    const KIND: Kind = Kind::IdentityDigest;
    type Key = IdentityId;
    type Row = Digest;
    fn sources(_: &IdentityId, _: &Digest) -> SourceSet {
        SourceSet::of(&[Source::Endpoints, Source::Policies, Source::Identities])
    }
}

/// What a policy number stands for, for a start with an empty memory.
#[derive(Clone, Debug)]
pub struct PolicyDigest;

impl Resource for PolicyDigest {
    const KIND: Kind = Kind::PolicyDigest;
    const NEEDS: &'static [Kind] = &[Kind::Policy];
    type Key = PolicyId;
    type Row = Digest;
    /// It says "complete": every row of the policy stands.
    fn requires(key: &PolicyId, _: &Digest) -> Vec<RowId> {
        vec![Policy::rows_of(*key)]
    }
    fn sources(_: &PolicyId, _: &Digest) -> SourceSet {
        POLICY_SOURCES
    }
}

const POLICY_SOURCES: SourceSet =
    SourceSet::of(&[Source::Endpoints, Source::Policies, Source::Identities, Source::Nodes, Source::Services]);

/// One row of a policy.
#[derive(Clone, Debug)]
pub struct Policy;

/// Direction of traffic as an endpoint sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// What a policy row matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyKey {
    /// The policy.
    pub policy: PolicyId,
    /// Direction.
    pub direction: Direction,
    /// The peer; 0: any.
    pub identity: IdentityId,
    /// Protocol; 0: the L3 row.
    pub proto: Protocol,
    /// First port of the prefix (ICMP: the type).
    pub port: u16,
    /// Length of the port prefix, 0 to 16.
    pub port_len: u8,
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        write!(f, "{} {way} ", self.policy)?;
        if self.identity.0 == 0 { f.write_str("any")? } else { write!(f, "{}", self.identity)? }
        if self.proto.0 != 0 {
            write!(f, " {}", self.proto)?;
            if self.port_len > 0 {
                write!(f, " {}", self.port)?;
            }
            if self.port_len > 0 && self.port_len < 16 {
                write!(f, "/{}", self.port_len)?;
            }
        }
        Ok(())
    }
}

/// What a policy row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyRow {
    /// `cilium_abi::policy::{NONE, ALLOW, DENY}`.
    pub verdict: u8,
    /// Proxy port to redirect to; 0: none.
    pub listener: u16,
    /// L3 row only: bit n = a row with port prefix length n exists below.
    pub lengths: u32,
    /// Higher wins.
    pub precedence: u32,
    /// The rule that is the reason.
    pub cookie: Cookie,
}

impl fmt::Display for PolicyRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.verdict {
            cilium_abi::policy::ALLOW => "allow",
            cilium_abi::policy::DENY => "deny",
            _ => "ports",
        })?;
        if self.lengths != 0 {
            write!(f, " lengths {:#x}", self.lengths)?;
        }
        write!(f, " rule {}", self.cookie)
    }
}

impl Policy {
    /// The group of all rows of a policy.
    pub fn rows_of(policy: PolicyId) -> RowId {
        RowId { kind: Kind::Policy, key: format!("{policy} rows") }
    }

    /// The group of all rows about a peer, in all policies.
    pub fn rows_about(identity: IdentityId) -> RowId {
        RowId { kind: Kind::Policy, key: format!("rows about {identity}") }
    }
}

impl Resource for Policy {
    const KIND: Kind = Kind::Policy;
    type Key = PolicyKey;
    type Row = PolicyRow;
    /// Its ladder (policy, direction, peer), its policy, its peer.
    fn groups(key: &PolicyKey) -> Vec<RowId> {
        let l3 = PolicyKey { proto: Protocol(0), port: 0, port_len: 0, ..*key };
        vec![
            RowId { kind: Kind::Policy, key: format!("{l3} ladder") },
            Self::rows_of(key.policy),
            Self::rows_about(key.identity),
        ]
    }
    fn sources(_: &PolicyKey, _: &PolicyRow) -> SourceSet {
        POLICY_SOURCES
    }
}

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
    fn sources(_: &EndpointKey, row: &EndpointRow) -> SourceSet {
        match row {
            EndpointRow::Host { .. } => SourceSet::of(&[Source::Config, Source::Nodes]),
            EndpointRow::Pod { .. } => SourceSet::of(&[Source::Endpoints]),
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
    fn sources(_: &LinkName, _: &EndpointConfigRow) -> SourceSet {
        SourceSet::of(&[Source::Endpoints])
    }
}
