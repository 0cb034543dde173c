//! The least that can be called a load balancer in a driver, to measure ours by: two of them.
//!
//! Both look the destination of a TCP segment without options, extension headers or fragments up (address and port) in a
//! hash map of frontends, give the frame its backend's address, port and hardware address, correct the checksums of IP and
//! TCP by what has changed, and send it back out (`XDP_TX`). Anything else is passed. Nothing is counted, nobody is told,
//! anybody may use a frontend. Each is made for one family, with keys as long as that one's addresses.
//!
//! - [`Minimal::stateless`], IPv4 only, picks a backend by a hash of the client's address and both ports modulo the number of
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

/// An address of a family as bytes, in network order.
fn address(family: Family, addr: &Address) -> Vec<u8> {
    let skipped = if family == Family::V4 { 12 } else { 0 };
    addr.bytes()[skipped..].to_vec()
}

/// A map with room for so many rows, and one in it.
fn map<const KEY: usize, const ROW: usize>(kind: u32, most: u32, key: &[u8], row: &[u8]) -> OwnedFd {
    let map = sys::create(kind, KEY as u32, ROW as u32, most).expect("a map can be made");
    let key: [u8; KEY] = key.try_into().expect("a key of that length");
    let row: [u8; ROW] = row.try_into().expect("a row of that length");
    sys::update(map.as_fd(), &key, &row).expect("a row can be written");
    map
}

/// A map of frontends with one at this node's address. Key: address, port, 0. Row: first place, and number of backends.
fn frontends(family: Family, port: u16) -> OwnedFd {
    let key = [address(family, &at::node(family)), port.to_be_bytes().to_vec(), vec![0; 2]].concat();
    let row = [[0; 4], BACKENDS.to_ne_bytes()].concat();
    match family {
        Family::V4 => map::<8, 8>(HASH, FRONTENDS, &key, &row),
        Family::V6 => map::<20, 8>(HASH, FRONTENDS, &key, &row),
    }
}

impl Minimal {
    /// With one frontend at this node's address, on `port`; IPv4.
    pub(super) fn stateless(port: u16, backend_port: u16) -> Self {
        let family = Family::V4;
        let backends = sys::create(ARRAY, 4, 12, BACKENDS).expect("a map can be made");
        // Row: address, hardware address, port.
        let row = [
            address(family, &at::remote_pod(family)),
            GATEWAY_MAC.0.to_vec(),
            backend_port.to_be_bytes().to_vec(),
        ];
        let row: [u8; 12] = row.concat().try_into().expect("twelve bytes");
        for place in 0..BACKENDS {
            sys::update(backends.as_fd(), &place, &row).expect("a row can be written");
        }
        let frontends = frontends(family, port);
        let mut code = Code::begin(family, frontends.as_fd());
        code.pick(backends.as_fd());
        code.finish([frontends, backends])
    }

