//! Where to look: at everything, or only at what was heard of since the last look.

use super::walk::{Behind, EMPTY_MARK, Found, MAX_FILES, Stamp, is_ignored, is_manifest, walk};
use super::{Watch, WatchError};
use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Which files may be others than at the last look.
#[derive(Debug)]
pub(super) enum Looked {
    /// Any.
    Everywhere,
    /// These.
    At(BTreeSet<Arc<str>>),
}

/// The names and stamps of the folder's files.
#[derive(Debug)]
pub(super) struct Sight {
    root: PathBuf,
    watch: Option<Watch>,
    found: Option<Found>,
}

impl Sight {
    pub(super) fn of(root: &Path) -> Self {
        Self { root: root.to_owned(), watch: None, found: None }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Has the folder watched from the next look on.
    pub(super) fn watch(&mut self) -> Result<Watch, WatchError> {
        let watch = Watch::open(&self.root)?;
        self.found = None;
        Ok(self.watch.insert(watch).clone())
    }

    /// What the last look found, if it found the folder.
    pub(super) fn found(&self) -> Option<&Found> {
        self.found.as_ref()
    }

    /// Whether the folder says that it is meant to be empty.
    pub(super) fn is_marked_empty(&self) -> bool {
        self.root.join(EMPTY_MARK).exists()
    }

    /// Looks: at everything if `whole`, if something was missed, or if nobody listens. An error is about the
    /// folder itself. `name` gives paths that are in memory already.
    pub(super) fn look(
        &mut self,
        whole: bool,
        name: &dyn Fn(&str) -> Option<Arc<str>>,
    ) -> io::Result<Looked> {
        let heard = self.watch.as_ref().map(Watch::take).filter(|heard| !heard.all && !whole);
        if let (Some(heard), Some(found)) = (heard, &mut self.found)
            && found.complete
            && found.deaf.is_none()
            && let Some(names) = look_again(&self.root, found, heard.names)
        {
            return Ok(Looked::At(names));
        }
        self.found = None;
        let found = walk(&self.root, self.watch.as_ref(), name);
        if let (Err(_), Some(watch)) = (&found, &self.watch) {
            watch.lost();
        }
        self.found = Some(found?);
        Ok(Looked::Everywhere)
    }
}

/// Looks at these names, and behind links, and says which files may be others. `None`: something is not as it
/// was in other ways, and only a look at everything tells.
fn look_again(root: &Path, found: &mut Found, heard: BTreeSet<String>) -> Option<BTreeSet<Arc<str>>> {
    let now = std::fs::metadata(root).ok()?;
    if (now.dev(), now.ino()) != found.root {
        return None;
    }
    let mut other = BTreeSet::new();
    for (path, was) in &mut found.links {
        match (Behind::of(&root.join(&**path)).ok()?, &was) {
            (now, was) if now == **was => {}
            (Behind::File(stamp), Behind::File(_)) => {
                *was = Behind::File(stamp);
                found.files.insert(path.clone(), stamp);
                other.insert(path.clone());
            }
            _ => return None,
        }
    }
    for path in heard {
        let name = path.rsplit('/').next().unwrap_or(&path);
        if is_ignored(name) {
            // Not a file that counts, though it says something.
            continue;
        }
        let metadata = match std::fs::symlink_metadata(root.join(&path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Ok(metadata) if metadata.is_file() => Some(metadata),
            // A link or a folder came, or nobody knows.
            Ok(_) | Err(_) => return None,
        };
        if found.links.contains_key(path.as_str()) {
            return None;
        }
        let path: Arc<str> = path.as_str().into();
        match metadata.filter(|_| is_manifest(name)) {
            Some(_) if found.files.len() >= MAX_FILES => return None,
            Some(metadata) => {
                found.files.insert(path.clone(), Stamp::of(&metadata));
                other.insert(path);
            }
            None => {
                if found.files.remove(&path).is_some() {
                    other.insert(path);
                }
            }
        }
    }
    Some(other)
}
