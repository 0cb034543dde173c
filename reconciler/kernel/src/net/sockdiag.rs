//! Sockets by whom they are connected to, and ending them: what a client holds on to when its backend is
//! gone would wait for an answer for ever.
//!
//! A codec of the two messages in use, bounded like the rest of netlink here. Source:
//! `include/uapi/linux/{sock_diag,inet_diag}.h`. Never: which backends are gone; the caller says so.

#![forbid(unsafe_code)]

use super::error::NetlinkError;
use super::frame::{Ending, HEADER, frames};
use super::netns::{self, Inside};
use super::socket::{DEADLINE, NLMSG_DONE, NLMSG_ERROR, PATIENCE, ended, receive, send};
use super::sys;
use cilium_engine::driver::DriverError;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `SOCK_DESTROY`.
const DESTROY: u16 = 21;

/// `struct inet_diag_req_v2` behind the header.
const REQUEST: usize = HEADER + 56;
/// `struct inet_diag_sockid`.
const ID: usize = 48;
/// Where that is in `struct inet_diag_msg`.
const ID_AT: usize = 4;

/// The kernel sends dumps in at most 32 KiB.
const DATAGRAM: usize = 1 << 16;
/// Sockets of one answer that are kept.
const SOCKETS: usize = 1 << 17;

/// Protocol of the sockets that are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, from the first SYN to the last FIN.
    Tcp,
    /// UDP sockets that are connected.
    Udp,
}

impl Transport {
    /// IP protocol.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => cilium_abi::proto::TCP,
            Self::Udp => cilium_abi::proto::UDP,
        }
    }

    /// Bits of `TCP_` states (`include/net/tcp_states.h`), which UDP shares.
    fn states(self) -> u32 {
        const ESTABLISHED: u32 = 1 << 1;
        const SYN_SENT: u32 = 1 << 2;
        const FIN_WAIT1: u32 = 1 << 4;
        const FIN_WAIT2: u32 = 1 << 5;
        const CLOSE_WAIT: u32 = 1 << 8;
        const LAST_ACK: u32 = 1 << 9;
        const CLOSING: u32 = 1 << 11;
        match self {
            Self::Tcp => ESTABLISHED | SYN_SENT | FIN_WAIT1 | FIN_WAIT2 | CLOSE_WAIT | LAST_ACK | CLOSING,
            Self::Udp => ESTABLISHED,
        }
    }
}

/// A socket with another end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// Its own end. IPv4 also where the socket is an IPv6 one with mapped addresses.
    pub local: SocketAddr,
    /// The other end, as packets go there: the backend, where a service was connected to.
    pub remote: SocketAddr,
    /// Its cookie, as BPF programs see it.
    pub cookie: u64,
    family: u8,
    transport: Transport,
    /// `struct inet_diag_sockid`, as the kernel gave it.
    id: [u8; ID],
}

impl Connected {
    fn read(body: &[u8], transport: Transport) -> Option<Self> {
        let family = *body.first()?;
        let id: [u8; ID] = body.get(ID_AT..ID_AT + ID)?.try_into().ok()?;
        let port = |at: usize| Some(u16::from_be_bytes(id.get(at..at + 2)?.try_into().ok()?));
        let end = |port: u16, at: usize| {
            let addr = match libc::c_int::from(family) {
                libc::AF_INET => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(id.get(at..at + 4)?).ok()?)),
                libc::AF_INET6 => {
                    IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(id.get(at..at + 16)?).ok()?))
                        .to_canonical()
                }
                _ => return None,
            };
            Some(SocketAddr::new(addr, port))
        };
        let (local, remote) = (end(port(0)?, 4)?, end(port(2)?, 20)?);
        let word = |at: usize| Some(u64::from(u32::from_ne_bytes(id.get(at..at + 4)?.try_into().ok()?)));
        let cookie = word(40)? | word(44)? << 32;
        Some(Self { local, remote, cookie, family, transport, id })
    }
}

/// What [`terminate`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terminated {
    /// Sockets connected to one of the addresses.
    pub found: usize,
    /// Those of them that were ended; others were not wanted, or went by themselves.
    pub ended: usize,
}

