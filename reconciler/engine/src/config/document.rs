//! Texts generated from the types: the example file, the reference page, the JSON schema.

use super::keys::{self, Form, Key};
use super::{Config, VERSION};
use serde_json::Value;
use std::fmt::Write as _;

/// Longest comment line of the example file.
const WIDTH: usize = 98;

/// The JSON schema of `cilium.toml`, for editors and other tools.
pub fn schema() -> String {
    let mut text = serde_json::to_string_pretty(&keys::schema()).expect("a schema is JSON already");
    text.push('\n');
    text
}

/// `cilium.toml.example`: every key with its default, commented out.
pub fn example() -> String {
    let mut text = format!(
        "# Every key of cilium.toml with its default. A line is a setting once its `#` is removed.\n\
         # `cilium config check --config FILE` validates a file; `cilium config show` says what is in force.\n\
         # Every key can be set for one run by the environment (CILIUM_ROUTING__MODE=native) or by\n\
         # `--set routing.mode=native`.\n\nversion = {VERSION}\n"
    );
    for table in keys::tables() {
        text.push('\n');
        comment(&mut text, &table.doc);
        writeln!(text, "[{}]", table.path).expect(INFALLIBLE);
        for key in keys::all().iter().filter(|key| key.table() == table.path) {
            comment(&mut text, &format!("{} [{}]", key.doc, key.form));
            writeln!(text, "#{} = {}", key.name(), toml_text(&key.default)).expect(INFALLIBLE);
        }
    }
    text
}

/// `docs/configuration.md`: the reference of all keys.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Configuration\n\n\
         <!-- Generated from reconciler/engine/src/config. Edit the documentation comments there. -->\n\n\
         One file, `cilium.toml`, configures a node. It is read once, when a command starts; unknown keys, values out of\n\
         range and contradictions are refused, all at once, before anything is touched.\n\n\
         Later layers win: built-in defaults, the file, the environment, `--set`. A variable is a setting when `__` follows\n\
         its first word: `CILIUM_ROUTING__MODE=native` sets `routing.mode`. `--set routing.mode=native` does the same for one\n\
         run. Lists are written `a,b` or `[\"a\", \"b\"]` there, and text without quotes.\n\n\
         Durations are text with units `d`, `h`, `m`, `s`, `ms`: `\"30s\"`, `\"2h13m20s\"`. An empty text means \"none\".\n\n\
         *On change* says what a restart with a new value costs, as `cilium plan` prints it:\n\
         *hitless*: no packet notices; *reload*: programs or maps are filled anew and swapped, nothing is lost;\n\
         *disruptive*: connections, addresses or identities of running pods are affected.\n\n",
    );
    for key in keys::all().iter().filter(|key| key.table().is_empty()) {
        section(&mut text, key);
    }
    for table in keys::tables() {
        let keys: Vec<&Key> = keys::all().iter().filter(|key| key.table() == table.path).collect();
        writeln!(text, "## `[{}]`\n\n{}\n", table.path, table.doc).expect(INFALLIBLE);
        for key in keys {
            section(&mut text, key);
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn section(text: &mut String, key: &Key) {
    writeln!(text, "### `{}`\n\n{}\n", key.path, key.doc).expect(INFALLIBLE);
    let choices = match &key.form {
        Form::Choice(choices) => choices.as_slice(),
        Form::List(of) => match &**of {
            Form::Choice(choices) => choices.as_slice(),
            Form::Flag
            | Form::Number { .. }
            | Form::Range { .. }
            | Form::Duration { .. }
            | Form::Text(_)
            | Form::List(_) => &[],
        },
        Form::Flag | Form::Number { .. } | Form::Range { .. } | Form::Duration { .. } | Form::Text(_) => &[],
    };
    for choice in choices {
        writeln!(text, "- `\"{}\"`: {}", choice.word, choice.doc).expect(INFALLIBLE);
    }
    if !choices.is_empty() {
        text.push('\n');
    }
    writeln!(
        text,
        "Value: {} · default: `{}` · on change: {}{}\n",
        key.form,
        toml_text(&key.default),
        key.impact,
        if key.table().is_empty() {
            String::new()
        } else {
            format!(" · variable: `{}`", variable(&key.path))
        }
    )
    .expect(INFALLIBLE);
}

/// The environment variable that sets this key. Top-level keys have none.
pub fn variable(path: &str) -> String {
    format!("CILIUM_{}", path.replace('.', "__").to_uppercase())
}

/// A value as TOML writes it. Tables are written inline.
pub fn toml_text(value: &Value) -> String {
    match value {
        // TOML has no null, and no field of `Config` serialises to one.
        Value::Null => "\"\"".to_owned(),
        // JSON's escapes (\" \\ \n \r \t \b \f \uXXXX) all mean the same in a TOML basic string.
        Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(toml_text).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(map) => {
            let items: Vec<String> =
                map.iter().map(|(name, value)| format!("{name} = {}", toml_text(value))).collect();
            format!("{{ {} }}", items.join(", "))
        }
    }
}

/// The configuration as a TOML document without comments.
pub fn toml_document(config: &Config) -> String {
    let value = config.to_value();
    let at = |key: &Key| value.pointer(&key.pointer()).map(toml_text).unwrap_or_default();
    let mut text = format!("version = {}\n", config.version);
    for table in keys::tables() {
        let mut keys = keys::all().iter().filter(|key| key.table() == table.path).peekable();
        if keys.peek().is_some() {
            writeln!(text, "\n[{}]", table.path).expect(INFALLIBLE);
        }
        for key in keys {
            writeln!(text, "{} = {}", key.name(), at(key)).expect(INFALLIBLE);
        }
    }
    text
}

fn comment(text: &mut String, words: &str) {
    let mut line = String::from("#");
    for word in words.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            writeln!(text, "{line}").expect(INFALLIBLE);
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    writeln!(text, "{line}").expect(INFALLIBLE);
}

/// Why writing to a `String` may be expected to succeed.
const INFALLIBLE: &str = "writing to a String cannot fail";
