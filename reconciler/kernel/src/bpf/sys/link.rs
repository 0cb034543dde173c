//! Programs on network devices and cgroups: links, their replacement, and who runs at a hook.

use super::object::link_by_id;
use super::{Command, ProgFd, address, bpf, bpf_fd, raw};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// `enum bpf_attach_type`, those of network devices in use here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum AttachType {
    Xdp = 37,
    TcxIngress = 46,
    TcxEgress = 47,
}

/// `BPF_F_BEFORE`: without a program to be before, it means first of all.
const BEFORE: u32 = 1 << 3;

#[repr(C)]
#[derive(Clone, Copy, IntoBytes, FromBytes, Immutable)]
struct CreateAttr {
    prog_fd: u32,
    /// Number of an interface, or descriptor of a cgroup.
    target: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    reserved: u32,
    expected_revision: u64,
}

#[repr(C)]
#[derive(Clone, Copy, IntoBytes, FromBytes, Immutable)]
struct UpdateAttr {
    link_fd: u32,
    prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

#[repr(C)]
#[derive(Clone, Copy, IntoBytes, FromBytes, Immutable)]
struct DetachProgAttr {
    target: u32,
    prog_fd: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    reserved: u32,
    expected_revision: u64,
}

#[repr(C)]
#[derive(Clone, Copy, IntoBytes, FromBytes, Immutable)]
struct QueryAttr {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    reserved: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// A program at a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attached {
    pub(crate) prog_id: u32,
    /// 0: attached without a link.
    pub(crate) link_id: u32,
}

/// A link: while this or a pin is there, the program stays.
#[derive(Debug)]
pub(crate) struct Linked(pub(crate) OwnedFd);

impl Linked {
    /// Puts a program before all others at a TCX hook.
    pub(crate) fn tcx_first(prog: &ProgFd, ifindex: u32, hook: AttachType) -> io::Result<Self> {
        Self::create(prog, ifindex, hook, BEFORE)
    }

    /// Puts a program on a device's XDP hook; `flags` are `XDP_FLAGS_` modes.
    pub(crate) fn xdp(prog: &ProgFd, ifindex: u32, flags: u32) -> io::Result<Self> {
        Self::create(prog, ifindex, AttachType::Xdp, flags)
    }

    /// Puts a program on a cgroup, beside others'.
    pub(crate) fn cgroup(prog: &ProgFd, cgroup: &File, hook: u32) -> io::Result<Self> {
        Self::at(prog, raw(cgroup), hook, 0)
    }

    fn create(prog: &ProgFd, ifindex: u32, hook: AttachType, flags: u32) -> io::Result<Self> {
        Self::at(prog, ifindex, hook as u32, flags)
    }

    fn at(prog: &ProgFd, target: u32, hook: u32, flags: u32) -> io::Result<Self> {
        let mut attr = CreateAttr {
            prog_fd: raw(&prog.0),
            target,
            attach_type: hook,
            flags,
            relative: 0,
            reserved: 0,
            expected_revision: 0,
        };
        // SAFETY: no pointers.
        unsafe { bpf_fd(Command::LinkCreate, &mut attr) }.map(Self)
    }

    /// The link with this number.
    pub(crate) fn by_id(id: u32) -> io::Result<Self> {
        link_by_id(id).map(Self)
    }

    /// Lets the link run another program from the next packet on.
    pub(crate) fn replace(&self, prog: &ProgFd) -> io::Result<()> {
        let mut attr = UpdateAttr { link_fd: raw(&self.0), prog_fd: raw(&prog.0), flags: 0, old_prog_fd: 0 };
        // SAFETY: no pointers.
        unsafe { bpf(Command::LinkUpdate, &mut attr) }.map(drop)
    }

