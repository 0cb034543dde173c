//! The bpf() calls that packet tests need and aya does not offer: test runs with a context, plain map
//! access by descriptor, tiny programs from instructions, and one in a driver. Never: knowledge of our maps or programs.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// `BPF_PROG_TYPE_SCHED_CLS`.
const SCHED_CLS: u32 = 3;
/// `BPF_PROG_TYPE_XDP`.
const XDP: u32 = 6;
/// Types of maps (`enum bpf_map_type`).
pub const HASH: u32 = 1;
/// By number.
pub const ARRAY: u32 = 2;
/// Programs, by number.
pub const PROG_ARRAY: u32 = 3;
/// By number, on each CPU.
pub const PERCPU_ARRAY: u32 = 6;
/// A hash that forgets what was used longest ago.
pub const LRU_HASH: u32 = 9;
/// `BPF_XDP`: those that call each other must have been loaded for the same.
const ATTACH_XDP: u32 = 37;
/// `BPF_F_TEST_SKB_CHECKSUM_COMPLETE`, since Linux 6.15.
pub const CHECKSUM_COMPLETE: u32 = 1 << 2;
/// Words of `struct __sk_buff`.
pub const SKB_WORDS: usize = 48;
/// Word of `mark` in it.
pub const SKB_MARK: usize = 2;
/// Word of `ingress_ifindex`.
pub const SKB_INGRESS: usize = 9;
/// Word of `ifindex`.
pub const SKB_IFINDEX: usize = 10;
/// First word of `cb`.
pub const SKB_CB: usize = 12;

fn bpf<T>(command: i32, attr: &mut T) -> io::Result<i32> {
    // SAFETY: every caller passes a zero-padded `union bpf_attr` prefix for `command` whose pointers
    // lead to buffers of the sizes that go with them.
    let code = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(code).unwrap_or(i32::MAX)) }
}

fn own(fd: i32) -> OwnedFd {
    // SAFETY: the kernel just gave this descriptor to us alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn size(len: usize) -> u32 {
    u32::try_from(len).expect("test buffers are small")
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

#[repr(C)]
#[derive(Default)]
struct TestAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// What a test run gave back.
#[derive(Debug)]
pub struct Ran {
    /// The program's return value.
    pub verdict: i32,
    /// The packet afterwards.
    pub data: Vec<u8>,
    /// The context afterwards.
    pub context: [u32; SKB_WORDS],
    /// Nanoseconds per run, on average.
    pub nanoseconds: u32,
}

/// Runs a program on a packet `repeat` times (each on what the run before left).
///
/// # Errors
/// What the kernel says, `EINVAL` for packets it will not build.
pub fn test_run(
    program: BorrowedFd<'_>,
    data: &[u8],
    context: &[u32; SKB_WORDS],
    repeat: u32,
    flags: u32,
) -> io::Result<Ran> {
    let mut out = vec![0u8; data.len() + 256];
    let mut context_out = [0u32; SKB_WORDS];
    let mut attr = TestAttr {
        prog_fd: raw(program),
        data_size_in: size(data.len()),
        data_size_out: size(out.len()),
        data_in: data.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat,
        ctx_size_in: size(size_of_val(context)),
        ctx_size_out: size(size_of_val(context)),
        ctx_in: context.as_ptr() as u64,
        ctx_out: context_out.as_mut_ptr() as u64,
        flags,
        ..TestAttr::default()
    };
    bpf(10, &mut attr)?;
    out.truncate(attr.data_size_out as usize);
    Ok(Ran {
        verdict: attr.retval.cast_signed(),
        data: out,
        context: context_out,
        nanoseconds: attr.duration,
    })
}

/// Runs an XDP program `repeat` times on a frame that an interface received (each on what the run before left).
/// There is no context afterwards.
///
/// # Errors
/// What the kernel says.
pub fn test_run_xdp(program: BorrowedFd<'_>, ifindex: u32, data: &[u8], repeat: u32) -> io::Result<Ran> {
    let mut out = vec![0u8; data.len() + 256];
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context = [0, size(data.len()), 0, ifindex, 0, 0];
    let mut attr = TestAttr {
        prog_fd: raw(program),
        data_size_in: size(data.len()),
        data_size_out: size(out.len()),
        data_in: data.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat,
        ctx_size_in: size(size_of_val(&context)),
        ctx_in: context.as_ptr() as u64,
        ..TestAttr::default()
    };
    bpf(10, &mut attr)?;
    out.truncate(attr.data_size_out as usize);
    Ok(Ran {
        verdict: attr.retval.cast_signed(),
        data: out,
        context: [0; SKB_WORDS],
        nanoseconds: attr.duration,
    })
}

#[repr(C)]
#[derive(Default)]
struct ElementAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn element(map: BorrowedFd<'_>, key: u64, value: u64) -> ElementAttr {
    ElementAttr { map_fd: raw(map), key, value, ..ElementAttr::default() }
}

/// Writes a row. `K` and `V` must be the map's.
///
/// # Errors
/// What the kernel says.
pub fn update<K: IntoBytes + Immutable, V: IntoBytes + Immutable>(
    map: BorrowedFd<'_>,
    key: &K,
    row: &V,
) -> io::Result<()> {
    bpf(2, &mut element(map, key.as_bytes().as_ptr() as u64, row.as_bytes().as_ptr() as u64)).map(drop)
}

/// Removes a row, if it is there.
///
/// # Errors
/// What the kernel says, but not that there is none.
pub fn delete<K: IntoBytes + Immutable>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    match bpf(3, &mut element(map, key.as_bytes().as_ptr() as u64, 0)) {
        Err(e) if e.raw_os_error() != Some(libc::ENOENT) => Err(e),
        _ => Ok(()),
    }
}

