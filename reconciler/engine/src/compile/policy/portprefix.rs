//! Port ranges as prefixes, the only form the kernel looks up.

/// A port with all bits after the first `len` cleared, and `len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PortPrefix {
    pub(super) port: u16,
    pub(super) len: u8,
}

impl PortPrefix {
    /// The same prefix cut to `len` bits.
    pub(super) fn cut(self, len: u8) -> Self {
        let mask = u16::MAX.checked_shl(16 - u32::from(len)).unwrap_or(0);
        Self { port: self.port & mask, len }
    }
}

/// The fewest prefixes that hold exactly the ports from `first` to `last`, in order; none if there is
/// no such port.
pub(super) fn prefixes(first: u16, last: u16) -> Vec<PortPrefix> {
    let mut out = Vec::new();
    let (mut next, end) = (u32::from(first), u32::from(last));
    while next <= end {
        // The largest block that begins here, and ends no later than the range.
        let aligned = if next == 0 { 16 } else { next.trailing_zeros() };
        let fitting = (end - next + 1).ilog2();
        let bits = aligned.min(fitting);
        out.push(PortPrefix { port: next as u16, len: (16 - bits) as u8 });
        next += 1 << bits;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn holds(prefix: PortPrefix, port: u16) -> bool {
        PortPrefix { port, len: 16 }.cut(prefix.len).port == prefix.port
    }

    #[test]
    fn whole_and_single_ranges_are_one_prefix() {
        assert_eq!(prefixes(0, 65_535), [PortPrefix { port: 0, len: 0 }]);
        assert_eq!(prefixes(443, 443), [PortPrefix { port: 443, len: 16 }]);
        assert_eq!(prefixes(2, 1), []);
        assert_eq!(prefixes(65_535, 65_535), [PortPrefix { port: 65_535, len: 16 }]);
    }

    proptest! {
        #[test]
        fn each_port_of_the_range_is_in_exactly_one_prefix(a: u16, b: u16, near in -2i32..3) {
            let (first, last) = (a.min(b), a.max(b));
            let all = prefixes(first, last);
            prop_assert!(all.len() <= 30);
            for edge in [i32::from(first) + near, i32::from(last) + near, i32::from(a / 2 + b / 2)] {
                if let Ok(port) = u16::try_from(edge) {
                    let count = all.iter().filter(|p| holds(**p, port)).count();
                    prop_assert_eq!(count, usize::from(first <= port && port <= last));
                }
            }
        }
    }
}
