//! Facts of the node: devices, and the one runtime row.

use super::{Mapped, mac_in, mac_out, open_readable, open_writable, optional_in, optional_out};
use crate::bpf::Bpf;
use crate::bpf::ifname::Names;
use crate::bpf::table::Table;
use cilium_abi::maps::{self, MapSpec};
use cilium_abi::node as abi;
use cilium_engine::driver::{Driver, DriverError, Scope, Step};
use cilium_engine::state::{Device, DeviceRow, LinkName, Only, Runtime, RuntimeRow};

impl Mapped for Device {
    const MAP: MapSpec = maps::DEVICE;
    type AbiKey = u32;
    type AbiRow = abi::DeviceRow;

    fn key_out(key: &LinkName, names: &mut Names) -> Option<u32> {
        names.find(key)
    }
    fn row_out(_: &LinkName, row: &DeviceRow, _: &mut Names) -> Result<abi::DeviceRow, DriverError> {
        let DeviceRow { ipv4, ipv6, mac, flags } = *row;
        Ok(abi::DeviceRow {
            flags,
            ipv4: optional_out(ipv4),
            ipv6: optional_out(ipv6),
            mac: mac_out(mac),
            reserved: 0,
        })
    }
    fn key_in(key: &u32, names: &mut Names) -> Option<LinkName> {
        Some(names.name(*key))
    }
    fn row_in(row: &abi::DeviceRow, _: &mut Names) -> DeviceRow {
        let abi::DeviceRow { flags, ipv4, ipv6, mac, reserved: _ } = *row;
        DeviceRow { ipv4: optional_in(ipv4), ipv6: optional_in(ipv6), mac: mac_in(mac), flags }
    }
}

/// An array's row cannot be removed: all zeroes mean that there is none.
const NO_ROW: abi::RuntimeRow =
    abi::RuntimeRow { host_ifindex: 0, overlay_ifindex: 0, host_mac: cilium_abi::Mac([0; 6]), reserved: 0 };

impl Driver<Runtime> for Bpf {
    fn observe(&mut self, scope: &Scope<Only>) -> Result<Vec<(Only, RuntimeRow)>, DriverError> {
        if let Scope::Keys(keys) = scope
            && keys.is_empty()
        {
            return Ok(Vec::new());
        }
        let Some(table): Option<Table<u32, abi::RuntimeRow>> = open_readable(self, &maps::RUNTIME)? else {
            return Ok(Vec::new());
        };
        let mut names = Names::default();
        let row = table.find(&0)?.filter(|row| *row != NO_ROW);
        Ok(row
            .map(|abi::RuntimeRow { host_ifindex, overlay_ifindex, host_mac, reserved: _ }| {
                let overlay = (overlay_ifindex != 0).then(|| names.name(overlay_ifindex));
                (Only, RuntimeRow { host: names.name(host_ifindex), overlay, host_mac: mac_in(host_mac) })
            })
            .into_iter()
            .collect())
    }

    fn apply(&mut self, steps: &[Step<Runtime>]) -> Vec<Result<(), DriverError>> {
        let mut names = Names::default();
        steps
            .iter()
            .map(|step| {
                let table: Table<u32, abi::RuntimeRow> = open_writable(self, &maps::RUNTIME)?;
                let row = match step {
                    Step::Create { row, .. } | Step::Update { row, .. } => abi::RuntimeRow {
                        host_ifindex: names.number(&row.host)?,
                        overlay_ifindex: row
                            .overlay
                            .as_ref()
                            .map(|link| names.number(link))
                            .transpose()?
                            .unwrap_or(0),
                        host_mac: mac_out(row.host_mac),
                        reserved: 0,
                    },
                    Step::Remove { .. } => NO_ROW,
                };
                table.write(&0, &row)
            })
            .collect()
    }
}
