//! The manifest folder: a scan makes a snapshot of the objects that count.
//!
//! ```text
//! files ─ walk ─▶ stamps ─ changed? ─▶ read (cilium-crds) ─▶ Settle: first path wins, last good versions ─▶ Snapshot
//!                                                                 └─ LastGood (state_dir/last-good)
//! ```
//! Nothing here decides what an object means. A scan never fails: what cannot be read is reported, and its
//! last good version counts.

mod lastgood;
mod settle;
mod sync;
mod walk;
mod watch;

pub use walk::is_ignored;
pub use watch::{Watch, WatchError};

use cilium_crds::lower::{Header, LabelPool};
use cilium_crds::object::{Object, Reading};
use cilium_engine::problem::{Problem, Severity};
use cilium_engine::state::Origin;
use lastgood::{Digest, LastGood, Mode};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use walk::{Found, Stamp};

/// How long a folder must be empty before that is believed.
pub const EMPTY_AFTER: Duration = Duration::from_secs(60);
/// How long a file must be without documents before that is believed: editors empty a file before they write.
const EMPTIED_FILE_AFTER: Duration = Duration::from_secs(2);
/// A file that changed less than this ago is probably being written.
const SETTLES_AFTER: Duration = Duration::from_millis(50);
/// A file that is written all the time is read all the same.
const UNSETTLED_AT_MOST: Duration = Duration::from_secs(2);

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
    /// Objects that count, at most one of each identity, in the order of kind, namespace, name.
    pub objects: Arc<[Arc<Object>]>,
    /// What is wrong with files. Problems of objects are theirs.
    pub problems: Vec<Problem>,
    /// The folder was there and whole: what is missing may be removed.
    pub synced: bool,
    /// Scan again after this time even if nothing happens.
    pub again: Option<Duration>,
}

/// What makes it that object. CiliumNode objects are told apart by whether they are published, and claims of
/// identity numbers by who published them: both are meant to stand beside each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    header: (cilium_crds::kind::ObjectKind, cilium_engine::world::ObjectName),
    publisher: Option<String>,
}

