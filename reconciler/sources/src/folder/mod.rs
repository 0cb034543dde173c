//! The manifest folder: a scan makes a snapshot of the objects that count.
//!
//! ```text
//! inotify ─▶ Sight: everything, or what was heard of ─▶ stamps ─ other? ─▶ read (cilium-crds, all processors)
//!   ─▶ Settled: first path wins, last good versions ─▶ Snapshot
//!                   └─ LastGood (state_dir/last-good)
//! ```
//! Nothing here decides what an object means. A scan never fails: what cannot be read is reported, and its
//! last good version counts. A scan costs what has changed, or one look at each file if it is to look at
//! everything.

mod lastgood;
mod many;
mod read;
mod settle;
mod sight;
mod sync;
mod walk;
mod watch;

pub use walk::is_ignored;
pub use watch::{Watch, WatchError};

use cilium_crds::lower::{Header, LabelPool};
use cilium_crds::object::Object;
use cilium_engine::map::Map;
use cilium_engine::problem::{Problem, Severity};
use cilium_engine::shared::Shared;
use cilium_engine::state::Origin;
use lastgood::{LastGood, Mode};
use read::ReadFile;
use settle::Settled;
use sight::{Looked, Sight};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use walk::Stamp;

/// How long a folder must be empty before that is believed.
pub const EMPTY_AFTER: Duration = Duration::from_secs(60);
/// How long a file must be without documents before that is believed: editors empty a file before they write.
const EMPTIED_FILE_AFTER: Duration = Duration::from_secs(2);
/// A file that changed less than this ago is probably being written.
const SETTLES_AFTER: Duration = Duration::from_millis(50);
/// A file that is written all the time is read all the same.
const UNSETTLED_AT_MOST: Duration = Duration::from_secs(2);
/// A folder that the kernel does not watch as a whole is looked at after this.
const DEAF_LOOK: Duration = Duration::from_secs(10);
/// Whether last good versions were written is looked at after this.
const WRITTEN_LOOK: Duration = Duration::from_secs(1);

/// Files read before what they say is taken in: labels take memory once for all files only from then on.
const READ_AT_ONCE: usize = 512;

/// The time of a scan.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// A clock that never jumps.
    pub uptime: Duration,
    /// The clock files are dated by.
    pub wall: SystemTime,
}

/// What a scan found.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Objects that count, in the order of kind, namespace, name.
    pub objects: Objects,
    /// What is wrong with files, in order. Problems of objects are theirs.
    pub problems: Arc<[Problem]>,
    /// The folder was there and whole: what is missing may be removed.
    pub synced: bool,
    /// Scan again after this time even if nothing happens.
    pub again: Option<Duration>,
}

/// Objects by who they are. What did not change from one scan to the next is the same in memory.
pub type Objects = Map<Shared<Identity>, Arc<Object>>;

/// What makes it that object. CiliumNode objects are told apart by whether they are published, and claims of
/// identity numbers by who published them: both are meant to stand beside each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    header: (cilium_crds::kind::ObjectKind, cilium_engine::world::ObjectName),
    publisher: Option<String>,
}

impl Identity {
    /// That of the object with this header.
    pub fn of(header: &Header) -> Self {
        use cilium_crds::kind::ObjectKind;
        let publisher = match header.kind {
            ObjectKind::CiliumIdentity => header.published_by.clone(),
            ObjectKind::CiliumNode => header.published_by.as_ref().map(|_| String::new()),
            ObjectKind::Namespace
            | ObjectKind::Node
            | ObjectKind::Pod
            | ObjectKind::Service
            | ObjectKind::EndpointSlice
            | ObjectKind::NetworkPolicy
            | ObjectKind::CiliumNetworkPolicy
            | ObjectKind::CiliumClusterwideNetworkPolicy
            | ObjectKind::CiliumEndpoint => None,
        };
        Self { header: (header.kind, header.name.clone()), publisher }
    }
}

/// The folder, with what was read of it.
#[derive(Debug)]
pub struct ManifestFolder {
    sight: Sight,
    node_name: String,
    store: LastGood,
    settled: Settled,
    labels: LabelPool,
    empty_since: Option<Duration>,
    /// Files that are being written, and since when.
    writing: BTreeMap<Arc<str>, Duration>,
    /// What the last whole look at the folder found.
    last: Option<Snapshot>,
}

