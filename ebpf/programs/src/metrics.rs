//! Counting packets and bytes by reason and direction.

use crate::maps::METRICS;
use cilium_abi::metrics::index;

/// Counts one packet of `bytes` bytes.
#[inline(always)]
pub fn count(reason: u8, direction: u8, bytes: u32) {
    if let Some(row) = METRICS.get_ptr_mut(index(reason, direction)) {
        // SAFETY: this CPU's row of a per-CPU array.
        unsafe {
            (*row).packets += 1;
            (*row).bytes += bytes as u64;
        }
    }
}
