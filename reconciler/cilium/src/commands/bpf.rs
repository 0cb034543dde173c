//! `bpf …` and `map …`: the kernel's maps and programs as they are, without an agent.

use super::print;
use crate::agent::direction_name;
use crate::cli::{BpfCommand, Form, LbCommand, MapCommand};
use crate::table::Table;
use anyhow::Result;
use cilium_kernel::bpf::dump::{self, DumpRow};
use cilium_kernel::bpf::{counters, programs};
use cilium_sources::config::Loaded;
use serde_json::{Value, json};
use std::process::ExitCode;

/// `map …`.
pub(super) fn map(loaded: &Loaded, command: &MapCommand) -> Result<ExitCode> {
    match command {
        MapCommand::List(form) => maps(loaded, *form),
        MapCommand::Get { name, form } => rows(loaded, *form, &[name.as_str()], |_| true),
    }
}

/// `bpf …`.
pub(super) fn bpf(loaded: &Loaded, command: &BpfCommand) -> Result<ExitCode> {
    let all = |_: &DumpRow| true;
    match command {
        BpfCommand::Ipcache(c) => rows(loaded, c.form(), &["cilium_ipcache", "cilium_ipcache_prefix"], all),
        BpfCommand::Endpoint(c) => rows(loaded, c.form(), &["cilium_endpoint", "cilium_ep_config"], all),
        BpfCommand::Policy(c) => rows(loaded, c.form(), &["cilium_policy"], all),
        BpfCommand::Lb(LbCommand::List(args)) => super::lb::list(loaded, args),
        BpfCommand::Ct(c) => rows(loaded, c.form(), &["cilium_ct_tcp", "cilium_ct_any"], all),
        BpfCommand::Nat(c) => rows(loaded, c.form(), &["cilium_snat"], all),
        BpfCommand::Frag(c) => rows(loaded, c.form(), &["cilium_fragments"], all),
        BpfCommand::Tunnel(c) => {
            let tunnelled = |row: &DumpRow| row.row_json.get("tunnelendpoint").is_some_and(|t| !t.is_null());
            rows(loaded, c.form(), &["cilium_ipcache", "cilium_ipcache_prefix"], tunnelled)
        }
        BpfCommand::Metrics(c) => metrics(loaded, c.form()),
        BpfCommand::Prog(c) => programs(loaded, c.form()),
        BpfCommand::Map(c) => maps(loaded, c.form()),
    }
}

fn rows(loaded: &Loaded, form: Form, maps: &[&str], keep: impl Fn(&DumpRow) -> bool) -> Result<ExitCode> {
    let mut list: Vec<(String, DumpRow)> = Vec::new();
    for map in maps {
        let rows = dump::rows(&loaded.config.paths.bpf_dir, map)?;
        list.extend(rows.into_iter().filter(&keep).map(|row| ((*map).to_owned(), row)));
    }
    let value: Vec<Value> = list
        .iter()
        .map(|(map, row)| json!({"map": map, "key": row.key_json, "value": row.row_json}))
        .collect();
    print(form, &value, || {
        let mut table = Table::new(&["MAP", "KEY", "VALUE"]);
        for (map, row) in &list {
            table.row([map.clone(), row.key.clone(), row.row.clone()]);
        }
        table.to_string()
    })?;
    Ok(ExitCode::SUCCESS)
}

fn maps(loaded: &Loaded, form: Form) -> Result<ExitCode> {
    let list = dump::list(&loaded.config.paths.bpf_dir)?;
    let value: Vec<Value> = list
        .iter()
        .map(|m| {
            json!({
                "name": m.name, "aliases": m.aliases, "pin": m.pin, "id": m.id, "type": m.kind,
                "key-size": m.key_size, "value-size": m.value_size, "max-entries": m.max_entries,
            })
        })
        .collect();
    print(form, &value, || {
        let mut table = Table::new(&["NAME", "TYPE", "ID", "KEY", "VALUE", "MAX ENTRIES", "ALSO KNOWN AS"]);
        for m in &list {
            table.row([
                m.name.to_owned(),
                m.kind.to_owned(),
                m.id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
                m.key_size.to_string(),
                m.value_size.to_string(),
                m.max_entries.to_string(),
                m.aliases.join(" "),
            ]);
        }
        table.to_string()
    })?;
    Ok(ExitCode::SUCCESS)
}

fn metrics(loaded: &Loaded, form: Form) -> Result<ExitCode> {
    let list = counters::read(&loaded.config.paths.bpf_dir)?;
    let reason = |code: u8| cilium_abi::metrics::text(code).unwrap_or("Unknown");
    let value: Vec<Value> = list
        .iter()
        .map(|c| {
            json!({
                "reason": c.reason, "description": reason(c.reason), "direction": direction_name(c.direction),
                "packets": c.packets, "bytes": c.bytes,
            })
        })
        .collect();
    print(form, &value, || {
        let mut table = Table::new(&["REASON", "DIRECTION", "PACKETS", "BYTES"]);
        for c in &list {
            table.row([
                reason(c.reason).to_owned(),
                direction_name(c.direction).to_owned(),
                c.packets.to_string(),
                c.bytes.to_string(),
            ]);
        }
        table.to_string()
    })?;
    Ok(ExitCode::SUCCESS)
}

fn programs(loaded: &Loaded, form: Form) -> Result<ExitCode> {
    let list = programs::list(&loaded.config.paths.bpf_dir)?;
    let value: Vec<Value> = list
        .iter()
        .map(|p| {
            json!({
                "set": p.set.to_string(), "name": p.name, "id": p.id, "verified-insns": p.verified_insns,
                "jited-bytes": p.jited_bytes, "translated-bytes": p.translated_bytes, "run-count": p.run_count,
                "run-time-ns": p.run_time_ns, "map-ids": p.map_ids,
            })
        })
        .collect();
    print(form, &value, || {
        let mut table = Table::new(&["SET", "NAME", "ID", "VERIFIED", "JITED BYTES"]);
        for p in &list {
            table.row([
                format!("{:.12}", p.set.to_string()),
                p.name.clone(),
                p.id.to_string(),
                p.verified_insns.to_string(),
                p.jited_bytes.to_string(),
            ]);
        }
        table.to_string()
    })?;
    Ok(ExitCode::SUCCESS)
}
