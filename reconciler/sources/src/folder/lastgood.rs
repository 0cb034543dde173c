//! Last good versions of objects, one file each, so that a restart changes nothing.
//!
//! A file is written whole beside its place and renamed. It is not synced to disk: after a power failure an
//! object that is broken at that very moment may have lost its last good version, and fails closed.

use super::{Identity, problem};
use cilium_crds::object::{Object, Reading, read};
use cilium_crds::yaml::parse_one;
use cilium_engine::problem::Problem;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Digest of a document's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest([u8; 32]);

impl Digest {
    pub(super) fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }
}

/// A file of the store.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    file: String,
    line: u32,
    document: serde_json::Value,
}

const VERSION: u32 = 1;

#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) object: Arc<Object>,
    pub(super) file: String,
    digest: Digest,
}

/// Whether the store on disk is ours to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It is.
    Keep,
    /// It is only looked at.
    Look,
}

#[derive(Debug)]
pub(super) struct LastGood {
    dir: PathBuf,
    mode: Mode,
    kept: BTreeMap<Identity, Kept>,
    /// What went wrong while loading.
    loading: Vec<Problem>,
    /// What went wrong while writing, by file of the store.
    writing: BTreeMap<String, Problem>,
}

impl LastGood {
    /// A store in memory alone.
    pub(super) fn forgetful() -> Self {
        Self {
            dir: PathBuf::new(),
            mode: Mode::Look,
            kept: BTreeMap::new(),
            loading: Vec::new(),
            writing: BTreeMap::new(),
        }
    }

    /// Loads the store. A file that cannot be read is put aside and reported.
    pub(super) fn load(dir: &Path, mode: Mode) -> Self {
        let mut out = Self { dir: dir.to_owned(), mode, ..Self::forgetful() };
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return out,
            Err(error) => {
                let hint = "check its permissions; objects that are broken now fail closed";
                out.loading.push(problem(
                    &dir.display().to_string(),
                    format!("cannot be read: {error}"),
                    hint,
                ));
                return out;
            }
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match load_one(&path) {
                Ok((identity, kept)) => {
                    out.kept.insert(identity, kept);
                }
                Err(why) => {
                    let aside = path.with_extension("bad");
                    let moved = mode == Mode::Keep && fs::rename(&path, &aside).is_ok();
                    let hint = if moved { "it was renamed to end in .bad" } else { "remove it" };
                    out.loading.push(problem(
                        &path.display().to_string(),
                        format!("no last good version: {why}"),
                        hint,
                    ));
                }
            }
        }
        out
    }

    pub(super) fn problems(&self) -> Vec<Problem> {
        self.loading.iter().chain(self.writing.values()).cloned().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    pub(super) fn find(&self, identity: &Identity) -> Option<&Kept> {
        self.kept.get(identity)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Identity, &Kept)> {
        self.kept.iter()
    }

    /// All of them.
    pub(super) fn objects(&self) -> Vec<Arc<Object>> {
        self.kept.values().map(|kept| Arc::clone(&kept.object)).collect()
    }

    /// Keeps a valid object; `document` is its text, if it may have changed.
    pub(super) fn put(
        &mut self,
        identity: &Identity,
        object: &Arc<Object>,
        digest: Digest,
        document: Option<&str>,
    ) {
        let place = &object.header.place;
        let name = file_name(identity);
        let same = self.kept.get(identity).is_some_and(|k| k.digest == digest && k.file == place.file);
        if !same
            && self.mode == Mode::Keep
            && let Some(document) = document
        {
            match self.write(&name, &place.file, place.line, document) {
                Ok(()) => {
                    self.writing.remove(&name);
                }
                Err(error) => {
                    let hint = "free space under `state_dir`, or mend its permissions";
                    let message =
                        format!("the last good version of {} was not kept: {error}", object.header.title());
                    self.writing.insert(name, problem(&self.dir.display().to_string(), message, hint));
                }
            }
        }
        self.kept
            .insert(identity.clone(), Kept { object: Arc::clone(object), file: place.file.clone(), digest });
    }

    fn write(&self, name: &str, file: &str, line: u32, document: &str) -> io::Result<()> {
        let document = serde_json::from_str(document)?;
        let text = serde_json::to_vec(&Stored { version: VERSION, file: file.to_owned(), line, document })?;
        fs::create_dir_all(&self.dir)?;
        let temporary = self.dir.join(format!(".{name}.tmp"));
        fs::write(&temporary, text)?;
        fs::rename(&temporary, self.dir.join(name))
    }

    /// Forgets all but these.
    pub(super) fn retain(&mut self, keep: &BTreeSet<Identity>) {
        let gone: Vec<Identity> = self.kept.keys().filter(|id| !keep.contains(id)).cloned().collect();
        for identity in gone {
            if self.mode == Mode::Look {
                self.kept.remove(&identity);
                continue;
            }
            let name = file_name(&identity);
            match fs::remove_file(self.dir.join(&name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    // Kept in memory, to be tried again: else it would come back after a restart.
                    let message = format!("a last good version was not removed: {error}");
                    let hint = "mend the permissions of `state_dir`";
                    self.writing.insert(name, problem(&self.dir.display().to_string(), message, hint));
                }
                Ok(()) | Err(_) => {
                    self.writing.remove(&name);
                    self.kept.remove(&identity);
                }
            }
        }
    }
}

fn load_one(path: &Path) -> Result<(Identity, Kept), String> {
    let stored: Stored = serde_json::from_slice(&super::walk::read(path).map_err(|e| e.to_string())?)
        .map_err(|e| e.to_string())?;
    if stored.version != VERSION {
        return Err(format!("version {} is not known", stored.version));
    }
    let text = stored.document.to_string();
    let document = parse_one(text.as_bytes()).map_err(|finding| finding.message)?;
    match read(document, &stored.file).into_iter().next() {
        Some(Reading::Object(mut object, _)) if object.valid => {
            // Positions are those of the store's own text.
            object.header.place.line = stored.line;
            object.problems.clear();
            let identity = Identity::of(&object.header);
            let digest = Digest::of(&text);
            Ok((identity, Kept { object: Arc::new(*object), file: stored.file, digest }))
        }
        Some(Reading::Object(object, _)) => {
            Err(object.problems.first().map_or_else(|| "is not valid".to_owned(), ToString::to_string))
        }
        Some(Reading::Nameless(_) | Reading::Other(_)) | None => Err("holds no object".to_owned()),
    }
}

/// Short and safe whatever the object is called.
fn file_name(identity: &Identity) -> String {
    let (kind, name) = &identity.header;
    let text =
        format!("{kind}/{}/{}/{}", name.namespace, name.name, identity.publisher.as_deref().unwrap_or("\0"));
    let digest = Sha256::digest(text.as_bytes());
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{kind}-{hex}.json")
}
