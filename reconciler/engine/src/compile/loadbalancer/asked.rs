//! Which frontends Services and pods ask for, and who of several gets one.

use super::directory::Guest;
use crate::compile::site::{Family, Site};
use crate::config::{Config, SourceKind};
use crate::state::{FrontendKey, Protocol};
use crate::world::{Allocation, Created, FrontendKind, IpFamily, Name, Service, ServicePort, TrafficPolicy};
use cilium_abi::lb::{
    FRONTEND_CLUSTER_IP, FRONTEND_EXTERNAL, FRONTEND_EXTERNAL_IP, FRONTEND_HOST_PORT, FRONTEND_LOAD_BALANCER,
    FRONTEND_NODE_PORT, SCOPE_EXTERNAL,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Claimant {
    Service(Name),
    /// A pod of this node; a container that is none has no namespace.
    Pod(Name),
}

/// What sort of frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Sort {
    Of(FrontendKind),
    /// A load balancer's address and the Service's `healthCheckNodePort`; leads to the node itself.
    HealthCheck,
    HostPort,
}

impl Sort {
    /// Whether it is asked for at addresses of the node.
    pub(super) fn is_of_node(self) -> bool {
        matches!(self, Self::Of(FrontendKind::NodePort) | Self::HostPort)
    }

    /// `FRONTEND_` flags of its row.
    pub(super) fn flags(self, config: &Config) -> u32 {
        let (of, outside) = match self {
            Self::Of(FrontendKind::ClusterIp) => {
                (FRONTEND_CLUSTER_IP, config.load_balancer.cluster_ips_outside())
            }
            Self::Of(FrontendKind::NodePort) => (FRONTEND_NODE_PORT, true),
            Self::Of(FrontendKind::LoadBalancer) => (FRONTEND_LOAD_BALANCER, true),
            Self::Of(FrontendKind::ExternalIp) => (FRONTEND_EXTERNAL_IP, true),
            Self::HealthCheck => (FRONTEND_LOAD_BALANCER, true),
            Self::HostPort => (FRONTEND_HOST_PORT, true),
        };
        if outside { of | FRONTEND_EXTERNAL } else { of }
    }

    /// Whether a Service's source ranges hold for it.
    pub(super) fn has_ranges(self, config: &Config) -> bool {
        let all = config.load_balancer.source_ranges_all_types;
        match self {
            Self::Of(FrontendKind::LoadBalancer) => true,
            Self::Of(FrontendKind::NodePort | FrontendKind::ExternalIp) => all,
            Self::Of(FrontendKind::ClusterIp) => all && config.load_balancer.cluster_ips_outside(),
            Self::HealthCheck | Self::HostPort => false,
        }
    }
}

/// Someone asks for a frontend. Of several the least has it: the oldest Service, then the first by name; pods
/// come after Services, the first by name, then those whose ports were asked for when they were attached, the
/// oldest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) key: FrontendKey,
    ageless: bool,
    created: Option<Created>,
    since: u64,
    pub(super) who: Claimant,
    pub(super) sort: Sort,
    /// Which of its ports, as it lists them.
    pub(super) port: usize,
}

impl Claim {
    /// What comes before all claims of a frontend.
    pub(super) fn least(key: FrontendKey) -> Self {
        let (who, sort) = (Claimant::Service(Name::default()), Sort::Of(FrontendKind::ClusterIp));
        Self { key, ageless: false, created: None, since: 0, who, sort, port: 0 }
    }
}

/// The address that stands for all of its family.
pub(super) fn everywhere(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// What a place asks of a Service: where we are, and how the node is labelled.
#[derive(Clone, Copy)]
pub(super) struct Asking<'a> {
    pub(super) site: &'a Site,
    pub(super) config: &'a Config,
    pub(super) labels: &'a BTreeMap<String, String>,
    /// Addresses that other nodes know for this node's.
    pub(super) published: &'a BTreeSet<IpAddr>,
}

fn frontend(addr: IpAddr, port: u16, proto: Protocol) -> FrontendKey {
    FrontendKey { addr, port, proto, scope: SCOPE_EXTERNAL }
}

