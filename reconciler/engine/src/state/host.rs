//! Rows outside BPF: sysctls, links, addresses, routes, files.

use super::{Kind, Resource, RowId, Source, SourceSet};
use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// Name of an interface (`IFNAMSIZ`: at most 15 bytes).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkName(pub String);

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<&str> for LinkName {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

/// Name of the router interface.
pub const HOST_LINK: &str = "cilium_host";
/// Name of the router interface's peer.
pub const NET_LINK: &str = "cilium_net";
/// Name of the VXLAN overlay interface.
pub const VXLAN_LINK: &str = "cilium_vxlan";
/// Name of the Geneve overlay interface.
pub const GENEVE_LINK: &str = "cilium_geneve";
/// What pods' host-side interfaces begin with.
pub const POD_LINK_PREFIX: &str = "lxc";
/// What the alias (`IFLA_IFALIAS`) of our interfaces begins with; with the name it says "ours".
pub const LINK_ALIAS_PREFIX: &str = "cilium:";
/// Protocol number of our routes.
pub const ROUTE_PROTOCOL: u8 = 73;

/// A hardware address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A kernel parameter from the fixed list this project sets. Of [`RESERVED_PORTS`] the row says what it has at least.
#[derive(Clone, Debug)]
pub struct Sysctl;

/// Ports that no socket of the host is given unasked: a list of ports and ranges, `80,30000-32767`, which others
/// write in as well (Documentation/networking/ip-sysctl.rst).
pub const RESERVED_PORTS: &str = "net.ipv4.ip_local_reserved_ports";

/// `net.ipv4.conf.cilium_host.rp_filter`: dots as in sysctl(8), a dot inside an interface name as `/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SysctlKey(pub String);

impl fmt::Display for SysctlKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Resource for Sysctl {
    const KIND: Kind = Kind::Sysctl;
    type Key = SysctlKey;
    type Row = String;
    fn sources(_: &SysctlKey, _: &String) -> SourceSet {
        SourceSet::of(&[Source::Config])
    }
}

/// An interface of ours. Created down; [`LinkUp`] brings it up.
#[derive(Clone, Debug)]
pub struct Link;

/// What an interface is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkRow {
    /// Its type.
    pub kind: LinkKind,
    /// Its hardware address; `None`: as the kernel chose.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
    /// `IFLA_IFALIAS`, beginning with [`LINK_ALIAS_PREFIX`].
    pub alias: String,
}

/// Types of interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// Veth pair with both ends on the host.
    HostVeth {
        /// Name of the other end.
        peer: LinkName,
    },
    /// Veth pair whose other end is in a pod. When read, the netns and name of the other end are
    /// those that [`PodInterface`] finds; here only the pairing counts.
    PodVeth,
    /// VXLAN in external (collect metadata) mode.
    Vxlan {
        /// UDP port.
        port: u16,
    },
    /// Geneve in external (collect metadata) mode.
    Geneve {
        /// UDP port.
        port: u16,
    },
    /// Something else under a name of ours.
    Foreign {
        /// The kernel's name for its type.
        kind: String,
    },
}

impl fmt::Display for LinkRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            LinkKind::HostVeth { peer } => write!(f, "veth peer {peer}")?,
            LinkKind::PodVeth => write!(f, "veth to pod")?,
            LinkKind::Vxlan { port } => write!(f, "vxlan external port {port}")?,
            LinkKind::Geneve { port } => write!(f, "geneve external port {port}")?,
            LinkKind::Foreign { kind } => write!(f, "foreign {kind}")?,
        }
        if let Some(mac) = self.mac {
            write!(f, " mac {mac}")?;
        }
        write!(f, " mtu {} alias {}", self.mtu, self.alias)
    }
}

