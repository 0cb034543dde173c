//! Classifiers as filters of the clsact qdisc, by rtnetlink: for kernels without TCX, and where TCX has
//! first been put off ([`super::young`]).
//!
//! Ours are at priority 1, at one of two handles, of kind `bpf`, named `cil_…`. A change of the program
//! replaces the filter in place; a move to the front makes the other handle first, then removes the
//! old one. The qdisc stays when the last filter goes: it may be somebody else's.

use super::Known;
use crate::bpf::fault::fault;
use crate::bpf::sys::ProgFd;
use cilium_engine::driver::DriverError;
use cilium_engine::state::{AttachmentRow, Hook, Position};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsRawFd;

// include/uapi/linux/rtnetlink.h, pkt_sched.h, pkt_cls.h
const RTM_NEWQDISC: u16 = 36;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const EXCL: u16 = 0x200;
const CLSACT: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const DIRECT_ACTION: u32 = 1;
const PRIORITY: u16 = 1;
/// Far from those the kernel gives out by itself, which begin at 1: a filter put under a handle that
/// is taken replaces the one there.
const HANDLES: [u32; 2] = [0x7300_0001, 0x7300_0002];
/// What the names of our programs begin with.
const NAME: &str = "cil_";
/// A dump of more messages than this is no answer to a question of ours.
const MESSAGES_MAX: usize = 100_000;

/// A filter at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    handle: u32,
    priority: u16,
    name: String,
    prog_id: u32,
    kind: String,
}

impl Filter {
    fn is_ours(&self) -> bool {
        self.kind == "bpf"
            && self.priority == PRIORITY
            && HANDLES.contains(&self.handle)
            && self.name.starts_with(NAME)
    }
}

/// A connection to the kernel's traffic control.
pub(super) struct Tc {
    socket: Socket,
    sequence: u32,
    /// The interfaces that have a clsact qdisc, where they were listed: others need not be asked about.
    clsact: Option<BTreeSet<u32>>,
}

