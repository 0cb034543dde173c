//! Addresses, ports and hardware addresses as they stand in map keys.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IP address in network byte order; IPv4 as `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2).
///
/// Four words rather than sixteen bytes: the verifier and the JIT copy it in four loads.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    IntoBytes,
    FromBytes,
    Immutable,
    KnownLayout,
)]
pub struct Address {
    /// The address as four words, each holding its four bytes in memory (network) order.
    pub words: [u32; 4],
}

const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Address {
    /// `::`, used in rows for "none".
    pub const NONE: Self = Self { words: [0; 4] };

    /// An IPv4 address from its word in memory (network) order, as it stands in a packet header.
    #[inline(always)]
    pub const fn v4(word: u32) -> Self {
        Self { words: [0, 0, MAPPED, word] }
    }

    /// An IPv6 address from its sixteen bytes in network order.
    #[inline(always)]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        let b = bytes;
        Self {
            words: [
                u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
                u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
                u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
                u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
            ],
        }
    }

    /// Whether this is an IPv4-mapped address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == MAPPED
    }

    /// Whether this is `::`.
    #[inline(always)]
    pub const fn is_none(&self) -> bool {
        (self.words[0] | self.words[1] | self.words[2] | self.words[3]) == 0
    }

    /// The IPv4 word in memory order; meaningful only if [`Self::is_v4`].
    #[inline(always)]
    pub const fn v4_word(&self) -> u32 {
        self.words[3]
    }

    /// The sixteen bytes in network order.
    pub const fn bytes(&self) -> [u8; 16] {
        let [a, b, c, d] = self.words;
        let (a, b, c, d) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes(), d.to_ne_bytes());
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(addr: core::net::IpAddr) -> Self {
        match addr {
            core::net::IpAddr::V4(v4) => Self::v4(u32::from_ne_bytes(v4.octets())),
            core::net::IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(addr: Address) -> Self {
        if addr.is_v4() {
            core::net::Ipv4Addr::from(addr.words[3].to_ne_bytes()).into()
        } else {
            core::net::Ipv6Addr::from(addr.bytes()).into()
        }
    }
}

/// A 16-bit number in network byte order (a port, or an ICMP type or identifier in its place).
#[repr(transparent)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    IntoBytes,
    FromBytes,
    Immutable,
    KnownLayout,
)]
pub struct Be16(pub u16);

impl Be16 {
    /// From host order.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// In host order.
    #[inline(always)]
    pub const fn host(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// An Ethernet hardware address.
#[repr(transparent)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    IntoBytes,
    FromBytes,
    Immutable,
    KnownLayout,
)]
pub struct Mac(pub [u8; 6]);

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in ["10.1.2.3", "0.0.0.0", "fd00::1:2", "::", "255.255.255.255"] {
            let ip: IpAddr = text.parse().unwrap();
            let seen: IpAddr = Address::from(ip).into();
            assert_eq!(seen, ip, "{text}");
        }
        assert!(Address::from("10.0.0.1".parse::<IpAddr>().unwrap()).is_v4());
        assert_eq!(
            Address::from("10.0.0.1".parse::<IpAddr>().unwrap()).bytes()[10..],
            [255, 255, 10, 0, 0, 1]
        );
    }
}
