//! Wakes: something in the network state changed, look again. Carries no data.
//!
//! A multicast socket that also hears the namespaces the host has numbered (those of our pods). Routes of
//! others, but default routes, are passed over: a routing daemon must not keep the loop awake. An overrun
//! counts as a change of everything.

#![forbid(unsafe_code)]

use super::frame::frames;
use cilium_engine::driver::DriverError;
use cilium_engine::state::{Kind, ROUTE_PROTOCOL};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

/// `RTNLGRP_LINK`, `_IPV4_IFADDR`, `_IPV6_IFADDR`, `_IPV4_ROUTE`, `_IPV6_ROUTE`.
const GROUPS: [u32; 5] = [1, 5, 9, 7, 11];
/// Receive buffer, bytes.
const BACKLOG: u32 = 1 << 20;
/// Datagrams taken by one call: the rest waits for the next.
const AT_ONCE: usize = 4096;
/// Only headers are looked at; a longer datagram may be cut.
const DATAGRAM: usize = 8192;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;

/// What a link's coming, going or changing may have changed.
const BY_LINK: &[Kind] =
    &[Kind::Link, Kind::LinkUp, Kind::PodInterface, Kind::Address, Kind::Route, Kind::Attachment];
/// What an address may have changed.
const BY_ADDRESS: &[Kind] = &[Kind::PodInterface, Kind::Address, Kind::Route];
/// What a route may have changed.
const BY_ROUTE: &[Kind] = &[Kind::PodInterface, Kind::Route];

/// See the module. Non-blocking: wait for it to be readable, then [`Watch::drain`].
pub struct Watch {
    socket: Socket,
    buffer: Vec<u8>,
}

/// What may have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Kinds to look at again.
    pub kinds: BTreeSet<Kind>,
    /// How often something was heard, for metrics.
    pub messages: usize,
}

impl Watch {
    /// Subscribes, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn open() -> Result<Self, DriverError> {
        let failed = |error: io::Error| DriverError::new(format!("watch the network state: {error}"));
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
        socket.set_non_blocking(true).map_err(failed)?;
        socket.set_rx_buf_sz(BACKLOG).map_err(failed)?;
        socket.bind(&SocketAddr::new(0, 0)).map_err(failed)?;
        for group in GROUPS {
            socket.add_membership(group).map_err(failed)?;
        }
        if let Err(error) = socket.set_listen_all_namespaces(true) {
            tracing::debug!(%error, "changes inside pods are found by reading only");
        }
        Ok(Self { socket, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Takes what was heard since. Never waits; nothing heard: no kinds.
    ///
    /// # Errors
    /// The socket is broken: open another, and take everything as changed.
    pub fn drain(&mut self) -> Result<Changed, DriverError> {
        let mut changed = Changed::default();
        for _ in 0..AT_ONCE {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => {
                    for frame in frames(&self.buffer) {
                        changed.messages += 1;
                        // A cut message still has its header within the buffer's first bytes.
                        changed.kinds.extend(match frame {
                            Some(frame) => meant(frame.kind, frame.body),
                            None => BY_LINK,
                        });
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    changed.messages += 1;
                    changed.kinds.extend(BY_LINK);
                }
                Err(error) => return Err(DriverError::new(format!("watch the network state: {error}"))),
            }
        }
        Ok(changed)
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Kinds that a message is about.
fn meant(kind: u16, body: &[u8]) -> &'static [Kind] {
    match kind {
        RTM_NEWLINK | RTM_DELLINK => BY_LINK,
        RTM_NEWADDR | RTM_DELADDR => BY_ADDRESS,
        RTM_NEWROUTE | RTM_DELROUTE => {
            // `struct rtmsg`: destination length, and who made it.
            let default = body.get(1) == Some(&0);
            if default || body.get(5) == Some(&ROUTE_PROTOCOL) { BY_ROUTE } else { &[] }
        }
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_route_wakes_nobody() {
        assert!(meant(RTM_NEWROUTE, &[2, 24, 0, 0, 254, 186]).is_empty());
        assert_eq!(meant(RTM_DELROUTE, &[2, 24, 0, 0, 254, ROUTE_PROTOCOL]), BY_ROUTE);
        assert_eq!(meant(RTM_NEWROUTE, &[2, 0, 0, 0, 254, 3]), BY_ROUTE);
    }
}
