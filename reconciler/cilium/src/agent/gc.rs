//! Periodic cleaning of what the kernel side fills: conntrack and masquerading. Not a part of a pass.

use super::metrics::AgentMetrics;
use cilium_kernel::Kernel;
use std::time::{Duration, Instant};

/// How often the datapath's packet counters are read into the metrics.
const COUNTERS: Duration = Duration::from_secs(5);

/// Knows when the next cleaning is due.
#[derive(Debug)]
pub struct Collector {
    interval: Duration,
    next: Instant,
    next_counters: Instant,
}

impl Collector {
    /// Cleans every `interval`.
    pub fn new(interval: Duration) -> Self {
        let now = Instant::now();
        Self { interval, next: now + interval, next_counters: now }
    }

    /// Runs what is due.
    pub fn run_if_due(&mut self, kernel: &mut Kernel, metrics: &AgentMetrics) {
        let now = Instant::now();
        if now >= self.next_counters {
            self.next_counters = now + COUNTERS;
            match kernel.bpf.packet_counters() {
                Ok(rows) => metrics.set_packets(&rows),
                Err(e) => tracing::warn!("read packet counters: {e}"),
            }
        }
        if now >= self.next {
            self.next = now + self.interval;
            match kernel.bpf.collect_garbage() {
                Ok(report) => tracing::debug!(?report, "conntrack cleaned"),
                Err(e) => tracing::warn!("clean conntrack: {e}"),
            }
        }
    }
}
