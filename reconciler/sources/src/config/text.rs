//! The layers whose values are plain text: environment variables and `--set`.

use super::entry::{Entry, Origin};
use super::error::ConfigError;
use cilium_engine::config::keys;
use serde_json::Value;

/// What a variable that is a setting begins with.
const PREFIX: &str = "CILIUM_";

/// Variables of the form `CILIUM_TABLE__KEY`. Others that begin with `CILIUM_` are none of ours:
/// Kubernetes gives every pod such variables for Services (`CILIUM_INGRESS_SERVICE_HOST`).
pub(super) fn from_env(env: &[(String, String)], errors: &mut Vec<ConfigError>) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (variable, text) in env {
        let Some(rest) = variable.strip_prefix(PREFIX).filter(|rest| rest.contains("__")) else { continue };
        let path = rest.replace("__", ".").to_lowercase();
        let origin = Origin::Environment { variable: variable.clone() };
        add(&mut entries, errors, path, text, origin);
    }
    // The order of a process's environment is an accident.
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    entries
}

/// `--set table.key=value` arguments; of two for one key the later counts.
pub(super) fn from_sets(sets: &[String], errors: &mut Vec<ConfigError>) -> Vec<Entry> {
    let mut entries = Vec::new();
    for argument in sets {
        let origin = Origin::Set { argument: argument.clone() };
        match argument.split_once('=') {
            Some((path, text)) if !path.trim().is_empty() => {
                add(&mut entries, errors, path.trim().to_owned(), text, origin);
            }
            Some(_) | None => errors.push(ConfigError {
                keys: Vec::new(),
                message: format!("--set {argument}: not of the form table.key=value"),
                origin,
                hint: Some("for example --set routing.mode=native".into()),
                notes: Vec::new(),
                excerpt: None,
            }),
        }
    }
    entries
}

fn add(entries: &mut Vec<Entry>, errors: &mut Vec<ConfigError>, path: String, text: &str, origin: Origin) {
    if path == "version" {
        errors.push(ConfigError {
            keys: vec![path],
            message: "version is a property of the file and cannot be set elsewhere".into(),
            origin,
            hint: None,
            notes: Vec::new(),
            excerpt: None,
        });
        return;
    }
    let value = match keys::find(&path) {
        Some(key) => key.parse(text),
        None => serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)),
    };
    entries.push(Entry { path, value: Ok(value), origin, excerpt: None });
}
