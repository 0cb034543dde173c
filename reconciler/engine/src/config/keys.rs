//! The list of keys, read from the types' JSON schema: the one home of names, defaults, ranges and docs.
//!
//! Checks of a single value against its key live here, in words for operators; what serde would say
//! about the same value is right but speaks of Rust types.

use super::change::Impact;
use super::span::Span;
use super::{Config, unbuilt};
use schemars::Schema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};
use std::fmt;
use std::sync::LazyLock;

/// One key of the document.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Dotted path, for example `routing.mode`.
    pub path: String,
    /// What it does, from the field's documentation.
    pub doc: String,
    /// What values it takes.
    pub form: Form,
    /// Value when no layer sets it.
    pub default: Value,
    /// What a change of it costs.
    pub impact: Impact,
}

/// One table of the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Dotted path.
    pub path: String,
    /// What it is about.
    pub doc: String,
}

/// What values a key takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Number {
        /// Least value.
        min: i64,
        /// Greatest value.
        max: i64,
    },
    /// One of a few words.
    Choice(Vec<Choice>),
    /// A span of time.
    Duration {
        /// Shortest.
        min: Span,
        /// Longest.
        max: Span,
        /// What it must be a multiple of.
        step: Option<Span>,
    },
    /// Text; the word says of what sort, `text` if of any.
    Text(String),
    /// A list.
    List(Box<Form>),
    /// A first and a last number.
    Range {
        /// Least value of both.
        min: i64,
        /// Greatest value of both.
        max: i64,
    },
}

/// One word of a [`Form::Choice`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// As written.
    pub word: String,
    /// What it means.
    pub doc: String,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("true or false"),
            Self::Number { min, max } => write!(f, "whole number, {min} to {max}"),
            Self::Choice(choices) => {
                for (i, choice) in choices.iter().enumerate() {
                    write!(f, "{}\"{}\"", if i == 0 { "" } else { " or " }, choice.word)?;
                }
                Ok(())
            }
            Self::Duration { min, max, step } => {
                write!(f, "duration, \"{min}\" to \"{max}\"")?;
                step.map_or(Ok(()), |step| write!(f, ", in steps of {step}"))
            }
            Self::Text(sort) => f.write_str(sort),
            Self::List(of) => write!(f, "list of: {of}"),
            Self::Range { min, max } => write!(f, "list of a first and a last whole number, {min} to {max}"),
        }
    }
}

impl Key {
    /// The key as a JSON pointer into [`Config::to_value`].
    pub fn pointer(&self) -> String {
        format!("/{}", self.path.replace('.', "/"))
    }

    /// The table the key stands in; empty for the top level.
    pub fn table(&self) -> &str {
        self.path.rsplit_once('.').map_or("", |(table, _)| table)
    }

    /// The key's own name, without its table.
    pub fn name(&self) -> &str {
        self.path.rsplit_once('.').map_or(self.path.as_str(), |(_, name)| name)
    }

    /// Says what is wrong with the value, as a clause that follows the key's name.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        if let Some(planned) = unbuilt::value(&self.path, value) {
            return Err(planned);
        }
        check(&self.form, value)
    }

    /// Reads text, as an environment variable or a command line gives it, into a value of this key.
    /// A text key takes it as it is; a list takes a TOML-like `["a", "b"]` or a bare `a,b`.
    pub fn parse(&self, text: &str) -> Value {
        parse(&self.form, text)
    }
}

fn parse(form: &Form, text: &str) -> Value {
    match form {
        Form::Flag => match text {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            other => Value::String(other.to_owned()),
        },
        Form::Number { .. } => {
            text.parse::<i64>().map_or_else(|_| Value::String(text.to_owned()), Value::from)
        }
        Form::Choice(_) | Form::Duration { .. } | Form::Text(_) => Value::String(text.to_owned()),
        Form::Range { min, max } => parse(&Form::List(Box::new(Form::Number { min: *min, max: *max })), text),
        Form::List(of) => {
            if let Ok(list @ Value::Array(_)) = serde_json::from_str(text) {
                return list;
            }
            let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
            bare.split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(|part| parse(of, part))
                .collect()
        }
    }
}

