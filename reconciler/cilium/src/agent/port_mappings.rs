//! Ports of the node that a runtime asks for with an attachment: as its record holds them, and whether they
//! are in force.

use cilium_abi::lb::{FRONTEND_HOST_PORT, SCOPE_EXTERNAL};
use cilium_cni::error::{CHECK_FAILED, CniError};
use cilium_cni::wire::{PortMapping, Transport};
use cilium_engine::compile::View;
use cilium_engine::state::{FrontendKey, Protocol};
use cilium_engine::world::{EndpointRecord, HostPort, PortMappings};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

fn port(mapping: &PortMapping) -> HostPort {
    let proto = match mapping.protocol {
        Transport::Tcp => Protocol::TCP,
        Transport::Udp => Protocol::UDP,
        Transport::Sctp => Protocol::SCTP,
    };
    HostPort {
        ip: mapping.host_ip,
        port: mapping.host_port.get(),
        proto,
        target: mapping.container_port.get(),
    }
}

/// As a record holds them. Who asks for nothing has no age: his record is as older agents know it.
pub(super) fn asked(mappings: &[PortMapping], now: SystemTime) -> PortMappings {
    if mappings.is_empty() {
        return PortMappings::default();
    }
    let since =
        now.duration_since(UNIX_EPOCH).map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
    PortMappings { ports: mappings.iter().map(port).collect(), since }
}

/// Whether an attachment has the ports of the node that it should have, and they lead to it.
///
/// # Errors
/// It was attached with others, or somebody else has one.
pub(super) fn check(record: &EndpointRecord, wanted: &[PortMapping], view: &View) -> Result<(), CniError> {
    let failed = |details: String| {
        Err(CniError::new(CHECK_FAILED, "a port of the node does not lead to the container").details(details))
    };
    for port in wanted.iter().map(port) {
        if !record.port_mappings.ports.contains(&port) {
            return failed(format!("{} was not asked for when it was attached", name(&port)));
        }
    }
    for port in &record.port_mappings.ports {
        for ip in record.ipv4.into_iter().chain(record.ipv6).filter(|ip| in_family(port, *ip)) {
            let Some(front) = view.services.get(&frontend(port, ip)) else {
                return failed(format!("{} is not served for {ip}", name(port)));
            };
            if !front.backends.iter().any(|backend| (backend.addr, backend.port) == (ip, port.target)) {
                let what = if front.flags & FRONTEND_HOST_PORT == 0 { "Service" } else { "Pod" };
                return failed(format!("{} belongs to {what} {}", name(port), front.service));
            }
        }
    }
    Ok(())
}

fn in_family(port: &HostPort, ip: IpAddr) -> bool {
    port.ip.is_none_or(|host| host.is_ipv4() == ip.is_ipv4())
}

/// The frontend that tells who has a port: of the address asked for, or of that which stands for all.
fn frontend(port: &HostPort, of: IpAddr) -> FrontendKey {
    let all: IpAddr = if of.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    FrontendKey { addr: port.ip.unwrap_or(all), port: port.port, proto: port.proto, scope: SCOPE_EXTERNAL }
}

fn name(port: &HostPort) -> String {
    match port.ip {
        Some(ip) => format!("{}/{}", SocketAddr::new(ip, port.port), port.proto),
        None => format!("{}/{}", port.port, port.proto),
    }
}