/// Ends the sockets of a network namespace that are connected to one of these addresses and that `wanted`
/// says yes to: their owners' calls fail with `ECONNABORTED`. A TCP peer is sent a reset.
/// `netns` is the namespace's path, `None` that of the calling thread.
///
/// # Errors
/// The namespace cannot be entered, sockets cannot be listed, or this kernel cannot end them
/// (`CONFIG_INET_DIAG_DESTROY`); what was ended until then stays so.
pub fn terminate(
    netns: Option<&Path>,
    transport: Transport,
    to: &BTreeSet<SocketAddr>,
    mut wanted: impl FnMut(&Connected) -> bool,
) -> Result<Terminated, DriverError> {
    let mut diag = SockDiag::open_in(netns)?;
    let connected = diag.connected(transport, to)?;
    let mut done = Terminated { found: connected.len(), ended: 0 };
    for socket in connected.iter().filter(|socket| wanted(socket)) {
        done.ended += usize::from(diag.end(socket)?);
    }
    Ok(done)
}

/// A socket for questions about sockets.
pub struct SockDiag {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl SockDiag {
    /// Opens one in the network namespace with this path, `None`: in that of the calling thread. It keeps
    /// the namespace alive.
    ///
    /// # Errors
    /// The namespace cannot be entered, or there is no such socket.
    pub fn open_in(netns: Option<&Path>) -> Result<Self, DriverError> {
        let opened = || match netns {
            Some(path) => {
                let _inside = Inside::enter(&netns::open(path)?)?;
                Self::open()
            }
            None => Self::open(),
        };
        opened().map_err(|error: NetlinkError| {
            let place =
                netns.map_or_else(String::new, |path| format!(" in network namespace {}", path.display()));
            error.during(format_args!("open a socket for sock_diag{place}"))
        })
    }

    fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&NetlinkAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        sys::bound_receive(socket.as_fd(), PATIENCE)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// The sockets that are connected to one of these addresses, IPv6 sockets by mapped addresses too.
    ///
    /// # Errors
    /// The kernel did not answer, or lists no such sockets (`CONFIG_INET_UDP_DIAG`, `CONFIG_INET_TCP_DIAG`).
    pub fn connected(
        &mut self,
        transport: Transport,
        to: &BTreeSet<SocketAddr>,
    ) -> Result<Vec<Connected>, DriverError> {
        let to: BTreeSet<SocketAddr> =
            to.iter().map(|addr| SocketAddr::new(addr.ip().to_canonical(), addr.port())).collect();
        let mut found = Vec::new();
        if to.is_empty() {
            return Ok(found);
        }
        // IPv6 sockets may have mapped addresses.
        for family in [libc::AF_INET, libc::AF_INET6] {
            if family == libc::AF_INET && to.iter().all(SocketAddr::is_ipv6) {
                continue;
            }
            self.dump(family, transport, &to, &mut found).map_err(|error| {
                let shown = error.during(format_args!("list {transport:?} sockets"));
                match error.errno() {
                    Some(libc::ENOENT | libc::EINVAL | libc::EOPNOTSUPP) => shown.hint(
                        "this kernel lists none: CONFIG_INET_TCP_DIAG and CONFIG_INET_UDP_DIAG, or modprobe tcp_diag udp_diag",
                    ),
                    _ => shown,
                }
            })?;
        }
        Ok(found)
    }

