//! One writer per host: an advisory lock that ends with its process, however that ends.

use anyhow::{Context, Result, bail};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

/// Held while this process may write.
#[derive(Debug)]
pub(crate) struct WriterLock {
    _file: File,
}

impl WriterLock {
    /// Takes `run_dir/agent.lock`.
    ///
    /// # Errors
    /// Another process holds it (named by pid), or the directory cannot be written.
    pub(crate) fn take(run_dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(run_dir).with_context(|| format!("create {}", run_dir.display()))?;
        let path = run_dir.join("agent.lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        // SAFETY: a plain system call on a descriptor we hold.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let mut holder = String::new();
            file.read_to_string(&mut holder).with_context(|| format!("read {}", path.display()))?;
            bail!("another writer holds {}: pid {}", path.display(), holder.trim());
        }
        let named = file.set_len(0).and_then(|()| file.rewind());
        if let Err(e) = named.and_then(|()| writeln!(file, "{}", std::process::id())) {
            // A full disk: the lock is held all the same, only a second writer is not told by whom.
            tracing::warn!("write the pid to {}: {e}", path.display());
        }
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_writer_is_told_who_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let held = WriterLock::take(dir.path()).unwrap();
        let refused = WriterLock::take(dir.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("pid {}", std::process::id())), "{refused}");
        drop(held);
        WriterLock::take(dir.path()).unwrap();
    }
}
