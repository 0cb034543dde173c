//! Addresses on the node's own links. On those every address is ours, but the link-local one that the
//! kernel gives each interface.

#![forbid(unsafe_code)]

use super::error::{NetlinkError, unless};
use super::message::{address, address_message, ask_address};
use super::ownership::{NameOf, is_ours, name_of};
use super::socket::{ENTRIES, Request};
use super::{LinkTable, Net, within};
use cilium_engine::driver::{Driver, DriverError, Scope, Step};
use cilium_engine::state::{Address, AddressKey, Present};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressScope;

impl Driver<Address> for Net {
    fn observe(&mut self, scope: &Scope<AddressKey>) -> Result<Vec<(AddressKey, Present)>, DriverError> {
        let mut links = self.links_within(scope, |key| &key.link)?;
        links.retain(|link| name_of(&link.name) == NameOf::Node && is_ours(link));
        let mut rows = Vec::new();
        for link in links {
            let question = RouteNetlinkMessage::GetAddress(ask_address(link.index));
            let seen = match self.netlink.dump(&question, ENTRIES) {
                Ok(seen) => seen,
                // Gone since.
                Err(error) if error.errno() == Some(libc::ENODEV) => continue,
                Err(error) => return Err(error.during(format_args!("read addresses of {}", link.name))),
            };
            for seen in seen.into_iter().filter_map(address) {
                let key = AddressKey { link: link.name.clone(), addr: seen.addr };
                let kernels = matches!(seen.addr, IpNet::V6(_)) && seen.scope == AddressScope::Link;
                if seen.link == link.index && !seen.failed && !kernels && within(scope, &key) {
                    rows.push((key, Present));
                }
            }
        }
        Ok(rows)
    }

    fn apply(&mut self, steps: &[Step<Address>]) -> Vec<Result<(), DriverError>> {
        let links = match self.all_links() {
            Ok(mut links) => {
                links.retain(|link| name_of(&link.name) == NameOf::Node && is_ours(link));
                LinkTable::of(&links)
            }
            Err(error) => return steps.iter().map(|_| Err(error.clone())).collect(),
        };
        let requests = steps.iter().filter_map(|step| request(step, &links)).collect();
        let mut results = self.netlink.requests(requests).into_iter();
        steps.iter().map(|step| outcome(step, &links, &mut results)).collect()
    }
}

/// The request a step needs; `None`: there is no such interface of ours.
fn request(step: &Step<Address>, links: &LinkTable) -> Option<Request> {
    let key = step.key();
    let message = address_message(links.index(&key.link)?, key.addr);
    Some(match step {
        Step::Create { .. } | Step::Update { .. } => {
            (RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
        }
        Step::Remove { .. } => (RouteNetlinkMessage::DelAddress(message), 0),
    })
}

fn outcome(
    step: &Step<Address>,
    links: &LinkTable,
    results: &mut impl Iterator<Item = Result<(), NetlinkError>>,
) -> Result<(), DriverError> {
    let key = step.key();
    let known = links.index(&key.link).is_some();
    let mut result = || results.next().unwrap_or(Err(NetlinkError::Malformed));
    match step {
        Step::Create { .. } | Step::Update { .. } if known => {
            unless(result(), &[libc::EEXIST]).map_err(|error| error.during(format_args!("add address {key}")))
        }
        Step::Create { .. } | Step::Update { .. } => {
            Err(DriverError::new(format!("add address {key}: there is no such interface of ours")))
        }
        Step::Remove { .. } if known => unless(result(), &[libc::EADDRNOTAVAIL, libc::ENODEV])
            .map_err(|error| error.during(format_args!("remove address {key}"))),
        Step::Remove { .. } => Ok(()),
    }
}
