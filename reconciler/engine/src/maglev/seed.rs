//! The seed of tables: twelve bytes, written in base64 (RFC 4648 §4), as upstream writes them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What tables are made with besides backends; the same on all nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Seed(pub [u8; 12]);

/// The text is no seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a Maglev seed is 12 bytes in base64, 16 characters (`head -c12 /dev/urandom | base64`)")]
pub struct BadSeed;

/// Digits of base64 by value.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

impl Default for Seed {
    /// Upstream's default, `JLfvgnHc2kaSUFaI`.
    fn default() -> Self {
        Self([0x24, 0xb7, 0xef, 0x82, 0x71, 0xdc, 0xda, 0x46, 0x92, 0x50, 0x56, 0x88])
    }
}

impl FromStr for Seed {
    type Err = BadSeed;

    fn from_str(text: &str) -> Result<Self, BadSeed> {
        // Twelve bytes are four groups of four digits, without padding.
        let digits: &[u8; 16] = text.as_bytes().try_into().map_err(|_| BadSeed)?;
        let mut seed = [0; 12];
        for (group, bytes) in digits.chunks_exact(4).zip(seed.chunks_exact_mut(3)) {
            let mut bits: u32 = 0;
            for digit in group {
                let value = DIGITS.iter().position(|known| known == digit).ok_or(BadSeed)?;
                bits = bits << 6 | u32::try_from(value).map_err(|_| BadSeed)?;
            }
            let [_, decoded @ ..] = bits.to_be_bytes();
            bytes.copy_from_slice(&decoded);
        }
        Ok(Self(seed))
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for group in self.0.chunks_exact(3) {
            let bits = group.iter().fold(0, |bits: u32, byte| bits << 8 | u32::from(*byte));
            for shift in [18, 12, 6, 0] {
                let digit = DIGITS[(bits >> shift & 63) as usize];
                write!(f, "{}", char::from(digit))?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seed({self})")
    }
}

impl TryFrom<String> for Seed {
    type Error = BadSeed;

    fn try_from(text: String) -> Result<Self, BadSeed> {
        text.parse()
    }
}

impl From<Seed> for String {
    fn from(seed: Seed) -> Self {
        seed.to_string()
    }
}
