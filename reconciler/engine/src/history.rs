//! What is kept of a pass that had something to do. A value; writing and reading it is others' work.

use crate::driver::DriverError;
use crate::lines::Line;
use crate::plan::{Plan, Totals};
use crate::realise::{Outcome, Report};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Steps kept of one pass at most; of the others only the number is.
pub const MOST_STEPS: usize = 1_000;

/// One pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When it began: milliseconds since 1970-01-01 UTC.
    pub at_ms: u64,
    /// How long the apply took, in microseconds.
    pub took_us: u64,
    /// What woke it, as `manifests`, `start`.
    pub woken_by: Vec<String>,
    /// Digest of the config it ran with (hex).
    pub config: String,
    /// Number of steps by verb.
    pub totals: Totals,
    /// Steps tried in vain.
    pub failed: usize,
    /// Steps not tried.
    pub skipped: usize,
    /// The steps, those not done first; at most [`MOST_STEPS`].
    pub steps: Vec<Entry>,
    /// Number of steps not kept.
    #[serde(default)]
    pub left_out: usize,
}

/// One step and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The step.
    #[serde(flatten)]
    pub line: Line,
    /// What became of it.
    pub outcome: Outcome,
}

/// When, why and with what a pass ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// Milliseconds since 1970-01-01 UTC.
    pub at_ms: u64,
    /// Duration of the apply in microseconds.
    pub took_us: u64,
    /// What woke it.
    pub woken_by: Vec<String>,
    /// Digest of the config (hex).
    pub config: String,
}

impl Record {
    /// The record of a plan and its report; none if there was nothing to do.
    pub fn of(plan: &Plan, report: &Report, circumstances: Circumstances) -> Option<Self> {
        if plan.is_empty() {
            return None;
        }
        let mut steps: Vec<Entry> = plan
            .lines()
            .into_iter()
            .map(|line| {
                let outcome = report.outcomes.get(&line.id()).cloned();
                let untold = || Outcome::Failed(DriverError::new("no result"));
                Entry { outcome: outcome.unwrap_or_else(untold), line }
            })
            .collect();
        steps.sort_by_key(|entry| entry.outcome == Outcome::Done);
        let left_out = steps.len().saturating_sub(MOST_STEPS);
        steps.truncate(MOST_STEPS);
        let Circumstances { at_ms, took_us, woken_by, config } = circumstances;
        Some(Self {
            at_ms,
            took_us,
            woken_by,
            config,
            totals: plan.totals(),
            failed: report.failed(),
            skipped: report.skipped(),
            steps,
            left_out,
        })
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Done => write!(f, "{}", self.line),
            Outcome::Failed(error) => write!(f, "! {} ({error})", self.line),
            Outcome::Skipped { because } => write!(f, "… {} ({because})", self.line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::diff;
    use crate::state::{DesiredState, ObservedState, Resource, Sysctl, SysctlKey};

    #[test]
    fn what_failed_is_kept_first_and_reads_back() {
        let mut desired = DesiredState::default();
        let key = |n: usize| SysctlKey(format!("{n:05}"));
        for n in 0..=MOST_STEPS {
            desired.state.sysctls.insert(key(n), "1".into(), None);
        }
        let plan = diff(&desired, &ObservedState::whole(Default::default()));
        let outcomes = (0..=MOST_STEPS).map(|n| (Sysctl::id(&key(n)), Outcome::Done));
        let mut report = Report { outcomes: outcomes.collect() };
        report.outcomes.insert(Sysctl::id(&key(700)), Outcome::Failed(DriverError::new("denied")));
        let record = Record::of(&plan, &report, Circumstances::default()).expect("there was something to do");
        assert_eq!((record.steps.len(), record.left_out, record.failed), (MOST_STEPS, 1, 1));
        assert_eq!(record.steps[0].to_string(), "! + sysctl 00700: 1 (denied)");
        let text = serde_json::to_string(&record).expect("plain structs serialise");
        assert_eq!(serde_json::from_str::<Record>(&text).expect("as it was written"), record);
    }

    #[test]
    fn a_pass_with_nothing_to_do_leaves_no_record() {
        assert_eq!(Record::of(&Plan::default(), &Report::default(), Circumstances::default()), None);
    }
}
