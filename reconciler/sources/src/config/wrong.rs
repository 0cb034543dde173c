//! What is wrong for each key: the grid that every way of reading a configuration is tested with. Made of
//! the list of keys, so that a new key is in it; one of a form not known here fails the tests.

use cilium_engine::config::keys::{Form, Key};
use std::collections::BTreeMap;

/// Values of another type than this form takes, as TOML.
pub(crate) fn types(form: &Form) -> Vec<String> {
    let other = match form {
        Form::Flag => "\"true\"",
        Form::Number { .. } => "\"1\"",
        Form::Choice(_) | Form::Duration { .. } | Form::Text(_) => "7",
        Form::List(_) | Form::Range { .. } => "\"one\"",
    };
    [other, "{ a = 1 }", "2026-01-01"].map(str::to_owned).into()
}

/// Values of the right type that this key must refuse, as TOML.
pub(crate) fn out_of_range(key: &Key) -> Vec<String> {
    let texts = |texts: &[&str]| texts.iter().map(|text| format!("{text:?}")).collect();
    let lists = |texts: &[&str]| texts.iter().map(|text| format!("[{text}]")).collect();
    match &key.form {
        Form::Flag => vec![],
        Form::Number { min, max } => {
            [min.checked_sub(1), max.checked_add(1)].into_iter().flatten().map(|n| n.to_string()).collect()
        }
        Form::Choice(_) => texts(&["no-such-word", ""]),
        Form::Duration { max, step, .. } => {
            let mut wrong = vec!["\"5\"".to_owned(), "\"1 fortnight\"".into(), format!("\"{max}1ms\"")];
            wrong.extend(step.map(|_| "\"1s1ms\"".to_owned()));
            wrong
        }
        Form::Text(sort) => match sort.as_str() {
            "path" => texts(&["relative/path", "/a/../b"]),
            "IPv4 prefix" => texts(&["10.0.0.0/33", "fd00::/64", "10.0.0.1/8"]),
            "IPv6 prefix" => texts(&["fd00::/129", "10.0.0.0/8", "fd00::1/64"]),
            "address:port" => texts(&["127.0.0.1", ":9962"]),
            "text" => texts(&["Not A Name", "-"]),
            other => panic!("no wrong value known for {other}: add one"),
        },
        Form::Range { min, max } => vec![
            "[]".to_owned(),
            format!("[{min}]"),
            format!("[{min}, {max}, {max}]"),
            format!("[{}, {max}]", min - 1),
            format!("[{min}, {}]", max + 1),
            format!("[{max}, {min}]"),
            format!("[\"{min}\", {max}]"),
        ],
        Form::List(of) => match &**of {
            Form::Choice(_) => lists(&["\"no-such-word\"", "7"]),
            Form::Text(sort) => match sort.as_str() {
                "address" => lists(&["\"10.0.0\"", "\"0.0.0.0\"", "1"]),
                "prefix" => lists(&["\"10.0.0.0/40\"", "\"10.0.0.7/24\""]),
                "device" => lists(&["\"a/b\"", "\"sixteen-or-longer\"", "\"\""]),
                other => panic!("no wrong value known for a list of {other}: add one"),
            },
            Form::Flag | Form::Number { .. } | Form::Duration { .. } | Form::List(_) | Form::Range { .. } => {
                panic!("no wrong value known for {}: add one", key.path)
            }
        },
    }
}

/// A wrong value as the environment and `--set` give it: text without quotes.
pub(crate) fn text(key: &Key) -> String {
    match key.form {
        Form::Flag => "maybe".to_owned(),
        Form::Number { .. } => "many".to_owned(),
        Form::Range { .. } => "many".to_owned(),
        Form::Choice(_) | Form::Duration { .. } | Form::Text(_) | Form::List(_) => {
            out_of_range(key)[0].trim_matches('"').to_owned()
        }
    }
}

/// The key with a letter too many.
pub(crate) fn misspelt(key: &Key) -> String {
    format!("{}q", key.path)
}

