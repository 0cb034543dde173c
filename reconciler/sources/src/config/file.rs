//! The file layer: TOML with positions.

use super::entry::{Entry, Excerpt, Origin, Position};
use super::error::{ConfigError, ConfigErrors};
use cilium_engine::config::{VERSION, keys, unbuilt};
use serde_json::Value;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// Reads the values of a document. Syntax errors go to `errors`, and what stands on the same lines is
/// left out, since the parser only guessed it.
///
/// # Errors
/// A document of another version: nothing else said about it would help.
pub(super) fn entries(
    path: &Path,
    source: &str,
    errors: &mut Vec<ConfigError>,
) -> Result<Vec<Entry>, ConfigErrors> {
    let file = File { path, source };
    let (root, syntax) = DeTable::parse_recoverable(source);
    let mut broken = BTreeSet::new();
    for error in &syntax {
        let span = error.span().unwrap_or(0..0);
        let (origin, excerpt) = file.place(&span);
        if let Origin::File { position, .. } = &origin {
            broken.insert(position.line);
        }
        errors.push(ConfigError {
            keys: Vec::new(),
            origin,
            message: format!("this is not TOML: {}", error.message()),
            hint: None,
            notes: Vec::new(),
            excerpt,
        });
    }
    if broken.is_empty() {
        version(&file, root.get_ref())?;
    }
    let mut entries = Vec::new();
    walk(&file, "", root.get_ref(), &mut entries);
    entries.retain(
        |entry| !matches!(&entry.origin, Origin::File { position, .. } if broken.contains(&position.line)),
    );
    Ok(entries)
}

/// Refuses documents of other versions, naming the command that rewrites them.
fn version(file: &File<'_>, root: &DeTable<'_>) -> Result<(), ConfigErrors> {
    let path = file.path.display();
    let (span, found) = match root.get("version") {
        None => (0..0, None),
        Some(value) => match number(value.get_ref()) {
            Some(found) if found == i64::from(VERSION) => return Ok(()),
            Some(found) => (value.span(), Some(found)),
            // Not a number at all: the check of values says so.
            None => return Ok(()),
        },
    };
    let (message, hint) = match found {
        None => (
            format!("{path} has no `version`: it is of version 0, this build reads version {VERSION}"),
            format!(
                "run `cilium migrate up --config {path}`; for a new file, begin it with `version = {VERSION}`"
            ),
        ),
        Some(found) if found < i64::from(VERSION) => (
            format!("version = {found}: {path} is older than this build, which reads version {VERSION}"),
            format!("run `cilium migrate up --config {path}`"),
        ),
        Some(found) => (
            format!("version = {found}: {path} is newer than this build, which reads version {VERSION}"),
            format!("run `cilium migrate down --to {VERSION} --config {path}` with the build that wrote it"),
        ),
    };
    let (origin, excerpt) = file.place(&span);
    Err(ConfigErrors::one(ConfigError {
        keys: vec!["version".into()],
        origin,
        message,
        hint: Some(hint),
        notes: Vec::new(),
        excerpt: found.and(excerpt),
    }))
}

fn walk(file: &File<'_>, path: &str, table: &DeTable<'_>, entries: &mut Vec<Entry>) {
    for (name, value) in table {
        let name_span = name.span();
        let path =
            if path.is_empty() { name.get_ref().to_string() } else { format!("{path}.{}", name.get_ref()) };
        let known_table = keys::tables().iter().any(|table| table.path == path) || unbuilt::is_table(&path);
        if let (true, DeValue::Table(inner)) = (known_table, value.get_ref()) {
            walk(file, &path, inner, entries);
            continue;
        }
        // What is wrong with an unknown key is its name; with a known one, its value.
        let span = if keys::find(&path).is_some() { value.span() } else { name_span };
        let (origin, excerpt) = file.place(&span);
        entries.push(Entry { path, value: plain(value.get_ref()), origin, excerpt });
    }
}

/// TOML's value without positions; what JSON cannot say is named instead.
fn plain(value: &DeValue<'_>) -> Result<Value, &'static str> {
    match value {
        DeValue::String(text) => Ok(Value::from(text.as_ref())),
        DeValue::Boolean(flag) => Ok(Value::from(*flag)),
        DeValue::Integer(_) => number(value).map(Value::from).ok_or("a number beyond 64 bits"),
        DeValue::Float(float) => {
            let float: Option<f64> = float.as_str().parse().ok();
            float.and_then(serde_json::Number::from_f64).map(Value::Number).ok_or("no finite number")
        }
        DeValue::Datetime(_) => Err("a date"),
        DeValue::Array(items) => {
            items.iter().map(|item| plain(item.get_ref())).collect::<Result<Vec<_>, _>>().map(Value::from)
        }
        DeValue::Table(table) => table
            .iter()
            .map(|(name, value)| Ok((name.get_ref().to_string(), plain(value.get_ref())?)))
            .collect::<Result<_, _>>()
            .map(Value::Object),
    }
}

fn number(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

struct File<'a> {
    path: &'a Path,
    source: &'a str,
}

impl File<'_> {
    fn place(&self, span: &Range<usize>) -> (Origin, Option<Excerpt>) {
        let before = self.source.get(..span.start).unwrap_or(self.source);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = self.source.get(start..).unwrap_or_default().lines().next().unwrap_or_default();
        let position = Position {
            line: before.matches('\n').count() + 1,
            column: before.get(start..).unwrap_or_default().chars().count() + 1,
        };
        // A value over several lines is underlined to the end of its first.
        let marked = self.source.get(span.clone()).unwrap_or_default().lines().next().unwrap_or_default();
        let excerpt = Excerpt { line: line.to_owned(), width: marked.chars().count() };
        (Origin::File { path: self.path.to_owned(), position }, Some(excerpt))
    }
}
