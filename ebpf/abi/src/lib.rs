//! What the eBPF programs and user space agree on: map keys and rows, map shapes, event layout,
//! drop reasons and reserved numbers. The only place where a layout is written.
//!
//! Every key and row derives [`zerocopy::IntoBytes`], which refuses padding at compile time, so two
//! equal keys are always equal bytes. Addresses are 16 bytes in network order, IPv4 as
//! `::ffff:a.b.c.d` ([`Address`]): one map per concern serves both families. Ports are big endian
//! ([`Be16`]); everything else is in host order unless its name says otherwise.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod address;
pub mod ct;
pub mod drop;
pub mod dsr;
pub mod endpoint;
pub mod event;
pub mod fragment;
pub mod geneve;
pub mod identity;
pub mod ipcache;
pub mod lb;
pub mod maps;
pub mod metrics;
pub mod node;
pub mod policy;
pub mod snat;

pub use address::{Address, Be16, Mac};

/// IP protocol numbers the datapath treats by name (IANA protocol-numbers registry).
pub mod proto {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}
