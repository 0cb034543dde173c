//! The pure core: config, world, compile, state, diff, plan, check, pace. Values in, values out; no I/O,
//! no clock, no globals.
//!
//! Start at [`world::World`] (what is known), [`state`] (rows wanted and seen) and
//! [`compile::compile`], which leads from one to the other; [`diff::diff`] makes the plan.
#![forbid(unsafe_code)]

pub mod config;
pub mod driver;
pub mod problem;
pub mod state;
pub mod world;
pub mod diff;
mod ladder;
pub mod order;
pub mod plan;
pub mod lines;
pub mod realise;
pub mod scope;
