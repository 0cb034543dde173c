//! A document against a schema. Knows only what [`super::of`] makes; anything else in a schema is no condition.

use super::forms::real_form;
use crate::finding::{Class, Finding};
use crate::yaml::{Entry, Node, Position, Value};
use serde_json::Value as Schema;

/// Most findings told of one document; more help nobody.
pub(crate) const MAX_FINDINGS: usize = 100;

/// Everything in which the document differs from the schema.
pub fn check(schema: &Schema, root: &Node) -> Vec<Finding> {
    let mut walk = Walk { path: String::new(), findings: Vec::new() };
    walk.node(schema, root);
    walk.findings
}

struct Walk {
    path: String,
    findings: Vec<Finding>,
}

impl Walk {
    fn tell(&mut self, at: Position, message: String, hint: String) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { at, path: self.path.clone(), class: Class::Invalid, message, hint });
        }
    }

    fn within(&mut self, part: &str, f: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        if !self.path.is_empty() && !part.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(part);
        f(self);
        self.path.truncate(length);
    }

    fn node(&mut self, schema: &Schema, node: &Node) {
        if flag(schema, "x-kubernetes-preserve-unknown-fields") {
            return;
        }
        if flag(schema, "x-kubernetes-int-or-string") {
            if !matches!(node.value, Value::Int(..) | Value::Text(_)) {
                self.mismatch(node, "a number or a text");
            }
            return;
        }
        match schema.get("type").and_then(Schema::as_str) {
            Some("object") => match &node.value {
                Value::Map(entries) => self.map(schema, node, entries),
                _ => self.mismatch(node, "a mapping"),
            },
            Some("array") => match &node.value {
                Value::List(list) => self.list(schema, node, list),
                _ => self.mismatch(node, "a list"),
            },
            Some("string") => match &node.value {
                Value::Text(text) => self.text(schema, node, text),
                _ => self.mismatch(node, "a text"),
            },
            Some("integer") => match &node.value {
                Value::Int(number, _) => self.integer(schema, node, *number),
                _ => self.mismatch(node, "a whole number"),
            },
            Some("boolean") if !matches!(node.value, Value::Bool(..)) => {
                self.mismatch(node, "`true` or `false`")
            }
            _ => {}
        }
    }

    fn mismatch(&mut self, node: &Node, wanted: &str) {
        let hint = match &node.value {
            Value::Int(_, text) | Value::Float(_, text) | Value::Bool(_, text) if wanted == "a text" => {
                format!("put it in quotes: \"{text}\"")
            }
            Value::Text(text) if wanted == "a whole number" && text.parse::<i64>().is_ok() => {
                "remove the quotes".to_owned()
            }
            Value::Map(_) if wanted == "a list" => "begin the entry with `- `".to_owned(),
            Value::List(_) if wanted == "a mapping" => "remove the `- `".to_owned(),
            Value::Text(_) | Value::Int(..) if wanted == "a list" => "write it as `[value]`".to_owned(),
            _ => String::new(),
        };
        let is = match &node.value {
            Value::Text(text) => format!("the text {}", quoted(text)),
            Value::Int(_, text) | Value::Float(_, text) => format!("the number `{text}`"),
            Value::Bool(_, text) => format!("the boolean `{text}`"),
            other => other.type_name().to_owned(),
        };
        self.tell(node.at, format!("must be {wanted}, is {is}"), hint);
    }

    fn map(&mut self, schema: &Schema, node: &Node, entries: &[Entry]) {
        let properties = schema.get("properties").and_then(Schema::as_object);
        let rest = schema.get("additionalProperties");
        let strict = rest == Some(&Schema::Bool(false));
        for entry in entries {
            // Nothing counts as absent, as the API server has it.
            let absent = entry.value.value == Value::Null;
            match (properties.and_then(|p| p.get(&entry.key)), rest) {
                (Some(schema), _) | (None, Some(schema @ Schema::Object(_))) => {
                    if !absent {
                        self.within(&entry.key, |walk| walk.node(schema, &entry.value));
                    } else if strict && self.path.starts_with("spec") {
                        // The API server takes it as absent. In a policy that is most often wider than meant,
                        // and a file cut short looks so.
                        let hint = "write a value, `[]` or `{}`, or remove the field".to_owned();
                        self.tell(entry.at, format!("`{}` is there without a value", entry.key), hint);
                    }
                }
                (None, Some(Schema::Bool(false))) => {
                    self.unknown(entry, properties.into_iter().flat_map(|p| p.keys()).map(String::as_str));
                }
                (None, _) => {}
            }
        }
        for required in schema.get("required").and_then(Schema::as_array).into_iter().flatten() {
            if let Some(name) = required.as_str()
                && node.find(name).is_none()
            {
                self.tell(node.at, format!("`{name}` is missing"), String::new());
            }
        }
    }

    fn unknown<'a>(&mut self, entry: &Entry, known: impl Iterator<Item = &'a str> + Clone) {
        // `rules` on the wrong level: what is in it says what was meant.
        let inner =
            ["icmp", "terminatingTLS", "originatingTLS"].into_iter().find(|f| entry.value.find(f).is_some());
        let inner = inner.filter(|_| entry.key == "rules").and_then(|field| real_form("rules", field));
        let hint = if let Some(form) = inner.or_else(|| real_form(&self.path, &entry.key)) {
            form.to_owned()
        } else if let Some(name) = nearest(&entry.key, known.clone()) {
            format!("did you mean `{name}`?")
        } else {
            format!("known here: {}", known.collect::<Vec<_>>().join(", "))
        };
        self.tell(entry.at, format!("there is no field `{}`", entry.key), hint);
    }

    fn list(&mut self, schema: &Schema, node: &Node, list: &[Node]) {
        if let Some(max) = schema.get("maxItems").and_then(Schema::as_u64)
            && list.len() as u64 > max
        {
            let message = format!("has {} entries, more than the {max} allowed", list.len());
            self.tell(node.at, message, "write several entries of the list above it".to_owned());
        }
        if let Some(items) = schema.get("items") {
            for (i, item) in list.iter().enumerate() {
                self.within(&format!("[{i}]"), |walk| walk.node(items, item));
            }
        }
    }

    fn text(&mut self, schema: &Schema, node: &Node, text: &str) {
        let Some(known) = schema.get("enum").and_then(Schema::as_array) else { return };
        let known = known.iter().filter_map(Schema::as_str);
        if !known.clone().any(|k| k == text) {
            let hint = match nearest(text, known.clone()) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("one of {}", known.collect::<Vec<_>>().join(", ")),
            };
            self.tell(node.at, format!("{} is not possible here", quoted(text)), hint);
        }
    }

    fn integer(&mut self, schema: &Schema, node: &Node, number: i64) {
        let bound = |name: &str| schema.get(name).and_then(Schema::as_i64);
        let (min, max) = (bound("minimum"), bound("maximum"));
        if min.is_some_and(|min| number < min) || max.is_some_and(|max| number > max) {
            let range = match (min, max) {
                (Some(min), Some(max)) => format!("from {min} to {max}"),
                (Some(min), None) => format!("at least {min}"),
                (None, Some(max)) => format!("at most {max}"),
                (None, None) => String::new(),
            };
            self.tell(node.at, format!("must be {range}, is {number}"), String::new());
        }
    }
}

fn flag(schema: &Schema, name: &str) -> bool {
    schema.get(name).and_then(Schema::as_bool).unwrap_or(false)
}

/// A text from a file, for a message: short, without control characters.
pub(crate) fn quoted(text: &str) -> String {
    let mut short: String =
        text.chars().take(60).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().count() > 60 {
        short.push('…');
    }
    format!("`{short}`")
}

/// The nearest of the known names, if it is near enough to be meant.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Distances are quadratic in length: no name is this long.
    if name.len() > 64 {
        return None;
    }
    let lower = name.to_lowercase();
    let (distance, best) = known
        .map(|k| (strsim::damerau_levenshtein(&lower, &k.to_lowercase()), k))
        .min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + best.len() / 4).then_some(best)
}
