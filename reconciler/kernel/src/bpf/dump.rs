//! Maps as text and JSON, for `cilium map list|get` and `cilium bpf … list`. Reads pins only: works
//! without an agent, and for maps of another shape it says so instead of guessing.

use super::ifname::Names;
use super::pins::{self, Pins, pin_name};
use super::rows::Mapped;
use super::show::{self, Shown};
use super::table::{Plain, Table};
use cilium_abi::maps::{self, MapSpec};
use cilium_engine::driver::DriverError;
use cilium_engine::state::{
    Backend, Device, Endpoint, EndpointConfig, Frontend, IdentityDigest, Policy, PolicyDigest, RevNat, Slot,
    SourceRange,
};
use serde_json::Value;
use std::path::Path;

/// A map of ours as it is pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapSummary {
    /// Its name, without version.
    pub name: &'static str,
    /// Other names it is known by.
    pub aliases: &'static [&'static str],
    /// Name of its pin.
    pub pin: String,
    /// Its number in the kernel; `None`: it is not there.
    pub id: Option<u32>,
    /// Its type, as bpftool names it.
    pub kind: &'static str,
    /// Key size in bytes.
    pub key_size: u32,
    /// Row size in bytes.
    pub value_size: u32,
    /// Entries it has room for (ring buffer: bytes); 0 if it is not there.
    pub max_entries: u32,
}

/// One row of a map.
#[derive(Clone, Debug, PartialEq)]
pub struct DumpRow {
    /// The key as text.
    pub key: String,
    /// The row as text.
    pub row: String,
    /// The key as JSON.
    pub key_json: Value,
    /// The row as JSON.
    pub row_json: Value,
}

/// All maps of this build, pinned or not.
///
/// # Errors
/// A pin cannot be read.
pub fn list(bpf_dir: &Path) -> Result<Vec<MapSummary>, DriverError> {
    let pins = Pins { root: bpf_dir.to_path_buf() };
    let specs = maps::ALL.iter().chain([&maps::EVENTS]);
    specs
        .map(|spec| {
            let info = pins::open_map(&pins.map(spec))?.map(|map| map.info);
            Ok(MapSummary {
                name: spec.name,
                aliases: spec.aliases,
                pin: pin_name(spec),
                id: info.map(|info| info.id),
                kind: kind(spec),
                key_size: spec.key_size,
                value_size: spec.value_size,
                max_entries: info.map_or(0, |info| info.max_entries),
            })
        })
        .collect()
}

fn kind(spec: &MapSpec) -> &'static str {
    use maps::MapType::{Array, Hash, LpmTrie, LruHash, PerCpuArray, RingBuf};
    match spec.kind {
        Hash => "hash",
        Array => "array",
        PerCpuArray => "percpu_array",
        LruHash => "lru_hash",
        LpmTrie => "lpm_trie",
        RingBuf => "ringbuf",
    }
}

/// All rows of a map, by name or alias, in the map's order (by no means sorted).
///
/// # Errors
/// No such map is known or pinned, or it cannot be read.
pub fn rows(bpf_dir: &Path, name: &str) -> Result<Vec<DumpRow>, DriverError> {
    let mut out = Vec::new();
    each(bpf_dir, name, |row| out.push(row))?;
    Ok(out)
}

/// Calls `take` with each row of a map, by name or alias: for maps too large to hold.
///
/// # Errors
/// As [`rows`].
pub fn each(bpf_dir: &Path, name: &str, mut take: impl FnMut(DumpRow)) -> Result<(), DriverError> {
    let Some(spec) = maps::find(name) else {
        return Err(
            DriverError::new(format!("no map is called {name}")).hint("`cilium map list` names them all")
        );
    };
    let reader = Reader { pins: Pins { root: bpf_dir.to_path_buf() }, spec, take: &mut take };
    match spec.name {
        "cilium_endpoint" => reader.mapped::<Endpoint>(),
        "cilium_ep_config" => reader.mapped::<EndpointConfig>(),
        "cilium_device" => reader.mapped::<Device>(),
        "cilium_policy" => reader.mapped::<Policy>(),
        "cilium_frontend" => reader.mapped::<Frontend>(),
        "cilium_slot" => reader.mapped::<Slot>(),
        "cilium_backend" => reader.mapped::<Backend>(),
        "cilium_source_range" => reader.mapped::<SourceRange>(),
        "cilium_revnat" => reader.mapped::<RevNat>(),
        "cilium_identity_digest" => reader.mapped::<IdentityDigest>(),
        "cilium_policy_digest" => reader.mapped::<PolicyDigest>(),
        "cilium_ipcache" => reader.plain(show::host, show::known),
        "cilium_ipcache_prefix" => reader.plain(show::prefix, show::known),
        "cilium_ct_tcp" | "cilium_ct_any" => reader.plain(show::connection, show::tracked),
        "cilium_snat" => reader.plain(show::translation, show::translated),
        "cilium_fragments" => reader.plain(show::datagram, show::first_fragment),
        "cilium_affinity" => reader.plain(show::client, show::kept),
        "cilium_maglev" => reader.plain(show::number, show::number),
        "cilium_sock_rev" => reader.plain(show::socket, show::rewritten),
        "cilium_runtime" => reader.plain(show::number, show::runtime),
        "cilium_revision" => reader.plain(show::number, show::number),
        "cilium_metrics" => {
            for counter in super::counters::read(bpf_dir)? {
                let (key, row) = show::counter(&counter);
                (reader.take)(row_of(key, row));
            }
            Ok(())
        }
        other => Err(DriverError::new(format!("map {other} has no rows to list"))
            .hint("events are read by `cilium monitor` and `hubble observe`")),
    }
}

fn row_of(key: Shown, row: Shown) -> DumpRow {
    DumpRow { key: key.text, row: row.text, key_json: key.json, row_json: row.json }
}

struct Reader<'a, F: FnMut(DumpRow)> {
    pins: Pins,
    spec: MapSpec,
    take: &'a mut F,
}

impl<F: FnMut(DumpRow)> Reader<'_, F> {
    fn open<K: Plain, V: Plain>(&self) -> Result<Table<K, V>, DriverError> {
        Table::open(&self.pins, &self.spec)?.ok_or_else(|| {
            DriverError::new(format!(
                "map {} is not pinned under {}",
                self.spec.name,
                self.pins.maps().display()
            ))
            .hint("is paths.bpf_dir that of the agent, and has it run?")
        })
    }

    fn plain<K: Plain, V: Plain>(
        self,
        key: impl Fn(&K, &mut Names) -> Shown,
        row: impl Fn(&V, &mut Names) -> Shown,
    ) -> Result<(), DriverError> {
        let table = self.open::<K, V>()?;
        let mut names = Names::default();
        table.each_slice(|keys, rows| {
            for (k, v) in keys.iter().zip(rows) {
                (self.take)(row_of(key(k, &mut names), row(v, &mut names)));
            }
            Ok(())
        })
    }

    /// Rows that the engine names: its words, and the fields as JSON.
    fn mapped<R: Mapped + show::Fields>(self) -> Result<(), DriverError> {
        self.plain(
            |key: &R::AbiKey, names| match R::key_in(key, names) {
                Some(key) => Shown { text: key.to_string(), json: R::key_fields(&key) },
                None => Shown { text: "out of range".into(), json: Value::Null },
            },
            |row: &R::AbiRow, names| {
                let row = R::row_in(row, names);
                Shown { text: row.to_string(), json: R::row_fields(&row) }
            },
        )
    }
}
