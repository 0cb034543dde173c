//! What the kernel tells of the folder (inotify). Names heard of are only where to look first: a scan reads
//! what is there, and a look at everything, every full read, finds what was not told.
//!
//! Whoever scans listens himself: what was done before a scan is heard by it, without a thread in between.
//!
//! A file that was closed by who wrote it, or moved here, is whole, and is told at once. One that was only begun
//! is told when it is whole, or has been quiet for as long as any other file takes to settle.

use super::SETTLES_AFTER;
use super::walk::{EMPTY_MARK, is_ignored, is_manifest};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::mem::{MaybeUninit, take};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Why the folder is not watched.
#[derive(Debug, thiserror::Error)]
#[error(
    "folder {path} is not watched, only read every now and then: {source} (see `fs.inotify.max_user_instances`)"
)]
pub struct WatchError {
    path: PathBuf,
    source: io::Error,
}

/// Names that are remembered; where more were heard of, everything is looked at.
const MOST_NAMES: usize = 4096;
/// How often is looked for the end of a write that has begun.
const WRITING_LOOK: Duration = Duration::from_millis(1);
/// Events taken in one go before everything is to be looked at.
const MOST_EVENTS: usize = 1 << 16;

/// A watch on the folder and all below it, shared by those who scan and those who wait.
#[derive(Clone, Debug)]
pub struct Watch(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    fd: OwnedFd,
    ears: Mutex<Ears>,
}

#[derive(Debug, Default)]
struct Ears {
    /// Paths of watched folders by watch, relative to the root, empty or ending in `/`.
    folders: HashMap<i32, String>,
    /// Device and inode of the root as it was last scanned.
    root: Option<(u64, u64)>,
    heard: Heard,
    /// Since when something was heard that nobody was told of.
    since: Option<Instant>,
    /// Whoever waits was told of what was heard.
    told: bool,
}

/// What was heard of a file last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// It was begun or changed, and is perhaps still being written.
    Writing,
    /// Who wrote it closed it, or it was moved here.
    Whole,
    /// Something else: it went, or its owner is another.
    Other,
}

/// What was heard since the last scan.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Anything may have changed.
    pub(super) all: bool,
    /// Paths relative to the folder.
    pub(super) names: BTreeMap<String, Word>,
}

impl Watch {
    /// A watch of nothing yet: the scans of the folder say what there is to be watched.
    ///
    /// # Errors
    /// The kernel has no more to give.
    pub(super) fn open(root: &Path) -> Result<Self, WatchError> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .map_err(|error| WatchError { path: root.to_owned(), source: error.into() })?;
        Ok(Self(Arc::new(Shared { root: root.to_owned(), fd, ears: Mutex::default() })))
    }

    /// Waits for this long at most. Whether something has happened that no scan has looked at and that was
    /// not told before; that the folder was replaced is noticed when the time is over.
    pub fn wait(&self, at_most: Duration) -> bool {
        let end = Instant::now() + at_most;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let ripens = self.lock().ripens();
            let mut fds = [PollFd::new(&self.0.fd, PollFlags::IN)];
            let timeout = ripens.unwrap_or(left).min(left).try_into().ok();
            let polled = poll(&mut fds, timeout.as_ref());
            let mut ears = self.lock();
            let listened = ears.listen(&self.0.fd);
            if polled != Ok(1) {
                let now = std::fs::metadata(&self.0.root).ok().map(|m| (m.dev(), m.ino()));
                ears.heard.all |= now != ears.root;
            }
            let news = !ears.told && ears.heard.is_something() && ears.ripens().is_none();
            ears.told |= news;
            let begun = !ears.told && ears.heard.is_something();
            drop(ears);
            if listened.is_err() || polled.is_err_and(|error| error != Errno::INTR) {
                // Would be back at once.
                std::thread::sleep(at_most);
            }
            if news || !begun || Instant::now() >= end {
                return news;
            }
            std::thread::sleep(WRITING_LOOK);
        }
    }

    /// What was heard since this was last asked, up to now.
    pub(super) fn take(&self) -> Heard {
        let mut ears = self.lock();
        // A watch that is broken says so by `all`.
        let _ = ears.listen(&self.0.fd);
        ears.told = false;
        ears.since = None;
        take(&mut ears.heard)
    }

    /// Of these files those of which something was heard since [`Self::take`], as far as can be told; and whether
    /// anything was: whoever waits may not be told of it.
    pub(super) fn heard_since<'n>(&self, names: impl Iterator<Item = &'n str>) -> (HashSet<&'n str>, bool) {
        let mut ears = self.lock();
        // A watch that is broken says so by `all`.
        let _ = ears.listen(&self.0.fd);
        let heard = &ears.heard;
        (names.filter(|name| heard.all || heard.names.contains_key(*name)).collect(), heard.is_something())
    }

    /// Watches a folder too; to be called before it is listed. Its path relative to the root is the prefix of
    /// the names heard.
    ///
    /// # Errors
    /// It is gone, or the kernel watches no more.
    pub(super) fn follow(&self, path: &Path, prefix: &str) -> io::Result<i32> {
        let flags = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::MOVE
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let mut ears = self.lock();
        let watch = inotify::add_watch(&self.0.fd, path, flags)?;
        ears.folders.insert(watch, prefix.to_owned());
        Ok(watch)
    }

    /// A scan is over: the folder is that of this device and inode, and nothing but these is to be watched.
    pub(super) fn keep(&self, watches: &HashSet<i32>, root: (u64, u64)) {
        let mut ears = self.lock();
        ears.root = Some(root);
        ears.folders.retain(|watch, _| {
            let keep = watches.contains(watch);
            if !keep {
                // Gone with its folder already, most often.
                let _ = inotify::remove_watch(&self.0.fd, *watch);
            }
            keep
        });
    }

    /// There is no folder to be watched.
    pub(super) fn lost(&self) {
        self.lock().root = None;
    }

    fn lock(&self) -> MutexGuard<'_, Ears> {
        self.0.ears.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    fn is_something(&self) -> bool {
        self.all || !self.names.is_empty()
    }
}

