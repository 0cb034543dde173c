//! Last good versions of objects, one file each, so that a restart changes nothing.
//!
//! A file is written whole beside its place and renamed, so that the agent's death costs nothing; a thread of
//! its own then brings it to the disk, so that a pass never waits for one. A power cut within that time may
//! cost the version just written, and its object, if it is broken by then, fails closed. Where very many are to
//! be written at once (a large folder's first scan) the thread writes most of them, and the agent's death within
//! that time costs as much. What could not be written or removed is tried again with every scan.
//!
//! At a start only those files are read that are not as the cache knows them.

use super::sync::{Write, Writer};
use super::walk::{self, Stamp};
use super::{Identity, Objects, many, problem};
use crate::kept::{self, Lasting};
use cilium_crds::object::{Object, Reading, read};
use cilium_crds::yaml::parse_one;
use cilium_engine::map::{Map, Rarely, Set};
use cilium_engine::problem::Problem;
use cilium_engine::shared::{Shared, Text};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirEntry};
use std::io::{self, Write as _};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Digest of a document's content: half of its SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Digest([u8; 16]);

impl Digest {
    pub(super) fn of(text: &str) -> Self {
        Self(half_of_sha256(text))
    }
}

fn half_of_sha256(text: &str) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&Sha256::digest(text.as_bytes())[..16]);
    half
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
    pub(super) digest: Digest,
    /// Mark of the store's file that holds it; none while it is not known to be written.
    pub(super) mark: Option<NonZeroU64>,
}

impl Kept {
    /// The file of the folder it is from.
    pub(super) fn file(&self) -> &str {
        &self.object.header.place.file
    }
}

/// What is written to the store.
#[derive(Debug)]
pub(super) struct Version {
    identity: Id,
    digest: Digest,
    pub(super) bytes: Vec<u8>,
}

impl Version {
    /// Writes it to its file, and gives what tells this file from others.
    pub(super) fn write(&self, path: &Path) -> io::Result<Stamp> {
        let written = kept::write_by(path, Lasting::ThisBoot, |file| file.write_all(&self.bytes));
        written.map(|metadata| Stamp::of(&metadata)).map_err(|(_, error)| error)
    }
}

/// Last good versions that the cache knows.
#[derive(Debug, Default)]
pub(super) struct Known {
    versions: Vec<(Id, Kept)>,
    /// Where each is, by the number in the name of its file.
    places: HashMap<u128, usize>,
}

impl Known {
    /// One more, and the number in the name of its file.
    pub(super) fn add(&mut self, number: u128, identity: Id, kept: Kept) {
        self.places.insert(number, self.versions.len());
        self.versions.push((identity, kept));
    }

    #[cfg(test)]
    pub(super) fn versions(&self) -> &[(Id, Kept)] {
        &self.versions
    }
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
    kept: Map<Id, Kept>,
    /// Who is from which file of the folder.
    by_file: Set<(Text, Id)>,
    /// What went wrong while loading.
    loading: Vec<Problem>,
    /// Loading found just what the cache knew.
    as_known: bool,
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
    Write(Version),
    /// Forgotten, once its file is gone: else it would come back after a restart.
    Remove(Id),
}

impl LastGood {
    /// A store in memory alone.
    pub(super) fn forgetful() -> Self {
        Self {
            dir: PathBuf::new(),
            mode: Mode::Look,
            kept: Map::default(),
            by_file: Set::default(),
            loading: Vec::new(),
            as_known: false,
            undone: BTreeMap::new(),
            written: 0,
            writer: Writer::default(),
        }
    }

