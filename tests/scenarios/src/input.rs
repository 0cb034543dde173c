//! From the sections of a scenario to a world: the ways that real sources take, without files.

use crate::file::Section;
use cilium_crds::lower::{LowerOptions, combine};
use cilium_crds::object::{Object, Reading};
use cilium_engine::config::Config;
use cilium_engine::problem::Problems;
use cilium_engine::state::{LinkName, Mac, Source, SourceSet};
use cilium_engine::world::{Cgroup, EndpointRecord, HostDevice, HostFacts, ObjectName, World};
use ipnet::IpNet;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Everything a pass is given, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    config: String,
    host: String,
    endpoints: String,
    manifests: BTreeMap<String, String>,
}

/// Everything a pass is given, read.
#[derive(Clone, Debug)]
pub struct Known {
    /// The configuration.
    pub config: Config,
    /// The world.
    pub world: World,
}

/// In which order objects come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As written.
    Forward,
    /// The other way round.
    Reversed,
}

impl Inputs {
    /// Takes over the sections that are inputs.
    pub fn change(&mut self, sections: &[Section]) {
        for Section { name, text } in sections {
            match name.as_str() {
                "config.toml" => self.config.clone_from(text),
                "host.toml" => self.host.clone_from(text),
                "endpoints.toml" => self.endpoints.clone_from(text),
                name => {
                    let Some(file) = name.strip_prefix("manifests/") else { continue };
                    if text.is_empty() {
                        self.manifests.remove(file);
                    } else {
                        self.manifests.insert(file.to_owned(), text.clone());
                    }
                }
            }
        }
    }

    /// Reads it all, with these sources not synced.
    pub fn read(&self, unsynced: &str, order: Order) -> Result<Known, String> {
        let config = self.config()?;
        Ok(Known { world: self.world(&config, unsynced, order)?, config })
    }

    fn config(&self) -> Result<Config, String> {
        let config: Config = toml::from_str(&self.config).map_err(|e| format!("config.toml: {e}"))?;
        match config.validate().first() {
            None => Ok(config),
            Some(fault) => Err(format!("config.toml: {fault:?}")),
        }
    }

    fn world(&self, config: &Config, unsynced: &str, order: Order) -> Result<World, String> {
        let mut problems = Problems::default();
        let mut objects: Vec<Arc<Object>> = Vec::new();
        for (name, text) in &self.manifests {
            let file = cilium_crds::read_file(text.as_bytes(), name);
            problems.extend(file.broken);
            for reading in file.readings {
                match reading {
                    Reading::Object(object, _) => objects.push(Arc::new(*object)),
                    Reading::Nameless(problem) | Reading::Other(Some(problem)) => problems.add(problem),
                    Reading::Other(None) => {}
                }
            }
        }
        if order == Order::Reversed {
            objects.reverse();
        }
        let options = LowerOptions { node_name: config.node.name.clone(), invalid: config.policy.invalid };
        let pieces = combine(&objects, &options);
        problems.extend(pieces.problems.iter().cloned());
        Ok(World {
            synced: synced(unsynced)?,
            namespaces: pieces.namespaces,
            nodes: pieces.nodes,
            pods: pieces.pods,
            services: pieces.services,
            slices: pieces.slices,
            cidr_groups: pieces.cidr_groups,
            rules: pieces.rules,
            claims: pieces.claims,
            remote_endpoints: pieces.remote_endpoints,
            endpoints: self.endpoints()?.into_iter().map(|(id, record)| (id, record.into())).collect(),
            host: self.host()?,
            problems,
        })
    }

    fn host(&self) -> Result<HostFacts, String> {
        let host: HostText = toml::from_str(&self.host).map_err(|e| format!("host.toml: {e}"))?;
        let device = |d: DeviceText| {
            Ok(HostDevice {
                name: LinkName(d.name),
                mac: Some(mac(&d.mac)?),
                mtu: d.mtu,
                addresses: d.addresses,
                default_route: d.default_route,
                is_veth: false,
            })
        };
        Ok(HostFacts {
            devices: host.device.into_iter().map(device).collect::<Result<_, String>>()?,
            object_digest: "0123456789abcdef".to_owned(),
            boot_id: "boot".to_owned(),
            cgroup: match host.cgroup {
                None => Cgroup::Unknown,
                Some(dir) if dir.is_empty() => Cgroup::Missing("no cgroup2 is mounted".to_owned()),
                Some(dir) => Cgroup::At(dir.into()),
            },
            netns_cookie: 0,
        })
    }

    fn endpoints(&self) -> Result<BTreeMap<u16, EndpointRecord>, String> {
        let text: EndpointsText =
            toml::from_str(&self.endpoints).map_err(|e| format!("endpoints.toml: {e}"))?;
        text.endpoint.into_iter().map(|e| Ok((e.id, e.record()?))).collect()
    }
}

fn synced(unsynced: &str) -> Result<SourceSet, String> {
    let mut out = SourceSet::default();
    let names: Vec<&str> = unsynced.lines().map(str::trim).collect();
    if let Some(name) = names.iter().find(|name| Source::LIST.iter().all(|s| s.name() != **name)) {
        return Err(format!("unsynced: there is no source {name:?}"));
    }
    for source in Source::LIST.iter().filter(|s| !names.contains(&s.name())) {
        out = out.with(*source);
    }
    Ok(out)
}

fn mac(text: &str) -> Result<Mac, String> {
    let bytes: Result<Vec<u8>, _> = text.split(':').map(|part| u8::from_str_radix(part, 16)).collect();
    let bytes = bytes.ok().and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
    bytes.map(Mac).ok_or_else(|| format!("{text:?} is no hardware address"))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HostText {
    device: Vec<DeviceText>,
    /// Directory of the cgroup of sockets; empty: there is no cgroup2; none: nobody looked.
    cgroup: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceText {
    name: String,
    mac: String,
    #[serde(default = "ethernet")]
    mtu: u32,
    #[serde(default)]
    addresses: Vec<IpNet>,
    #[serde(default)]
    default_route: bool,
}

fn ethernet() -> u32 {
    1500
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EndpointsText {
    endpoint: Vec<EndpointText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointText {
    id: u16,
    pod: String,
    ipv4: Option<IpAddr>,
    ipv6: Option<IpAddr>,
}

impl EndpointText {
    fn record(self) -> Result<EndpointRecord, String> {
        let (namespace, name) =
            self.pod.split_once('/').ok_or_else(|| format!("{:?} has no namespace", self.pod))?;
        let [high, low] = self.id.to_be_bytes();
        Ok(EndpointRecord {
            id: self.id,
            container_id: format!("container{}", self.id),
            network: "cilium".to_owned(),
            ifname: "eth0".to_owned(),
            netns: format!("/run/netns/{name}").into(),
            pod: Some(ObjectName::new(namespace, name)),
            pod_uid: None,
            labels: BTreeMap::new(),
            link: format!("lxc{:04x}", self.id),
            mac: Mac([2, 0, 0, 1, high, low]),
            node_mac: Mac([2, 0, 0, 2, high, low]),
            ipv4: self.ipv4,
            ipv6: self.ipv6,
            port_mappings: Default::default(),
        })
    }
}
