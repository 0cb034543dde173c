//! The system calls that have no safe wrapper here: entering a network namespace and its cookie, bounding a
//! receive.
//! The only place of this module with `unsafe`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// Moves the calling thread, and only it, into a network namespace.
pub(super) fn enter_netns(netns: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns(2) takes an open descriptor and a flag, and touches no memory of ours.
    let result = unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets a receive on this socket end with `EAGAIN` after this time.
pub(super) fn bound_receive(socket: BorrowedFd<'_>, limit: Duration) -> io::Result<()> {
    let limit = libc::timeval {
        tv_sec: libc::time_t::try_from(limit.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_usec: libc::suseconds_t::from(limit.subsec_micros()),
    };
    let size = libc::socklen_t::try_from(size_of_val(&limit)).map_err(io::Error::other)?;
    // SAFETY: the pointer and the size are those of `limit`, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            std::ptr::from_ref(&limit).cast(),
            size,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The cookie of a socket's network namespace.
pub(super) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    /// include/uapi/asm-generic/socket.h; not in libc.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0u64;
    let mut size = libc::socklen_t::try_from(size_of_val(&cookie)).map_err(io::Error::other)?;
    // SAFETY: the pointer and the size are those of `cookie`, which lives until the call returns.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut size,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
