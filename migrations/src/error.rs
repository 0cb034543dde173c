//! What can go wrong, in words for operators.

use crate::step::StepName;
use std::io;
use std::path::PathBuf;

/// Why a migration was not planned or not applied. The document is untouched in every case.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The document is no TOML.
    #[error("{} is not TOML: {reason}", path.display())]
    Syntax {
        /// The document.
        path: PathBuf,
        /// Where and why, over several lines.
        reason: String,
    },
    /// The document's `version` is no whole number from 0 on.
    #[error("{}: `version` must be a whole number, not {found}", path.display())]
    Version {
        /// The document.
        path: PathBuf,
        /// What stands there.
        found: String,
    },
    /// There are no steps to or from that version.
    #[error(
        "no steps lead from version {from} to version {to}: this build knows versions {oldest} to {newest}\n\
         hint: use the build of cilium that wrote the document, or name a version in that range"
    )]
    Unknown {
        /// Version of the document.
        from: u32,
        /// Version asked for.
        to: u32,
        /// Oldest version this build knows.
        oldest: u32,
        /// Newest version this build knows.
        newest: u32,
    },
    /// A target on the wrong side of the document's version.
    #[error(
        "the document is at version {from}: `{command} --to {to}` does not lead there\n\
         hint: use `cilium migrate {other}`"
    )]
    WrongWay {
        /// Version of the document.
        from: u32,
        /// Version asked for.
        to: u32,
        /// The command that was used.
        command: &'static str,
        /// The command that leads there.
        other: &'static str,
    },
    /// A step refused the document.
    #[error("step {step} cannot be taken: {source}")]
    Step {
        /// Which.
        step: StepName,
        /// Why. Shown in the message, since it is what the operator has to act on.
        source: StepError,
    },
    /// The document changed between plan and apply.
    #[error("{} changed since the plan was made\nhint: plan again", path.display())]
    Changed {
        /// The document.
        path: PathBuf,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// Why a step refuses a document.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Keys the step does not know: dropping them could switch off what somebody relies on.
    #[error("nothing is known of {}\nhint: remove {} from the document, or correct the name", keys.join(", "),
            if keys.len() == 1 { "it" } else { "them" })]
    UnknownKeys {
        /// The keys.
        keys: Vec<String>,
    },
    /// A value that has no counterpart.
    #[error("{key} = {value} cannot be carried over\nhint: {hint}")]
    Value {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What to write instead.
        hint: String,
    },
    /// An old and a new spelling of one thing in one document.
    #[error("{old} and {new} both stand in the document\nhint: keep one of the two")]
    Twice {
        /// The older spelling.
        old: String,
        /// The newer spelling.
        new: String,
    },
    /// A table stands where a value is meant, or the other way round.
    #[error("{key} is not what the step expects: it must be {expected}")]
    Shape {
        /// The key.
        key: String,
        /// What it must be.
        expected: &'static str,
    },
}
