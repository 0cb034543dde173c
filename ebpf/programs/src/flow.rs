//! What one packet is known to be while a program looks at it.
//!
//! It lives in a per-CPU row rather than on the stack: the stack has 512 bytes, and the verifier
//! follows every value on it. Programs of one CPU never interleave here (bottom halves are off).

use crate::{host_stack, maps, packet::Packet};
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns};
use cilium_abi::{
    Address, Be16,
    ct::Tuple,
    event,
    lb::FrontendRow,
    node::{REVISION, WINDOW},
};
use core::num::NonZeroU32;

/// Why a packet ends here: a drop reason and the line that said so.
///
/// Never zero, so that a result without value is one word and no compiler leaves half of it undefined
/// (which the verifier refuses to see copied).
#[derive(Clone, Copy)]
pub struct Cause(NonZeroU32);

impl Cause {
    /// Reason `code` of [`cilium_abi::drop`], decided at `line`.
    #[inline(always)]
    pub const fn new(code: u8, line: u32) -> Self {
        Self::from_raw((code as u32) | line << 8)
    }

    /// The drop reason.
    #[inline(always)]
    pub const fn code(self) -> u8 {
        self.0.get() as u8
    }

    /// The line.
    #[inline(always)]
    pub const fn line(self) -> u16 {
        (self.0.get() >> 8) as u16
    }

    /// As one number, to cross a call.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0.get()
    }

    /// The inverse of [`Self::raw`].
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        match NonZeroU32::new(raw) {
            Some(raw) => Self(raw),
            None => Self(NonZeroU32::MIN),
        }
    }

    /// What a subprogram returns for a step: a verdict in the low half, or a cause in the high.
    #[inline(always)]
    pub const fn cross(step: Step<i32>) -> u64 {
        match step {
            Ok(verdict) => verdict as u32 as u64,
            Err(cause) => (cause.raw() as u64) << 32,
        }
    }

    /// The inverse of [`Self::cross`].
    #[inline(always)]
    pub const fn crossed(returned: u64) -> Step<i32> {
        if returned >> 32 == 0 { Ok(returned as i32) } else { Err(Self::from_raw((returned >> 32) as u32)) }
    }
}

/// A step's value, or the end of the packet.
pub type Step<T> = Result<T, Cause>;

/// [`Cause`] of the given reason, here.
#[macro_export]
macro_rules! cause {
    ($reason:ident) => {
        $crate::flow::Cause::new(cilium_abi::drop::$reason, line!())
    };
}

/// What the layer 4 header is.
pub mod kind {
    /// Two ports: TCP, UDP, SCTP.
    pub const PORTS: u8 = 0;
    /// ICMP echo, request or reply.
    pub const ECHO: u8 = 1;
    /// An ICMP error; [`super::Flow::inner`] is the packet it is about.
    pub const ICMP_ERROR: u8 = 2;
    /// Any other ICMP message.
    pub const ICMP_OTHER: u8 = 3;
}

/// One packet.
pub struct Flow {
    /// The ends as the packet travels now.
    pub tuple: Tuple,
    /// For ICMP errors: the ends of the packet the error is about, as that packet travelled.
    pub inner: Tuple,
    /// Address before translation; meaningful if [`Self::is_translated`].
    pub original: Address,
    /// The frontend that a packet from a device is for, once that is known.
    pub frontend: FrontendRow,
    /// The frontend that a packet with [`Self::marks`] was sent to; meaningful with those alone.
    pub frontend_addr: Address,
    /// Its port.
    pub frontend_port: Be16,
    /// What a packet that opens a connection makes of it: `CT_ONE_WAY`, `CT_DSR`, or neither.
    pub marks: u16,
    /// Number of the frontend to translate back to; 0: none.
    pub rev_nat: u16,
    /// Nanoseconds since boot, once an event needed them; 0 before.
    pub time: u64,
    /// Coarse seconds since boot.
    pub now: u32,
    /// The revision at which this packet is judged.
    pub revision: u32,
    /// Interface of the hook.
    pub ifindex: u32,
    /// Offset of the layer 4 header; 0: it is in another fragment of the datagram.
    pub l4: u32,
    /// Offset of the embedded packet's layer 4 header (ICMP errors).
    pub inner_l4: u32,
    /// Identity of the source.
    pub src_identity: u32,
    /// Identity of the destination.
    pub dst_identity: u32,
    /// Rule of the last policy verdict.
    pub cookie: u32,
    /// Endpoint that events are about.
    pub endpoint_id: u16,
    /// What policy is asked for: the destination port, or the ICMP type.
    pub policy_port: Be16,
    /// TCP flags.
    pub tcp_flags: u8,
    /// A `kind::` constant.
    pub kind: u8,
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// `metrics::DIRECTION_`.
    pub direction: u8,
    /// `event::reason::`.
    pub state: u8,
    /// How the last policy verdict was found.
    pub matched: u8,
    /// `ALLOWED_` flags: what the connection may remember.
    pub allowed: u8,
    /// Whether a trace event of this packet is due (0 or 1).
    pub report: u8,
    /// `event::EVENT_` flags.
    pub flags: u8,
    /// Whether an address was translated (0 or 1).
    pub is_translated: u8,
    /// Whether the pod reaches itself through a service (0 or 1).
    pub is_loopback: u8,
    /// Whether a backend elsewhere is to answer the client itself (0 or 1).
    pub is_one_way: u8,
    /// Whether a device may have summed the whole frame (0 or 1).
    pub is_from_wire: u8,
    /// Whether the host's stack sent it (0 or 1); meaningful with `NODE_HOST_STACK` alone.
    pub is_from_stack: u8,
}

