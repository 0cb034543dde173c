//! Rows of load balancing: backends, lists of them, frontends and the way back.

use super::{BackendId, Kind, ListId, Present, Protocol, Resource, RevNatId, RowId, Source, SourceSet};
use cilium_abi::lb::{FRONTEND_MAGLEV, FRONTEND_SOURCE_RANGES, SCOPE_INTERNAL};
use ipnet::IpNet;
use std::cmp::Reverse;
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
    /// First place of its Maglev table, if the flags say that it has one.
    pub maglev: u32,
    /// Seconds for which a client keeps its backend; 0: it does not.
    pub affinity: u32,
}

impl fmt::Display for FrontendRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "list {} of {} revnat {} flags {:#x}", self.list, self.count, self.rev_nat, self.flags)?;
        if self.maglev != 0 || self.flags & FRONTEND_MAGLEV != 0 {
            write!(f, " maglev {}", self.maglev)?;
        }
        if self.affinity != 0 { write!(f, " affinity {}s", self.affinity) } else { Ok(()) }
    }
}

impl Resource for Frontend {
    const KIND: Kind = Kind::Frontend;
    const NEEDS: &'static [Kind] = &[Kind::RevNat, Kind::Slot, Kind::SourceRange];
    type Key = FrontendKey;
    type Row = FrontendRow;
    fn requires(_: &FrontendKey, row: &FrontendRow) -> Vec<RowId> {
        let mut needs = vec![RevNat::id(&row.rev_nat)];
        needs.extend((0..u32::from(row.count)).map(|slot| Slot::id(&SlotKey { list: row.list, slot })));
        if row.flags & FRONTEND_SOURCE_RANGES != 0 {
            needs.push(SourceRange::of(row.rev_nat));
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
