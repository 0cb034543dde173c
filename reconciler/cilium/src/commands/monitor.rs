//! `monitor`: events as they happen.

use crate::cli::{EventType, MonitorArgs, Output};
use crate::client::Agent;
use anyhow::Result;
use cilium_flows::{EventKind, NamedEvent};
use cilium_sources::config::Loaded;
use std::io::Write;
use std::process::ExitCode;

/// Runs it until interrupted, or until the agent ends.
pub(super) fn run(loaded: &Loaded, args: &MonitorArgs) -> Result<ExitCode> {
    let agent = Agent::new(&loaded.config.paths.run_dir);
    let mut out = std::io::stdout().lock();
    for line in agent.lines("/v1/monitor")? {
        let line = line?;
        let Ok(event) = serde_json::from_str::<NamedEvent>(&line) else {
            // The only other line says how many events this reader was too slow for.
            eprintln!("{line}");
            continue;
        };
        if !args.types.is_empty() && !args.types.iter().any(|t| is(*t, event.kind)) {
            continue;
        }
        let written = match args.form.output {
            Output::Json => writeln!(out, "{line}"),
            Output::Text if args.verbose => writeln!(
                out,
                "{event} len {} interface {} labels {} -> {}",
                event.length,
                event.interface.as_deref().unwrap_or("-"),
                event.source.labels.as_deref().unwrap_or("-"),
                event.destination.labels.as_deref().unwrap_or("-"),
            ),
            Output::Text => writeln!(out, "{event}"),
        };
        if written.and_then(|()| out.flush()).is_err() {
            return Ok(ExitCode::SUCCESS);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn is(wanted: EventType, kind: EventKind) -> bool {
    matches!(
        (wanted, kind),
        (EventType::Drop, EventKind::Drop)
            | (EventType::Trace, EventKind::Trace)
            | (EventType::PolicyVerdict, EventKind::PolicyVerdict)
    )
}
