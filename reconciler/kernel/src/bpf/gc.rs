//! Sweeping out what the programs write and nobody else removes: connections and translations whose
//! time is over. The maps evict by themselves when full; sweeping keeps them from filling with the
//! dead. An expired row is read once more just before it is deleted: a packet may have revived it.

use super::fault::fault;
use super::pins::Pins;
use super::sys;
use super::table::Table;
use cilium_abi::ct::{CtKey, CtRow, KIND_CONNECTION, Tuple};
use cilium_abi::maps::{CT_ANY, CT_TCP, MapSpec, SNAT};
use cilium_abi::proto;
use cilium_abi::snat::{IN, SNAT_HOST, SnatKey, SnatRow};
use cilium_engine::driver::DriverError;
use std::path::Path;

/// What a sweep found in one map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Rows read.
    pub scanned: u64,
    /// Rows removed.
    pub deleted: u64,
    /// Rows left.
    pub alive: u64,
    /// Rows that looked expired and were revived before they were removed.
    pub revived: u64,
}

/// The clock of `expires`, `created` and `used`: seconds since boot, suspended time left out.
pub fn now_seconds() -> u32 {
    sys::coarse_seconds()
}

/// How long a translation without a live connection is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle {
    /// Of the node's own TCP connections, which conntrack does not follow; seconds.
    pub host_tcp: u32,
    /// Of all else; seconds.
    pub any: u32,
}

/// Sweeps both conntrack maps; the reports are by map name. Maps that are not there are left out.
///
/// # Errors
/// A map cannot be read or written.
pub fn conntrack(bpf_dir: &Path, now: u32) -> Result<Vec<(&'static str, GcReport)>, DriverError> {
    let pins = Pins { root: bpf_dir.to_path_buf() };
    let mut out = Vec::new();
    for spec in [CT_TCP, CT_ANY] {
        if let Some(table) = Table::<CtKey, CtRow>::open(&pins, &spec)? {
            out.push((spec.name, sweep(&table, |_, row| expired(row.expires, now))?));
        }
    }
    Ok(out)
}

/// Sweeps the masquerading map: a translation whose connection is gone and that was idle for as long
/// as `idle` says. `None`: the map is not there.
///
/// # Errors
/// A map cannot be read or written.
pub fn snat(bpf_dir: &Path, now: u32, idle: Idle) -> Result<Option<GcReport>, DriverError> {
    let pins = Pins { root: bpf_dir.to_path_buf() };
    let Some(table) = Table::<SnatKey, SnatRow>::open(&pins, &SNAT)? else { return Ok(None) };
    let open = |spec: &MapSpec| Table::<CtKey, CtRow>::open(&pins, spec);
    let (tcp, any) = (open(&CT_TCP)?, open(&CT_ANY)?);
    let connected = |key: &CtKey| -> Result<bool, DriverError> {
        let table = if key.proto == proto::TCP { &tcp } else { &any };
        let row = table.as_ref().map(|table| table.find(key)).transpose()?.flatten();
        Ok(row.is_some_and(|row| !expired(row.expires, now)))
    };
    let mut failed = None;
    let report = sweep(&table, |key, row| {
        let host = row.flags & SNAT_HOST != 0;
        let lifetime = if host && key.proto == proto::TCP { idle.host_tcp } else { idle.any };
        if !expired(row.used.max(row.created).saturating_add(lifetime), now) {
            return false;
        }
        host || !connected(&connection(key, row)).unwrap_or_else(|e| {
            failed.get_or_insert(e);
            true
        })
    })?;
    match failed {
        Some(e) => Err(e),
        None => Ok(Some(report)),
    }
}

/// The connection that a translation is for, as conntrack names it: between the pod and its peer.
fn connection(key: &SnatKey, row: &SnatRow) -> CtKey {
    let tuple = if key.dir != IN {
        Tuple { src: key.src, dst: key.dst, src_port: key.src_port, dst_port: key.dst_port, proto: key.proto }
    } else {
        Tuple { src: row.addr, dst: key.src, src_port: row.port, dst_port: key.src_port, proto: key.proto }
    };
    tuple.key(KIND_CONNECTION).0
}

/// A row's last second is still its own.
fn expired(expires: u32, now: u32) -> bool {
    expires < now
}

fn sweep<K: super::table::Plain, V: super::table::Plain>(
    table: &Table<K, V>,
    mut dead: impl FnMut(&K, &V) -> bool,
) -> Result<GcReport, DriverError> {
    let mut report = GcReport::default();
    table.each_slice(|keys, rows| {
        report.scanned += keys.len() as u64;
        for (key, row) in keys.iter().zip(rows) {
            if !dead(key, row) {
                continue;
            }
            match table.find(key)? {
                Some(row) if dead(key, &row) => {
                    table.remove(key).map_err(|e| fault(&e, "remove an expired row"))?;
                    report.deleted += 1;
                }
                Some(_) => report.revived += 1,
                None => {}
            }
        }
        Ok(())
    })?;
    report.alive = report.scanned - report.deleted;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cilium_abi::snat::{FRONTEND, OUT};
    use cilium_abi::{Address, Be16};
    use std::net::IpAddr;

    #[test]
    fn both_halves_of_a_translation_name_one_connection() {
        let ip = |s: &str| Address::from(s.parse::<IpAddr>().unwrap());
        let (pod, peer, node) = (ip("10.1.0.5"), ip("1.1.1.1"), ip("192.168.0.1"));
        let (from, to, new) = (Be16::new(40_000), Be16::new(443), Be16::new(50_000));
        let key = |src, dst, src_port, dst_port, dir| SnatKey {
            src,
            dst,
            src_port,
            dst_port,
            proto: 6,
            dir,
            reserved: 0,
        };
        let row = |addr, port| SnatRow { addr, port, ..SnatRow::default() };
        let out = connection(&key(pod, peer, from, to, OUT), &row(node, new));
        let back = connection(&key(peer, node, to, new, IN), &row(pod, from));
        let frontend = connection(&key(pod, peer, from, to, FRONTEND), &row(node, new));
        assert_eq!((out, out), (back, frontend));
    }
}
