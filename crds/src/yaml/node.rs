//! A parsed document: values that know where they stand.

use std::fmt;

/// Line and column, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub at: Position,
    /// What it is.
    pub value: Value,
}

/// What YAML and JSON can say.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing: `null`, `~` or left out.
    Null,
    /// A boolean; the text as it was written.
    Bool(bool, String),
    /// A whole number; the text as it was written.
    Int(i64, String),
    /// Another number; the text as it was written.
    Float(f64, String),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order written.
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub at: Position,
    /// The value.
    pub value: Node,
}

impl Value {
    /// The name of the type, with an article, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(..) => "a boolean",
            Self::Int(..) => "a whole number",
            Self::Float(..) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

impl Node {
    /// The value under a key of a mapping; `null` counts as absent.
    pub fn find(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => {
                entries.iter().find(|e| e.key == key).map(|e| &e.value).filter(|n| n.value != Value::Null)
            }
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The elements, if it is a list.
    pub fn list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(list) => Some(list),
            _ => None,
        }
    }

    /// The value as JSON, without the keys whose value is `null`, as the API server stores it.
    pub fn json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(b, _) => Json::Bool(*b),
            Value::Int(i, _) => Json::from(*i),
            Value::Float(f, text) => {
                serde_json::Number::from_f64(*f).map_or_else(|| Json::String(text.clone()), Json::Number)
            }
            Value::Text(text) => Json::String(text.clone()),
            Value::List(list) => Json::Array(list.iter().map(Self::json).collect()),
            Value::Map(entries) => Json::Object(
                entries
                    .iter()
                    .filter(|e| e.value.value != Value::Null)
                    .map(|e| (e.key.clone(), e.value.json()))
                    .collect(),
            ),
        }
    }
}
