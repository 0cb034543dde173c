//! Last good versions of objects, one file each, so that a restart changes nothing.
//!
//! A file is written whole beside its place and renamed, so that the agent's death costs nothing; a thread of
//! its own then brings it to the disk, so that a pass never waits for one. A power cut within that time may
//! cost the version just written, and its object, if it is broken by then, fails closed. What could not be
//! written or removed is tried again with every scan.

use super::sync::Syncer;
use super::{Identity, problem};
use crate::kept::{self, Lasting};
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
    /// What could not be done yet, by file of the store.
    undone: BTreeMap<String, (Undone, Problem)>,
    syncer: Syncer,
}

/// Something to be done to the store.
#[derive(Debug)]
enum Undone {
    /// A file is to hold this.
    Write(Vec<u8>),
    /// Forgotten, once its file is gone: else it would come back after a restart.
    Remove(Identity),
}

impl LastGood {
    /// A store in memory alone.
    pub(super) fn forgetful() -> Self {
        Self {
            dir: PathBuf::new(),
            mode: Mode::Look,
            kept: BTreeMap::new(),
            loading: Vec::new(),
            undone: BTreeMap::new(),
            syncer: Syncer::default(),
        }
    }

    /// Loads the store. A file that cannot be read is put aside and reported.
    pub(super) fn load(dir: &Path, mode: Mode) -> Self {
        let mut out = Self { dir: dir.to_owned(), mode, ..Self::forgetful() };
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return out,
            Err(error) if error.kind() == io::ErrorKind::NotADirectory && mode == Mode::Keep => {
                let hint = if kept::put_aside(dir) { "it was renamed to end in .bad" } else { "remove it" };
                let message = "no last good versions: no folder".to_owned();
                out.loading.push(problem(&dir.display().to_string(), message, hint));
                return out;
            }
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
            match path.extension().and_then(|e| e.to_str()) {
                Some("json") => {}
                // Left by a crash within a write.
                Some("tmp") if mode == Mode::Keep => {
                    let _stays = fs::remove_file(&path);
                    continue;
                }
                Some(_) | None => continue,
            }
            match load_one(&path) {
                Ok((identity, kept)) => {
                    out.kept.insert(identity, kept);
                }
                Err(why) => {
                    let moved = mode == Mode::Keep && kept::put_aside(&path);
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
        self.loading.iter().chain(self.undone.values().map(|(_, problem)| problem)).cloned().collect()
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
        if !self.undone.is_empty()
            && let Some((Undone::Remove(_), _)) = self.undone.get(&file_name(identity))
        {
            // It is back before its file was removed.
            self.undone.remove(&file_name(identity));
        }
        let same = self.kept.get(identity).is_some_and(|k| k.digest == digest && k.file == place.file);
        if !same
            && self.mode == Mode::Keep
            && let Some(document) = document
        {
            match stored(&place.file, place.line, document) {
                Ok(bytes) => self.attempt(file_name(identity), Undone::Write(bytes), &object.header.title()),
                Err(error) => tracing::warn!("the last good version of {}: {error}", object.header.title()),
            }
        }
        self.kept
            .insert(identity.clone(), Kept { object: Arc::clone(object), file: place.file.clone(), digest });
    }

    /// Does it, or keeps it to be tried again.
    fn attempt(&mut self, name: String, what: Undone, title: &str) {
        match self.carry_out(&name, &what) {
            Ok(()) => {
                self.undone.remove(&name);
            }
            Err(error) => {
                let done = match &what {
                    Undone::Write(_) => "kept",
                    Undone::Remove(_) => "removed",
                };
                let message = format!("the last good version of {title} was not {done}: {error}");
                let hint =
                    "free space under `state_dir`, or mend its permissions; it is tried again by itself";
                let problem = problem(&self.dir.display().to_string(), message, hint);
                self.undone.insert(name, (what, problem));
            }
        }
    }

    fn carry_out(&mut self, name: &str, what: &Undone) -> io::Result<()> {
        let path = self.dir.join(name);
        match what {
            Undone::Write(bytes) => {
                kept::write(&path, bytes, Lasting::ThisBoot).map_err(|(_, error)| error)?;
                self.syncer.sync(path);
            }
            Undone::Remove(identity) => {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    Ok(()) | Err(_) => {}
                }
                self.kept.remove(identity);
                self.syncer.sync(self.dir.clone());
            }
        }
        Ok(())
    }

    /// Tries again what could not be done, up to the first that still cannot. Whether anything was done.
    pub(super) fn retry(&mut self) -> bool {
        let mut any = false;
        while let Some((name, (what, problem))) = self.undone.pop_first() {
            if self.carry_out(&name, &what).is_err() {
                self.undone.insert(name, (what, problem));
                break;
            }
            any = true;
        }
        any
    }

    /// Forgets all but these.
    pub(super) fn retain(&mut self, keep: &BTreeSet<Identity>) {
        let gone: Vec<Identity> = self.kept.keys().filter(|id| !keep.contains(id)).cloned().collect();
        for identity in gone {
            if self.mode == Mode::Look {
                self.kept.remove(&identity);
                continue;
            }
            let (kind, name) = &identity.header;
            let title = format!("{kind} {name}");
            self.attempt(file_name(&identity), Undone::Remove(identity), &title);
        }
    }
}

/// What a file of the store holds.
fn stored(file: &str, line: u32, document: &str) -> serde_json::Result<Vec<u8>> {
    let document = serde_json::from_str(document)?;
    serde_json::to_vec(&Stored { version: VERSION, file: file.to_owned(), line, document })
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
