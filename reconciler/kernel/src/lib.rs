//! Observe and apply on this host. Thin: every decision was made by the engine.
//!
//! [`Kernel`] implements [`cilium_engine::driver::Driver`] for every kind: BPF maps, programs and
//! attachments in [`bpf`], interfaces, addresses, routes and sysctls in [`net`], files in [`mod@file`].

pub mod bpf;
pub mod file;
pub mod net;

use std::path::PathBuf;

/// Where things are, from the config.
#[derive(Clone, Debug)]
pub struct KernelPaths {
    /// `paths.bpf_dir`: pins.
    pub bpf_dir: PathBuf,
    /// Directory where this agent publishes its objects, if any.
    pub publish_dir: Option<PathBuf>,
    /// `paths.cgroup_root`: the cgroup that programs of sockets are attached to; none: the first mount's root.
    pub cgroup_root: Option<PathBuf>,
    /// CNI configuration directory, if one is written.
    pub cni_conf_dir: Option<PathBuf>,
    /// This node's name: recognises its published files.
    pub node_name: String,
}

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// TCX where the kernel has it, else clsact.
    Auto,
    /// TCX only.
    Tcx,
    /// clsact only.
    Clsact,
}

/// The host's drivers. One per process; not shared between threads.
pub struct Kernel {
    /// Where things are.
    pub paths: KernelPaths,
    /// BPF.
    pub bpf: bpf::Bpf,
    /// Netlink and sysctls.
    pub net: net::Net,
}

impl Kernel {
    /// Opens what is needed to read and write; changes nothing.
    ///
    /// # Errors
    /// No netlink socket, or `bpf_dir` is not on a mounted bpffs.
    pub fn open(paths: KernelPaths, attach: AttachMode) -> Result<Self, cilium_engine::driver::DriverError> {
        let bpf = bpf::Bpf::open(&paths.bpf_dir, attach)?.with_cgroup(paths.cgroup_root.clone());
        let net = net::Net::open()?;
        Ok(Self { paths, bpf, net })
    }
}
