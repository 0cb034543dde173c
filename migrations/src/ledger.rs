//! What was done to a document, one JSON line per step, in a folder beside it.
//!
//! The document's own `version` is what decides; the ledger is for people, and to notice that a step
//! was another one when it was taken.

use crate::error::Error;
use crate::step::{Direction, StepName};
use cilium_engine::config::Digest;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A step that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Which.
    pub step: StepName,
    /// Digest of the step's source then.
    pub digest: Digest,
    /// Which way.
    pub direction: Direction,
    /// Version before.
    pub from: u32,
    /// Version after.
    pub to: u32,
    /// When, in seconds since 1970 (UTC).
    pub at: u64,
    /// Digest of the document before the whole run.
    pub before: Digest,
    /// Digest of the document after the whole run.
    pub after: Digest,
}

/// The ledger of one document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// Steps taken, oldest first.
    pub done: Vec<Done>,
    /// Lines that could not be read, counted and left alone.
    pub unreadable: usize,
}

/// The folder beside a document for everything the runner keeps.
pub(crate) fn folder(document: &Path) -> PathBuf {
    let mut name = document.as_os_str().to_owned();
    name.push(".migrations");
    name.into()
}

fn file(document: &Path) -> PathBuf {
    folder(document).join("ledger.jsonl")
}

impl Ledger {
    /// Reads the ledger beside a document; there may be none yet.
    pub(crate) fn read(document: &Path) -> Result<Self, Error> {
        let path = file(document);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        let mut ledger = Self::default();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            match serde_json::from_str(line) {
                Ok(done) => ledger.done.push(done),
                Err(_) => ledger.unreadable += 1,
            }
        }
        Ok(ledger)
    }

    /// Appends steps. One write, so that a line is there whole or not at all but for a power cut.
    pub(crate) fn append(document: &Path, done: &[Done]) -> Result<(), Error> {
        let path = file(document);
        let mut text = String::new();
        for entry in done {
            text.push_str(&serde_json::to_string(entry).expect("a ledger entry is plain data"));
            text.push('\n');
        }
        let mut file =
            fs::OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io("open", &path))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(Error::io("write", path))
    }
}