impl ManifestFolder {
    /// The folder at `root`, read by the node of this name; last good versions are kept under
    /// `state_dir/last-good`. Nothing of the folder is read yet. For the one writer only.
    pub fn new(root: &Path, node_name: &str, state_dir: &Path) -> Self {
        Self::with(root, node_name, LastGood::load(&state_dir.join("last-good"), Mode::Keep))
    }

    /// As [`Self::new`], for commands that change nothing: the store is read, never written. Without a
    /// `state_dir` there are no last good versions but those seen by this value (for folders that are not the
    /// one the agent reads).
    pub fn to_look(root: &Path, node_name: &str, state_dir: Option<&Path>) -> Self {
        let store = match state_dir {
            Some(dir) => LastGood::load(&dir.join("last-good"), Mode::Look),
            None => LastGood::forgetful(),
        };
        Self::with(root, node_name, store)
    }

    fn with(root: &Path, node_name: &str, store: LastGood) -> Self {
        Self {
            sight: Sight::of(root),
            node_name: node_name.to_owned(),
            store,
            settled: Settled::default(),
            labels: LabelPool::default(),
            empty_since: None,
            writing: BTreeMap::new(),
            last: None,
        }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        self.sight.root()
    }

    /// Has the kernel tell what happens in the folder, from the next scan on: [`Self::scan_heard`] then looks
    /// there only. The watch is for whoever waits for something to happen.
    ///
    /// # Errors
    /// The kernel has no more watches to give; all scans look at everything.
    pub fn watch(&mut self) -> Result<Watch, WatchError> {
        self.sight.watch()
    }

    /// Looks at every file. Those that have not changed are not read again.
    pub fn scan(&mut self, now: Now) -> Snapshot {
        self.look(now, true)
    }

    /// Looks at the files that were heard of since the last scan, and at those it left for later; at every file
    /// if anything may have been missed. What the kernel does not tell (a change by another host of a network
    /// file system, say) is found by the next [`Self::scan`].
    pub fn scan_heard(&mut self, now: Now) -> Snapshot {
        self.look(now, false)
    }

    fn look(&mut self, now: Now, whole: bool) -> Snapshot {
        let mut out = self.snapshot(now, whole);
        if self.store.is_busy() {
            soon(&mut out.again, WRITTEN_LOOK);
        }
        out
    }

    fn snapshot(&mut self, now: Now, whole: bool) -> Snapshot {
        let mended = self.store.begin();
        let mut again = None;
        let place = self.root().display().to_string();
        let everywhere = match self.sight.look(whole) {
            Ok(looked) => {
                let everywhere = matches!(looked, Looked::Everywhere);
                self.read_changed(looked, now, &mut again);
                everywhere
            }
            Err(error) => {
                self.empty_since = None;
                let message = format!("cannot be read: {error}; objects stay as they were");
                let hint = "create the folder, or set `path` in `[source.manifests]`";
                return self.as_it_was(Some(problem(&place, message, hint)), None);
            }
        };
        let Some(found) = self.sight.found() else { return Snapshot::default() };
        let nothing = self.settled.is_empty() && found.complete;
        if nothing && !self.sight.is_marked_empty() {
            let since = *self.empty_since.get_or_insert(now.uptime);
            let left = EMPTY_AFTER.saturating_sub(now.uptime.saturating_sub(since));
            if !left.is_zero() {
                soon(&mut again, left);
                let seconds = left.as_secs().max(1);
                let message = format!("holds no object; believed in {seconds} s, until then all stay");
                let hint = "if this is meant, a file named `.empty` in it says so at once";
                let told = (!self.store.is_empty()).then(|| problem(&place, message, hint));
                return self.as_it_was(told, again);
            }
        } else {
            self.empty_since = None;
        }
        let stays = !everywhere && !mended && !nothing && self.settled.is_settled();
        if let Some(last) = self.last.as_ref().filter(|last| stays && last.synced) {
            return Snapshot { again, ..last.clone() };
        }
        let objects = self.settled.settle(&mut self.store, found);
        let told = self.store.problems().chain(&found.problems).chain(self.settled.problems());
        let mut problems: Vec<Problem> = told.cloned().collect();
        if let Some(why) = &found.deaf {
            soon(&mut again, DEAF_LOOK);
            problems.push(deaf(&place, why));
        }
        problems.sort();
        problems.dedup();
        let out = Snapshot { objects, problems: problems.into(), synced: found.complete, again };
        self.last = Some(out.clone());
        out
    }

