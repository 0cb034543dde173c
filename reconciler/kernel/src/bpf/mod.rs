//! BPF on this host: maps and their rows, program sets, attachments; and what the command line reads.
//!
//! [`Bpf`] implements [`cilium_engine::driver::Driver`] for every kind that lives in BPF. It keeps
//! nothing between two calls but where the pins are, maps that are open while their pin is the same, and which
//! pods' programs are yet to be moved to TCX ([`Bpf::move_one`]): each call reads the kernel anew. Never: a decision, or a change to anything that
//! is not under `bpf_dir` or attached by us.
//!
//! Start at `shape` (maps), `rows` (their content), `set` (programs), `attach` (where they run). For
//! reading only, without an agent: [`dump`], [`counters`], [`programs`], [`events`]; [`gc`] sweeps
//! what the programs themselves write.

#![deny(unsafe_code)]

mod attach;
pub mod counters;
pub mod dump;
pub mod events;
mod fault;
pub mod gc;
mod ifname;
mod object;
mod opened;
mod pins;
pub mod programs;
mod rows;
mod set;
mod shape;
mod show;
pub mod sockets;
mod sys;
mod table;

use crate::AttachMode;
use cilium_abi::maps;
use cilium_engine::driver::{Driver, DriverError, Scope, Step};
use cilium_engine::state;
use fault::fault;
pub use object::object_digest;
use opened::Opened;
use pins::Pins;
use std::path::Path;
use table::Table;

/// The BPF drivers.
#[derive(Debug)]
pub struct Bpf {
    pins: Pins,
    opened: Opened,
    mode: AttachMode,
    /// This kernel has TCX.
    tcx: bool,
    /// Pods' programs that are not at TCX yet.
    young: attach::Young,
    /// Where programs of sockets are attached.
    cgroup: attach::cgroup::Root,
}

impl Bpf {
    /// Remembers where the pins are; changes nothing.
    ///
    /// # Errors
    /// `bpf_dir` is not on a mounted bpffs.
    pub fn open(bpf_dir: &Path, mode: AttachMode) -> Result<Self, DriverError> {
        let nearest = bpf_dir.ancestors().find(|dir| dir.exists()).unwrap_or(bpf_dir);
        let mounted =
            sys::is_bpffs(nearest).map_err(|e| fault(&e, format!("look at {}", nearest.display())))?;
        if !mounted {
            return Err(DriverError::new(format!("{} is not on a mounted bpffs", bpf_dir.display()))
                .hint("mount -t bpf bpf /sys/fs/bpf, or set paths.bpf_dir to a directory on one"));
        }
        let young = attach::Young::default();
        let pins = Pins { root: bpf_dir.to_path_buf() };
        Ok(Self {
            pins,
            opened: Opened::default(),
            mode,
            tcx: attach::has_tcx(),
            young,
            cgroup: attach::cgroup::Root::default(),
        })
    }

    /// To be called once when an agent starts, before its first pass: identities and verdicts that
    /// connections remember from before are looked up again (where a map is already), and drivers that could not
    /// run a program are asked again.
    ///
    /// # Errors
    /// The revision cannot be written, or a pin not removed.
    pub fn start(&mut self) -> Result<(), DriverError> {
        self.forget_refusals()?;
        match shape::state_of(&self.pins, &maps::REVISION)? {
            shape::PinState::Usable => self.raise_revision(),
            shape::PinState::Missing | shape::PinState::Misshapen => Ok(()),
        }
    }

    /// Raises the revision, so that what connections remember of identities and verdicts is looked up
    /// again. To be called after the write that it tells of, also after one that failed in part.
    /// Never below the clock, so that a map made anew does not come back to what older entries remember.
    fn raise_revision(&self) -> Result<(), DriverError> {
        let Some(table) = Table::<u32, u32>::open(&self.pins, &maps::REVISION)? else {
            return Err(DriverError::new("raise the revision: map cilium_revision is not pinned"));
        };
        let now = table.find(&cilium_abi::node::REVISION)?.unwrap_or(0);
        table.write(&cilium_abi::node::REVISION, &now.wrapping_add(1).max(sys::centiseconds()).max(1))
    }
}

macro_rules! mapped {
    ($($resource:ident),* $(,)?) => {$(
        impl Driver<state::$resource> for Bpf {
            fn observe(
                &mut self,
                scope: &Scope<<state::$resource as state::Resource>::Key>,
            ) -> Result<Vec<rows::Pair<state::$resource>>, DriverError> {
                rows::observe::<state::$resource>(self, scope)
            }
            fn apply(&mut self, steps: &[Step<state::$resource>]) -> Vec<Result<(), DriverError>> {
                rows::apply::<state::$resource>(self, steps)
            }
        }
    )*};
}
mapped!(
    Device,
    Backend,
    RevNat,
    Slot,
    Frontend,
    IdentityDigest,
    Policy,
    PolicyDigest,
    Endpoint,
    EndpointConfig
);

macro_rules! in_kernel {
    ($($resource:ident),* $(,)?) => {$(
        impl Driver<state::$resource> for crate::Kernel {
            fn observe(
                &mut self,
                scope: &Scope<<state::$resource as state::Resource>::Key>,
            ) -> Result<Vec<rows::Pair<state::$resource>>, DriverError> {
                Driver::<state::$resource>::observe(&mut self.bpf, scope)
            }
            fn apply(&mut self, steps: &[Step<state::$resource>]) -> Vec<Result<(), DriverError>> {
                Driver::<state::$resource>::apply(&mut self.bpf, steps)
            }
        }
    )*};
}
in_kernel!(
    BpfMap,
    ProgramSet,
    Runtime,
    Device,
    Attachment,
    Backend,
    RevNat,
    Slot,
    SourceRange,
    MaglevTable,
    Frontend,
    SocketProgram,
    IdentityDigest,
    Policy,
    PolicyDigest,
    Ipcache,
    Endpoint,
    EndpointConfig,
);
