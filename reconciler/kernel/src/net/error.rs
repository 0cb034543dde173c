//! What can go wrong on a netlink socket, in the operator's words.

#![forbid(unsafe_code)]

use cilium_engine::driver::DriverError;
use std::fmt;
use std::io;

/// Why a netlink request has no good answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetlinkError {
    /// The kernel refused.
    #[error("{}", refusal(*.errno, .words))]
    Refused {
        /// Error number, positive.
        errno: i32,
        /// The kernel's extended acknowledgement, or empty.
        words: String,
    },
    /// The socket failed.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel did not answer in time.
    #[error("the kernel did not answer within {0} s")]
    Silent(u64),
    /// The answers overran the receive buffer.
    #[error("the kernel's answer overran the receive buffer (ENOBUFS)")]
    Overrun,
    /// What was read changed all the time.
    #[error("changed while it was read, {0} times in a row")]
    Restless(u32),
    /// A message with impossible lengths, or a cut one.
    #[error("malformed answer")]
    Malformed,
    /// A dump beyond our bound.
    #[error("more than {0} entries")]
    TooMany(usize),
}

impl NetlinkError {
    /// The kernel's error number, if it refused.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Socket(_)
            | Self::Silent(_)
            | Self::Overrun
            | Self::Restless(_)
            | Self::Malformed
            | Self::TooMany(_) => None,
        }
    }

    /// With the operation and object it stopped: `create veth lxc12`.
    pub(crate) fn during(&self, operation: impl fmt::Display) -> DriverError {
        let error = DriverError::new(format!("{operation}: {self}"));
        match self.errno() {
            Some(libc::EPERM | libc::EACCES) => error.hint("needs root, or CAP_NET_ADMIN"),
            Some(libc::EOPNOTSUPP) => {
                error.hint("this kernel lacks the feature; see the kernel configuration")
            }
            _ => error,
        }
    }
}

/// Success also where the kernel says that the thing is already so.
pub(crate) fn unless(result: Result<(), NetlinkError>, fine: &[i32]) -> Result<(), NetlinkError> {
    match result {
        Err(error) if error.errno().is_some_and(|errno| fine.contains(&errno)) => Ok(()),
        other => other,
    }
}

fn refusal(errno: i32, words: &str) -> String {
    let text = describe(errno);
    if words.is_empty() { text } else { format!("{text}: {}", words.trim_end_matches('.')) }
}

/// `operation not permitted (EPERM)`.
fn describe(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default().to_lowercase();
    let name = match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ESRCH => "ESRCH",
        libc::EACCES => "EACCES",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::ENODEV => "ENODEV",
        libc::EINVAL => "EINVAL",
        libc::ENOMEM => "ENOMEM",
        libc::ERANGE => "ERANGE",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::EADDRINUSE => "EADDRINUSE",
        libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        libc::ENETDOWN => "ENETDOWN",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::EHOSTUNREACH => "EHOSTUNREACH",
        other => return format!("{text} (errno {other})"),
    };
    format!("{text} ({name})")
}
