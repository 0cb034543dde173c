//! Where programs run: which of ours is at which hook of which interface, and putting it there.
//!
//! TCX links, pinned, first in order; clsact filters where the kernel has no TCX or the operator asks
//! for them; XDP links. A hook always keeps a program of ours while it is moved or replaced. Others'
//! programs are never touched. What is recognised as ours: a pinned link, a program of a pinned set,
//! a filter of our name at our place.

pub(super) mod cgroup;
mod clsact;
mod tcx;
mod xdp;
mod young;

use super::Bpf;
use super::fault::fault;
use super::object::whole_name;
use super::pins::{self, Pins};
use super::set::{SeenSet, open_program, read_sets};
use super::sys::{self, AttachType, Attached, LinkInfo, Linked, ObjectKind, ProgFd};
use crate::AttachMode;
use cilium_engine::driver::{Driver, DriverError, Scope, Step};
use cilium_engine::state::{Attachment, AttachmentKey, AttachmentRow, Hook, LinkName, Position, SetId};
use clsact::Tc;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use xdp::Refused;
pub(super) use young::Young;

/// Programs of the pinned sets by their number, read when first asked: on a new link nobody is.
struct Known {
    pins: Pins,
    programs: OnceCell<BTreeMap<u32, (SetId, String)>>,
}

impl Known {
    fn of(pins: &Pins) -> Self {
        Self { pins: pins.clone(), programs: OnceCell::new() }
    }

    fn programs(&self) -> Result<&BTreeMap<u32, (SetId, String)>, DriverError> {
        if let Some(programs) = self.programs.get() {
            return Ok(programs);
        }
        let of_set = |set: SeenSet| {
            set.programs.into_iter().map(move |(name, info)| (info.id, (set.id.clone(), name)))
        };
        let programs = read_sets(&self.pins)?.into_iter().flat_map(of_set).collect();
        Ok(self.programs.get_or_init(|| programs))
    }

    fn is_ours(&self, prog_id: u32) -> Result<bool, DriverError> {
        Ok(self.programs()?.contains_key(&prog_id))
    }

    /// Set and name of a program; of one that is of no pinned set the name the kernel keeps.
    fn describe(&self, prog_id: u32) -> Result<(SetId, String), DriverError> {
        Ok(self.programs()?.get(&prog_id).cloned().unwrap_or_else(|| {
            let kept = ProgFd::by_id(prog_id).and_then(|prog| prog.info()).map(|info| info.name);
            (SetId(String::new()), kept.map(|name| whole_name(&name)).unwrap_or_default())
        }))
    }

    /// The first program of ours in a chain, but for that of one link.
    fn find_in(&self, chain: &[Attached], but: u32) -> Result<Option<Attached>, DriverError> {
        for attached in chain.iter().filter(|attached| attached.link_id != but) {
            if self.is_ours(attached.prog_id)? {
                return Ok(Some(*attached));
            }
        }
        Ok(None)
    }
}

/// A pinned link and what it is attached to.
struct PinnedLink {
    link: Linked,
    info: LinkInfo,
}

/// The pin of a link. bpffs reserves dots, which interface names may have; colons they may not.
fn pin_path(pins: &Pins, key: &AttachmentKey) -> PathBuf {
    pins.links().join(format!("{}_{}", key.link.0.replace('.', ":"), hook_name(key.hook)))
}

fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Ingress => "ingress",
        Hook::Egress => "egress",
        Hook::Xdp => "xdp",
    }
}

fn key_of(name: &str) -> Option<AttachmentKey> {
    let (link, hook) = name.rsplit_once('_')?;
    let hook = [Hook::Ingress, Hook::Egress, Hook::Xdp].into_iter().find(|h| hook_name(*h) == hook)?;
    Some(AttachmentKey { link: LinkName(link.replace(':', ".")), hook })
}

fn open_link(pins: &Pins, key: &AttachmentKey) -> Result<Option<PinnedLink>, DriverError> {
    let path = pin_path(pins, key);
    let Some(fd) = pins::open_as(&path, ObjectKind::Link)? else { return Ok(None) };
    let info = LinkInfo::read(&fd).map_err(|e| fault(&e, format!("look at link {}", path.display())))?;
    Ok(Some(PinnedLink { link: Linked(fd), info }))
}

fn tcx_hook(hook: Hook) -> Option<AttachType> {
    match hook {
        Hook::Ingress => Some(AttachType::TcxIngress),
        Hook::Egress => Some(AttachType::TcxEgress),
        Hook::Xdp => None,
    }
}

/// Whether this kernel has TCX (Linux 6.6).
pub(super) fn has_tcx() -> bool {
    /// Loopback has this number in every network namespace.
    const LOOPBACK: u32 = 1;
    !matches!(AttachType::TcxIngress.attached(LOOPBACK), Err(e) if e.raw_os_error() == Some(libc::EINVAL))
}

