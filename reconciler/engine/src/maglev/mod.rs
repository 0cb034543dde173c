//! Maglev tables: which backend a flow's hash leads to. As published (Eisenbud et al., "Maglev: A Fast and
//! Reliable Software Network Load Balancer", NSDI 2016, §3.4): each backend has a permutation of all slots,
//! made of an offset and a skip, and the backends take turns at claiming their next free slot.
//!
//! A table is made of the backends' addresses, ports and protocols, their weights, the size and the seed;
//! of nothing else. Nodes that agree on these agree on the table, whatever numbers they gave the backends.
//!
//! The two hashes are halves of a SHA-256: keyed by the seed, and nobody who chooses addresses can choose
//! slots. It costs one block per backend, less than a tenth of the filling.

mod seed;
#[cfg(test)]
mod tests;
mod turns;

pub use seed::{BadSeed, Seed};

use crate::state::Protocol;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::net::IpAddr;
use turns::Turns;

/// A backend as a table knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Address.
    pub addr: IpAddr,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub proto: Protocol,
    /// Its share of the slots, in proportion to the others'; 0: none.
    pub weight: u16,
}

/// How many slots tables have: one of a list of primes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct TableSize(u32);

impl TableSize {
    /// All of them. With at least a hundred slots per backend, no backend's share is off by more than 1 %.
    pub const ALL: [Self; 10] = [
        Self(251),
        Self(509),
        Self(1021),
        Self(2039),
        Self(4093),
        Self(8191),
        Self(16_381),
        Self(32_749),
        Self(65_521),
        Self(131_071),
    ];

    /// Slots.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Default for TableSize {
    fn default() -> Self {
        Self(16_381)
    }
}

impl From<TableSize> for u32 {
    fn from(size: TableSize) -> Self {
        size.0
    }
}

/// The number is none of the sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a Maglev table has 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521 or 131071 slots, not {0}")]
pub struct BadSize(u32);

impl TryFrom<u32> for TableSize {
    type Error = BadSize;

    fn try_from(slots: u32) -> Result<Self, BadSize> {
        Self::ALL.into_iter().find(|size| size.0 == slots).ok_or(BadSize(slots))
    }
}

impl fmt::Display for TableSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// No backend has claimed the slot.
const FREE: u32 = u32::MAX;

/// For each slot the place in `members` of the backend that has it. Empty if no member has a weight. The
/// order of members does not matter; of one named twice, the first counts that the order of weights puts last.
///
/// Members beyond the number of slots (the last in the order of address, port and protocol) have none.
pub fn table(members: &[Member], size: TableSize, seed: &Seed) -> Vec<u32> {
    let mut order: Vec<(Member, u32)> =
        members.iter().copied().zip(0..FREE).filter(|(member, _)| member.weight > 0).collect();
    order.sort_unstable_by(|a, b| key(&a.0).cmp(&key(&b.0)).then(b.0.weight.cmp(&a.0.weight)));
    order.dedup_by(|later, first| key(&later.0) == key(&first.0));
    if order.is_empty() {
        return Vec::new();
    }
    let mut walks: Vec<Walk> = order.iter().map(|(member, _)| Walk::new(member, size, seed)).collect();
    let mut slots = vec![FREE; size.0 as usize];
    let turns = Turns::new(order.iter().map(|(member, _)| member.weight));
    // One slot is claimed per turn: as many turns as slots fill the table.
    for (turn, _) in turns.zip(0..size.0) {
        let (walk, (_, place)) = (&mut walks[turn], order[turn]);
        let slot = loop {
            let slot = &mut slots[walk.next() as usize];
            if *slot == FREE {
                break slot;
            }
        };
        *slot = place;
    }
    slots
}

/// What tells members apart.
fn key(member: &Member) -> (IpAddr, u16, Protocol) {
    (member.addr, member.port, member.proto)
}

/// A backend's walk through its permutation of the slots.
struct Walk {
    at: u32,
    skip: u32,
    size: u32,
}

impl Walk {
    fn new(member: &Member, size: TableSize, seed: &Seed) -> Self {
        let addr = match member.addr {
            IpAddr::V4(addr) => addr.to_ipv6_mapped(),
            IpAddr::V6(addr) => addr,
        };
        let mut sha = Sha256::new();
        sha.update(seed.0);
        sha.update(addr.octets());
        sha.update(member.port.to_be_bytes());
        sha.update([member.proto.0]);
        let hash: [u8; 32] = sha.finalize().into();
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = hash;
        let within = |bytes, limit: u32| {
            u32::try_from(u64::from_be_bytes(bytes) % u64::from(limit))
                .expect("a remainder is below its divisor")
        };
        Self {
            at: within([a, b, c, d, e, f, g, h], size.0),
            // Never 0, and the size is a prime: the walk comes to every slot.
            skip: within([i, j, k, l, m, n, o, p], size.0 - 1) + 1,
            size: size.0,
        }
    }

    /// The slot it is at; it goes on to the next.
    fn next(&mut self) -> u32 {
        let at = self.at;
        let next = at + self.skip;
        self.at = if next >= self.size { next - self.size } else { next };
        at
    }
}
