//! Rows that a node does without, where the kernel refuses them: told as a problem, tried again with the
//! others that failed, and in nobody's way.

use cilium_engine::problem::{Problem, Problems, Severity};
use cilium_engine::realise::{Outcome, Report};
use cilium_engine::shared::Shared;
use cilium_engine::state::{Origin, RowId};
use std::collections::BTreeMap;

/// A row that is not as wanted, with the reason.
type Failed = (RowId, String);

/// Rows that the node needs, and those it does without.
pub(super) fn sort(failed: Vec<Failed>) -> (Vec<Failed>, Vec<Failed>) {
    failed.into_iter().partition(|(id, _)| !id.kind.is_optional())
}

/// Why rows were refused when they were last tried. May be dropped at any time.
#[derive(Debug, Default)]
pub(super) struct Refusals(BTreeMap<RowId, String>);

impl Refusals {
    /// Gives rows that were not tried in this pass the reason of their last try.
    pub(super) fn learn(&mut self, rows: Vec<Failed>, report: &Report) -> Vec<Failed> {
        let mut before = std::mem::take(&mut self.0);
        let tried = |id: &RowId| matches!(report.outcomes.get(id), Some(Outcome::Failed(_)));
        let now = rows.into_iter().map(|(id, reason)| {
            let known = before.remove(&id).filter(|_| !tried(&id));
            (id, known.unwrap_or(reason))
        });
        self.0 = now.collect();
        self.0.clone().into_iter().collect()
    }
}

/// Adds what was refused to the problems: one for all programs of sockets, which are refused together.
pub(super) fn tell(refused: &[Failed], problems: &mut Problems) {
    let Some(((first, reason), others)) = refused.split_first() else { return };
    let others = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
    let origin =
        Origin { object: "config".to_owned(), place: String::new(), rule: "load_balancer.socket".to_owned() };
    let message = format!(
        "{first}{others} could not be attached: {reason}; packets of pods are translated, processes of the node itself \
         may not reach Services"
    );
    let hint = "see paths.cgroup_root, or turn load_balancer.socket off".to_owned();
    problems.add(Shared::from(Problem { severity: Severity::Warning, origin, message, hint }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use cilium_engine::driver::DriverError;
    use cilium_engine::state::Kind;

    fn id(kind: Kind) -> RowId {
        RowId { kind, key: "x".to_owned() }
    }

    #[test]
    fn a_row_that_waits_for_its_next_try_keeps_its_reason() {
        let (row, route) = (id(Kind::SocketProgram), id(Kind::Route));
        let (needed, refused) =
            sort(vec![(row.clone(), "not permitted".into()), (route.clone(), "no".into())]);
        assert_eq!(needed, [(route, "no".to_owned())]);
        let mut refusals = Refusals::default();
        let failed = Outcome::Failed(DriverError::new("not permitted"));
        let tried = Report { outcomes: [(row.clone(), failed)].into() };
        let first = refusals.learn(refused, &tried);
        assert_eq!(first, [(row.clone(), "not permitted".to_owned())]);
        let waits = Outcome::Skipped { because: "not due".into() };
        let waiting = Report { outcomes: [(row.clone(), waits)].into() };
        assert_eq!(refusals.learn(vec![(row, "not due".into())], &waiting), first);
        let (mut now, mut later) = (Problems::default(), Problems::default());
        tell(&first, &mut now);
        tell(&first, &mut later);
        assert_eq!((now.len(), now == later), (1, true));
        assert!(refusals.learn(Vec::new(), &Report::default()).is_empty());
    }
}
