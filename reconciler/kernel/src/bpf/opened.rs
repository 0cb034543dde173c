//! Maps that stay open from one read or write of rows to the next, while their pin is the same: opening one and
//! asking for its shape are two calls of `bpf()`, and looking at its pin is none.

use super::fault::fault;
use super::pins::open_map;
use super::sys::MapFd;
use cilium_engine::driver::DriverError;
use std::cell::RefCell;
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Device and inode of a pin. A pin made anew has another inode, whatever it is called.
type Inode = (u64, u64);

/// What is open, by pin.
#[derive(Debug, Default)]
pub(super) struct Opened(RefCell<HashMap<PathBuf, (Inode, MapFd)>>);

impl Opened {
    /// Opens a pinned map; `None`: nothing is there, or it is no map.
    pub(super) fn open(&self, path: &Path) -> Result<Option<MapFd>, DriverError> {
        let again = |map: &MapFd| map.try_clone().map_err(|e| fault(&e, format!("open {}", path.display())));
        // Looked at before it is opened: of a pin that is replaced in between, the older inode is kept.
        let now: Option<Inode> = path.symlink_metadata().ok().map(|meta| (meta.dev(), meta.ino()));
        let mut known = self.0.borrow_mut();
        if let Some((was, map)) = known.get(path)
            && now == Some(*was)
        {
            return again(map).map(Some);
        }
        known.remove(path);
        let map = open_map(path)?;
        if let (Some(now), Some(map)) = (now, &map) {
            known.insert(path.to_owned(), (now, again(map)?));
        }
        Ok(map)
    }
}
