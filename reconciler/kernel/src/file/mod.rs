//! Files written for others: this node's published objects, and the CNI configuration.
//!
//! A file is whole or absent for whoever reads it; the CNI configuration also after a power cut. Ours are: files
//! in the publish folder whose names begin as ours do ([`published_prefix`]) and that carry our node's name in
//! [`PUBLISHED_BY`], and [`CONFLIST`] in the CNI folder. All nodes share that folder: those of others are not
//! opened. Never: a file elsewhere, or somebody else's.

#![forbid(unsafe_code)]

use crate::{Kernel, KernelPaths};
use cilium_engine::compile::published_prefix;
use cilium_engine::driver::{Driver, DriverError, Scope, Step};
use cilium_engine::state::{File, FileKey, FileRow};
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The annotation that names a published file's node.
pub const PUBLISHED_BY: &str = "cilium.io/published-by";
/// The one CNI configuration that is ours.
pub const CONFLIST: &str = "05-cilium.conflist";

/// Longest file read, in bytes: a longer one is not ours.
const LONGEST: u64 = 1 << 20;
/// Most files of the publish folder that may be ours by their names: one for each endpoint and each of their
/// identities, and as many again that nobody wants any more.
const MOST: usize = 1 << 18;

impl Driver<File> for Kernel {
    fn observe(&mut self, scope: &Scope<FileKey>) -> Result<Vec<(FileKey, FileRow)>, DriverError> {
        observe(&self.paths, scope)
    }

    fn apply(&mut self, steps: &[Step<File>]) -> Vec<Result<(), DriverError>> {
        apply(&self.paths, steps)
    }
}

/// Reads the files that are ours.
///
/// # Errors
/// A folder or a file of ours could not be read.
pub fn observe(paths: &KernelPaths, scope: &Scope<FileKey>) -> Result<Vec<(FileKey, FileRow)>, DriverError> {
    let mut rows = Vec::new();
    let candidates = match scope {
        Scope::Keys(keys) => {
            keys.iter().map(|key| key.0.clone()).filter(|path| room(paths, path).is_some()).collect()
        }
        Scope::All => candidates(paths)?,
    };
    for path in candidates {
        if let Some(row) = ours(paths, &path)? {
            rows.push((FileKey(path), row));
        }
    }
    Ok(rows)
}

/// Writes or removes files, one after the other.
pub fn apply(paths: &KernelPaths, steps: &[Step<File>]) -> Vec<Result<(), DriverError>> {
    let ensure = |path: &Path, row: &FileRow| {
        let failed = |error: io::Error| DriverError::new(format!("write {}: {error}", path.display()));
        let lasting = match room(paths, path) {
            Some(Room::Cni) => Lasting::Forever,
            Some(Room::Published) => Lasting::ThisBoot,
            None => return Err(elsewhere("write", path)),
        };
        write(path, row, lasting).map_err(failed)
    };
    steps
        .iter()
        .map(|step| match step {
            Step::Create { key, row } | Step::Update { key, row, .. } => ensure(&key.0, row),
            Step::Remove { key, .. } => remove(paths, &key.0),
        })
        .collect()
}

/// Which of our folders a path is directly in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Published,
    Cni,
}

fn room(paths: &KernelPaths, path: &Path) -> Option<Room> {
    let (folder, name) = (path.parent()?, path.file_name()?);
    if paths.cni_conf_dir.as_deref() == Some(folder) && name == OsStr::new(CONFLIST) {
        Some(Room::Cni)
    } else if paths.publish_dir.as_deref() == Some(folder) && !name.to_string_lossy().starts_with('.') {
        Some(Room::Published)
    } else {
        None
    }
}

