//! Plans and takes steps over one document.

use crate::config::STEPS;
use crate::difference::Difference;
use crate::error::Error;
use crate::ledger::{Done, Ledger, folder};
use crate::step::{Direction, Step, StepName};
use crate::{CURRENT, swap};
use cilium_engine::config::Digest;
use serde::Serialize;
use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use toml_edit::DocumentMut;

/// A larger document is a mistake.
const LARGEST: u64 = 1 << 20;

/// Where to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Up, to this version; `None` for the one this build reads.
    Up(Option<u32>),
    /// Down, to this version.
    Down(u32),
}

/// Where a document stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The document.
    pub file: PathBuf,
    /// Its version.
    pub version: u32,
    /// The version this build reads.
    pub current: u32,
    /// Steps that lead from the one to the other.
    pub pending: Vec<StepName>,
    /// What was done so far.
    pub ledger: Ledger,
    /// Steps whose source is not what it was when they were taken.
    pub altered: Vec<StepName>,
    /// Files with what downgrades could not express.
    pub saved: Vec<PathBuf>,
}

/// A step a migration takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// Which.
    pub step: StepName,
    /// Which way.
    pub direction: Direction,
    /// Version before.
    pub from: u32,
    /// Version after.
    pub to: u32,
    /// What an operator should know.
    pub notes: Vec<String>,
    /// Digest of the step's source.
    pub digest: Digest,
}

/// A file with what the older version cannot express.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Saved {
    /// Where it is kept.
    pub path: PathBuf,
    /// Content; `None`: given back, and removed.
    pub text: Option<String>,
}

/// A whole migration, thought through and not yet done. Empty if the document is where it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Migration {
    /// The document.
    pub file: PathBuf,
    /// Version before.
    pub from: u32,
    /// Version after.
    pub to: u32,
    /// Steps, in the order they are taken.
    pub steps: Vec<Taken>,
    /// The document before.
    pub before: String,
    /// The document after.
    pub after: String,
    /// Files that go with it.
    pub saved: Vec<Saved>,
}

impl Migration {
    /// Nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// What changes in the document.
    pub fn difference(&self) -> Difference {
        Difference::between(&self.before, &self.after)
    }
}

impl fmt::Display for Migration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        if self.is_empty() {
            return writeln!(f, "{file} is at version {}: nothing to do", self.from);
        }
        writeln!(f, "~ {file}: version {} -> {}", self.from, self.to)?;
        for taken in &self.steps {
            writeln!(f, "  step {} ({})", taken.step, taken.direction)?;
            taken.notes.iter().try_for_each(|note| writeln!(f, "    {note}"))?;
        }
        for saved in &self.saved {
            let (sign, what) = match saved.text {
                Some(_) => ('+', "keeps what the older version cannot express"),
                None => ('-', "its content is given back"),
            };
            writeln!(f, "{sign} {}: {what}", saved.path.display())?;
        }
        writeln!(f, "\n{}", self.difference())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: version {}, this build reads {}", self.file.display(), self.version, self.current)?;
        for step in &self.pending {
            writeln!(f, "  pending  {step}")?;
        }
        for done in &self.ledger.done {
            writeln!(
                f,
                "  done     {} ({}), version {} -> {}",
                done.step, done.direction, done.from, done.to
            )?;
        }
        for step in &self.altered {
            writeln!(f, "  altered  {step}: another build's step of this name was taken")?;
        }
        for path in &self.saved {
            writeln!(f, "  saved    {}", path.display())?;
        }
        if self.ledger.unreadable > 0 {
            writeln!(f, "  ledger   {} unreadable lines", self.ledger.unreadable)?;
        }
        Ok(())
    }
}

/// Where a document stands. Writes nothing.
///
/// # Errors
/// The document or its ledger cannot be read.
pub fn status(file: &Path) -> Result<Status, Error> {
    let file = real(file)?;
    let (_, document) = read(&file)?;
    let version = version(&file, &document)?;
    let ledger = Ledger::read(&file)?;
    let is_altered = |done: &&Done| step_named(&done.step).is_some_and(|step| step.digest() != done.digest);
    let mut altered: Vec<StepName> =
        ledger.done.iter().filter(is_altered).map(|done| done.step.clone()).collect();
    altered.sort();
    altered.dedup();
    let pending =
        STEPS.iter().filter(|step| (version..CURRENT).contains(&step.from)).map(Step::label).collect();
    let saved = STEPS.iter().map(|step| saved_path(&file, step)).filter(|path| path.exists()).collect();
    Ok(Status { file, version, current: CURRENT, pending, ledger, altered, saved })
}

