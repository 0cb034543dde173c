//! Metrics in OpenMetrics text. Names that dashboards made for Cilium read are Cilium's.

use anyhow::{Context, Result};
use cilium_engine::state::Kind;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::sync::atomic::Ordering;

/// Label `kind`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct KindLabel {
    /// Name of the kind.
    pub kind: &'static str,
}

/// Labels of steps.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct StepLabel {
    /// Name of the kind.
    pub kind: &'static str,
    /// `create`, `update` or `remove`.
    pub verb: &'static str,
    /// `done`, `failed` or `skipped`.
    pub outcome: &'static str,
}

/// Label `stage`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct StageLabel {
    /// Stage of a pass.
    pub stage: &'static str,
}

/// Label `trigger`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct TriggerLabel {
    /// What woke the pass.
    pub trigger: String,
}

/// Label `severity`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct SeverityLabel {
    /// `warning` or `error`.
    pub severity: &'static str,
}

/// Labels of packet counters.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct DropLabel {
    /// Text of the reason.
    pub reason: &'static str,
    /// `INGRESS`, `EGRESS`, `SERVICE` or `UNKNOWN`.
    pub direction: &'static str,
}

/// Label `direction`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct DirectionLabel {
    /// `INGRESS`, `EGRESS`, `SERVICE` or `UNKNOWN`.
    pub direction: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VersionLabel {
    version: &'static str,
}

/// All metrics of the agent.
pub(super) struct AgentMetrics {
    registry: Registry,
    /// Passes.
    pub passes: Family<TriggerLabel, Counter>,
    /// Seconds per stage.
    pub stage_seconds: Family<StageLabel, Histogram>,
    /// Steps carried out.
    pub steps: Family<StepLabel, Counter>,
    /// Rows found other than wanted, though nothing wanted had changed.
    pub drift_found: Family<KindLabel, Counter>,
    /// Of these, repaired.
    pub drift_repaired: Family<KindLabel, Counter>,
    /// Rows wanted.
    pub rows: Family<KindLabel, Gauge>,
    /// Problems with objects.
    pub problems: Family<SeverityLabel, Gauge>,
    /// Sockets ended because their backend was gone.
    pub sockets_ended: Counter,
    /// Endpoints.
    pub endpoints: Gauge,
    /// Whether the last pass ended in sync.
    pub in_sync: Gauge,
    /// Whether the configuration file differs from what runs.
    pub config_changed: Gauge,
    drops: Family<DropLabel, Counter>,
    drop_bytes: Family<DropLabel, Counter>,
    forwards: Family<DirectionLabel, Counter>,
    forward_bytes: Family<DirectionLabel, Counter>,
    events_lost: Family<DirectionLabel, Counter>,
    events_withheld: Family<DirectionLabel, Counter>,
}

