//! Direct server return over Geneve: how a node tells a backend's node which frontend a packet was sent to, in an option
//! of the tunnel's header (RFC 8926, section 3.5). The layout is Cilium's: class 0x014b, type 1, address and port in
//! network byte order, two bytes of zero.

use crate::{Address, Be16};

/// An option for an IPv4 frontend, as it stands in the header.
pub type OptionV4 = [u32; 3];
/// An option for an IPv6 frontend, as it stands in the header.
pub type OptionV6 = [u32; 6];

/// Class, type (critical: who does not know it drops the packet) and words that follow.
const HEADER_V4: u32 = u32::from_ne_bytes([0x01, 0x4b, 0x80 | 1, 2]);
const HEADER_V6: u32 = u32::from_ne_bytes([0x01, 0x4b, 0x80 | 1, 5]);

const fn port_word(port: Be16) -> u32 {
    let [a, b] = port.0.to_ne_bytes();
    u32::from_ne_bytes([a, b, 0, 0])
}

const fn word_port(word: u32) -> Be16 {
    let [a, b, _, _] = word.to_ne_bytes();
    Be16(u16::from_ne_bytes([a, b]))
}

/// The option that tells of an IPv4 frontend.
#[inline(always)]
pub const fn option_v4(addr: &Address, port: Be16) -> OptionV4 {
    [HEADER_V4, addr.v4_word(), port_word(port)]
}

/// The option that tells of an IPv6 frontend.
#[inline(always)]
pub const fn option_v6(addr: &Address, port: Be16) -> OptionV6 {
    let [a, b, c, d] = addr.words;
    [HEADER_V6, a, b, c, d, port_word(port)]
}

/// The frontend that options tell of, if the first is such an option. What they are shorter is zeroes.
#[inline(always)]
pub const fn frontend(options: &OptionV6) -> Option<(Address, Be16)> {
    let [header, a, b, c, d, e] = *options;
    match header {
        HEADER_V4 => Some((Address::v4(a), word_port(b))),
        HEADER_V6 => {
            let addr = Address { words: [a, b, c, d] };
            // It would be taken for an IPv4 one.
            if addr.is_v4() { None } else { Some((addr, word_port(e))) }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes as _;

    #[test]
    fn options_are_upstreams_bytes() {
        let addr = Address::v4(u32::from_ne_bytes([10, 0, 0, 1]));
        let option = option_v4(&addr, Be16::new(80));
        assert_eq!(option.as_bytes(), [0x01, 0x4b, 0x81, 2, 10, 0, 0, 1, 0, 80, 0, 0]);
        let [a, b, c] = option;
        assert_eq!(frontend(&[a, b, c, 0, 0, 0]), Some((addr, Be16::new(80))));
        let addr = Address::v6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        let option = option_v6(&addr, Be16::new(80));
        let bytes = [1, 0x4b, 0x81, 5, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 80, 0, 0];
        assert_eq!(option.as_bytes(), bytes);
        assert_eq!(frontend(&option), Some((addr, Be16::new(80))));
    }

    #[test]
    fn other_options_tell_nothing() {
        assert_eq!(frontend(&[0; 6]), None);
        let addr = Address::v6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        let [header, a, b, c, d, port] = option_v6(&addr, Be16::new(80));
        for wrong in [[1, 0x4c, 0x81, 5], [1, 0x4b, 1, 5], [1, 0x4b, 0x82, 5], [1, 0x4b, 0x81, 6]] {
            assert_eq!(frontend(&[u32::from_ne_bytes(wrong), a, b, c, d, port]), None, "{wrong:?}");
        }
        let mapped = Address::v4(7).words;
        assert_eq!(frontend(&[header, mapped[0], mapped[1], mapped[2], mapped[3], port]), None);
    }
}
