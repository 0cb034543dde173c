//! Network namespaces: where they are, how the kernel numbers them, and work inside one.
//!
//! No socket is kept inside a pod's namespace: it would keep the namespace alive after the pod. Work inside
//! is done by a short thread that enters, opens a socket, and ends.

#![forbid(unsafe_code)]

use super::error::NetlinkError;
use super::socket::Netlink;
use super::sys;
use cilium_engine::state::LinkName;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

/// Where `ip netns` and container runtimes bind namespaces.
const NAMED: &str = "/var/run/netns";
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

/// Carries out work with a socket inside each namespace in turn, on one thread of its own.
pub(super) fn inside<N: Sync, T: Send>(
    namespaces: &[(File, N)],
    work: impl Fn(&mut Netlink, &N) -> Result<T, NetlinkError> + Sync,
) -> Vec<Result<T, NetlinkError>> {
    let visit = |netns: &File, about: &N| {
        sys::enter_netns(netns.as_fd())?;
        work(&mut Netlink::open()?, about)
    };
    let all = || namespaces.iter().map(|(netns, about)| visit(netns, about)).collect::<Vec<_>>();
    let ended = thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, all)?;
        thread.join().map_err(|_| io::Error::other("the thread inside the namespace panicked"))
    });
    ended.unwrap_or_else(|error| {
        let kind = error.kind();
        namespaces
            .iter()
            .map(|_| Err(NetlinkError::Socket(io::Error::new(kind, error.to_string()))))
            .collect()
    })
}
