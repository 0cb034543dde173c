//! Rows of endpoints: by address, and by interface.

use super::{Mapped, mac_in, mac_out, optional_in, optional_out};
use crate::bpf::ifname::Names;
use cilium_abi::Address;
use cilium_abi::endpoint::{self as abi, ENDPOINT_HOST};
use cilium_abi::maps::{self, MapSpec};
use cilium_engine::driver::DriverError;
use cilium_engine::state::{
    Endpoint, EndpointConfig, EndpointConfigRow, EndpointId, EndpointKey, EndpointRow, IdentityId, LinkName,
    PolicyId,
};

impl Mapped for Endpoint {
    const MAP: MapSpec = maps::ENDPOINT;
    const REVISED: bool = true;
    type AbiKey = Address;
    type AbiRow = abi::EndpointRow;

    fn key_out(key: &EndpointKey, _: &mut Names) -> Option<Address> {
        Some(key.0.into())
    }
    fn row_out(
        _: &EndpointKey,
        row: &EndpointRow,
        names: &mut Names,
    ) -> Result<abi::EndpointRow, DriverError> {
        Ok(match row {
            EndpointRow::Host { identity } => {
                abi::EndpointRow { identity: identity.0, flags: ENDPOINT_HOST, ..abi::EndpointRow::default() }
            }
            EndpointRow::Pod { link, endpoint, identity, mac, node_mac } => abi::EndpointRow {
                ifindex: names.number(link)?,
                identity: identity.0,
                endpoint_id: endpoint.0,
                flags: 0,
                mac: mac_out(*mac),
                node_mac: mac_out(*node_mac),
            },
        })
    }
    fn key_in(key: &Address, _: &mut Names) -> Option<EndpointKey> {
        Some(EndpointKey((*key).into()))
    }
    /// A row that is neither exactly a host's nor a pod's is shown as a pod on no interface, which no
    /// wanted row equals.
    fn row_in(row: &abi::EndpointRow, names: &mut Names) -> EndpointRow {
        let abi::EndpointRow { ifindex, identity, endpoint_id, flags, mac, node_mac } = *row;
        let identity = IdentityId(identity);
        let host =
            abi::EndpointRow { identity: identity.0, flags: ENDPOINT_HOST, ..abi::EndpointRow::default() };
        if *row == host {
            return EndpointRow::Host { identity };
        }
        let link = if flags == 0 { names.name(ifindex) } else { LinkName(format!("flags:{flags:#x}")) };
        EndpointRow::Pod {
            link,
            endpoint: EndpointId(endpoint_id),
            identity,
            mac: mac_in(mac),
            node_mac: mac_in(node_mac),
        }
    }
}

impl Mapped for EndpointConfig {
    const MAP: MapSpec = maps::EP_CONFIG;
    const REVISED: bool = true;
    type AbiKey = u32;
    type AbiRow = abi::EndpointConfigRow;

    fn key_out(key: &LinkName, names: &mut Names) -> Option<u32> {
        names.find(key)
    }
    fn row_out(
        _: &LinkName,
        row: &EndpointConfigRow,
        _: &mut Names,
    ) -> Result<abi::EndpointConfigRow, DriverError> {
        let EndpointConfigRow { endpoint, identity, policy, flags, ipv4, ipv6, mac, node_mac } = *row;
        Ok(abi::EndpointConfigRow {
            endpoint_id: endpoint.0,
            flags,
            identity: identity.0,
            policy_id: policy.0,
            ipv4: optional_out(ipv4),
            ipv6: optional_out(ipv6),
            mac: mac_out(mac),
            node_mac: mac_out(node_mac),
        })
    }
    fn key_in(key: &u32, names: &mut Names) -> Option<LinkName> {
        Some(names.name(*key))
    }
    fn row_in(row: &abi::EndpointConfigRow, _: &mut Names) -> EndpointConfigRow {
        let abi::EndpointConfigRow { endpoint_id, flags, identity, policy_id, ipv4, ipv6, mac, node_mac } =
            *row;
        EndpointConfigRow {
            endpoint: EndpointId(endpoint_id),
            identity: IdentityId(identity),
            policy: PolicyId(policy_id),
            flags,
            ipv4: optional_in(ipv4),
            ipv6: optional_in(ipv6),
            mac: mac_in(mac),
            node_mac: mac_in(node_mac),
        }
    }
}
