//! Rows of load balancing: backends, lists of them, frontends and the way back.

use super::{
    BackendId, Kind, ListId, Present, Protocol, Resource, RevNatId, RowId, Source, SourceSet, TableId,
};
use crate::maglev::TableSize;
use crate::shared::Shared;
use cilium_abi::lb::{self, FRONTEND_MAGLEV, FRONTEND_SOURCE_RANGES, SCOPE_INTERNAL};
use ipnet::IpNet;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

/// Backends of Services without EndpointSlices are pods, here and elsewhere.
/// NodePorts are on addresses that node objects name.
const LB_SOURCES: SourceSet =
    SourceSet::of(&[Source::Services, Source::Endpoints, Source::Identities, Source::Nodes]);

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
        if self.flags & cilium_abi::lb::BACKEND_TERMINATING != 0 {
            f.write_str(" terminating")
        } else {
            Ok(())
        }
    }
}

impl Resource for Backend {
    const KIND: Kind = Kind::Backend;
    type Key = BackendId;
    type Row = BackendRow;
    fn sources(_: &BackendId, _: &BackendRow) -> SourceSet {
        LB_SOURCES
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
        LB_SOURCES
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
        LB_SOURCES
    }
}

/// Sources that may, or may not, use a frontend.
#[derive(Clone, Debug)]
pub struct SourceRange;

/// A range, and whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceRangeKey {
    /// The frontend's way back.
    pub rev_nat: RevNatId,
    /// Prefix without bits beyond its length.
    pub net: IpNet,
}

impl fmt::Display for SourceRangeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.rev_nat, self.net)
    }
}

impl SourceRange {
    /// The group of all ranges of a frontend; it may be empty.
    pub fn of(rev_nat: RevNatId) -> RowId {
        RowId { kind: Kind::SourceRange, key: rev_nat.to_string() }
    }
}

impl Resource for SourceRange {
    const KIND: Kind = Kind::SourceRange;
    type Key = SourceRangeKey;
    type Row = Present;
    fn groups(key: &SourceRangeKey) -> Vec<RowId> {
        vec![Self::of(key.rev_nat)]
    }
    fn settled_by(_: &SourceRangeKey, _: &Present) -> SourceSet {
        LB_SOURCES
    }
    fn sources(_: &SourceRangeKey, _: &Present) -> SourceSet {
        LB_SOURCES
    }
}

/// A Maglev table ([`crate::maglev`]): which backend each place leads to. Frontends with the same backends share
/// it. In the map each is followed by an empty place, by which tables are told apart when they are read.
#[derive(Clone, Debug)]
pub struct MaglevTable;

/// Backends by place, none of them 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaglevRow(pub Shared<Vec<BackendId>>);

impl MaglevRow {
    /// The backends in it.
    pub fn backends(&self) -> BTreeSet<BackendId> {
        self.0.iter().copied().collect()
    }
}

impl fmt::Display for MaglevRow {
    /// Tables of the same size and backends may still differ: the last word is a digest (FNV-1a).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mix = |sum: u32, id: &BackendId| {
            id.0.to_be_bytes()
                .iter()
                .fold(sum, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
        };
        let digest = self.0.iter().fold(0x811c_9dc5, mix);
        write!(f, "{} places, {} backends, {digest:08x}", self.0.len(), self.backends().len())
    }
}

impl Resource for MaglevTable {
    const KIND: Kind = Kind::MaglevTable;
    const NEEDS: &'static [Kind] = &[Kind::Backend];
    type Key = TableId;
    type Row = MaglevRow;
    fn requires(_: &TableId, row: &MaglevRow) -> Vec<RowId> {
        row.backends().iter().map(Backend::id).collect()
    }
    fn sources(_: &TableId, _: &MaglevRow) -> SourceSet {
        LB_SOURCES
    }
}

/// An address and port that clients use.
#[derive(Clone, Debug)]
pub struct Frontend;

/// What makes a frontend. In their order that of clients inside comes before that of clients outside, whose
/// row sends those inside to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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

