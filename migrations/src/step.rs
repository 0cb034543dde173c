//! What a step is.

use crate::error::StepError;
use cilium_engine::config::Digest;
use serde::{Deserialize, Serialize};
use std::fmt;
use toml_edit::DocumentMut;

/// One step between two neighbouring versions, in both directions. Both functions are pure.
pub(crate) struct Step {
    /// The older version; the newer is one more.
    pub(crate) from: u32,
    /// Number and name, as the file is called.
    pub(crate) name: &'static str,
    /// The step's own source, whose digest is what "released" means.
    pub(crate) source: &'static str,
    /// Older to newer. The second document is what a step backward saved, empty if none did. Gives notes.
    pub(crate) forward: fn(&mut DocumentMut, &DocumentMut) -> Result<Vec<String>, StepError>,
    /// Newer to older. What the older version cannot say moves to the second document. Gives notes.
    pub(crate) backward: fn(&mut DocumentMut, &mut DocumentMut) -> Result<Vec<String>, StepError>,
}

impl Step {
    /// The newer version.
    pub(crate) fn to(&self) -> u32 {
        self.from + 1
    }

    /// Digest of the step's source.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(self.source.as_bytes())
    }

    pub(crate) fn label(&self) -> StepName {
        StepName(self.name.to_owned())
    }
}

/// Number and name of a step, for example `0001_flat_keys`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepName(pub(crate) String);

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which way a step was, or would be, taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// To the newer version.
    Forward,
    /// To the older version.
    Backward,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
        })
    }
}
