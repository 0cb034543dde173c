//! `config check|show|schema`.

use super::{load, print};
use crate::cli::{ConfigCommand, ConfigSource};
use anyhow::Result;
use std::process::ExitCode;

/// Runs it.
pub(super) fn run(source: &ConfigSource, command: &ConfigCommand) -> Result<ExitCode> {
    match command {
        ConfigCommand::Check => {
            let loaded = load(source)?;
            println!("{}: valid, digest {}", source.config.display(), loaded.config.hash());
        }
        ConfigCommand::Show(form) => {
            let loaded = load(source)?;
            let origins: serde_json::Map<String, serde_json::Value> =
                loaded.origins.iter().map(|(key, origin)| (key.clone(), origin.to_string().into())).collect();
            let value = serde_json::json!({"config": loaded.config, "origins": origins});
            print(*form, &value, || loaded.show())?;
        }
        ConfigCommand::Schema => print!("{}", cilium_sources::config::schema()),
    }
    Ok(ExitCode::SUCCESS)
}
