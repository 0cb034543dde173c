//! `status`: the agent's last observation.

use super::print;
use crate::agent::status::Status;
use crate::cli::StatusArgs;
use crate::client::Agent;
use anyhow::Result;
use cilium_sources::config::Loaded;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Runs it.
pub(super) fn run(loaded: &Loaded, args: &StatusArgs) -> Result<ExitCode> {
    let agent = Agent::new(&loaded.config.paths.run_dir);
    let deadline = Instant::now() + Duration::from_secs(args.wait.unwrap_or(0));
    let status = loop {
        let answer = agent.json::<Status>("/v1/status");
        let healthy = matches!(&answer, Ok(status) if status.healthy());
        if healthy || Instant::now() >= deadline {
            break answer?;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    print(args.form, &status, || {
        let mut text = status.to_string();
        if args.verbose {
            let mut table = crate::table::Table::new(&["KIND", "WANTED", "DRIFT FOUND", "REPAIRED"]);
            for k in &status.kinds {
                table.row([
                    k.kind.clone(),
                    k.wanted.to_string(),
                    k.drift_found.to_string(),
                    k.drift_repaired.to_string(),
                ]);
            }
            text.push_str(&table.to_string());
        }
        text
    })?;
    Ok(if status.healthy() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
