//! Programs of sockets on a cgroup: which of ours run there, putting them there, taking them off.
//!
//! Each by a link of its own, pinned under the program's name, beside whatever others attached to the same
//! cgroup (links are always `BPF_F_ALLOW_MULTI`). Another set's program takes over by one update of the
//! link: no call goes by without one. The cgroup is the operator's, or the root of the first cgroup2 mount.
//! Never: whether any program is wanted.

use super::{Known, named};
use crate::bpf::Bpf;
use crate::bpf::fault::fault;
use crate::bpf::pins::{self, Pins};
use crate::bpf::set::open_program;
use crate::bpf::sys::{self, CgroupLinkInfo, Linked, ObjectKind, ProgFd};
use cilium_engine::driver::{Driver, DriverError, Scope, Step};
use cilium_engine::state::{SetId, SocketHook, SocketProgram, SocketRow};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// `enum bpf_attach_type` (include/uapi/linux/bpf.h).
const fn attach_type(hook: SocketHook) -> u32 {
    match hook {
        SocketHook::Connect4 => 10,
        SocketHook::Connect6 => 11,
        SocketHook::PostBind4 => 12,
        SocketHook::PostBind6 => 13,
        SocketHook::Sendmsg4 => 14,
        SocketHook::Sendmsg6 => 15,
        SocketHook::Recvmsg4 => 19,
        SocketHook::Recvmsg6 => 20,
        SocketHook::Getpeername4 => 29,
        SocketHook::Getpeername6 => 30,
    }
}

/// Which cgroup.
#[derive(Debug, Default)]
pub(crate) struct Root {
    /// The operator's.
    configured: Option<PathBuf>,
    /// The first mount, as it was found the last time.
    found: Option<PathBuf>,
}

impl Root {
    pub(crate) fn new(configured: Option<PathBuf>) -> Self {
        Self { configured, found: None }
    }

    /// The directory of the cgroup, which programs of sockets can be attached to.
    ///
    /// # Errors
    /// There is none, or this kernel has no programs of cgroups.
    fn find(&mut self) -> Result<PathBuf, DriverError> {
        let root = match &self.configured {
            Some(configured) => configured.clone(),
            None => self.mounted()?,
        };
        let cgroup = Cgroup::open(&root)?
            .ok_or_else(|| DriverError::new(format!("cgroup {} does not exist", root.display())))?;
        cgroup.running(attach_type(SocketHook::Connect4))?;
        drop(cgroup);
        Ok(root)
    }

    /// The first cgroup2 mount.
    fn mounted(&mut self) -> Result<PathBuf, DriverError> {
        if let Some(found) = self.found.take_if(|found| sys::is_cgroup2(found).unwrap_or(false)) {
            return Ok(self.found.insert(found).clone());
        }
        let mounts = std::fs::read("/proc/self/mounts").map_err(|e| fault(&e, "read /proc/self/mounts"))?;
        let found = mount_points(&mounts, b"cgroup2").find(|path| sys::is_cgroup2(path).unwrap_or(false));
        match found {
            Some(found) => Ok(self.found.insert(found).clone()),
            None => Err(DriverError::new("no cgroup2 is mounted")),
        }
    }
}

/// Mount points of a file system, in the order of mounting; text as in fstab(5).
fn mount_points<'a>(mounts: &'a [u8], kind: &'a [u8]) -> impl Iterator<Item = PathBuf> + 'a {
    mounts.split(|byte| *byte == b'\n').filter_map(move |line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let path = fields.nth(1)?;
        (fields.next()? == kind).then(|| PathBuf::from(OsString::from_vec(unescape(path))))
    })
}

