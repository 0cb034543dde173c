//! `[reconciler]`.

use super::span::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The loop that keeps the kernel as desired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reconciler {
    /// How often everything is read back from the kernel, whatever happened. Stretched to 200 times the
    /// processor time of the last full read where that is longer.
    #[schemars(extend("x-min" = "100ms", "x-max" = "1h", "x-impact" = "hitless"))]
    pub full_read: Span,
    /// How long the loop gathers changes after it has looked at some: the first after a quiet time is looked at at
    /// once, those that follow within this time together. Requests of the CNI plugin never wait.
    #[schemars(extend("x-min" = "0s", "x-max" = "10s", "x-impact" = "hitless"))]
    pub debounce: Span,
}

impl Default for Reconciler {
    fn default() -> Self {
        Self { full_read: Span::from_secs(10), debounce: Span::from_millis(50) }
    }
}
