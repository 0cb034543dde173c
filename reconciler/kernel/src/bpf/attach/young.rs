//! Pods' programs between filter and link.
//!
//! Attaching at TCX waits for an RCU grace period, and holds the lock of all network configuration
//! meanwhile (kernel/bpf/tcx.c: `tcx_entry_sync`): 8 to 16 ms, one pod after the other. A filter of the
//! clsact qdisc is there within 0.2 ms, but costs each packet 90 ns more. So on a pod's link, at a hook
//! where nobody is, the program begins as a filter, and a link at TCX takes over when nobody waits for
//! anything.
//!
//! Both are the same row: the program is the first at the hook. What is yet to be moved is found by looking
//! and kept as a hint. While both are there TCX comes first, and what it redirects or drops is settled. What
//! it leaves to the stack meets the filter too: that is the same packet for the same verdict, since nothing
//! that a pod sends to the stack has been given another source.

use super::{Known, PinnedLink, Tc, clsact, named, open_link, pin_path, tcx, tcx_hook};
use crate::AttachMode;
use crate::bpf::Bpf;
use crate::bpf::fault::fault;
use crate::bpf::sys::{self, Attached, ProgFd};
use cilium_engine::driver::DriverError;
use cilium_engine::state::{AttachmentKey, POD_LINK_PREFIX};
use std::collections::BTreeSet;

/// Hooks whose filter waits to be replaced by a link.
#[derive(Debug, Default)]
pub(in crate::bpf) struct Young(BTreeSet<AttachmentKey>);

impl Young {
    pub(super) fn add(&mut self, key: &AttachmentKey) {
        if !self.0.contains(key) {
            self.0.insert(key.clone());
        }
    }

    pub(super) fn drop(&mut self, key: &AttachmentKey) {
        self.0.remove(key);
    }
}

impl Bpf {
    /// Whether a filter will do for now, where `chain` is at TCX: on a pod's link, if nobody is there, whose
    /// program would come before it.
    pub(super) fn may_be_filter(
        &self,
        key: &AttachmentKey,
        pinned: Option<&PinnedLink>,
        chain: &[Attached],
    ) -> bool {
        let of_pod = key.link.0.starts_with(POD_LINK_PREFIX);
        self.mode == AttachMode::Auto && of_pod && pinned.is_none() && chain.is_empty()
    }

    /// Whether programs of pods wait to be moved to TCX.
    pub fn has_to_move(&self) -> bool {
        !self.young.0.is_empty()
    }

    /// Moves one pod's program from its filter to TCX: 8 to 16 ms. To be called while nobody waits.
    ///
    /// # Errors
    /// The kernel refused. The filter stays, and is tried again after the next whole read.
    pub fn move_one(&mut self) -> Result<(), DriverError> {
        let Some(key) = self.young.0.pop_first() else { return Ok(()) };
        // A pod that is gone has taken its program along.
        let (Some(ifindex), Some(hook)) = (sys::index_of(&key.link.0), tcx_hook(key.hook)) else {
            return Ok(());
        };
        let mut tc = Tc::open()?;
        let Some(prog_id) = clsact::running(&mut tc, ifindex, key.hook)? else { return Ok(()) };
        let doing = || format!("move {key} from a filter to TCX");
        let prog = ProgFd::by_id(prog_id).map_err(|e| fault(&e, doing()))?;
        let known = Known::of(&self.pins);
        let pinned = open_link(&self.pins, &key)?;
        tcx::ensure(&known, &prog, hook, ifindex, pinned, &pin_path(&self.pins, &key))
            .map_err(|e| named(doing(), e))?;
        clsact::remove(&mut tc, ifindex, key.hook)
    }
}
