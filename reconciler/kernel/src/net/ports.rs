//! Lists of ports as the kernel writes them: `80,443,30000-32767`.

#![forbid(unsafe_code)]

use std::fmt;
use std::ops::RangeInclusive;

/// A set of ports: ranges in order, with at least one port between each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ports(Vec<RangeInclusive<u16>>);

impl Ports {
    /// From text; `None` if it is no such list.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut ranges = Vec::new();
        for part in text.split(',').map(str::trim).filter(|_| !text.trim().is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
            if first > last {
                return None;
            }
            ranges.push(first..=last);
        }
        Some(Self::of(ranges))
    }

    fn of(mut ranges: Vec<RangeInclusive<u16>>) -> Self {
        ranges.sort_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u16>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if *range.start() <= last.end().saturating_add(1) => {
                    *last = *last.start()..=*range.end().max(last.end());
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }

    /// Adds the ports of another set.
    pub(super) fn add(&mut self, other: &Self) {
        *self = Self::of(self.0.iter().chain(&other.0).cloned().collect());
    }

    /// Whether all ports of another set are in this one.
    pub(super) fn holds(&self, other: &Self) -> bool {
        let within = |range: &RangeInclusive<u16>| {
            self.0.iter().any(|own| own.contains(range.start()) && own.contains(range.end()))
        };
        other.0.iter().all(within)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, range) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str(",")?;
            }
            match (range.start(), range.end()) {
                (first, last) if first == last => write!(f, "{first}")?,
                (first, last) => write!(f, "{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Ports;

    #[test]
    fn lists_are_read_and_written() {
        for (text, again) in [
            ("", Some("")),
            ("80", Some("80")),
            ("80, 22", Some("22,80")),
            ("1-3,4,6-9,7-20", Some("1-4,6-20")),
            ("65535,0-65534", Some("0-65535")),
            ("9-1", None),
            ("65536", None),
            ("1,,2", None),
            ("http", None),
        ] {
            assert_eq!(Ports::parse(text).map(|ports| ports.to_string()).as_deref(), again, "{text:?}");
        }
    }

    #[test]
    fn a_set_holds_what_was_added() {
        let ports = |text| Ports::parse(text).expect("a list");
        let mut all = ports("5000,31000-31010");
        let ours = ports("30000-32767");
        assert!(!all.holds(&ours));
        all.add(&ours);
        assert!(all.holds(&ours) && all.holds(&ports("5000")) && all.holds(&ports("")));
        assert!(!all.holds(&ports("5001")) && !all.holds(&ports("29999-30001")));
        assert_eq!(all.to_string(), "5000,30000-32767");
    }
}
