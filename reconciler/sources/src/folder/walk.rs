//! Which files of the folder count, and reading one. Follows symbolic links (Kubernetes mounts ConfigMaps so),
//! never into a loop.

use super::{Watch, problem};
use cilium_crds::yaml::MAX_BYTES;
use cilium_engine::map::Map;
use cilium_engine::problem::Problem;
use cilium_engine::shared::Text;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::Metadata;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Deepest folder.
const MAX_DEPTH: usize = 32;
/// Most files.
pub(super) const MAX_FILES: usize = 200_000;
/// Name of the file that says: the folder is meant to be empty.
pub(super) const EMPTY_MARK: &str = ".empty";

/// What tells whether a file changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// Digest of both times, size, inode and device.
    mark: u64,
    /// Nanoseconds since 1970, as the other time; the greatest and the least stand for all beyond.
    modified: i64,
    changed: i64,
}

/// The time of last change is counted in steps: two changes within one look the same. Kernels take a few
/// milliseconds for one.
const STEP: Duration = Duration::from_millis(100);
/// Where times have no nanoseconds (VFAT counts two seconds), and for what else has none by chance.
const COARSE_STEP: Duration = Duration::from_secs(2);

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let mut hasher = DefaultHasher::new();
        let (modified, changed) =
            ((metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec()));
        (modified, changed, metadata.size(), metadata.ino(), metadata.dev()).hash(&mut hasher);
        Self { mark: hasher.finish(), modified: nanoseconds(modified), changed: nanoseconds(changed) }
    }

    /// None: beyond what can be counted.
    pub(super) fn modified(&self) -> Option<SystemTime> {
        time(self.modified)
    }

    /// Whether what is read at this time, or later, is told from all that is written afterwards.
    pub(super) fn is_proof_at(&self, now: SystemTime) -> bool {
        let step = if self.changed % SECOND == 0 { COARSE_STEP } else { STEP };
        time(self.changed).is_some_and(|then| now.duration_since(then).is_ok_and(|age| age >= step))
    }

    /// The stamp in short. Never 0.
    pub(super) fn mark(&self) -> NonZeroU64 {
        NonZeroU64::new(self.mark).unwrap_or(NonZeroU64::MIN)
    }
}

/// Nanoseconds of a second.
const SECOND: i64 = 1_000_000_000;

fn nanoseconds((seconds, nanoseconds): (i64, i64)) -> i64 {
    seconds.saturating_mul(SECOND).saturating_add(nanoseconds)
}

fn time(nanoseconds: i64) -> Option<SystemTime> {
    let since = u64::try_from(nanoseconds).ok().filter(|_| nanoseconds != i64::MAX)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(since))
}

/// What is in the folder.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Files by path relative to the folder.
    pub(super) files: Map<Text, Stamp>,
    /// What symbolic links lead to, by their paths: nobody hears of changes behind them.
    pub(super) links: BTreeMap<Text, Behind>,
    /// Device and inode of the folder itself.
    pub(super) root: (u64, u64),
    /// Every folder below could be read.
    pub(super) complete: bool,
    /// Folders that could not be read, relative, each ending in `/`.
    pub(super) unread: Vec<String>,
    /// Why a folder is not watched, if one is not.
    pub(super) deaf: Option<String>,
    pub(super) problems: Vec<Problem>,
}

/// What a symbolic link leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// Nothing that counts.
    Nothing,
    /// A manifest.
    File(Stamp),
    /// A folder, by device and inode.
    Folder((u64, u64)),
}

impl Behind {
    /// What is behind a link of this name now.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        match std::fs::metadata(path) {
            Ok(metadata) => Ok(Self::told(path, &metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::Nothing),
            Err(error) => Err(error),
        }
    }

    fn told(path: &Path, metadata: &Metadata) -> Self {
        if metadata.is_dir() {
            Self::Folder((metadata.dev(), metadata.ino()))
        } else if metadata.is_file() && path.file_name().and_then(|n| n.to_str()).is_some_and(is_manifest) {
            Self::File(Stamp::of(metadata))
        } else {
            Self::Nothing
        }
    }
}

impl Found {
    /// Whether the file of this name may be there, though it was not seen.
    pub(super) fn may_hold(&self, name: &str) -> bool {
        self.unread.iter().any(|folder| name.starts_with(folder.as_str()))
    }
}

