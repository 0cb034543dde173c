//! A map of ours with typed keys and rows, read and written in batches.
//!
//! Slices are of [`SLICE`] rows: some milliseconds of kernel time at most, so that a full read never
//! holds a CPU for long.

use super::fault::fault;
use super::pins::{Pins, pin_name};
use super::sys::{BatchEnd, MapFd};
use cilium_abi::maps::MapSpec;
use cilium_engine::driver::DriverError;
use std::io;
use std::marker::PhantomData;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Rows per batched call: 4 096 take about 1 ms to read and 3 ms to write.
const SLICE: usize = 4096;
/// The most a read grows its slice to, for hash buckets that hold more.
const SLICE_MAX: usize = 1 << 20;

/// What a batch does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Write,
    Remove,
}

impl std::fmt::Display for Doing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Write => "write",
            Self::Remove => "remove from",
        })
    }
}

/// Plain bytes, as keys and rows are.
pub(super) trait Plain: IntoBytes + FromBytes + Immutable + KnownLayout + Copy {}
impl<T: IntoBytes + FromBytes + Immutable + KnownLayout + Copy> Plain for T {}

/// A map of ours.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    map: MapFd,
    name: String,
    types: PhantomData<(K, V)>,
}

impl<K: Plain, V: Plain> Table<K, V> {
    /// Opens a map; `None`: it is not there.
    pub(super) fn open(pins: &Pins, spec: &MapSpec) -> Result<Option<Self>, DriverError> {
        let Some(map) = pins.open_map(spec)? else { return Ok(None) };
        Self::over(map, pin_name(spec)).map(Some)
    }

    /// Takes an open map whose sizes must be those of the types.
    pub(super) fn over(map: MapFd, name: String) -> Result<Self, DriverError> {
        if map.key_size() != size_of::<K>() || map.row_size() != size_of::<V>() {
            return Err(DriverError::new(format!("map {name} has keys or rows of another size")));
        }
        Ok(Self { map, name, types: PhantomData })
    }

    /// Every row. A row that changes meanwhile is read before or after; none that stays is missed.
    pub(super) fn dump(&self) -> Result<Vec<(K, V)>, DriverError> {
        let mut out = Vec::new();
        self.each_slice(|keys, rows| {
            out.extend(keys.iter().copied().zip(rows.iter().copied()));
            Ok(())
        })?;
        Ok(out)
    }

    /// Calls `take` with slices of keys and rows until all were read.
    pub(super) fn each_slice(
        &self,
        mut take: impl FnMut(&[K], &[V]) -> Result<(), DriverError>,
    ) -> Result<(), DriverError> {
        let wrong = |e: &io::Error| fault(e, format!("read map {}", self.name));
        // A table that is written while it is read may show rows twice, but not for ever.
        let mut left = (self.map.info.max_entries as usize).saturating_mul(2).saturating_add(SLICE_MAX);
        let mut size = SLICE.min(self.map.info.max_entries as usize).max(64);
        let (mut keys, mut rows) = (vec![K::new_zeroed(); size], vec![V::new_zeroed(); size]);
        let mut cursor = self.map.cursor();
        let mut any = false;
        loop {
            let read = self.map.lookup_batch(&mut cursor, keys.as_mut_bytes(), rows.as_mut_bytes(), size);
            let BatchEnd { done, error } = match read {
                Ok(end) => end,
                Err(e) if !any && unsupported(&e) => return self.each_single(take),
                Err(e) => return Err(wrong(&e)),
            };
            any = true;
            take(keys.get(..done).unwrap_or_default(), rows.get(..done).unwrap_or_default())?;
            left = left.saturating_sub(done.max(1));
            match error {
                _ if left == 0 => {
                    return Err(DriverError::new(format!(
                        "read map {}: it changes faster than it can be read",
                        self.name
                    )));
                }
                None => {}
                Some(e) => match e.raw_os_error() {
                    Some(libc::ENOENT) => return Ok(()),
                    Some(libc::EINTR | libc::EAGAIN) => {}
                    Some(libc::ENOSPC) if size < SLICE_MAX => {
                        size *= 4;
                        keys = vec![K::new_zeroed(); size];
                        rows = vec![V::new_zeroed(); size];
                    }
                    _ => return Err(wrong(&e)),
                },
            }
        }
    }

