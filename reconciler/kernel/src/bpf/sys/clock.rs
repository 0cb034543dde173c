//! The clock that the programs stamp rows with.

/// Seconds since boot as `bpf_ktime_get_coarse_ns` counts them (suspended time left out).
pub(crate) fn coarse_seconds() -> u32 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a live structure of the type the call writes; the clock exists since Linux 2.6.32, and
    // if it did not, the zeroes would stay.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    u32::try_from(now.tv_sec).unwrap_or(u32::MAX)
}
