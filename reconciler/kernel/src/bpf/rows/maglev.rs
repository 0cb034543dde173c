//! Maglev tables in the map of all of them. Where one begins and ends is told by the places without a backend
//! between them, so that reading needs to know nothing of their size.

use super::Pair;
use crate::bpf::Bpf;
use crate::bpf::fault::fault;
use crate::bpf::pins::pin_name;
use crate::bpf::shape::fits;
use crate::bpf::sys::Words;
use cilium_abi::maps::{MAGLEV, MMAPABLE};
use cilium_engine::driver::{Driver, DriverError, Scope, Step};
use cilium_engine::state::{BackendId, MaglevRow, MaglevTable, TableId};
use std::ops::Range;

impl Driver<MaglevTable> for Bpf {
    fn observe(&mut self, scope: &Scope<TableId>) -> Result<Vec<Pair<MaglevTable>>, DriverError> {
        if matches!(scope, Scope::Keys(keys) if keys.is_empty()) {
            return Ok(Vec::new());
        }
        let Some(words) = open(self)? else { return Ok(Vec::new()) };
        Ok(match scope {
            Scope::All => all(&words),
            Scope::Keys(keys) => keys
                .iter()
                .filter(|key| begins(&words, key.0 as usize))
                .map(|key| (*key, table(&words, key.0 as usize)))
                .collect(),
        })
    }

    fn apply(&mut self, steps: &[Step<MaglevTable>]) -> Vec<Result<(), DriverError>> {
        if steps.is_empty() {
            return Vec::new();
        }
        let words = match open(self) {
            Ok(Some(words)) => words,
            Ok(None) => {
                let error = DriverError::new(format!("map {} cannot be written", MAGLEV.name))
                    .hint("maps are created first in a pass; see why that failed");
                return steps.iter().map(|_| Err(error.clone())).collect();
            }
            Err(e) => return steps.iter().map(|_| Err(e.clone())).collect(),
        };
        let written: Vec<Range<usize>> = steps
            .iter()
            .filter_map(|step| match step {
                Step::Create { key, row } | Step::Update { key, row, .. } => Some(places(*key, row)),
                Step::Remove { .. } => None,
            })
            .collect();
        let free = |at: usize| !written.iter().any(|range| range.contains(&at));
        steps
            .iter()
            .map(|step| match step {
                Step::Create { key, row } => write(&words, *key, row),
                Step::Update { key, row, seen } => {
                    write(&words, *key, row)?;
                    let left = places(*key, row).end..places(*key, seen).end;
                    clear(&words, left.filter(|at| free(*at)));
                    Ok(())
                }
                Step::Remove { key, seen } => {
                    // What was the rest of a table that has been written whole is no table of its own.
                    if begins(&words, key.0 as usize) {
                        clear(&words, places(*key, seen));
                    }
                    Ok(())
                }
            })
            .collect()
    }
}

/// Opens the map; one of another shape has no rows that mean anything to us.
fn open(bpf: &Bpf) -> Result<Option<Words>, DriverError> {
    let map = bpf.opened.open(&bpf.pins.map(&MAGLEV))?;
    let map = map.filter(|map| fits(map, &MAGLEV) && map.shape().flags & MMAPABLE != 0);
    map.map(|map| map.words().map_err(|e| fault(&e, format!("map {} into memory", pin_name(&MAGLEV)))))
        .transpose()
}

fn places(key: TableId, row: &MaglevRow) -> Range<usize> {
    let first = key.0 as usize;
    first..first.saturating_add(row.0.len())
}

fn write(words: &Words, key: TableId, row: &MaglevRow) -> Result<(), DriverError> {
    let end = places(key, row).end;
    if end > words.len() {
        let text = format!("{} {key} ends at place {end}, and the map has {}", MAGLEV.name, words.len());
        return Err(
            DriverError::new(text).hint("the map is replaced by a larger one first; see why that failed")
        );
    }
    for (at, id) in places(key, row).zip(row.0.iter()) {
        words.set(at, id.0);
    }
    Ok(())
}

fn clear(words: &Words, places: impl Iterator<Item = usize>) {
    for at in places.take_while(|at| *at < words.len()) {
        words.set(at, 0);
    }
}

/// Whether a table begins here.
fn begins(words: &Words, at: usize) -> bool {
    let has = |at: usize| words.get(at).is_some_and(|id| id != 0);
    has(at) && !at.checked_sub(1).is_some_and(has)
}

/// The table that begins here.
fn table(words: &Words, at: usize) -> MaglevRow {
    let ids = (at..words.len()).map_while(|at| words.get(at).filter(|id| *id != 0));
    MaglevRow(ids.map(BackendId).collect::<Vec<_>>().into())
}

fn all(words: &Words) -> Vec<Pair<MaglevTable>> {
    let mut tables = Vec::new();
    let mut at = 0;
    while let Some(id) = words.get(at) {
        if id == 0 {
            at += 1;
            continue;
        }
        let row = table(words, at);
        let length = row.0.len();
        tables.extend(u32::try_from(at).map(|at| (TableId(at), row)));
        at += length;
    }
    tables
}