/// Thinks a migration through, on a copy. Writes nothing: a plan is the dry run.
///
/// # Errors
/// The document cannot be read, there is no way to the target, or a step refuses the document.
pub fn plan(file: &Path, target: Target) -> Result<Migration, Error> {
    let file = real(file)?;
    let (before, mut document) = read(&file)?;
    let from = version(&file, &document)?;
    let to = destination(from, target)?;
    let mut steps = Vec::new();
    let mut saved = Vec::new();
    if from < to {
        for step in STEPS.iter().filter(|step| (from..to).contains(&step.from)) {
            let path = saved_path(&file, step);
            let kept = if path.exists() { read(&path)?.1 } else { DocumentMut::new() };
            let notes = (step.forward)(&mut document, &kept).map_err(|source| refused(step, source))?;
            if path.exists() {
                saved.push(Saved { path, text: None });
            }
            steps.push(taken(step, Direction::Forward, notes));
        }
    } else {
        for step in STEPS.iter().rev().filter(|step| (to..from).contains(&step.from)) {
            let mut kept = DocumentMut::new();
            let notes = (step.backward)(&mut document, &mut kept).map_err(|source| refused(step, source))?;
            let path = saved_path(&file, step);
            if !kept.as_table().is_empty() {
                saved.push(Saved { path, text: Some(kept.to_string()) });
            } else if path.exists() {
                // Of an earlier downgrade; the document has moved on since.
                saved.push(Saved { path, text: None });
            }
            steps.push(taken(step, Direction::Backward, notes));
        }
    }
    let after = if steps.is_empty() { before.clone() } else { document.to_string() };
    Ok(Migration { file, from, to, steps, before, after, saved })
}

/// Does what was planned. `now` is in seconds since 1970, for the ledger.
///
/// The rename of the document is the one moment at which the migration happens. Killed before it,
/// nothing has; killed after it, only the ledger's lines may be missing.
///
/// # Errors
/// The document changed since the plan, or a file cannot be written.
pub fn apply(migration: &Migration, now: u64) -> Result<(), Error> {
    if migration.is_empty() {
        return Ok(());
    }
    let file = &migration.file;
    if read(file)?.0 != migration.before {
        return Err(Error::Changed { path: file.clone() });
    }
    let folder = folder(file);
    fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    let (before, after) = (Digest::of(migration.before.as_bytes()), Digest::of(migration.after.as_bytes()));
    swap::replace(&folder.join(format!("before-{}.toml", before.short())), &migration.before)?;
    for saved in &migration.saved {
        if let Some(text) = &saved.text {
            swap::replace(&saved.path, text)?;
        }
    }
    swap::replace(file, &migration.after)?;
    for saved in migration.saved.iter().filter(|saved| saved.text.is_none()) {
        match fs::remove_file(&saved.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &saved.path)(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    let entry = |taken: &Taken| Done {
        step: taken.step.clone(),
        digest: taken.digest.clone(),
        direction: taken.direction,
        from: taken.from,
        to: taken.to,
        at: now,
        before: before.clone(),
        after: after.clone(),
    };
    Ledger::append(file, &migration.steps.iter().map(entry).collect::<Vec<_>>())
}

/// The file itself where the path is a link: a rename must not replace the link.
fn real(file: &Path) -> Result<PathBuf, Error> {
    fs::canonicalize(file).map_err(Error::io("read", file))
}

fn read(path: &Path) -> Result<(String, DocumentMut), Error> {
    let mut text = String::new();
    let file = fs::File::open(path).map_err(Error::io("read", path))?;
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(Error::io("read", path))?;
    if text.len() as u64 > LARGEST {
        return Err(Error::io("read", path)(io::Error::other(format!("larger than {LARGEST} bytes"))));
    }
    let document = text
        .parse::<DocumentMut>()
        .map_err(|error| Error::Syntax { path: path.to_owned(), reason: error.to_string() })?;
    Ok((text, document))
}

/// A document's version; without a `version` key it is 0, since that key came with version 1.
fn version(path: &Path, document: &DocumentMut) -> Result<u32, Error> {
    let Some(item) = document.get("version") else { return Ok(0) };
    item.as_integer()
        .and_then(|number| u32::try_from(number).ok())
        .ok_or_else(|| Error::Version { path: path.to_owned(), found: item.to_string().trim().to_owned() })
}

fn destination(from: u32, target: Target) -> Result<u32, Error> {
    let to = match target {
        Target::Up(to) => to.unwrap_or(CURRENT),
        Target::Down(to) => to,
    };
    if from > CURRENT || to > CURRENT {
        return Err(Error::Unknown { from, to, oldest: 0, newest: CURRENT });
    }
    match target {
        Target::Up(_) if to < from => {
            Err(Error::WrongWay { from, to, command: "cilium migrate up", other: "down" })
        }
        Target::Down(_) if to > from => {
            Err(Error::WrongWay { from, to, command: "cilium migrate down", other: "up" })
        }
        Target::Up(_) | Target::Down(_) => Ok(to),
    }
}

fn taken(step: &Step, direction: Direction, notes: Vec<String>) -> Taken {
    let (from, to) = match direction {
        Direction::Forward => (step.from, step.to()),
        Direction::Backward => (step.to(), step.from),
    };
    Taken { step: step.label(), direction, from, to, notes, digest: step.digest() }
}

fn refused(step: &Step, source: crate::StepError) -> Error {
    Error::Step { step: step.label(), source }
}

fn step_named(name: &StepName) -> Option<&'static Step> {
    STEPS.iter().find(|step| step.name == name.0)
}

fn saved_path(file: &Path, step: &Step) -> PathBuf {
    folder(file).join(format!("saved-{}-to-{}.toml", step.to(), step.from))
}

#[cfg(test)]
mod tests;
