//! Packet counters, summed over CPUs.

use super::fault::fault;
use super::pins::Pins;
use cilium_abi::maps::METRICS;
use cilium_abi::metrics::{MetricsRow, ROWS};
use cilium_engine::driver::DriverError;
use std::path::Path;
use zerocopy::{FromBytes, IntoBytes};

/// Packets of one reason and direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Drop reason, or `cilium_abi::metrics::{FORWARDED, EVENT_LOST}`.
    pub reason: u8,
    /// `cilium_abi::metrics::DIRECTION_`.
    pub direction: u8,
    /// Packets.
    pub packets: u64,
    /// Bytes, link layer included.
    pub bytes: u64,
}

/// All counters that are not zero; none if the map is not there.
///
/// # Errors
/// The map cannot be read.
pub fn read(bpf_dir: &Path) -> Result<Vec<Counter>, DriverError> {
    let pins = Pins { root: bpf_dir.to_path_buf() };
    let Some(map) = pins.open_map(&METRICS)? else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    let mut row = vec![0u8; map.row_size()];
    for index in 0..ROWS.min(map.info.max_entries) {
        map.lookup(index.as_bytes(), &mut row).map_err(|e| fault(&e, "read map cilium_metrics"))?;
        let (packets, bytes) = row
            .chunks_exact(size_of::<MetricsRow>())
            .filter_map(|cpu| MetricsRow::read_from_bytes(cpu).ok())
            .fold((0u64, 0u64), |(p, b), cpu| (p.wrapping_add(cpu.packets), b.wrapping_add(cpu.bytes)));
        if packets != 0 || bytes != 0 {
            let [reason, direction] = [index / 4, index % 4].map(|n| u8::try_from(n).unwrap_or(u8::MAX));
            out.push(Counter { reason, direction, packets, bytes });
        }
    }
    Ok(out)
}
