//! Rows of load balancing: backends, lists of them, frontends and the way back.

use super::{BackendId, Kind, ListId, Protocol, Resource, RevNatId, RowId, Source, SourceSet};
use std::fmt;
use std::net::IpAddr;

/// Backends of Services without EndpointSlices are pods, here and elsewhere.
const LB_SOURCES: SourceSet = SourceSet::of(&[Source::Services, Source::Endpoints, Source::Identities]);

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

/// An address and port that clients use.
#[derive(Clone, Debug)]
pub struct Frontend;

/// What makes a frontend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
        LB_SOURCES
    }
    fn sources(_: &FrontendKey, _: &FrontendRow) -> SourceSet {
        LB_SOURCES
    }
}
