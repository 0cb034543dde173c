//! The maps themselves: which pins there are, of what shape, and replacing one that is not as wanted.
//!
//! A new generation is made beside the old one, filled with the old rows where both have the same
//! layout, and renamed over it. Attached programs keep the old one until their set is replaced, and
//! a set that uses a map that is no longer pinned is seen as broken ([`super::set`]).

use super::Bpf;
use super::fault::fault;
use super::pins::{self, Pins};
use super::set::{pinned_maps, read_sets};
use super::sys::{LinkInfo, MapFd, ObjectKind, ProgFd, Shape};
use cilium_abi::maps::{MapSpec, MapType};
use cilium_engine::driver::{Driver, DriverError, Scope, Step};
use cilium_engine::state::{BpfMap, MapKey, MapRow};
use std::collections::BTreeSet;

/// How the pin of one of our maps stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PinState {
    /// It is there, with keys and rows of this build.
    Usable,
    /// Nothing is there.
    Missing,
    /// A map of another type or with other sizes.
    Misshapen,
}

/// How the pin of a map stands.
pub(super) fn state_of(pins: &Pins, spec: &MapSpec) -> Result<PinState, DriverError> {
    Ok(match pins::open_map(&pins.map(spec))? {
        None => PinState::Missing,
        Some(map) if fits(&map, spec) => PinState::Usable,
        Some(_) => PinState::Misshapen,
    })
}

/// Whether a map has keys and rows of this build.
pub(super) fn fits(map: &MapFd, spec: &MapSpec) -> bool {
    let Shape { kind, key_size, value_size, .. } = map.shape();
    (kind, key_size, value_size) == (spec.kind as u32, spec.key_size, spec.value_size)
}

impl Driver<BpfMap> for Bpf {
    fn observe(&mut self, scope: &Scope<MapKey>) -> Result<Vec<(MapKey, MapRow)>, DriverError> {
        let names = match scope {
            Scope::All => pins::names(&self.pins.maps())?,
            Scope::Keys(keys) => keys.iter().map(|key| key.0.clone()).collect(),
        };
        let mut out = Vec::new();
        for name in names {
            if pins::checked(&name, "map").is_err() {
                continue;
            }
            if let Some(map) = pins::open_map(&self.pins.maps().join(&name))? {
                out.push((MapKey(name), row_in(&map.shape())));
            }
        }
        Ok(out)
    }

    fn apply(&mut self, steps: &[Step<BpfMap>]) -> Vec<Result<(), DriverError>> {
        steps
            .iter()
            .map(|step| match step {
                Step::Create { key, row } | Step::Update { key, row, .. } => ensure(&self.pins, key, row),
                Step::Remove { key, .. } => {
                    pins::remove(&self.pins.maps().join(pins::checked(&key.0, "map")?))
                }
            })
            .collect()
    }
}

fn row_in(shape: &Shape) -> MapRow {
    let Shape { kind, key_size, value_size, max_entries, flags } = *shape;
    match map_type(kind) {
        Some(kind) => MapRow { kind, key_size, value_size, max_entries, flags },
        // A type this project does not use: no map has room for nothing, so no wanted row equals it.
        None => MapRow { kind: MapType::Hash, key_size, value_size, max_entries: 0, flags },
    }
}

fn map_type(number: u32) -> Option<MapType> {
    use MapType::{Array, Hash, LpmTrie, LruHash, PerCpuArray, RingBuf};
    [Hash, Array, PerCpuArray, LruHash, LpmTrie, RingBuf].into_iter().find(|kind| *kind as u32 == number)
}

/// Makes a pin be a map of this shape.
fn ensure(pins: &Pins, key: &MapKey, row: &MapRow) -> Result<(), DriverError> {
    let path = pins.maps().join(pins::checked(&key.0, "map")?);
    let MapRow { kind, key_size, value_size, max_entries, flags } = *row;
    let wanted = Shape { kind: kind as u32, key_size, value_size, max_entries, flags };
    let old = match pins::open_map(&path)? {
        Some(pinned) if pinned.shape() == wanted => return Ok(()),
        Some(pinned) => Some(pinned),
        None => match live_map(pins, key, &wanted)? {
            Some(live) if live.shape() == wanted => {
                let id = live.info.id;
                tracing::info!(map = %key, id, "lost pin: the map that programs use is pinned again");
                return pins::pin_over(live.fd(), &path);
            }
            other => other,
        },
    };
    let new = MapFd::create(&wanted, &key.0).map_err(|e| {
        let error = fault(&e, format!("create map {key} ({row})"));
        if e.raw_os_error() == Some(libc::EINVAL) && kind == MapType::RingBuf {
            return error.hint("bpf.events_bytes must be a power of two and a multiple of the page size");
        }
        error
    })?;
    if let Some(old) = old {
        carry_over(&old, &new, key, kind)?;
    }
    pins::pin_over(new.fd(), &path)
}

