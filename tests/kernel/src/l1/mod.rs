//! Packet tests: the production programs, run by `BPF_PROG_TEST_RUN` on one packet at a time, and a
//! model of their decisions written a second time.
//!
//! ```text
//!  World (rows) ──▶ Lab: maps, programs, links in a namespace without a name
//!       │                 │ run(Input) ──▶ Seen
//!       └──▶ Model ───────┴─ run(Input) ──▶ Expected      compare() says where they differ
//! ```
//! A redirect is decided in a test run but not carried out: what is compared is the verdict, the
//! packet, the mark, events, counters and the conntrack and masquerading rows.
//! Root is needed. Nothing is pinned and the namespace has no name, so nothing outlives the process.

pub mod compare;
pub mod cost;
pub mod frontends;
pub mod lab;
pub mod model;
pub mod packet;
pub mod random;
pub mod relay;
mod rows;
pub mod rule;
pub mod script;
pub mod stack;
pub mod sys;
pub mod world;