/// Blanks, tabs, newlines and backslashes stand as `\\` and three octal digits.
fn unescape(mut text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    while let Some((first, rest)) = text.split_first() {
        let digits = rest.first_chunk::<3>().filter(|_| *first == b'\\');
        let value = digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        out.push(value.unwrap_or(*first));
        text = rest.get(if value.is_some() { 3 } else { 0 }..).unwrap_or_default();
    }
    out
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
    fn has(&self, info: &CgroupLinkInfo, hook: SocketHook) -> bool {
        info.kind == CgroupLinkInfo::CGROUP
            && info.cgroup_id == self.id
            && info.attach_type == attach_type(hook)
    }

    /// Takes off programs of ours but that of one link, however they are held.
    fn clear(
        &self,
        known: &Known,
        hook: SocketHook,
        kept: Option<&CgroupLinkInfo>,
    ) -> Result<(), DriverError> {
        let mut others = Vec::new();
        for prog_id in self.running(attach_type(hook))? {
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
            let gone = ProgFd::by_id(prog_id)
                .and_then(|prog| sys::detach_from_cgroup(&self.dir, attach_type(hook), &prog));
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

fn pin_path(pins: &Pins, hook: SocketHook) -> PathBuf {
    pins.links().join(hook.program())
}

fn open_link(pins: &Pins, hook: SocketHook) -> Result<Option<Pinned>, DriverError> {
    let path = pin_path(pins, hook);
    let Some(fd) = pins::open_as(&path, ObjectKind::Link)? else { return Ok(None) };
    let info =
        CgroupLinkInfo::read(&fd).map_err(|e| fault(&e, format!("look at link {}", path.display())))?;
    Ok(Some(Pinned { link: Linked(fd), info }))
}

impl Bpf {
    /// Has programs of sockets attached to this cgroup; none: to the root of the first cgroup2 mount.
    #[must_use]
    pub fn with_cgroup(mut self, root: Option<PathBuf>) -> Self {
        self.cgroup = Root::new(root);
        self
    }

    /// Where programs of sockets can be attached.
    pub fn cgroup(&mut self) -> cilium_engine::world::Cgroup {
        match self.cgroup.find() {
            Ok(root) => cilium_engine::world::Cgroup::At(root),
            Err(e) => cilium_engine::world::Cgroup::Missing(e.message),
        }
    }

    /// A program of ours at a cgroup, if it is there; without a cgroup: if it is still pinned.
    fn look_at_cgroup(
        &self,
        known: &Known,
        cgroup: Option<&Cgroup<'_>>,
        hook: SocketHook,
    ) -> Result<Option<SocketRow>, DriverError> {
        let pinned = open_link(&self.pins, hook)?;
        let running = cgroup.map_or(Ok(Vec::new()), |cgroup| cgroup.running(attach_type(hook)))?;
        let mut ours = 0;
        for prog_id in &running {
            ours += usize::from(known.is_ours(*prog_id)?);
        }
        let live =
            pinned.as_ref().filter(|pinned| cgroup.is_some_and(|cgroup| cgroup.has(&pinned.info, hook)));
        let set = match live {
            Some(live) => match known.describe(live.info.prog_id)? {
                (set, name) if name == hook.program() && ours <= 1 => set,
                _ => SetId(String::new()),
            },
            None if pinned.is_some() || ours > 0 => SetId(String::new()),
            None => return Ok(None),
        };
        let cgroup = cgroup.map(|cgroup| cgroup.path.to_path_buf()).unwrap_or_default();
        Ok(Some(SocketRow { cgroup, set }))
    }

    /// Makes a program of a set run at a cgroup, once, by a pinned link, whatever was there of ours before:
    /// one that runs there already is replaced in one step. Others' programs stay.
    fn attach_to_cgroup(&self, known: &Known, hook: SocketHook, row: &SocketRow) -> Result<(), DriverError> {
        let root = row.cgroup.as_path();
        let doing = || format!("attach {hook} to cgroup {}", root.display());
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
        let prog = open_program(&self.pins, &row.set, hook.program())?;
        let wanted = prog.info().map_err(refused)?.id;
        let pinned = open_link(&self.pins, hook)?;
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
                let link = Linked::cgroup(&prog, &cgroup.dir, attach_type(hook)).map_err(refused)?;
                pins::pin_over(&link.0, &pin_path(&self.pins, hook))?;
                if let Some(old) = elsewhere {
                    take_off(&old.link).map_err(refused)?;
                }
                CgroupLinkInfo::read(&link.0).map_err(refused)?
            }
        };
        cgroup.clear(known, hook, Some(&kept))
    }

    /// Takes a program of ours off a cgroup, and off any other that its pinned link is at. Gone already is
    /// fine.
    fn detach_from_cgroup(
        &self,
        known: &Known,
        cgroup: Option<&Cgroup<'_>>,
        hook: SocketHook,
    ) -> Result<(), DriverError> {
        if let Some(pinned) = open_link(&self.pins, hook)? {
            pins::remove(&pin_path(&self.pins, hook))?;
            take_off(&pinned.link).map_err(|e| named(format!("detach {hook}"), e))?;
        }
        cgroup.map_or(Ok(()), |cgroup| cgroup.clear(known, hook, None))
    }
}

impl Driver<SocketProgram> for Bpf {
    fn observe(&mut self, scope: &Scope<SocketHook>) -> Result<Vec<(SocketHook, SocketRow)>, DriverError> {
        let root = self.cgroup.find().ok();
        let cgroup = root.as_deref().map(Cgroup::open).transpose()?.flatten();
        let known = Known::of(&self.pins);
        let mut out = Vec::new();
        for hook in SocketHook::ALL {
            if matches!(scope, Scope::Keys(keys) if !keys.contains(&hook)) {
                continue;
            }
            out.extend(self.look_at_cgroup(&known, cgroup.as_ref(), hook)?.map(|row| (hook, row)));
        }
        Ok(out)
    }

    /// Programs are taken off in the opposite order: what answers goes after what it answers to.
    fn apply(&mut self, steps: &[Step<SocketProgram>]) -> Vec<Result<(), DriverError>> {
        let known = Known::of(&self.pins);
        let (mut done, mut removed) = (Vec::with_capacity(steps.len()), Vec::new());
        for step in steps.iter().rev() {
            if let Step::Remove { key, seen } = step {
                let cgroup = Cgroup::open(&seen.cgroup).unwrap_or_default();
                removed.push(self.detach_from_cgroup(&known, cgroup.as_ref(), *key));
            }
        }
        for step in steps {
            done.push(match step {
                Step::Create { key, row } | Step::Update { key, row, .. } => {
                    self.attach_to_cgroup(&known, *key, row)
                }
                Step::Remove { .. } => removed.pop().unwrap_or(Ok(())),
            });
        }
        done
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
        let listed: BTreeSet<&str> = SocketHook::ALL.into_iter().map(SocketHook::program).collect();
        let types: BTreeSet<u32> = SocketHook::ALL.into_iter().map(attach_type).collect();
        let built = program_names().unwrap().iter().map(String::as_str);
        assert_eq!((listed.len(), types.len()), (SocketHook::ALL.len(), SocketHook::ALL.len()));
        assert_eq!(listed, built.filter(|name| name.starts_with("cil_sock")).collect());
        for name in listed {
            assert_eq!(whole_name(&name[..15]), name);
            assert!(super::super::key_of(name).is_none(), "a pin of a cgroup is none of a device");
        }
    }

    #[test]
    fn mounts_are_found_by_their_kind() {
        let text = b"cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\nnone /a\\040b\\134c cgroup2 rw 0 0\n\nx\nnone /d cgroup2 rw";
        let found: Vec<PathBuf> = mount_points(text, b"cgroup2").collect();
        assert_eq!(found, [PathBuf::from("/a b\\c"), PathBuf::from("/d")]);
        assert_eq!(unescape(b"\\04"), b"\\04");
        assert_eq!(unescape(b"\\999"), b"\\999");
    }
}
