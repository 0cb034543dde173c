//! How records stand on disk. Fields are added with a default, never changed.

use cilium_engine::state::{Mac, Protocol};
use cilium_engine::world::{EndpointRecord, HostPort, ObjectName, PortMappings};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

const VERSION: u32 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredRecord {
    version: u32,
    pub(super) boot_id: String,
    id: u16,
    container_id: String,
    network: String,
    ifname: String,
    netns: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod_namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod_uid: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    link: String,
    mac: String,
    node_mac: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ipv4: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ipv6: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    port_mappings: Vec<StoredMapping>,
    /// When they were asked for, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port_mappings_since: Option<u64>,
    /// SHA-256 of the record without this field: a flipped digit makes another address, not an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    check: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct StoredMapping {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host_ip: Option<IpAddr>,
    host_port: u16,
    /// Number of the Internet protocol.
    protocol: u8,
    container_port: u16,
}

impl StoredMapping {
    fn new(port: &HostPort) -> Self {
        let HostPort { ip, port, proto, target } = *port;
        Self { host_ip: ip, host_port: port, protocol: proto.0, container_port: target }
    }

    fn port(self) -> Result<HostPort, String> {
        if self.host_port == 0 || self.container_port == 0 {
            return Err("a port mapping with port 0".into());
        }
        let proto = Protocol(self.protocol);
        if ![Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&proto) {
            return Err(format!("a port mapping of protocol {proto}"));
        }
        Ok(HostPort { ip: self.host_ip, port: self.host_port, proto, target: self.container_port })
    }
}

impl StoredRecord {
    pub(super) fn new(record: &EndpointRecord, boot_id: &str) -> Result<Self, serde_json::Error> {
        let mut stored = Self {
            version: VERSION,
            boot_id: boot_id.to_owned(),
            id: record.id,
            container_id: record.container_id.clone(),
            network: record.network.clone(),
            ifname: record.ifname.clone(),
            netns: record.netns.clone(),
            pod_namespace: record.pod.as_ref().map(|p| p.namespace.to_string()),
            pod_name: record.pod.as_ref().map(|p| p.name.to_string()),
            pod_uid: record.pod_uid.clone(),
            labels: record.labels.clone(),
            link: record.link.clone(),
            mac: record.mac.to_string(),
            node_mac: record.node_mac.to_string(),
            ipv4: record.ipv4,
            ipv6: record.ipv6,
            port_mappings: record.port_mappings.ports.iter().map(StoredMapping::new).collect(),
            port_mappings_since: Some(record.port_mappings.since).filter(|since| *since > 0),
            check: None,
        };
        stored.check = Some(stored.digest()?);
        Ok(stored)
    }

    /// Of everything but `check`.
    fn digest(&self) -> Result<String, serde_json::Error> {
        digest(&Self { check: None, ..self.clone() })
    }

    /// The record, if it makes sense.
    pub(super) fn record(self) -> Result<EndpointRecord, String> {
        if let Some(check) = &self.check
            && *check != self.digest().map_err(|e| e.to_string())?
        {
            return Err("its content does not match its digest".into());
        }
        if self.version != VERSION {
            return Err(format!("version {} is not known", self.version));
        }
        if self.id == 0 {
            return Err("endpoint number 0".into());
        }
        if self.ipv4.is_some_and(|ip| !ip.is_ipv4()) || self.ipv6.is_some_and(|ip| !ip.is_ipv6()) {
            return Err("an address of the wrong family".into());
        }
        // IFNAMSIZ, without the terminating NUL.
        if self.link.is_empty() || self.link.len() > 15 || self.link.contains('/') {
            return Err(format!("`{}` is no name of an interface", self.link));
        }
        let pod = match (self.pod_namespace, self.pod_name) {
            (Some(namespace), Some(name)) => Some(ObjectName::new(&namespace, &name)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err("half a name of a pod".into()),
        };
        Ok(EndpointRecord {
            id: self.id,
            container_id: self.container_id,
            network: self.network,
            ifname: self.ifname,
            netns: self.netns,
            pod,
            pod_uid: self.pod_uid,
            labels: self.labels,
            link: self.link,
            mac: mac(&self.mac)?,
            node_mac: mac(&self.node_mac)?,
            ipv4: self.ipv4,
            ipv6: self.ipv6,
            port_mappings: PortMappings {
                ports: self.port_mappings.into_iter().map(StoredMapping::port).collect::<Result<_, _>>()?,
                since: self.port_mappings_since.unwrap_or(0),
            },
        })
    }
}

fn mac(text: &str) -> Result<Mac, String> {
    let mut out = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut out {
        let part = parts
            .next()
            .filter(|p| p.len() == 2)
            .ok_or_else(|| format!("`{text}` is no hardware address"))?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| format!("`{text}` is no hardware address"))?;
    }
    if parts.next().is_some() { Err(format!("`{text}` is no hardware address")) } else { Ok(Mac(out)) }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredRouter {
    version: u32,
    pub(super) ipv4: Option<IpAddr>,
    pub(super) ipv6: Option<IpAddr>,
    /// As a record's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    check: Option<String>,
}

impl StoredRouter {
    pub(super) fn new(ipv4: Option<IpAddr>, ipv6: Option<IpAddr>) -> Result<Self, serde_json::Error> {
        let mut stored = Self { version: VERSION, ipv4, ipv6, check: None };
        stored.check = Some(digest(&stored)?);
        Ok(stored)
    }

    /// Itself, if it makes sense.
    pub(super) fn checked(self) -> Result<Self, String> {
        let bare = Self { check: None, ..self.clone() };
        if let Some(check) = &self.check
            && *check != digest(&bare).map_err(|e| e.to_string())?
        {
            return Err("its content does not match its digest".into());
        }
        if self.version != VERSION {
            return Err(format!("version {} is not known", self.version));
        }
        if self.ipv4.is_some_and(|ip| !ip.is_ipv4()) || self.ipv6.is_some_and(|ip| !ip.is_ipv6()) {
            return Err("an address of the wrong family".into());
        }
        Ok(self)
    }
}

/// SHA-256 of what is written without its digest (hexadecimal).
fn digest(bare: &impl Serialize) -> Result<String, serde_json::Error> {
    let bytes = serde_json::to_vec(bare)?;
    Ok(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}
