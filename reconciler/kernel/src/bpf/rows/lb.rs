//! Rows of load balancing.

use super::Mapped;
use crate::bpf::ifname::Names;
use cilium_abi::Be16;
use cilium_abi::lb;
use cilium_abi::maps::{self, MapSpec};
use cilium_engine::driver::DriverError;
use cilium_engine::state::{
    Backend, BackendId, BackendRow, Frontend, FrontendKey, FrontendRow, ListId, Protocol, RevNat, RevNatId,
    RevNatRow, Slot, SlotKey, TableId,
};

impl Mapped for Backend {
    const MAP: MapSpec = maps::BACKEND;
    type AbiKey = u32;
    type AbiRow = lb::BackendRow;

    fn key_out(key: &BackendId, _: &mut Names) -> Option<u32> {
        Some(key.0)
    }
    fn row_out(_: &BackendId, row: &BackendRow, _: &mut Names) -> Result<lb::BackendRow, DriverError> {
        let BackendRow { addr, port, proto, flags } = *row;
        Ok(lb::BackendRow { addr: addr.into(), port: Be16::new(port), proto: proto.0, flags })
    }
    fn key_in(key: &u32, _: &mut Names) -> Option<BackendId> {
        Some(BackendId(*key))
    }
    fn row_in(row: &lb::BackendRow, _: &mut Names) -> BackendRow {
        let lb::BackendRow { addr, port, proto, flags } = *row;
        BackendRow { addr: addr.into(), port: port.host(), proto: Protocol(proto), flags }
    }
}

impl Mapped for RevNat {
    const MAP: MapSpec = maps::REVNAT;
    type AbiKey = u32;
    type AbiRow = lb::RevNatRow;

    fn key_out(key: &RevNatId, _: &mut Names) -> Option<u32> {
        Some(key.0.into())
    }
    fn row_out(_: &RevNatId, row: &RevNatRow, _: &mut Names) -> Result<lb::RevNatRow, DriverError> {
        Ok(lb::RevNatRow { addr: row.addr.into(), port: Be16::new(row.port), reserved: 0 })
    }
    /// The map's key has 32 bits, of which we write 16: no frontend leads to a greater one.
    fn key_in(key: &u32, _: &mut Names) -> Option<RevNatId> {
        u16::try_from(*key).ok().map(RevNatId)
    }
    fn row_in(row: &lb::RevNatRow, _: &mut Names) -> RevNatRow {
        RevNatRow { addr: row.addr.into(), port: row.port.host() }
    }
}

impl Mapped for Slot {
    const MAP: MapSpec = maps::SLOT;
    type AbiKey = lb::SlotKey;
    type AbiRow = lb::SlotRow;

    fn key_out(key: &SlotKey, _: &mut Names) -> Option<lb::SlotKey> {
        Some(lb::SlotKey { list: key.list.0, slot: key.slot })
    }
    fn row_out(_: &SlotKey, row: &BackendId, _: &mut Names) -> Result<lb::SlotRow, DriverError> {
        Ok(row.0)
    }
    fn key_in(key: &lb::SlotKey, _: &mut Names) -> Option<SlotKey> {
        Some(SlotKey { list: ListId(key.list), slot: key.slot })
    }
    fn row_in(row: &lb::SlotRow, _: &mut Names) -> BackendId {
        BackendId(*row)
    }
}

impl Mapped for Frontend {
    const MAP: MapSpec = maps::FRONTEND;
    type AbiKey = lb::FrontendKey;
    type AbiRow = lb::FrontendRow;

    fn key_out(key: &FrontendKey, _: &mut Names) -> Option<lb::FrontendKey> {
        let FrontendKey { addr, port, proto, scope } = *key;
        Some(lb::FrontendKey { addr: addr.into(), port: Be16::new(port), proto: proto.0, scope })
    }
    fn row_out(_: &FrontendKey, row: &FrontendRow, _: &mut Names) -> Result<lb::FrontendRow, DriverError> {
        let FrontendRow { list, count, rev_nat, flags, maglev, affinity } = *row;
        Ok(lb::FrontendRow { list: list.0, count, rev_nat: rev_nat.0, flags, maglev: maglev.0, affinity })
    }
    fn key_in(key: &lb::FrontendKey, _: &mut Names) -> Option<FrontendKey> {
        let lb::FrontendKey { addr, port, proto, scope } = *key;
        Some(FrontendKey { addr: addr.into(), port: port.host(), proto: Protocol(proto), scope })
    }
    fn row_in(row: &lb::FrontendRow, _: &mut Names) -> FrontendRow {
        let lb::FrontendRow { list, count, rev_nat, flags, maglev, affinity } = *row;
        FrontendRow {
            list: ListId(list),
            count,
            rev_nat: RevNatId(rev_nat),
            flags,
            maglev: TableId(maglev),
            affinity,
        }
    }
}
