//! What the host is: devices that carry traffic of the cluster, and the boot.

#![forbid(unsafe_code)]

use super::message::{
    MAIN_TABLE, RouteFilter, SeenLink, address, ask_address, ask_link, ask_route, link, route_outputs,
};
use super::netns::own_cookie;
use super::ownership::is_ours;
use super::socket::ENTRIES;
use super::{FEW, Net};
use cilium_engine::driver::DriverError;
use cilium_engine::state::Mac;
use cilium_engine::world::{HostDevice, HostFacts};
use ipnet::IpNet;
use netlink_packet_route::address::AddressScope;
use netlink_packet_route::link::{LinkFlags, LinkLayerType};
use netlink_packet_route::route::RouteAttribute;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// What the names of the node's own links begin with, those of other versions too.
const OUR_PREFIX: &str = "cilium_";
/// The kernel's name of veth devices.
const VETH: &str = "veth";
/// Changes with every boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

impl Net {
    /// Reads the host's devices in the order of their names, and which network namespace this is. What the BPF
    /// half knows stays empty: `object_digest` and `cgroup`.
    ///
    /// # Errors
    /// The kernel did not answer, or there is no `/proc`.
    pub fn facts(&mut self) -> Result<HostFacts, DriverError> {
        let question = RouteNetlinkMessage::GetAddress(ask_address(0));
        let seen = self.netlink.dump(&question, ENTRIES).map_err(|error| error.during("read addresses"))?;
        let mut addresses: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
        for seen in seen.into_iter().filter_map(address) {
            if seen.scope == AddressScope::Universe && !seen.failed {
                addresses.entry(seen.link).or_default().push(seen.addr);
            }
        }
        let defaults = self.default_outputs()?;
        let mut devices = Vec::new();
        for link in self.links_numbered(addresses.keys().copied().collect())? {
            let ours = link.name.0.starts_with(OUR_PREFIX) || is_ours(&link);
            let Some(addresses) = addresses.remove(&link.index) else { continue };
            if ours || link.flags.contains(LinkFlags::Loopback) {
                continue;
            }
            devices.push(HostDevice {
                name: link.name,
                mac: link.mac.filter(|mac| link.layer == LinkLayerType::Ether && *mac != Mac::default()),
                mtu: link.mtu,
                addresses,
                default_route: defaults.contains(&link.index),
                is_veth: link.kind == VETH,
            });
        }
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        let boot_id = fs::read_to_string(BOOT_ID).map_err(|error| {
            DriverError::new(format!("read {BOOT_ID}: {error}")).hint("is /proc mounted?")
        })?;
        let boot_id = boot_id.trim().to_owned();
        let netns_cookie = own_cookie()?;
        Ok(HostFacts { devices, boot_id, netns_cookie, ..HostFacts::default() })
    }

    /// The interfaces with these numbers, and perhaps others: point reads for a few, since on a node with many
    /// pods most interfaces are theirs.
    fn links_numbered(&mut self, numbers: Vec<u32>) -> Result<Vec<SeenLink>, DriverError> {
        if numbers.len() > FEW {
            return self.all_links();
        }
        let mut links = Vec::with_capacity(numbers.len());
        for index in numbers {
            let mut question = ask_link(Vec::new());
            question.header.index = index;
            let found = self
                .netlink
                .read(RouteNetlinkMessage::GetLink(question))
                .map_err(|error| error.during(format_args!("read interface {index}")))?;
            links.extend(found.and_then(link));
        }
        Ok(links)
    }

    /// Numbers of the interfaces through which default routes of the main table leave.
    fn default_outputs(&mut self) -> Result<BTreeSet<u32>, DriverError> {
        let mut outputs = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let question = RouteNetlinkMessage::GetRoute(ask_route(family, RouteFilter::Main));
            let routes =
                self.netlink.dump(&question, ENTRIES).map_err(|error| error.during("read routes"))?;
            for message in &routes {
                let RouteNetlinkMessage::NewRoute(route) = message else { continue };
                let table = route.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Table(table) => Some(*table),
                    _ => None,
                });
                let main = table.unwrap_or(u32::from(route.header.table)) == MAIN_TABLE;
                if main && route.header.destination_prefix_length == 0 {
                    outputs.extend(route_outputs(message));
                }
            }
        }
        Ok(outputs)
    }
}
