//! 0 → 1: flat keys, named as in upstream's ConfigMap, become tables; `version` appears.
//!
//! Version 0 is what was written before there was a `version` key: `tunnel = "vxlan"`,
//! `enable-ipv4 = true`, values as text where a ConfigMap has text. Tables that stand in such a document
//! already are left as they are, so a document that lacks nothing but its `version` gets just that.
//! Backward, what has no flat name moves to the saved document and comes back on the way up.

use crate::error::StepError;
use crate::step::Step;
use toml_edit::{Array, Decor, DocumentMut, Item, Key, Table, Value};

pub(crate) const STEP: Step =
    Step { from: 0, name: "0001_flat_keys", source: include_str!("s0001_flat_keys.rs"), forward, backward };

/// How the text of a flat key is to be read.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Flag,
    Number,
    /// Several words, as a list or as text with spaces or commas between.
    Words,
    /// `:port` stands for all addresses.
    Listen,
}

/// Flat name, table, name in the table, form. `tunnel` is not here: it became two keys.
const NAMES: &[(&str, &str, &str, Form)] = &[
    ("cluster-name", "cluster", "name", Form::Text),
    ("node-name", "node", "name", Form::Text),
    ("manifests", "source.manifests", "path", Form::Text),
    ("enable-ipv4", "ipv4", "enabled", Form::Flag),
    ("enable-ipv6", "ipv6", "enabled", Form::Flag),
    ("routing-mode", "routing", "mode", Form::Text),
    ("tunnel-protocol", "routing", "tunnel_protocol", Form::Text),
    ("tunnel-port", "routing", "tunnel_port", Form::Number),
    ("ipv4-native-routing-cidr", "routing", "ipv4_native_cidr", Form::Text),
    ("ipv6-native-routing-cidr", "routing", "ipv6_native_cidr", Form::Text),
    ("auto-direct-node-routes", "routing", "auto_direct_node_routes", Form::Flag),
    ("devices", "routing", "devices", Form::Words),
    ("mtu", "routing", "mtu", Form::Number),
    ("enable-ipv4-masquerade", "masquerade", "ipv4", Form::Flag),
    ("enable-ipv6-masquerade", "masquerade", "ipv6", Form::Flag),
    ("kube-proxy-replacement", "load_balancer", "kube_proxy_replacement", Form::Flag),
    ("enable-policy", "policy", "enforcement", Form::Text),
    ("allow-localhost", "policy", "allow_localhost", Form::Text),
    ("policy-cidr-match-mode", "policy", "cidr_match_mode", Form::Words),
    ("monitor-aggregation", "monitor", "aggregation", Form::Text),
    ("monitor-aggregation-interval", "monitor", "interval", Form::Text),
    ("prometheus-serve-addr", "metrics", "listen", Form::Listen),
    ("bpf-ct-global-tcp-max", "bpf", "ct_tcp_max", Form::Number),
    ("bpf-ct-global-any-max", "bpf", "ct_any_max", Form::Number),
    ("bpf-nat-global-max", "bpf", "nat_max", Form::Number),
    ("bpf-lb-map-max", "bpf", "lb_max", Form::Number),
    ("bpf-ct-timeout-regular-tcp", "bpf", "ct_timeout_regular_tcp", Form::Text),
    ("bpf-ct-timeout-regular-tcp-syn", "bpf", "ct_timeout_regular_tcp_syn", Form::Text),
    ("bpf-ct-timeout-regular-tcp-fin", "bpf", "ct_timeout_regular_tcp_fin", Form::Text),
    ("bpf-ct-timeout-regular-any", "bpf", "ct_timeout_regular_any", Form::Text),
    ("conntrack-gc-interval", "bpf", "ct_gc_interval", Form::Text),
];

fn forward(document: &mut DocumentMut, saved: &DocumentMut) -> Result<Vec<String>, StepError> {
    let root = document.as_table_mut();
    let flat: Vec<String> =
        root.iter().filter(|(_, item)| item.is_value()).map(|(name, _)| name.to_owned()).collect();
    let is_known =
        |name: &String| name == "version" || name == "tunnel" || NAMES.iter().any(|row| row.0 == name);
    // A dotted or inline table counts as a value; one of a table's name is judged by the reader, not here.
    let is_table = |name: &String| root.get(name).is_some_and(|item| item.as_inline_table().is_some());
    let unknown: Vec<String> =
        flat.iter().filter(|name| !is_known(name) && !is_table(name)).cloned().collect();
    if !unknown.is_empty() {
        return Err(StepError::UnknownKeys { keys: unknown });
    }

    let header = detach_header(root);
    let mut notes = Vec::new();
    for name in flat.iter().filter(|name| is_known(name) && *name != "version") {
        let Some((key, item)) = root.remove_entry(name) else { continue };
        let Item::Value(value) = item else { continue };
        // Where one flat key became two, the first keeps its comment.
        let mut decor = key.leaf_decor().clone();
        for (table, new, value) in translate(name, value)? {
            notes.push(format!("{name} -> {table}.{new}"));
            put(root, name, table, new, std::mem::take(&mut decor), value)?;
        }
    }
    give_back(root, saved.as_table(), "", &mut notes);
    root.remove("version");
    root.insert("version", Item::Value(Value::from(1)));
    if let Some(mut version) = root.key_mut("version") {
        version.leaf_decor_mut().set_prefix(header);
    }
    Ok(notes)
}