    /// Ends a socket; `false`: it is gone already.
    ///
    /// # Errors
    /// The kernel refused, or cannot end sockets.
    pub fn end(&mut self, socket: &Connected) -> Result<bool, DriverError> {
        let answer = self.ask_to_end(socket);
        match answer {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ESTALE | libc::ESRCH)) => {
                Ok(false)
            }
            Err(error) => {
                let what =
                    format!("end the {:?} socket {} to {}", socket.transport, socket.local, socket.remote);
                let shown = error.during(what);
                Err(match error.errno() {
                    Some(libc::EOPNOTSUPP | libc::EINVAL) => shown.hint(
                        "this kernel cannot end sockets of others (CONFIG_INET_DIAG_DESTROY is not set): clients of a removed backend recover by their own timeouts",
                    ),
                    _ => shown,
                })
            }
        }
    }

    fn ask_to_end(&mut self, socket: &Connected) -> Result<(), NetlinkError> {
        self.send(DESTROY, NLM_F_ACK, socket.family, socket.transport, u32::MAX, &socket.id)?;
        let deadline = Instant::now() + DEADLINE;
        loop {
            receive(&self.socket, &mut self.buffer, deadline)?;
            for frame in frames(&self.buffer) {
                let frame = frame.ok_or(NetlinkError::Malformed)?;
                if frame.sequence == self.sequence && frame.kind == NLMSG_ERROR {
                    return ended(&frame, Ending::Request);
                }
            }
        }
    }

    /// Adds what one family's table has.
    fn dump(
        &mut self,
        family: libc::c_int,
        transport: Transport,
        to: &BTreeSet<SocketAddr>,
        found: &mut Vec<Connected>,
    ) -> Result<(), NetlinkError> {
        let mut id = [0; ID];
        // The kernel passes over other ports, where there is but one.
        let ports: BTreeSet<u16> = to.iter().map(SocketAddr::port).collect();
        if ports.len() == 1 {
            let port = ports.first().copied().unwrap_or(0).to_be_bytes();
            id[2..4].copy_from_slice(&port);
        }
        let family = u8::try_from(family).map_err(io::Error::other)?;
        self.send(BY_FAMILY, NLM_F_DUMP, family, transport, transport.states(), &id)?;
        let deadline = Instant::now() + DEADLINE;
        let mut too_many = false;
        loop {
            receive(&self.socket, &mut self.buffer, deadline)?;
            for frame in frames(&self.buffer) {
                let frame = frame.ok_or(NetlinkError::Malformed)?;
                if frame.sequence != self.sequence {
                    continue;
                }
                match frame.kind {
                    NLMSG_DONE => {
                        ended(&frame, Ending::Dump)?;
                        return if too_many { Err(NetlinkError::TooMany(SOCKETS)) } else { Ok(()) };
                    }
                    NLMSG_ERROR => {
                        ended(&frame, Ending::Request)?;
                        return Err(NetlinkError::Malformed);
                    }
                    BY_FAMILY => {
                        let seen = Connected::read(frame.body, transport);
                        let seen = seen.filter(|socket| to.contains(&socket.remote));
                        too_many |= seen.is_some() && found.len() >= SOCKETS;
                        found.extend(seen.filter(|_| !too_many));
                    }
                    _ => {}
                }
            }
        }
    }

    fn send(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        transport: Transport,
        states: u32,
        id: &[u8; ID],
    ) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = request(kind, flags, self.sequence, family, transport, states, id);
        send(&self.socket, &message)
    }
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn request(
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    transport: Transport,
    states: u32,
    id: &[u8; ID],
) -> Vec<u8> {
    let mut out = Vec::with_capacity(REQUEST);
    out.extend(u32::try_from(REQUEST).unwrap_or(u32::MAX).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend(0u32.to_ne_bytes());
    out.extend([family, transport.number(), 0, 0]);
    out.extend(states.to_ne_bytes());
    out.extend(id);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(family: libc::c_int, remote: &[u8], port: u16) -> Vec<u8> {
        let mut body = vec![0; 72];
        body[0] = u8::try_from(family).expect("small");
        body[ID_AT + 2..ID_AT + 4].copy_from_slice(&port.to_be_bytes());
        body[ID_AT + 20..ID_AT + 20 + remote.len()].copy_from_slice(remote);
        body[ID_AT + 40..ID_AT + 48].copy_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0]);
        body
    }

    #[test]
    fn ends_and_cookies_are_read() {
        let mapped = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets();
        let other: Ipv6Addr = "fd00::1".parse().expect("an address");
        for (family, remote, text) in [
            (libc::AF_INET, &[10, 0, 0, 1][..], "10.0.0.1:53"),
            (libc::AF_INET6, &mapped[..], "10.0.0.1:53"),
            (libc::AF_INET6, &other.octets()[..], "[fd00::1]:53"),
        ] {
            let read = Connected::read(&message(family, remote, 53), Transport::Udp).expect("well formed");
            assert_eq!(read.remote, text.parse().expect("an end"));
            assert_eq!(read.cookie, 1 | 2 << 32);
        }
        assert_eq!(Connected::read(&message(libc::AF_UNIX, &[], 53), Transport::Udp), None);
    }

    #[test]
    fn no_cut_of_a_message_panics() {
        let whole = message(libc::AF_INET6, &[0xff; 16], 53);
        for end in 0..whole.len() {
            let read = Connected::read(&whole[..end], Transport::Tcp);
            assert_eq!(read.is_some(), end >= ID_AT + ID);
        }
    }

    #[test]
    fn a_request_has_the_kernels_layout() {
        let bytes = request(BY_FAMILY, NLM_F_DUMP, 7, 2, Transport::Udp, 2, &[9; ID]);
        assert_eq!(bytes.len(), 72);
        assert_eq!(frames(&bytes).count(), 1);
        assert_eq!(bytes[16..20], [2, 17, 0, 0]);
        assert_eq!(bytes[24..], [9; ID]);
    }
}
