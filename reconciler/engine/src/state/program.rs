//! Maps, program sets, where programs are attached, and what they know of the node.

use super::{Kind, LinkName, Mac, Resource, RowId, Source, SourceSet};
use cilium_abi::maps::MapType;
use cilium_abi::node::NodeConstants;
use std::fmt;
use std::net::IpAddr;

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
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// The constants name the router, which the node's object may give.
    fn settled_by(_: &SetId, _: &ProgramSetRow) -> SourceSet {
        SourceSet::of(&[Source::Nodes])
    }
    fn sources(_: &SetId, _: &ProgramSetRow) -> SourceSet {
        SourceSet::of(&[Source::Config, Source::Nodes])
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
    /// Wanted: the only one, if the device's driver can run it.
    IfAble,
    /// Seen: the device's driver cannot run it.
    Unable,
}

impl fmt::Display for AttachmentRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of set {:.12}", self.program, self.set)?;
        match self.first {
            Position::First => Ok(()),
            Position::Behind => f.write_str(" (not first)"),
            Position::IfAble => f.write_str(" (if the driver can)"),
            Position::Unable => f.write_str(" (the driver cannot)"),
        }
    }
}

impl Resource for Attachment {
    const KIND: Kind = Kind::Attachment;
    const NEEDS: &'static [Kind] = &[Kind::ProgramSet, Kind::Link];
    type Key = AttachmentKey;
    type Row = AttachmentRow;
    fn satisfied(want: &AttachmentRow, seen: &AttachmentRow) -> bool {
        let placed = match want.first {
            Position::IfAble => matches!(seen.first, Position::First | Position::Unable),
            first => first == seen.first,
        };
        placed && want.program == seen.program && want.set == seen.set
    }
    /// Our program of an older set, or behind another's, still filters.
    fn serves(want: &AttachmentRow, seen: &AttachmentRow) -> bool {
        want.program == seen.program && !seen.set.0.is_empty() && seen.first != Position::Unable
    }
    fn requires(key: &AttachmentKey, row: &AttachmentRow) -> Vec<RowId> {
        let mut needs = vec![ProgramSet::id(&row.set)];
        if key.link.0.starts_with("cilium_") || key.link.0.starts_with(super::POD_LINK_PREFIX) {
            needs.push(super::Link::id(&key.link));
        }
        needs
    }
    fn settled_by(_: &AttachmentKey, _: &AttachmentRow) -> SourceSet {
        SourceSet::of(&[Source::Nodes])
    }
    fn sources(key: &AttachmentKey, _: &AttachmentRow) -> SourceSet {
        if key.link.0.starts_with(super::POD_LINK_PREFIX) {
            SourceSet::of(&[Source::Endpoints, Source::Nodes])
        } else {
            SourceSet::of(&[Source::Config, Source::Nodes])
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
    /// `cilium_vxlan` or `cilium_geneve`, if there is an overlay.
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
        SourceSet::of(&[Source::Config, Source::Nodes])
    }
}
