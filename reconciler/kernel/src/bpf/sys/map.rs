//! Maps: create, look up, write, and all of it in batches.

use super::{Command, MapInfo, address, bpf, bpf_fd, invalid, raw};
use std::io;
use std::os::fd::OwnedFd;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An open map. Slices are checked against its sizes before each call.
#[derive(Debug)]
pub(crate) struct MapFd {
    fd: OwnedFd,
    pub(crate) info: MapInfo,
    /// Bytes of a row as user space sees it: per-CPU maps give one per possible CPU.
    row_size: usize,
}

/// What a new map is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) kind: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
}

/// `BPF_MAP_TYPE_PERCPU_ARRAY`, the one per-CPU type in use here.
const PERCPU_ARRAY: u32 = 6;
/// `BPF_MAP_TYPE_RINGBUF`.
const RINGBUF: u32 = 27;

#[repr(C)]
#[derive(Clone, Copy, IntoBytes, FromBytes, Immutable)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: [u8; 16],
    ifindex: u32,
}

#[repr(C)]
#[derive(Clone, Copy, IntoBytes, FromBytes, Immutable)]
struct ElemAttr {
    map_fd: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Clone, Copy, IntoBytes, FromBytes, Immutable)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// How far a batched read has come.
#[derive(Debug)]
pub(crate) struct Cursor {
    token: Vec<u8>,
    started: bool,
}

/// How a batched call ended: rows done, and what stopped it.
#[derive(Debug)]
pub(crate) struct BatchEnd {
    pub(crate) done: usize,
    pub(crate) error: Option<io::Error>,
}

