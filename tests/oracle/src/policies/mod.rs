//! The policy kinds, each read as its own API documents it.

mod cilium;
mod cilium_peers;
mod cilium_ports;
mod kubernetes;
mod tier_peers;
mod tiers;

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use crate::config::Config;
use crate::read::{At, Finding, name_of};
use crate::rule::{Read, RuleId};

/// What is wrong with an object, or not evaluated; empty for kinds that are no policies.
pub fn validate(object: &Value) -> Vec<Finding> {
    if object["kind"] == "CiliumCIDRGroup" {
        return cilium_peers::validate_group(object);
    }
    read(object, &Config::default()).map_or_else(Vec::new, |(_, read)| read.findings())
}

/// Reads a policy; `None` if the object is none.
pub(crate) fn read(object: &Value, config: &Config) -> Option<(RuleId, Read)> {
    let kind = object["kind"].as_str()?;
    let namespaced = matches!(kind, "NetworkPolicy" | "CiliumNetworkPolicy");
    let (namespace, name) = name_of(object);
    let namespace = if namespaced { namespace } else { String::new() };
    let id = RuleId { kind: kind.to_owned(), namespace, name, path: String::new() };
    let root = At::root(object);
    let read = match kind {
        "NetworkPolicy" => kubernetes::read(&root, &id, config),
        "CiliumNetworkPolicy" => cilium::read(&root, &id, cilium::Scope::Namespace, config),
        "CiliumClusterwideNetworkPolicy" => cilium::read(&root, &id, cilium::Scope::Cluster, config),
        "ClusterNetworkPolicy" => tiers::read(&root, &id, tiers::Api::Cluster, config),
        "AdminNetworkPolicy" => tiers::read(&root, &id, tiers::Api::Admin, config),
        "BaselineAdminNetworkPolicy" => tiers::read(&root, &id, tiers::Api::Baseline, config),
        _ => return None,
    };
    Some((id, read))
}

/// `ADDRESS/LENGTH`, bits beyond the length cleared.
pub(crate) fn prefix(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().map(|prefix| prefix.trunc())
}

/// As [`prefix`], or an address alone, which is the prefix of its whole length.
fn prefix_or_address(text: &str) -> Option<IpNet> {
    prefix(text).or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// Whether all of `inner` is in `outer`.
fn contains(outer: &IpNet, inner: &IpNet) -> bool {
    outer.contains(inner)
}