impl Asking<'_> {
    /// Whether a Service is served here at all.
    pub(super) fn serves(&self, service: &Service) -> bool {
        let for_us = self.config.load_balancer.is_proxy(service.proxy_name.as_deref());
        service.unserved().is_none() && for_us && service.on_node(self.labels)
    }

    /// Whether frontends of a kind are served here: beside a kube-proxy ClusterIPs alone.
    pub(super) fn serves_kind(&self, kind: FrontendKind) -> bool {
        self.config.load_balancer.kube_proxy_replacement || kind == FrontendKind::ClusterIp
    }

    /// Whether a NodePort is one that may be served.
    pub(super) fn in_range(&self, number: u16) -> bool {
        let [first, last] = self.config.load_balancer.node_port_range;
        (first..=last).contains(&number)
    }

    fn served(&self, service: &Service, addr: IpAddr) -> bool {
        self.site.enabled(Family::of(addr)) && service.in_family(IpFamily::of(addr)) && !addr.is_unspecified()
    }

    fn families(&self) -> impl Iterator<Item = Family> {
        [Family::V4, Family::V6].into_iter().filter(|family| self.site.enabled(*family))
    }

    /// Addresses of this node and the one that stands for them.
    fn of_node(&self) -> impl Iterator<Item = IpAddr> {
        self.site.node_ports.iter().copied().chain(self.families().map(everywhere))
    }

    /// The frontends a Service asks for.
    pub(super) fn of_service(&self, name: &Name, service: &Service) -> Vec<Claim> {
        if !self.serves(service) {
            return Vec::new();
        }
        let (ageless, created) = service.seniority();
        let mut claims = Vec::new();
        let mut ask = |key, sort, port| {
            let (who, created) = (Claimant::Service(name.clone()), created.cloned());
            claims.push(Claim { key, ageless, created, since: 0, who, sort, port });
        };
        let allocation = match self.config.source.kind {
            SourceKind::Manifests => Allocation::AsWritten,
        };
        let shared = [
            (FrontendKind::ClusterIp, service.cluster_ips.as_slice()),
            (FrontendKind::LoadBalancer, service.load_balancer_ips(allocation)),
            (FrontendKind::ExternalIp, service.external_ips.as_slice()),
        ];
        let asked = |kind| service.has(kind) && self.serves_kind(kind);
        for (kind, addrs) in shared.into_iter().filter(|(kind, _)| asked(*kind)) {
            for addr in addrs.iter().filter(|addr| self.served(service, **addr)) {
                for (at, port) in service.ports.iter().enumerate() {
                    ask(frontend(*addr, port.port, port.proto), Sort::Of(kind), at);
                }
            }
        }
        let check =
            self.health_check(service).filter(|_| self.config.load_balancer.health_check_load_balancer_ips);
        if let Some(check) = check {
            let [_, (_, addrs), _] = shared;
            for addr in addrs.iter().filter(|addr| self.served(service, **addr)) {
                ask(frontend(*addr, check, Protocol::TCP), Sort::HealthCheck, service.ports.len());
            }
        }
        if asked(FrontendKind::NodePort) {
            for (at, (number, port)) in service.ports.iter().map(|port| (port.node_port, port)).enumerate() {
                let Some(number) = number.filter(|number| self.in_range(*number)) else { continue };
                for addr in self.of_node().filter(|addr| service.in_family(IpFamily::of(*addr))) {
                    ask(frontend(addr, number, port.proto), Sort::Of(FrontendKind::NodePort), at);
                }
            }
        }
        claims
    }

    /// The port on which the health of a Service is answered here.
    pub(super) fn health_check(&self, service: &Service) -> Option<u16> {
        let port = service.health_check_node_port?;
        let kind = FrontendKind::LoadBalancer;
        let local = service.external_policy == TrafficPolicy::Local;
        (local && service.has(kind) && self.serves(service) && self.serves_kind(kind)).then_some(port)
    }

    /// The address of this node at which it answers itself.
    pub(super) fn own_address(&self, family: Family) -> Option<IpAddr> {
        self.site.node_ports.iter().copied().find(|addr| Family::of(*addr) == family)
    }

    /// NodePorts of a Service that are out of range.
    pub(super) fn out_of_range<'s>(&self, service: &'s Service) -> impl Iterator<Item = &'s ServicePort> {
        let kind = FrontendKind::NodePort;
        let asked = self.serves(service) && self.serves_kind(kind) && service.has(kind);
        let outside = move |port: &&ServicePort| asked && port.node_port.is_some_and(|n| !self.in_range(n));
        service.ports.iter().filter(outside)
    }

    /// The frontends a pod of this node asks for.
    pub(super) fn of_pod(&self, name: &Name, pod: &Guest) -> Vec<Claim> {
        let mut claims = Vec::new();
        if !self.config.load_balancer.kube_proxy_replacement {
            return claims;
        }
        for (port, asked) in pod.ports.iter().enumerate() {
            let one = asked.ip.filter(|ip| !ip.is_unspecified());
            let family = asked.ip.map(Family::of);
            let addrs: Vec<IpAddr> = match one {
                Some(ip) => self.site.enabled(Family::of(ip)).then_some(ip).into_iter().collect(),
                None => self.of_node().filter(|ip| family.is_none_or(|f| f == Family::of(*ip))).collect(),
            };
            claims.extend(addrs.into_iter().map(|addr| Claim {
                key: frontend(addr, asked.port, asked.proto),
                ageless: true,
                created: None,
                since: pod.since,
                who: Claimant::Pod(name.clone()),
                sort: Sort::HostPort,
                port,
            }));
        }
        claims
    }
}