impl Bpf {
    /// Whether classifiers are attached by TCX.
    fn by_tcx(&self) -> Result<bool, DriverError> {
        match (self.mode, self.tcx) {
            (AttachMode::Clsact, _) | (AttachMode::Auto, false) => Ok(false),
            (AttachMode::Auto | AttachMode::Tcx, true) => Ok(true),
            (AttachMode::Tcx, false) => Err(DriverError::new("attach by TCX: this kernel has none")
                .hint("Linux 6.6 or later has it; set datapath.attach = \"auto\"")),
        }
    }
}

impl Driver<Attachment> for Bpf {
    fn observe(
        &mut self,
        scope: &Scope<AttachmentKey>,
    ) -> Result<Vec<(AttachmentKey, AttachmentRow)>, DriverError> {
        let known = Known::of(&self.pins);
        let (keys, mut tc): (BTreeMap<AttachmentKey, Option<u32>>, Tc) = match scope {
            Scope::Keys(keys) => {
                let numbered = keys.iter().map(|key| (key.clone(), sys::index_of(&key.link.0)));
                (numbered.collect(), Tc::open()?)
            }
            Scope::All => (self.all_hooks()?, Tc::open_for_all()?),
        };
        let mut out = Vec::new();
        for (key, ifindex) in keys {
            if let Some(row) = self.look(&known, &mut tc, &key, ifindex)? {
                out.push((key, row));
            }
        }
        Ok(out)
    }

    fn apply(&mut self, steps: &[Step<Attachment>]) -> Vec<Result<(), DriverError>> {
        let known = Known::of(&self.pins);
        let mut tc = match Tc::open() {
            Ok(tc) => tc,
            Err(e) => return steps.iter().map(|_| Err(e.clone())).collect(),
        };
        steps
            .iter()
            .map(|step| match step {
                Step::Create { key, row } | Step::Update { key, row, .. } => {
                    self.attach(&known, &mut tc, key, row)
                }
                Step::Remove { key, .. } => self.detach(&known, &mut tc, key),
            })
            .collect()
    }
}

/// A row that no wanted row equals, so that what was found is put right or removed.
fn wrong(known: &Known, prog_id: u32) -> Result<AttachmentRow, DriverError> {
    let (_, program) = known.describe(prog_id)?;
    Ok(AttachmentRow { program, set: SetId(String::new()), first: Position::Behind })
}

impl Bpf {
    /// Where something of ours may be, with the number of the interface if there is one.
    fn all_hooks(&self) -> Result<BTreeMap<AttachmentKey, Option<u32>>, DriverError> {
        let listed = sys::interfaces().map_err(|e| fault(&e, "list interfaces"))?;
        let interfaces: BTreeMap<LinkName, u32> =
            listed.into_iter().map(|(index, name)| (LinkName(name), index)).collect();
        let mut hooks = BTreeMap::new();
        for key in pins::names(&self.pins.links())?.into_iter().filter_map(|name| key_of(&name)) {
            let ifindex = interfaces.get(&key.link).copied();
            hooks.insert(key, ifindex);
        }
        for (link, ifindex) in interfaces {
            for hook in [Hook::Ingress, Hook::Egress] {
                hooks.insert(AttachmentKey { link: link.clone(), hook }, Some(ifindex));
            }
        }
        Ok(hooks)
    }

    /// What of ours is at a hook. `ifindex`: none if the interface is gone.
    fn look(
        &mut self,
        known: &Known,
        tc: &mut Tc,
        key: &AttachmentKey,
        ifindex: Option<u32>,
    ) -> Result<Option<AttachmentRow>, DriverError> {
        let pinned = open_link(&self.pins, key)?;
        if key.hook == Hook::Xdp
            && pinned.is_none()
            && let Some(refused) = Refused::read(&pin_path(&self.pins, key))
        {
            return Ok(Some(refused.row(ifindex)));
        }
        let Some(ifindex) = ifindex else {
            return pinned.map(|pinned| wrong(known, pinned.info.prog_id)).transpose();
        };
        let Some(hook) = tcx_hook(key.hook) else {
            return pinned.map(|pinned| xdp::look(known, &pinned, ifindex)).transpose();
        };
        let chain = self.tcx_chain(hook, ifindex)?;
        let filters = tc.filters(ifindex, key.hook)?;
        let by_link = tcx::look(known, pinned.as_ref(), hook, ifindex, &chain)?;
        let by_filter = clsact::look(known, &filters)?;
        let stray_link = pinned.as_ref().filter(|_| by_link.is_none());
        let live = pinned.as_ref().filter(|_| by_link.is_some()).map_or(0, |pinned| pinned.info.id);
        let unpinned = known.find_in(&chain, live)?;
        let by_tcx = self.by_tcx().unwrap_or(false);
        Ok(match (by_tcx, by_link, by_filter) {
            (true, Some(row), None) if unpinned.is_none() => Some(row),
            (false, None, Some(row)) if stray_link.is_none() && unpinned.is_none() => Some(row),
            (true, None, Some(row)) if self.may_be_filter(key, pinned.as_ref(), &chain) => {
                self.young.add(key);
                Some(row)
            }
            // Attached twice, or in the way not asked for: put right by attaching anew.
            (_, Some(row), _) | (_, None, Some(row)) => {
                Some(AttachmentRow { set: SetId(String::new()), first: Position::Behind, ..row })
            }
            (_, None, None) => unpinned
                .map(|attached| attached.prog_id)
                .or(stray_link.map(|pinned| pinned.info.prog_id))
                .map(|prog_id| wrong(known, prog_id))
                .transpose()?,
        })
    }

