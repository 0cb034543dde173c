//! Small programs that do something with a packet and then are another program: what a test run cannot be given by
//! other means. Never: knowledge of our maps or programs.

use super::sys::{self, ARRAY, PROG_ARRAY, insn};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Bytes that translation may change: link, network and TCP header.
const HEADERS: usize = 74;

/// What kind of hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A classifier.
    Classifier,
    /// A driver.
    Driver,
}

impl Kind {
    pub(super) fn load(self, code: &[u64]) -> OwnedFd {
        let loaded = if self == Self::Classifier { sys::load(code) } else { sys::load_xdp(code) };
        loaded.expect("the verifier takes the program")
    }
}

/// A program in front of another.
#[derive(Debug)]
pub struct Relay {
    program: OwnedFd,
    _maps: Vec<OwnedFd>,
}

impl Relay {
    /// Does `first`, which finds the context in register 6 and may use registers 0 to 5 and the stack, and then is
    /// `target`; without one it only tries, and gives 0.
    pub fn new(kind: Kind, first: &[u64], target: Option<BorrowedFd<'_>>) -> Self {
        let table = sys::create(PROG_ARRAY, 4, 4, 1).expect("a call table can be made");
        if let Some(target) = target {
            sys::update(table.as_fd(), &0u32, &target.as_raw_fd()).expect("the program can be put in it");
        }
        let [low, high] = sys::load_map(2, table.as_fd());
        let mut code = vec![insn(0xbf, 6, 1, 0, 0)];
        code.extend(first);
        code.extend([
            insn(0xbf, 1, 6, 0, 0),
            low,
            high,
            insn(0xb7, 3, 0, 0, 0),
            // bpf_tail_call
            insn(0x85, 0, 0, 0, 12),
            insn(0xb7, 0, 0, 0, 0),
            insn(0x95, 0, 0, 0, 0),
        ]);
        Self { program: kind.load(&code), _maps: vec![table] }
    }

    /// Writes the headers of `frame` anew each time: a packet that is run over and over stays what it was.
    pub fn rewinding(kind: Kind, frame: &[u8], target: Option<BorrowedFd<'_>>) -> Self {
        let len = frame.len().min(HEADERS);
        let mut headers = [0u8; HEADERS];
        headers[..len].copy_from_slice(&frame[..len]);
        let store = sys::create(ARRAY, 4, HEADERS as u32, 1).expect("a map can be made");
        sys::update(store.as_fd(), &0u32, &headers).expect("a row can be written");
        let [low, high] = sys::load_map(1, store.as_fd());
        // bpf_skb_store_bytes and bpf_xdp_store_bytes; the latter has no flags.
        let helper = if kind == Kind::Classifier { 9 } else { 190 };
        let first = [
            insn(0x62, 10, 0, -4, 0),
            low,
            high,
            insn(0xbf, 2, 10, 0, 0),
            insn(0x07, 2, 0, 0, -4),
            // bpf_map_lookup_elem
            insn(0x85, 0, 0, 0, 1),
            insn(0x55, 0, 0, 2, 0),
            insn(0xb7, 0, 0, 0, 0),
            insn(0x95, 0, 0, 0, 0),
            insn(0xbf, 1, 6, 0, 0),
            insn(0xb7, 2, 0, 0, 0),
            insn(0xbf, 3, 0, 0, 0),
            insn(0xb7, 4, 0, 0, len as i32),
            insn(0xb7, 5, 0, 0, 0),
            insn(0x85, 0, 0, 0, helper),
        ];
        let mut relay = Self::new(kind, &first, target);
        relay._maps.push(store);
        relay
    }

    /// The program.
    pub fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}
