//! A blocking netlink route socket: requests with acknowledgement, point reads and dumps.
//!
//! One request, or one slice of requests, is under way at a time; an answer with another sequence number
//! belongs to an earlier request that timed out, and is passed over. A socket stays in the network
//! namespace of the thread that opened it. Never: what to ask, or what an answer means.

#![forbid(unsafe_code)]

use super::error::NetlinkError;
use super::frame::{Ending, Frame, frames};
use super::sys;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

const NLMSG_NOOP: u16 = 1;
pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;

/// Longest wait for a datagram.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Longest time for a whole answer.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
/// The kernel sends dumps in at most 32 KiB; a single link with many functions may be larger.
const DATAGRAM: usize = 1 << 17;
/// How long an interrupted dump is repeated.
const RESTLESS: Duration = Duration::from_secs(3);
/// Where something changes all the time, a dump begun a moment later may have better luck.
const REPEAT_AFTER: Duration = Duration::from_micros(300);
/// Requests sent at once: their acknowledgements fit the receive buffer.
const SLICE: usize = 64;
/// Entries of one dump.
pub(crate) const ENTRIES: usize = 1 << 20;

/// A request and its flags besides `NLM_F_REQUEST | NLM_F_ACK`.
pub(crate) type Request = (RouteNetlinkMessage, u16);

/// See the module.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the network namespace of this thread.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        // Without it filters in dump requests are ignored; kernels before 4.20 lack it, and we filter again.
        if let Err(error) = socket.set_netlink_get_strict_chk(true) {
            tracing::debug!(%error, "no strict checks of netlink dumps");
        }
        sys::bound_receive(socket.as_fd(), PATIENCE)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// One write, acknowledged.
    pub(crate) fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), NetlinkError> {
        self.requests(vec![(message, flags)]).pop().unwrap_or(Err(NetlinkError::Malformed))
    }

    /// Writes in order; one result each. A failed one does not stop the next.
    pub(crate) fn requests(&mut self, requests: Vec<Request>) -> Vec<Result<(), NetlinkError>> {
        let mut results = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter();
        loop {
            let slice: Vec<Request> = requests.by_ref().take(SLICE).collect();
            if slice.is_empty() {
                return results;
            }
            results.extend(self.slice(slice));
        }
    }

    fn slice(&mut self, slice: Vec<Request>) -> Vec<Result<(), NetlinkError>> {
        let first = self.sequence.wrapping_add(1);
        let count = slice.len();
        let mut bytes = Vec::new();
        for (message, flags) in slice {
            self.write(&mut bytes, message, NLM_F_ACK | flags);
        }
        let mut results: Vec<Option<Result<(), NetlinkError>>> = (0..count).map(|_| None).collect();
        let outcome = send(&self.socket, &bytes).and_then(|()| {
            let deadline = Instant::now() + DEADLINE;
            while results.iter().any(Option::is_none) {
                receive(&self.socket, &mut self.buffer, deadline)?;
                for frame in frames(&self.buffer) {
                    let frame = frame.ok_or(NetlinkError::Malformed)?;
                    let at = usize::try_from(frame.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                    if frame.kind == NLMSG_ERROR
                        && let Some(result) = results.get_mut(at)
                    {
                        *result = Some(ended(&frame, Ending::Request));
                    }
                }
            }
            Ok(())
        });
        let lost = || match &outcome {
            Ok(()) => NetlinkError::Malformed,
            Err(NetlinkError::Silent(seconds)) => NetlinkError::Silent(*seconds),
            Err(NetlinkError::Overrun) => NetlinkError::Overrun,
            Err(NetlinkError::Socket(error)) => {
                NetlinkError::Socket(io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)))
            }
            Err(_) => NetlinkError::Malformed,
        };
        results.into_iter().map(|result| result.unwrap_or_else(|| Err(lost()))).collect()
    }

    /// One point read; `None`: there is no such thing.
    pub(crate) fn read(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, NetlinkError> {
        let mut bytes = Vec::new();
        self.write(&mut bytes, message, NLM_F_ACK);
        send(&self.socket, &bytes)?;
        let deadline = Instant::now() + DEADLINE;
        let mut found = None;
        loop {
            receive(&self.socket, &mut self.buffer, deadline)?;
            for frame in frames(&self.buffer) {
                let frame = frame.ok_or(NetlinkError::Malformed)?;
                if frame.sequence != self.sequence {
                    continue;
                }
                if frame.kind == NLMSG_ERROR {
                    return match ended(&frame, Ending::Request) {
                        Ok(()) => Ok(found),
                        Err(error)
                            if matches!(error.errno(), Some(libc::ENODEV | libc::ENOENT | libc::ESRCH)) =>
                        {
                            Ok(None)
                        }
                        Err(error) => Err(error),
                    };
                }
                found = decode(&frame).or(found);
            }
        }
    }

    /// All entries, at most `limit`. Repeated when the kernel says that they changed on the way.
    pub(crate) fn dump(
        &mut self,
        message: &RouteNetlinkMessage,
        limit: usize,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let began = Instant::now();
        let mut tries = 0;
        loop {
            tries += 1;
            let last = match self.dump_once(message.clone(), limit) {
                Ok(Some(entries)) => return Ok(entries),
                Ok(None) => {
                    std::thread::sleep(REPEAT_AFTER);
                    NetlinkError::Restless(tries)
                }
                // A routing table that nobody has used yet.
                Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(Vec::new()),
                Err(NetlinkError::Overrun) => {
                    self.abandon()?;
                    NetlinkError::Overrun
                }
                Err(error @ NetlinkError::Refused { .. }) => return Err(error),
                Err(error) => {
                    self.abandon()?;
                    return Err(error);
                }
            };
            if began.elapsed() > RESTLESS {
                return Err(last);
            }
        }
    }

    /// `None`: interrupted.
    fn dump_once(
        &mut self,
        message: RouteNetlinkMessage,
        limit: usize,
    ) -> Result<Option<Vec<RouteNetlinkMessage>>, NetlinkError> {
        let mut bytes = Vec::new();
        self.write(&mut bytes, message, NLM_F_DUMP);
        send(&self.socket, &bytes)?;
        let deadline = Instant::now() + DEADLINE;
        let mut entries = Vec::new();
        let mut interrupted = false;
        let mut too_many = false;
        loop {
            receive(&self.socket, &mut self.buffer, deadline)?;
            for frame in frames(&self.buffer) {
                let frame = frame.ok_or(NetlinkError::Malformed)?;
                if frame.sequence != self.sequence {
                    continue;
                }
                interrupted |= frame.flags & NLM_F_DUMP_INTR != 0;
                match frame.kind {
                    NLMSG_NOOP => {}
                    NLMSG_DONE => {
                        ended(&frame, Ending::Dump)?;
                        return Ok((!interrupted).then_some(entries));
                    }
                    NLMSG_ERROR => {
                        ended(&frame, Ending::Request)?;
                        return Err(NetlinkError::Malformed);
                    }
                    _ if entries.len() >= limit => too_many = true,
                    _ => entries.extend(decode(&frame)),
                }
            }
            if too_many {
                return Err(NetlinkError::TooMany(limit));
            }
        }
    }

    /// Leaves a dump in the middle: the rest of it would stand in the way of the next one (`EBUSY`).
    fn abandon(&mut self) -> Result<(), NetlinkError> {
        let sequence = self.sequence;
        *self = Self::open()?;
        self.sequence = sequence;
        Ok(())
    }

    fn write(&mut self, out: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = out.len();
        out.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut out[start..]);
    }
}

