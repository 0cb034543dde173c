//! Programs of sockets on a cgroup: which of ours run there, putting them there, taking them off.
//!
//! Each by a link of its own, pinned under the program's name, beside whatever others attached to the same
//! cgroup (links are always `BPF_F_ALLOW_MULTI`). Another set's program takes over by one update of the
//! link: no call goes by without one. Never: which cgroup, or which programs; the caller says so.

use super::{Known, named};
use crate::bpf::Bpf;
use crate::bpf::fault::fault;
use crate::bpf::pins::{self, Pins};
use crate::bpf::set::open_program;
use crate::bpf::sys::{self, CgroupLinkInfo, Linked, ObjectKind, ProgFd};
use cilium_engine::driver::DriverError;
use cilium_engine::state::SetId;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The programs that run on a cgroup, with their `enum bpf_attach_type` (include/uapi/linux/bpf.h).
const HOOKS: [(&str, u32); 10] = [
    ("cil_sock4_connect", 10),
    ("cil_sock6_connect", 11),
    ("cil_sock4_post_bind", 12),
    ("cil_sock6_post_bind", 13),
    ("cil_sock4_sendmsg", 14),
    ("cil_sock6_sendmsg", 15),
    ("cil_sock4_recvmsg", 19),
    ("cil_sock6_recvmsg", 20),
    ("cil_sock4_getpeername", 29),
    ("cil_sock6_getpeername", 30),
];

/// Names of the programs that can be attached to a cgroup. Answers (`recvmsg`, `getpeername`) are to be
/// attached before what they answer to (`connect`, `sendmsg`): in this order.
pub const SOCKET_PROGRAMS: [&str; 10] = [
    "cil_sock4_getpeername",
    "cil_sock6_getpeername",
    "cil_sock4_recvmsg",
    "cil_sock6_recvmsg",
    "cil_sock4_post_bind",
    "cil_sock6_post_bind",
    "cil_sock4_connect",
    "cil_sock6_connect",
    "cil_sock4_sendmsg",
    "cil_sock6_sendmsg",
];

/// A program of ours at a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CgroupAttachment {
    /// Which, of [`SOCKET_PROGRAMS`].
    pub program: String,
    /// The set it is of. Empty: of none that is pinned, or not attached as it should be (twice, by a link
    /// that is not pinned, to another cgroup); attaching it anew puts that right.
    pub set: SetId,
}

/// An open cgroup.
struct Cgroup<'a> {
    path: &'a Path,
    dir: File,
    /// As links tell it.
    id: u64,
}

impl<'a> Cgroup<'a> {
    /// `None`: there is no such directory.
    fn open(path: &'a Path) -> Result<Option<Self>, DriverError> {
        let doing = || format!("open cgroup {}", path.display());
        let dir = match File::open(path) {
            Ok(dir) => dir,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(fault(&e, doing())),
        };
        if !sys::is_cgroup2(path).map_err(|e| fault(&e, doing()))? {
            return Err(DriverError::new(format!("{} is not on a mounted cgroup2", path.display()))
                .hint("mount -t cgroup2 none /run/cilium/cgroupv2, and name a directory on such a mount"));
        }
        let id = dir.metadata().map_err(|e| fault(&e, doing()))?.ino();
        Ok(Some(Self { path, dir, id }))
    }

    fn running(&self, hook: u32) -> Result<Vec<u32>, DriverError> {
        sys::at_cgroup(&self.dir, hook)
            .map_err(|e| fault(&e, format!("list the programs of cgroup {}", self.path.display())))
    }

    /// Whether a link is attached here.
    fn has(&self, info: &CgroupLinkInfo, hook: u32) -> bool {
        info.kind == CgroupLinkInfo::CGROUP && info.cgroup_id == self.id && info.attach_type == hook
    }

