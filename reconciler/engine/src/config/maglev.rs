//! `[load_balancer.maglev]`.

use crate::maglev::{Seed, TableSize};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Maglev tables. Nodes with the same settings choose the same backend for a connection, whichever it comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Maglev {
    /// Places of a table: 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521 or 131071. With a hundred for each
    /// backend their shares differ by one percent at most. All nodes need the same.
    #[schemars(with = "u32", range(min = 251, max = 131071), extend("x-impact" = "reload"))]
    pub table_size: TableSize,
    /// Twelve bytes in base64 that the places of backends are hashed with (`head -c12 /dev/urandom | base64`). All
    /// nodes need the same.
    #[schemars(with = "String", extend("x-impact" = "hitless"))]
    pub hash_seed: Seed,
}

impl Maglev {
    /// From the beginning of a table to the next one's: an empty place keeps them apart.
    pub const fn stride(&self) -> u32 {
        self.table_size.get() + 1
    }
}
