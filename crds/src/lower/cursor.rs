//! A place in a document, and the findings gathered while walking it.

use crate::finding::{Class, Finding};
use crate::schema::MAX_FINDINGS;
use crate::yaml::{Entry, Node, Value};
use serde::de::DeserializeOwned;

/// A value with its path.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    pub(super) node: &'a Node,
    pub(super) path: String,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(root: &'a Node) -> Self {
        Self { node: root, path: String::new() }
    }

    /// The value of a field; nothing (`null`) counts as absent.
    pub(super) fn key(&self, key: &str) -> Option<Cursor<'a>> {
        let node = self.node.find(key)?;
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Some(Cursor { node, path })
    }

    /// This place for findings on a field that may be absent.
    pub(super) fn at(&self, key: &str) -> Cursor<'a> {
        self.key(key).unwrap_or_else(|| self.clone())
    }

    /// The entries of a list.
    pub(super) fn items(&self) -> Vec<Cursor<'a>> {
        let list = self.node.list().unwrap_or_default();
        let item = |(i, node)| Cursor { node, path: format!("{}[{i}]", self.path) };
        list.iter().enumerate().map(item).collect()
    }

    /// The values of a mapping by key, of those with this kind of key.
    pub(super) fn entries(&self, wanted: impl Fn(&str) -> bool) -> Vec<(&'a str, Cursor<'a>)> {
        let Value::Map(entries) = &self.node.value else { return Vec::new() };
        let entries = entries.iter().filter(|entry| wanted(&entry.key) && entry.value.value != Value::Null);
        let placed = |entry: &'a Entry| {
            let path = format!("{}.{}", self.path, entry.key);
            (entry.key.as_str(), Cursor { node: &entry.value, path })
        };
        entries.map(placed).collect()
    }

    /// The keys of a mapping.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let entries = match &self.node.value {
            Value::Map(entries) => entries.as_slice(),
            Value::Null
            | Value::Bool(..)
            | Value::Int(..)
            | Value::Float(..)
            | Value::Text(_)
            | Value::List(_) => &[],
        };
        entries.iter().map(|e| e.key.as_str())
    }
}

/// Findings on one document.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) findings: Vec<Finding>,
    /// Places the schema found wrong; all of the document if there were too many to tell.
    schema: Vec<String>,
    flooded: bool,
}

impl Notes {
    pub(super) fn new(findings: Vec<Finding>) -> Self {
        let schema = findings.iter().filter(|f| f.class == Class::Invalid).map(|f| f.path.clone()).collect();
        let flooded = findings.len() >= MAX_FINDINGS;
        Self { findings, schema, flooded }
    }

    /// Whether the schema found something wrong here or below.
    pub(super) fn broken(&self, cursor: &Cursor<'_>) -> bool {
        self.flooded
            || self.schema.iter().any(|path| {
                path.strip_prefix(cursor.path.as_str()).is_some_and(|rest| {
                    rest.is_empty() || rest.starts_with(['.', '[']) || cursor.path.is_empty()
                })
            })
    }

    /// Whether the schema found something wrong at this very mapping (a field too many or too few).
    pub(super) fn broken_here(&self, cursor: &Cursor<'_>) -> bool {
        self.flooded || self.schema.contains(&cursor.path)
    }

    /// Whether the document as a whole may mean something else (its version, its top level, keys written
    /// twice): then nothing of it is granted.
    pub(super) fn unsure(&self) -> bool {
        let about = |path: &String| !["spec", "metadata", "status"].iter().any(|part| path.starts_with(part));
        self.flooded || self.schema.iter().any(about)
    }

    fn tell(&mut self, cursor: &Cursor<'_>, class: Class, message: String, hint: &str) {
        if self.findings.len() < 2 * MAX_FINDINGS {
            let (at, path) = (cursor.node.at, cursor.path.clone());
            self.findings.push(Finding { at, path, class, message, hint: hint.to_owned() });
        } else if class == Class::Invalid && !self.findings.iter().any(|f| f.class == Class::Invalid) {
            // The list is full of lesser things: this one decides whether the object counts.
            let (at, path) = (cursor.node.at, cursor.path.clone());
            self.findings.push(Finding { at, path, class, message, hint: hint.to_owned() });
        }
    }

    pub(super) fn invalid(&mut self, cursor: &Cursor<'_>, message: impl Into<String>, hint: &str) {
        self.tell(cursor, Class::Invalid, message.into(), hint);
    }

    pub(super) fn unsupported(&mut self, cursor: &Cursor<'_>, message: impl Into<String>, hint: &str) {
        self.tell(cursor, Class::Unsupported, message.into(), hint);
    }

    pub(super) fn warning(&mut self, cursor: &Cursor<'_>, message: impl Into<String>, hint: &str) {
        self.tell(cursor, Class::Warning, message.into(), hint);
    }

    /// The value as its type. `None` if the schema, or serde, found something wrong in it: it is told.
    pub(super) fn read<T: DeserializeOwned>(&mut self, cursor: &Cursor<'_>) -> Option<T> {
        if self.broken(cursor) {
            return None;
        }
        match serde_json::from_value(cursor.node.json()) {
            Ok(value) => Some(value),
            Err(error) => {
                self.invalid(cursor, format!("cannot be read: {error}"), "");
                None
            }
        }
    }
}
