//! Load balancing: frontend → list, list slot → backend, backend → address, revNAT → frontend address.
//!
//! A change writes a new list beside the old one, then the frontend row (the flip, one write), then
//! removes the old list.

use crate::{Address, Be16};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Key of `cilium_frontend`.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    IntoBytes,
    FromBytes,
    Immutable,
    KnownLayout,
)]
pub struct FrontendKey {
    /// The address clients use.
    pub addr: Address,
    /// The port clients use.
    pub port: Be16,
    /// IP protocol.
    pub proto: u8,
    /// [`SCOPE_EXTERNAL`] or [`SCOPE_INTERNAL`].
    pub scope: u8,
}

/// All backends.
pub const SCOPE_EXTERNAL: u8 = 0;
/// Only backends that clients inside the cluster may use.
pub const SCOPE_INTERNAL: u8 = 1;

/// Row of `cilium_frontend`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub struct FrontendRow {
    /// The list of backends.
    pub list: u32,
    /// How many slots the list has; 0: no backend.
    pub count: u16,
    /// Number by which replies find the way back ([`RevNatRow`]).
    pub rev_nat: u16,
    /// `FRONTEND_` flags.
    pub flags: u32,
}

/// The frontend is a ClusterIP.
pub const FRONTEND_CLUSTER_IP: u32 = 1;

/// Key of `cilium_slot`: one place in a list.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    IntoBytes,
    FromBytes,
    Immutable,
    KnownLayout,
)]
pub struct SlotKey {
    /// The list.
    pub list: u32,
    /// Place in it, from 0.
    pub slot: u32,
}

/// Row of `cilium_slot`: a backend's number (`u32`).
pub type SlotRow = u32;

/// Row of `cilium_backend`, keyed by the backend's number (`u32`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub struct BackendRow {
    /// Address.
    pub addr: Address,
    /// Port.
    pub port: Be16,
    /// IP protocol.
    pub proto: u8,
    /// `BACKEND_` flags.
    pub flags: u8,
}

/// Keeps its connections, gets no new ones.
pub const BACKEND_TERMINATING: u8 = 1;

/// Row of `cilium_revnat`, keyed by the revNAT number (`u32`, 1 to 65 535).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub struct RevNatRow {
    /// The frontend's address.
    pub addr: Address,
    /// The frontend's port.
    pub port: Be16,
    /// Zero.
    pub reserved: u16,
}
