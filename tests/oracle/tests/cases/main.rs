//! The oracle held against the documentation it was written from.

mod documentation;
mod documentation_ports;
mod invalid;
mod network_policy;
mod properties;
mod scene;
mod tiers;
mod truth_table;
