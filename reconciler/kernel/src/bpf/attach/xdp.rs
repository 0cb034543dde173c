//! The XDP program of a device, in its driver: never by the kernel's own imitation, which costs more than it
//! saves. A device whose driver has no XDP is said to be one.

use super::tcx::pin_link;
use super::{Known, PinnedLink, open_link, pin_path, wrong};
use crate::bpf::fault::fault;
use crate::bpf::object::whole_name;
use crate::bpf::sys::{LinkInfo, Linked, ProgFd, index_of};
use crate::bpf::{Bpf, pins};
use crate::net::program_of_driver;
use cilium_engine::driver::DriverError;
use cilium_engine::state::{AttachmentKey, AttachmentRow, Position, SetId};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

/// `XDP_FLAGS_DRV_MODE` (include/uapi/linux/if_link.h).
const NATIVE: u32 = 1 << 2;

/// What a driver could not run, and need not. Kept in the pin's place as a symbolic link that leads nowhere, so that
/// whoever looks at the hook sees it, and as long as that: until the program set changes, the device goes, or an
/// agent starts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// Number of the interface.
    ifindex: u32,
    set: String,
    program: String,
    /// The kernel's error.
    errno: i32,
}

/// What the targets of such links begin with.
const REFUSED: &str = "refused";

impl Refused {
    pub(super) fn read(pin: &Path) -> Option<Self> {
        let target = std::fs::read_link(pin).ok()?;
        let mut parts = target.to_str()?.split('/');
        if parts.next()? != REFUSED {
            return None;
        }
        let mut next = || parts.next();
        Some(Self {
            ifindex: next()?.parse().ok()?,
            set: next()?.to_owned(),
            program: next()?.to_owned(),
            errno: next()?.parse().ok()?,
        })
    }

    fn write(&self, pin: &Path) -> io::Result<()> {
        let Self { ifindex, set, program, errno } = self;
        symlink(format!("{REFUSED}/{ifindex}/{set}/{program}/{errno}"), pin)
    }

    /// The row at the hook of the interface that now has this number; of another one it says nothing.
    pub(super) fn row(self, ifindex: Option<u32>) -> AttachmentRow {
        let (set, first) = if ifindex == Some(self.ifindex) {
            (self.set, Position::Unable)
        } else {
            (String::new(), Position::Behind)
        };
        AttachmentRow { program: self.program, set: SetId(set), first }
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

    /// What the driver of a device said when it could not run the program that was wanted, if it need not.
    pub fn why_not_in_driver(&self, key: &AttachmentKey) -> Option<String> {
        let refused = Refused::read(&pin_path(&self.pins, key))?;
        Some(format!("the driver cannot: {}", io::Error::from_raw_os_error(refused.errno)))
    }

    /// Has drivers that could not run a program asked once more.
    pub(in crate::bpf) fn forget_refusals(&self) -> Result<(), DriverError> {
        for name in pins::names(&self.pins.links())? {
            let pin = self.pins.links().join(name);
            if Refused::read(&pin).is_some() {
                pins::remove(&pin)?;
            }
        }
        Ok(())
    }

    /// Makes `prog` run in the driver of a device.
    pub(super) fn accelerate(
        &self,
        prog: &ProgFd,
        key: &AttachmentKey,
        row: &AttachmentRow,
        ifindex: u32,
        pinned: Option<PinnedLink>,
        pin: &Path,
    ) -> Result<(), DriverError> {
        let doing = format!("attach {} to {key}", row.program);
        match ensure(prog, ifindex, pinned, pin) {
            Ok(()) => Ok(()),
            Err(error) if cannot(&error) && row.first == Position::IfAble => {
                tracing::info!(%key, %error, "the driver has no XDP; frames go to the stack");
                let (set, program) = (row.set.0.clone(), row.program.clone());
                let refused =
                    Refused { ifindex, set, program, errno: error.raw_os_error().unwrap_or_default() };
                pins::make_dir(&self.pins.links())?;
                pins::remove(pin)?;
                refused.write(pin).map_err(|e| fault(&e, format!("note that {key} has no XDP")))
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
    let name = ProgFd::by_id(id).and_then(|prog| prog.info()).map(|info| whole_name(&info.name));
    match name {
        Ok(name) if !name.is_empty() => format!("another program ({name}, number {id})"),
        _ => format!("another program (number {id})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_read_as_it_was_written_and_holds_for_one_device() {
        let dir = tempfile::tempdir().unwrap();
        let pin = dir.path().join("eth0_xdp");
        let refused = || Refused { ifindex: 7, set: "ab".into(), program: "p".into(), errno: 95 };
        assert_eq!(Refused::read(&pin), None);
        refused().write(&pin).unwrap();
        assert_eq!(Refused::read(&pin), Some(refused()));
        assert!(!pin.exists(), "it leads nowhere");
        let row = |set: &str, first| AttachmentRow { program: "p".into(), set: SetId(set.into()), first };
        assert_eq!(refused().row(Some(7)), row("ab", Position::Unable));
        for other in [None, Some(8)] {
            assert_eq!(refused().row(other), row("", Position::Behind));
        }
        for target in ["elsewhere", "refused/x/ab/p/95", "refused/7/ab/p", "/refused/7/ab/p/95"] {
            std::fs::remove_file(&pin).unwrap();
            symlink(target, &pin).unwrap();
            assert_eq!(Refused::read(&pin), None, "{target}");
        }
    }
}
