//! The least that can be called a load balancer in a driver, to measure ours by: two of them.
//!
//! Both look the destination of a TCP segment over IPv4 without options or fragments up (address and port) in a hash map
//! of frontends, give the frame its backend's address, port and hardware address, correct the checksums of IP and TCP by
//! what has changed, and send it back out (`XDP_TX`). Anything else is passed. Nothing is counted, nobody is told, anybody
//! may use a frontend.
//!
//! - [`Minimal::stateless`] picks a backend by a hash of the client's address and both ports modulo the number of
//!   backends, and reads it from an array. It remembers nothing, so a connection moves when backends come or go; it asks
//!   no route; the client's address stays, so answers must find their own way; so does TTL.
//! - [`Minimal::lending`] does what ours does with a known connection: it finds backend and lent port in an LRU hash map
//!   by the connection's ends, asks the kernel for the route, changes both ends, and lowers TTL. It opens and closes none.

use super::super::relay::Kind;
use super::super::sys::{self, ARRAY, HASH, LRU_HASH, insn};
use super::super::world::{Family, GATEWAY_MAC, at};
use cilium_abi::Address;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Room for frontends and connections; backends of the one that is there.
const FRONTENDS: u32 = 8192;
const CONNECTIONS: u32 = 8192;
const BACKENDS: u32 = 16;

/// A program with its maps.
pub(super) struct Minimal {
    program: OwnedFd,
    _maps: [OwnedFd; 2],
}

/// Address and port in network order.
fn end(addr: &Address, port: u16) -> ([u8; 4], [u8; 2]) {
    let [.., a, b, c, d] = addr.bytes();
    ([a, b, c, d], port.to_be_bytes())
}

/// A map of frontends with one at this node's address.
fn frontends(port: u16) -> OwnedFd {
    let map = sys::create(HASH, 8, 8, FRONTENDS).expect("a map can be made");
    // Key: address, port, 0. Row: first place, and number of backends.
    let ([a, b, c, d], [e, f]) = end(&at::node(Family::V4), port);
    sys::update(map.as_fd(), &[a, b, c, d, e, f, 0, 0], &[0u32, BACKENDS]).expect("a row can be written");
    map
}

impl Minimal {
    /// With one frontend at this node's address, on `port`.
    pub(super) fn stateless(port: u16, backend_port: u16) -> Self {
        let backends = sys::create(ARRAY, 4, 12, BACKENDS).expect("a map can be made");
        // Row: address, hardware address, port.
        let ([a, b, c, d], [e, f]) = end(&at::remote_pod(Family::V4), backend_port);
        let [g, h, i, j, k, l] = GATEWAY_MAC.0;
        for place in 0..BACKENDS {
            sys::update(backends.as_fd(), &place, &[a, b, c, d, g, h, i, j, k, l, e, f])
                .expect("a row can be written");
        }
        let frontends = frontends(port);
        let mut code = Code::begin(frontends.as_fd());
        code.pick(backends.as_fd());
        code.finish([frontends, backends])
    }

    /// The same, which knows the connection of a client with this port.
    pub(super) fn lending(port: u16, backend_port: u16, client: (&Address, u16), ifindex: u32) -> Self {
        let connections = sys::create(LRU_HASH, 16, 16, CONNECTIONS).expect("a map can be made");
        let (own, from) = (end(&at::node(Family::V4), port), end(client.0, client.1));
        let backend = end(&at::remote_pod(Family::V4), backend_port);
        // Key: both addresses, both ports, 0. Row: the backend's address, the lent one, the ports of both, 0.
        let mut key = [from.0, own.0].concat();
        key.extend([from.1, own.1, [0; 2], [0; 2]].concat());
        let mut row = [backend.0, own.0].concat();
        row.extend([backend.1, from.1, [0; 2], [0; 2]].concat());
        let whole = |bytes: Vec<u8>| -> [u8; 16] { bytes.try_into().expect("sixteen bytes") };
        sys::update(connections.as_fd(), &whole(key), &whole(row)).expect("a row can be written");
        let frontends = frontends(port);
        let mut code = Code::begin(frontends.as_fd());
        code.lend(connections.as_fd(), ifindex);
        code.finish([frontends, connections])
    }

    pub(super) fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

/// Offsets in a frame.
const TYPE: i16 = 12;
const VERSION: i16 = 14;
const FRAGMENT: i16 = 20;
const TTL: i16 = 22;
const PROTO: i16 = 23;
const IP_SUM: i16 = 24;
const SOURCE: i16 = 26;
const DESTINATION: i16 = 30;
const PORTS: i16 = 34;
const TCP_SUM: i16 = 50;

/// A jump by so many instructions.
type Jump = fn(i16) -> u64;

/// Instructions, and which of them jump to where the frame is passed.
#[derive(Default)]
struct Code {
    words: Vec<u64>,
    leaving: Vec<(usize, Jump)>,
}

impl Code {
    fn add(&mut self, words: impl IntoIterator<Item = u64>) {
        self.words.extend(words);
    }

