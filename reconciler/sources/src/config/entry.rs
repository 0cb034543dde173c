//! One value as one layer gives it, and a layer of them as a figment provider.

use figment::value::{Dict, Map, Value as FigmentValue};
use figment::{Metadata, Profile, Provider};
use serde::Serialize;
use serde_json::Value;
use std::fmt;
use std::path::PathBuf;

/// A place in a file; both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "layer", rename_all = "kebab-case")]
pub enum Origin {
    /// No layer sets it.
    Default,
    /// The configuration file.
    File {
        /// Path as it was given.
        path: PathBuf,
        /// Where the value stands.
        #[serde(flatten)]
        position: Position,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// `--set` on the command line.
    Set {
        /// The argument as it was given.
        argument: String,
    },
    /// The name of this host.
    Hostname,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, position } => {
                write!(f, "{}:{}:{}", path.display(), position.line, position.column)
            }
            Self::Environment { variable } => write!(f, "environment variable {variable}"),
            Self::Set { argument } => write!(f, "--set {argument}"),
            Self::Hostname => f.write_str("host name"),
        }
    }
}

/// A line of the file, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Excerpt {
    /// The line without its end.
    pub(super) line: String,
    /// Characters to underline.
    pub(super) width: usize,
}

/// One value of one layer.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Dotted path.
    pub(super) path: String,
    /// The value, or the name of what TOML has and no key takes ("a date").
    pub(super) value: Result<Value, &'static str>,
    pub(super) origin: Origin,
    pub(super) excerpt: Option<Excerpt>,
}

/// The layers above the defaults, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LayerName {
    File,
    Environment,
    Set,
}

impl LayerName {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Environment => "environment",
            Self::Set => "--set",
        }
    }
}

/// All values of one layer; of two for one key the last counts.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) name: LayerName,
    pub(super) entries: Vec<Entry>,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.word())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        let mut dict = Dict::new();
        for entry in &self.entries {
            let Ok(value) = &entry.value else { continue };
            insert(&mut dict, &entry.path, FigmentValue::serialize(value)?);
        }
        Ok(Profile::Default.collect(dict))
    }
}

fn insert(dict: &mut Dict, path: &str, value: FigmentValue) {
    let Some((table, rest)) = path.split_once('.') else {
        dict.insert(path.to_owned(), value);
        return;
    };
    let inner = dict.entry(table.to_owned()).or_insert_with(|| Dict::new().into());
    if let FigmentValue::Dict(_, inner) = inner {
        insert(inner, rest, value);
    }
}
