//! Decides on all layers together: every key by itself first, then the whole.

use super::entry::{Entry, Layer, LayerName, Origin};
use super::error::{ConfigError, ConfigErrors};
use super::nearest::nearest;
use cilium_engine::config::document::{toml_text, variable};
use cilium_engine::config::unbuilt::{self, Planned};
use cilium_engine::config::{Config, Fault, keys};
use figment::Figment;
use figment::providers::Serialized;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The effective configuration, or everything wrong. `errors` are those the layers had when read.
pub(super) fn judge(
    layers: &mut [Layer],
    mut errors: Vec<ConfigError>,
) -> Result<(Config, BTreeMap<String, Origin>), ConfigErrors> {
    let mut refused = BTreeSet::new();
    let unreadable = !errors.is_empty();
    for layer in layers.iter_mut() {
        let name = layer.name;
        layer.entries.retain(|entry| match verdict(entry, name) {
            Verdict::Good => true,
            Verdict::Ignored => false,
            Verdict::Bad { message, hint } => {
                refused.insert(entry.path.clone());
                errors.push(ConfigError {
                    keys: vec![entry.path.clone()],
                    origin: entry.origin.clone(),
                    message,
                    hint,
                    notes: Vec::new(),
                    excerpt: entry.excerpt.clone(),
                });
                false
            }
        });
    }

    let figment = layers.iter().fold(defaults(), |figment, layer| figment.merge(layer));
    let origins = origins(&figment, layers);
    match figment.extract::<Config>() {
        Ok(config) => {
            // A rule about a key that was refused already, or may hide behind broken syntax, would guess.
            let faults = if unreadable { Vec::new() } else { config.validate() };
            let faults =
                faults.into_iter().filter(|fault| !fault.keys.iter().any(|key| refused.contains(key)));
            errors.extend(faults.map(|fault| contradiction(fault, &config, &origins, layers)));
            if errors.is_empty() { Ok((config, origins)) } else { Err(ConfigErrors::sorted(errors)) }
        }
        Err(failed) => {
            // Each entry was good alone, so this is a mistake here; say so rather than start.
            for error in failed {
                errors.push(ConfigError {
                    keys: vec![error.path.join(".")],
                    origin: Origin::Default,
                    message: format!("{}: {}", error.path.join("."), error.kind),
                    hint: None,
                    notes: Vec::new(),
                    excerpt: None,
                });
            }
            Err(ConfigErrors::sorted(errors))
        }
    }
}

/// The rules once more, after `node.name` was found out from the host.
pub(super) fn names_found(config: &Config, origins: &BTreeMap<String, Origin>) -> Result<(), ConfigErrors> {
    let errors: Vec<ConfigError> =
        config.validate().into_iter().map(|fault| contradiction(fault, config, origins, &[])).collect();
    if errors.is_empty() { Ok(()) } else { Err(ConfigErrors::sorted(errors)) }
}

fn defaults() -> Figment {
    Figment::from(Serialized::defaults(Config::default()))
}

enum Verdict {
    Good,
    /// Turns off what is not built.
    Ignored,
    Bad {
        message: String,
        hint: Option<String>,
    },
}

fn verdict(entry: &Entry, layer: LayerName) -> Verdict {
    let path = &entry.path;
    let bad = |message: String, hint: Option<String>| Verdict::Bad { message, hint };
    let Some(key) = keys::find(path) else {
        if let Some(table) = keys::tables().iter().find(|table| table.path == *path) {
            let keys: Vec<&str> =
                keys::all().iter().filter(|key| key.table() == table.path).map(|key| key.name()).collect();
            return bad(
                format!("{path} is a table, not a key"),
                Some(format!("its keys are {}", keys.join(", "))),
            );
        }
        let value = entry.value.as_ref().unwrap_or(&Value::Null);
        return match unbuilt::key(path, value) {
            Some(Planned::Off) => Verdict::Ignored,
            Some(Planned::Refused(reason)) => bad(format!("{path} {reason}"), Some("remove it".into())),
            None => bad(format!("unknown key {path}"), nearest(path).map(|known| suggestion(known, layer))),
        };
    };
    let value = match &entry.value {
        Ok(value) => value,
        Err(found) => return bad(format!("{path} must be {}, not {found}", key.form), None),
    };
    if let Err(reason) = key.check(value) {
        return bad(format!("{path} {reason}"), Some(format!("it takes: {}", key.form)));
    }
    // Forms that only the type itself can read: prefixes, addresses, paths, devices.
    match defaults().merge((path, value)).extract::<Config>() {
        Ok(_) => Verdict::Good,
        Err(error) => bad(
            format!("{path} = {} is wrong: {}", toml_text(value), error.kind),
            Some(format!("it takes: {}", key.form)),
        ),
    }
}

fn suggestion(known: &str, layer: LayerName) -> String {
    match layer {
        LayerName::File | LayerName::Set => format!("did you mean {known}?"),
        LayerName::Environment => format!("did you mean {known} ({})?", variable(known)),
    }
}

/// Where every key's value came from. figment knows the layer, the layer the place.
fn origins(figment: &Figment, layers: &[Layer]) -> BTreeMap<String, Origin> {
    let origin = |path: &str| {
        let layer = figment.find_metadata(path)?.name.clone();
        let layer = layers.iter().find(|candidate| candidate.name.word() == layer)?;
        entry(layer, path).map(|entry| entry.origin.clone())
    };
    keys::all().iter().map(|key| (key.path.clone(), origin(&key.path).unwrap_or(Origin::Default))).collect()
}

fn entry<'a>(layer: &'a Layer, path: &str) -> Option<&'a Entry> {
    layer.entries.iter().rev().find(|entry| entry.path == path)
}

/// A fault of the whole, shown at the first of its keys that someone set; the others become notes.
fn contradiction(
    fault: Fault,
    config: &Config,
    origins: &BTreeMap<String, Origin>,
    layers: &[Layer],
) -> ConfigError {
    let origin = |key: &str| origins.get(key).cloned().unwrap_or(Origin::Default);
    let shown = fault.keys.iter().find(|key| origin(key) != Origin::Default).unwrap_or(&fault.keys[0]);
    let value = config.to_value();
    let notes = fault
        .keys
        .iter()
        .filter(|key| *key != shown)
        .map(|key| {
            let value =
                value.pointer(&format!("/{}", key.replace('.', "/"))).map(toml_text).unwrap_or_default();
            match origin(key) {
                Origin::Default => format!("{key} = {value} is the default"),
                place @ (Origin::File { .. }
                | Origin::Environment { .. }
                | Origin::Set { .. }
                | Origin::Hostname) => {
                    format!("{key} = {value} is set at {place}")
                }
            }
        })
        .collect();
    let excerpt =
        layers.iter().rev().find_map(|layer| entry(layer, shown)).and_then(|entry| entry.excerpt.clone());
    let message = if fault.message.contains(shown.as_str()) {
        fault.message
    } else {
        format!("{shown}: {}", fault.message)
    };
    ConfigError {
        origin: origin(shown),
        keys: fault.keys,
        message,
        hint: Some(fault.hint).filter(|hint| !hint.is_empty()),
        notes,
        excerpt,
    }
}
