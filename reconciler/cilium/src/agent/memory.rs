//! What is free goes back to the system. A whole read, and above all loading programs, needs memory for a
//! moment that the allocator would keep for ever.

/// To be called before there is another thread. All threads take memory from one place: what a thread that reads
/// manifests frees would else be of use to nobody but the next such thread.
pub(super) fn share() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers (mallopt(3)); what it refuses stays as it is.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// To be called when much was freed. Takes about a millisecond per ten megabytes.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers; the allocator takes its own locks (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}