impl Ears {
    /// How long until that is told which was heard and is perhaps still being written. None: it may be told now.
    fn ripens(&self) -> Option<Duration> {
        let writing = |word: &Word| *word == Word::Writing;
        if self.told || self.heard.all || !self.heard.names.values().all(writing) {
            return None;
        }
        SETTLES_AFTER.checked_sub(self.since?.elapsed()).filter(|left| !left.is_zero())
    }

    fn listen(&mut self, fd: &OwnedFd) -> Result<(), Errno> {
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut reader = Reader::new(fd, &mut buffer);
        let mut events = 0;
        // An event that was read and not looked at would be lost.
        while events < MOST_EVENTS || !reader.is_buffer_empty() {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_str().ok());
                    self.hear(event.wd(), event.events(), name);
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => {
                    self.heard.all = true;
                    return Err(error);
                }
            }
            events += 1;
        }
        self.heard.all = true;
        Ok(())
    }

    /// `name`: none if it is about the folder itself; within, none if it is no UTF-8.
    fn hear(&mut self, watch: i32, events: ReadFlags, name: Option<Option<&str>>) {
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.heard.all = true;
            return;
        }
        let Some(prefix) = self.folders.get(&watch) else { return };
        self.since.get_or_insert_with(Instant::now);
        let Some(Some(name)) = name else {
            self.heard.all = true;
            if events.contains(ReadFlags::IGNORED) {
                self.folders.remove(&watch);
            }
            return;
        };
        // `..data` is what Kubernetes renames when a mounted ConfigMap changes.
        if is_ignored(name) && name != EMPTY_MARK && !name.starts_with("..data") {
            return;
        }
        // Of what is no manifest matters only whether it is a link to something.
        let moved = ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO;
        let placed = ReadFlags::CREATE | ReadFlags::DELETE | ReadFlags::ISDIR | moved;
        if !is_manifest(name) && !events.intersects(placed) {
            return;
        }
        if events.contains(ReadFlags::ISDIR) || self.heard.names.len() >= MOST_NAMES {
            self.heard.all = true;
        } else if !self.heard.all {
            let word = self.heard.names.entry(format!("{prefix}{name}")).or_insert(Word::Other);
            if events.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO) {
                *word = Word::Whole;
            } else if events.intersects(ReadFlags::CREATE | ReadFlags::MODIFY) {
                *word = Word::Writing;
            } else if events.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
                *word = Word::Other;
            }
        }
    }
}
