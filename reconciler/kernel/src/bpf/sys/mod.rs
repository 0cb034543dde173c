//! bpf(2) itself: the only unsafe code of this half of the crate.
//!
//! Holds: one function per command, each taking slices and file descriptors whose sizes it checks
//! before the kernel sees a pointer. Never: paths of this project, names of maps, or a decision.
//! Layouts and command numbers are those of include/uapi/linux/bpf.h.
#![expect(unsafe_code, reason = "system calls take pointers; every block says why it is sound")]

mod clock;
mod interface;
mod link;
mod map;
mod object;
mod words;

pub(crate) use clock::{centiseconds, coarse_seconds};
pub(crate) use interface::{index_of, interfaces, name_of};
pub(crate) use link::{AttachType, Attached, Linked, at_cgroup, detach_from_cgroup, load_drop_guard};
pub(crate) use map::{BatchEnd, ENOTSUPP, MapFd, Shape};
pub(crate) use object::{
    CgroupLinkInfo, LinkInfo, MapInfo, ObjectKind, Pinned, ProgFd, ProgInfo, is_bpffs, is_cgroup2, link_ids,
    open_pin, pin,
};
pub(crate) use words::Words;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// `enum bpf_cmd`.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ProgLoad = 5,
    ObjPin = 6,
    ObjGet = 7,
    ProgDetach = 9,
    ProgFdById = 13,
    MapFdById = 14,
    ObjInfo = 15,
    ProgQuery = 16,
    MapLookupBatch = 24,
    MapUpdateBatch = 26,
    MapDeleteBatch = 27,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkFdById = 30,
    LinkNextId = 31,
    LinkDetach = 34,
}

/// Calls bpf(2). The attribute is read and, for some commands, written.
///
/// # Safety
/// Every pointer within `attr` must be valid for what `command` reads or writes through it, for the
/// time of the call.
unsafe fn bpf<T: IntoBytes + FromBytes + Immutable>(command: Command, attr: &mut T) -> io::Result<i64> {
    // SAFETY: `attr` is a live exclusive reference to a padding-free value of the length given, and
    // any bytes the kernel writes into it are a valid value (`FromBytes`). What the pointers within
    // it lead to is the caller's promise.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, std::ptr::from_mut(attr), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Calls a command whose result is a new file descriptor.
///
/// # Safety
/// As [`bpf`], and `command` returns a file descriptor.
unsafe fn bpf_fd<T: IntoBytes + FromBytes + Immutable>(
    command: Command,
    attr: &mut T,
) -> io::Result<OwnedFd> {
    // SAFETY: passed on to the caller.
    let raw = unsafe { bpf(command, attr)? };
    let raw = i32::try_from(raw).map_err(|_| io::Error::other("bpf(2) returned no file descriptor"))?;
    // SAFETY: the kernel just opened it for us, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// A file descriptor as it stands in an attribute.
fn raw(fd: &impl std::os::fd::AsRawFd) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

/// A pointer as it stands in an attribute.
fn address<T: ?Sized>(pointer: *const T) -> u64 {
    pointer.cast::<u8>() as u64
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
