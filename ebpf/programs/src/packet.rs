//! One view of a packet for TC and XDP: where its bytes are, how long it is, where it arrived.
//!
//! Pointers made here die with the next helper that changes the packet: read, then write, never
//! keep. No function here decides anything.

use crate::{
    cause,
    flow::{Flow, Step},
    fragment,
    parse::{Family, IPV4, IPV6, Ipv4, Ipv6},
};
use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::generated::{bpf_skb_load_bytes, bpf_skb_pull_data, bpf_xdp_load_bytes},
};
use cilium_abi::proto;
use core::ptr::from_mut;

/// Bytes of headers that [`Packet::pull`] makes directly readable, if the packet has as many.
pub const LINEAR: u32 = 128;

/// A packet in a hook.
pub trait Packet: Copy {
    /// Address of the first byte.
    fn data(self) -> usize;
    /// Address behind the last directly readable byte.
    fn data_end(self) -> usize;
    /// Length in bytes, link layer included.
    fn length(self) -> u32;
    /// The interface of the hook, host order.
    fn ifindex(self) -> u32;
    /// Makes the first [`LINEAR`] bytes directly readable.
    fn pull(self);
    /// Copies bytes of the packet at any offset, wherever they lie, into `to`; whether they are there.
    fn load<T: Copy>(self, offset: u32, to: &mut T) -> bool;
    /// Fills in what layer 4 says of a fragment with an Ethernet header: see [`fragment::read`].
    fn fragment<F: Family>(self, flow: &mut Flow) -> Step<()>;
}

/// A packet of the TC hooks.
#[derive(Clone, Copy)]
pub struct Skb(pub *mut __sk_buff);

/// A packet of the XDP hook.
#[derive(Clone, Copy)]
pub struct Xdp(pub *mut xdp_md);

impl Skb {
    /// `skb->mark`.
    #[inline(always)]
    pub fn mark(self) -> u32 {
        // SAFETY: the kernel hands a valid context to the program.
        unsafe { (*self.0).mark }
    }

    /// Sets `skb->mark`.
    #[inline(always)]
    pub fn set_mark(self, mark: u32) {
        // SAFETY: as above; the verifier allows writing this field.
        unsafe { (*self.0).mark = mark }
    }

    /// Whether it came into the node by an interface, rather than from a process of the node itself.
    #[inline(always)]
    pub fn is_received(self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.0).ingress_ifindex != 0 }
    }

    /// Whether the frame carries a VLAN tag.
    #[inline(always)]
    pub fn is_tagged(self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.0).vlan_present != 0 }
    }

    /// Ethernet type in network order, as the kernel classified it.
    #[inline(always)]
    pub fn protocol(self) -> u16 {
        // SAFETY: as above.
        unsafe { (*self.0).protocol as u16 }
    }

    /// Whether all that is read of a plain TCP or UDP packet is directly readable already, as a pod's own
    /// stack sends it: headers linear, payload in pages. Such a packet is a clone of what TCP keeps to
    /// send again, and pulling any byte of payload would copy its head.
    #[inline(always)]
    fn holds_headers(self) -> bool {
        /// Offset of the network header.
        const NETWORK: usize = 14;
        let (proto, transport) = match self.protocol() {
            IPV4 => {
                let Some(ip) = at::<Ipv4, Self>(self, NETWORK) else { return false };
                // SAFETY: `at` proved the header lies inside the packet.
                let (version_len, proto) = unsafe { ((*ip).version_len, (*ip).proto) };
                if version_len != 0x45 {
                    return false;
                }
                (proto, NETWORK + 20)
            }
            IPV6 => {
                let Some(ip) = at::<Ipv6, Self>(self, NETWORK) else { return false };
                // SAFETY: as above.
                (unsafe { (*ip).next }, NETWORK + 40)
            }
            _ => return false,
        };
        match proto {
            proto::TCP => at::<[u8; 20], Self>(self, transport).is_some(),
            proto::UDP => at::<[u8; 8], Self>(self, transport).is_some(),
            _ => false,
        }
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn data(self) -> usize {
        // SAFETY: the kernel hands a valid context to the program.
        unsafe { (*self.0).data as usize }
    }

    #[inline(always)]
    fn data_end(self) -> usize {
        // SAFETY: as above.
        unsafe { (*self.0).data_end as usize }
    }

    #[inline(always)]
    fn length(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    fn ifindex(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).ifindex }
    }

    #[inline(always)]
    fn pull(self) {
        let len = self.length();
        let linear = self.data_end() - self.data();
        if linear < LINEAR as usize && linear < len as usize && !self.holds_headers() {
            // SAFETY: a valid context. A failure leaves the packet short, which parsing refuses.
            unsafe { bpf_skb_pull_data(self.0, if len < LINEAR { len } else { LINEAR }) };
        }
    }

    #[inline(always)]
    fn load<T: Copy>(self, offset: u32, to: &mut T) -> bool {
        // SAFETY: the helper writes exactly `size_of::<T>()` bytes or fails; `T` is plain bytes.
        unsafe { bpf_skb_load_bytes(self.0.cast(), offset, from_mut(to).cast(), size_of::<T>() as u32) == 0 }
    }

    #[inline(always)]
    fn fragment<F: Family>(self, flow: &mut Flow) -> Step<()> {
        fragment::read::<F>(self, flow)
    }
}

