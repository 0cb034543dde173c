//! Where to look: at everything, or only at what was heard of since the last look.

use super::walk::{Behind, EMPTY_MARK, Found, MAX_FILES, Stamp, is_ignored, is_manifest, walk};
use super::watch::Word;
use super::{Watch, WatchError};
use cilium_engine::shared::Text;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Which files may be others than at the last look.
#[derive(Debug)]
pub(super) enum Looked {
    /// Any.
    Everywhere,
    /// These.
    At(BTreeSet<Text>),
}

/// The names and stamps of the folder's files.
#[derive(Debug)]
pub(super) struct Sight {
    root: PathBuf,
    watch: Option<Watch>,
    found: Option<Found>,
    /// Files heard to be whole since the look before.
    whole: HashSet<String>,
}

impl Sight {
    pub(super) fn of(root: &Path) -> Self {
        Self { root: root.to_owned(), watch: None, found: None, whole: HashSet::new() }
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

    /// Whether the last look heard that who wrote this file had closed it, or moved it there whole.
    pub(super) fn is_whole(&self, name: &str) -> bool {
        self.whole.contains(name)
    }

    /// As [`Watch::heard_since`] the last look; nothing where nobody listens.
    pub(super) fn heard_since<'n>(&self, names: impl Iterator<Item = &'n str>) -> (HashSet<&'n str>, bool) {
        self.watch.as_ref().map_or_else(Default::default, |watch| watch.heard_since(names))
    }

    /// Whether the folder says that it is meant to be empty.
    pub(super) fn is_marked_empty(&self) -> bool {
        self.root.join(EMPTY_MARK).exists()
    }

    /// Looks: at everything if `whole`, if something was missed, or if nobody listens. An error is about the
    /// folder itself. `name` gives paths that are in memory already.
    pub(super) fn look(&mut self, whole: bool, name: &dyn Fn(&str) -> Option<Text>) -> io::Result<Looked> {
        let heard = self.watch.as_ref().map(Watch::take);
        let is_whole = |(name, word): (&String, &Word)| (*word == Word::Whole).then(|| name.clone());
        self.whole = heard.iter().flat_map(|heard| &heard.names).filter_map(is_whole).collect();
        let heard = heard.filter(|heard| !heard.all && !whole);
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
fn look_again(root: &Path, found: &mut Found, heard: BTreeMap<String, Word>) -> Option<BTreeSet<Text>> {
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
    for path in heard.into_keys() {
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
        let path: Text = path.as_str().into();
        match metadata.filter(|_| is_manifest(name)) {
            Some(_) if found.files.len() >= MAX_FILES => return None,
            Some(metadata) => {
                found.files.insert(path.clone(), Stamp::of(&metadata));
                other.insert(path);
            }
            None => {
                if found.files.remove(&*path).is_some() {
                    other.insert(path);
                }
            }
        }
    }
    Some(other)
}
