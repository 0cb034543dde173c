//! A thread that writes last good versions and brings them to the disk: a pass must wait for neither many
//! files nor a disk.

use super::lastgood::Version;
use super::walk::Stamp;
use crate::kept;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// More files than these are brought to the disk with all else of their file system at once.
const EACH: usize = 64;

/// A file to be written whole.
#[derive(Debug)]
pub(super) struct Write {
    /// By which its outcome is known.
    pub(super) name: String,
    /// What it is a version of.
    pub(super) title: String,
    pub(super) path: PathBuf,
    pub(super) version: Version,
}

enum Job {
    Sync(PathBuf),
    Write(Write),
}

#[derive(Debug)]
struct Running {
    jobs: Sender<Job>,
    written: Receiver<(Write, io::Result<Stamp>)>,
    thread: JoinHandle<()>,
}

/// The thread, started with the first file. Dropping it waits until all is on the disk.
#[derive(Debug, Default)]
pub(super) struct Writer {
    running: Option<Running>,
    writing: BTreeSet<String>,
}

impl Writer {
    /// Has a file or folder brought to the disk, soon.
    pub(super) fn sync(&mut self, path: PathBuf) {
        // Without a thread it comes to the disk when the kernel likes.
        let _ = self.give(Job::Sync(path));
    }

    /// Has a file written, soon. Gives it back if there is no thread.
    pub(super) fn write(&mut self, write: Write) -> Result<(), Option<Version>> {
        let name = write.name.clone();
        match self.give(Job::Write(write)) {
            Ok(()) => {
                self.writing.insert(name);
                Ok(())
            }
            Err(Job::Write(write)) => Err(Some(write.version)),
            Err(Job::Sync(_)) => Err(None),
        }
    }

    /// Whether a file of this name is still to be written.
    pub(super) fn is_writing(&self, name: &str) -> bool {
        self.writing.contains(name)
    }

    /// Whether any file is.
    pub(super) fn is_busy(&self) -> bool {
        !self.writing.is_empty()
    }

    /// What was tried since this was last asked, and what became of it.
    pub(super) fn tried(&mut self) -> Vec<(Write, io::Result<Stamp>)> {
        let Some(running) = &self.running else { return Vec::new() };
        let tried: Vec<_> = running.written.try_iter().collect();
        for (write, _) in &tried {
            self.writing.remove(&write.name);
        }
        tried
    }

    fn give(&mut self, job: Job) -> Result<(), Job> {
        if self.running.is_none() {
            let ((jobs, todo), (done, written)) = (channel(), channel());
            let work = move || work(&todo, &done);
            match std::thread::Builder::new().name("last-good".into()).spawn(work) {
                Ok(thread) => self.running = Some(Running { jobs, written, thread }),
                Err(error) => tracing::warn!("last good versions are not brought to the disk: {error}"),
            }
        }
        match &self.running {
            Some(running) => running.jobs.send(job).map_err(|unsent| unsent.0),
            None => Err(job),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(Running { jobs, thread, .. }) = self.running.take() {
            drop(jobs);
            // Nobody is left to be told of a panic of it.
            let _ = thread.join();
        }
    }
}

fn work(todo: &Receiver<Job>, done: &Sender<(Write, io::Result<Stamp>)>) {
    while let Ok(first) = todo.recv() {
        // A file that was written many times since is synced once, and its folder once for all.
        let mut files: BTreeSet<PathBuf> = BTreeSet::new();
        for job in std::iter::once(first).chain(todo.try_iter()) {
            match job {
                Job::Sync(path) => drop(files.insert(path)),
                Job::Write(mut write) => {
                    let outcome = write.version.write(&write.path);
                    if outcome.is_ok() {
                        files.insert(write.path.clone());
                        write.version.bytes = Vec::new();
                    }
                    // Whoever wanted it may have gone.
                    let _ = done.send((write, outcome));
                }
            }
        }
        let folders: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
        if files.len() > EACH
            && folders.iter().all(|folder| File::open(folder).is_ok_and(|f| rustix::fs::syncfs(f).is_ok()))
        {
            continue;
        }
        for path in files.iter().map(PathBuf::as_path).chain(folders) {
            match kept::sync(path) {
                // Removed or replaced meanwhile: what came in its place is in the queue.
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!("bring {} to the disk: {error}", path.display());
                }
                Ok(()) | Err(_) => {}
            }
        }
    }
}
