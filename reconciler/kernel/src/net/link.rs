//! Our interfaces: the router pair, the overlay, and pods' pairs. Always created down.

#![forbid(unsafe_code)]

use super::error::NetlinkError;
use super::message::{SeenLink, change_link, link_info};
use super::ownership::{LINK_GROUP, NameOf, is_ours, must_be_ours, name_of, temporary_name};
use super::{LinkTable, Net, each, within};
use cilium_engine::driver::{Driver, DriverError, Scope, Step};
use cilium_engine::state::{Link, LinkKind, LinkName, LinkRow};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoGeneve, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkMessage,
};
use std::fs::File;
use std::os::fd::AsRawFd;

impl Driver<Link> for Net {
    /// Ours, and under the fixed names of the node's links also strangers. A stranger that only begins like
    /// a pod's link (`lxcbr0`) is returned if it was asked for by name.
    fn observe(&mut self, scope: &Scope<LinkName>) -> Result<Vec<(LinkName, LinkRow)>, DriverError> {
        let links = self.links_within(scope, |name| name)?;
        let mut table = LinkTable::of(&links);
        let mut rows = Vec::new();
        for link in links {
            let shown = match (name_of(&link.name), scope) {
                (NameOf::Node, _) | (NameOf::Pod, Scope::Keys(_)) => true,
                (NameOf::Pod, Scope::All) => is_ours(&link),
                (NameOf::Stranger, _) => false,
            };
            if !shown || !within(scope, &link.name) {
                continue;
            }
            if let (Some(peer), None, Scope::Keys(_)) = (link.peer, link.peer_netns, scope)
                && name_of(&link.name) == NameOf::Node
                && table.name(peer).is_none()
            {
                table = self.links()?;
            }
            let kind = kind(&link, &table);
            rows.push((link.name, LinkRow { kind, mac: link.mac, mtu: link.mtu, alias: link.alias }));
        }
        Ok(rows)
    }

    fn apply(&mut self, steps: &[Step<Link>]) -> Vec<Result<(), DriverError>> {
        each(steps, |step| match step {
            Step::Create { key, row } | Step::Update { key, row, .. } => self.ensure_link(key, row),
            Step::Remove { key, .. } => self.remove_link(key),
        })
    }
}

impl Net {
    fn ensure_link(&mut self, name: &LinkName, want: &LinkRow) -> Result<(), DriverError> {
        let seen = match self.link_named(name)? {
            Some(seen) => {
                must_be_ours(&seen)?;
                if self.kind_of(&seen)? == want.kind {
                    seen
                } else {
                    self.delete_link(&seen)?;
                    self.create_link(name, want)?
                }
            }
            None => self.create_link(name, want)?,
        };
        let mut changes = Vec::new();
        if seen.mtu != want.mtu {
            changes.push(LinkAttribute::Mtu(want.mtu));
        }
        if let Some(mac) = want.mac
            && seen.mac != Some(mac)
        {
            changes.push(LinkAttribute::Address(mac.0.to_vec()));
        }
        if seen.alias != want.alias {
            changes.push(LinkAttribute::IfAlias(want.alias.clone()));
        }
        if changes.is_empty() {
            return Ok(());
        }
        self.netlink
            .request(RouteNetlinkMessage::SetLink(change_link(seen.index, changes)), 0)
            .map_err(|error| error.during(format_args!("change interface {name}")))
    }