/// The map of this name and layout that programs use, be they pinned or attached: where only the pin was
/// lost, what the kernel wrote into the map (connections) is not. Of several the latest; never one that is
/// pinned under another name, since of a long name the kernel keeps no version.
fn live_map(pins: &Pins, key: &MapKey, wanted: &Shape) -> Result<Option<MapFd>, DriverError> {
    let sets = read_sets(pins)?;
    let mut used: BTreeSet<u32> = sets
        .iter()
        .flat_map(|set| set.programs.values())
        .flat_map(|info| info.map_ids.iter().copied())
        .collect();
    for name in pins::names(&pins.links())? {
        let path = pins.links().join(name);
        let Some(link) = pins::open_as(&path, ObjectKind::Link)? else { continue };
        let info = LinkInfo::read(&link).map_err(|e| fault(&e, format!("look at {}", path.display())))?;
        // A program that went away meanwhile uses nothing.
        used.extend(
            ProgFd::by_id(info.prog_id).and_then(|prog| prog.info()).into_iter().flat_map(|p| p.map_ids),
        );
    }
    let pinned = pinned_maps(pins)?;
    let layout = |shape: Shape| (shape.kind, shape.key_size, shape.value_size);
    Ok(used
        .iter()
        .rev()
        .filter(|id| !pinned.contains(id))
        // One that went away meanwhile is no candidate.
        .filter_map(|id| MapFd::by_id(*id).ok())
        .find(|map| layout(map.shape()) == layout(*wanted) && map.is_named(&key.0)))
}

/// Copies the rows of the old generation, as many as fit: programs that are moved to the new one
/// must not meet an empty map, and what the kernel wrote (connections) is known nowhere else.
fn carry_over(old: &MapFd, new: &MapFd, key: &MapKey, kind: MapType) -> Result<(), DriverError> {
    match kind {
        MapType::Hash | MapType::LruHash | MapType::LpmTrie | MapType::Array => {}
        // Counters start again; events in flight are given up.
        MapType::PerCpuArray | MapType::RingBuf => return Ok(()),
    }
    let (from, to) = (old.shape(), new.shape());
    if (from.kind, from.key_size, from.value_size) != (to.kind, to.key_size, to.value_size) {
        return Ok(());
    }
    let copied = copy_rows(old, new).map_err(|e| fault(&e, format!("copy the rows of map {key}")))?;
    tracing::info!(map = %key, rows = copied, "map replaced, rows carried over");
    Ok(())
}

/// Copies rows in slices; one that does not fit is left behind.
fn copy_rows(old: &MapFd, new: &MapFd) -> std::io::Result<usize> {
    const SLICE: usize = 4096;
    const SLICE_MAX: usize = 1 << 20;
    let mut size = SLICE;
    let (mut keys, mut rows) = (vec![0; size * old.key_size()], vec![0; size * old.row_size()]);
    let mut cursor = old.cursor();
    let mut copied = 0;
    // Twice its capacity: a map that is written meanwhile may show rows twice, but not for ever.
    let limit = old.info.max_entries as usize * 2 + SLICE_MAX;
    while copied <= limit {
        let end = old.lookup_batch(&mut cursor, &mut keys, &mut rows, size)?;
        for (key, row) in
            keys.chunks_exact(old.key_size()).zip(rows.chunks_exact(old.row_size())).take(end.done)
        {
            // An array begins with zeros everywhere.
            if old.shape().kind == MapType::Array as u32 && row.iter().all(|byte| *byte == 0) {
                continue;
            }
            match new.update(key, row) {
                Err(e) if e.raw_os_error() != Some(libc::E2BIG) => return Err(e),
                _ => copied += 1,
            }
        }
        match end.error.as_ref().map(std::io::Error::raw_os_error) {
            None | Some(Some(libc::EINTR | libc::EAGAIN)) => {}
            Some(Some(libc::ENOENT)) => break,
            Some(Some(libc::ENOSPC)) if size < SLICE_MAX => {
                size *= 4;
                keys = vec![0; size * old.key_size()];
                rows = vec![0; size * old.row_size()];
            }
            Some(_) => return Err(end.error.unwrap_or_else(std::io::Error::last_os_error)),
        }
    }
    Ok(copied)
}