fn check(form: &Form, value: &Value) -> Result<(), String> {
    let wrong = |want: &str| Err(format!("must be {want}, not {}", shown(value)));
    match form {
        Form::Flag => value.as_bool().map_or_else(|| wrong("true or false"), |_| Ok(())),
        Form::Number { min, max } => match value.as_i64() {
            Some(number) if (*min..=*max).contains(&number) => Ok(()),
            Some(number) => Err(format!("is {number}: out of range, must be {min} to {max}")),
            None => wrong("a whole number"),
        },
        Form::Choice(choices) => match value.as_str() {
            Some(text) if choices.iter().any(|choice| choice.word == text) => Ok(()),
            Some(_) | None => wrong(&form.to_string()),
        },
        Form::Duration { min, max, step } => {
            let Some(text) = value.as_str() else { return wrong("a duration in quotes, such as \"30s\"") };
            let span: Span = text.parse().map_err(|error| format!("is wrong: {error}"))?;
            if span < *min || span > *max {
                return Err(format!("is {span}: out of range, must be {min} to {max}"));
            }
            match step {
                Some(step) if !span.is_multiple_of(*step) => {
                    Err(format!("is {span}: must be a multiple of {step}"))
                }
                Some(_) | None => Ok(()),
            }
        }
        Form::Text(_) => value.as_str().map_or_else(|| wrong("text in quotes"), |_| Ok(())),
        Form::Range { min, max } => match value.as_array() {
            Some(ends) if ends.len() != 2 => Err(format!("has {} elements: must be {form}", ends.len())),
            _ => check(&Form::List(Box::new(Form::Number { min: *min, max: *max })), value),
        },
        Form::List(of) => {
            let Some(items) = value.as_array() else { return wrong("a list in brackets") };
            if items.len() > LONGEST_LIST {
                return Err(format!("has {} elements, more than {LONGEST_LIST}", items.len()));
            }
            items.iter().enumerate().try_for_each(|(i, item)| {
                check(of, item).map_err(|reason| format!("is wrong in element {}: it {reason}", i + 1))
            })
        }
    }
}

/// More elements than this in one list are a mistake of whatever wrote the file.
const LONGEST_LIST: usize = 4_096;

/// A value in a message: short, and never more than one line.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => {
            let short: String = text.chars().take(60).collect();
            format!("{short:?}{}", if short.len() < text.len() { "…" } else { "" })
        }
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a table".into(),
    }
}

/// Every key, in the order of the document.
pub fn all() -> &'static [Key] {
    &LIST.keys
}

/// Every table, in the order of the document.
pub fn tables() -> &'static [Table] {
    &LIST.tables
}

/// The key of this dotted path.
pub fn find(path: &str) -> Option<&'static Key> {
    all().iter().find(|key| key.path == path)
}

/// The JSON schema of the document, every part in place (no references).
pub fn schema() -> Schema {
    SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<Config>()
}

struct List {
    keys: Vec<Key>,
    tables: Vec<Table>,
}

static LIST: LazyLock<List> = LazyLock::new(|| {
    let mut list = List { keys: Vec::new(), tables: Vec::new() };
    // Field order: `Config` serialises in it, the schema's own maps are sorted.
    walk(&mut list, "", schema().as_value(), &Config::default().to_value());
    list
});

fn walk(list: &mut List, path: &str, schema: &Value, defaults: &Value) {
    let (Some(properties), Some(defaults)) = (schema["properties"].as_object(), defaults.as_object()) else {
        return;
    };
    // TOML wants a table's own keys before its sub-tables.
    let is_table = |name: &str| properties.get(name).is_some_and(|part| part["properties"].is_object());
    let (tables, keys): (Vec<_>, Vec<_>) =
        order(defaults, properties).into_iter().partition(|name| is_table(name));
    for name in keys {
        let part = &properties[name];
        list.keys.push(Key {
            path: join(path, name),
            doc: doc(part),
            form: form(part),
            default: defaults[name].clone(),
            impact: serde_json::from_value(part["x-impact"].clone()).unwrap_or(Impact::Disruptive),
        });
    }
    for name in tables {
        let path = join(path, name);
        list.tables.push(Table { path: path.clone(), doc: doc(&properties[name]) });
        walk(list, &path, &properties[name], &defaults[name]);
    }
}