    fn create_link(&mut self, name: &LinkName, want: &LinkRow) -> Result<SeenLink, DriverError> {
        // Kept open until the request was carried out.
        let netns: Option<File> = match want.kind {
            LinkKind::PodVeth => self.places.open(name),
            LinkKind::HostVeth { .. }
            | LinkKind::Vxlan { .. }
            | LinkKind::Geneve { .. }
            | LinkKind::Foreign { .. } => None,
        };
        let (what, info) = match &want.kind {
            LinkKind::HostVeth { peer } => {
                if let Some(stray) = self.link_named(peer)? {
                    must_be_ours(&stray)?;
                    self.delete_link(&stray)?;
                }
                ("veth", veth(LinkAttribute::IfName(peer.0.clone()), want.mtu, None))
            }
            LinkKind::PodVeth => {
                ("veth", veth(LinkAttribute::IfName(temporary_name(name)), want.mtu, netns.as_ref()))
            }
            LinkKind::Vxlan { port } => {
                let data = vec![
                    InfoVxlan::CollectMetadata(true),
                    InfoVxlan::Learning(false),
                    InfoVxlan::Port(*port),
                ];
                ("vxlan", link_info(InfoKind::Vxlan, InfoData::Vxlan(data)))
            }
            LinkKind::Geneve { port } => ("geneve", geneve(*port)),
            LinkKind::Foreign { kind } => {
                return Err(DriverError::new(format!("create {name}: a foreign {kind} is never made here")));
            }
        };
        let mut attributes = vec![
            LinkAttribute::IfName(name.0.clone()),
            LinkAttribute::Mtu(want.mtu),
            LinkAttribute::Group(LINK_GROUP),
        ];
        attributes.extend(want.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        attributes.push(info);
        let request = RouteNetlinkMessage::NewLink(change_link(0, attributes));
        self.netlink
            .request(request, NLM_F_CREATE | NLM_F_EXCL)
            .map_err(|error| not_made(&error, what, name))?;
        let made = self.link_named(name)?.ok_or_else(|| {
            DriverError::new(format!("create {what} {name}: it vanished as soon as it was made"))
        })?;
        if want.kind == LinkKind::PodVeth {
            self.made.insert(name.clone(), made.clone());
        }
        Ok(made)
    }

    fn remove_link(&mut self, name: &LinkName) -> Result<(), DriverError> {
        let Some(seen) = self.link_named(name)? else { return Ok(()) };
        must_be_ours(&seen)?;
        self.delete_link(&seen)
    }

    fn kind_of(&mut self, seen: &SeenLink) -> Result<LinkKind, DriverError> {
        let whole = name_of(&seen.name) == NameOf::Node && seen.peer.is_some() && seen.peer_netns.is_none();
        let table = if whole { self.links()? } else { LinkTable::default() };
        Ok(kind(seen, &table))
    }
}

/// Both ends of a pair have our group from the beginning.
fn veth(name: LinkAttribute, mtu: u32, netns: Option<&File>) -> LinkAttribute {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![name, LinkAttribute::Mtu(mtu), LinkAttribute::Group(LINK_GROUP)];
    peer.attributes.extend(netns.map(|netns| LinkAttribute::NetNsFd(netns.as_raw_fd())));
    link_info(InfoKind::Veth, InfoData::Veth(InfoVeth::Peer(peer)))
}

/// A type of overlay that the kernel does not know has an error of its own: only the operator can mend it.
fn not_made(error: &NetlinkError, what: &str, name: &LinkName) -> DriverError {
    let other = match what {
        "vxlan" => "geneve",
        "geneve" => "vxlan",
        _ => return error.during(format_args!("create {what} {name}")),
    };
    if error.errno() != Some(libc::EOPNOTSUPP) {
        return error.during(format_args!("create {what} {name}"));
    }
    let told = DriverError::new(format!("create {what} {name}: this kernel has no {what}: {error}"));
    told.hint(format!(
        "load it (`modprobe {what}`; the kernel needs CONFIG_{}), or set routing.tunnel_protocol = \"{other}\" on all nodes",
        what.to_uppercase()
    ))
}

/// The rest is the kernel's default: checksums as each packet's tunnel key says, and received without over IPv6 too.
fn geneve(port: u16) -> LinkAttribute {
    let data = vec![InfoGeneve::CollectMetadata, InfoGeneve::Port(port)];
    link_info(InfoKind::Geneve, InfoData::Geneve(data))
}

/// What a link is, by its type and, of a veth, by where its other end is.
fn kind(link: &SeenLink, table: &LinkTable) -> LinkKind {
    let foreign = |kind: &str| LinkKind::Foreign { kind: kind.to_owned() };
    if !is_ours(link) {
        return foreign(if link.kind.is_empty() { "device" } else { &link.kind });
    }
    match (link.kind.as_str(), name_of(&link.name)) {
        ("veth", NameOf::Pod) => LinkKind::PodVeth,
        ("veth", NameOf::Node | NameOf::Stranger) => match (link.peer, link.peer_netns) {
            (Some(peer), None) => match table.name(peer) {
                Some(peer) => LinkKind::HostVeth { peer: peer.clone() },
                None => foreign("veth without its other end"),
            },
            _ => LinkKind::PodVeth,
        },
        ("vxlan", _) => match link.overlay_port {
            Some(port) => LinkKind::Vxlan { port },
            None => foreign("vxlan that is not external, or learns"),
        },
        ("geneve", _) => match link.overlay_port {
            Some(port) => LinkKind::Geneve { port },
            None => foreign("geneve that is not external"),
        },
        ("", _) => foreign("device"),
        (other, _) => foreign(other),
    }
}

#[cfg(test)]
mod tests {
    use super::super::message;
    use super::*;
    use netlink_packet_core::{Emitable as _, Parseable as _};

