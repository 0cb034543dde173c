//! Direct server return: how a node tells a backend's node which frontend a packet was sent to. The layouts are
//! Cilium's, byte for byte as little-endian machines write them.

use crate::{Address, Be16};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// IPv4 option (RFC 791 §3.1), first behind the header's fixed part. Port and address stand in it with their
/// bytes reversed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub struct OptionV4 {
    /// [`OPTION_V4`].
    pub kind: u8,
    /// Its size.
    pub size: u8,
    /// The frontend's port, reversed.
    pub port: u16,
    /// The frontend's address, reversed.
    pub addr: u32,
}

/// IPv6 Destination Options header (RFC 8200 §4.6), first behind the fixed header, with one option.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
pub struct OptionV6 {
    /// The next header.
    pub next: u8,
    /// Its size in units of eight bytes, less one.
    pub units: u8,
    /// [`OPTION_V6`].
    pub kind: u8,
    /// Bytes that follow.
    pub size: u8,
    /// The frontend's address.
    pub addr: [u32; 4],
    /// The frontend's port.
    pub port: Be16,
    /// Zero.
    pub padding: u16,
}

/// Type of the IPv4 option: copied into fragments, class control, number 26.
pub const OPTION_V4: u8 = 0x9a;
/// Type of the IPv6 option: who does not know it skips it, and it does not change on the way.
pub const OPTION_V6: u8 = 0x1b;
/// Number of the Destination Options header.
pub const DESTINATION_OPTIONS: u8 = 60;

impl OptionV4 {
    /// The option that tells of a frontend.
    #[inline(always)]
    pub const fn new(addr: &Address, port: Be16) -> Self {
        let size = size_of::<Self>() as u8;
        Self { kind: OPTION_V4, size, port: port.0.swap_bytes(), addr: addr.v4_word().swap_bytes() }
    }

    /// The frontend, if this is such an option.
    #[inline(always)]
    pub const fn frontend(&self) -> Option<(Address, Be16)> {
        if self.kind != OPTION_V4 || self.size != size_of::<Self>() as u8 {
            return None;
        }
        Some((Address::v4(self.addr.swap_bytes()), Be16(self.port.swap_bytes())))
    }
}

impl OptionV6 {
    /// The header that tells of a frontend, before a header of number `next`.
    #[inline(always)]
    pub const fn new(next: u8, addr: &Address, port: Be16) -> Self {
        let size = size_of::<Self>() as u8;
        let [a, b, c, d] = addr.words;
        Self {
            next,
            units: size / 8 - 1,
            kind: OPTION_V6,
            size: size - 4,
            addr: [a, b, c, d],
            port,
            padding: 0,
        }
    }

    /// The frontend, if this is such a header.
    #[inline(always)]
    pub const fn frontend(&self) -> Option<(Address, Be16)> {
        let size = size_of::<Self>() as u8;
        if self.units != size / 8 - 1 || self.kind != OPTION_V6 || self.size != size - 4 {
            return None;
        }
        let [a, b, c, d] = self.addr;
        Some((Address { words: [a, b, c, d] }, self.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_upstreams_bytes() {
        let addr = Address::v4(u32::from_ne_bytes([10, 0, 0, 1]));
        let option = OptionV4::new(&addr, Be16::new(80));
        assert_eq!(option.as_bytes(), [0x9a, 8, 80, 0, 1, 0, 0, 10]);
        assert_eq!(option.frontend(), Some((addr, Be16::new(80))));
        let addr = Address::v6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        let header = OptionV6::new(6, &addr, Be16::new(80));
        let bytes = [6, 2, 0x1b, 20, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 80, 0, 0];
        assert_eq!(header.as_bytes(), bytes);
        assert_eq!(header.frontend(), Some((addr, Be16::new(80))));
    }

    #[test]
    fn other_options_tell_nothing() {
        let addr = Address::v4(u32::from_ne_bytes([10, 0, 0, 1]));
        let option = OptionV4::new(&addr, Be16::new(80));
        assert_eq!(OptionV4 { kind: 0x94, ..option }.frontend(), None);
        assert_eq!(OptionV4 { size: 4, ..option }.frontend(), None);
        let header = OptionV6::new(6, &Address::NONE, Be16::new(80));
        assert_eq!(OptionV6 { units: 3, ..header }.frontend(), None);
        assert_eq!(OptionV6 { kind: 1, ..header }.frontend(), None);
        assert_eq!(OptionV6 { size: 18, ..header }.frontend(), None);
    }
}
