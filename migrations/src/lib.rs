//! Numbered steps between versions of documents, a ledger of those taken, and a runner.
//!
//! ```text
//! cilium.toml ──read──▶ copy ──step──▶ copy ──step──▶ copy ──one rename──▶ cilium.toml
//!                               │ backward: what the older version cannot say
//!                               ▼
//!            cilium.toml.migrations/  saved-1-to-0.toml   ledger.jsonl   before-<digest>.toml
//! ```
//!
//! Steps are pure: document in, document out, so every plan is the whole outcome, and a dry run is a
//! plan that is not applied. Documents are untyped here (`toml_edit`): comments survive, and a step
//! keeps working when the types of later versions change. What a downgrade cannot express is saved
//! beside the file and given back on the way up. A released step never changes: its digest stands in
//! `released.txt`, and a test compares. The agent itself never migrates; it refuses and names the
//! command. Start at [`plan`]; steps live in `config/`.
#![forbid(unsafe_code)]

mod config;
mod difference;
mod error;
mod ledger;
mod run;
mod step;
mod swap;

pub use difference::Difference;
pub use error::{Error, StepError};
pub use ledger::{Done, Ledger};
pub use run::{Migration, Saved, Status, Taken, Target, apply, plan, status};
pub use step::{Direction, StepName};

/// The version this build of the agent reads.
pub const CURRENT: u32 = cilium_engine::config::VERSION;
