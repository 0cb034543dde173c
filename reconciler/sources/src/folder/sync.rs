//! Brings files to the disk on a thread of its own: a pass must not wait for a disk.

use crate::kept;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// The thread, started with the first file. Dropping it waits until all is on the disk.
#[derive(Debug, Default)]
pub(super) struct Syncer {
    running: Option<(Sender<PathBuf>, JoinHandle<()>)>,
}

impl Syncer {
    /// Has a file or folder brought to the disk, soon.
    pub(super) fn sync(&mut self, path: PathBuf) {
        if self.running.is_none() {
            let (sender, paths) = channel();
            match std::thread::Builder::new().name("last-good".into()).spawn(move || work(&paths)) {
                Ok(thread) => self.running = Some((sender, thread)),
                Err(error) => tracing::warn!("last good versions are not brought to the disk: {error}"),
            }
        }
        if let Some((sender, _)) = &self.running {
            // The thread ends only with this sender.
            let _ = sender.send(path);
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.running.take() {
            drop(sender);
            // Nobody is left to be told of a panic of it.
            let _ = thread.join();
        }
    }
}

fn work(paths: &Receiver<PathBuf>) {
    while let Ok(first) = paths.recv() {
        // A file that was written many times since is synced once, and its folder once for all.
        let files: BTreeSet<PathBuf> = std::iter::once(first).chain(paths.try_iter()).collect();
        let folders: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
        for path in files.iter().map(PathBuf::as_path).chain(folders) {
            match kept::sync(path) {
                // Removed or replaced meanwhile: what came in its place is in the queue.
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!("bring {} to the disk: {error}", path.display());
                }
                Ok(()) | Err(_) => {}
            }
        }
    }
}
