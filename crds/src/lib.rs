//! The objects users write: types of the API, reading them with positions, checking them whole, and lowering
//! them to the engine's world. Pure: bytes in, values out.
//!
//! Start at [`read_file`]; then [`lower::combine`].
//!
//! ```text
//! bytes ─ yaml::parse ─▶ Document ─ object::read ─▶ Object { header, facts, problems } ─ lower::combine ─▶ Pieces
//!                                     ├ schema::check: fields and types, from the types in `api`
//!                                     └ lower: values, and what they mean
//! ```
#![forbid(unsafe_code)]

pub mod api;
pub mod finding;
pub mod kind;
pub mod lower;
pub mod manifest;
pub mod object;
pub mod schema;
pub mod yaml;

use cilium_engine::problem::Problem;
use object::Reading;

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// Its documents.
    pub readings: Vec<Reading>,
    /// Why the rest could not be read.
    pub broken: Option<Problem>,
}

/// Reads a file. `name` is its path as problems show it.
pub fn read_file(bytes: &[u8], name: &str) -> File {
    let stream = yaml::parse(bytes);
    File {
        readings: stream.documents.into_iter().flat_map(|document| object::read(document, name)).collect(),
        broken: stream.broken.map(|finding| finding.problem("file", name)),
    }
}
