//! Network namespaces: where they are, how the kernel numbers them, and work inside one.
//!
//! No socket is kept inside a pod's namespace: it would keep the namespace alive after the pod. Work inside
//! opens one and closes it: some tens of microseconds.

#![forbid(unsafe_code)]

use super::error::NetlinkError;
use super::socket::Netlink;
use super::sys;
use cilium_engine::driver::DriverError;
use cilium_engine::state::LinkName;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Where `ip netns` and container runtimes bind namespaces.
const NAMED: &str = "/var/run/netns";
/// The namespace of the calling thread.
const OWN: &str = "/proc/thread-self/ns/net";
/// Entries of a folder looked at.
const LOOKED_AT: usize = 1 << 16;

/// Where pods' namespaces may be. Hints only.
#[derive(Debug, Default)]
pub(super) struct Places {
    known: BTreeMap<LinkName, PathBuf>,
}

impl Places {
    pub(super) fn replace(&mut self, places: BTreeMap<LinkName, PathBuf>) {
        self.known = places;
    }

    pub(super) fn note(&mut self, link: &LinkName, path: &Path) {
        if self.known.get(link).is_none_or(|known| known != path) {
            self.known.insert(link.clone(), path.to_owned());
        }
    }

    /// The namespace where the other end of this link belongs, if its path is known and exists.
    pub(super) fn open(&self, link: &LinkName) -> Option<File> {
        open(self.known.get(link)?).ok()
    }

    pub(super) fn path(&self, link: &LinkName) -> Option<&Path> {
        self.known.get(link).map(PathBuf::as_path)
    }
}

/// Opens a namespace. Never waits, whatever is there.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)
}

/// The number by which the socket's namespace knows another one, if it has given it one.
pub(super) fn number(netlink: &mut Netlink, netns: &File) -> Result<Option<i32>, NetlinkError> {
    let Ok(fd) = u32::try_from(netns.as_raw_fd()) else { return Ok(None) };
    let mut question = NsidMessage::default();
    question.attributes = vec![NsidAttribute::Fd(fd)];
    let answer = netlink.read(RouteNetlinkMessage::GetNsId(question))?;
    let Some(RouteNetlinkMessage::NewNsId(answer)) = answer else { return Ok(None) };
    Ok(answer.attributes.iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(id) if *id >= 0 => Some(*id),
        _ => None,
    }))
}

/// Paths of namespaces by their numbers, for links of which no path is known. Looks where namespaces are
/// bound, then at the processes.
pub(super) fn search(netlink: &mut Netlink, mut missing: BTreeSet<i32>) -> BTreeMap<i32, PathBuf> {
    let mut found = BTreeMap::new();
    let mut looked_at = BTreeSet::new();
    let named = entries(Path::new(NAMED));
    let processes = entries(Path::new("/proc")).filter(|path| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()))
    });
    for path in named.chain(processes.map(|path| path.join("ns/net"))) {
        if missing.is_empty() {
            break;
        }
        let Ok(meta) = fs::metadata(&path) else { continue };
        if !looked_at.insert((meta.dev(), meta.ino())) {
            continue;
        }
        let Ok(netns) = open(&path) else { continue };
        // Not a namespace at all, or gone in between: not the one looked for.
        if let Ok(Some(number)) = number(netlink, &netns)
            && missing.remove(&number)
        {
            found.insert(number, path);
        }
    }
    found
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(Result::ok).map(|entry| entry.path()).take(LOOKED_AT)
}

/// Carries out work with a socket inside each namespace in turn. The calling thread enters and comes back:
/// a thread of its own would cost two switches, some milliseconds each on a busy machine, per pod attached.
pub(super) fn inside<N, T>(
    namespaces: &[(File, N)],
    mut work: impl FnMut(&mut Netlink, &N) -> Result<T, NetlinkError>,
) -> Vec<Result<T, NetlinkError>> {
    let visit = |(netns, about): &(File, N)| {
        let _inside = Inside::enter(netns)?;
        work(&mut Netlink::open()?, about)
    };
    namespaces.iter().map(visit).collect()
}

/// The cookie by which BPF programs know the network namespace of the calling thread.
///
/// # Errors
/// The kernel does not tell it (before Linux 5.14).
pub fn own_cookie() -> Result<u64, DriverError> {
    let ask = || {
        let socket = Socket::new(NETLINK_ROUTE)?;
        sys::netns_cookie(socket.as_fd())
    };
    ask().map_err(|error| {
        DriverError::new(format!("read the cookie of this network namespace: {error}"))
            .hint("Linux 5.14 or later tells it")
    })
}

/// While it lives, the calling thread is in another namespace; also a panic brings it back.
pub(super) struct Inside {
    home: File,
}

impl Inside {
    pub(super) fn enter(netns: &File) -> io::Result<Self> {
        let home = open(Path::new(OWN))?;
        sys::enter_netns(netns.as_fd())?;
        Ok(Self { home })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Err(error) = sys::enter_netns(self.home.as_fd()) {
            // Going on would write the host's state into a pod.
            tracing::error!(%error, "cannot come back from a pod's network namespace");
            std::process::abort();
        }
    }
}