fn order<'a>(defaults: &'a Map<String, Value>, properties: &Map<String, Value>) -> Vec<&'a str> {
    defaults.keys().map(String::as_str).filter(|name| properties.contains_key(*name)).collect()
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn doc(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().replace('\n', " ")
}

fn form(schema: &Value) -> Form {
    let sort = schema["x-form"].as_str();
    if let Some(words) = schema["oneOf"].as_array() {
        let word = |part: &Value| Some(Choice { word: part["const"].as_str()?.to_owned(), doc: doc(part) });
        return Form::Choice(words.iter().filter_map(word).collect());
    }
    let span = |name: &str| schema[name].as_str().and_then(|text| text.parse::<Span>().ok());
    match (schema["type"].as_str(), sort) {
        (Some("boolean"), _) => Form::Flag,
        (Some("integer"), _) => Form::Number {
            min: schema["minimum"].as_i64().unwrap_or(i64::MIN),
            max: schema["maximum"].as_i64().unwrap_or(i64::MAX),
        },
        (Some("array"), Some(sort)) => Form::List(Box::new(Form::Text(sort.to_owned()))),
        (Some("array"), None) if schema["maxItems"] == 2 => match form(&schema["items"]) {
            Form::Number { min, max } => Form::Range { min, max },
            other => Form::List(Box::new(other)),
        },
        (Some("array"), None) => Form::List(Box::new(form(&schema["items"]))),
        (_, Some("duration")) => Form::Duration {
            min: span("x-min").unwrap_or_default(),
            max: span("x-max").unwrap_or(Span::from_secs(u32::MAX)),
            step: span("x-step"),
        },
        (_, sort) => Form::Text(sort.unwrap_or("text").to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leaf_of_the_default_is_a_key_with_documentation_form_and_impact() {
        fn leaves(path: &str, value: &Value, into: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    map.iter().for_each(|(name, part)| leaves(&join(path, name), part, into))
                }
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                    into.push(path.to_owned());
                }
            }
        }
        let mut want = Vec::new();
        leaves("", &Config::default().to_value(), &mut want);
        let mut seen: Vec<String> = all().iter().map(|key| key.path.clone()).collect();
        want.sort();
        seen.sort();
        assert_eq!(want, seen);
        let schema = schema();
        for key in all() {
            assert!(!key.doc.is_empty(), "{} has no documentation", key.path);
            let at = format!("/properties/{}", key.path.replace('.', "/properties/"));
            let part = schema.as_value().pointer(&at).unwrap();
            assert!(part["x-impact"].is_string(), "{} has no impact", key.path);
            assert_eq!(key.check(&key.default), Ok(()), "{}: its default is refused", key.path);
            match &key.form {
                Form::Number { min, max } | Form::Range { min, max } => {
                    assert!(*min >= 0 && *max < i64::MAX, "{} has no range", key.path)
                }
                Form::Choice(choices) => {
                    assert!(!choices.is_empty() && choices.iter().all(|c| !c.doc.is_empty()), "{}", key.path);
                }
                Form::Duration { min, max, .. } => assert!(min < max, "{}", key.path),
                Form::Flag | Form::Text(_) | Form::List(_) => {}
            }
        }
        for table in tables() {
            assert!(!table.doc.is_empty(), "{}", table.path);
        }
    }

    #[test]
    fn keys_keep_the_order_of_the_types() {
        let first: Vec<&str> = all().iter().take(3).map(|key| key.path.as_str()).collect();
        assert_eq!(first, ["version", "cluster.name", "node.name"]);
    }

    #[test]
    fn text_becomes_a_value_of_the_keys_form() {
        let parse = |path: &str, text: &str| find(path).unwrap().parse(text);
        assert_eq!(parse("node.name", "12"), Value::from("12"));
        assert_eq!(parse("routing.mtu", "1500"), Value::from(1500));
        assert_eq!(parse("ipv4.enabled", "false"), Value::from(false));
        assert_eq!(parse("routing.devices", "eth0, eth1"), serde_json::json!(["eth0", "eth1"]));
        assert_eq!(parse("routing.devices", r#"["eth0"]"#), serde_json::json!(["eth0"]));
        assert_eq!(parse("routing.devices", ""), serde_json::json!([]));
    }
}