/// Without its family a prefix would be refused for a second reason.
pub(crate) fn needed_by(key: &Key) -> Option<(&'static str, &'static str)> {
    key.path.contains("ipv6_").then_some(("ipv6.enabled", "true"))
}

/// Keys with values as TOML.
pub(crate) type Settings<'a> = [(&'a str, &'a str)];

/// The document with these settings; of two of one key the first counts.
pub(crate) fn document(settings: &Settings<'_>) -> String {
    let mut tables: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for (path, value) in settings {
        let (table, name) = path.rsplit_once('.').unwrap_or(("", path));
        tables.entry(table).or_default().entry(name).or_insert(value);
    }
    tables.entry("").or_default().entry("version").or_insert("1");
    let mut text = String::new();
    for (table, keys) in tables {
        if !table.is_empty() {
            text.push_str(&format!("[{table}]\n"));
        }
        for (name, value) in keys {
            text.push_str(&format!("{name} = {value}\n"));
        }
    }
    text
}

/// Line and column, from 1, of a key's value in the document.
pub(crate) fn place(settings: &Settings<'_>, path: &str) -> (usize, usize) {
    let (table, name) = path.rsplit_once('.').unwrap_or(("", path));
    let mut at = "";
    for (number, line) in (1..).zip(document(settings).lines()) {
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            at = if header == table { table } else { "another" };
        } else if at == table && line.split(" = ").next() == Some(name) {
            return (number, name.len() + 4);
        }
    }
    panic!("{path} is not in the document")
}

/// Settings each good by itself, and the keys that the refusal names, the first first.
pub(crate) const CONTRADICTIONS: &[(&Settings<'static>, &[&str])] = &[
    (&[("ipv4.enabled", "false")], &["ipv4.enabled", "ipv6.enabled"]),
    (&[("routing.mode", "\"native\"")], &["routing.mode", "routing.ipv4_native_cidr", "masquerade.ipv4"]),
    (&[("routing.auto_direct_node_routes", "true")], &["routing.auto_direct_node_routes", "routing.mode"]),
    (
        &[("load_balancer.dsr_dispatch", "\"geneve\"")],
        &["load_balancer.dsr_dispatch", "routing.mode", "routing.tunnel_protocol"],
    ),
    (&[("routing.ipv6_native_cidr", "\"fd00::/64\"")], &["routing.ipv6_native_cidr", "ipv6.enabled"]),
    (&[("node.pod_cidrs", "[\"fd00::/64\"]")], &["node.pod_cidrs", "ipv6.enabled"]),
    (&[("node.pod_cidrs", "[\"10.0.0.0/16\", \"10.0.1.0/24\"]")], &["node.pod_cidrs"]),
    (
        &[("node.addresses", "[\"10.0.0.1\"]"), ("node.pod_cidrs", "[\"10.0.0.0/16\"]")],
        &["node.addresses", "node.pod_cidrs"],
    ),
    (&[("routing.mtu", "600")], &["routing.mtu", "routing.mode", "ipv6.enabled"]),
    (&[("ipv6.enabled", "true"), ("routing.mtu", "1300")], &["routing.mtu", "routing.mode", "ipv6.enabled"]),
    (&[("routing.devices", "[\"cilium_host\"]")], &["routing.devices"]),
    (&[("routing.devices", "[\"eth0\", \"eth0\"]")], &["routing.devices"]),
    (&[("paths.run_dir", "\"/x\""), ("paths.bpf_dir", "\"/x\"")], &["paths.bpf_dir", "paths.run_dir"]),
    (
        &[("paths.state_dir", "\"/m/state\""), ("source.manifests.path", "\"/m\"")],
        &["source.manifests.path", "paths.state_dir"],
    ),
    (
        &[("policy.enforcement", "\"never\""), ("policy.allow_localhost", "\"policy\"")],
        &["policy.allow_localhost", "policy.enforcement"],
    ),
    (&[("bpf.events_bytes", "100000")], &["bpf.events_bytes"]),
];