/// Sends all of a request.
pub(super) fn send(socket: &Socket, bytes: &[u8]) -> Result<(), NetlinkError> {
    loop {
        match socket.send(bytes, 0) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// One datagram into the buffer.
pub(super) fn receive(socket: &Socket, buffer: &mut Vec<u8>, deadline: Instant) -> Result<(), NetlinkError> {
    loop {
        buffer.clear();
        match socket.recv(buffer, libc::MSG_TRUNC) {
            Ok(length) if length > buffer.len() => return Err(NetlinkError::Malformed),
            Ok(_) if Instant::now() > deadline => return Err(NetlinkError::Silent(DEADLINE.as_secs())),
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(NetlinkError::Silent(PATIENCE.as_secs()));
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                return Err(NetlinkError::Overrun);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

pub(super) fn ended(frame: &Frame<'_>, ending: Ending) -> Result<(), NetlinkError> {
    match frame.outcome(ending) {
        (0, _) => Ok(()),
        (errno, words) => Err(NetlinkError::Refused { errno, words }),
    }
}

/// A message that cannot be decoded is somebody else's, with attributes newer than the decoder: passed over.
fn decode(frame: &Frame<'_>) -> Option<RouteNetlinkMessage> {
    let mut header = NetlinkHeader::default();
    header.message_type = frame.kind;
    match RouteNetlinkMessage::deserialize(&header, frame.body) {
        Ok(message) => Some(message),
        Err(error) => {
            tracing::warn!(kind = frame.kind, %error, "netlink message passed over");
            None
        }
    }
}
