//! The end of all that is ours: passes that want nothing.

use super::{Reconciler, sysctl_record};
use anyhow::{Context, Result};
use cilium_engine::diff::diff;
use cilium_engine::plan::Plan;
use cilium_engine::realise::{observe, realise};
use cilium_engine::scope::Scopes;
use cilium_engine::state::{DesiredState, RowId, SourceSet};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;

impl Reconciler {
    /// What [`Self::destroy`] would do.
    ///
    /// # Errors
    /// The host cannot be read.
    pub(crate) fn plan_destruction(&mut self) -> Result<Plan> {
        Ok(self.destruction().1)
    }

    fn destruction(&mut self) -> (DesiredState, Plan) {
        let desired = DesiredState { synced: SourceSet::ALL, ..DesiredState::default() };
        self.kernel.net.watch_sysctls(BTreeSet::new(), None, sysctl_record(&self.loaded.config));
        self.place_pods();
        let observed = observe(&mut self.kernel, &Scopes::all());
        let plan = diff(&desired, &observed);
        (desired, plan)
    }

    /// Removes everything of ours, in passes, until nothing is left or nothing moves.
    ///
    /// # Errors
    /// The record of sysctls cannot be removed.
    pub(crate) fn destroy(mut self) -> Result<Destroyed> {
        let mut first = None;
        let mut failures = Vec::new();
        for _ in 0..5 {
            let (_, plan) = self.destruction();
            if plan.is_empty() {
                failures.clear();
                break;
            }
            let report =
                realise(&plan, &mut self.kernel, &BTreeSet::new(), &mut |_| ControlFlow::Continue(()));
            failures = super::failures(&report);
            first.get_or_insert(plan);
        }
        let ids: Vec<u16> = self.records.endpoints().keys().copied().collect();
        for id in ids {
            self.records.remove(id).with_context(|| format!("forget endpoint {id}"))?;
        }
        remove_empty(&self.loaded.config.paths.bpf_dir);
        Ok(Destroyed { plan: first.unwrap_or_default(), failures })
    }
}

/// What `destroy` did.
pub(crate) struct Destroyed {
    /// What was to be removed.
    pub plan: Plan,
    /// What could not be.
    pub failures: Vec<(RowId, String)>,
}

/// Removes the directories of pins, if nothing is left in them.
fn remove_empty(bpf_dir: &Path) {
    for dir in ["progs", "links", "maps", ""] {
        // What is not empty holds something that is not ours.
        let _ = std::fs::remove_dir(bpf_dir.join(dir));
    }
}
