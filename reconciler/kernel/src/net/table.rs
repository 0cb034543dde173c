//! Names and numbers of interfaces, as they were when it was read.

#![forbid(unsafe_code)]

use super::message::SeenLink;
use cilium_engine::state::LinkName;
use std::collections::BTreeMap;

/// Translates between interface names and the kernel's numbers.
#[derive(Clone, Debug, Default)]
pub struct LinkTable {
    numbers: BTreeMap<LinkName, u32>,
    names: BTreeMap<u32, LinkName>,
}

impl LinkTable {
    pub(super) fn of<'a>(links: impl IntoIterator<Item = &'a SeenLink>) -> Self {
        let mut table = Self::default();
        for link in links {
            table.numbers.insert(link.name.clone(), link.index);
            table.names.insert(link.index, link.name.clone());
        }
        table
    }

    /// Number (ifindex) of an interface.
    pub fn index(&self, name: &LinkName) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    /// Name of the interface with this number (ifindex).
    pub fn name(&self, index: u32) -> Option<&LinkName> {
        self.names.get(&index)
    }

    /// All, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&LinkName, u32)> {
        self.numbers.iter().map(|(name, index)| (name, *index))
    }
}
