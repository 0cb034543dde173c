//! Events of the datapath: decoded from the ring buffer, named from the agent's view, printed.
//!
//! Reads only; never part of a pass. The layout is `cilium_abi::event::Event`, the names come through
//! [`Names`], so this crate knows neither maps nor objects.
#![forbid(unsafe_code)]

mod line;
mod named;

pub use named::{EventKind, NamedEvent, Names, Party, decode, name, told};
