//! A cgroup of a test, for the sockets of its threads.

use crate::netns::unique;
use std::path::{Path, PathBuf};

/// A cgroup beside those of the machine, deleted on drop. Threads enter it one by one: it is a threaded one,
/// so that nodes of one test process can have one each.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes one below that of this process.
    ///
    /// # Panics
    /// The machine has no cgroup2 that can be written.
    pub fn new(what: &str) -> Self {
        let path = own().join(unique(what));
        std::fs::create_dir(&path).unwrap_or_else(|e| panic!("make cgroup {}: {e}", path.display()));
        let cgroup = Self { path };
        cgroup.write("cgroup.type", "threaded");
        cgroup
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the calling thread here: its sockets, from now on, are of this cgroup.
    pub fn enter(&self) {
        self.write("cgroup.threads", "0");
    }

    fn write(&self, file: &str, text: &str) {
        let file = self.path.join(file);
        std::fs::write(&file, text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Threads that are here still go back to where the others are.
        let threads = std::fs::read_to_string(self.path.join("cgroup.threads")).unwrap_or_default();
        for thread in threads.lines() {
            let _ = std::fs::write(own().join("cgroup.threads"), thread);
        }
        if let Err(e) = std::fs::remove_dir(&self.path) {
            eprintln!("{}: {e}", self.path.display());
        }
    }
}

/// The cgroup of this process, in the first mount of cgroup2.
///
/// # Panics
/// The machine has no cgroup2.
pub fn own() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/mounts").expect("/proc is mounted");
    let root = mounts
        .lines()
        .filter_map(|line| line.split(' ').skip(1).collect::<Vec<_>>().first_chunk::<2>().copied())
        .find_map(|[path, kind]| (kind == "cgroup2").then_some(path))
        .expect("a cgroup2 is mounted: mount -t cgroup2 none DIR");
    let text = std::fs::read_to_string("/proc/self/cgroup").expect("/proc is mounted");
    let own = text.lines().find_map(|line| line.strip_prefix("0::/")).expect("cgroup2 is in the kernel");
    Path::new(root).join(own)
}
