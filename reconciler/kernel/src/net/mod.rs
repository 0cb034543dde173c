//! Interfaces, addresses, routes and sysctls of this host, and the pods' ends in their namespaces.
//!
//! Synchronous netlink on sockets of our own: a pass is one thread's work, and nothing is gained from an
//! async runtime between a request and its answer. Never: a decision, or a value remembered from one pass to
//! the next that a pass would trust ([`Net::place`] is a hint of where to look, checked at each use).
//!
//! What is ours: interfaces by `ownership`, routes by their protocol number, addresses by their interface,
//! sysctls by the list in [`SYSCTLS`].

mod address;
mod delete;
mod driver;
mod error;
mod facts;
mod frame;
mod link;
mod message;
mod netns;
mod ownership;
mod pod;
mod ports;
mod route;
pub mod sockdiag;
mod socket;
mod sys;
mod sysctl;
mod table;
mod up;
pub mod watch;

pub use netns::own_cookie;
pub use sysctl::SYSCTLS;
pub use table::LinkTable;

use crate::Kernel;
use cilium_engine::driver::{Driver, DriverError, Scope, Step};
use cilium_engine::state::{Address, Link, LinkName, LinkUp, PodInterface, Resource, Route, Sysctl};
pub(crate) use driver::program_of_driver;
use message::SeenLink;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkAttribute;
use netns::Places;
use socket::{ENTRIES, Netlink};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Reads and writes the network state of the namespace it was opened in.
pub struct Net {
    netlink: Netlink,
    places: Places,
    sysctls: sysctl::Watched,
    /// Made since [`Net::place`]: of their other ends nothing need be read in the same pass.
    made: BTreeMap<LinkName, SeenLink>,
    /// Held by every thread that deletes an interface.
    deleting: Arc<()>,
}

impl Net {
    /// Opens a netlink socket in the network namespace of the calling thread; changes nothing.
    ///
    /// # Errors
    /// The socket could not be opened.
    pub fn open() -> Result<Self, DriverError> {
        let netlink = Netlink::open().map_err(|error| error.during("open a netlink socket"))?;
        Ok(Self {
            netlink,
            places: Places::default(),
            sysctls: sysctl::Watched::default(),
            made: BTreeMap::new(),
            deleting: Arc::default(),
        })
    }

    /// Says where pods' network namespaces are, by the name of their link on the host. Only a hint where to
    /// look: paths that are gone, or stand for another namespace, do no harm. Call it before observing with
    /// what the endpoint records say, once a pass; replaces what was said before.
    pub fn place(&mut self, places: BTreeMap<LinkName, PathBuf>) {
        self.made.clear();
        self.places.replace(places);
    }

    /// Names and numbers of all interfaces.
    ///
    /// # Errors
    /// The kernel did not answer.
    pub fn links(&mut self) -> Result<LinkTable, DriverError> {
        Ok(LinkTable::of(&self.all_links()?))
    }

    fn all_links(&mut self) -> Result<Vec<SeenLink>, DriverError> {
        let question = RouteNetlinkMessage::GetLink(message::ask_link(Vec::new()));
        let links = self.netlink.dump(&question, ENTRIES).map_err(|error| error.during("read interfaces"))?;
        Ok(links.into_iter().filter_map(message::link).collect())
    }

    fn link_named(&mut self, name: &LinkName) -> Result<Option<SeenLink>, DriverError> {
        let question = message::ask_link(vec![LinkAttribute::IfName(name.0.clone())]);
        let found = self
            .netlink
            .read(RouteNetlinkMessage::GetLink(question))
            .map_err(|error| error.during(format_args!("read interface {name}")))?;
        Ok(found.and_then(message::link))
    }

    /// The interfaces within a scope: point reads for a few, one dump for more.
    fn links_within<K, F>(&mut self, scope: &Scope<K>, name: F) -> Result<Vec<SeenLink>, DriverError>
    where
        F: Fn(&K) -> &LinkName,
    {
        match scope {
            Scope::Keys(keys) if keys.len() <= FEW => {
                let mut links: Vec<SeenLink> = Vec::with_capacity(keys.len());
                for key in keys {
                    let name = name(key);
                    if !links.iter().any(|link| link.name == *name) {
                        links.extend(self.link_named(name)?);
                    }
                }
                Ok(links)
            }
            Scope::Keys(keys) => {
                let mut links = self.all_links()?;
                let names: std::collections::BTreeSet<&LinkName> = keys.iter().map(name).collect();
                links.retain(|link| names.contains(&link.name));
                Ok(links)
            }
            Scope::All => self.all_links(),
        }
    }
}

/// A dump costs about as much as this many point reads.
const FEW: usize = 8;

/// Whether a key is within a scope.
fn within<K: Ord>(scope: &Scope<K>, key: &K) -> bool {
    match scope {
        Scope::All => true,
        Scope::Keys(keys) => keys.contains(key),
    }
}

/// Steps one after the other, for what the kernel does not take in bulk.
fn each<R: Resource>(
    steps: &[Step<R>],
    mut carry_out: impl FnMut(&Step<R>) -> Result<(), DriverError>,
) -> Vec<Result<(), DriverError>> {
    steps.iter().map(&mut carry_out).collect()
}

macro_rules! through_net {
    ($($resource:ident),*) => {$(
        impl Driver<$resource> for Kernel {
            fn observe(
                &mut self,
                scope: &Scope<<$resource as Resource>::Key>,
            ) -> Result<Vec<(<$resource as Resource>::Key, <$resource as Resource>::Row)>, DriverError> {
                Driver::<$resource>::observe(&mut self.net, scope)
            }
            fn apply(&mut self, steps: &[Step<$resource>]) -> Vec<Result<(), DriverError>> {
                Driver::<$resource>::apply(&mut self.net, steps)
            }
        }
    )*};
}
through_net!(Sysctl, Link, PodInterface, Address, Route, LinkUp);
