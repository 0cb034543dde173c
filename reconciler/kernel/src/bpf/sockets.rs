//! Which sockets met a backend through a Service, as the programs of sockets remember it.

use super::pins::Pins;
use super::table::Table;
use cilium_abi::lb::{BackendRow, SOCK_REVERSE, SockRevKey, SockRevRow};
use cilium_abi::{Address, Be16, maps};
use cilium_engine::driver::DriverError;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

/// What `cilium_sock_rev` says. The map forgets what was used longest ago, and sockets that are gone stay
/// in it until then.
pub struct ServiceSockets {
    met: Table<SockRevKey, SockRevRow>,
    backends: Table<u32, BackendRow>,
}

impl ServiceSockets {
    /// Opens the maps; `None`: they are not there.
    ///
    /// # Errors
    /// A map cannot be opened, or has another shape.
    pub fn open(bpf_dir: &Path) -> Result<Option<Self>, DriverError> {
        let pins = Pins { root: bpf_dir.to_path_buf() };
        let (met, backends) = (Table::open(&pins, &maps::SOCK_REV)?, Table::open(&pins, &maps::BACKEND)?);
        Ok(met.zip(backends).map(|(met, backends)| Self { met, backends }))
    }

    /// The ends that sockets met through a Service.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn met(&self) -> Result<BTreeSet<SocketAddr>, DriverError> {
        let mut ends = BTreeSet::new();
        self.met.each_slice(|keys, _| {
            let met = keys.iter().filter(|key| key.kind == SOCK_REVERSE);
            ends.extend(met.map(|key| SocketAddr::new(key.addr.into(), key.port.host())));
            Ok(())
        })?;
        Ok(ends)
    }

    /// Whether a socket with this cookie met this end through a Service.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn has_met(&self, cookie: u64, end: SocketAddr) -> Result<bool, DriverError> {
        let (addr, port) = (Address::from(end.ip()), Be16::new(end.port()));
        let key = SockRevKey { cookie, addr, port, kind: SOCK_REVERSE, reserved: [0; 2] };
        Ok(self.met.find(&key)?.is_some())
    }

    /// The backends there are, with their protocols' numbers.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn backends(&self) -> Result<BTreeSet<(u8, SocketAddr)>, DriverError> {
        let rows = self.backends.dump()?.into_iter();
        Ok(rows.map(|(_, row)| (row.proto, SocketAddr::new(row.addr.into(), row.port.host()))).collect())
    }
}