/// Egress policy was asked and allowed the packet, for reasons that only a new revision changes.
pub const ALLOWED_EGRESS: u8 = 1;
/// As [`ALLOWED_EGRESS`], for ingress.
pub const ALLOWED_INGRESS: u8 = 1 << 1;

/// FIN of [`Flow::tcp_flags`].
pub const FIN: u8 = 1;
/// SYN.
pub const SYN: u8 = 2;
/// RST.
pub const RST: u8 = 4;
/// ACK.
pub const ACK: u8 = 16;

impl Flow {
    /// This CPU's row, cleared for a packet but for its addresses, which parsing fills in or
    /// [`Self::forget`] clears: 64 bytes less to write for every packet.
    #[inline(always)]
    pub fn start<P: Packet>(packet: P, direction: u8) -> Option<&'static mut Self> {
        let row = maps::SCRATCH.get_ptr_mut(0)?;
        // SAFETY: this CPU's row, used by one program at a time.
        let flow = unsafe { &mut *row };
        flow.tuple.src_port = Be16(0);
        flow.tuple.dst_port = Be16(0);
        flow.tuple.proto = 0;
        flow.is_translated = 0;
        flow.is_loopback = 0;
        flow.is_from_wire = 0;
        if host_stack::enabled() {
            flow.is_from_stack = 0;
        }
        flow.rev_nat = 0;
        flow.marks = 0;
        flow.is_one_way = 0;
        flow.ifindex = packet.ifindex();
        flow.time = 0;
        flow.now = 0;
        flow.revision = 0;
        flow.src_identity = 0;
        flow.dst_identity = 0;
        flow.cookie = 0;
        flow.endpoint_id = 0;
        flow.policy_port = Be16(0);
        flow.tcp_flags = 0;
        flow.kind = kind::PORTS;
        flow.icmp_type = 0;
        flow.icmp_code = 0;
        flow.direction = direction;
        flow.state = event::reason::UNKNOWN;
        flow.matched = 0;
        flow.allowed = 0;
        flow.report = 0;
        flow.flags = 0;
        Some(flow)
    }

    /// Clears the addresses of a packet that has none. Not `#[cold]`: that is a section of its own,
    /// which the loader does not link.
    #[inline(never)]
    pub fn forget(&mut self) {
        self.tuple.src = Address::NONE;
        self.tuple.dst = Address::NONE;
    }

    /// Keeps an address about to be translated, for events.
    #[inline(always)]
    pub fn keep(&mut self, original: Address) {
        self.original = original;
        self.is_translated = 1;
    }

    /// Reads the clock, and the revision before anything that it stands for.
    #[inline(always)]
    pub fn tick(&mut self) {
        self.revision = maps::REVISION.get(REVISION).copied().unwrap_or(0);
        self.now = clock().map_or(0, |clock| clock.now);
    }

    /// Whether the packet opens a TCP connection.
    #[inline(always)]
    pub fn is_syn(&self) -> bool {
        self.tuple.proto == cilium_abi::proto::TCP && self.tcp_flags & (SYN | ACK) == SYN
    }
}

/// Row of `cilium_clock`: what time it is, read once in each tick of the kernel, and what is told by time.
#[repr(C)]
pub struct Clock {
    /// The tick it was read in.
    jiffies: u64,
    /// Coarse seconds since boot.
    pub now: u32,
    /// Coarse time since boot in windows of `node::WINDOW`.
    pub window: u32,
    /// The last window with a refused packet.
    pub refusing: u32,
    /// Refused packets in it, told of or not.
    pub refused: u32,
}

/// This CPU's clock. The kernel's coarse clock changes with its ticks, whose number costs nothing to read, and
/// the clock 14 ns.
#[inline(always)]
pub fn clock() -> Option<&'static mut Clock> {
    let row = maps::CLOCK.get_ptr_mut(0)?;
    // SAFETY: this CPU's row, used by one program at a time.
    let clock = unsafe { &mut *row };
    // SAFETY: a helper without arguments.
    let jiffies = unsafe { bpf_jiffies64() };
    if clock.jiffies != jiffies {
        // SAFETY: a helper without arguments.
        let ns = unsafe { bpf_ktime_get_coarse_ns() };
        clock.jiffies = jiffies;
        clock.now = (ns / 1_000_000_000) as u32;
        clock.window = (ns >> WINDOW) as u32;
    }
    Some(clock)
}

impl Flow {
    /// Whether an ICMP message of kind [`kind::ECHO`] asks rather than answers.
    #[inline(always)]
    pub fn is_echo_request(&self) -> bool {
        self.icmp_type == 8 || self.icmp_type == 128
    }
}

/// Whether two addresses are equal.
#[inline(always)]
pub fn same(a: &Address, b: &Address) -> bool {
    let (a, b) = (&a.words, &b.words);
    ((a[3] ^ b[3]) | (a[2] ^ b[2]) | (a[1] ^ b[1]) | (a[0] ^ b[0])) == 0
}
