//! Deleting interfaces of ours.
//!
//! Of the time a veth pair takes to go, most comes when nobody can see it any more: the kernel waits for the
//! last users of its memory, and holds no lock meanwhile (net/core/dev.c: `netdev_run_todo`). That is waited
//! for by a thread; here only until both ends are gone from their namespaces.

#![forbid(unsafe_code)]

use super::Net;
use super::error::{NetlinkError, unless};
use super::message::{SeenLink, change_link};
use super::socket::Netlink;
use cilium_engine::driver::DriverError;
use netlink_packet_route::RouteNetlinkMessage;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// How soon to look whether it is gone. The look itself waits for the kernel's lock.
const LOOK_AFTER: Duration = Duration::from_millis(1);
/// Threads that wait at once: beyond them, deleting takes its whole time.
const AT_ONCE: usize = 16;

impl Net {
    /// Deletes a link that was found to be ours. Gone already is success.
    pub(super) fn delete_link(&mut self, seen: &SeenLink) -> Result<(), DriverError> {
        let index = seen.index;
        let done = |result: Result<(), NetlinkError>| {
            unless(result, &[libc::ENODEV])
                .map_err(|error| error.during(format_args!("delete interface {}", seen.name)))
        };
        if Arc::strong_count(&self.deleting) > AT_ONCE {
            return done(request(&mut self.netlink, index));
        }
        let counted = self.deleting.clone();
        let (answer, answered) = channel();
        // In the network namespace of this thread, where its own begins.
        let deleting = std::thread::Builder::new().name("delete".into()).spawn(move || {
            // Nobody listens any more when the interface was seen to be gone.
            let _ = answer.send(Netlink::open().and_then(|mut netlink| request(&mut netlink, index)));
            drop(counted);
        });
        if deleting.is_err() {
            return done(request(&mut self.netlink, index));
        }
        loop {
            match answered.recv_timeout(LOOK_AFTER) {
                Ok(result) => return done(result),
                Err(RecvTimeoutError::Timeout) => {
                    if self.link_named(&seen.name)?.is_none_or(|now| now.index != index) {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return done(Err(NetlinkError::Malformed)),
            }
        }
    }
}

fn request(netlink: &mut Netlink, index: u32) -> Result<(), NetlinkError> {
    netlink.request(RouteNetlinkMessage::DelLink(change_link(index, Vec::new())), 0)
}
