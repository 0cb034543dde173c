//! `destroy`: the same loop with an empty wish; the host is as before.

use super::print;
use crate::agent::WriterLock;
use crate::agent::pass::Reconciler;
use crate::cli::DestroyArgs;
use anyhow::{Result, bail};
use cilium_sources::config::Loaded;
use std::process::ExitCode;

/// Exit code of a plan with something to do.
const PENDING: u8 = 2;
/// Exit code when some rows could not be removed.
const PARTIAL: u8 = 3;

/// Runs it.
pub(super) fn run(loaded: Loaded, args: &DestroyArgs) -> Result<ExitCode> {
    let paths = loaded.config.paths.clone();
    if args.plan {
        let plan = Reconciler::open_to_look(loaded, None)?.plan_destruction()?;
        print(args.form, &plan, || plan.to_string())?;
        return Ok(if plan.is_empty() { ExitCode::SUCCESS } else { PENDING.into() });
    }
    let _lock = WriterLock::take(&paths.run_dir)?;
    let reconciler = Reconciler::open(loaded)?;
    let pods = reconciler.attached_pods();
    if pods > 0 && !args.with_pods {
        bail!(
            "{pods} pods are attached and would lose their network (hint: detach them first, or --with-pods)"
        );
    }
    let destroyed = reconciler.destroy()?;
    print(args.form, &destroyed.plan, || destroyed.plan.to_string())?;
    for (row, reason) in &destroyed.failures {
        eprintln!("! {row}: {reason}");
    }
    Ok(if destroyed.failures.is_empty() { ExitCode::SUCCESS } else { PARTIAL.into() })
}
