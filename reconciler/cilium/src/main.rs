//! `cilium`: one binary for the agent and every command. The first word chooses; the exit code tells.

mod agent;
mod calendar;
mod cli;
mod client;
mod commands;
mod table;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match commands::run(cli) {
        Ok(code) => code,
        Err(e) => {
            // Findings on the configuration are whole messages of their own, with places and hints.
            match e.downcast_ref::<cilium_sources::config::ConfigErrors>() {
                Some(findings) => eprintln!("{findings}"),
                None => eprintln!("error: {e:#}"),
            }
            ExitCode::FAILURE
        }
    }
}
