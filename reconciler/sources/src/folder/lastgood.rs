//! Last good versions of objects, one file each, so that a restart changes nothing.
//!
//! A file is written whole beside its place and renamed, so that the agent's death costs nothing; a thread of
//! its own then brings it to the disk, so that a pass never waits for one. A power cut within that time may
//! cost the version just written, and its object, if it is broken by then, fails closed. Where very many are to
//! be written at once (a large folder's first scan) the thread writes most of them, and the agent's death within
//! that time costs as much. What could not be written or removed is tried again with every scan.

use super::sync::{Write, Writer};
use super::{Identity, Objects, many, problem};
use crate::kept::{self, Lasting};
use cilium_crds::object::{Object, Reading, read};
use cilium_crds::yaml::parse_one;
use cilium_engine::problem::Problem;
use cilium_engine::shared::Shared;
use serde::Deserialize;
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
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    file: String,
    line: u32,
    document: serde_json::Value,
}

const VERSION: u32 = 1;
/// Files a scan writes itself; the thread writes the others.
const WRITTEN_AT_ONCE: usize = 256;

type Id = Shared<Identity>;

#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) object: Arc<Object>,
    pub(super) file: Arc<str>,
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
    kept: BTreeMap<Id, Kept>,
    /// The same by the files of the folder they are from.
    by_file: BTreeMap<Arc<str>, BTreeSet<Id>>,
    /// What went wrong while loading.
    loading: Vec<Problem>,
    /// What could not be done yet, by file of the store.
    undone: BTreeMap<String, ToDo>,
    /// How many files this scan has written.
    written: usize,
    writer: Writer,
}

#[derive(Debug)]
struct ToDo {
    what: Undone,
    /// Of which object.
    title: String,
    /// Why it could not be done. None: only because another version is being written.
    problem: Option<Problem>,
}

/// Something to be done to the store.
#[derive(Debug)]
enum Undone {
    /// A file is to hold this.
    Write(Vec<u8>),
    /// Forgotten, once its file is gone: else it would come back after a restart.
    Remove(Id),
}

