//! What is free goes back to the system. A whole read, and above all loading programs, needs memory for a
//! moment that the allocator would keep for ever.

/// To be called when much was freed. Takes about a millisecond per ten megabytes.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers; the allocator takes its own locks (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}
