//! Inputs to a snapshot: config file, manifest folder, endpoint records.
#![forbid(unsafe_code)]

pub mod config;
pub mod folder;
pub mod kept;
pub mod records;
pub mod world;
