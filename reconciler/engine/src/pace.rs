//! When rows that failed are tried again: 100 ms, then twice as long each time, at most 60 s, with
//! jitter. Decides only when, never what; time and chance are arguments.

use crate::realise::{Outcome, Report};
use crate::state::RowId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The first wait.
pub const FIRST: Duration = Duration::from_millis(100);
/// The longest wait.
pub const LONGEST: Duration = Duration::from_secs(60);

/// Rows that failed, and when each is due. May be dropped at any time: then all are due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    rows: BTreeMap<RowId, Wait>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wait {
    failures: u32,
    /// Since whatever the caller's clock began with.
    due: Duration,
}

impl Pace {
    /// Learns from a pass that ended at `now`. Rows of the report that were done, and rows that are in no
    /// plan any more, are forgotten; skipped rows keep what they had. `chance` gives numbers from 0 to 1:
    /// a wait is shortened by up to a quarter of it.
    pub fn learn(&mut self, report: &Report, now: Duration, mut chance: impl FnMut() -> f64) {
        let before = std::mem::take(&mut self.rows);
        for (id, outcome) in &report.outcomes {
            match outcome {
                Outcome::Done => {}
                Outcome::Failed(_) => {
                    let failures = before.get(id).map_or(0, |wait| wait.failures).saturating_add(1);
                    let share = 1.0 - 0.25 * chance().clamp(0.0, 1.0);
                    self.rows.insert(id.clone(), Wait { failures, due: now + wait(failures).mul_f64(share) });
                }
                Outcome::Skipped { .. } => {
                    if let Some(wait) = before.get(id) {
                        self.rows.insert(id.clone(), *wait);
                    }
                }
            }
        }
    }

    /// Rows that are not due yet: to be handed to [`crate::realise::realise`].
    pub fn later(&self, now: Duration) -> BTreeSet<RowId> {
        self.rows.iter().filter(|(_, wait)| wait.due > now).map(|(id, _)| id.clone()).collect()
    }

    /// How long until the next row is due; none if none waits.
    pub fn next(&self, now: Duration) -> Option<Duration> {
        self.rows.values().map(|wait| wait.due.saturating_sub(now)).min()
    }

    /// Number of rows that wait.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether no row waits.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// The wait after so many failures in a row, without jitter.
fn wait(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST * (1 << doublings)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::DriverError;
    use crate::state::Kind;

    fn report(outcome: Outcome) -> Report {
        let id = RowId { kind: Kind::Route, key: "10.0.0.0/8".to_owned() };
        Report { outcomes: [(id, outcome)].into() }
    }

    fn failed() -> Report {
        report(Outcome::Failed(DriverError::new("no")))
    }

    #[test]
    fn waits_double_up_to_a_minute_and_end_with_success() {
        let (mut pace, mut now, mut waits) = (Pace::default(), Duration::ZERO, Vec::new());
        for _ in 0..12 {
            pace.learn(&failed(), now, || 0.0);
            let wait = pace.next(now).expect("a row failed");
            assert_eq!(pace.later(now).len(), 1);
            now += wait;
            assert_eq!(pace.later(now).len(), 0, "due when its wait is over");
            waits.push(wait.as_millis());
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]);
        pace.learn(&report(Outcome::Done), now, || 0.0);
        assert!(pace.is_empty());
    }

    #[test]
    fn a_skipped_row_keeps_its_wait_and_a_row_no_longer_wanted_has_none() {
        let mut pace = Pace::default();
        pace.learn(&failed(), Duration::ZERO, || 1.0);
        assert_eq!(pace.next(Duration::ZERO), Some(Duration::from_millis(75)), "jitter shortens");
        let before = pace.clone();
        pace.learn(&report(Outcome::Skipped { because: String::new() }), Duration::from_millis(10), || 0.0);
        assert_eq!(pace, before);
        pace.learn(&Report::default(), Duration::from_millis(20), || 0.0);
        assert!(pace.is_empty());
    }
}
