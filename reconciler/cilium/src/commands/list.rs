//! `endpoint`, `identity`, `ip`, `node`, `service` and `metrics`: what the running agent says.

use super::print;
use crate::cli::{Form, ListOrGet};
use crate::client::Agent;
use crate::table::Table;
use anyhow::{Context, Result, bail};
use cilium_sources::config::Loaded;
use serde_json::Value;
use std::process::ExitCode;

fn rows(loaded: &Loaded, list: &str) -> Result<Vec<Value>> {
    let mut view: Value = Agent::new(&loaded.config.paths.run_dir).json("/v1/view")?;
    match view[list].take() {
        Value::Array(rows) => Ok(rows),
        _ => Ok(Vec::new()),
    }
}

/// A field as text, by JSON pointer.
fn at(row: &Value, pointer: &str) -> String {
    match row.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => items
            .iter()
            .map(|i| i.as_str().map_or_else(|| i.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(","),
        Some(other) => other.to_string(),
    }
}

fn show(form: Form, rows: &[Value], columns: &[(&str, &str)]) -> Result<ExitCode> {
    print(form, &rows, || {
        let header: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
        let mut table = Table::new(&header);
        for row in rows {
            table.row(columns.iter().map(|(_, pointer)| at(row, pointer)));
        }
        table.to_string()
    })?;
    Ok(ExitCode::SUCCESS)
}

fn list_or_get(
    rows: Vec<Value>,
    command: &ListOrGet,
    what: &str,
    columns: &[(&str, &str)],
) -> Result<ExitCode> {
    match command {
        ListOrGet::List(form) => show(*form, &rows, columns),
        ListOrGet::Get { id, form } => {
            let row = rows
                .into_iter()
                .find(|row| row["id"].as_u64() == Some(u64::from(*id)))
                .with_context(|| format!("there is no {what} {id}"))?;
            let text = serde_json::to_string_pretty(&row)? + "\n";
            print(*form, &[&row], || text)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// `endpoint`.
pub(super) fn endpoints(loaded: &Loaded, command: &ListOrGet) -> Result<ExitCode> {
    let columns = [
        ("ENDPOINT", "/id"),
        ("POLICY (ingress)", "/status/policy/realized/ingress"),
        ("POLICY (egress)", "/status/policy/realized/egress"),
        ("IDENTITY", "/status/identity/id"),
        ("POD", "/status/external-identifiers/pod-name"),
        ("IPv4", "/status/networking/addressing/0/ipv4"),
        ("IPv6", "/status/networking/addressing/0/ipv6"),
        ("INTERFACE", "/status/networking/interface-name"),
        ("STATUS", "/status/state"),
        ("LABELS", "/status/identity/labels"),
    ];
    list_or_get(rows(loaded, "endpoints")?, command, "endpoint", &columns)
}

/// `identity`.
pub(super) fn identities(loaded: &Loaded, command: &ListOrGet) -> Result<ExitCode> {
    list_or_get(rows(loaded, "identities")?, command, "identity", &[("ID", "/id"), ("LABELS", "/labels")])
}

/// `ip`.
pub(super) fn addresses(loaded: &Loaded, form: Form) -> Result<ExitCode> {
    let columns =
        [("IP", "/cidr"), ("IDENTITY", "/identity"), ("TUNNEL", "/hostIP"), ("SOURCE", "/metadata/source")];
    show(form, &rows(loaded, "addresses")?, &columns)
}

/// `node`.
pub(super) fn nodes(loaded: &Loaded, form: Form) -> Result<ExitCode> {
    let columns = [
        ("NAME", "/name"),
        ("IPv4", "/primary-address/ipv4/ip"),
        ("IPv4 PODS", "/primary-address/ipv4/alloc-range"),
        ("IPv6", "/primary-address/ipv6/ip"),
        ("IPv6 PODS", "/primary-address/ipv6/alloc-range"),
        ("ROUTERS", "/routers"),
    ];
    show(form, &rows(loaded, "nodes")?, &columns)
}

/// `service`. A number is that of an address and port; it has two frontends where clients inside get other
/// backends than those outside.
pub(super) fn services(loaded: &Loaded, command: &ListOrGet) -> Result<ExitCode> {
    let mut rows = rows(loaded, "services")?;
    let form = match command {
        ListOrGet::List(form) => *form,
        ListOrGet::Get { id, form } => {
            rows.retain(|row| row["spec"]["id"].as_u64() == Some(u64::from(*id)));
            if rows.is_empty() {
                bail!("there is no service {id} (hint: `cilium service list` has their numbers)");
            }
            *form
        }
    };
    rows.sort_by_key(|row| row["spec"]["id"].as_u64());
    print(form, &rows, || services_text(&rows))?;
    Ok(ExitCode::SUCCESS)
}

fn services_text(rows: &[Value]) -> String {
    let mut table = Table::new(&["ID", "FRONTEND", "SERVICE", "TYPE", "BACKENDS"]);
    let address = |value: &Value| {
        let (ip, port) = (at(value, "/ip"), at(value, "/port"));
        if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
    };
    for row in rows {
        let backends = row["spec"]["backend-addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
        let backend = |backend: &Value| match at(backend, "/state").as_str() {
            "active" => address(backend),
            state => format!("{} ({state})", address(backend)),
        };
        let inside = if at(row, "/spec/frontend-address/scope") == "internal" { "/i" } else { "" };
        table.row([
            at(row, "/spec/id"),
            format!(
                "{}/{}{inside}",
                address(&row["spec"]["frontend-address"]),
                at(row, "/spec/frontend-address/protocol"),
            ),
            format!("{}/{}", at(row, "/spec/flags/namespace"), at(row, "/spec/flags/name")),
            at(row, "/spec/flags/type"),
            backends.iter().map(backend).collect::<Vec<_>>().join(" "),
        ]);
    }
    table.to_string()
}

/// `metrics`.
pub(super) fn metrics(loaded: &Loaded, form: Form) -> Result<ExitCode> {
    let text = Agent::new(&loaded.config.paths.run_dir).text("/metrics")?;
    let samples: Vec<Value> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels = labels.trim_end_matches('}');
            Some(serde_json::json!({"name": name, "labels": labels, "value": value.parse::<f64>().ok()?}))
        })
        .collect();
    show(form, &samples, &[("METRIC", "/name"), ("LABELS", "/labels"), ("VALUE", "/value")])
}