impl Default for AgentMetrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("cilium");
        let buckets = || Histogram::new(exponential_buckets(0.000_1, 2.0, 18));
        let metrics = Self {
            passes: Family::default(),
            stage_seconds: Family::new_with_constructor(buckets),
            steps: Family::default(),
            drift_found: Family::default(),
            drift_repaired: Family::default(),
            rows: Family::default(),
            problems: Family::default(),
            sockets_ended: Counter::default(),
            endpoints: Gauge::default(),
            in_sync: Gauge::default(),
            config_changed: Gauge::default(),
            drops: Family::default(),
            drop_bytes: Family::default(),
            forwards: Family::default(),
            forward_bytes: Family::default(),
            events_lost: Family::default(),
            events_withheld: Family::default(),
            registry: Registry::default(),
        };
        let r = &mut registry;
        r.register("reconciler_passes", "Passes of the loop by what woke them", metrics.passes.clone());
        r.register("reconciler_stage_seconds", "Time per stage of a pass", metrics.stage_seconds.clone());
        r.register("reconciler_steps", "Steps carried out", metrics.steps.clone());
        r.register("reconciler_drift_found", "Rows found changed by others", metrics.drift_found.clone());
        r.register(
            "reconciler_drift_repaired",
            "Rows changed by others and repaired",
            metrics.drift_repaired.clone(),
        );
        r.register("reconciler_rows", "Rows wanted", metrics.rows.clone());
        r.register(
            "reconciler_in_sync",
            "1 if the last pass ended with nothing to do",
            metrics.in_sync.clone(),
        );
        r.register(
            "reconciler_config_changed",
            "1 if the file differs from what runs",
            metrics.config_changed.clone(),
        );
        r.register("problems", "Problems with objects", metrics.problems.clone());
        r.register(
            "sockets_ended",
            "Sockets ended because no Service has their backend any more",
            metrics.sockets_ended.clone(),
        );
        r.register("endpoint", "Endpoints of this node", metrics.endpoints.clone());
        r.register("drop_count", "Packets dropped by reason", metrics.drops.clone());
        r.register("drop_bytes", "Bytes dropped by reason", metrics.drop_bytes.clone());
        r.register("forward_count", "Packets forwarded", metrics.forwards.clone());
        r.register("forward_bytes", "Bytes forwarded", metrics.forward_bytes.clone());
        r.register("events_lost", "Events that did not fit the ring buffer", metrics.events_lost.clone());
        r.register(
            "events_withheld",
            "Events of refused packets beyond monitor.refusals_per_second",
            metrics.events_withheld.clone(),
        );
        let version: Family<VersionLabel, Gauge> = Family::default();
        version.get_or_create(&VersionLabel { version: env!("CARGO_PKG_VERSION") }).set(1);
        r.register("version", "Version of the agent", version);
        Self { registry, ..metrics }
    }
}

impl AgentMetrics {
    /// The text.
    ///
    /// # Errors
    /// Formatting failed.
    pub(super) fn encode(&self) -> Result<String> {
        let mut text = String::new();
        encode(&mut text, &self.registry).context("encode metrics")?;
        Ok(text)
    }

    /// Takes over the datapath's counters: `(reason, direction, packets, bytes)`, totals since load.
    pub(super) fn set_packets(&self, rows: &[(u8, u8, u64, u64)]) {
        for &(reason, direction, packets, bytes) in rows {
            let direction = direction_name(direction);
            if reason == cilium_abi::metrics::FORWARDED {
                raise(&self.forwards.get_or_create(&DirectionLabel { direction }), packets);
                raise(&self.forward_bytes.get_or_create(&DirectionLabel { direction }), bytes);
            } else if reason == cilium_abi::metrics::EVENT_LOST {
                raise(&self.events_lost.get_or_create(&DirectionLabel { direction }), packets);
            } else if reason == cilium_abi::metrics::EVENT_WITHHELD {
                raise(&self.events_withheld.get_or_create(&DirectionLabel { direction }), packets);
            } else if let Some(text) = cilium_abi::drop::text(reason) {
                let label = DropLabel { reason: text, direction };
                raise(&self.drops.get_or_create(&label), packets);
                raise(&self.drop_bytes.get_or_create(&label), bytes);
            }
        }
    }

    /// Sets the number of rows wanted of a kind.
    pub(super) fn set_rows(&self, kind: Kind, rows: usize) {
        self.rows
            .get_or_create(&KindLabel { kind: kind.name() })
            .set(i64::try_from(rows).unwrap_or(i64::MAX));
    }
}

/// The kernel counts; a counter here only follows it upwards.
fn raise(counter: &Counter, total: u64) {
    counter.inner().fetch_max(total, Ordering::Relaxed);
}

/// As in the label `direction`.
pub(crate) fn direction_name(direction: u8) -> &'static str {
    match direction {
        cilium_abi::metrics::DIRECTION_INGRESS => "INGRESS",
        cilium_abi::metrics::DIRECTION_EGRESS => "EGRESS",
        cilium_abi::metrics::DIRECTION_SERVICE => "SERVICE",
        _ => "UNKNOWN",
    }
}
