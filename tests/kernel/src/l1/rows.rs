//! Rows that programs write, read and written from outside.

use super::lab::{Lab, ROWS};
use super::model::Rows;
use super::sys;
use cilium_abi::{
    ct::{CtKey, CtRow, KIND_SERVICE},
    fragment::{FragmentKey, FragmentRow},
    lb::{AffinityKey, AffinityRow},
    maps,
    snat::{SnatKey, SnatRow},
};
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

impl Rows for Lab {
    fn connection(&self, key: &CtKey) -> Option<CtRow> {
        sys::lookup(self.ct_map(key.proto), key)
    }

    fn translation(&self, key: &SnatKey) -> Option<SnatRow> {
        sys::lookup(self.map(maps::SNAT.name), key)
    }
}

impl Lab {
    fn ct_map(&self, proto: u8) -> BorrowedFd<'_> {
        self.map(if proto == cilium_abi::proto::TCP { maps::CT_TCP.name } else { maps::CT_ANY.name })
    }

    /// Writes an entry of conntrack.
    pub fn put_connection(&self, key: &CtKey, row: &CtRow) {
        sys::update(self.ct_map(key.proto), key, row).expect("an entry can be written");
    }

    /// Removes an entry of conntrack.
    pub fn remove_connection(&self, key: &CtKey) {
        sys::delete(self.ct_map(key.proto), key).expect("an entry can be removed");
    }

    /// Lets the second pass for which drivers rely on what they noted of connections.
    pub fn lapse(&self) {
        for (key, row) in self.connections() {
            if key.kind == KIND_SERVICE && row.reported_forward != 0 {
                self.put_connection(&key, &CtRow { reported_forward: 0, ..row });
            }
        }
    }

    /// All of conntrack.
    pub fn connections(&self) -> BTreeMap<CtKey, CtRow> {
        let read = |name| sys::dump(self.map(name), ROWS as usize).expect("the map can be read");
        read(maps::CT_TCP.name).into_iter().chain(read(maps::CT_ANY.name)).collect()
    }

    /// All translations.
    pub fn translations(&self) -> BTreeMap<SnatKey, SnatRow> {
        sys::dump(self.map(maps::SNAT.name), ROWS as usize)
            .expect("the map can be read")
            .into_iter()
            .collect()
    }

    /// Writes a translation.
    pub fn put_translation(&self, key: &SnatKey, row: &SnatRow) {
        sys::update(self.map(maps::SNAT.name), key, row).expect("a row can be written");
    }

    /// Removes a translation.
    pub fn remove_translation(&self, key: &SnatKey) {
        sys::delete(self.map(maps::SNAT.name), key).expect("a row can be removed");
    }

    /// Which backends clients keep.
    pub fn affinities(&self) -> BTreeMap<AffinityKey, AffinityRow> {
        sys::dump(self.map(maps::AFFINITY.name), ROWS as usize)
            .expect("the map can be read")
            .into_iter()
            .collect()
    }

    /// Writes which backend a client keeps.
    pub fn put_affinity(&self, key: &AffinityKey, row: &AffinityRow) {
        sys::update(self.map(maps::AFFINITY.name), key, row).expect("a row can be written");
    }

    /// Forgets which backend a client keeps.
    pub fn remove_affinity(&self, key: &AffinityKey) {
        sys::delete(self.map(maps::AFFINITY.name), key).expect("a row can be removed");
    }

    /// What first fragments said.
    pub fn fragments(&self) -> BTreeMap<FragmentKey, FragmentRow> {
        sys::dump(self.map(maps::FRAGMENTS.name), ROWS as usize)
            .expect("the map can be read")
            .into_iter()
            .collect()
    }

    /// Writes what a first fragment said.
    pub fn put_fragment(&self, key: &FragmentKey, row: &FragmentRow) {
        sys::update(self.map(maps::FRAGMENTS.name), key, row).expect("a row can be written");
    }

    /// Forgets a first fragment.
    pub fn remove_fragment(&self, key: &FragmentKey) {
        sys::delete(self.map(maps::FRAGMENTS.name), key).expect("a row can be removed");
    }
}