impl Resource for Link {
    const KIND: Kind = Kind::Link;
    type Key = LinkName;
    type Row = LinkRow;
    /// The MAC counts only if one is wanted.
    fn satisfied(want: &LinkRow, seen: &LinkRow) -> bool {
        want.kind == seen.kind
            && want.mtu == seen.mtu
            && want.alias == seen.alias
            && (want.mac.is_none() || want.mac == seen.mac)
    }
    /// A wrong MTU or alias keeps nothing from being attached.
    fn serves(want: &LinkRow, seen: &LinkRow) -> bool {
        want.kind == seen.kind
    }
    fn sources(key: &LinkName, _: &LinkRow) -> SourceSet {
        link_sources(key)
    }
    fn is_ours(seen: &LinkRow) -> bool {
        !matches!(seen.kind, LinkKind::Foreign { .. }) || seen.alias.starts_with(LINK_ALIAS_PREFIX)
    }
}

/// Pods' links come from endpoint records, the others from the config.
fn link_sources(key: &LinkName) -> SourceSet {
    if key.0.starts_with(POD_LINK_PREFIX) {
        SourceSet::of(&[Source::Endpoints])
    } else {
        SourceSet::of(&[Source::Config])
    }
}

/// The pod's end of a link: moved into its network namespace, named, addressed, routed and up.
#[derive(Clone, Debug)]
pub struct PodInterface;

/// What the pod sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodInterfaceRow {
    /// Path of the pod's network namespace.
    pub netns: PathBuf,
    /// Name inside.
    pub ifname: LinkName,
    /// Hardware address inside.
    pub mac: Mac,
    /// MTU of the interface in bytes.
    pub mtu: u32,
    /// Addresses (host prefixes), sorted.
    pub addresses: Vec<IpNet>,
    /// Gateways: each gets a link-scope host route and a default route through it, sorted.
    pub gateways: Vec<IpAddr>,
    /// MTU of the default routes (towards peers behind encapsulation), bytes; 0: none set.
    pub route_mtu: u32,
}

impl fmt::Display for PodInterfaceRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {} mac {} mtu {}", self.ifname, self.netns.display(), self.mac, self.mtu)?;
        for address in &self.addresses {
            write!(f, " {address}")?;
        }
        for gateway in &self.gateways {
            write!(f, " via {gateway}")?;
        }
        if self.route_mtu > 0 {
            write!(f, " route mtu {}", self.route_mtu)?;
        }
        Ok(())
    }
}

impl Resource for PodInterface {
    const KIND: Kind = Kind::PodInterface;
    const NEEDS: &'static [Kind] = &[Kind::Link];
    type Key = LinkName;
    type Row = PodInterfaceRow;
    fn requires(key: &LinkName, _: &PodInterfaceRow) -> Vec<RowId> {
        vec![Link::id(key)]
    }
    /// The gateways are the router's addresses, which the node's object may give.
    fn settled_by(_: &LinkName, _: &PodInterfaceRow) -> SourceSet {
        SourceSet::of(&[Source::Nodes])
    }
    fn sources(_: &LinkName, _: &PodInterfaceRow) -> SourceSet {
        SourceSet::of(&[Source::Endpoints, Source::Nodes])
    }
}

/// An address on an interface of ours.
#[derive(Clone, Debug)]
pub struct Address;

/// Interface and address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressKey {
    /// The interface.
    pub link: LinkName,
    /// The address with its prefix length.
    pub addr: IpNet,
}

impl fmt::Display for AddressKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev {}", self.addr, self.link)
    }
}

/// A row that has nothing but its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present;

impl fmt::Display for Present {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("present")
    }
}

impl Resource for Address {
    const KIND: Kind = Kind::Address;
    const NEEDS: &'static [Kind] = &[Kind::Link];
    type Key = AddressKey;
    type Row = Present;
    fn requires(key: &AddressKey, _: &Present) -> Vec<RowId> {
        vec![Link::id(&key.link)]
    }
    fn settled_by(_: &AddressKey, _: &Present) -> SourceSet {
        SourceSet::of(&[Source::Nodes])
    }
    fn sources(_: &AddressKey, _: &Present) -> SourceSet {
        SourceSet::of(&[Source::Config, Source::Nodes])
    }
}

/// A route with our protocol number, in the main table.
#[derive(Clone, Debug)]
pub struct Route;

/// Destination of a route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// Routing table; 254 is main.
    pub table: u32,
    /// Destination prefix.
    pub dst: IpNet,
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dst)?;
        if self.table != 254 { write!(f, " table {}", self.table) } else { Ok(()) }
    }
}