impl FrontendKey {
    fn place(&self) -> (IpAddr, u16, Protocol, Reverse<u8>) {
        (self.addr, self.port, self.proto, Reverse(self.scope))
    }
}

impl Ord for FrontendKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.place().cmp(&other.place())
    }
}

impl PartialOrd for FrontendKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", std::net::SocketAddr::new(self.addr, self.port), self.proto)?;
        if self.scope == SCOPE_INTERNAL { f.write_str("/i") } else { Ok(()) }
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
    /// Its Maglev table, if the flags say that it has one.
    pub maglev: TableId,
    /// Seconds for which a client keeps its backend; 0: it does not.
    pub affinity: u32,
}

/// Flags of frontends, in the words of Cilium's own tools where they have one.
const WORDS: [(u32, &str); 11] = [
    (lb::FRONTEND_CLUSTER_IP, "ClusterIP"),
    (lb::FRONTEND_NODE_PORT, "NodePort"),
    (lb::FRONTEND_LOAD_BALANCER, "LoadBalancer"),
    (lb::FRONTEND_EXTERNAL_IP, "ExternalIPs"),
    (lb::FRONTEND_HOST_PORT, "HostPort"),
    (lb::FRONTEND_TWO_SCOPES, "two-scopes"),
    (lb::FRONTEND_SOURCE_RANGES, "check source-range"),
    (lb::FRONTEND_SOURCE_DENY, "deny source-range"),
    (lb::FRONTEND_MAGLEV, "maglev"),
    (lb::FRONTEND_DSR, "dsr"),
    (lb::FRONTEND_REJECT, "reject"),
];

impl FrontendRow {
    /// What its flags say, for people.
    pub fn words(&self) -> String {
        let said = WORDS.iter().filter(|(flag, _)| self.flags & flag != 0).map(|(_, word)| *word);
        let inside = (self.flags & lb::FRONTEND_EXTERNAL == 0).then_some("non-routable");
        said.chain(inside).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for FrontendRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "list {} of {} revnat {} [{}]", self.list, self.count, self.rev_nat, self.words())?;
        // The words leave out bits that no row of ours has; who reads a difference must see them.
        let known = WORDS.iter().fold(lb::FRONTEND_EXTERNAL, |all, (flag, _)| all | flag);
        let table = u32::MAX << lb::FRONTEND_MAGLEV_BITS;
        if self.flags & FRONTEND_MAGLEV != 0 || self.maglev.0 != 0 || self.flags & table != 0 {
            let bits = self.flags >> lb::FRONTEND_MAGLEV_BITS;
            let size = TableSize::ALL.into_iter().find(|size| 32 - size.get().leading_zeros() == bits);
            let size = size.map_or_else(|| format!("{bits} bits"), |size| size.to_string());
            write!(f, " table {} of {size}", self.maglev)?;
        }
        if self.flags & !known & !table != 0 {
            write!(f, " flags {:#x}", self.flags & !known & !table)?;
        }
        if self.affinity != 0 { write!(f, " affinity {}s", self.affinity) } else { Ok(()) }
    }
}

impl Resource for Frontend {
    const KIND: Kind = Kind::Frontend;
    const NEEDS: &'static [Kind] = &[Kind::RevNat, Kind::Slot, Kind::SourceRange, Kind::MaglevTable];
    type Key = FrontendKey;
    type Row = FrontendRow;
    fn requires(_: &FrontendKey, row: &FrontendRow) -> Vec<RowId> {
        let mut needs = vec![RevNat::id(&row.rev_nat)];
        needs.extend((0..u32::from(row.count)).map(|slot| Slot::id(&SlotKey { list: row.list, slot })));
        if row.flags & FRONTEND_SOURCE_RANGES != 0 {
            needs.push(SourceRange::of(row.rev_nat));
        }
        if row.flags & FRONTEND_MAGLEV != 0 {
            needs.push(MaglevTable::id(&row.maglev));
        }
        needs
    }
    fn settled_by(_: &FrontendKey, _: &FrontendRow) -> SourceSet {
        LB_SOURCES
    }
    fn sources(_: &FrontendKey, _: &FrontendRow) -> SourceSet {
        LB_SOURCES
    }
}
