//! The XDP program of a device: native where the driver can, generic elsewhere.

use super::tcx::pin_link;
use super::{Known, PinnedLink, wrong};
use crate::bpf::sys::{LinkInfo, Linked, ProgFd};
use cilium_engine::driver::DriverError;
use cilium_engine::state::{AttachmentRow, Position};
use std::io;
use std::path::Path;

/// `XDP_FLAGS_SKB_MODE` (include/uapi/linux/if_link.h).
const GENERIC: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`.
const NATIVE: u32 = 1 << 2;

/// The row of the pinned link.
pub(super) fn look(known: &Known, pinned: &PinnedLink, ifindex: u32) -> Result<AttachmentRow, DriverError> {
    if !live(pinned, ifindex) {
        return wrong(known, pinned.info.prog_id);
    }
    let (set, program) = known.describe(pinned.info.prog_id)?;
    Ok(AttachmentRow { program, set, first: Position::First })
}

fn live(PinnedLink { info, .. }: &PinnedLink, ifindex: u32) -> bool {
    info.kind == LinkInfo::XDP && info.ifindex == ifindex
}

/// Makes `prog` run at the device through the pinned link. `EBUSY`: another's program is there.
pub(super) fn ensure(prog: &ProgFd, ifindex: u32, pinned: Option<PinnedLink>, pin: &Path) -> io::Result<()> {
    if let Some(pinned) = pinned.filter(|pinned| live(pinned, ifindex)) {
        if pinned.info.prog_id == prog.info()?.id {
            return Ok(());
        }
        return pinned.link.replace(prog);
    }
    let link = match Linked::xdp(prog, ifindex, NATIVE) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
            Linked::xdp(prog, ifindex, GENERIC)?
        }
        link => link?,
    };
    pin_link(&link, pin)
}
