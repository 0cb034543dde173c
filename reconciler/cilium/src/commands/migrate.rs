//! `migrate status|plan|up|down`: the document only; a restart puts it in force.

use super::print;
use crate::cli::{MigrateArgs, MigrateCommand};
use anyhow::Result;
use cilium_migrations::{Target, apply, plan, status};
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// Exit code of a plan with something to do.
const PENDING: u8 = 2;

/// Runs it.
pub(super) fn run(file: &Path, command: &MigrateCommand) -> Result<ExitCode> {
    match command {
        MigrateCommand::Status(form) => {
            let status = status(file)?;
            print(*form, &status, || status.to_string())?;
            Ok(if status.pending.is_empty() { ExitCode::SUCCESS } else { PENDING.into() })
        }
        MigrateCommand::Plan(form) => {
            let migration = plan(file, Target::Up(None))?;
            print(*form, &migration, || migration.to_string())?;
            Ok(if migration.is_empty() { ExitCode::SUCCESS } else { PENDING.into() })
        }
        MigrateCommand::Up(args) => travel(file, Target::Up(args.to), args),
        MigrateCommand::Down(args) => {
            let to = args
                .to
                .ok_or_else(|| anyhow::anyhow!("`migrate down` needs --to V: the version to go back to"))?;
            travel(file, Target::Down(to), args)
        }
    }
}

fn travel(file: &Path, target: Target, args: &MigrateArgs) -> Result<ExitCode> {
    let migration = plan(file, target)?;
    print(args.form, &migration, || migration.to_string())?;
    if !args.dry_run {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        apply(&migration, now)?;
    }
    Ok(ExitCode::SUCCESS)
}
