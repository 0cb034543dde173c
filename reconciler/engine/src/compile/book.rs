//! Numbers the kernel holds for us already: who has which. Read from rows seen, never remembered:
//! dropping a book and adopting it again from the kernel changes nothing.

use crate::state::{
    Backend, BackendId, Frontend, IdentityDigest, ListId, MaglevTable, PolicyDigest, RevNat, Slot, SlotKey,
    State, Table,
};

/// Numbers in use and what they stand for: the rows that say so.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IdBook {
    /// Identities this node numbered: of its own endpoints, and of prefixes.
    pub identities: Table<IdentityDigest>,
    /// Policies.
    pub policies: Table<PolicyDigest>,
    /// Backends, by what makes them.
    pub backends: Table<Backend>,
    /// Ways back, by the frontend's address and port.
    pub rev_nats: Table<RevNat>,
    /// Which list a frontend leads to.
    pub frontends: Table<Frontend>,
    /// Lists of backends, by slot.
    pub slots: Table<Slot>,
    /// Maglev tables, by place.
    pub maglev_tables: Table<MaglevTable>,
}

impl IdBook {
    /// The numbers that stand in these rows.
    pub fn adopt(state: &State) -> Self {
        Self {
            identities: state.identity_digests.clone(),
            policies: state.policy_digests.clone(),
            backends: state.backends.clone(),
            rev_nats: state.rev_nats.clone(),
            frontends: state.frontends.clone(),
            slots: state.slots.clone(),
            maglev_tables: state.maglev_tables.clone(),
        }
    }

    /// The backends of a list, by slot.
    pub fn list(&self, list: ListId) -> impl Iterator<Item = (u32, BackendId)> + '_ {
        let (first, last) = (SlotKey { list, slot: 0 }, SlotKey { list, slot: u32::MAX });
        self.slots.range(first..=last).map(|(key, entry)| (key.slot, entry.row))
    }
}
