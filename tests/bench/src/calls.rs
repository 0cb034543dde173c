//! Counts the `bpf()` system calls of a running process, by command, through the kernel's tracepoint: nothing is
//! slowed down, nothing is missed.

use anyhow::{Context, Result, ensure};
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// `PERF_TYPE_TRACEPOINT` (include/uapi/linux/perf_event.h).
const TRACEPOINT: u32 = 2;
/// `PERF_ATTR_SIZE_VER0`.
const SIZE: u32 = 64;
/// Bit of `perf_event_attr`: children are counted too.
const INHERIT: u64 = 1 << 1;
/// `PERF_EVENT_IOC_SET_FILTER`, `_IOW('$', 6, char *)`.
const SET_FILTER: libc::c_ulong = 0x4008_2406;
/// Commands of `bpf()` that write or remove rows (`enum bpf_cmd`): update and delete, one and many.
const WRITES: &str = "cmd == 2 || cmd == 3 || cmd == 26 || cmd == 27";

/// `struct perf_event_attr` in its first version.
#[repr(C)]
struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    bp_type: u32,
    config1: u64,
}

/// Counters of one process, from now on.
pub(crate) struct Calls {
    all: Vec<File>,
    writes: Vec<File>,
}

/// What was counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    /// Every `bpf()` call.
    pub all: u64,
    /// Those that write or remove rows.
    pub writes: u64,
}

impl Calls {
    /// Counts in all threads of a process.
    ///
    /// # Errors
    /// The kernel has no such tracepoint.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let event = event_id().context("the tracepoint of bpf()")?;
        let threads: Vec<i32> = std::fs::read_dir(format!("/proc/{pid}/task"))?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        let open = |filter: Option<&str>| -> Result<Vec<File>> {
            threads.iter().map(|thread| counter(event, *thread, filter)).collect()
        };
        Ok(Self { all: open(None)?, writes: open(Some(WRITES))? })
    }

    /// So far.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(crate) fn counted(&mut self) -> Result<Counted> {
        Ok(Counted { all: sum(&mut self.all)?, writes: sum(&mut self.writes)? })
    }
}

fn sum(counters: &mut [File]) -> Result<u64> {
    let mut sum = 0;
    for counter in counters {
        let mut bytes = [0; 8];
        counter.read_exact(&mut bytes).context("read a counter")?;
        sum += u64::from_ne_bytes(bytes);
    }
    Ok(sum)
}

/// The number of `syscalls:sys_enter_bpf`, from a tracefs of our own where none is mounted.
fn event_id() -> Result<u64> {
    const EVENT: &str = "events/syscalls/sys_enter_bpf/id";
    let id = |root: &Path| std::fs::read_to_string(root.join(EVENT));
    let text = match id(Path::new("/sys/kernel/tracing")) {
        Ok(text) => text,
        Err(_) => {
            let dir = tempfile::tempdir().context("a temporary directory")?;
            let path = CString::new(dir.path().as_os_str().as_encoded_bytes())?;
            // SAFETY: both strings end in NUL and outlive the calls; no options are passed.
            let mounted = unsafe {
                libc::mount(c"tracefs".as_ptr(), path.as_ptr(), c"tracefs".as_ptr(), 0, std::ptr::null())
            };
            ensure!(mounted == 0, "mount tracefs: {}", std::io::Error::last_os_error());
            let text = id(dir.path());
            // SAFETY: as above.
            unsafe { libc::umount(path.as_ptr()) };
            text?
        }
    };
    Ok(text.trim().parse()?)
}

fn counter(event: u64, thread: i32, filter: Option<&str>) -> Result<File> {
    let attr = Attr {
        kind: TRACEPOINT,
        size: SIZE,
        config: event,
        period: 0,
        sample_type: 0,
        read_format: 0,
        flags: INHERIT,
        wakeup: 0,
        bp_type: 0,
        config1: 0,
    };
    // SAFETY: the structure is as long as it says; a descriptor or -1 comes back.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, thread, -1, -1, 0) };
    let Ok(fd @ 0..) = i32::try_from(fd) else {
        return Err(std::io::Error::last_os_error()).context("perf_event_open");
    };
    // SAFETY: the kernel has just given it to us alone.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    if let Some(filter) = filter {
        let text = CString::new(filter)?;
        // SAFETY: the string ends in NUL and outlives the call.
        let set = unsafe { libc::ioctl(fd.as_raw_fd(), SET_FILTER, text.as_ptr()) };
        ensure!(set == 0, "filter {filter}: {}", std::io::Error::last_os_error());
    }
    Ok(fd.into())
}
