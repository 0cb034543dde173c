//! Facts of the host that are not ours: devices and their addresses, where sockets are.

use crate::state::{LinkName, Mac};
use ipnet::IpNet;
use std::path::PathBuf;

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
    /// It is one end of a veth pair: frames that its driver sends back arrive only if a program runs in the driver
    /// of the other end, which nobody here can see.
    pub is_veth: bool,
}

/// Where programs of sockets can be attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cgroup {
    /// Nobody looked.
    #[default]
    Unknown,
    /// At the cgroup with this directory.
    At(PathBuf),
    /// Nowhere; the reason.
    Missing(String),
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
    /// Where programs of sockets can be attached.
    pub cgroup: Cgroup,
    /// Cookie of the node's own network namespace (`SO_NETNS_COOKIE`); 0: the machine's first.
    pub netns_cookie: u64,
}
