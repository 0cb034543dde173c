//! What the operator sees when a configuration is refused.

use super::entry::{Excerpt, Origin, Position};
use std::fmt;
use std::io;
use std::path::Path;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The keys it is about, most telling first.
    pub keys: Vec<String>,
    /// Where the operator has to look.
    pub origin: Origin,
    /// What is wrong, naming the key.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Where the other keys that take part are set.
    pub notes: Vec<String>,
    pub(super) excerpt: Option<Excerpt>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.message)?;
        writeln!(f, "  --> {}", self.origin)?;
        if let (Some(excerpt), Origin::File { position, .. }) = (&self.excerpt, &self.origin) {
            let number = position.line.to_string();
            let indent = " ".repeat(number.len());
            // Tabs keep their width in the line below, so that the marker stands under the value.
            let before: String = excerpt
                .line
                .chars()
                .take(position.column - 1)
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            writeln!(f, "  {number} | {}", excerpt.line)?;
            writeln!(f, "  {indent} | {before}{}", "^".repeat(excerpt.width.max(1)))?;
        }
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        if let Some(hint) = &self.hint {
            writeln!(f, "  hint: {hint}")?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a configuration, in the order of the layers; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The errors.
    pub errors: Vec<ConfigError>,
}

impl ConfigErrors {
    /// Puts errors in the order of the layers, within the file in the order of its lines.
    pub(super) fn sorted(mut errors: Vec<ConfigError>) -> Self {
        errors.sort_by_key(|error| match &error.origin {
            Origin::File { position, .. } => (0, Some(*position)),
            Origin::Environment { .. } => (1, None),
            Origin::Set { .. } => (2, None),
            Origin::Default | Origin::Hostname => (3, None),
        });
        Self { errors }
    }

    pub(super) fn one(error: ConfigError) -> Self {
        Self { errors: vec![error] }
    }

    pub(super) fn unreadable(path: &Path, error: &io::Error) -> Self {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => "name the file with --config; cilium.toml.example is a start",
            _ => "the file must be readable UTF-8 text",
        };
        Self::one(ConfigError {
            keys: Vec::new(),
            origin: Origin::File { path: path.to_owned(), position: Position { line: 1, column: 1 } },
            message: format!("cannot read the configuration file {}: {error}", path.display()),
            hint: Some(hint.into()),
            notes: Vec::new(),
            excerpt: None,
        })
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            writeln!(f, "{error}")?;
        }
        let count = self.errors.len();
        write!(f, "the configuration is refused: {count} error{}", if count == 1 { "" } else { "s" })
    }
}

impl std::error::Error for ConfigErrors {}
