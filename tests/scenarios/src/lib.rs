//! Behaviours as data: worlds and the plans they must give.
//!
//! ```text
//! data/*.txt ─ file::parse ─▶ Scenario { setup, steps }
//!     each step: inputs change ─ input ─▶ World ─ compile ─▶ wanted ─ diff ─▶ plan = the plan written there?
//!                                                           FakeKernel ◀─ realise ─┘   and then: empty?
//! ```
//! [`run`] walks a scenario; [`expand`] walks it again in the ways a host can be unlucky.
#![forbid(unsafe_code)]

pub mod expand;
pub mod file;
pub mod input;
pub mod run;