    /// Takes off programs of ours but that of one link, however they are held.
    fn clear(&self, known: &Known, hook: u32, kept: Option<&CgroupLinkInfo>) -> Result<(), DriverError> {
        let mut others = Vec::new();
        for prog_id in self.running(hook)? {
            if known.is_ours(prog_id)? {
                others.push(prog_id);
            }
        }
        if let Some(kept) = kept
            && let Some(at) = others.iter().position(|prog_id| *prog_id == kept.prog_id)
        {
            others.swap_remove(at);
        }
        if others.is_empty() {
            return Ok(());
        }
        let doing = || format!("take programs off cgroup {}", self.path.display());
        for id in sys::link_ids().map_err(|e| fault(&e, doing()))? {
            // Links come and go while they are listed.
            let Ok(link) = Linked::by_id(id) else { continue };
            let Ok(info) = CgroupLinkInfo::read(&link.0) else { continue };
            if self.has(&info, hook)
                && known.is_ours(info.prog_id)?
                && kept.is_none_or(|kept| kept.id != info.id)
            {
                link.detach().map_err(|e| fault(&e, doing()))?;
                if let Some(at) = others.iter().position(|prog_id| *prog_id == info.prog_id) {
                    others.swap_remove(at);
                }
            }
        }
        // What is left came without a link.
        for prog_id in others {
            let gone =
                ProgFd::by_id(prog_id).and_then(|prog| sys::detach_from_cgroup(&self.dir, hook, &prog));
            match gone {
                Err(e) if e.raw_os_error() != Some(libc::ENOENT) => return Err(fault(&e, doing())),
                _ => {}
            }
        }
        Ok(())
    }
}

/// A pinned link of a cgroup.
struct Pinned {
    link: Linked,
    info: CgroupLinkInfo,
}

fn pin_path(pins: &Pins, program: &str) -> PathBuf {
    pins.links().join(program)
}

fn open_link(pins: &Pins, program: &str) -> Result<Option<Pinned>, DriverError> {
    let path = pin_path(pins, program);
    let Some(fd) = pins::open_as(&path, ObjectKind::Link)? else { return Ok(None) };
    let info =
        CgroupLinkInfo::read(&fd).map_err(|e| fault(&e, format!("look at link {}", path.display())))?;
    Ok(Some(Pinned { link: Linked(fd), info }))
}

fn hook_of(program: &str) -> Result<u32, DriverError> {
    HOOKS
        .iter()
        .find(|(name, _)| *name == program)
        .map(|(_, hook)| *hook)
        .ok_or_else(|| DriverError::new(format!("program {program} is not one of cgroups")))
}

impl Bpf {
    /// Which of our programs run at a cgroup, sorted by name; those that run as they should not, with no
    /// set. A cgroup that is not there has none, unless one is still pinned.
    ///
    /// # Errors
    /// The path is not on a cgroup2 mount, or the kernel or a pin could not be read.
    pub fn observe_cgroup(&self, root: &Path) -> Result<Vec<CgroupAttachment>, DriverError> {
        let known = Known::of(&self.pins);
        let cgroup = Cgroup::open(root)?;
        let mut out = Vec::new();
        for (program, hook) in HOOKS {
            let pinned = open_link(&self.pins, program)?;
            let running = match &cgroup {
                Some(cgroup) => cgroup.running(hook)?,
                None => Vec::new(),
            };
            let mut ours = 0;
            for prog_id in &running {
                ours += usize::from(known.is_ours(*prog_id)?);
            }
            let live = pinned
                .as_ref()
                .filter(|pinned| cgroup.as_ref().is_some_and(|cgroup| cgroup.has(&pinned.info, hook)));
            let set = match live {
                Some(live) => match known.describe(live.info.prog_id)? {
                    (set, name) if name == program && ours <= 1 => set,
                    _ => SetId(String::new()),
                },
                None if pinned.is_some() || ours > 0 => SetId(String::new()),
                None => continue,
            };
            out.push(CgroupAttachment { program: program.into(), set });
        }
        out.sort_unstable();
        Ok(out)
    }