/// What a flat key means in tables: table, key, value.
fn translate(name: &str, value: Value) -> Result<Vec<(&'static str, &'static str, Value)>, StepError> {
    if name == "tunnel" {
        let decor = value.decor().clone();
        let mode = |mode: &str| ("routing", "mode", decorated(Value::from(mode), &decor));
        return match value.as_str() {
            Some("disabled") => Ok(vec![mode("native")]),
            Some(protocol @ ("vxlan" | "geneve")) => Ok(vec![
                mode("tunnel"),
                ("routing", "tunnel_protocol", decorated(Value::from(protocol), &Decor::new(" ", ""))),
            ]),
            Some(_) | None => Err(refused(name, &value, "it was \"vxlan\", \"geneve\" or \"disabled\"")),
        };
    }
    let Some((_, table, key, form)) = NAMES.iter().find(|row| row.0 == name) else { return Ok(Vec::new()) };
    Ok(vec![(*table, *key, convert(name, *form, value)?)])
}

fn convert(name: &str, form: Form, value: Value) -> Result<Value, StepError> {
    let decor = value.decor().clone();
    let text = value.as_str().map(str::to_owned);
    let new = match (form, text.as_deref()) {
        (Form::Flag, Some("true" | "strict" | "probe")) => Value::from(true),
        (Form::Flag, Some("false" | "disabled" | "partial")) => Value::from(false),
        (Form::Flag, None) if value.is_bool() => value,
        (Form::Flag, Some(_) | None) => return Err(refused(name, &value, "write true or false")),
        (Form::Number, Some(text)) => match text.parse::<i64>() {
            Ok(number) => Value::from(number),
            Err(_) => return Err(refused(name, &value, "write a whole number")),
        },
        (Form::Number, None) if value.is_integer() => value,
        (Form::Number, None) => return Err(refused(name, &value, "write a whole number")),
        (Form::Words, Some(text)) => {
            let words = text.split([' ', ',']).filter(|word| !word.is_empty());
            Value::Array(words.collect::<Array>())
        }
        (Form::Words, None) if value.is_array() => value,
        (Form::Words, None) => return Err(refused(name, &value, "write a list of words")),
        (Form::Listen, Some(text)) if text.starts_with(':') => Value::from(format!("[::]{text}")),
        (Form::Text | Form::Listen, Some(_)) => value,
        (Form::Text | Form::Listen, None) => return Err(refused(name, &value, "write text in quotes")),
    };
    Ok(decorated(new, &decor))
}

fn refused(name: &str, value: &Value, hint: &str) -> StepError {
    StepError::Value {
        key: name.to_owned(),
        value: value.to_string().trim().to_owned(),
        hint: hint.to_owned(),
    }
}

fn decorated(mut value: Value, decor: &Decor) -> Value {
    *value.decor_mut() = decor.clone();
    value
}

fn put(
    root: &mut Table,
    old: &str,
    table: &str,
    key: &str,
    mut decor: Decor,
    value: Value,
) -> Result<(), StepError> {
    let target = table_at(root, table)?;
    if target.contains_key(key) {
        return Err(StepError::Twice { old: old.to_owned(), new: format!("{table}.{key}") });
    }
    if target.is_empty() {
        // The table's header has the empty line above already.
        let own = prefix(&decor);
        decor.set_prefix(own.trim_start_matches('\n'));
    }
    target.insert_formatted(&Key::new(key).with_leaf_decor(decor), Item::Value(value));
    Ok(())
}

/// The table of this dotted path, made if it is not there.
fn table_at<'a>(root: &'a mut Table, path: &str) -> Result<&'a mut Table, StepError> {
    let mut at = root;
    let parts: Vec<&str> = path.split('.').collect();
    for (i, part) in parts.iter().enumerate() {
        let last = i + 1 == parts.len();
        at = at
            .entry(part)
            .or_insert_with(|| {
                let mut table = Table::new();
                table.set_implicit(!last);
                table.decor_mut().set_prefix("\n");
                Item::Table(table)
            })
            .as_table_mut()
            .ok_or_else(|| StepError::Shape {
                key: path.to_owned(),
                expected: "a table with a header of its own",
            })?;
    }
    Ok(at)
}

