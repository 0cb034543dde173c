//! `apply`: passes until the plan is empty or nothing moves any more.

use crate::agent::WriterLock;
use crate::agent::pass::{Looking, Reconciler};
use anyhow::Result;
use cilium_sources::config::Loaded;
use std::process::ExitCode;

/// Exit code when some rows failed, or some objects have problems.
const PARTIAL: u8 = 3;
/// A pass that still has work after this many others will not end by itself.
const MOST_PASSES: usize = 20;

/// Runs it.
pub(super) fn run(loaded: Loaded) -> Result<ExitCode> {
    let _lock = WriterLock::take(&loaded.config.paths.run_dir)?;
    let mut reconciler = Reconciler::open(loaded)?;
    let mut last = None;
    for _ in 0..MOST_PASSES {
        let mut pass = reconciler.pass(&["apply".to_owned()], Looking::AtEverything)?;
        reconciler.settle(&mut pass);
        print!("{}", pass.plan);
        for (row, reason) in &pass.failures {
            println!("! {row}: {reason}");
        }
        for problem in pass.problems.iter() {
            println!("{problem}");
        }
        let ended = pass.plan.is_empty() || (pass.done == 0 && !pass.failures.is_empty());
        let clean = pass.plan.is_settled() && pass.problems.is_empty();
        last = Some(clean);
        if ended {
            break;
        }
    }
    Ok(if last == Some(true) { ExitCode::SUCCESS } else { PARTIAL.into() })
}