    /// Makes a program of a set run at a cgroup, once, by a pinned link, whatever was there of ours before:
    /// one that runs there already is replaced in one step. Others' programs stay.
    ///
    /// # Errors
    /// The cgroup or the set is not there, the program is not one of [`SOCKET_PROGRAMS`], or the kernel
    /// refused: `EPERM` also where somebody attached a program that allows no other.
    pub fn attach_to_cgroup(&self, root: &Path, program: &str, set: &SetId) -> Result<(), DriverError> {
        let doing = || format!("attach {program} to cgroup {}", root.display());
        let hook = hook_of(program)?;
        let Some(cgroup) = Cgroup::open(root)? else {
            return Err(DriverError::new(format!("{}: there is no such directory", doing()))
                .hint("the cgroup has to exist; see paths.cgroup_root"));
        };
        let refused = |error: io::Error| {
            let is_exclusive = error.raw_os_error() == Some(libc::EPERM);
            let shown = named(doing(), error);
            if is_exclusive {
                shown.hint("another program may hold the cgroup alone: `bpftool cgroup tree` names it")
            } else {
                shown
            }
        };
        let known = Known::of(&self.pins);
        let prog = open_program(&self.pins, set, program)?;
        let wanted = prog.info().map_err(refused)?.id;
        let pinned = open_link(&self.pins, program)?;
        let kept = match &pinned {
            Some(live) if cgroup.has(&live.info, hook) => {
                if live.info.prog_id != wanted {
                    live.link.replace(&prog).map_err(refused)?;
                }
                let mut info = live.info;
                info.prog_id = wanted;
                info
            }
            elsewhere => {
                let link = Linked::cgroup(&prog, &cgroup.dir, hook).map_err(refused)?;
                pins::pin_over(&link.0, &pin_path(&self.pins, program))?;
                if let Some(old) = elsewhere {
                    take_off(&old.link).map_err(refused)?;
                }
                CgroupLinkInfo::read(&link.0).map_err(refused)?
            }
        };
        cgroup.clear(&known, hook, Some(&kept))
    }

    /// Takes a program of ours off a cgroup, and off any other that its pinned link is at. Gone already is
    /// fine.
    ///
    /// # Errors
    /// The program is not one of [`SOCKET_PROGRAMS`], the path is not on a cgroup2 mount, or the kernel
    /// refused.
    pub fn detach_from_cgroup(&self, root: &Path, program: &str) -> Result<(), DriverError> {
        let hook = hook_of(program)?;
        let cgroup = Cgroup::open(root)?;
        let pinned = open_link(&self.pins, program)?;
        if let Some(pinned) = pinned {
            pins::remove(&pin_path(&self.pins, program))?;
            take_off(&pinned.link).map_err(|e| named(format!("detach {program}"), e))?;
        }
        match cgroup {
            Some(cgroup) => cgroup.clear(&Known::of(&self.pins), hook, None),
            None => Ok(()),
        }
    }
}

/// Detaches a link; one whose cgroup is gone is detached already.
fn take_off(link: &Linked) -> io::Result<()> {
    match link.detach() {
        Err(e) if !matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOLINK)) => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::object::{program_names, whole_name};
    use std::collections::BTreeSet;

    #[test]
    fn the_programs_of_cgroups_are_those_of_the_object() {
        let listed: BTreeSet<&str> = SOCKET_PROGRAMS.into_iter().collect();
        let hooked: BTreeSet<&str> = HOOKS.into_iter().map(|(name, _)| name).collect();
        let built = program_names().unwrap().iter().map(String::as_str);
        assert_eq!(listed, hooked);
        assert_eq!(listed, built.filter(|name| name.starts_with("cil_sock")).collect());
        for name in listed {
            assert_eq!(whole_name(&name[..15]), name);
            assert!(super::super::key_of(name).is_none(), "a pin of a cgroup is none of a device");
        }
    }
}
