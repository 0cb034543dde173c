//! What pods of this node get, as a pass saw it.

use cilium_engine::compile::{pod_cidrs, router_addresses};
use cilium_engine::config::Config;
use cilium_engine::world::World;
use ipnet::IpNet;
use std::net::IpAddr;

/// What pods of this node get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pool {
    /// This node's pod CIDRs.
    pub cidrs: Vec<IpNet>,
    /// Its router addresses: the pods' gateways.
    pub routers: Vec<IpAddr>,
    /// Whether ports of the node lead to them.
    pub host_ports: bool,
}

impl Pool {
    /// What the world says.
    pub(crate) fn of(world: &World, config: &Config) -> Self {
        Self {
            cidrs: pod_cidrs(world, config),
            routers: router_addresses(world, config),
            host_ports: config.load_balancer.kube_proxy_replacement,
        }
    }
}