    /// As [`Self::each_slice`], for map types and kernels without batches.
    fn each_single(
        &self,
        mut take: impl FnMut(&[K], &[V]) -> Result<(), DriverError>,
    ) -> Result<(), DriverError> {
        let wrong = |e: &io::Error| fault(e, format!("read map {}", self.name));
        let (mut key, mut row) = (K::new_zeroed(), V::new_zeroed());
        let mut previous: Option<K> = None;
        for _ in 0..(u64::from(self.map.info.max_entries) * 2 + 1024) {
            let last = previous;
            if !self
                .map
                .next_key(last.as_ref().map(IntoBytes::as_bytes), key.as_mut_bytes())
                .map_err(|e| wrong(&e))?
            {
                return Ok(());
            }
            if self.map.lookup(key.as_bytes(), row.as_mut_bytes()).map_err(|e| wrong(&e))? {
                take(&[key], &[row])?;
            }
            previous = Some(key);
        }
        Err(DriverError::new(format!("read map {}: it changes faster than it can be read", self.name)))
    }

    /// One row.
    pub(super) fn find(&self, key: &K) -> Result<Option<V>, DriverError> {
        let mut row = V::new_zeroed();
        let found = self.map.lookup(key.as_bytes(), row.as_mut_bytes());
        found
            .map(|found| found.then_some(row))
            .map_err(|e| fault(&e, format!("look up in map {}", self.name)))
    }

    /// Writes one row.
    pub(super) fn write(&self, key: &K, row: &V) -> Result<(), DriverError> {
        self.map
            .update(key.as_bytes(), row.as_bytes())
            .map_err(|e| fault(&e, format!("write map {}", self.name)))
    }

    /// Removes one row; gone already is fine.
    pub(super) fn remove(&self, key: &K) -> io::Result<()> {
        self.map.delete(key.as_bytes()).map(drop)
    }

    /// Creates or replaces rows; one result for each.
    pub(super) fn write_all(&self, keys: &[K], rows: &[V]) -> Vec<Result<(), DriverError>> {
        let count = keys.len().min(rows.len());
        self.each_batch(count, Doing::Write, |at, n| {
            let (keys, rows) = (part(keys, at, n), part(rows, at, n));
            match self.map.update_batch(keys.as_bytes(), rows.as_bytes(), keys.len()) {
                Err(e) if unsupported(&e) => single(keys.iter().zip(rows), |(key, row)| {
                    self.map.update(key.as_bytes(), row.as_bytes())
                }),
                end => end,
            }
        })
    }

    /// Removes rows; one result for each, and a row that is gone already is a success.
    pub(super) fn remove_all(&self, keys: &[K]) -> Vec<Result<(), DriverError>> {
        self.each_batch(keys.len(), Doing::Remove, |at, n| {
            let keys = part(keys, at, n);
            match self.map.delete_batch(keys.as_bytes(), keys.len()) {
                Err(e) if unsupported(&e) => {
                    single(keys.iter(), |key| self.map.delete(key.as_bytes()).map(drop))
                }
                end => end,
            }
        })
    }

    /// Runs batches over `count` rows, going on behind each row that fails.
    fn each_batch(
        &self,
        count: usize,
        doing: Doing,
        mut batch: impl FnMut(usize, usize) -> io::Result<BatchEnd>,
    ) -> Vec<Result<(), DriverError>> {
        let mut results = Vec::with_capacity(count);
        while results.len() < count {
            let at = results.len();
            let n = SLICE.min(count - at);
            let (done, error) = match batch(at, n) {
                Ok(BatchEnd { done, error }) => (done.min(n), error),
                // The call as a whole was refused: so is each of its rows.
                Err(e) => {
                    let refused = fault(&e, format!("{doing} map {}", self.name));
                    results.extend((0..n).map(|_| Err(refused.clone())));
                    continue;
                }
            };
            results.extend((0..done).map(|_| Ok(())));
            match error {
                None if done < n => {
                    // No error, no progress: never loop on it.
                    let stuck = DriverError::new(format!(
                        "{doing} map {}: the kernel stopped without a reason",
                        self.name
                    ));
                    results.extend((done..n).map(|_| Err(stuck.clone())));
                }
                None => {}
                Some(e) if doing == Doing::Remove && e.raw_os_error() == Some(libc::ENOENT) => {
                    results.push(Ok(()))
                }
                Some(e) => results.push(Err(fault(&e, format!("{doing} map {}", self.name)))),
            }
        }
        results
    }
}

/// Rows one by one, in the manner of a batch: stops at the first that fails.
fn single<T>(
    items: impl Iterator<Item = T>,
    mut each: impl FnMut(T) -> io::Result<()>,
) -> io::Result<BatchEnd> {
    let mut done = 0;
    for item in items {
        if let Err(error) = each(item) {
            return Ok(BatchEnd { done, error: Some(error) });
        }
        done += 1;
    }
    Ok(BatchEnd { done, error: None })
}

fn part<T>(all: &[T], at: usize, n: usize) -> &[T] {
    all.get(at..at + n).unwrap_or_default()
}

/// The map type or the kernel has no such batched command.
fn unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | super::sys::ENOTSUPP))
}