    /// A jump out; `jump` makes it for an offset.
    fn leave(&mut self, jump: Jump) {
        self.leaving.push((self.words.len(), jump));
        self.words.push(0);
    }

    /// Ends with XDP_TX, and with XDP_PASS for those that left.
    fn finish(mut self, maps: [OwnedFd; 2]) -> Minimal {
        self.add([insn(0xb7, 0, 0, 0, 3), insn(0x95, 0, 0, 0, 0)]);
        let end = self.words.len();
        for (place, jump) in self.leaving {
            self.words[place] = jump(i16::try_from(end - place - 1).expect("a short program"));
        }
        self.words.extend([insn(0xb7, 0, 0, 0, 2), insn(0x95, 0, 0, 0, 0)]);
        Minimal { program: Kind::Driver.load(&self.words), _maps: maps }
    }

    /// Looks up what is on the stack at `key`; leaves with the frame if it is not there.
    fn look_up(&mut self, map: BorrowedFd<'_>, key: i32) {
        let [low, high] = sys::load_map(1, map);
        self.add([
            low,
            high,
            insn(0xbf, 2, 10, 0, 0),
            insn(0x07, 2, 0, 0, key),
            // bpf_map_lookup_elem
            insn(0x85, 0, 0, 0, 1),
        ]);
        self.leave(|to| insn(0x15, 0, 0, to, 0));
    }

    /// Adds to register 3 how a field of the frame differs from one of the row in register 8, a half-word each.
    fn difference(&mut self, field: i16, row: i16) {
        self.add([
            insn(0x69, 1, 7, field, 0),
            insn(0xa7, 1, 0, 0, 0xffff),
            insn(0x0f, 3, 1, 0, 0),
            insn(0x69, 1, 8, row, 0),
            insn(0x0f, 3, 1, 0, 0),
            insn(0x6b, 7, 1, field, 0),
        ]);
    }

    /// Mixes register 1 (the finaliser of MurmurHash3, half of it).
    fn mix(&mut self) {
        self.add([
            insn(0xbc, 2, 1, 0, 0),
            insn(0x74, 2, 0, 0, 16),
            insn(0xac, 1, 2, 0, 0),
            insn(0x24, 1, 0, 0, 0x85eb_ca6b_u32.cast_signed()),
            insn(0xbc, 2, 1, 0, 0),
            insn(0x74, 2, 0, 0, 13),
            insn(0xac, 1, 2, 0, 0),
        ]);
    }

    /// Adds what changed, in register 3, to the checksum at an offset.
    fn correct(&mut self, field: i16) {
        self.add([insn(0x69, 1, 7, field, 0), insn(0xa7, 1, 0, 0, 0xffff), insn(0x0f, 1, 3, 0, 0)]);
        for _ in 0..2 {
            self.add([
                insn(0xbf, 2, 1, 0, 0),
                insn(0x77, 2, 0, 0, 16),
                insn(0x57, 1, 0, 0, 0xffff),
                insn(0x0f, 1, 2, 0, 0),
            ]);
        }
        self.add([insn(0xa7, 1, 0, 0, 0xffff), insn(0x6b, 7, 1, field, 0)]);
    }

    /// Registers from here on: 6 context, 7 frame, 8 its end and then a row, 9 the row of the frontend.
    fn begin(frontends: BorrowedFd<'_>) -> Self {
        let mut code = Self::default();
        code.add([
            insn(0xbf, 6, 1, 0, 0),
            insn(0x61, 7, 1, 0, 0),
            insn(0x61, 8, 1, 4, 0),
            insn(0xbf, 2, 7, 0, 0),
            insn(0x07, 2, 0, 0, 54),
        ]);
        code.leave(|to| insn(0x2d, 2, 8, to, 0));
        code.add([insn(0x69, 2, 7, TYPE, 0)]);
        code.leave(|to| insn(0x55, 2, 0, to, 0x0008));
        code.add([insn(0x71, 2, 7, VERSION, 0)]);
        code.leave(|to| insn(0x55, 2, 0, to, 0x45));
        code.add([insn(0x69, 2, 7, FRAGMENT, 0), insn(0x57, 2, 0, 0, 0xff3f)]);
        code.leave(|to| insn(0x55, 2, 0, to, 0));
        code.add([insn(0x71, 2, 7, PROTO, 0)]);
        code.leave(|to| insn(0x55, 2, 0, to, 6));
        code.add([
            insn(0x61, 2, 7, DESTINATION, 0),
            insn(0x63, 10, 2, -8, 0),
            insn(0x69, 2, 7, PORTS + 2, 0),
            insn(0x63, 10, 2, -4, 0),
        ]);
        code.look_up(frontends, -8);
        code.add([insn(0xbf, 9, 0, 0, 0)]);
        code
    }

