//! The manifest folder: a scan makes a snapshot of the objects that count.
//!
//! ```text
//! inotify ─▶ Sight: everything, or what was heard of ─▶ stamps ─ other? ─▶ read (cilium-crds, all processors)
//!   ─▶ Settled: first path wins, last good versions ─▶ Snapshot
//!                   └─ LastGood (state_dir/last-good)
//! Cache (state_dir/manifests.cache): what was read, for the next start
//! ```
//! Nothing here decides what an object means. A scan never fails: what cannot be read is reported, and its
//! last good version counts. A scan costs what has changed, or one look at each file if it is to look at
//! everything.

mod cache;
mod lastgood;
mod many;
mod read;
mod settle;
mod sight;
mod sync;
mod walk;
mod watch;

pub use walk::{is_ignored, is_manifest};
pub use watch::{Watch, WatchError};

use cache::{Cached, Keeper};
use cilium_crds::kind::ObjectKind;
use cilium_crds::lower::{Header, LabelPool};
use cilium_crds::object::Object;
use cilium_engine::map::Map;
use cilium_engine::problem::{Problem, Severity};
use cilium_engine::shared::{Shared, Text};
use cilium_engine::state::Origin;
use cilium_engine::world::Name;
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
/// A file that changed less than this ago is probably being written, unless the kernel told that it is whole.
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    kind: ObjectKind,
    name: Name,
    /// Who published it, if that matters.
    publisher: Option<Text>,
}

impl Identity {
    /// That of the object with this header.
    pub fn of(header: &Header) -> Self {
        let publisher = match header.kind {
            ObjectKind::CiliumIdentity => header.published_by.clone(),
            ObjectKind::CiliumNode => header.published_by.as_ref().map(|_| Text::default()),
            ObjectKind::Namespace
            | ObjectKind::Node
            | ObjectKind::Pod
            | ObjectKind::Service
            | ObjectKind::EndpointSlice
            | ObjectKind::NetworkPolicy
            | ObjectKind::CiliumNetworkPolicy
            | ObjectKind::CiliumClusterwideNetworkPolicy
            | ObjectKind::CiliumEndpoint
            | ObjectKind::CiliumCIDRGroup
            | ObjectKind::ClusterNetworkPolicy
            | ObjectKind::AdminNetworkPolicy
            | ObjectKind::BaselineAdminNetworkPolicy => None,
        };
        Self { kind: header.kind, name: header.name.clone(), publisher }
    }

    /// The one that comes before all others.
    fn first() -> Self {
        Self { kind: ObjectKind::ALL[0], name: Name::default(), publisher: None }
    }

    /// Namespace, name, publisher.
    fn parts(&self) -> (&str, &str, Option<&str>) {
        (&self.name.namespace, &self.name.name, self.publisher.as_deref())
    }

    /// As problems name the object.
    fn title(&self) -> String {
        format!("{} {}", self.kind, self.name)
    }
}

/// The folder, with what was read of it.
#[derive(Debug)]
pub struct ManifestFolder {
    sight: Sight,
    node_name: String,
    store: LastGood,
    /// What the cache said, until the first whole look.
    cached: Cached,
    cache: Keeper,
    /// Something may be other than what the cache was last given.
    uncached: bool,
    settled: Settled,
    labels: LabelPool,
    empty_since: Option<Duration>,
    /// Files that are being written, and since when.
    writing: BTreeMap<Text, Duration>,
    /// What the last whole look at the folder found.
    last: Option<Snapshot>,
}

impl ManifestFolder {
    /// The folder at `root`, read by the node of this name; last good versions are kept under
    /// `state_dir/last-good`. Nothing of the folder is read yet. For the one writer only.
    pub fn new(root: &Path, node_name: &str, state_dir: &Path) -> Self {
        Self::with(root, node_name, Some((state_dir, Mode::Keep)))
    }

