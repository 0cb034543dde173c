//! DEL while the agent is away: remove the interface, and leave a tombstone for the agent to find.

use crate::wire::{Attachment, DELETE_QUEUE};
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

const RTM_DELLINK: u16 = 17;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST_ACK: u16 = 0x1 | 0x4;

/// Leaves one file per attachment in the queue; the agent forgets the attachment when it starts.
///
/// # Errors
/// The file could not be written.
pub fn tombstone(run_dir: &Path, attachment: &Attachment) -> io::Result<()> {
    let queue = run_dir.join(DELETE_QUEUE);
    fs::create_dir_all(&queue)?;
    let name = format!("{}.{}.json", attachment.container_id, attachment.ifname);
    let temporary = queue.join(format!(".{name}.{}", std::process::id()));
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(attachment)?)?;
    file.sync_all()?;
    fs::rename(temporary, queue.join(name))
}

/// Removes the interface inside the network namespace, and with it the veth pair. A namespace or
/// interface that is gone is success.
///
/// # Errors
/// The namespace could not be entered, or the kernel refused.
pub fn remove_interface(netns: &Path, ifname: &str) -> io::Result<()> {
    let file = match fs::File::open(netns) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    // SAFETY: a plain system call on a descriptor we hold; it moves only this (single) thread.
    if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
        let e = io::Error::last_os_error();
        // A path left over from an unmounted namespace is an ordinary file.
        return if e.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(e) };
    }
    let name = std::ffi::CString::new(ifname).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `name` is a NUL-terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Ok(());
    }
    delete_link(index)
}

fn delete_link(index: u32) -> io::Result<()> {
    // SAFETY: creates a descriptor; checked below before use.
    let raw =
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `raw` was just created and is owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // struct nlmsghdr (16 bytes) and struct ifinfomsg (16 bytes), host byte order (linux/netlink.h,
    // linux/rtnetlink.h).
    let mut message = [0u8; 32];
    message[0..4].copy_from_slice(&32u32.to_ne_bytes());
    message[4..6].copy_from_slice(&RTM_DELLINK.to_ne_bytes());
    message[6..8].copy_from_slice(&NLM_F_REQUEST_ACK.to_ne_bytes());
    message[8..12].copy_from_slice(&1u32.to_ne_bytes());
    message[20..24].copy_from_slice(&index.to_ne_bytes());
    // SAFETY: the buffer is valid for its length.
    let sent = unsafe { libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
    if sent != message.len() as isize {
        return Err(io::Error::last_os_error());
    }
    let mut answer = [0u8; 1024];
    // SAFETY: the buffer is valid for its length.
    let got = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
    if got < 20 {
        return Err(io::Error::last_os_error());
    }
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    match (kind, -code) {
        (NLMSG_ERROR, 0 | libc::ENODEV) => Ok(()),
        (NLMSG_ERROR, code) => Err(io::Error::from_raw_os_error(code)),
        _ => Err(io::Error::other("unexpected netlink answer")),
    }
}
