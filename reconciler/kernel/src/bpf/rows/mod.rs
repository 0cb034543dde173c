//! Rows of BPF maps: between the engine's types and the layouts of `cilium-abi`, and the driver that
//! all hash maps share. Never: a decision about a row.

mod digest;
mod endpoint;
mod ipcache;
mod lb;
mod maglev;
mod node;
mod policy;
mod source_range;
#[cfg(test)]
mod tests;

pub(super) use ipcache::prefix_in;

use super::Bpf;
use super::ifname::Names;
use super::pins::pin_name;
use super::shape::fits;
use super::table::{Plain, Table};
use cilium_abi::maps::MapSpec;
use cilium_engine::driver::{DriverError, Scope, Step};
use cilium_engine::state::{Mac, Resource};
use std::net::IpAddr;

/// A resource that is one hash map.
pub(super) trait Mapped: Resource {
    /// The map.
    const MAP: MapSpec;
    /// Whether connections remember what follows from its rows.
    const REVISED: bool = false;
    /// Its key in the map.
    type AbiKey: Plain;
    /// Its row in the map.
    type AbiRow: Plain;

    /// The key as it stands in the map; `None`: there can be no such key now (its interface is gone).
    fn key_out(key: &Self::Key, names: &mut Names) -> Option<Self::AbiKey>;
    /// The row as it stands in the map.
    fn row_out(key: &Self::Key, row: &Self::Row, names: &mut Names) -> Result<Self::AbiRow, DriverError>;
    /// The key as read, also of rows that we would never write, so that they can be removed; `None`:
    /// the engine's key cannot name it.
    fn key_in(key: &Self::AbiKey, names: &mut Names) -> Option<Self::Key>;
    /// The row as read.
    fn row_in(row: &Self::AbiRow, names: &mut Names) -> Self::Row;
}

/// A key and its row.
pub(super) type Pair<R> = (<R as Resource>::Key, <R as Resource>::Row);

/// Reads rows of a hash map. No map: no rows, since [`super::shape`] is about to create it.
pub(super) fn observe<R: Mapped>(bpf: &Bpf, scope: &Scope<R::Key>) -> Result<Vec<Pair<R>>, DriverError> {
    let Some(table) = open_readable::<R::AbiKey, R::AbiRow>(bpf, &R::MAP)? else { return Ok(Vec::new()) };
    let mut names = Names::default();
    match scope {
        Scope::All => {
            let rows = table.dump()?;
            Ok(rows
                .iter()
                .filter_map(|(k, row)| Some((R::key_in(k, &mut names)?, R::row_in(row, &mut names))))
                .collect())
        }
        Scope::Keys(keys) => {
            let mut out = Vec::new();
            for key in keys {
                if let Some(abi) = R::key_out(key, &mut names)
                    && let Some(row) = table.find(&abi)?
                {
                    out.push((key.clone(), R::row_in(&row, &mut names)));
                }
            }
            Ok(out)
        }
    }
}

/// Opens a map for reading; a pin of another shape has no rows that mean anything to us.
fn open_readable<K: Plain, V: Plain>(bpf: &Bpf, spec: &MapSpec) -> Result<Option<Table<K, V>>, DriverError> {
    let map = bpf.opened.open(&bpf.pins.map(spec))?.filter(|map| fits(map, spec));
    map.map(|map| Table::over(map, pin_name(spec))).transpose()
}

/// Opens a map for writing.
fn open_writable<K: Plain, V: Plain>(bpf: &Bpf, spec: &MapSpec) -> Result<Table<K, V>, DriverError> {
    let map = bpf.opened.open(&bpf.pins.map(spec))?.ok_or_else(|| {
        DriverError::new(format!("map {} is not pinned under {}", spec.name, bpf.pins.maps().display()))
            .hint("maps are created first in a pass; see why that failed")
    })?;
    Table::over(bpf.pins.shaped(map, spec)?, pin_name(spec))
}