    /// Loads the store: of files that are as they were known, what is known; others are read. A file that
    /// cannot be read is put aside and reported.
    pub(super) fn load(dir: &Path, mode: Mode, mut known: Known) -> Self {
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
            let name = entry.file_name();
            match Path::new(&name).extension().and_then(|e| e.to_str()) {
                Some("json") => stored.push(entry),
                // Left by a crash within a write.
                Some("tmp") if mode == Mode::Keep => drop(fs::remove_file(entry.path())),
                Some(_) | None => {}
            }
        }
        let loaded = many::each(&stored, |entry| match as_known(entry, &known) {
            Some(place) => Found::AsKnown(place),
            None => Found::Read(load_one(&entry.path())),
        });
        let is_known = |found: &Found| matches!(found, Found::AsKnown(_));
        out.as_known = loaded.len() == known.versions.len() && loaded.iter().all(is_known);
        let mut versions = Vec::with_capacity(stored.len());
        if out.as_known {
            // In the order of the cache, which is nearly theirs.
            versions = std::mem::take(&mut known.versions);
        }
        for (entry, loaded) in stored.iter().zip(loaded) {
            match loaded {
                Found::AsKnown(place) => versions.extend(known.versions.get(place).cloned()),
                Found::Read(Ok(version)) => versions.push(version),
                Found::Read(Err(why)) => {
                    let path = entry.path();
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
        out.kept = versions.into_iter().collect();
        let from =
            |(identity, kept): (&Id, &Kept)| ((kept.object.header.place.file.clone(), identity.clone()), ());
        out.by_file = out.kept.iter().map(from).collect();
        out
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.loading.iter().chain(self.undone.values().filter_map(|todo| todo.problem.as_ref()))
    }

    /// Whether loading found just what the cache knew.
    pub(super) fn was_as_known(&self) -> bool {
        self.as_known
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

    /// All of them, as they are now.
    pub(super) fn kept(&self) -> Map<Id, Kept> {
        self.kept.clone()
    }

    /// Whether just this is what is kept of the object, and written.
    pub(super) fn holds(&self, identity: &Identity, digest: Digest, file: &str) -> bool {
        let known = self.kept.get(identity);
        known.is_some_and(|kept| kept.mark.is_some() && kept.digest == digest && kept.file() == file)
    }

    /// Those of objects that this file of the folder held.
    pub(super) fn of_file(&self, file: &Text) -> impl Iterator<Item = Id> + use<> {
        let first = (file.clone(), Identity::first().into());
        let within = self.by_file.range(first..).map(|(key, ())| key);
        let ids: Vec<Id> = within.take_while(|(of, _)| *of == *file).map(|(_, id)| id.clone()).collect();
        ids.into_iter()
    }

    /// All of them.
    pub(super) fn objects(&self) -> Objects {
        self.kept.iter().map(|(identity, kept)| (identity.clone(), Arc::clone(&kept.object))).collect()
    }

    fn insert(&mut self, identity: Id, kept: Kept) {
        let file = kept.object.header.place.file.clone();
        let before = self.kept.insert(identity.clone(), kept);
        let moved = before.map(|before| before.object.header.place.file.clone());
        if moved.as_ref() != Some(&file) {
            if let Some(before) = moved {
                self.by_file.remove(&(before, identity.clone()));
            }
            self.by_file.add((file, identity));
        }
    }

    fn remove(&mut self, identity: &Id) {
        if let Some(kept) = self.kept.remove(identity) {
            self.by_file.remove(&(kept.object.header.place.file.clone(), identity.clone()));
        }
    }

    /// Keeps a valid object; `document` is its text, if it may have changed.
    pub(super) fn put(
        &mut self,
        identity: &Id,
        object: &Arc<Object>,
        digest: Digest,
        document: Option<Box<str>>,
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
        let same = known.filter(|kept| kept.digest == digest && kept.file() == &*place.file);
        if same.is_some_and(|kept| Arc::ptr_eq(&kept.object, object)) {
            return;
        }
        let (written, mark) = (same.is_some(), same.and_then(|kept| kept.mark));
        self.insert(identity.clone(), Kept { object: Arc::clone(object), digest, mark });
        if !written
            && self.mode == Mode::Keep
            && let Some(document) = document
        {
            let title = object.header.title();
            match stored(&place.file, place.line, &document) {
                Ok(bytes) => {
                    let version = Version { identity: identity.clone(), digest, bytes };
                    self.attempt(file_name(identity), Undone::Write(version), title);
                }
                Err(error) => tracing::warn!("the last good version of {title}: {error}"),
            }
        }
    }

    /// Does it, has it done, or keeps it to be tried again. Whether it did not fail.
    fn attempt(&mut self, name: String, what: Undone, title: String) -> bool {
        if self.writer.is_writing(&name) {
            self.undone.insert(name, ToDo { what, title, problem: None });
            return true;
        }
        let what = match what {
            Undone::Write(version) if self.written >= WRITTEN_AT_ONCE => {
                let path = self.dir.join(&name);
                let write = Write { name: name.clone(), title: title.clone(), path, version };
                match self.writer.write(write) {
                    Ok(()) | Err(None) => {
                        self.undone.remove(&name);
                        return true;
                    }
                    Err(Some(version)) => Undone::Write(version),
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
            Undone::Write(version) => {
                let stamp = version.write(&path)?;
                self.written_as(version, &stamp);
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

    fn written_as(&mut self, version: &Version, stamp: &Stamp) {
        if let Some(kept) = self.kept.get_mut(&*version.identity)
            && kept.digest == version.digest
        {
            kept.mark = Some(stamp.mark());
        }
    }

    /// Begins a scan: tries again what could not be done, up to the first that still cannot. Whether what is
    /// wrong may be other than before.
    pub(super) fn begin(&mut self) -> bool {
        self.written = 0;
        let mut any = false;
        for (write, outcome) in self.writer.tried() {
            // A newer version, or its removal, may wait already.
            let newest = !self.undone.contains_key(&write.name);
            match outcome {
                Ok(stamp) if newest => self.written_as(&write.version, &stamp),
                Ok(_) => {}
                Err(error) => {
                    any = true;
                    if newest {
                        self.fail(write.name, Undone::Write(write.version), write.title, &error);
                    }
                }
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
        self.attempt(file_name(identity), Undone::Remove(identity.clone()), identity.title());
    }
}

/// What a file of the store holds; the document is JSON already.
fn stored(file: &str, line: u32, document: &str) -> serde_json::Result<Vec<u8>> {
    let file = serde_json::to_string(file)?;
    Ok(format!(r#"{{"version":{VERSION},"file":{file},"line":{line},"document":{document}}}"#).into_bytes())
}

/// What a file of the store turned out to be.
enum Found {
    /// The one that is known at this place.
    AsKnown(usize),
    /// Another, read.
    Read(Result<(Id, Kept), String>),
}

/// Where a file of the store is known, if it is the file that is known.
fn as_known(entry: &DirEntry, known: &Known) -> Option<usize> {
    let name = entry.file_name();
    let name = name.to_str()?;
    let (kind, number) = name.strip_suffix(".json")?.rsplit_once('-')?;
    let number = u128::from_str_radix(number, 16).ok().filter(|_| number.len() == 32)?;
    let place = *known.places.get(&number)?;
    let version = known.versions.get(place)?;
    let metadata = entry.metadata().ok().filter(|metadata| metadata.is_file())?;
    let same = kind == version.0.kind.name() && version.1.mark == Some(Stamp::of(&metadata).mark());
    same.then_some(place)
}

fn load_one(path: &Path) -> Result<(Id, Kept), String> {
    // From before it is read: what is written meanwhile is told from it.
    let mark = fs::symlink_metadata(path).ok().filter(|m| m.is_file()).map(|m| Stamp::of(&m).mark());
    let stored: Stored =
        serde_json::from_slice(&walk::read(path).map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    if stored.version != VERSION {
        return Err(format!("version {} is not known", stored.version));
    }
    let text = stored.document.to_string();
    let document = parse_one(text.as_bytes()).map_err(|finding| finding.message)?;
    match read(document, &stored.file).into_iter().next() {
        Some(Reading::Object(mut object, _)) if object.valid => {
            // Positions are those of the store's own text.
            object.header.place.line = stored.line;
            object.problems = Rarely::default();
            let identity = Identity::of(&object.header);
            let digest = Digest::of(&text);
            Ok((identity.into(), Kept { object: Arc::new(*object), digest, mark }))
        }
        Some(Reading::Object(object, _)) => {
            Err(object.problems.first().map_or_else(|| "is not valid".to_owned(), ToString::to_string))
        }
        Some(Reading::Nameless(_) | Reading::Other(_)) | None => Err("holds no object".to_owned()),
    }
}

/// Short and safe whatever the object is called.
fn file_name(identity: &Identity) -> String {
    format!("{}-{:032x}.json", identity.kind, number(identity))
}

/// The number in the name of an object's file.
pub(super) fn number(identity: &Identity) -> u128 {
    let (namespace, name, publisher) = identity.parts();
    let text = format!("{}/{namespace}/{name}/{}", identity.kind, publisher.unwrap_or("\0"));
    u128::from_be_bytes(half_of_sha256(&text))
}