/// Way of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRow {
    /// Output interface (ours, or a device of the host).
    pub link: LinkName,
    /// Next hop; `None`: on link.
    pub via: Option<IpAddr>,
    /// Preferred source address.
    pub src: Option<IpAddr>,
    /// MTU metric in bytes; 0: none.
    pub mtu: u32,
}

impl fmt::Display for RouteRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(via) = self.via {
            write!(f, "via {via} ")?;
        }
        write!(f, "dev {}", self.link)?;
        if let Some(src) = self.src {
            write!(f, " src {src}")?;
        }
        if self.mtu > 0 {
            write!(f, " mtu {}", self.mtu)?;
        }
        Ok(())
    }
}

impl Resource for Route {
    const KIND: Kind = Kind::Route;
    const NEEDS: &'static [Kind] = &[Kind::LinkUp];
    type Key = RouteKey;
    type Row = RouteRow;
    /// The kernel takes routes only by interfaces that are up (ENETDOWN).
    fn requires(_: &RouteKey, row: &RouteRow) -> Vec<RowId> {
        if row.link.0.starts_with("cilium_") { vec![LinkUp::id(&row.link)] } else { vec![] }
    }
    fn sources(_: &RouteKey, _: &RouteRow) -> SourceSet {
        SourceSet::of(&[Source::Config, Source::Nodes])
    }
}

/// An interface of ours is administratively up.
#[derive(Clone, Debug)]
pub struct LinkUp;

impl Resource for LinkUp {
    const KIND: Kind = Kind::LinkUp;
    const NEEDS: &'static [Kind] = &[Kind::Link, Kind::Attachment];
    type Key = LinkName;
    type Row = Present;
    /// A link goes up only when it carries our program.
    fn requires(key: &LinkName, _: &Present) -> Vec<RowId> {
        let mut needs = vec![Link::id(key)];
        if key.0.starts_with(POD_LINK_PREFIX) {
            needs.push(super::Attachment::id(&super::AttachmentKey {
                link: key.clone(),
                hook: super::Hook::Ingress,
            }));
        }
        needs
    }
    fn sources(key: &LinkName, _: &Present) -> SourceSet {
        link_sources(key)
    }
}

/// A file this agent writes for others: its published objects, the CNI configuration.
#[derive(Clone, Debug)]
pub struct File;

/// Path of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileKey(pub PathBuf);

impl fmt::Display for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.display())
    }
}

/// Content of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRow {
    /// The bytes, as text.
    pub content: String,
    /// Permission bits.
    pub mode: u32,
}

impl fmt::Display for FileRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes mode {:o}", self.content.len(), self.mode)
    }
}

impl Resource for File {
    const KIND: Kind = Kind::File;
    type Key = FileKey;
    type Row = FileRow;
    /// Others act on what stands in it.
    fn settled_by(_: &FileKey, _: &FileRow) -> SourceSet {
        SourceSet::of(&[Source::Nodes, Source::Policies])
    }
    fn sources(_: &FileKey, _: &FileRow) -> SourceSet {
        SourceSet::of(&[
            Source::Config,
            Source::Endpoints,
            Source::Nodes,
            Source::Policies,
            Source::Identities,
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::diff;
    use crate::state::{DesiredState, ObservedState, State};

    #[test]
    fn a_stranger_under_a_name_of_ours_is_in_no_plan_to_remove_it() {
        let mut seen = State::default();
        let row = |alias: &str| LinkRow {
            kind: LinkKind::Foreign { kind: "bridge".into() },
            mac: None,
            mtu: 1500,
            alias: alias.into(),
        };
        seen.links.insert(VXLAN_LINK.into(), row(""), None);
        seen.links.insert(HOST_LINK.into(), row("cilium:cilium_host"), None);
        let nothing = DesiredState { synced: SourceSet::ALL, ..DesiredState::default() };
        let plan = diff(&nothing, &ObservedState::whole(seen));
        let rows: Vec<String> = plan.lines().iter().map(|line| line.id().to_string()).collect();
        assert_eq!(rows, [format!("link {HOST_LINK}")]);
    }
}
