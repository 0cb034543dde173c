//! Which frontends have backends elsewhere answer clients themselves (direct server return).
//!
//! The backend's node answers with a frontend's address only if it knows the frontend itself, or knows its address
//! for another node's: so what not every node knows is left to SNAT. A backend outside, which IP in IP leads to, has the
//! address itself; it cannot have a node's.

use super::asked::{Asking, Claim, Sort};
use crate::compile::rows::warning;
use crate::config::{DsrDispatch, LbMode};
use crate::eligible::Backend;
use crate::problem::Problem;
use crate::shared::Shared;
use crate::state::{Origin, Protocol};
use crate::world::{ForwardingMode, FrontendKind, IpFamily, Service};
use cilium_abi::lb::FRONTEND_DSR;
use std::net::SocketAddr;

/// What a Service asks for, of the node's own setting or of its annotation.
fn mode(service: &Service, asking: Asking<'_>) -> LbMode {
    match service.forwarding {
        Some(ForwardingMode::Dsr) => LbMode::Dsr,
        Some(ForwardingMode::Snat) => LbMode::Snat,
        None => asking.config.load_balancer.mode,
    }
}

/// Whether it is backends outside the cluster that answer clients themselves.
fn by_ipip(asking: Asking<'_>) -> bool {
    asking.config.load_balancer.dsr_dispatch == DsrDispatch::Ipip
}

/// Why a Service that asks for it does not get it, if so, and what to do.
fn obstacle(service: &Service, asking: Asking<'_>) -> Option<(&'static str, &'static str)> {
    if asking.config.through_host_stack() {
        return Some((
            "packets go through the host's stack (routing.host_stack)",
            "set routing.host_stack = false on every node, or remove the annotation",
        ));
    }
    (service.nodes.is_some() && !by_ipip(asking)).then_some((
        "only some nodes serve it, and the others would not know what to answer for",
        "remove the annotation that selects nodes, or set service.cilium.io/forwarding-mode: snat",
    ))
}

/// [`FRONTEND_DSR`], if backends elsewhere answer this frontend's clients themselves.
pub(super) fn flag(service: &Service, claim: &Claim, asking: Asking<'_>) -> u32 {
    let asked = match (mode(service, asking), claim.key.proto) {
        (LbMode::Dsr, Protocol::TCP | Protocol::UDP) | (LbMode::Hybrid, Protocol::TCP) => true,
        (LbMode::Dsr | LbMode::Hybrid | LbMode::Snat, _) => false,
    };
    let known = match claim.sort {
        Sort::Of(FrontendKind::LoadBalancer | FrontendKind::ExternalIp) => true,
        Sort::Of(FrontendKind::NodePort) => !by_ipip(asking) && asking.published.contains(&claim.key.addr),
        // The backends of a hostPort are all here, and so is who answers health checks.
        Sort::Of(FrontendKind::ClusterIp) | Sort::HostPort | Sort::HealthCheck => false,
    };
    if asked && known && obstacle(service, asking).is_none() { FRONTEND_DSR } else { 0 }
}

/// Told of a Service that asks in vain.
pub(super) fn note(service: &Service, asking: Asking<'_>, told: &Origin) -> Option<Shared<Problem>> {
    let outside = [FrontendKind::NodePort, FrontendKind::LoadBalancer].into_iter().any(|of| service.has(of))
        || !service.external_ips.is_empty();
    let served = asking.serves(service) && asking.serves_kind(FrontendKind::NodePort);
    if !outside || !served || mode(service, asking) == LbMode::Snat {
        return None;
    }
    let (why, hint) = obstacle(service, asking)?;
    let message = format!("backends on other nodes do not answer clients themselves (DSR): {why}");
    Some(warning(told, message, hint))
}

/// Ports of a Service, and families, of which packets should come to backends outside as they are.
pub(super) fn unchanged<'a>(
    service: &'a Service,
    claims: &'a [Claim],
    asking: Asking<'a>,
) -> impl Iterator<Item = (usize, IpFamily)> + 'a {
    let asks = move |claim: &&Claim| by_ipip(asking) && flag(service, claim, asking) != 0;
    claims.iter().filter(asks).map(|claim| (claim.port, IpFamily::of(claim.key.addr)))
}

/// Told of a port with backends outside at another port, of which there are `count`.
pub(super) fn other_port(port: u16, count: usize, backend: &Backend<'_>, told: &Origin) -> Shared<Problem> {
    let message = format!(
        "port {port}: {count} backends outside the cluster do not answer clients themselves (DSR): their port is \
         another, as of {}, and load_balancer.dsr_dispatch = \"ipip\" changes none",
        SocketAddr::new(backend.addr, backend.port)
    );
    let hint =
        "let the backends listen on the Service's port, or set service.cilium.io/forwarding-mode: snat";
    warning(told, message, hint)
}
