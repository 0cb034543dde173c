//! Spans of time as users write them: `"250ms"`, `"30s"`, `"2h13m20s"`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A span of time with millisecond precision.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("x-form" = "duration"))]
pub struct Span {
    millis: u64,
}

/// A text that is no span of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a duration: write whole numbers with units d, h, m, s, ms, such as \"30s\" or \"1m30s\""
)]
pub struct NotASpan(String);

/// Units, largest first, in milliseconds. `ms` stands before `m` and `s` for the parser's sake.
const UNITS: [(&str, u64); 5] = [("ms", 1), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
/// The longest text worth reading.
const LONGEST: usize = 64;

impl Span {
    /// So many seconds.
    pub const fn from_secs(secs: u32) -> Self {
        Self { millis: secs as u64 * 1_000 }
    }

    /// So many milliseconds.
    pub const fn from_millis(millis: u32) -> Self {
        Self { millis: millis as u64 }
    }

    /// As the standard library's type.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.millis)
    }

    /// Whole seconds, rounded down; at most `u32::MAX`.
    pub fn seconds(self) -> u32 {
        u32::try_from(self.millis / 1_000).unwrap_or(u32::MAX)
    }

    /// Whether this is a whole number of `step`s.
    pub fn is_multiple_of(self, step: Self) -> bool {
        self.millis.is_multiple_of(step.millis)
    }
}

impl FromStr for Span {
    type Err = NotASpan;

    fn from_str(text: &str) -> Result<Self, NotASpan> {
        let wrong = || NotASpan(text.chars().take(LONGEST).collect());
        if text.is_empty() || text.len() > LONGEST {
            return Err(wrong());
        }
        let mut rest = text;
        let mut millis: u64 = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            let number: u64 = number.parse().map_err(|_| wrong())?;
            let (unit, size) =
                UNITS.into_iter().find(|(unit, _)| tail.starts_with(unit)).ok_or_else(wrong)?;
            rest = &tail[unit.len()..];
            millis = number.checked_mul(size).and_then(|part| millis.checked_add(part)).ok_or_else(wrong)?;
        }
        Ok(Self { millis })
    }
}

impl TryFrom<String> for Span {
    type Error = NotASpan;

    fn try_from(text: String) -> Result<Self, NotASpan> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.duration()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.millis == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.millis;
        for (unit, size) in [UNITS[1], UNITS[2], UNITS[3], UNITS[4], UNITS[0]] {
            if rest >= size {
                write!(f, "{}{unit}", rest / size)?;
                rest %= size;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spans_are_read_as_written() {
        for (text, millis) in [
            ("0s", 0),
            ("250ms", 250),
            ("30s", 30_000),
            ("2h13m20s", 8_000_000),
            ("1d", 86_400_000),
            ("90s", 90_000),
        ] {
            assert_eq!(text.parse::<Span>().unwrap().millis, millis, "{text}");
        }
    }

    #[test]
    fn what_is_no_span_is_refused() {
        let long = "1s".repeat(40);
        for text in ["", "30", "s", "-1s", "1.5s", "1w", "1s ", " 1s", "1h-", "99999999999999999999d", &long]
        {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn shown_in_the_largest_units() {
        assert_eq!(Span::from_secs(8_000).to_string(), "2h13m20s");
        assert_eq!(Span::from_millis(1_050).to_string(), "1s50ms");
    }

    proptest! {
        #[test]
        fn shown_spans_read_back(millis in any::<u64>()) {
            let span = Span { millis };
            prop_assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,40}") {
            let _ = text.parse::<Span>();
        }
    }
}