impl Tc {
    /// For a few interfaces.
    pub(super) fn open() -> Result<Self, DriverError> {
        let open = || -> io::Result<Self> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(Self { socket, sequence: 0, clsact: None })
        };
        open().map_err(|e| fault(&e, "talk to traffic control"))
    }

    /// For all interfaces.
    pub(super) fn open_for_all() -> Result<Self, DriverError> {
        let mut tc = Self::open()?;
        let qdiscs = tc.ask(RTM_GETQDISC, DUMP, 0, 0, 0, 0, &[]).map_err(|e| fault(&e, "list qdiscs"))?;
        let is_clsact = |message: &&Message| {
            let kind = Attributes(message.attributes()).find(|(kind, _)| *kind == TCA_KIND);
            kind.is_some_and(|(_, name)| text(name) == "clsact")
        };
        tc.clsact = Some(qdiscs.iter().filter(is_clsact).map(Message::ifindex).collect());
        Ok(tc)
    }

    /// The filters at a hook in the order in which they run; none without a clsact qdisc.
    pub(super) fn filters(&mut self, ifindex: u32, hook: Hook) -> Result<Vec<Filter>, DriverError> {
        let Some(parent) = parent(hook) else { return Ok(Vec::new()) };
        if self.clsact.as_ref().is_some_and(|clsact| !clsact.contains(&ifindex)) {
            return Ok(Vec::new());
        }
        let answer = self.ask(RTM_GETTFILTER, DUMP, ifindex, 0, parent, 0, &[]);
        let messages = match answer {
            Ok(messages) => messages,
            // The interface or its qdisc went away since it was listed.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::ENOENT)) => {
                Vec::new()
            }
            Err(e) => return Err(fault(&e, format!("list the filters of interface {ifindex}"))),
        };
        // Besides its filters, each priority is listed once with handle 0.
        Ok(messages.iter().map(Message::filter).filter(|filter| filter.handle != 0).collect())
    }

    fn put(&mut self, prog: &ProgFd, name: &str, ifindex: u32, hook: Hook, handle: u32) -> io::Result<()> {
        let Some(parent) = parent(hook) else { return Ok(()) };
        let mut kind = Vec::new();
        attribute(&mut kind, TCA_KIND, b"clsact\0");
        match self.ask(RTM_NEWQDISC, ACK | CREATE | EXCL, ifindex, CLSACT & 0xffff_0000, CLSACT, 0, &kind) {
            Err(e) if e.raw_os_error() != Some(libc::EEXIST) => return Err(e),
            _ => {}
        }
        let mut options = Vec::new();
        attribute(&mut options, TCA_BPF_FD, &prog.0.as_raw_fd().to_ne_bytes());
        attribute(&mut options, TCA_BPF_NAME, format!("{name}\0").as_bytes());
        attribute(&mut options, TCA_BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes());
        let mut attributes = Vec::new();
        attribute(&mut attributes, TCA_KIND, b"bpf\0");
        attribute(&mut attributes, TCA_OPTIONS, &options);
        self.ask(RTM_NEWTFILTER, ACK | CREATE, ifindex, handle, parent, info(), &attributes).map(drop)
    }

    fn delete(&mut self, ifindex: u32, hook: Hook, handle: u32) -> io::Result<()> {
        let Some(parent) = parent(hook) else { return Ok(()) };
        let mut kind = Vec::new();
        attribute(&mut kind, TCA_KIND, b"bpf\0");
        match self.ask(RTM_DELTFILTER, ACK, ifindex, handle, parent, info(), &kind) {
            Err(e) if !matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Err(e),
            _ => Ok(()),
        }
    }

    /// Sends one request and collects the answer up to its end.
    #[expect(clippy::too_many_arguments, reason = "the fields of one message header")]
    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        ifindex: u32,
        handle: u32,
        parent: u32,
        info: u32,
        attributes: &[u8],
    ) -> io::Result<Vec<Message>> {
        self.sequence = self.sequence.wrapping_add(1);
        let length =
            u32::try_from(36 + attributes.len()).map_err(|_| io::Error::other("request too long"))?;
        let mut request = Vec::with_capacity(36 + attributes.len());
        request.extend(length.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend((flags | REQUEST).to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend([0; 8]);
        for field in [ifindex, handle, parent, info] {
            request.extend(field.to_ne_bytes());
        }
        request.extend(attributes);
        self.socket.send(&request, 0)?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<Vec<Message>> {
        const ERROR: u16 = 2;
        const DONE: u16 = 3;
        let mut out = Vec::new();
        while out.len() < MESSAGES_MAX {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while let Some((message, next)) = Message::split(rest) {
                rest = next;
                if message.sequence != self.sequence {
                    continue;
                }
                match message.kind {
                    DONE => return Ok(out),
                    ERROR => match message.word(0).unwrap_or(0).cast_signed() {
                        0 => return Ok(out),
                        errno => return Err(io::Error::from_raw_os_error(-errno)),
                    },
                    _ => out.push(message),
                }
            }
        }
        Err(io::Error::other("the kernel's answer does not end"))
    }
}

/// One netlink message of traffic control.
struct Message {
    kind: u16,
    sequence: u32,
    body: Vec<u8>,
}

impl Message {
    /// The first message of a datagram, and what follows it.
    fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let sequence = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
        let body = bytes.get(16..length)?.to_vec();
        Some((Self { kind, sequence, body }, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.body.get(at..at + 4)?.try_into().ok()?))
    }

    fn ifindex(&self) -> u32 {
        self.word(4).unwrap_or(0)
    }

    fn attributes(&self) -> &[u8] {
        self.body.get(20..).unwrap_or_default()
    }

    fn filter(&self) -> Filter {
        let mut filter = Filter {
            handle: self.word(8).unwrap_or(0),
            priority: u16::try_from(self.word(16).unwrap_or(0) >> 16).unwrap_or(0),
            name: String::new(),
            prog_id: 0,
            kind: String::new(),
        };
        for (kind, value) in Attributes(self.attributes()) {
            match kind {
                TCA_KIND => filter.kind = text(value),
                TCA_OPTIONS => {
                    for (kind, value) in Attributes(value) {
                        match kind {
                            TCA_BPF_NAME => filter.name = text(value),
                            TCA_BPF_ID => {
                                filter.prog_id = value.try_into().map(u32::from_ne_bytes).unwrap_or(0);
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        filter
    }
}

/// Attributes in a row; stops at the first that is cut short.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        /// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
        const FLAGS: u16 = 0xc000;
        let length = usize::from(u16::from_ne_bytes(self.0.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & !FLAGS;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

fn parent(hook: Hook) -> Option<u32> {
    match hook {
        Hook::Ingress => Some(INGRESS),
        Hook::Egress => Some(EGRESS),
        Hook::Xdp => None,
    }
}

/// Priority in the upper half, protocol (all) in network order in the lower.
fn info() -> u32 {
    const ETH_P_ALL: u16 = 3;
    u32::from(PRIORITY) << 16 | u32::from(ETH_P_ALL.to_be())
}

/// The row of our filter.
pub(super) fn look(known: &Known, filters: &[Filter]) -> Result<Option<AttachmentRow>, DriverError> {
    let found = filters.iter().enumerate().find(|(_, filter)| filter.is_ours());
    let Some((place, ours)) = found else { return Ok(None) };
    let several = filters.iter().filter(|filter| filter.is_ours()).count() > 1;
    let (set, _) = known.describe(ours.prog_id)?;
    let first = if place == 0 && !several { Position::First } else { Position::Behind };
    Ok(Some(AttachmentRow { program: ours.name.clone(), set, first }))
}

/// The program of our filter at the hook, by its number.
pub(super) fn running(tc: &mut Tc, ifindex: u32, hook: Hook) -> Result<Option<u32>, DriverError> {
    let filters = tc.filters(ifindex, hook)?;
    Ok(filters.iter().find(|filter| filter.is_ours()).map(|filter| filter.prog_id))
}

/// Makes a program the first filter at the hook.
pub(super) fn ensure(tc: &mut Tc, prog: &ProgFd, name: &str, ifindex: u32, hook: Hook) -> io::Result<()> {
    let filters = tc.filters(ifindex, hook).map_err(|e| io::Error::other(e.message))?;
    let ours: Vec<u32> =
        filters.iter().filter(|filter| filter.is_ours()).map(|filter| filter.handle).collect();
    let first = filters.first().filter(|filter| filter.is_ours()).map(|filter| filter.handle);
    let handle = match (first, ours.first()) {
        (Some(first), _) => first,
        // New filters go to the front of their priority: the other handle first, then without the old.
        (None, Some(behind)) => HANDLES.into_iter().find(|handle| handle != behind).unwrap_or(HANDLES[0]),
        (None, None) => HANDLES[0],
    };
    if filters
        .iter()
        .any(|filter| filter.priority == PRIORITY && filter.handle == handle && !filter.is_ours())
    {
        return Err(io::Error::other(format!("another's filter holds handle {handle:#x} of priority 1")));
    }
    if first.is_none() && ours.contains(&handle) {
        tc.delete(ifindex, hook, handle)?;
    }
    tc.put(prog, name, ifindex, hook, handle)?;
    for other in ours.into_iter().filter(|other| *other != handle) {
        tc.delete(ifindex, hook, other)?;
    }
    Ok(())
}

/// Removes our filters at the hook.
pub(super) fn remove(tc: &mut Tc, ifindex: u32, hook: Hook) -> Result<(), DriverError> {
    for filter in tc.filters(ifindex, hook)? {
        if filter.is_ours() {
            tc.delete(ifindex, hook, filter.handle)
                .map_err(|e| fault(&e, format!("remove filter {} of interface {ifindex}", filter.name)))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_messages_are_refused_without_panic() {
        let mut whole = Vec::new();
        attribute(&mut whole, TCA_KIND, b"bpf\0");
        attribute(&mut whole, TCA_OPTIONS, &[4, 0, 6, 0, 3, 0, 1, 0]);
        for n in 0..whole.len() {
            let message = Message { kind: 0, sequence: 0, body: [&[0; 20], &whole[..n]].concat() };
            let _ = message.filter();
            assert!(Message::split(&whole[..n]).is_none_or(|(m, _)| m.body.len() < 64));
        }
        let message = Message { kind: 0, sequence: 0, body: [&[0; 20][..], &whole].concat() };
        assert_eq!(message.filter().kind, "bpf");
    }
}
