//! Numbers the kernel holds for us already: who has which. Read from rows seen, never remembered:
//! dropping a book and adopting it again from the kernel changes nothing.

use crate::state::{BackendId, Digest, IdentityId, ListId, PolicyId, Protocol, RevNatId, State};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Numbers in use and what they stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdBook {
    /// Identities this node numbered: of its own endpoints, and of prefixes.
    pub identities: BTreeMap<IdentityId, Digest>,
    /// Policies.
    pub policies: BTreeMap<PolicyId, Digest>,
    /// Backends, by what makes them.
    pub backends: BTreeMap<BackendId, (IpAddr, u16, Protocol)>,
    /// Ways back, by the frontend's address and port.
    pub rev_nats: BTreeMap<RevNatId, (IpAddr, u16)>,
    /// Lists of backends, by slot.
    pub lists: BTreeMap<ListId, BTreeMap<u32, BackendId>>,
}

impl IdBook {
    /// The numbers that stand in these rows.
    pub fn adopt(state: &State) -> Self {
        let mut lists: BTreeMap<ListId, BTreeMap<u32, BackendId>> = BTreeMap::new();
        for (key, entry) in state.slots.iter() {
            lists.entry(key.list).or_default().insert(key.slot, entry.row);
        }
        Self {
            identities: state.identity_digests.iter().map(|(id, entry)| (*id, entry.row)).collect(),
            policies: state.policy_digests.iter().map(|(id, entry)| (*id, entry.row)).collect(),
            backends: state
                .backends
                .iter()
                .map(|(id, entry)| (*id, (entry.row.addr, entry.row.port, entry.row.proto)))
                .collect(),
            rev_nats: state
                .rev_nats
                .iter()
                .map(|(id, entry)| (*id, (entry.row.addr, entry.row.port)))
                .collect(),
            lists,
        }
    }
}