/// A row, if there is one.
pub fn lookup<K: IntoBytes + Immutable, V: FromBytes + IntoBytes>(map: BorrowedFd<'_>, key: &K) -> Option<V> {
    let mut row = V::new_zeroed();
    bpf(1, &mut element(map, key.as_bytes().as_ptr() as u64, row.as_mut_bytes().as_mut_ptr() as u64)).ok()?;
    Some(row)
}

/// The rows of one key of a per-CPU map, one per possible CPU.
pub fn lookup_per_cpu<V: FromBytes>(map: BorrowedFd<'_>, key: u32, cpus: usize) -> Vec<V> {
    let each = size_of::<V>().next_multiple_of(8);
    let mut rows = vec![0u8; each * cpus];
    if bpf(1, &mut element(map, (&raw const key) as u64, rows.as_mut_ptr() as u64)).is_err() {
        return Vec::new();
    }
    rows.chunks(each).filter_map(|chunk| V::read_from_prefix(chunk).ok()).map(|(row, _)| row).collect()
}

/// Fills a row of a per-CPU map with zeroes.
///
/// # Errors
/// What the kernel says.
pub fn clear_per_cpu(map: BorrowedFd<'_>, key: u32, row: usize, cpus: usize) -> io::Result<()> {
    let rows = vec![0u8; row.next_multiple_of(8) * cpus];
    bpf(2, &mut element(map, (&raw const key) as u64, rows.as_ptr() as u64)).map(drop)
}

#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

/// All rows of a hash of at most `most` rows.
///
/// # Errors
/// What the kernel says.
pub fn dump<K, V>(map: BorrowedFd<'_>, most: usize) -> io::Result<Vec<(K, V)>>
where
    K: FromBytes + IntoBytes + Clone,
    V: FromBytes + IntoBytes + Clone,
{
    let mut keys = vec![K::new_zeroed(); most];
    let mut rows = vec![V::new_zeroed(); most];
    let mut position = [0u64; 32];
    let mut attr = BatchAttr {
        out_batch: position.as_mut_ptr() as u64,
        keys: keys.as_mut_ptr() as u64,
        values: rows.as_mut_ptr() as u64,
        count: size(most),
        map_fd: raw(map),
        ..BatchAttr::default()
    };
    match bpf(24, &mut attr) {
        Err(e) if e.raw_os_error() != Some(libc::ENOENT) => return Err(e),
        _ => {}
    }
    Ok(keys.into_iter().zip(rows).take(attr.count as usize).collect())
}

#[repr(C)]
#[derive(Default)]
struct ProgramAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// Loads a classifier from its instructions.
///
/// # Errors
/// What the kernel says, with the verifier's words.
pub fn load(instructions: &[u64]) -> io::Result<OwnedFd> {
    load_as(SCHED_CLS, 0, instructions)
}

/// Loads a program for drivers from its instructions.
///
/// # Errors
/// What the kernel says, with the verifier's words.
pub fn load_xdp(instructions: &[u64]) -> io::Result<OwnedFd> {
    load_as(XDP, ATTACH_XDP, instructions)
}

fn load_as(prog_type: u32, expected_attach_type: u32, instructions: &[u64]) -> io::Result<OwnedFd> {
    let mut log = vec![0u8; 1 << 16];
    let mut attr = ProgramAttr {
        prog_type,
        insn_cnt: size(instructions.len()),
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 1,
        log_size: size(log.len()),
        log_buf: log.as_mut_ptr() as u64,
        expected_attach_type,
        ..ProgramAttr::default()
    };
    match bpf(5, &mut attr) {
        Ok(fd) => Ok(own(fd)),
        Err(e) => {
            let end = log.iter().position(|b| *b == 0).unwrap_or(0);
            Err(io::Error::other(format!("{e}: {}", String::from_utf8_lossy(&log[..end]))))
        }
    }
}

#[repr(C)]
#[derive(Default)]
struct LinkAttr {
    prog_fd: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Makes a program run in the driver of an interface of the calling thread's namespace, until the link is closed.
///
/// # Errors
/// What the kernel says.
pub fn run_in_driver(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    // The flag is XDP_FLAGS_DRV_MODE.
    let mut attr = LinkAttr { prog_fd: raw(program), ifindex, attach_type: ATTACH_XDP, flags: 1 << 2 };
    bpf(28, &mut attr).map(own)
}

#[repr(C)]
#[derive(Default)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    padding: u32,
}

/// Makes a map.
///
/// # Errors
/// What the kernel says.
pub fn create(map_type: u32, key_size: u32, value_size: u32, max_entries: u32) -> io::Result<OwnedFd> {
    bpf(0, &mut CreateAttr { map_type, key_size, value_size, max_entries, ..CreateAttr::default() }).map(own)
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
}

/// How many programs are attached to a cgroup at an attach type.
///
/// # Errors
/// What the kernel says.
pub fn attached(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<u32> {
    let mut attr = QueryAttr { target: raw(cgroup), attach_type, ..QueryAttr::default() };
    bpf(16, &mut attr).map(|_| attr.count)
}

/// One BPF instruction as its eight bytes (include/uapi/linux/bpf.h, `struct bpf_insn`).
pub const fn insn(code: u8, dst: u8, src: u8, offset: i16, value: i32) -> u64 {
    let [a, b] = offset.to_le_bytes();
    let [c, d, e, f] = value.to_le_bytes();
    u64::from_le_bytes([code, dst | src << 4, a, b, c, d, e, f])
}

/// Loads a map's descriptor into a register: two instructions.
pub fn load_map(register: u8, map: BorrowedFd<'_>) -> [u64; 2] {
    [insn(0x18, register, 1, 0, map.as_raw_fd()), 0]
}
