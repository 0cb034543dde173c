//! Which files of the folder count, and reading one. Follows symbolic links (Kubernetes mounts ConfigMaps so),
//! never into a loop.

use super::problem;
use cilium_crds::yaml::MAX_BYTES;
use cilium_engine::problem::Problem;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

/// Deepest folder.
const MAX_DEPTH: usize = 32;
/// Most files.
const MAX_FILES: usize = 200_000;
/// Name of the file that says: the folder is meant to be empty.
const EMPTY_MARK: &str = ".empty";

/// What tells whether a file changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) modified: SystemTime,
    changed: (i64, i64),
    size: u64,
    inode: u64,
    device: u64,
}

impl Default for Stamp {
    fn default() -> Self {
        Self { modified: SystemTime::UNIX_EPOCH, changed: (0, 0), size: 0, inode: 0, device: 0 }
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.size(),
            inode: metadata.ino(),
            device: metadata.dev(),
        }
    }
}

/// What is in the folder.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Files by path relative to the folder.
    pub(super) files: BTreeMap<String, Stamp>,
    /// Every folder below could be read.
    pub(super) complete: bool,
    /// Folders that could not be read, relative, each ending in `/`.
    pub(super) unread: Vec<String>,
    /// The folder says that it is meant to be empty.
    pub(super) marked_empty: bool,
    pub(super) problems: Vec<Problem>,
}

impl Found {
    /// Whether the file of this name may be there, though it was not seen.
    pub(super) fn may_hold(&self, name: &str) -> bool {
        self.unread.iter().any(|folder| name.starts_with(folder.as_str()))
    }
}

/// Lists the folder. An error is about the folder itself.
pub(super) fn walk(root: &Path) -> io::Result<Found> {
    let mut out = Found { complete: true, ..Found::default() };
    let metadata = std::fs::metadata(root)?;
    let mut seen = BTreeSet::from([(metadata.dev(), metadata.ino())]);
    let entries = std::fs::read_dir(root)?;
    out.marked_empty = root.join(EMPTY_MARK).exists();
    list(entries, root, "", 0, &mut seen, &mut out);
    Ok(out)
}

fn list(
    entries: std::fs::ReadDir,
    root: &Path,
    prefix: &str,
    depth: usize,
    seen: &mut BTreeSet<(u64, u64)>,
    out: &mut Found,
) {
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return unread(prefix, &error.to_string(), out),
        };
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            let shown = format!("{prefix}{}", name.to_string_lossy());
            out.problems.push(problem(&shown, "is not read: its name is not UTF-8".into(), "rename it"));
            continue;
        };
        if is_ignored(name) {
            continue;
        }
        let path = format!("{prefix}{name}");
        // Follows links; one that leads nowhere is a file that is gone.
        let metadata = match std::fs::metadata(root.join(&path)) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                unread(&format!("{path}/"), &error.to_string(), out);
                continue;
            }
        };
        if metadata.is_dir() {
            if depth + 1 > MAX_DEPTH {
                unread(&format!("{path}/"), &format!("deeper than {MAX_DEPTH} folders"), out);
            } else if seen.insert((metadata.dev(), metadata.ino())) {
                match std::fs::read_dir(root.join(&path)) {
                    Ok(entries) => list(entries, root, &format!("{path}/"), depth + 1, seen, out),
                    Err(error) => unread(&format!("{path}/"), &error.to_string(), out),
                }
            }
        } else if metadata.is_file() && is_manifest(name) {
            if out.files.len() >= MAX_FILES {
                return unread(prefix, &format!("more than {MAX_FILES} files"), out);
            }
            out.files.insert(path, Stamp::of(&metadata));
        }
    }
}

fn unread(folder: &str, why: &str, out: &mut Found) {
    out.complete = false;
    out.unread.push(folder.to_owned());
    out.problems.push(problem(folder, format!("cannot be read: {why}"), "its objects stay as they were"));
}

fn is_manifest(name: &str) -> bool {
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