/// Writes and removes rows of a hash map, in the order of the steps.
pub(super) fn apply<R: Mapped>(bpf: &Bpf, steps: &[Step<R>]) -> Vec<Result<(), DriverError>> {
    if steps.is_empty() {
        return Vec::new();
    }
    let table = match open_writable::<R::AbiKey, R::AbiRow>(bpf, &R::MAP) {
        Ok(table) => table,
        Err(e) => return steps.iter().map(|_| Err(e.clone())).collect(),
    };
    let mut names = Names::default();
    let out = runs(steps, |run, out| match run {
        Run::Write(steps) => {
            let laid = steps.iter().map(|(key, row)| {
                let abi = R::key_out(key, &mut names).ok_or_else(|| {
                    DriverError::new(format!("{key}: its interface does not exist"))
                        .hint("it is created before this row in the same pass; see why that failed")
                })?;
                Ok((abi, R::row_out(key, row, &mut names)?))
            });
            let laid: Vec<_> = laid.collect();
            out.extend(write_laid(&table, laid));
        }
        Run::Remove(keys) => {
            let keys: Vec<_> = keys.iter().map(|key| Ok(R::key_out(key, &mut names))).collect();
            out.extend(remove_laid(&table, keys));
        }
    });
    if R::REVISED { revise(bpf, out) } else { out }
}

/// What connections remember of the rows just written, they look up again; also after a partial failure,
/// which wrote some.
fn revise(bpf: &Bpf, out: Vec<Result<(), DriverError>>) -> Vec<Result<(), DriverError>> {
    match bpf.raise_revision() {
        Ok(()) => out,
        Err(e) => out.into_iter().map(|result| result.and_then(|()| Err(e.clone()))).collect(),
    }
}

/// Steps of one direction that stand next to each other.
enum Run<'a, R: Resource> {
    Write(Vec<(&'a R::Key, &'a R::Row)>),
    Remove(Vec<&'a R::Key>),
}

/// Cuts steps into runs of one direction, keeping their order.
fn runs<'a, R: Resource>(
    steps: &'a [Step<R>],
    mut each: impl FnMut(Run<'a, R>, &mut Vec<Result<(), DriverError>>),
) -> Vec<Result<(), DriverError>> {
    let mut out = Vec::with_capacity(steps.len());
    let removes = |step: &Step<R>| matches!(step, Step::Remove { .. });
    for run in steps.chunk_by(|a, b| removes(a) == removes(b)) {
        let mut writes = Vec::new();
        let mut gone = Vec::new();
        for step in run {
            match step {
                Step::Create { key, row } | Step::Update { key, row, .. } => writes.push((key, row)),
                Step::Remove { key, .. } => gone.push(key),
            }
        }
        each(if gone.is_empty() { Run::Write(writes) } else { Run::Remove(gone) }, &mut out);
    }
    out
}

/// Writes what could be laid out; one result per element.
fn write_laid<K: Plain, V: Plain>(
    table: &Table<K, V>,
    laid: Vec<Result<(K, V), DriverError>>,
) -> Vec<Result<(), DriverError>> {
    let (mut keys, mut rows) = (Vec::with_capacity(laid.len()), Vec::with_capacity(laid.len()));
    for (key, row) in laid.iter().flatten() {
        keys.push(*key);
        rows.push(*row);
    }
    let mut written = table.write_all(&keys, &rows).into_iter();
    laid.into_iter().map(|one| one.and_then(|_| written.next().unwrap_or(Ok(())))).collect()
}

/// Removes keys; one that cannot exist is gone.
fn remove_laid<K: Plain, V: Plain>(
    table: &Table<K, V>,
    laid: Vec<Result<Option<K>, DriverError>>,
) -> Vec<Result<(), DriverError>> {
    let keys: Vec<K> = laid.iter().flatten().flatten().copied().collect();
    let mut removed = table.remove_all(&keys).into_iter();
    laid.into_iter()
        .map(|one| match one {
            Ok(Some(_)) => removed.next().unwrap_or(Ok(())),
            Ok(None) => Ok(()),
            Err(e) => Err(e),
        })
        .collect()
}

/// An address, or `::` for none.
fn optional_out(addr: Option<IpAddr>) -> cilium_abi::Address {
    addr.map_or(cilium_abi::Address::NONE, Into::into)
}

fn optional_in(addr: cilium_abi::Address) -> Option<IpAddr> {
    (!addr.is_none()).then(|| addr.into())
}

fn mac_out(mac: Mac) -> cilium_abi::Mac {
    cilium_abi::Mac(mac.0)
}

fn mac_in(mac: cilium_abi::Mac) -> Mac {
    Mac(mac.0)
}