    fn tcx_chain(&self, hook: AttachType, ifindex: u32) -> Result<Vec<sys::Attached>, DriverError> {
        if !self.tcx {
            return Ok(Vec::new());
        }
        match hook.attached(ifindex) {
            Ok(chain) => Ok(chain),
            // The interface went away since it was listed.
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(Vec::new()),
            Err(e) => Err(fault(&e, format!("list the programs of interface {ifindex}"))),
        }
    }

    /// Makes a program of ours run first at a hook, and no other of ours.
    fn attach(
        &mut self,
        known: &Known,
        tc: &mut Tc,
        key: &AttachmentKey,
        row: &AttachmentRow,
    ) -> Result<(), DriverError> {
        let ifindex = sys::index_of(&key.link.0).ok_or_else(|| {
            DriverError::new(format!("attach {} to {key}: the interface does not exist", row.program))
        })?;
        let prog = open_program(&self.pins, &row.set, &row.program)?;
        let pin = pin_path(&self.pins, key);
        let pinned = open_link(&self.pins, key)?;
        let doing = || format!("attach {} to {key}", row.program);
        let Some(hook) = tcx_hook(key.hook) else {
            return self.accelerate(&prog, key, row, ifindex, pinned, &pin);
        };
        if self.by_tcx()? {
            let chain = self.tcx_chain(hook, ifindex)?;
            if self.may_be_filter(key, pinned.as_ref(), &chain) {
                match clsact::ensure(tc, &prog, &row.program, ifindex, key.hook) {
                    Ok(()) => {
                        self.young.add(key);
                        return Ok(());
                    }
                    Err(error) => tracing::debug!(%key, %error, "no filter for the time being"),
                }
            }
            self.young.drop(key);
            tcx::ensure(known, &prog, hook, ifindex, pinned, &pin).map_err(|e| named(doing(), e))?;
            clsact::remove(tc, ifindex, key.hook)
        } else {
            clsact::ensure(tc, &prog, &row.program, ifindex, key.hook).map_err(|e| named(doing(), e))?;
            pins::remove(&pin)?;
            drop(pinned);
            self.detach_links(known, hook, ifindex)
        }
    }

    /// Takes off what is ours at a hook.
    fn detach(&mut self, known: &Known, tc: &mut Tc, key: &AttachmentKey) -> Result<(), DriverError> {
        self.young.drop(key);
        let pinned = open_link(&self.pins, key)?;
        let ifindex = sys::index_of(&key.link.0);
        pins::remove(&pin_path(&self.pins, key))?;
        // A link that is elsewhere (the interface was renamed) may have been pinned again there.
        if let Some(pinned) = pinned.filter(|pinned| Some(pinned.info.ifindex) == ifindex) {
            pinned.link.detach().map_err(|e| fault(&e, format!("detach {key}")))?;
        }
        let (Some(ifindex), Some(hook)) = (ifindex, tcx_hook(key.hook)) else { return Ok(()) };
        self.detach_links(known, hook, ifindex)?;
        clsact::remove(tc, ifindex, key.hook)
    }

    /// Takes programs of ours off a TCX hook, however they are held.
    fn detach_links(&self, known: &Known, hook: AttachType, ifindex: u32) -> Result<(), DriverError> {
        for attached in self.tcx_chain(hook, ifindex)? {
            if known.is_ours(attached.prog_id)? {
                tcx::take_off(hook, ifindex, attached).map_err(|e| named("detach a program".into(), e))?;
            }
        }
        Ok(())
    }
}

/// Puts what was being done before an error of the kernel.
fn named(doing: String, error: std::io::Error) -> DriverError {
    let shown = fault(&error, doing);
    match error.raw_os_error() {
        Some(libc::EBUSY) => shown.hint("another program holds the hook: `bpftool net show` names it"),
        Some(libc::EINVAL) => {
            shown.hint("a filter of another kind may hold priority 1: `tc filter show` names it")
        }
        Some(libc::ERANGE) => shown.hint("64 programs are attached there already"),
        _ => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_names_survive_the_round_trip() {
        let pins = Pins { root: "/b".into() };
        for link in ["lxc12", "eth0.5", "a_b_ingress", "cilium_host"] {
            for hook in [Hook::Ingress, Hook::Egress, Hook::Xdp] {
                let key = AttachmentKey { link: link.into(), hook };
                let path = pin_path(&pins, &key);
                let name = path.file_name().unwrap().to_str().unwrap();
                assert!(!name.contains('.'));
                assert_eq!(key_of(name), Some(key));
            }
        }
        assert_eq!(key_of("something"), None);
        assert_eq!(key_of("eth0_sideways"), None);
    }
}