    /// As [`Self::new`], for commands that change nothing: the store is read, never written. Without a
    /// `state_dir` there are no last good versions but those seen by this value (for folders that are not the
    /// one the agent reads).
    pub fn to_look(root: &Path, node_name: &str, state_dir: Option<&Path>) -> Self {
        Self::with(root, node_name, state_dir.map(|dir| (dir, Mode::Look)))
    }

    fn with(root: &Path, node_name: &str, state: Option<(&Path, Mode)>) -> Self {
        let (mut labels, mut cached) = (LabelPool::default(), Cached::default());
        let (mut store, mut cache) = (LastGood::forgetful(), Keeper::of(None));
        if let Some((dir, mode)) = state {
            let place = cache::Place { path: dir.join("manifests.cache"), node: node_name.to_owned() };
            cached = place.load(&mut labels);
            store = LastGood::load(&dir.join("last-good"), mode, std::mem::take(&mut cached.versions));
            cache = Keeper::of((mode == Mode::Keep).then_some(place));
        }
        Self {
            sight: Sight::of(root),
            node_name: node_name.to_owned(),
            store,
            cached,
            cache,
            uncached: false,
            settled: Settled::default(),
            labels,
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
        } else if self.uncached && out.synced {
            self.uncached = false;
            self.cache.keep(self.settled.files().clone(), self.store.kept());
        }
        out
    }