impl Packet for Xdp {
    #[inline(always)]
    fn data(self) -> usize {
        // SAFETY: the kernel hands a valid context to the program.
        unsafe { (*self.0).data as usize }
    }

    #[inline(always)]
    fn data_end(self) -> usize {
        // SAFETY: as above.
        unsafe { (*self.0).data_end as usize }
    }

    #[inline(always)]
    fn length(self) -> u32 {
        difference(self.data_end(), self.data()) as u32
    }

    #[inline(always)]
    fn ifindex(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).ingress_ifindex }
    }

    /// Frames without fragments are linear already.
    #[inline(always)]
    fn pull(self) {}

    #[inline(always)]
    fn load<T: Copy>(self, offset: u32, to: &mut T) -> bool {
        // SAFETY: the helper writes exactly `size_of::<T>()` bytes or fails; `T` is plain bytes.
        unsafe { bpf_xdp_load_bytes(self.0, offset, from_mut(to).cast(), size_of::<T>() as u32) == 0 }
    }

    /// All of a datagram's fragments go the same way, which is the stack's.
    #[inline(always)]
    fn fragment<F: Family>(self, _flow: &mut Flow) -> Step<()> {
        Err(cause!(FRAGMENT_UNSUPPORTED))
    }
}

/// The distance between two pointers into a packet: a number, which a compiler may cut to 32 bits and keep
/// on the stack, where the verifier wants pointers whole.
#[inline(always)]
fn difference(end: usize, start: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut distance = end;
        // SAFETY: one arithmetic instruction on registers.
        unsafe {
            core::arch::asm!("{0} -= {1}", inout(reg) distance, in(reg) start, options(pure, nomem, nostack));
        }
        distance
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        end - start
    }
}

/// Zero, in a way that no compiler sees: it would write many fields of it by a call, which takes its share of
/// the stack.
#[inline(always)]
pub fn zero() -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let zero: u64;
        // SAFETY: one arithmetic instruction on one register.
        unsafe {
            core::arch::asm!("{0} = 0", out(reg) zero, options(pure, nomem, nostack));
        }
        zero as u32
    }
    #[cfg(not(target_arch = "bpf"))]
    0
}

/// Largest offset that [`bounded`] gives.
pub const BOUND: u32 = 511;

/// An offset cut to [`BOUND`], in a way that no compiler removes: it may know the offset's range from
/// another function, the verifier does not.
#[inline(always)]
pub fn bounded(offset: u32) -> usize {
    let mut offset = offset as u64;
    #[cfg(target_arch = "bpf")]
    // SAFETY: one arithmetic instruction on one register.
    unsafe {
        core::arch::asm!("{0} &= 511", inout(reg) offset, options(pure, nomem, nostack));
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        offset &= BOUND as u64;
    }
    offset as usize
}

/// `T` inside the directly readable part; `None` if the packet ends before.
#[inline(always)]
pub fn at<T, P: Packet>(packet: P, offset: usize) -> Option<*mut T> {
    let start = packet.data() + offset;
    if start + size_of::<T>() > packet.data_end() {
        return None;
    }
    Some(start as *mut T)
}