impl LastGood {
    /// A store in memory alone.
    pub(super) fn forgetful() -> Self {
        Self {
            dir: PathBuf::new(),
            mode: Mode::Look,
            kept: BTreeMap::new(),
            by_file: BTreeMap::new(),
            loading: Vec::new(),
            undone: BTreeMap::new(),
            written: 0,
            writer: Writer::default(),
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
        let mut stored = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path();
            match path.extension().and_then(|e| e.to_str()) {
                Some("json") => stored.push(path),
                // Left by a crash within a write.
                Some("tmp") if mode == Mode::Keep => drop(fs::remove_file(&path)),
                Some(_) | None => {}
            }
        }
        let loaded = many::each(&stored, |path| load_one(path));
        for (path, loaded) in stored.iter().zip(loaded) {
            match loaded {
                Ok((identity, kept)) => out.insert(identity.into(), kept),
                Err(why) => {
                    let moved = mode == Mode::Keep && kept::put_aside(path);
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

    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.loading.iter().chain(self.undone.values().filter_map(|todo| todo.problem.as_ref()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Whether something is still to be written or removed, by itself or with the next scan.
    pub(super) fn is_busy(&self) -> bool {
        self.writer.is_busy() || self.undone.values().any(|todo| todo.problem.is_none())
    }

    pub(super) fn find(&self, identity: &Identity) -> Option<&Kept> {
        self.kept.get(identity)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Id, &Kept)> {
        self.kept.iter()
    }

    /// Those of objects that this file of the folder held.
    pub(super) fn of_file(&self, file: &str) -> impl Iterator<Item = &Id> {
        self.by_file.get(file).into_iter().flatten()
    }

    /// All of them.
    pub(super) fn objects(&self) -> Objects {
        self.kept.iter().map(|(identity, kept)| (identity.clone(), Arc::clone(&kept.object))).collect()
    }

    fn insert(&mut self, identity: Id, kept: Kept) {
        let file = kept.file.clone();
        let moved = self.kept.insert(identity.clone(), kept).map(|before| before.file);
        if let Some(before) = moved.as_ref().filter(|before| **before != file) {
            self.leave(before, &identity);
        }
        if moved.as_ref() != Some(&file) {
            self.by_file.entry(file).or_default().insert(identity);
        }
    }

    fn leave(&mut self, file: &str, identity: &Identity) {
        if let Some(of_file) = self.by_file.get_mut(file) {
            of_file.remove(identity);
            if of_file.is_empty() {
                self.by_file.remove(file);
            }
        }
    }

    fn remove(&mut self, identity: &Identity) {
        if let Some(kept) = self.kept.remove(identity) {
            self.leave(&kept.file, identity);
        }
    }

    /// Keeps a valid object; `document` is its text, if it may have changed.
    pub(super) fn put(
        &mut self,
        identity: &Id,
        object: &Arc<Object>,
        digest: Digest,
        document: Option<String>,
    ) {
        let place = &object.header.place;
        if !self.undone.is_empty() {
            let name = file_name(identity);
            if self.undone.get(&name).is_some_and(|todo| matches!(todo.what, Undone::Remove(_))) {
                // It is back before its file was removed.
                self.undone.remove(&name);
            }
        }
        let known = self.kept.get(&**identity);
        let same = known.is_some_and(|k| k.digest == digest && *k.file == place.file);
        if !same
            && self.mode == Mode::Keep
            && let Some(document) = document
        {
            let title = object.header.title();
            match stored(&place.file, place.line, &document) {
                Ok(bytes) => drop(self.attempt(file_name(identity), Undone::Write(bytes), title)),
                Err(error) => tracing::warn!("the last good version of {title}: {error}"),
            }
        }
        let file = known_file(self.kept.get(&**identity), &place.file);
        self.insert(identity.clone(), Kept { object: Arc::clone(object), file, digest });
    }

    /// Does it, has it done, or keeps it to be tried again. Whether it did not fail.
    fn attempt(&mut self, name: String, what: Undone, title: String) -> bool {
        if self.writer.is_writing(&name) {
            self.undone.insert(name, ToDo { what, title, problem: None });
            return true;
        }
        let what = match what {
            Undone::Write(bytes) if self.written >= WRITTEN_AT_ONCE => {
                let path = self.dir.join(&name);
                let write = Write { name: name.clone(), title: title.clone(), path, bytes };
                match self.writer.write(write) {
                    Ok(()) => {
                        self.undone.remove(&name);
                        return true;
                    }
                    Err(bytes) => Undone::Write(bytes),
                }
            }
            Undone::Write(_) | Undone::Remove(_) => what,
        };
        self.written += 1;
        match self.carry_out(&name, &what) {
            Ok(()) => drop(self.undone.remove(&name)),
            Err(error) => {
                self.fail(name, what, title, &error);
                return false;
            }
        }
        true
    }

    fn fail(&mut self, name: String, what: Undone, title: String, error: &io::Error) {
        let done = match &what {
            Undone::Write(_) => "kept",
            Undone::Remove(_) => "removed",
        };
        let message = format!("the last good version of {title} was not {done}: {error}");
        let hint = "free space under `state_dir`, or mend its permissions; it is tried again by itself";
        let problem = Some(problem(&self.dir.display().to_string(), message, hint));
        self.undone.insert(name, ToDo { what, title, problem });
    }

    fn carry_out(&mut self, name: &str, what: &Undone) -> io::Result<()> {
        let path = self.dir.join(name);
        match what {
            Undone::Write(bytes) => {
                kept::write(&path, bytes, Lasting::ThisBoot).map_err(|(_, error)| error)?;
                self.writer.sync(path);
            }
            Undone::Remove(identity) => {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    Ok(()) | Err(_) => {}
                }
                self.remove(identity);
                self.writer.sync(self.dir.clone());
            }
        }
        Ok(())
    }

    /// Begins a scan: tries again what could not be done, up to the first that still cannot. Whether what is
    /// wrong may be other than before.
    pub(super) fn begin(&mut self) -> bool {
        self.written = 0;
        let mut any = false;
        for (write, error) in self.writer.failed() {
            any = true;
            // A newer version, or its removal, may wait already.
            if !self.undone.contains_key(&write.name) {
                self.fail(write.name, Undone::Write(write.bytes), write.title, &error);
            }
        }
        while let Some(name) = self.undone.keys().find(|name| !self.writer.is_writing(name)).cloned() {
            let Some(ToDo { what, title, problem }) = self.undone.remove(&name) else { break };
            let done = self.attempt(name, what, title);
            any |= done || problem.is_none();
            if !done {
                break;
            }
        }
        any
    }

    /// Forgets it.
    pub(super) fn forget(&mut self, identity: &Id) {
        if self.mode == Mode::Look {
            self.remove(identity);
            return;
        }
        let (kind, name) = &identity.header;
        let title = format!("{kind} {name}");
        self.attempt(file_name(identity), Undone::Remove(identity.clone()), title);
    }
}

/// The path of a file, in memory once if it is as it was.
fn known_file(known: Option<&Kept>, file: &str) -> Arc<str> {
    known.map(|kept| &kept.file).filter(|known| ***known == *file).map_or_else(|| file.into(), Arc::clone)
}

/// What a file of the store holds; the document is JSON already.
fn stored(file: &str, line: u32, document: &str) -> serde_json::Result<Vec<u8>> {
    let file = serde_json::to_string(file)?;
    Ok(format!(r#"{{"version":{VERSION},"file":{file},"line":{line},"document":{document}}}"#).into_bytes())
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
            Ok((identity, Kept { object: Arc::new(*object), file: stored.file.into(), digest }))
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