    /// While the folder says nothing: the objects of the last look, after a restart their last good versions.
    fn as_it_was(&self, told: Option<Problem>, again: Option<Duration>) -> Snapshot {
        let objects = self.settled.objects().cloned().unwrap_or_else(|| self.store.objects());
        let of_folder = self.sight.found().into_iter().flat_map(|found| &found.problems);
        let problems = self.store.problems().chain(of_folder).cloned().chain(told).collect();
        Snapshot { objects, problems, synced: false, again }
    }

    /// Reads files that changed, and forgets those that are gone.
    fn read_changed(&mut self, looked: Looked, now: Now, again: &mut Option<Duration>) {
        let Some(found) = self.sight.found() else { return };
        let names: Vec<Arc<str>> = match looked {
            Looked::Everywhere => {
                let gone = self.settled.files().filter(|name| !found.files.contains_key(*name));
                found.files.keys().chain(gone).cloned().collect()
            }
            // With them those that were left for later.
            Looked::At(mut names) => {
                names.extend(self.writing.keys().chain(self.settled.emptied()).cloned());
                names.into_iter().collect()
            }
        };
        let mut changed: Vec<(Arc<str>, Stamp)> = Vec::new();
        for name in names {
            let Some(stamp) = found.files.get(&name) else {
                self.writing.remove(&name);
                self.settled.remove(&name, &self.store);
                continue;
            };
            let known = self.settled.file(&name);
            if known.is_some_and(|file| file.stamp == *stamp && file.emptied.is_none()) {
                self.writing.remove(&name);
                continue;
            }
            // The first look takes files as they are: at a start there is nothing better.
            if self.last.is_some()
                && let Some(left) = unsettled(stamp, now)
                && now.uptime.saturating_sub(*self.writing.entry(name.clone()).or_insert(now.uptime))
                    < UNSETTLED_AT_MOST
            {
                soon(again, left);
                continue;
            }
            self.writing.remove(&name);
            changed.push((name, *stamp));
        }
        for some in changed.chunks(READ_AT_ONCE) {
            let fresh = read::read_all(self.sight.root(), &self.node_name, some);
            for ((name, _), fresh) in some.iter().zip(fresh) {
                self.take_in(name, fresh, now, again);
            }
        }
    }

    fn take_in(&mut self, name: &Arc<str>, mut fresh: ReadFile, now: Now, again: &mut Option<Duration>) {
        for object in fresh.members.iter_mut().filter_map(|member| Arc::get_mut(&mut member.object)) {
            self.labels.share(&mut object.facts);
        }
        let known = self.settled.file(name);
        let had =
            known.is_some_and(|file| !file.members.is_empty()) || self.store.of_file(name).next().is_some();
        if fresh.members.is_empty() && !fresh.unsure && had {
            let since = known.and_then(|file| file.emptied).unwrap_or(now.uptime);
            let passed = now.uptime.saturating_sub(since);
            if passed < EMPTIED_FILE_AFTER {
                soon(again, EMPTIED_FILE_AFTER.saturating_sub(passed));
                if known.is_some() {
                    self.settled.set_emptied(name, fresh.stamp, since);
                    return;
                }
                // After a restart: what it held is in the store.
                fresh.emptied = Some(since);
                fresh.unsure = true;
            }
        }
        self.settled.set(name, fresh, &self.store);
    }
}

fn soon(again: &mut Option<Duration>, left: Duration) {
    *again = Some(again.map_or(left, |again| again.min(left)));
}

/// How long until a file that was just written may be taken as whole.
fn unsettled(stamp: &Stamp, now: Now) -> Option<Duration> {
    let age = now.wall.duration_since(stamp.modified).ok()?;
    SETTLES_AFTER.checked_sub(age).filter(|left| !left.is_zero())
}

fn problem(place: &str, message: String, hint: &str) -> Problem {
    Problem {
        severity: Severity::Error,
        origin: Origin { object: "manifests".into(), place: place.to_owned(), rule: String::new() },
        message,
        hint: hint.to_owned(),
    }
}

fn deaf(place: &str, why: &str) -> Problem {
    let message =
        format!("is not watched as a whole: {why}; changes are found every {} s", DEAF_LOOK.as_secs());
    let hint = "raise `fs.inotify.max_user_watches`";
    Problem { severity: Severity::Warning, ..problem(place, message, hint) }
}
