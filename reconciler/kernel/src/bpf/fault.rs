//! From an error number to words an operator can act on.

use cilium_engine::driver::DriverError;
use std::io;

/// An error of the kernel while doing something.
pub(super) fn fault(error: &io::Error, doing: impl Into<String>) -> DriverError {
    let doing = doing.into();
    let error_text = words(error);
    let fault = DriverError::new(format!("{doing}: {error_text}"));
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            fault.hint("needs root, or the capabilities BPF, NET_ADMIN and PERFMON")
        }
        Some(libc::E2BIG) => fault.hint("the map is full: raise its size in the table [bpf] of cilium.toml"),
        Some(libc::ENOMEM) => {
            fault.hint("the kernel has no memory for it: check the cgroup's limit and the sizes in [bpf]")
        }
        Some(libc::EROFS) => fault.hint("the file system is mounted read-only"),
        _ => fault,
    }
}

/// The system's text, lower case, with its number's name where we know it.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}
