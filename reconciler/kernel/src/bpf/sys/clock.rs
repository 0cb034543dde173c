//! The clock that the programs stamp rows with.

/// Hundredths of seconds since boot, modulo 2^32 (some 497 days).
pub(crate) fn centiseconds() -> u32 {
    let now = now();
    let hundredths = now.tv_sec.wrapping_mul(100).wrapping_add(now.tv_nsec / 10_000_000);
    // The low half is meant.
    hundredths as u32
}

/// Seconds since boot as `bpf_ktime_get_coarse_ns` counts them (suspended time left out).
pub(crate) fn coarse_seconds() -> u32 {
    u32::try_from(now().tv_sec).unwrap_or(u32::MAX)
}

fn now() -> libc::timespec {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a live structure of the type the call writes; the clock exists since Linux 2.6.32, and
    // if it did not, the zeroes would stay.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    now
}
