//! Which frontends have backends elsewhere answer clients themselves (direct server return).
//!
//! The backend's node answers with a frontend's address only if it knows the frontend itself, or knows its address
//! for another node's: so what not every node knows is left to SNAT.

use super::asked::{Asking, Claim, Sort};
use crate::compile::rows::warning;
use crate::config::LbMode;
use crate::problem::Problem;
use crate::shared::Shared;
use crate::state::{Origin, Protocol};
use crate::world::{ForwardingMode, FrontendKind, Service};
use cilium_abi::lb::FRONTEND_DSR;

/// What a Service asks for, of the node's own setting or of its annotation.
fn mode(service: &Service, asking: Asking<'_>) -> LbMode {
    match service.forwarding {
        Some(ForwardingMode::Dsr) => LbMode::Dsr,
        Some(ForwardingMode::Snat) => LbMode::Snat,
        None => asking.config.load_balancer.mode,
    }
}

/// Why a Service that asks for it does not get it, if so, and what to do.
fn obstacle(service: &Service, asking: Asking<'_>) -> Option<(&'static str, &'static str)> {
    if asking.config.through_host_stack() {
        return Some((
            "packets go through the host's stack (routing.host_stack)",
            "set routing.host_stack = false on every node, or remove the annotation",
        ));
    }
    service.nodes.is_some().then_some((
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
        Sort::Of(FrontendKind::NodePort) => asking.published.contains(&claim.key.addr),
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