    fn snapshot(&mut self, now: Now, whole: bool) -> Snapshot {
        let mended = self.store.begin();
        let mut again = None;
        let place = self.root().display().to_string();
        let (files, cached) = (self.settled.files(), &self.cached.files);
        let name = |path: &str| {
            let known = files.get_key_value(path).map(|(path, _)| path);
            known.or_else(|| Some(cached.get_key_value(path)?.0)).cloned()
        };
        let (everywhere, as_cached) = match self.sight.look(whole, &name) {
            Ok(looked) => {
                let everywhere = matches!(looked, Looked::Everywhere);
                let read = self.read_changed(looked, now, &mut again);
                let gone = std::mem::take(&mut self.cached).files.len();
                let as_cached = self.last.is_none() && self.store.was_as_known() && (read, gone) == (0, 0);
                (everywhere, as_cached)
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
        self.uncached |= !as_cached;
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

    /// Reads files that changed, and forgets those that are gone. How many were read.
    fn read_changed(&mut self, looked: Looked, now: Now, again: &mut Option<Duration>) -> usize {
        let everywhere = matches!(looked, Looked::Everywhere);
        let Some(found) = self.sight.found() else { return 0 };
        let names: Vec<Text> = match looked {
            Looked::Everywhere => {
                let gone = self.settled.files().keys().filter(|name| !found.files.contains_key(&***name));
                found.files.keys().chain(gone).cloned().collect()
            }
            // With them those that were left for later.
            Looked::At(mut names) => {
                names.extend(self.writing.keys().chain(self.settled.emptied().keys()).cloned());
                names.into_iter().collect()
            }
        };
        let mut changed: Vec<(Text, Stamp)> = Vec::new();
        let mut as_cached: Vec<(Text, ReadFile)> = Vec::new();
        for name in names {
            let Some(stamp) = self.sight.found().and_then(|found| found.files.get(&*name)) else {
                self.writing.remove(&name);
                self.settled.remove(&name, &self.store);
                continue;
            };
            let known = self.settled.file(&name);
            // What was read early may be another by now, with the same stamp.
            let as_read = |file: &ReadFile| !file.early || everywhere && !stamp.is_proof_at(now.wall);
            let emptied = self.settled.emptied().contains_key(&name);
            if known.is_some_and(|file| file.mark == stamp.mark() && !emptied && as_read(file)) {
                self.writing.remove(&name);
                continue;
            }
            let stamp = *stamp;
            let left = unsettled(&stamp, now).filter(|_| !self.sight.is_whole(&name));
            if left.is_some_and(|left| self.leave(&name, left, now, again)) {
                continue;
            }
            let cached = self.cached.files.remove(&name);
            match cached.filter(|file| file.mark == stamp.mark() && self.is_stored(file)) {
                Some(file) => as_cached.push((name, file)),
                None => changed.push((name, stamp)),
            }
        }
        for (name, file) in as_cached {
            self.writing.remove(&name);
            self.take_in(&name, file, now, again);
        }
        for some in changed.chunks(READ_AT_ONCE) {
            let fresh = read::read_all(self.sight.root(), &self.node_name, some, now.wall);
            let (heard, any) = self.sight.heard_since(some.iter().map(|(name, _)| &**name));
            if any {
                soon(again, SETTLES_AFTER);
            }
            for ((name, stamp), (fresh, steady)) in some.iter().zip(fresh) {
                // Where it was written meanwhile, nobody knows what was read.
                let left = match !steady || heard.contains(&**name) {
                    true => Some(SETTLES_AFTER),
                    false => unsettled(stamp, now).filter(|_| self.says_less(name, &fresh)),
                };
                if left.is_some_and(|left| self.leave(name, left, now, again)) {
                    continue;
                }
                self.writing.remove(name);
                self.take_in(name, fresh, now, again);
            }
        }
        changed.len()
    }

    /// Leaves a file for later. Not the first look: it takes files as they are, since at a start there is nothing
    /// better; and none for ever.
    fn leave(&mut self, name: &Text, left: Duration, now: Now, again: &mut Option<Duration>) -> bool {
        let since = *self.writing.entry(name.clone()).or_insert(now.uptime);
        let leaves = self.last.is_some() && now.uptime.saturating_sub(since) < UNSETTLED_AT_MOST;
        if leaves {
            soon(again, left);
        }
        leaves
    }

    /// Whether something is wrong with the file, or missing that it had: who writes it may go on.
    fn says_less(&self, name: &str, fresh: &ReadFile) -> bool {
        let known = self.settled.file(name).into_iter().flat_map(|file| &file.members);
        let mut lost = known.filter(|had| fresh.members.iter().all(|has| has.identity != had.identity));
        fresh.unsure
            || !fresh.problems.is_empty()
            || fresh.members.iter().any(|member| !member.object.valid)
            || lost.next().is_some()
    }

    /// Whether the last good version of each of its objects is what it says: else its text is needed.
    fn is_stored(&self, file: &ReadFile) -> bool {
        if self.store.was_as_known() && file.stored {
            return true;
        }
        let mut valid = file.members.iter().filter(|member| member.object.valid);
        valid
            .all(|member| self.store.holds(&member.identity, member.digest, &member.object.header.place.file))
    }

    fn take_in(&mut self, name: &Text, mut fresh: ReadFile, now: Now, again: &mut Option<Duration>) {
        let mut emptied = None;
        for member in &mut fresh.members {
            if let Some(object) = Arc::get_mut(&mut member.object) {
                self.labels.share(object);
                // The name may be another in memory now.
                member.identity = Identity::of(&object.header).into();
            }
        }
        let known = self.settled.file(name);
        let had =
            known.is_some_and(|file| !file.members.is_empty()) || self.store.of_file(name).next().is_some();
        if fresh.members.is_empty() && !fresh.unsure && had {
            let since = self.settled.emptied().get(name).copied().unwrap_or(now.uptime);
            let passed = now.uptime.saturating_sub(since);
            if passed < EMPTIED_FILE_AFTER {
                soon(again, EMPTIED_FILE_AFTER.saturating_sub(passed));
                if known.is_some() {
                    self.settled.set_emptied(name, fresh.mark, since);
                    return;
                }
                // After a restart: what it held is in the store.
                emptied = Some(since);
                fresh.unsure = true;
            }
        }
        self.settled.set(name, fresh, emptied, &self.store);
    }
}

fn soon(again: &mut Option<Duration>, left: Duration) {
    *again = Some(again.map_or(left, |again| again.min(left)));
}

/// How long until a file that was just written may be taken as whole.
fn unsettled(stamp: &Stamp, now: Now) -> Option<Duration> {
    let age = now.wall.duration_since(stamp.modified()?).ok()?;
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
