//! Classifiers by TCX links (Linux 6.6 and later).

use super::{Known, PinnedLink};
use crate::bpf::pins;
use crate::bpf::sys::{self, AttachType, Attached, LinkInfo, Linked, ProgFd};
use cilium_engine::driver::DriverError;
use cilium_engine::state::{AttachmentRow, Position};
use std::io;
use std::path::Path;

/// The row of the pinned link, if it is attached at this hook.
pub(super) fn look(
    known: &Known,
    pinned: Option<&PinnedLink>,
    hook: AttachType,
    ifindex: u32,
    chain: &[Attached],
) -> Result<Option<AttachmentRow>, DriverError> {
    let Some(PinnedLink { info, .. }) = live(pinned, hook, ifindex) else { return Ok(None) };
    let place = chain.iter().position(|attached| attached.link_id == info.id);
    let Some(place) = place else { return Ok(None) };
    let (set, program) = known.describe(info.prog_id)?;
    let first = if place == 0 { Position::First } else { Position::Behind };
    Ok(Some(AttachmentRow { program, set, first }))
}

/// The pinned link, if it is at this hook of this interface.
fn live(pinned: Option<&PinnedLink>, hook: AttachType, ifindex: u32) -> Option<&PinnedLink> {
    pinned.filter(|PinnedLink { info, .. }| {
        info.kind == LinkInfo::TCX && info.ifindex == ifindex && info.attach_type == hook as u32
    })
}

/// Makes `prog` run first at the hook through the pinned link, and takes off other programs of ours.
pub(super) fn ensure(
    known: &Known,
    prog: &ProgFd,
    hook: AttachType,
    ifindex: u32,
    pinned: Option<PinnedLink>,
    pin: &Path,
) -> io::Result<()> {
    let wanted = prog.info()?.id;
    let ours = live(pinned.as_ref(), hook, ifindex).map(|pinned| pinned.info.id);
    // The kernel takes one program only once at a hook: one that runs there by another link, or by
    // none, stands in the way of ours.
    let chain = hook.attached(ifindex)?;
    let twin = chain.iter().copied().find(|a| a.prog_id == wanted && Some(a.link_id) != ours);
    let kept = match (live(pinned.as_ref(), hook, ifindex), twin) {
        (Some(pinned), None) => {
            if pinned.info.prog_id != wanted {
                pinned.link.replace(prog)?;
            }
            pinned.info.id
        }
        // The pin was lost while somebody holds the link: it is pinned again.
        (None, Some(twin)) if twin.link_id != 0 => {
            let link = Linked::by_id(twin.link_id)?;
            pin_link(&link, pin)?;
            twin.link_id
        }
        (None, None) => {
            let link = Linked::tcx_first(prog, ifindex, hook)?;
            pin_link(&link, pin)?;
            LinkInfo::read(&link.0)?.id
        }
        (_, Some(twin)) => {
            let first = to_front(prog, hook, ifindex, twin, pin)?;
            if let Some(pinned) = live(pinned.as_ref(), hook, ifindex) {
                pinned.link.detach()?;
            }
            first
        }
    };
    let chain = hook.attached(ifindex)?;
    let kept = match chain.first() {
        Some(first) if first.link_id == kept => kept,
        _ => match chain.iter().find(|attached| attached.link_id == kept) {
            Some(behind) => to_front(prog, hook, ifindex, *behind, pin)?,
            None => return Err(io::Error::other("the program was taken off again at once")),
        },
    };
    let chain = hook.attached(ifindex)?;
    for other in chain.into_iter().filter(|other| other.link_id != kept) {
        if known.is_ours(other.prog_id).map_err(|e| io::Error::other(e.message))? {
            take_off(hook, ifindex, other)?;
        }
    }
    Ok(())
}

/// Moves a program before all others. A link cannot be moved, and the same program cannot be attached
/// twice; so a guard that drops everything goes first, the program is taken off behind it, and put in
/// the guard's place: for that moment the hook is closed rather than open.
fn to_front(prog: &ProgFd, hook: AttachType, ifindex: u32, old: Attached, pin: &Path) -> io::Result<u32> {
    let guard = sys::load_drop_guard()?;
    let link = Linked::tcx_first(&guard, ifindex, hook)?;
    take_off(hook, ifindex, old)?;
    link.replace(prog)?;
    pin_link(&link, pin)?;
    Ok(LinkInfo::read(&link.0)?.id)
}

/// Takes one program off a hook; gone already is fine.
pub(super) fn take_off(hook: AttachType, ifindex: u32, attached: Attached) -> io::Result<()> {
    let taken = if attached.link_id != 0 {
        Linked::by_id(attached.link_id).and_then(|link| link.detach())
    } else {
        ProgFd::by_id(attached.prog_id).and_then(|prog| hook.detach(ifindex, &prog))
    };
    match taken {
        Err(e) if e.raw_os_error() != Some(libc::ENOENT) => Err(e),
        _ => Ok(()),
    }
}

/// Pins a link over whatever was pinned there.
pub(super) fn pin_link(link: &Linked, pin: &Path) -> io::Result<()> {
    pins::pin_over(&link.0, pin).map_err(|e| io::Error::other(e.message))
}
