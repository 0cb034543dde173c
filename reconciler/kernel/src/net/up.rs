//! Administrative state of our interfaces.

#![forbid(unsafe_code)]

use super::error::unless;
use super::message::{Admin, set_admin};
use super::ownership::{is_ours, must_be_ours};
use super::{Net, each, within};
use cilium_engine::driver::{Driver, DriverError, Scope, Step};
use cilium_engine::state::{HOST_LINK, LinkName, LinkUp, NET_LINK, Present};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkFlags;

/// Nobody answers on the router's pair: what the stack sends there is taken by our program at once, so the
/// stack must not wait for a neighbour.
fn is_router(name: &LinkName) -> bool {
    matches!(name.0.as_str(), HOST_LINK | NET_LINK)
}

impl Driver<LinkUp> for Net {
    fn observe(&mut self, scope: &Scope<LinkName>) -> Result<Vec<(LinkName, Present)>, DriverError> {
        let links = self.links_within(scope, |name| name)?;
        let up = links.into_iter().filter(|link| {
            let quiet = link.flags.contains(LinkFlags::Noarp) || !is_router(&link.name);
            is_ours(link) && link.is_up() && quiet && within(scope, &link.name)
        });
        Ok(up.map(|link| (link.name, Present)).collect())
    }

    fn apply(&mut self, steps: &[Step<LinkUp>]) -> Vec<Result<(), DriverError>> {
        each(steps, |step| {
            let (name, admin) = match step {
                Step::Create { key, .. } | Step::Update { key, .. } if is_router(key) => {
                    (key, Admin::UpWithoutNeighbours)
                }
                Step::Create { key, .. } | Step::Update { key, .. } => (key, Admin::Up),
                Step::Remove { key, .. } => (key, Admin::Down),
            };
            let Some(link) = self.link_named(name)? else {
                return match admin {
                    Admin::Up | Admin::UpWithoutNeighbours => {
                        Err(DriverError::new(format!("bring up {name}: there is no such interface")))
                    }
                    Admin::Down => Ok(()),
                };
            };
            must_be_ours(&link)?;
            let result = self.netlink.request(RouteNetlinkMessage::SetLink(set_admin(link.index, admin)), 0);
            let fine: &[i32] = match admin {
                Admin::Up | Admin::UpWithoutNeighbours => &[],
                Admin::Down => &[libc::ENODEV],
            };
            unless(result, fine).map_err(|error| match admin {
                Admin::Up | Admin::UpWithoutNeighbours => error.during(format_args!("bring up {name}")),
                Admin::Down => error.during(format_args!("bring down {name}")),
            })
        })
    }
}
