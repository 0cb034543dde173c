//! What is wrong in a document: where, what it means, and the mend.

use crate::yaml::Position;
use cilium_engine::problem::{Problem, Severity};
use cilium_engine::state::Origin;

/// What a finding means for the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// In force as written; worth a look.
    Warning,
    /// Valid, but this version cannot enforce it: the part fails closed.
    Unsupported,
    /// Not valid: the object's last good version counts, or it fails closed.
    Invalid,
}

/// A finding in a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Where, relative to the file.
    pub at: Position,
    /// The field, as `spec.ingress[0].fromEndpoints`; empty for the document.
    pub path: String,
    /// What it means.
    pub class: Class,
    /// What is wrong.
    pub message: String,
    /// What to do; may be empty.
    pub hint: String,
}

impl Finding {
    /// An invalid place without a path.
    pub fn at(at: Position, message: String, hint: &str) -> Self {
        Self { at, path: String::new(), class: Class::Invalid, message, hint: hint.to_owned() }
    }

    /// As operators see it.
    pub fn problem(&self, object: &str, file: &str) -> Problem {
        let severity = match self.class {
            Class::Warning => Severity::Warning,
            Class::Unsupported | Class::Invalid => Severity::Error,
        };
        Problem {
            severity,
            origin: Origin {
                object: object.to_owned(),
                place: format!("{file}:{}", self.at),
                rule: self.path.clone(),
            },
            message: self.message.clone(),
            hint: self.hint.clone(),
        }
    }
}