fn candidates(paths: &KernelPaths) -> Result<Vec<PathBuf>, DriverError> {
    let mut found = Vec::new();
    if let Some(folder) = &paths.publish_dir {
        match fs::read_dir(folder) {
            Ok(entries) => {
                let prefix = published_prefix(&paths.node_name);
                for entry in entries {
                    let entry =
                        entry.map_err(|e| DriverError::new(format!("read {}: {e}", folder.display())))?;
                    if !entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()) {
                        continue;
                    }
                    if found.len() == MOST {
                        let (folder, hint) = (folder.display(), "remove those that this node did not write");
                        return Err(DriverError::new(format!(
                            "read {folder}: more than {MOST} files begin with {prefix:?}; {hint}"
                        )));
                    }
                    found.push(entry.path());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(DriverError::new(format!("read {}: {error}", folder.display()))),
        }
    }
    found.extend(paths.cni_conf_dir.iter().map(|folder| folder.join(CONFLIST)));
    found.sort();
    Ok(found)
}

/// The row of a file, if it is there and ours.
fn ours(paths: &KernelPaths, path: &Path) -> Result<Option<FileRow>, DriverError> {
    let Some(room) = room(paths, path) else { return Ok(None) };
    let row = match read(path) {
        Ok(Some(row)) => row,
        Ok(None) => return Ok(None),
        Err(error) => return Err(DriverError::new(format!("read {}: {error}", path.display()))),
    };
    let ours = match room {
        Room::Cni => true,
        Room::Published => published_by(&row.content, &paths.node_name),
    };
    Ok(ours.then_some(row))
}

/// Regular files of bounded size; a symbolic link is not followed.
fn read(path: &Path) -> io::Result<Option<FileRow>> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error)
            if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ELOOP) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > LONGEST {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    let content = String::from_utf8_lossy(&bytes).into_owned();
    Ok(Some(FileRow { content, mode: meta.permissions().mode() & 0o7777 }))
}

/// Whether a text carries the annotation with this node's name, in YAML or JSON.
fn published_by(content: &str, node: &str) -> bool {
    content.match_indices(PUBLISHED_BY).any(|(at, key)| {
        let rest = content[at + key.len()..].trim_start_matches(['"', '\'']).trim_start_matches(' ');
        let Some(rest) = rest.strip_prefix(':') else { return false };
        let rest = rest.trim_start_matches(' ').trim_start_matches(['"', '\'']);
        rest.strip_prefix(node)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['"', '\'', '\n', '\r', ' ', ',', '}']))
    })
}

/// What a file's content must outlive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lasting {
    /// The agent's death. After a power cut the file may be empty: so is the node, whose pods it names, and
    /// the next pass writes it anew.
    ThisBoot,
    /// A power cut: it is read before an agent has looked at it.
    Forever,
}

/// Beside it under a hidden name, then into its place. The folder is never synced: after a power cut the old
/// file is as whole as the new one, and the next pass writes what is missing.
pub(crate) fn write(path: &Path, row: &FileRow, lasting: Lasting) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::other("not the path of a file"));
    };
    fs::create_dir_all(folder)?;
    let mut hidden = OsStr::new(".").to_owned();
    hidden.push(name);
    hidden.push(".cilium-new");
    let beside = folder.join(hidden);
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written = file
        .write_all(row.content.as_bytes())
        .and_then(|()| file.set_permissions(fs::Permissions::from_mode(row.mode & 0o7777)))
        .and_then(|()| if lasting == Lasting::Forever { file.sync_all() } else { Ok(()) })
        .and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&beside);
    }
    written
}

fn remove(paths: &KernelPaths, path: &Path) -> Result<(), DriverError> {
    let failed = |error: io::Error| DriverError::new(format!("remove {}: {error}", path.display()));
    if room(paths, path).is_none() {
        return Err(elsewhere("remove", path));
    }
    // Read again: between plan and step somebody may have put a file of theirs there.
    if ours(paths, path)?.is_none() {
        return if fs::symlink_metadata(path).is_ok() {
            Err(DriverError::new(format!("remove {}: it is not ours any more", path.display())))
        } else {
            Ok(())
        };
    }
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

fn elsewhere(what: &str, path: &Path) -> DriverError {
    DriverError::new(format!(
        "{what} {}: not in the publish folder, nor the CNI configuration of ours",
        path.display()
    ))
}

#[cfg(test)]
mod tests;