/// Puts back what a downgrade saved, where nobody wrote something else since.
fn give_back(into: &mut Table, saved: &Table, path: &str, notes: &mut Vec<String>) {
    for (name, item) in saved {
        let at = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        match (into.get_mut(name), item) {
            (Some(Item::Table(inner)), Item::Table(kept)) => give_back(inner, kept, &at, notes),
            (Some(_), _) => {
                notes.push(format!("{at}: the saved value is not given back, the document has one"))
            }
            (None, _) => {
                let mut item = item.clone();
                unplace(&mut item);
                if let Some(key) = saved.key(name) {
                    into.insert_formatted(key, item);
                }
                notes.push(format!("{at} is given back"));
            }
        }
    }
}

/// Forgets where in its former document a table stood.
fn unplace(item: &mut Item) {
    if let Item::Table(table) = item {
        table.set_position(None);
        table.iter_mut().for_each(|(_, inner)| unplace(inner));
    }
}

/// Takes a leading comment that an empty line sets apart off the first key: it is about the whole document.
fn detach_header(root: &mut Table) -> String {
    let Some(first) = root.iter().next().map(|(name, _)| name.to_owned()) else { return String::new() };
    if first == "version" {
        return root.key("version").map(|key| prefix(key.leaf_decor())).unwrap_or_default();
    }
    let Some(mut key) = root.key_mut(&first) else { return String::new() };
    let whole = prefix(key.leaf_decor());
    let Some(end) = whole.rfind("\n\n") else { return String::new() };
    let (header, own) = whole.split_at(end + 2);
    key.leaf_decor_mut().set_prefix(own);
    header.to_owned()
}

fn backward(document: &mut DocumentMut, saved: &mut DocumentMut) -> Result<Vec<String>, StepError> {
    let root = document.as_table_mut();
    let header = root.remove_entry("version").map(|(key, _)| prefix(key.leaf_decor())).unwrap_or_default();
    let mut notes = Vec::new();
    let mut flat = Vec::new();
    let names: Vec<String> = root.iter().map(|(name, _)| name.to_owned()).collect();
    for name in names {
        let Some((key, mut item)) = root.remove_entry(&name) else { continue };
        flatten(&name, &mut item, &mut flat, &mut notes);
        if !is_bare(&item) {
            notes.push(format!("{name}: what version 0 cannot express is kept aside"));
            unplace(&mut item);
            saved.as_table_mut().insert_formatted(&key, item);
        }
    }
    for (i, (name, mut decor, value)) in flat.into_iter().enumerate() {
        if i == 0 {
            let own = prefix(&decor);
            decor.set_prefix(format!("{header}{}", own.trim_start_matches('\n')));
        }
        root.insert_formatted(&Key::new(name).with_leaf_decor(decor), Item::Value(value));
    }
    if root.is_empty() {
        let trailing = document.trailing().as_str().unwrap_or_default().to_owned();
        document.set_trailing(format!("{header}{trailing}"));
    }
    Ok(notes)
}

/// Moves every key with a flat name out of this table and those within.
fn flatten(
    path: &str,
    item: &mut Item,
    flat: &mut Vec<(&'static str, Decor, Value)>,
    notes: &mut Vec<String>,
) {
    let Item::Table(table) = item else { return };
    // A comment above the header would be lost with the table: it goes to the first key moved out of it.
    let mut above = prefix(table.decor());
    let inner: Vec<String> = table.iter().map(|(name, _)| name.to_owned()).collect();
    for name in inner {
        if table.get(&name).is_some_and(Item::is_table) {
            if let Some(inner) = table.get_mut(&name) {
                flatten(&format!("{path}.{name}"), inner, flat, notes);
                if is_bare(inner) {
                    table.remove(&name);
                }
            }
            continue;
        }
        let Some((old, ..)) = NAMES.iter().find(|(_, table, key, _)| *table == path && *key == name) else {
            continue;
        };
        let Some((key, Item::Value(value))) = table.remove_entry(&name) else { continue };
        notes.push(format!("{path}.{name} -> {old}"));
        let mut decor = key.leaf_decor().clone();
        if above.contains('#') {
            decor.set_prefix(format!("{}{}", above.trim_start_matches('\n'), prefix(&decor)));
            above.clear();
        }
        flat.push((old, decor, value));
    }
    if above.is_empty() {
        table.decor_mut().set_prefix("\n");
    }
}

/// A table of which nothing is left.
fn is_bare(item: &Item) -> bool {
    item.as_table().is_some_and(Table::is_empty)
}

fn prefix(decor: &Decor) -> String {
    decor.prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default().to_owned()
}
