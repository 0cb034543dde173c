//! Who an address belongs to.

use crate::{
    maps::{ENDPOINT, IPCACHE, IPCACHE_PREFIX},
    node,
    parse::Family,
};
use aya_ebpf::btf_maps::lpm_trie::Key;
use cilium_abi::{
    Address,
    ct::CtRow,
    endpoint::EndpointRow,
    identity,
    ipcache::{FLAG_IN_CLUSTER, IpcacheRow},
};

/// The identity of the prefix around an address, if it is one of this node's own numbers, as a policy's `fromCIDR`
/// makes them.
#[inline(always)]
pub fn of_prefix(addr: &Address) -> Option<u32> {
    prefix(addr).map(|found| found.identity).filter(|number| number & identity::LOCAL_SCOPE != 0)
}

/// An identity that a connection remembers, with the ipcache revision it was found at.
#[derive(Clone, Copy)]
pub struct Memory {
    /// The identity; 0: nothing to remember.
    pub identity: u32,
    /// The revision.
    pub revision: u32,
}

impl Memory {
    /// Nothing to remember.
    pub const NONE: Self = Self { identity: 0, revision: 0 };
}

/// What is known of an address that is not on this node.
#[derive(Clone, Copy)]
pub struct Far {
    /// Its identity.
    pub identity: u32,
    /// The row, unless the identity was remembered or is the world.
    pub row: Option<&'static IpcacheRow>,
    /// What the connection may remember in place of a trie lookup.
    pub memory: Memory,
}

/// The world's identity as family `F` sees it.
#[inline(always)]
pub fn world<F: Family>() -> u32 {
    if F::IS_V6 { node!(world_ipv6) } else { node!(world_ipv4) }
}

/// The endpoint of this node that has the address. The key is a copy on the stack, here and below: what a
/// subprogram is given as an argument is no memory for keys before Linux 6.2.
#[inline(always)]
pub fn local(addr: &Address) -> Option<&'static EndpointRow> {
    // SAFETY: the row is read field by field; user space replaces rows whole.
    unsafe { ENDPOINT.get(*addr) }
}

/// The exact row of an address.
#[inline(always)]
pub fn exact(addr: &Address) -> Option<&'static IpcacheRow> {
    // SAFETY: as above.
    unsafe { IPCACHE.get(*addr) }
}

/// Whether an address is a pod's or a node's, here or elsewhere.
#[inline(always)]
pub fn is_of_cluster(addr: &Address) -> bool {
    exact(addr).is_some_and(|row| row.identity & identity::LOCAL_SCOPE == 0)
}

/// Whether an address is the cluster's, by itself or by a prefix around it.
#[inline(always)]
pub fn is_in_cluster(addr: &Address) -> bool {
    exact(addr).or_else(|| prefix(addr)).is_some_and(|row| row.flags & FLAG_IN_CLUSTER != 0)
}

/// The row of the longest prefix around an address.
#[inline(always)]
pub fn prefix(addr: &Address) -> Option<&'static IpcacheRow> {
    IPCACHE_PREFIX.get(&Key::new(128, *addr))
}

/// Looks an address up: exact, then as the connection remembers it at `revision`, then by prefix, then the
/// world.
#[inline(always)]
pub fn far<F: Family>(addr: &Address, row: Option<&CtRow>, revision: u32) -> Far {
    if let Some(found) = exact(addr) {
        return Far { identity: found.identity, row: Some(found), memory: Memory::NONE };
    }
    if let Some(row) = row
        && row.identity != 0
        && row.revision == revision
    {
        return Far {
            identity: row.identity,
            row: None,
            memory: Memory { identity: row.identity, revision },
        };
    }
    match prefix(addr) {
        // A tunnel is found in the row only, so such an identity is looked up each time.
        Some(found) if !found.tunnel.is_none() => {
            Far { identity: found.identity, row: Some(found), memory: Memory::NONE }
        }
        Some(found) => {
            let memory = Memory { identity: found.identity, revision };
            Far { identity: found.identity, row: Some(found), memory }
        }
        None => {
            let identity = world::<F>();
            Far { identity, row: None, memory: Memory { identity, revision } }
        }
    }
}
