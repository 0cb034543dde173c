//! `[datapath]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How programs are attached to devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Attach {
    /// `tcx` where the kernel has it (6.6 and later), else `clsact`.
    #[default]
    Auto,
    /// Links at the head of the device's list of programs. Needs kernel 6.6.
    Tcx,
    /// Filters of a `clsact` queueing discipline.
    Clsact,
}

/// How programs are attached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Datapath {
    /// How programs are attached to devices.
    #[schemars(extend("x-impact" = "reload"))]
    pub attach: Attach,
}
