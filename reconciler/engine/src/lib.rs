//! The pure core: config, world, compile, state, diff, plan, check, pace. Values in, values out; no I/O,
//! no clock, no globals.
//!
//! Start at [`world::World`] (what is known), [`state`] (rows wanted and seen) and
//! [`compile::compile`], which leads from one to the other; [`diff::diff`] makes the plan.
#![forbid(unsafe_code)]

mod again;
pub mod check;
pub mod compile;
pub mod config;
pub mod diff;
pub mod driver;
pub mod eligible;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod history;
pub mod ipam;
mod ladder;
pub mod lines;
pub mod maglev;
pub mod map;
pub mod order;
pub mod pace;
pub mod plan;
pub mod problem;
pub mod realise;
pub mod scope;
pub mod shared;
pub mod state;
pub mod world;