    /// A backend by hash.
    fn pick(&mut self, backends: BorrowedFd<'_>) {
        self.add([insn(0x61, 1, 7, SOURCE, 0)]);
        self.mix();
        self.add([insn(0x61, 2, 7, PORTS, 0), insn(0xac, 1, 2, 0, 0)]);
        self.mix();
        self.add([
            insn(0x61, 2, 9, 4, 0),
            insn(0x9c, 1, 2, 0, 0),
            insn(0x61, 2, 9, 0, 0),
            insn(0x0c, 1, 2, 0, 0),
            insn(0x63, 10, 1, -8, 0),
        ]);
        self.look_up(backends, -8);
        self.add([insn(0xbf, 8, 0, 0, 0), insn(0xb7, 3, 0, 0, 0)]);
        self.difference(DESTINATION, 0);
        self.difference(DESTINATION + 2, 2);
        self.correct(IP_SUM);
        self.difference(PORTS + 2, 10);
        self.correct(TCP_SUM);
        // The frame's receiver becomes its sender.
        for word in [0, 2, 4] {
            self.add([
                insn(0x69, 1, 7, word, 0),
                insn(0x6b, 7, 1, word + 6, 0),
                insn(0x69, 1, 8, word + 4, 0),
                insn(0x6b, 7, 1, word, 0),
            ]);
        }
    }

    /// A known connection.
    fn lend(&mut self, connections: BorrowedFd<'_>, ifindex: u32) {
        /// `struct bpf_fib_lookup` on the stack: length, destination, hardware addresses.
        const WAY: i16 = -96;
        const TOTAL: i16 = 6;
        const INTERFACE: i16 = 8;
        const TO: i16 = 32;
        const SENDER: i16 = 52;
        const RECEIVER: i16 = 58;
        self.add([insn(0x71, 2, 7, TTL, 0)]);
        self.leave(|to| insn(0xb5, 2, 0, to, 1));
        for (offset, field) in [(-24, SOURCE), (-20, DESTINATION), (-16, PORTS)] {
            self.add([insn(0x61, 2, 7, field, 0), insn(0x63, 10, 2, offset, 0)]);
        }
        self.add([insn(0x62, 10, 0, -12, 0)]);
        self.look_up(connections, -24);
        self.add([insn(0xbf, 8, 0, 0, 0), insn(0xb7, 1, 0, 0, 0)]);
        self.add((0..8).map(|word| insn(0x7b, 10, 1, WAY + 8 * word, 0)));
        self.add([
            insn(0x72, 10, 0, WAY, libc::AF_INET),
            insn(0x6a, 10, 0, WAY + TOTAL, 40),
            insn(0x62, 10, 0, WAY + INTERFACE, ifindex.cast_signed()),
            insn(0x61, 1, 8, 0, 0),
            insn(0x63, 10, 1, WAY + TO, 0),
            insn(0xbf, 1, 6, 0, 0),
            insn(0xbf, 2, 10, 0, 0),
            insn(0x07, 2, 0, 0, WAY.into()),
            insn(0xb7, 3, 0, 0, 64),
            insn(0xb7, 4, 0, 0, 0),
            // bpf_fib_lookup
            insn(0x85, 0, 0, 0, 69),
        ]);
        self.leave(|to| insn(0x55, 0, 0, to, 0));
        self.add([insn(0xb7, 3, 0, 0, 0)]);
        for (field, row) in [(DESTINATION, 0), (DESTINATION + 2, 2), (SOURCE, 4), (SOURCE + 2, 6)] {
            self.difference(field, row);
        }
        // TTL is the low byte of its half-word here, and one less.
        self.add([
            insn(0xbf, 5, 3, 0, 0),
            insn(0x07, 3, 0, 0, 0xfffe),
            insn(0x71, 1, 7, TTL, 0),
            insn(0x07, 1, 0, 0, -1),
            insn(0x73, 7, 1, TTL, 0),
        ]);
        self.correct(IP_SUM);
        self.add([insn(0xbf, 3, 5, 0, 0)]);
        self.difference(PORTS + 2, 8);
        self.difference(PORTS, 10);
        self.correct(TCP_SUM);
        for word in [0, 2, 4] {
            self.add([
                insn(0x69, 1, 10, WAY + RECEIVER + word, 0),
                insn(0x6b, 7, 1, word, 0),
                insn(0x69, 1, 10, WAY + SENDER + word, 0),
                insn(0x6b, 7, 1, word + 6, 0),
            ]);
        }
    }
}
