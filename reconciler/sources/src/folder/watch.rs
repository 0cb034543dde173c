//! Wakes when something in the folder happens (inotify). Carries no data: the scan finds out. Where watching
//! is not possible, the periodic scan has to do.

use super::walk::is_ignored;
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why the folder is not watched.
#[derive(Debug, thiserror::Error)]
#[error("folder {path} is not watched, only read every now and then: {source}")]
pub struct WatchError {
    path: PathBuf,
    source: notify::Error,
}

/// A watch on a folder and all below it.
pub struct Watch {
    root: PathBuf,
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of the folder that is watched.
    watched: Option<(u64, u64)>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("root", &self.root)
            .field("watched", &self.watched)
            .finish_non_exhaustive()
    }
}

impl Watch {
    /// A watch that calls `wake`, from a thread of its own, when something happens. Call [`Self::ensure`] to
    /// begin.
    pub fn new(root: &Path, wake: impl Fn() + Send + 'static) -> Result<Self, WatchError> {
        let handler = move |event: notify::Result<notify::Event>| match event {
            Ok(event) if !matters(&event) => {}
            // An error (a full queue, say) means that something may have been missed.
            Ok(_) | Err(_) => wake(),
        };
        let watcher = notify::recommended_watcher(handler)
            .map_err(|source| WatchError { path: root.to_owned(), source })?;
        Ok(Self { root: root.to_owned(), watcher: Some(watcher), watched: None })
    }

    /// Watches the folder that is there now: it may have been made, or another put in its place, since. To be
    /// called with every scan. `Ok(false)`: there is no folder to watch.
    pub fn ensure(&mut self) -> Result<bool, WatchError> {
        let now = std::fs::metadata(&self.root).ok().map(|m| (m.dev(), m.ino()));
        if now == self.watched {
            return Ok(now.is_some());
        }
        let Some(watcher) = &mut self.watcher else { return Ok(false) };
        if self.watched.take().is_some() {
            // The folder watched is gone or elsewhere; that the watch is gone too is no error.
            let _gone = watcher.unwatch(&self.root);
        }
        if now.is_none() {
            return Ok(false);
        }
        watcher
            .watch(&self.root, RecursiveMode::Recursive)
            .map_err(|source| WatchError { path: self.root.clone(), source })?;
        self.watched = now;
        Ok(true)
    }
}

fn matters(event: &notify::Event) -> bool {
    let kind = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    };
    let named = |path: &PathBuf| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_none_or(|name| !is_ignored(name) || name == ".empty")
            || path.to_string_lossy().contains("..data")
    };
    kind && (event.paths.is_empty() || event.paths.iter().any(named))
}