    /// `IFLA_LINKINFO` of an external Geneve device as Linux 6.1 and 6.12 answer it, all attributes with it.
    const ANSWERED: &[u8] = &[
        0x58, 0, 18, 0, // IFLA_LINKINFO
        0x0b, 0, 1, 0, b'g', b'e', b'n', b'e', b'v', b'e', 0, 0, // IFLA_INFO_KIND
        0x48, 0, 2, 0, // IFLA_INFO_DATA
        8, 0, 1, 0, 0, 0, 0, 0, // IFLA_GENEVE_ID
        5, 0, 3, 0, 0, 0, 0, 0, // IFLA_GENEVE_TTL
        5, 0, 4, 0, 0, 0, 0, 0, // IFLA_GENEVE_TOS
        8, 0, 11, 0, 0, 0, 0, 0, // IFLA_GENEVE_LABEL
        5, 0, 13, 0, 0, 0, 0, 0, // IFLA_GENEVE_DF
        6, 0, 5, 0, 0x17, 0xc1, 0, 0, // IFLA_GENEVE_PORT
        4, 0, 6, 0, // IFLA_GENEVE_COLLECT_METADATA
        5, 0, 10, 0, 1, 0, 0, 0, // IFLA_GENEVE_UDP_ZERO_CSUM6_RX
        5, 0, 12, 0, 0, 0, 0, 0, // IFLA_GENEVE_TTL_INHERIT
    ];
    /// Where in it stands `IFLA_GENEVE_COLLECT_METADATA`.
    const METADATA_AT: usize = 68;

    fn read(info: &[u8]) -> LinkKind {
        // `struct ifinfomsg`, then the attributes.
        let bytes = [&[0; 16], info].concat();
        let mut message = LinkMessage::parse(&bytes).expect("as the kernel writes it");
        let ours = [LinkAttribute::IfName("cilium_geneve".into()), LinkAttribute::Group(LINK_GROUP)];
        message.attributes.extend(ours);
        let seen = message::link(RouteNetlinkMessage::NewLink(message)).expect("a link");
        kind(&seen, &LinkTable::default())
    }

    #[test]
    fn geneve_is_read_as_the_kernel_writes_it() {
        assert_eq!(read(ANSWERED), LinkKind::Geneve { port: 6081 });
        // An attribute nobody knows in its place.
        let mut not_external = ANSWERED.to_vec();
        not_external[METADATA_AT + 2] = 99;
        assert_eq!(read(&not_external), LinkKind::Foreign { kind: "geneve that is not external".into() });
    }

    #[test]
    fn geneve_is_asked_for_in_the_kernels_attributes() {
        let attribute = geneve(6081);
        let mut bytes = vec![0; attribute.buffer_len()];
        attribute.emit(&mut bytes);
        let want = [
            &[32, 0, 18, 0][..],                                        // IFLA_LINKINFO
            &[0x0b, 0, 1, 0, b'g', b'e', b'n', b'e', b'v', b'e', 0, 0], // IFLA_INFO_KIND
            &[16, 0, 2, 0],                                             // IFLA_INFO_DATA
            &[4, 0, 6, 0],                                              // IFLA_GENEVE_COLLECT_METADATA
            &[6, 0, 5, 0, 0x17, 0xc1, 0, 0],                            // IFLA_GENEVE_PORT
        ];
        assert_eq!(bytes, want.concat());
        assert_eq!(read(&bytes), LinkKind::Geneve { port: 6081 });
    }
}