impl MapFd {
    /// The same map by another descriptor.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, info: self.info, row_size: self.row_size })
    }

    /// Takes a map's descriptor and asks for its shape.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let info = MapInfo::read(&fd)?;
        let size = info.value_size as usize;
        let row_size =
            if info.kind == PERCPU_ARRAY { size.next_multiple_of(8) * possible_cpus()? } else { size };
        Ok(Self { fd, info, row_size })
    }

    /// The map with this number.
    pub(crate) fn by_id(id: u32) -> io::Result<Self> {
        Self::new(super::object::map_by_id(id)?)
    }

    /// Whether it was created under this name, of which the kernel keeps the first 15 bytes.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        let kept = self.info.name.split(|b| *b == 0).next().unwrap_or_default();
        kept == name.as_bytes().get(..15).unwrap_or(name.as_bytes())
    }

    /// Creates a map. The kernel keeps the first 15 bytes of the name.
    pub(crate) fn create(shape: &Shape, name: &str) -> io::Result<Self> {
        let mut attr = CreateAttr {
            map_type: shape.kind,
            key_size: shape.key_size,
            value_size: shape.value_size,
            max_entries: shape.max_entries,
            map_flags: shape.flags,
            inner_map_fd: 0,
            numa_node: 0,
            name: [0; 16],
            ifindex: 0,
        };
        for (to, from) in attr.name.iter_mut().take(15).zip(name.bytes()) {
            *to = from;
        }
        // SAFETY: no pointers.
        let fd = unsafe { bpf_fd(Command::MapCreate, &mut attr)? };
        Self::new(fd)
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    pub(crate) fn key_size(&self) -> usize {
        self.info.key_size as usize
    }

    pub(crate) fn row_size(&self) -> usize {
        self.row_size
    }

    pub(crate) fn shape(&self) -> Shape {
        let MapInfo { kind, key_size, value_size, max_entries, flags, .. } = self.info;
        Shape { kind, key_size, value_size, max_entries, flags }
    }

    fn elem(&self, key: &[u8]) -> io::Result<ElemAttr> {
        if key.len() != self.key_size() || self.info.kind == RINGBUF {
            return Err(invalid("key is not of the map's size"));
        }
        Ok(ElemAttr { map_fd: raw(&self.fd), reserved: 0, key: address(key.as_ptr()), value: 0, flags: 0 })
    }

    /// Copies the row of a key out; `false`: there is none.
    pub(crate) fn lookup(&self, key: &[u8], row: &mut [u8]) -> io::Result<bool> {
        if row.len() != self.row_size {
            return Err(invalid("row is not of the map's size"));
        }
        let mut attr = self.elem(key)?;
        attr.value = address(row.as_mut_ptr());
        // SAFETY: the key has the map's key size and the row the size the kernel copies out for this
        // map type, both checked; both outlive the call.
        match unsafe { bpf(Command::MapLookup, &mut attr) } {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Creates or replaces a row.
    pub(crate) fn update(&self, key: &[u8], row: &[u8]) -> io::Result<()> {
        if row.len() != self.row_size {
            return Err(invalid("row is not of the map's size"));
        }
        let mut attr = self.elem(key)?;
        attr.value = address(row.as_ptr());
        // SAFETY: key and row have the map's sizes, are only read, and outlive the call.
        unsafe { bpf(Command::MapUpdate, &mut attr) }.map(drop)
    }

    /// Removes a row; `false`: there was none.
    pub(crate) fn delete(&self, key: &[u8]) -> io::Result<bool> {
        let mut attr = self.elem(key)?;
        // SAFETY: the key has the map's key size, is only read, and outlives the call.
        match unsafe { bpf(Command::MapDelete, &mut attr) } {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Writes the key after `previous` (the first, if there is none) into `next`; `false`: no more.
    pub(crate) fn next_key(&self, previous: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
        if next.len() != self.key_size() {
            return Err(invalid("key is not of the map's size"));
        }
        let mut attr = self.elem(previous.unwrap_or(next))?;
        if previous.is_none() {
            attr.key = 0;
        }
        attr.value = address(next.as_mut_ptr());
        // SAFETY: `key` is null (allowed: it means "from the start") or leads to a key, and `value`
        // to a writable key, both of the map's key size, checked.
        match unsafe { bpf(Command::MapNextKey, &mut attr) } {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Where a batched read begins.
    pub(crate) fn cursor(&self) -> Cursor {
        // Hashes keep a bucket number there (4 bytes), everything else the last key.
        Cursor { token: vec![0; self.key_size().max(8)], started: false }
    }

    fn batch(&self, keys: (u64, usize), rows: (u64, usize), count: usize) -> io::Result<BatchAttr> {
        let fits = |len: usize, size: usize| count.checked_mul(size) == Some(len);
        if !fits(keys.1, self.key_size()) || !fits(rows.1, self.row_size) || self.info.kind == RINGBUF {
            return Err(invalid("batch is not of the map's sizes"));
        }
        let count = u32::try_from(count).map_err(|_| invalid("batch too large"))?;
        Ok(BatchAttr {
            in_batch: 0,
            out_batch: 0,
            keys: keys.0,
            values: rows.0,
            count,
            map_fd: raw(&self.fd),
            elem_flags: 0,
            flags: 0,
        })
    }

    /// Reads up to `count` rows from the cursor on. `error` of `ENOENT`: that was the last of them;
    /// `ENOSPC`: the buffer does not hold even one hash bucket.
    pub(crate) fn lookup_batch(
        &self,
        cursor: &mut Cursor,
        keys: &mut [u8],
        rows: &mut [u8],
        count: usize,
    ) -> io::Result<BatchEnd> {
        let mut attr = self.batch(
            (address(keys.as_mut_ptr()), keys.len()),
            (address(rows.as_mut_ptr()), rows.len()),
            count,
        )?;
        if cursor.token.len() < self.key_size().max(4) {
            return Err(invalid("cursor of another map"));
        }
        let token = address(cursor.token.as_mut_ptr());
        attr.in_batch = if cursor.started { token } else { 0 };
        attr.out_batch = token;
        // SAFETY: keys and rows hold `count` elements of the map's sizes, checked in `batch`. The
        // token holds the larger of a bucket number and a key, which is all the kernel reads from
        // or writes to it; it reads it before it writes.
        let result = unsafe { bpf(Command::MapLookupBatch, &mut attr) };
        let end = ended(result, &attr, count)?;
        if end.done > 0 {
            cursor.started = true;
        }
        Ok(end)
    }

    /// Writes `count` rows; stops at the first that fails, whose place is `done`.
    pub(crate) fn update_batch(&self, keys: &[u8], rows: &[u8], count: usize) -> io::Result<BatchEnd> {
        let mut attr =
            self.batch((address(keys.as_ptr()), keys.len()), (address(rows.as_ptr()), rows.len()), count)?;
        // SAFETY: keys and rows hold `count` elements of the map's sizes, checked in `batch`; the
        // kernel only reads them.
        let result = unsafe { bpf(Command::MapUpdateBatch, &mut attr) };
        ended(result, &attr, count)
    }

    /// Removes `count` rows; stops at the first that fails, whose place is `done`.
    pub(crate) fn delete_batch(&self, keys: &[u8], count: usize) -> io::Result<BatchEnd> {
        let mut attr = self.batch((address(keys.as_ptr()), keys.len()), (0, count * self.row_size), count)?;
        // SAFETY: keys hold `count` elements of the map's key size, checked in `batch`; the kernel
        // only reads them and uses no rows.
        let result = unsafe { bpf(Command::MapDeleteBatch, &mut attr) };
        ended(result, &attr, count)
    }
}

/// What a batched call did. The kernel reports the count also when it stops early; when it refuses
/// the whole call it leaves `count` as it was, which only the end of a read (`ENOENT`) does too.
fn ended(result: io::Result<i64>, attr: &BatchAttr, asked: usize) -> io::Result<BatchEnd> {
    let done = (attr.count as usize).min(asked);
    match result {
        Ok(_) => Ok(BatchEnd { done, error: None }),
        Err(e) if done == asked && asked > 0 && e.raw_os_error() != Some(libc::ENOENT) => Err(e),
        Err(e) => Ok(BatchEnd { done, error: Some(e) }),
    }
}

/// The kernel's own `ENOTSUPP`, which user space headers do not have.
pub(crate) const ENOTSUPP: i32 = 524;

/// Number of possible CPUs, which sets the size of per-CPU rows.
fn possible_cpus() -> io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let mut count = 0usize;
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let parse = |s: &str| s.parse::<usize>().map_err(|_| invalid("unreadable list of possible CPUs"));
        count += parse(last)?.saturating_sub(parse(first)?) + 1;
    }
    Ok(count)
}
