//! One file per group of commands.

mod apply;
mod bpf;
mod config;
mod destroy;
mod history;
mod lb;
mod list;
mod migrate;
mod monitor;
mod plan;
mod policy;
mod status;

use crate::cli::{Cli, Command, ConfigSource, Form, Output};
use anyhow::Result;
use cilium_sources::config::Loaded;
use serde::Serialize;
use std::process::ExitCode;

/// Carries out a command.
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    let source = cli.source;
    match cli.command {
        Command::Agent => crate::agent::run(load(&source)?),
        Command::Apply => apply::run(load(&source)?),
        Command::Plan(args) => plan::run(&source, &args),
        Command::Destroy(args) => destroy::run(load(&source)?, &args),
        Command::History(args) => history::run(&load(&source)?, &args),
        Command::Status(args) => status::run(&load(&source)?, &args),
        Command::Config(command) => config::run(&source, &command),
        Command::Migrate(command) => migrate::run(&source.config, &command),
        Command::Policy(command) => policy::run(&command),
        Command::Endpoint(command) => list::endpoints(&load(&source)?, &command),
        Command::Identity(command) => list::identities(&load(&source)?, &command),
        Command::Ip(command) => list::addresses(&load(&source)?, command.form()),
        Command::Node(command) => list::nodes(&load(&source)?, command.form()),
        Command::Service(command) => list::services(&load(&source)?, &command),
        Command::Map(command) => bpf::map(&load(&source)?, &command),
        Command::Bpf(command) => bpf::bpf(&load(&source)?, &command),
        Command::Monitor(args) => monitor::run(&load(&source)?, &args),
        Command::Metrics(command) => list::metrics(&load(&source)?, command.form()),
        Command::Version(form) => {
            let version = env!("CARGO_PKG_VERSION");
            print(form, &serde_json::json!({"version": version}), || format!("cilium {version}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The configuration, all layers, or every finding at once.
fn load(source: &ConfigSource) -> Result<Loaded> {
    Ok(cilium_sources::config::load(
        Some(&source.config),
        cilium_sources::config::environment(),
        &source.sets,
    )?)
}

/// Prints a value as JSON, or the text for people.
fn print<T: Serialize>(form: Form, value: &T, text: impl FnOnce() -> String) -> Result<()> {
    use std::io::Write;
    let out = match form.output {
        Output::Json => serde_json::to_string_pretty(value)? + "\n",
        Output::Text => text(),
    };
    match std::io::stdout().write_all(out.as_bytes()) {
        // The reader went away (`| head`): that is its right.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