/// Lists the folder, and has every folder in it watched before it is listed, so that nothing happens unheard
/// in between. An error is about the folder itself.
/// `name` gives paths that are in memory already.
pub(super) fn walk(
    root: &Path,
    watch: Option<&Watch>,
    name: &dyn Fn(&str) -> Option<Text>,
) -> io::Result<Found> {
    let metadata = std::fs::metadata(root)?;
    let id = (metadata.dev(), metadata.ino());
    let found = Found { complete: true, root: id, ..Found::default() };
    let (watches, seen) = (HashSet::new(), BTreeSet::from([id]));
    let mut walk = Walk { root, watch, name, watches, seen, files: Vec::new(), found };
    walk.watch("");
    let entries = std::fs::read_dir(root)?;
    walk.list(entries, "", 0);
    if let Some(watch) = watch {
        watch.keep(&walk.watches, id);
    }
    walk.found.files = walk.files.into_iter().collect();
    Ok(walk.found)
}

struct Walk<'a> {
    root: &'a Path,
    watch: Option<&'a Watch>,
    name: &'a dyn Fn(&str) -> Option<Text>,
    watches: HashSet<i32>,
    seen: BTreeSet<(u64, u64)>,
    files: Vec<(Text, Stamp)>,
    found: Found,
}

impl Walk<'_> {
    fn watch(&mut self, prefix: &str) {
        let Some(watch) = self.watch else { return };
        match watch.follow(&self.root.join(prefix), prefix) {
            Ok(watch) => drop(self.watches.insert(watch)),
            // What is gone needs no watch.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => drop(self.found.deaf.get_or_insert_with(|| error.to_string())),
        }
    }

    fn list(&mut self, entries: std::fs::ReadDir, prefix: &str, depth: usize) {
        for entry in entries {
            let (entry, kind) = match entry.and_then(|entry| Ok((entry.file_type()?, entry))) {
                Ok((kind, entry)) => (entry, kind),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return self.unread(prefix, &error.to_string()),
            };
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                let shown = format!("{prefix}{}", name.to_string_lossy());
                let message = "is not read: its name is not UTF-8".into();
                self.found.problems.push(problem(&shown, message, "rename it"));
                continue;
            };
            if is_ignored(name) || kind.is_file() && !is_manifest(name) {
                continue;
            }
            let path = format!("{prefix}{name}");
            let behind =
                if kind.is_symlink() { std::fs::metadata(self.root.join(&path)) } else { entry.metadata() };
            let metadata = match behind {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if kind.is_symlink() {
                        self.found.links.insert(path.into(), Behind::Nothing);
                    }
                    continue;
                }
                Err(error) => {
                    self.unread(&format!("{path}/"), &error.to_string());
                    continue;
                }
            };
            if kind.is_symlink() {
                let behind = Behind::told(Path::new(name), &metadata);
                self.found.links.insert(path.as_str().into(), behind);
            }
            if metadata.is_dir() {
                self.below(&path, &metadata, depth + 1);
            } else if metadata.is_file() && is_manifest(name) {
                if self.files.len() >= MAX_FILES {
                    return self.unread(prefix, &format!("more than {MAX_FILES} files"));
                }
                let path = (self.name)(&path).unwrap_or_else(|| path.into());
                self.files.push((path, Stamp::of(&metadata)));
            }
        }
    }

    fn below(&mut self, path: &str, metadata: &Metadata, depth: usize) {
        let prefix = format!("{path}/");
        if depth > MAX_DEPTH {
            return self.unread(&prefix, &format!("deeper than {MAX_DEPTH} folders"));
        }
        if !self.seen.insert((metadata.dev(), metadata.ino())) {
            return;
        }
        self.watch(&prefix);
        match std::fs::read_dir(self.root.join(path)) {
            Ok(entries) => self.list(entries, &prefix, depth),
            Err(error) => self.unread(&prefix, &error.to_string()),
        }
    }

    fn unread(&mut self, folder: &str, why: &str) {
        self.found.complete = false;
        self.found.unread.push(folder.to_owned());
        let message = format!("cannot be read: {why}");
        self.found.problems.push(problem(folder, message, "its objects stay as they were"));
    }
}

/// Names of files that hold objects.
pub fn is_manifest(name: &str) -> bool {
    matches!(name.rsplit_once('.'), Some((_, "yaml" | "yml" | "json")))
}

/// Names that are never looked at: hidden ones, and what editors and file managers leave behind while they
/// write.
pub fn is_ignored(name: &str) -> bool {
    name.starts_with('.')
        || name.starts_with('#')
        || name.ends_with('~')
        || name.ends_with(".swp")
        || name.ends_with(".swx")
        || name.ends_with(".tmp")
        || name.ends_with(".part")
        || name == "4913"
}

/// The file's content; of one that is too large, one byte more than is read.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    // A pipe may have been put in the place of the file since it was listed.
    let file = crate::kept::open(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
