//! Periodic cleaning of what the kernel side fills: conntrack and masquerading. Not a part of a pass.

use super::metrics::AgentMetrics;
use cilium_engine::config::Bpf;
use cilium_kernel::bpf::{counters, gc};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often the datapath's packet counters are read into the metrics.
const COUNTERS: Duration = Duration::from_secs(5);

/// Knows when the next cleaning is due.
#[derive(Debug)]
pub(super) struct Collector {
    interval: Duration,
    idle: gc::Idle,
    next: Instant,
    next_counters: Instant,
}

impl Collector {
    /// Cleans as the configuration says.
    pub(super) fn new(config: &Bpf) -> Self {
        let now = Instant::now();
        let interval = config.ct_gc_interval.duration();
        let seconds =
            |span: cilium_engine::config::Span| u32::try_from(span.duration().as_secs()).unwrap_or(u32::MAX);
        let idle = gc::Idle {
            host_tcp: seconds(config.ct_timeout_regular_tcp),
            any: seconds(config.ct_timeout_regular_any),
        };
        Self { interval, idle, next: now + interval, next_counters: now }
    }

    /// Runs what is due.
    pub(super) fn run_if_due(&mut self, bpf_dir: &Path, metrics: &AgentMetrics) {
        let now = Instant::now();
        if now >= self.next_counters {
            self.next_counters = now + COUNTERS;
            match counters::read(bpf_dir) {
                Ok(rows) => {
                    let rows: Vec<_> =
                        rows.iter().map(|c| (c.reason, c.direction, c.packets, c.bytes)).collect();
                    metrics.set_packets(&rows);
                }
                Err(e) => tracing::warn!("{e}"),
            }
        }
        if now >= self.next {
            self.next = now + self.interval;
            let clock = gc::now_seconds();
            let connections = gc::conntrack(bpf_dir, clock);
            match connections.and_then(|c| Ok((c, gc::snat(bpf_dir, clock, self.idle)?))) {
                Ok((connections, translations)) => tracing::debug!(?connections, ?translations, "cleaned"),
                Err(e) => tracing::warn!("{e}"),
            }
        }
    }
}
