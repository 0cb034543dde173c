//! Looking a packet up in the rows of one node.

use crate::site::{address, config, world};
use cilium_abi::policy::{
    ALLOW, DENY, EGRESS, NONE, PolicyKey as AbiKey, PolicyRow as AbiRow, UNALLOWED, decide,
};
use cilium_abi::{Be16, endpoint, identity};
use cilium_engine::compile::{IdBook, compile};
use cilium_engine::config::Config;
use cilium_engine::state::{self, IdentityId, LinkName, PolicyId, State};
use cilium_tests_oracle::worlds::Draft;
use cilium_tests_oracle::{Direction, Family, Packet, Party, Protocol, Reserved};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What the rows say at one end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passes.
    Passes,
    /// It is dropped for this reason.
    Drops(u8),
}

/// One node's rows.
#[derive(Debug)]
pub struct Side {
    config: Config,
    state: State,
    pods: Vec<Value>,
    /// Addresses of nodes by name.
    nodes: BTreeMap<String, IpAddr>,
}

impl Side {
    /// Compiles a draft on one of its nodes.
    pub(crate) fn of(draft: &Draft, node: &str) -> Self {
        let config = config(draft, node);
        let compiled = compile(&world(draft, node), &config, &IdBook::default());
        let of = |kind: &'static str| draft.objects.iter().filter(move |object| object["kind"] == kind);
        let nodes = of("Node").filter_map(|node| {
            let address = node["status"]["addresses"][0]["address"].as_str()?.parse().ok()?;
            Some((node["metadata"]["name"].as_str()?.to_owned(), address))
        });
        let nodes = nodes.collect();
        let pods = of("Pod").cloned().collect();
        Self { config, state: compiled.desired.state, pods, nodes }
    }

    pub(crate) fn verdict(&self, packet: &Packet, direction: Direction) -> Option<Outcome> {
        let (subject, peer) = match direction {
            Direction::Egress => (&packet.from, &packet.to),
            Direction::Ingress => (&packet.to, &packet.from),
        };
        let link = self.endpoint(subject, packet.family)?;
        let config = self.state.endpoint_configs.find(&link)?;
        let (open, bit, of) = match direction {
            Direction::Ingress => (endpoint::CONFIG_OPEN_INGRESS, 0, state::Direction::Ingress),
            Direction::Egress => (endpoint::CONFIG_OPEN_EGRESS, EGRESS, state::Direction::Egress),
        };
        if config.flags & open != 0 {
            return Some(Outcome::Passes);
        }
        let peer = self.identity(peer, packet.family);
        let is_own_node = direction == Direction::Ingress && peer == identity::HOST;
        let lookup = |key: &AbiKey| {
            let key = state::PolicyKey {
                policy: PolicyId(key.policy_id),
                direction: of,
                identity: IdentityId(key.identity),
                proto: state::Protocol(key.proto),
                port: key.port.host(),
                port_len: key.dir_len & !EGRESS,
            };
            self.state.policies.find(&key).map(|row| AbiRow {
                verdict: row.verdict,
                lengths: row.lengths,
                precedence: row.precedence,
                cookie: row.cookie.0,
                ..AbiRow::default()
            })
        };
        let found =
            decide(lookup, config.policy.0, bit, peer, number(packet.protocol), Be16::new(packet.port));
        Some(match found.row.verdict {
            ALLOW => Outcome::Passes,
            DENY => Outcome::Drops(181),
            NONE | UNALLOWED if is_own_node && self.config.policy.localhost_always_allowed() => {
                Outcome::Passes
            }
            NONE | UNALLOWED => Outcome::Drops(133),
            other => panic!("{other} is no verdict"),
        })
    }

    fn pod(&self, party: &Party) -> Option<&Value> {
        let Party::Pod { namespace, name, .. } = party else { return None };
        let is =
            |pod: &&Value| pod["metadata"]["namespace"] == **namespace && pod["metadata"]["name"] == **name;
        self.pods.iter().find(is)
    }

    /// The link of the endpoint that a party is on this node.
    fn endpoint(&self, party: &Party, family: Family) -> Option<LinkName> {
        let address = match self.pod(party) {
            Some(pod) => address(pod, family == Family::V4)?,
            None => return None,
        };
        let has = |row: &state::EndpointConfigRow| row.ipv4 == Some(address) || row.ipv6 == Some(address);
        let mut all = self.state.endpoint_configs.iter().filter(|(_, entry)| has(&entry.row));
        all.next().map(|(link, _)| link.clone())
    }

    fn identity(&self, party: &Party, family: Family) -> u32 {
        let node = |name: &str| self.nodes.get(name).map_or(identity::UNMANAGED, |address| self.at(*address));
        match party {
            Party::Pod { .. } => match self.pod(party) {
                Some(pod) if pod["spec"]["hostNetwork"] == true => {
                    node(pod["spec"]["nodeName"].as_str().unwrap_or_default())
                }
                Some(pod) => address(pod, family == Family::V4).map_or(identity::UNMANAGED, |ip| self.at(ip)),
                None => identity::UNMANAGED,
            },
            Party::Host => node("here"),
            Party::Node(name) => node(name),
            Party::Address(ip) => self.at(*ip),
            Party::Reserved { identity, .. } => match identity {
                Reserved::Health => identity::HEALTH,
                Reserved::Init => identity::INIT,
                Reserved::Ingress => identity::INGRESS,
                Reserved::Unmanaged => identity::UNMANAGED,
            },
        }
    }

    /// Who is at an address: the longest prefix that has a row, else the world.
    fn at(&self, ip: IpAddr) -> u32 {
        let around = self.state.ipcache.iter().filter(|(key, _)| key.0.contains(&ip));
        let row = around.max_by_key(|(key, _)| key.0.prefix_len()).map(|(_, entry)| entry.row.identity.0);
        row.unwrap_or(if ip.is_ipv4() { identity::WORLD_IPV4 } else { identity::WORLD_IPV6 })
    }
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
        Protocol::Icmp => 1,
        Protocol::IcmpV6 => 58,
        Protocol::Other(number) => number,
    }
}
