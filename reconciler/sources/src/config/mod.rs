//! Reads `cilium.toml` and its layers into a [`Config`]: built-in defaults, file, environment, `--set`.
//!
//! Everything wrong is collected and reported at once, each with its place; a configuration with any
//! error yields none. Only [`load`], [`environment`] and [`file_digest`] touch the world, and none of
//! them changes it. What keys exist and what they take is known to `cilium_engine::config` alone.

mod entry;
mod error;
mod file;
mod judge;
mod nearest;
mod text;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod wrong;

pub use entry::{Origin, Position};
pub use error::{ConfigError, ConfigErrors};

use cilium_engine::config::document::toml_text;
use cilium_engine::config::{Config, Digest, document, keys};
use entry::{Layer, LayerName};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// A larger file is a mistake: the example with every key and comment is a fiftieth of this.
const LARGEST_FILE: u64 = 1 << 20;
/// Environment variable naming this node, set by Kubernetes manifests from `spec.nodeName`.
const NODE_NAME_VARIABLE: &str = "K8S_NODE_NAME";

/// A configuration and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The effective values. `node.name` is never empty.
    pub config: Config,
    /// Where each key's value came from; has every key.
    pub origins: BTreeMap<String, Origin>,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// Digest of the file's bytes, to notice later that the file on disk is another.
    pub file_hash: Option<Digest>,
}

impl Loaded {
    /// The effective configuration as TOML, each key with its origin as a comment: what `config show` prints.
    pub fn show(&self) -> String {
        let value = self.config.to_value();
        let mut text = String::new();
        let mut table = "";
        for key in keys::all() {
            if key.table() != table {
                table = key.table();
                text.push_str(&format!("\n[{table}]\n"));
            }
            let shown = value.pointer(&key.pointer()).map(toml_text).unwrap_or_default();
            let line = format!("{} = {shown}", key.name());
            let origin =
                self.origins.get(&key.path).map_or_else(|| Origin::Default.to_string(), Origin::to_string);
            writeln!(text, "{line:<40} # {origin}").expect("writing to a String cannot fail");
        }
        text
    }
}

/// Reads all layers. `env` are all variables of the process ([`environment`]); `sets` are `--set`
/// arguments, `table.key=value`.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn load(
    file: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
    sets: &[String],
) -> Result<Loaded, ConfigErrors> {
    let env: Vec<(String, String)> = env.collect();
    let mut errors = Vec::new();
    let mut layers = Vec::new();
    let mut file_hash = None;
    if let Some(path) = file {
        let source = read(path).map_err(|error| ConfigErrors::unreadable(path, &error))?;
        file_hash = Some(Digest::of(source.as_bytes()));
        let entries = file::entries(path, &source, &mut errors)?;
        layers.push(Layer { name: LayerName::File, entries });
    }
    layers.push(Layer { name: LayerName::Environment, entries: text::from_env(&env, &mut errors) });
    layers.push(Layer { name: LayerName::Set, entries: text::from_sets(sets, &mut errors) });

    let (mut config, mut origins) = judge::judge(&mut layers, errors)?;
    if config.node.name.is_empty() {
        let (name, origin) = node_name(&env)?;
        config.node.name = name;
        origins.insert("node.name".into(), origin);
        judge::names_found(&config, &origins)?;
    }
    Ok(Loaded { config, origins, file: file.map(Path::to_owned), file_hash })
}

/// All environment variables that are valid UTF-8 (others cannot be settings).
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Digest of the file as it is now, to compare with [`Loaded::file_hash`].
///
/// # Errors
/// The file cannot be read.
pub fn file_digest(path: &Path) -> io::Result<Digest> {
    read(path).map(|text| Digest::of(text.as_bytes()))
}

/// The JSON schema of `cilium.toml`.
pub fn schema() -> String {
    document::schema()
}

/// The content of `cilium.toml.example`.
pub fn example() -> String {
    document::example()
}

/// The content of `docs/configuration.md`.
pub fn markdown() -> String {
    document::markdown()
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(io::Error::other(format!("larger than {LARGEST_FILE} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to()),
        )
    })
}

/// The name of this node where no layer gives one. Lower case, as Kubernetes registers nodes.
fn node_name(env: &[(String, String)]) -> Result<(String, Origin), ConfigErrors> {
    if let Some((_, name)) =
        env.iter().find(|(variable, name)| variable == NODE_NAME_VARIABLE && !name.is_empty())
    {
        return Ok((name.clone(), Origin::Environment { variable: NODE_NAME_VARIABLE.into() }));
    }
    match fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(name) if !name.trim().is_empty() => Ok((name.trim().to_lowercase(), Origin::Hostname)),
        Ok(_) | Err(_) => Err(ConfigErrors::one(ConfigError {
            keys: vec!["node.name".into()],
            origin: Origin::Default,
            message: "node.name is empty and this host has no name".into(),
            hint: Some(format!("set node.name, or the variable {NODE_NAME_VARIABLE}")),
            notes: Vec::new(),
            excerpt: None,
        })),
    }
}
