//! `[monitor]`.

use super::span::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many packets of a connection give a trace event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Aggregation {
    /// Every packet, at every point it passes.
    None,
    /// Every packet, only where it is delivered or leaves.
    Low,
    /// As `low`, and once per connection, direction and interval unless a TCP flag is new.
    #[default]
    Medium,
    /// As `medium`, heeding only SYN, FIN and RST among the flags.
    Maximum,
}

/// Events of the datapath, as `cilium monitor` shows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Monitor {
    /// How many packets of a connection give a trace event.
    #[schemars(extend("x-impact" = "reload"))]
    pub aggregation: Aggregation,
    /// Time between two trace events of one connection and direction, in whole seconds.
    #[schemars(extend("x-min" = "1s", "x-max" = "1h", "x-step" = "1s", "x-impact" = "reload"))]
    pub interval: Span,
    /// Dropped packets give events.
    #[schemars(extend("x-impact" = "reload"))]
    pub drop: bool,
    /// Forwarded packets give events.
    #[schemars(extend("x-impact" = "reload"))]
    pub trace: bool,
    /// Refused packets that give events, per second and CPU; the others are counted only. 0: all of them.
    #[schemars(range(min = 0, max = 10_000_000), extend("x-impact" = "reload"))]
    pub refusals_per_second: u32,
    /// Decisions of policy give events.
    #[schemars(extend("x-impact" = "reload"))]
    pub policy_verdict: bool,
}

/// What a reader of flows keeps up with, and a flood exceeds.
const REFUSALS: u32 = 100_000;

impl Default for Monitor {
    fn default() -> Self {
        Self {
            aggregation: Aggregation::default(),
            interval: Span::from_secs(5),
            drop: true,
            trace: true,
            refusals_per_second: REFUSALS,
            policy_verdict: true,
        }
    }
}
