//! The XDP program of a device, in its driver: never by the kernel's own imitation, which costs more than it
//! saves. A device whose driver has no XDP is said to be one.

use super::tcx::pin_link;
use super::{Known, PinnedLink, open_link, wrong};
use crate::bpf::Bpf;
use crate::bpf::object::whole_name;
use crate::bpf::sys::{LinkInfo, Linked, ProgFd, index_of};
use crate::net::program_of_driver;
use cilium_engine::driver::DriverError;
use cilium_engine::state::{AttachmentKey, AttachmentRow, Position};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// `XDP_FLAGS_DRV_MODE` (include/uapi/linux/if_link.h).
const NATIVE: u32 = 1 << 2;

/// Drivers that could not run a program, by hook: the interface's number and the row that was wanted. Forgotten
/// with the process, after which they are asked once more.
#[derive(Debug, Default)]
pub(in crate::bpf) struct Unable(BTreeMap<AttachmentKey, (u32, AttachmentRow)>);

impl Unable {
    pub(super) fn hooks(&self) -> impl Iterator<Item = &AttachmentKey> {
        self.0.keys()
    }
}

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

/// Makes `prog` run in the device's driver through the pinned link. `EBUSY`: another's program is there.
fn ensure(prog: &ProgFd, ifindex: u32, pinned: Option<PinnedLink>, pin: &Path) -> io::Result<()> {
    if let Some(pinned) = pinned.filter(|pinned| live(pinned, ifindex)) {
        if pinned.info.prog_id == prog.info()?.id {
            return Ok(());
        }
        return pinned.link.replace(prog);
    }
    pin_link(&Linked::xdp(prog, ifindex, NATIVE)?, pin)
}

/// Whether the kernel says that the driver cannot: it has no XDP, or none at this MTU or number of queues.
fn cannot(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE | libc::ENOSPC | libc::E2BIG)
    )
}

impl Bpf {
    /// Whether a program of ours runs in the driver of a device.
    pub fn is_in_driver(&self, key: &AttachmentKey) -> bool {
        let Some(ifindex) = index_of(&key.link.0) else { return false };
        matches!(open_link(&self.pins, key), Ok(Some(pinned)) if live(&pinned, ifindex))
    }

    /// What was wanted at a hook of a device whose driver cannot.
    pub(super) fn unable(&self, key: &AttachmentKey, ifindex: u32) -> Option<AttachmentRow> {
        let (number, row) = self.unable.0.get(key)?;
        (*number == ifindex).then(|| AttachmentRow { first: Position::Unable, ..row.clone() })
    }

    pub(super) fn forget_unable(&mut self, key: &AttachmentKey) {
        self.unable.0.remove(key);
    }

    /// Makes `prog` run in the driver of a device.
    pub(super) fn accelerate(
        &mut self,
        prog: &ProgFd,
        key: &AttachmentKey,
        row: &AttachmentRow,
        ifindex: u32,
        pinned: Option<PinnedLink>,
        pin: &Path,
    ) -> Result<(), DriverError> {
        self.forget_unable(key);
        let doing = format!("attach {} to {key}", row.program);
        match ensure(prog, ifindex, pinned, pin) {
            Ok(()) => Ok(()),
            Err(error) if cannot(&error) && row.first == Position::IfAble => {
                tracing::info!(%key, %error, "the driver has no XDP; frames go to the stack");
                self.unable.0.insert(key.clone(), (ifindex, row.clone()));
                Ok(())
            }
            Err(error) if cannot(&error) => Err(DriverError::new(format!("{doing}: {error}")).hint(
                "the driver has no native XDP, or not at this MTU or number of queues: set \
                 load_balancer.acceleration = \"best-effort\" to leave such devices out",
            )),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                let other = other(ifindex);
                Err(DriverError::new(format!("{doing}: {other} holds the hook, and is left there")).hint(
                    format!(
                        "detach it (`ip link set dev {} xdp off`, or end its owner), or set \
                     load_balancer.acceleration = \"disabled\"",
                        key.link
                    ),
                ))
            }
            Err(error) => Err(super::named(doing, error)),
        }
    }
}

/// Who runs in a driver, in words.
fn other(ifindex: u32) -> String {
    let Some(id) = program_of_driver(ifindex) else { return "another program".to_owned() };
    let name = ProgFd::by_id(id).and_then(|prog| prog.info()).map(|info| info.name).unwrap_or_default();
    format!("another program ({}, number {id})", whole_name(&name))
}