impl Identity {
    fn of(header: &Header) -> Self {
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

/// An object of a file.
#[derive(Clone, Debug)]
struct Member {
    identity: Identity,
    object: Arc<Object>,
    digest: Digest,
    /// Its document, until the last good version was written.
    document: Option<String>,
}

/// A file as it was last read.
#[derive(Clone, Debug, Default)]
struct CachedFile {
    stamp: Stamp,
    members: Vec<Member>,
    /// Some of it could not be read, or not be told apart: any object of the file may be meant.
    unsure: bool,
    problems: Vec<Problem>,
    /// Since when it has no documents any more.
    emptied: Option<Duration>,
}

/// The folder, with what was read of it.
#[derive(Debug)]
pub struct ManifestFolder {
    root: PathBuf,
    node_name: String,
    store: LastGood,
    files: BTreeMap<String, CachedFile>,
    labels: LabelPool,
    empty_since: Option<Duration>,
    /// Files that are being written, and since when.
    writing: BTreeMap<String, Duration>,
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
            root: root.to_owned(),
            node_name: node_name.to_owned(),
            store,
            files: BTreeMap::new(),
            labels: LabelPool::default(),
            empty_since: None,
            writing: BTreeMap::new(),
            last: None,
        }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Looks at the folder. Files that have not changed are not read again.
    pub fn scan(&mut self, now: Now) -> Snapshot {
        let mended = self.store.retry();
        let mut out = Snapshot { problems: self.store.problems(), ..Snapshot::default() };
        let found = match walk::walk(&self.root) {
            Ok(found) => found,
            Err(error) => {
                let message = format!("cannot be read: {error}; objects stay as they were");
                let hint = "create the folder, or set `path` in `[source.manifests]`";
                out.problems.push(problem(&self.root.display().to_string(), message, hint));
                self.empty_since = None;
                out.objects = self.as_it_was();
                return out;
            }
        };
        let changed = self.read_changed(&found, now, &mut out) || mended;
        out.problems.extend(found.problems.iter().cloned());
        let read: usize = self.files.values().map(|f| f.members.len()).sum();
        let nothing = read == 0 && found.complete && !self.files.values().any(|f| f.unsure);
        if nothing && !found.marked_empty {
            let since = *self.empty_since.get_or_insert(now.uptime);
            let left = EMPTY_AFTER.saturating_sub(now.uptime.saturating_sub(since));
            if !left.is_zero() {
                if !self.store.is_empty() {
                    let message = format!(
                        "holds no object; believed in {} s, until then all stay",
                        left.as_secs().max(1)
                    );
                    let hint = "if this is meant, a file named `.empty` in it says so at once";
                    out.problems.push(problem(&self.root.display().to_string(), message, hint));
                }
                out.again = Some(left.min(out.again.unwrap_or(left)));
                out.objects = self.as_it_was();
                return out;
            }
        } else {
            self.empty_since = None;
        }
        if let Some(last) =
            self.last.as_ref().filter(|last| !changed && !nothing && found.complete && last.synced)
        {
            return Snapshot { again: out.again, ..last.clone() };
        }
        settle::settle(&mut self.files, &mut self.store, &found, &mut out);
        out.problems.extend(self.store.problems());
        out.problems.sort();
        out.problems.dedup();
        out.synced = found.complete;
        self.last = Some(out.clone());
        out
    }

    /// Objects while the folder says nothing: those of the last look, after a restart their last good versions.
    fn as_it_was(&self) -> Arc<[Arc<Object>]> {
        self.last.as_ref().map_or_else(|| self.store.objects().into(), |last| last.objects.clone())
    }

    /// Reads files that changed, and forgets those that are gone. Whether there were any.
    fn read_changed(&mut self, found: &Found, now: Now, out: &mut Snapshot) -> bool {
        let before = self.files.len();
        self.files.retain(|name, _| found.files.contains_key(name));
        let mut changed = self.files.len() != before;
        let mut held: Option<BTreeSet<String>> = None;
        self.writing.retain(|name, _| found.files.contains_key(name));
        for (name, stamp) in &found.files {
            let known = self.files.get(name);
            if known.is_some_and(|file| file.stamp == *stamp && file.emptied.is_none()) {
                self.writing.remove(name);
                continue;
            }
            changed = true;
            let held =
                held.get_or_insert_with(|| self.store.iter().map(|(_, kept)| kept.file.clone()).collect());
            let had = known.is_some_and(|f| !f.members.is_empty()) || held.contains(name);
            // The first look takes files as they are: at a start there is nothing better.
            if self.last.is_some()
                && let Some(left) = unsettled(stamp, now)
                && now.uptime.saturating_sub(*self.writing.entry(name.clone()).or_insert(now.uptime))
                    < UNSETTLED_AT_MOST
            {
                soon(out, left);
                continue;
            }
            self.writing.remove(name);
            let mut fresh = self.read_file(name, *stamp);
            let known = self.files.get_mut(name);
            if fresh.members.is_empty() && !fresh.unsure && had {
                let since = known.as_ref().and_then(|f| f.emptied).unwrap_or(now.uptime);
                let passed = now.uptime.saturating_sub(since);
                if passed < EMPTIED_FILE_AFTER {
                    soon(out, EMPTIED_FILE_AFTER.saturating_sub(passed));
                    match known {
                        Some(file) => {
                            file.emptied = Some(since);
                            file.stamp = *stamp;
                        }
                        None => {
                            // After a restart: what it held is in the store.
                            fresh.emptied = Some(since);
                            fresh.unsure = true;
                            self.files.insert(name.clone(), fresh);
                        }
                    }
                    continue;
                }
            }
            self.files.insert(name.clone(), fresh);
        }
        changed
    }

    fn read_file(&mut self, name: &str, stamp: Stamp) -> CachedFile {
        let mut out = CachedFile { stamp, ..CachedFile::default() };
        let bytes = match walk::read(&self.root.join(name)) {
            Ok(bytes) => bytes,
            Err(error) => {
                out.unsure = true;
                out.problems.push(problem(
                    name,
                    format!("cannot be read: {error}"),
                    "its objects stay as they were",
                ));
                return out;
            }
        };
        let file = cilium_crds::read_file(&bytes, name);
        if let Some(problem) = file.broken {
            out.unsure = true;
            out.problems.push(problem);
        }
        for reading in file.readings {
            match reading {
                // What this node wrote itself tells it nothing.
                Reading::Object(object, _)
                    if object.header.published_by.as_deref() == Some(&self.node_name) => {}
                Reading::Object(mut object, document) => {
                    self.labels.share(&mut object.facts);
                    let text = document.json().to_string();
                    out.members.push(Member {
                        identity: Identity::of(&object.header),
                        digest: Digest::of(&text),
                        document: object.valid.then_some(text),
                        object: Arc::new(*object),
                    });
                }
                Reading::Nameless(problem) => {
                    out.unsure = true;
                    out.problems.push(problem);
                }
                Reading::Other(problem) => out.problems.extend(problem),
            }
        }
        out
    }
}

fn soon(out: &mut Snapshot, left: Duration) {
    out.again = Some(out.again.map_or(left, |again| again.min(left)));
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
