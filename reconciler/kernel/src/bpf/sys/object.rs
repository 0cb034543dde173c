//! Pins, and what the kernel tells about an object.

use super::{Command, address, bpf, bpf_fd, invalid, raw};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// What a pin holds. `BPF_OBJ_GET` does not say, and an info call on the wrong sort of object fills
/// in another layout without complaint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ObjectKind {
    Map,
    Program,
    Link,
    Other,
}

/// An object opened from its pin.
#[derive(Debug)]
pub(crate) struct Pinned {
    pub(crate) fd: OwnedFd,
    pub(crate) kind: ObjectKind,
}

#[repr(C)]
#[derive(Clone, Copy, IntoBytes, FromBytes, Immutable)]
struct ObjAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| invalid("a path holds a NUL byte"))
}

/// Opens a pin.
pub(crate) fn open_pin(path: &Path) -> io::Result<Pinned> {
    let text = c_path(path)?;
    let mut attr = ObjAttr { pathname: address(text.as_ptr()), bpf_fd: 0, file_flags: 0 };
    // SAFETY: `pathname` leads to a NUL-terminated string that outlives the call.
    let fd = unsafe { bpf_fd(Command::ObjGet, &mut attr)? };
    let kind = kind_of(&fd);
    Ok(Pinned { fd, kind })
}

/// Which sort of object a descriptor is, from the name of its anonymous inode.
fn kind_of(fd: &OwnedFd) -> ObjectKind {
    let Ok(target) = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())) else {
        return ObjectKind::Other;
    };
    match target.to_string_lossy().trim_start_matches("anon_inode:").trim_matches(['[', ']']) {
        "bpf-map" => ObjectKind::Map,
        "bpf-prog" => ObjectKind::Program,
        "bpf_link" | "bpf-link" => ObjectKind::Link,
        _ => ObjectKind::Other,
    }
}

/// Pins an object at a path where nothing is.
pub(crate) fn pin(fd: &OwnedFd, path: &Path) -> io::Result<()> {
    let text = c_path(path)?;
    let mut attr = ObjAttr { pathname: address(text.as_ptr()), bpf_fd: raw(fd), file_flags: 0 };
    // SAFETY: `pathname` leads to a NUL-terminated string that outlives the call.
    unsafe { bpf(Command::ObjPin, &mut attr) }.map(drop)
}

/// Whether a path is on a mounted bpffs.
pub(crate) fn is_bpffs(path: &Path) -> io::Result<bool> {
    /// `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
    const MAGIC: u32 = 0xcafe_4a11;
    Ok(filesystem(path)? == MAGIC)
}

/// Whether a path is on a mounted cgroup2 hierarchy.
pub(crate) fn is_cgroup2(path: &Path) -> io::Result<bool> {
    /// `CGROUP2_SUPER_MAGIC` (include/uapi/linux/magic.h).
    const MAGIC: u32 = 0x6367_7270;
    Ok(filesystem(path)? == MAGIC)
}

/// The magic number of the filesystem that a path is on.
fn filesystem(path: &Path) -> io::Result<u32> {
    let text = c_path(path)?;
    // SAFETY: `statfs` is plain integers, for which zeroes are a value.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is NUL-terminated, the structure is ours, and both live through the call.
    if unsafe { libc::statfs(text.as_ptr(), &raw mut stat) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // The type of `f_type` differs between targets; the number has 32 bits.
    Ok(stat.f_type as u32)
}

#[repr(C)]
#[derive(Clone, Copy, IntoBytes, FromBytes, Immutable)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// Asks for the info structure; what the kernel does not fill in stays as it is in `out`.
///
/// # Safety
/// Every pointer within `out` is zero, or leads to as many writable elements as its count says.
unsafe fn info_into<T: IntoBytes + FromBytes>(fd: &OwnedFd, out: &mut T) -> io::Result<()> {
    let bytes = out.as_mut_bytes();
    let info_len = u32::try_from(bytes.len()).map_err(|_| invalid("info structure too large"))?;
    let mut attr = InfoAttr { bpf_fd: raw(fd), info_len, info: address(bytes.as_mut_ptr()) };
    // SAFETY: `info` leads to `info_len` writable bytes borrowed for the call; the pointers within
    // are the caller's promise.
    unsafe { bpf(Command::ObjInfo, &mut attr) }.map(drop)
}

/// `struct bpf_map_info`, up to the name.
#[repr(C)]
#[derive(Clone, Copy, Debug, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub(crate) struct MapInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
    pub(crate) name: [u8; 16],
}

impl MapInfo {
    pub(super) fn read(fd: &OwnedFd) -> io::Result<Self> {
        let mut info = Self::new_zeroed();
        // SAFETY: no pointers within.
        unsafe { info_into(fd, &mut info)? };
        Ok(info)
    }
}

/// `struct bpf_link_info` for links to a network device.
#[repr(C)]
#[derive(Clone, Copy, Debug, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub(crate) struct LinkInfo {
    /// `enum bpf_link_type`.
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) prog_id: u32,
    reserved: u32,
    /// 0: the device is gone, or the link was detached.
    pub(crate) ifindex: u32,
    /// `enum bpf_attach_type` (TCX and netkit only).
    pub(crate) attach_type: u32,
}

impl LinkInfo {
    /// `BPF_LINK_TYPE_XDP`.
    pub(crate) const XDP: u32 = 6;
    /// `BPF_LINK_TYPE_TCX`.
    pub(crate) const TCX: u32 = 11;

    pub(crate) fn read(fd: &OwnedFd) -> io::Result<Self> {
        let mut info = Self::new_zeroed();
        // SAFETY: no pointers within.
        unsafe { info_into(fd, &mut info)? };
        Ok(info)
    }
}