    /// The same, which knows the connection of a client with this port.
    pub(super) fn lending(port: u16, backend_port: u16, client: (&Address, u16), ifindex: u32) -> Self {
        let family = if client.0.is_v4() { Family::V4 } else { Family::V6 };
        let bytes = |addr: &Address| address(family, addr);
        let [own, backend] = [at::node(family), at::remote_pod(family)];
        let ports = |a: u16, b: u16| [a.to_be_bytes(), b.to_be_bytes()].concat();
        // Key: both addresses, both ports. Row: the backend's address, the lent one, the ports of both.
        let key = [bytes(client.0), bytes(&own), ports(client.1, port)].concat();
        let row = [bytes(&backend), bytes(&own), ports(backend_port, client.1)].concat();
        let connections = match family {
            Family::V4 => map::<12, 12>(LRU_HASH, CONNECTIONS, &key, &row),
            Family::V6 => map::<36, 36>(LRU_HASH, CONNECTIONS, &key, &row),
        };
        let frontends = frontends(family, port);
        let mut code = Code::begin(family, frontends.as_fd());
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
const IP_SUM: i16 = 24;

/// Where the fields of a family lie in a frame.
struct Fields {
    ttl: i16,
    proto: i16,
    source: i16,
    destination: i16,
    /// Words of an address.
    words: i16,
    ports: i16,
}

const IPV4: Fields = Fields { ttl: 22, proto: 23, source: 26, destination: 30, words: 1, ports: 34 };
const IPV6: Fields = Fields { ttl: 21, proto: 20, source: 22, destination: 38, words: 4, ports: 54 };

impl Fields {
    const fn sum(&self) -> i16 {
        self.ports + 16
    }
}

/// A jump by so many instructions.
type Jump = fn(i16) -> u64;

/// Instructions for a family, and which of them jump to where the frame is passed.
struct Code {
    family: Family,
    fields: Fields,
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

    /// The same for an address, word by word.
    fn address(&mut self, field: i16, row: i16) {
        for word in 0..self.fields.words {
            self.add([
                insn(0x61, 1, 7, field + 4 * word, 0),
                // As 32 bits, which leaves none above.
                insn(0xa4, 1, 0, 0, -1),
                insn(0x0f, 3, 1, 0, 0),
                insn(0x61, 1, 8, row + 4 * word, 0),
                insn(0x0f, 3, 1, 0, 0),
                insn(0x63, 7, 1, field + 4 * word, 0),
            ]);
        }
    }

    /// Folds register 3 to a little more than half a word.
    fn fold(&mut self) {
        self.add([
            insn(0xbc, 1, 3, 0, 0),
            insn(0x77, 3, 0, 0, 32),
            insn(0x0f, 3, 1, 0, 0),
            insn(0xbf, 1, 3, 0, 0),
            insn(0x77, 1, 0, 0, 16),
            insn(0x57, 3, 0, 0, 0xffff),
            insn(0x0f, 3, 1, 0, 0),
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
    fn begin(family: Family, frontends: BorrowedFd<'_>) -> Self {
        let is_v4 = family == Family::V4;
        let fields = if is_v4 { IPV4 } else { IPV6 };
        let Fields { proto, destination, words, ports, .. } = fields;
        let mut code = Self { family, fields, words: Vec::new(), leaving: Vec::new() };
        code.add([
            insn(0xbf, 6, 1, 0, 0),
            insn(0x61, 7, 1, 0, 0),
            insn(0x61, 8, 1, 4, 0),
            insn(0xbf, 2, 7, 0, 0),
            insn(0x07, 2, 0, 0, i32::from(ports) + 20),
        ]);
        code.leave(|to| insn(0x2d, 2, 8, to, 0));
        code.add([insn(0x69, 2, 7, TYPE, 0)]);
        code.leave(if is_v4 { |to| insn(0x55, 2, 0, to, 0x0008) } else { |to| insn(0x55, 2, 0, to, 0xdd86) });
        code.add([insn(0x71, 2, 7, VERSION, 0)]);
        if is_v4 {
            code.leave(|to| insn(0x55, 2, 0, to, 0x45));
            code.add([insn(0x69, 2, 7, FRAGMENT, 0), insn(0x57, 2, 0, 0, 0xff3f)]);
            code.leave(|to| insn(0x55, 2, 0, to, 0));
        } else {
            code.add([insn(0x57, 2, 0, 0, 0xf0)]);
            code.leave(|to| insn(0x55, 2, 0, to, 0x60));
        }
        code.add([insn(0x71, 2, 7, proto, 0)]);
        code.leave(|to| insn(0x55, 2, 0, to, 6));
        let key = -4 - 4 * words;
        code.copy(key, destination, words);
        code.add([insn(0x69, 2, 7, ports + 2, 0), insn(0x63, 10, 2, -4, 0)]);
        code.look_up(frontends, key.into());
        code.add([insn(0xbf, 9, 0, 0, 0)]);
        code
    }

    /// Copies words of the frame to the stack.
    fn copy(&mut self, to: i16, from: i16, words: i16) {
        for word in 0..words {
            self.add([insn(0x61, 2, 7, from + 4 * word, 0), insn(0x63, 10, 2, to + 4 * word, 0)]);
        }
    }

    /// A backend by hash.
    fn pick(&mut self, backends: BorrowedFd<'_>) {
        self.add([insn(0x61, 1, 7, IPV4.source, 0)]);
        self.mix();
        self.add([insn(0x61, 2, 7, IPV4.ports, 0), insn(0xac, 1, 2, 0, 0)]);
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
        self.address(IPV4.destination, 0);
        self.fold();
        self.correct(IP_SUM);
        self.difference(IPV4.ports + 2, 10);
        self.correct(IPV4.sum());
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
        const WAY: i16 = -104;
        const TOTAL: i16 = 6;
        const INTERFACE: i16 = 8;
        const TO: i16 = 32;
        const SENDER: i16 = 52;
        const RECEIVER: i16 = 58;
        let Fields { ttl, source, destination, words, ports, .. } = self.fields;
        let is_v4 = self.family == Family::V4;
        self.add([insn(0x71, 2, 7, ttl, 0)]);
        self.leave(|to| insn(0xb5, 2, 0, to, 1));
        // Source and destination stand side by side.
        let key = -4 - 8 * words;
        self.copy(key, source, 2 * words);
        self.copy(-4, ports, 1);
        self.look_up(connections, key.into());
        self.add([insn(0xbf, 8, 0, 0, 0), insn(0xb7, 1, 0, 0, 0)]);
        self.add((0..8).map(|word| insn(0x7b, 10, 1, WAY + 8 * word, 0)));
        self.add([
            insn(0x72, 10, 0, WAY, if is_v4 { libc::AF_INET } else { libc::AF_INET6 }),
            insn(0x6a, 10, 0, WAY + TOTAL, i32::from(ports + 20 - VERSION)),
            insn(0x62, 10, 0, WAY + INTERFACE, ifindex.cast_signed()),
        ]);
        for word in 0..words {
            self.add([insn(0x61, 1, 8, 4 * word, 0), insn(0x63, 10, 1, WAY + TO + 4 * word, 0)]);
        }
        self.add([
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
        self.address(destination, 0);
        self.address(source, 4 * words);
        self.fold();
        self.add([insn(0x71, 1, 7, ttl, 0), insn(0x07, 1, 0, 0, -1), insn(0x73, 7, 1, ttl, 0)]);
        if is_v4 {
            // TTL is the low byte of its half-word here, and one less.
            self.add([insn(0xbf, 5, 3, 0, 0), insn(0x07, 3, 0, 0, 0xfffe)]);
            self.correct(IP_SUM);
            self.add([insn(0xbf, 3, 5, 0, 0)]);
        }
        self.difference(ports + 2, 8 * words);
        self.difference(ports, 8 * words + 2);
        self.correct(self.fields.sum());
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
