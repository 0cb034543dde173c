//! Health as it was observed: what the last pass found, never "the process is alive".

use super::drivers::DriverStatus;
use cilium_engine::problem::Problems;
use serde::{Deserialize, Serialize};
use std::fmt;

/// State of the agent after its last pass.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Status {
    /// Version of the agent.
    pub version: String,
    /// Name of this node.
    pub node: String,
    /// The plan was empty at the end of the last pass, and every kind could be read.
    pub in_sync: bool,
    /// All sources have delivered a whole picture.
    pub synced: bool,
    /// Digest of the configuration in force.
    pub config_digest: String,
    /// The file on disk differs from what runs; `plan` shows what a restart would change.
    pub config_changed_on_disk: bool,
    /// The last pass.
    pub last_pass: PassSummary,
    /// Passes since start.
    pub passes: u64,
    /// Rows wanted, by kind.
    pub kinds: Vec<KindStatus>,
    /// Rows that could not be written, with the reason.
    pub failed: Vec<FailedRow>,
    /// Kinds that could not be read, with the reason.
    pub unread: Vec<FailedRow>,
    /// Services at sockets.
    pub sockets: SocketStatus,
    /// Devices and whether their drivers serve clients outside; none: disabled.
    pub acceleration: Vec<DriverStatus>,
    /// Services whose `healthCheckNodePort` is not served, and why.
    pub health_checks: Vec<String>,
    /// What is wrong with objects.
    pub problems: Problems,
}

/// Services at sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct SocketStatus {
    /// Whether sockets meet them.
    pub state: SocketState,
    /// The cgroup whose processes' sockets do.
    pub cgroup: Option<String>,
    /// Only those of the node's own network namespace.
    pub host_namespace_only: bool,
    /// Why sockets to backends that are gone could not be ended; empty: they were.
    pub trouble: String,
}

/// Whether sockets meet Services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SocketState {
    /// Nobody wants it.
    #[default]
    Off,
    /// They do.
    Active,
    /// They should; the problems say why they do not.
    Inactive,
}

impl fmt::Display for SocketStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.state {
            SocketState::Off => f.write_str("off: packets are translated")?,
            SocketState::Inactive => f.write_str("do not meet Services; see the problems")?,
            SocketState::Active => {
                let whose =
                    if self.host_namespace_only { "the node itself" } else { "the node and its pods" };
                write!(f, "those of {whose} meet Services")?;
                self.cgroup.iter().try_for_each(|cgroup| write!(f, " ({cgroup})"))?;
            }
        }
        if self.trouble.is_empty() {
            return Ok(());
        }
        write!(f, "; those to removed backends were not ended: {}", self.trouble)
    }
}

/// What one pass did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct PassSummary {
    /// What woke it.
    pub woken_by: Vec<String>,
    /// Seconds since the epoch when it began.
    pub started: u64,
    /// How long each stage took, microseconds.
    pub micros: StageTimes,
    /// Rows read.
    pub rows_read: usize,
    /// Rows wanted.
    pub rows_wanted: usize,
    /// Steps planned.
    pub steps: usize,
    /// Steps that failed or were skipped.
    pub failed: usize,
    /// Steps that repaired what somebody else had changed.
    pub drift: usize,
    /// All kinds were read whole.
    pub full: bool,
}

/// Time per stage in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StageTimes {
    /// Reading the sources.
    pub sources: u64,
    /// Compiling.
    pub compile: u64,
    /// Reading the host.
    pub observe: u64,
    /// Comparing.
    pub diff: u64,
    /// Writing.
    pub apply: u64,
    /// All of it.
    pub total: u64,
}

/// Rows of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct KindStatus {
    /// The kind.
    pub kind: String,
    /// Rows wanted.
    pub wanted: usize,
    /// Drift found since start.
    pub drift_found: u64,
    /// Drift repaired since start.
    pub drift_repaired: u64,
}

/// A row or kind with the reason why it is not as wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FailedRow {
    /// Kind and key, or the kind.
    pub row: String,
    /// The reason.
    pub reason: String,
}

impl Status {
    /// In sync, with all sources there and no row failing.
    pub(crate) fn healthy(&self) -> bool {
        self.in_sync && self.synced && self.failed.is_empty() && self.unread.is_empty()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |good, yes, no| if good { yes } else { no };
        writeln!(f, "Cilium:        {}", word(self.healthy(), "OK", "not healthy"))?;
        writeln!(f, "Version:       {}", self.version)?;
        writeln!(f, "Node:          {}", self.node)?;
        writeln!(
            f,
            "Sources:       {}",
            word(self.synced, "synced", "not synced: nothing of theirs is removed")
        )?;
        writeln!(
            f,
            "State:         {}, {} rows wanted",
            word(self.in_sync, "in sync", "not in sync"),
            self.last_pass.rows_wanted
        )?;
        writeln!(
            f,
            "Configuration: {}",
            word(
                !self.config_changed_on_disk,
                "as on disk",
                "the file on disk differs; `cilium plan` shows what a restart changes"
            )
        )?;
        let drift: u64 = self.kinds.iter().map(|k| k.drift_repaired).sum();
        writeln!(
            f,
            "Passes:        {}, the last took {} ms (woken by {}); drift repaired: {drift}",
            self.passes,
            self.last_pass.micros.total / 1000,
            self.last_pass.woken_by.join(", ")
        )?;
        writeln!(f, "Sockets:       {}", self.sockets)?;
        if self.acceleration.is_empty() {
            writeln!(f, "Acceleration:  disabled")?;
        } else {
            let devices: Vec<String> = self.acceleration.iter().map(ToString::to_string).collect();
            writeln!(f, "Acceleration:  {}", devices.join(", "))?;
        }
        writeln!(f, "Problems:      {}", self.problems.len())?;
        for row in self.unread.iter().chain(&self.failed) {
            writeln!(f, "  ! {}: {}", row.row, row.reason)?;
        }
        for trouble in &self.health_checks {
            writeln!(f, "  ! {trouble}")?;
        }
        for problem in self.problems.iter() {
            writeln!(f, "  {problem}")?;
        }
        Ok(())
    }
}