/// `struct bpf_link_info` for links to a cgroup.
#[repr(C)]
#[derive(Clone, Copy, Debug, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub(crate) struct CgroupLinkInfo {
    /// `enum bpf_link_type`.
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) prog_id: u32,
    reserved: u32,
    /// Inode of the cgroup; 0: it is gone, or the link was detached.
    pub(crate) cgroup_id: u64,
    /// `enum bpf_attach_type`.
    pub(crate) attach_type: u32,
    padding: u32,
}

impl CgroupLinkInfo {
    /// `BPF_LINK_TYPE_CGROUP`.
    pub(crate) const CGROUP: u32 = 3;

    pub(crate) fn read(fd: &OwnedFd) -> io::Result<Self> {
        let mut info = Self::new_zeroed();
        // SAFETY: no pointers within.
        unsafe { info_into(fd, &mut info)? };
        Ok(info)
    }
}

/// `struct bpf_prog_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, IntoBytes, FromBytes, Immutable, KnownLayout)]
struct RawProgInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    xlated_len: u32,
    jited_insns: u64,
    xlated_insns: u64,
    load_time: u64,
    uid: u32,
    map_count: u32,
    maps: u64,
    name: [u8; 16],
    ifindex: u32,
    bits: u32,
    netns_dev: u64,
    netns_ino: u64,
    /// From the number of symbols to the program tags: never asked for.
    skipped: [u64; 11],
    run_time_ns: u64,
    run_count: u64,
    recursion_misses: u64,
    verified_insns: u32,
    attach_btf_obj_id: u32,
}

/// What is known of a loaded program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProgInfo {
    pub(crate) id: u32,
    /// As the kernel keeps it: at most 15 bytes.
    pub(crate) name: String,
    /// Bytes of machine code, 0 without a JIT.
    pub(crate) jited_len: u32,
    /// Bytes of instructions after verification.
    pub(crate) xlated_len: u32,
    /// Instructions the verifier looked at.
    pub(crate) verified_insns: u32,
    /// Times run, while `kernel.bpf_stats_enabled` is 1.
    pub(crate) run_count: u64,
    /// Nanoseconds run, likewise.
    pub(crate) run_time_ns: u64,
    /// Maps it uses.
    pub(crate) map_ids: Vec<u32>,
}

/// Most maps one program can use (`MAX_USED_MAPS` of kernel/bpf/verifier.c).
const MAX_USED_MAPS: usize = 64;

/// A loaded program.
#[derive(Debug)]
pub(crate) struct ProgFd(pub(crate) OwnedFd);

#[repr(C)]
#[derive(Clone, Copy, IntoBytes, FromBytes, Immutable)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

impl ProgFd {
    /// The program with this number.
    pub(crate) fn by_id(id: u32) -> io::Result<Self> {
        let mut attr = IdAttr { id, next_id: 0, open_flags: 0 };
        // SAFETY: no pointers.
        unsafe { bpf_fd(Command::ProgFdById, &mut attr) }.map(Self)
    }

    pub(crate) fn info(&self) -> io::Result<ProgInfo> {
        let mut ids = [0u32; MAX_USED_MAPS];
        let mut info = RawProgInfo::new_zeroed();
        info.map_count = MAX_USED_MAPS as u32;
        info.maps = address(ids.as_mut_ptr());
        // SAFETY: `maps` leads to `map_count` numbers; all other pointers are zero.
        unsafe { info_into(&self.0, &mut info)? };
        let count = usize::try_from(info.map_count).unwrap_or(0).min(MAX_USED_MAPS);
        Ok(ProgInfo {
            id: info.id,
            name: text(&info.name),
            jited_len: info.jited_len,
            xlated_len: info.xlated_len,
            verified_insns: info.verified_insns,
            run_count: info.run_count,
            run_time_ns: info.run_time_ns,
            map_ids: ids.iter().copied().take(count).collect(),
        })
    }
}

/// The map with this number.
pub(super) fn map_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = IdAttr { id, next_id: 0, open_flags: 0 };
    // SAFETY: no pointers.
    unsafe { bpf_fd(Command::MapFdById, &mut attr) }
}

/// The link with this number.
pub(super) fn link_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = IdAttr { id, next_id: 0, open_flags: 0 };
    // SAFETY: no pointers.
    unsafe { bpf_fd(Command::LinkFdById, &mut attr) }
}

/// Numbers of all links, of whatever kind and whoever's.
pub(crate) fn link_ids() -> io::Result<Vec<u32>> {
    let mut ids = Vec::new();
    let mut attr = IdAttr { id: 0, next_id: 0, open_flags: 0 };
    loop {
        // SAFETY: no pointers.
        match unsafe { bpf(Command::LinkNextId, &mut attr) } {
            Ok(_) => ids.push(attr.next_id),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(ids),
            Err(e) => return Err(e),
        }
        attr.id = attr.next_id;
    }
}

/// A name in a fixed field, up to its first NUL.
fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn info_layouts_are_the_kernels() {
        // include/uapi/linux/bpf.h
        assert_eq!(offset_of!(RawProgInfo, name), 64);
        assert_eq!(offset_of!(RawProgInfo, netns_dev), 88);
        assert_eq!(offset_of!(RawProgInfo, run_time_ns), 192);
        assert_eq!(offset_of!(RawProgInfo, verified_insns), 216);
        assert_eq!(offset_of!(MapInfo, name), 24);
        assert_eq!(offset_of!(LinkInfo, ifindex), 16);
        assert_eq!(offset_of!(CgroupLinkInfo, cgroup_id), 16);
        assert_eq!(offset_of!(CgroupLinkInfo, attach_type), 24);
    }
}
