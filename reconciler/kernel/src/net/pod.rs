//! The pod's end of a pair: found wherever it is, moved into its namespace, named, addressed, routed, up.
//!
//! It is found from the host's end, which tells the number of its other end and of the namespace that is in.
//! An interface that is down, or beside a loopback that is down, has no gateways in the row that is returned.

#![forbid(unsafe_code)]

mod inside;

use super::message::{SeenLink, change_link};
use super::netns::{inside, number, open, search};
use super::ownership::{NameOf, is_ours, must_be_ours, name_of, temporary_name};
use super::{Net, each, within};
use cilium_engine::driver::{Driver, DriverError, Scope, Step};
use cilium_engine::state::{LinkName, PodInterface, PodInterfaceRow};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkAttribute;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

/// Namespaces open at once.
const AT_ONCE: usize = 128;

/// A pod's end, from the host.
struct PodEnd {
    link: LinkName,
    index: u32,
    netns: PathBuf,
}

impl Driver<PodInterface> for Net {
    /// A pod whose namespace has no path any more, or that cannot be read, has no row: one pod must not
    /// stand in the way of the others.
    fn observe(&mut self, scope: &Scope<LinkName>) -> Result<Vec<(LinkName, PodInterfaceRow)>, DriverError> {
        let mut links = self.links_within(scope, |name| name)?;
        links.retain(|link| name_of(&link.name) == NameOf::Pod && is_ours(link) && within(scope, &link.name));
        let mut rows = Vec::with_capacity(links.len());
        for links in links.chunks(AT_ONCE) {
            let ends = self.ends(links)?;
            let seen = inside(&ends, |netlink, end| inside::read(netlink, end.index));
            for ((_, end), seen) in ends.into_iter().zip(seen) {
                match seen {
                    Ok(Some(row)) => rows.push((end.link, PodInterfaceRow { netns: end.netns, ..row })),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(link = %end.link, netns = %end.netns.display(), %error, "pod not read");
                    }
                }
            }
        }
        Ok(rows)
    }

    fn apply(&mut self, steps: &[Step<PodInterface>]) -> Vec<Result<(), DriverError>> {
        each(steps, |step| match step {
            Step::Create { key, row } | Step::Update { key, row, .. } => self.ensure_pod(key, row),
            Step::Remove { key, .. } => self.remove_pod(key),
        })
    }
}

impl Net {
    /// Where the other ends of these links are: by what was said ([`Net::place`]), else by a search.
    fn ends(&mut self, links: &[SeenLink]) -> Result<Vec<(File, PodEnd)>, DriverError> {
        let mut ends = Vec::with_capacity(links.len());
        let mut lost = Vec::new();
        for link in links {
            let (Some(index), Some(id)) = (link.peer, link.peer_netns) else { continue };
            let known =
                self.places.path(&link.name).and_then(|path| Some((open(path).ok()?, path.to_owned())));
            match known {
                Some((netns, path)) if self.number(&netns)? == Some(id) => {
                    ends.push((netns, PodEnd { link: link.name.clone(), index, netns: path }));
                }
                _ => lost.push((link, index, id)),
            }
        }
        if lost.is_empty() {
            return Ok(ends);
        }
        let missing: BTreeSet<i32> = lost.iter().map(|(_, _, id)| *id).collect();
        let found = search(&mut self.netlink, missing);
        for (link, index, id) in lost {
            let Some(path) = found.get(&id) else { continue };
            if let Ok(netns) = open(path) {
                ends.push((netns, PodEnd { link: link.name.clone(), index, netns: path.clone() }));
            }
        }
        Ok(ends)
    }

    fn number(&mut self, netns: &File) -> Result<Option<i32>, DriverError> {
        match number(&mut self.netlink, netns) {
            Ok(number) => Ok(number),
            // A file that is no namespace.
            Err(error) if error.errno() == Some(libc::EINVAL) => Ok(None),
            Err(error) => Err(error.during("read the number of a network namespace")),
        }
    }

    fn ensure_pod(&mut self, name: &LinkName, want: &PodInterfaceRow) -> Result<(), DriverError> {
        let what = format!("set up {} behind {name}", want.ifname);
        let netns = open(&want.netns).map_err(|error| {
            DriverError::new(format!("{what}: open network namespace {}: {error}", want.netns.display()))
                .hint("the pod is gone, or its sandbox was made anew: delete and add the attachment by CNI")
        })?;
        self.places.note(name, &want.netns);
        let made = self.made.remove(name).filter(|link| link.peer_netns.is_some());
        let temporary = made.as_ref().map(|_| LinkName(temporary_name(name)));
        let mut link = match made {
            Some(link) => link,
            None => self.pod_link(name, &what)?,
        };
        if link.peer_netns.is_none() {
            self.move_end(&link, want, &netns, &what)?;
            link = self.pod_link(name, &what)?;
        }
        let Some(index) = link.peer else {
            return Err(DriverError::new(format!("{what}: {name} has no other end")));
        };
        let target = self.number(&netns)?;
        if link.peer_netns.is_none() || link.peer_netns != target {
            // Nothing can be done to the other end from here, and a pair cannot be divided.
            self.delete_link(&link)?;
            return Err(DriverError::new(format!(
                "{what}: its other end was in another network namespace than {}: the pair was deleted, to be made anew",
                want.netns.display()
            )));
        }
        let mut results = inside(&[(netns, index)], |netlink, index| {
            inside::configure(netlink, *index, temporary.as_ref(), want)
        });
        match results.pop() {
            Some(Ok(result)) => {
                result.map_err(|error| DriverError { message: format!("{what}: {}", error.message), ..error })
            }
            Some(Err(error)) => Err(error.during(what)),
            None => Err(DriverError::new(format!("{what}: no outcome"))),
        }
    }

    fn pod_link(&mut self, name: &LinkName, what: &str) -> Result<SeenLink, DriverError> {
        let link = self
            .link_named(name)?
            .ok_or_else(|| DriverError::new(format!("{what}: there is no interface {name} on the host")))?;
        must_be_ours(&link)?;
        Ok(link)
    }

    /// From the host's namespace into the pod's, under its name there.
    fn move_end(
        &mut self,
        link: &SeenLink,
        want: &PodInterfaceRow,
        netns: &File,
        what: &str,
    ) -> Result<(), DriverError> {
        let Some(index) = link.peer else {
            return Err(DriverError::new(format!("{what}: {} is not a veth", link.name)));
        };
        let changes =
            vec![LinkAttribute::NetNsFd(netns.as_raw_fd()), LinkAttribute::IfName(want.ifname.0.clone())];
        let result = self.netlink.request(RouteNetlinkMessage::SetLink(change_link(index, changes)), 0);
        result.map_err(|error| match error.errno() {
            Some(libc::EEXIST) => error
                .during(format_args!("{what}: move into the pod"))
                .hint(format!("the pod already has an interface {}", want.ifname)),
            _ => error.during(format_args!("{what}: move into the pod")),
        })
    }

    /// A pair cannot be divided: the pod's end goes with the host's.
    fn remove_pod(&mut self, name: &LinkName) -> Result<(), DriverError> {
        let Some(link) = self.link_named(name)? else { return Ok(()) };
        must_be_ours(&link)?;
        if link.peer_netns.is_none() { Ok(()) } else { self.delete_link(&link) }
    }
}
