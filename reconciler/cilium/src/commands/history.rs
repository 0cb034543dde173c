//! `history`: past plans with their outcomes.

use super::print;
use crate::agent::history::read;
use crate::cli::HistoryArgs;
use anyhow::Result;
use cilium_sources::config::Loaded;
use std::fmt::Write;
use std::process::ExitCode;

/// Runs it.
pub(super) fn run(loaded: &Loaded, args: &HistoryArgs) -> Result<ExitCode> {
    let records = read(&loaded.config.paths.state_dir, args.last)?;
    print(args.form, &records, || {
        let mut text = String::new();
        for record in &records {
            let woken = record.woken_by.join(", ");
            let _ = writeln!(
                text,
                "{} woken by {woken}, {} µs",
                crate::calendar::utc(record.at_ms / 1000),
                record.took_us
            );
            for entry in &record.steps {
                let _ = writeln!(text, "  {entry}");
            }
            if record.left_out > 0 {
                let _ = writeln!(text, "  and {} more", record.left_out);
            }
        }
        text
    })?;
    Ok(ExitCode::SUCCESS)
}
