//! Facts of the host that are not ours: devices and their addresses.

use crate::state::{LinkName, Mac};
use ipnet::IpNet;

/// A device of the host that carries traffic of the cluster (never one of ours).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostDevice {
    /// Its name.
    pub name: LinkName,
    /// Its hardware address; `None`: layer 3 device.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Global addresses, in the kernel's order.
    pub addresses: Vec<IpNet>,
    /// A default route leaves through it.
    pub default_route: bool,
}

/// What the host is, read at the beginning of each pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Candidate devices: all with a global address, but loopback and ours.
    pub devices: Vec<HostDevice>,
    /// Digest of the embedded BPF object (hex), part of the name of a program set.
    pub object_digest: String,
    /// The `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}