    /// Takes the program off, whoever else holds the link.
    pub(crate) fn detach(&self) -> io::Result<()> {
        let mut attr = DetachLinkAttr { link_fd: raw(&self.0) };
        // SAFETY: no pointers.
        unsafe { bpf(Command::LinkDetach, &mut attr) }.map(drop)
    }
}

#[repr(C)]
#[derive(Clone, Copy, IntoBytes, FromBytes, Immutable)]
struct DetachLinkAttr {
    link_fd: u32,
}

impl AttachType {
    /// The programs at this hook, in the order in which they run. `EINVAL`: this kernel has no TCX.
    pub(crate) fn attached(self, ifindex: u32) -> io::Result<Vec<Attached>> {
        // The kernel allows 64 programs at a hook (BPF_MPROG_MAX).
        let mut progs = [0u32; 64];
        let mut links = [0u32; 64];
        let mut attr = QueryAttr::new_zeroed();
        attr.target = ifindex;
        attr.attach_type = self as u32;
        attr.prog_ids = address(progs.as_mut_ptr());
        attr.link_ids = address(links.as_mut_ptr());
        attr.count = 64;
        // SAFETY: both arrays have the `count` elements announced, and outlive the call.
        unsafe { bpf(Command::ProgQuery, &mut attr)? };
        let count = (attr.count as usize).min(64);
        Ok(progs
            .iter()
            .zip(&links)
            .take(count)
            .map(|(&prog_id, &link_id)| Attached { prog_id, link_id })
            .collect())
    }

    /// Takes off a program that was attached without a link.
    pub(crate) fn detach(self, ifindex: u32, prog: &ProgFd) -> io::Result<()> {
        let mut attr = DetachProgAttr::new_zeroed();
        attr.target = ifindex;
        attr.prog_fd = raw(&prog.0);
        attr.attach_type = self as u32;
        // SAFETY: no pointers.
        unsafe { bpf(Command::ProgDetach, &mut attr) }.map(drop)
    }
}

/// Numbers of the programs at a cgroup's hook, in the order in which they run.
pub(crate) fn at_cgroup(cgroup: &File, hook: u32) -> io::Result<Vec<u32>> {
    // The kernel allows 64 programs at a hook (BPF_CGROUP_MAX_PROGS).
    let mut progs = [0u32; 64];
    let mut attr = QueryAttr::new_zeroed();
    attr.target = raw(cgroup);
    attr.attach_type = hook;
    attr.prog_ids = address(progs.as_mut_ptr());
    attr.count = 64;
    // SAFETY: the array has the `count` elements announced, and outlives the call.
    unsafe { bpf(Command::ProgQuery, &mut attr)? };
    Ok(progs.into_iter().take(attr.count as usize).collect())
}

/// Takes off a program that was attached to a cgroup without a link.
pub(crate) fn detach_from_cgroup(cgroup: &File, hook: u32, prog: &ProgFd) -> io::Result<()> {
    let mut attr = DetachProgAttr::new_zeroed();
    attr.target = raw(cgroup);
    attr.prog_fd = raw(&prog.0);
    attr.attach_type = hook;
    // SAFETY: no pointers.
    unsafe { bpf(Command::ProgDetach, &mut attr) }.map(drop)
}

#[repr(C)]
#[derive(Clone, Copy, IntoBytes, FromBytes, Immutable)]
struct LoadAttr {
    prog_type: u32,
    insn_count: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// Loads a classifier that drops every packet: it holds a hook closed while ours is moved.
pub(crate) fn load_drop_guard() -> io::Result<ProgFd> {
    /// `BPF_PROG_TYPE_SCHED_CLS`.
    const SCHED_CLS: u32 = 3;
    // `r0 = 2` (TC_ACT_SHOT), `exit`; instruction encoding as in RFC 9669.
    let insns: [u64; 2] = [u64::from_le(0x0000_0002_0000_00b7), u64::from_le(0x95)];
    let mut attr = LoadAttr::new_zeroed();
    attr.prog_type = SCHED_CLS;
    attr.insn_count = 2;
    attr.insns = address(insns.as_ptr());
    attr.license = address(c"Dual MIT/GPL".as_ptr());
    attr.name[..9].copy_from_slice(b"cil_guard");
    // SAFETY: `insns` has the two instructions announced, the licence is NUL-terminated, there is no
    // log buffer, and all outlive the call.
    unsafe { bpf_fd(Command::ProgLoad, &mut attr) }.map(ProgFd)
}
