//! From all backends to those a client's new connections may go to.

use super::{Backend, Fitness};
use crate::world::{FrontendKind, Service, TrafficPolicy};

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Client {
    /// From outside the cluster: what comes in by a device and is of no pod.
    Outside,
    /// A pod or a process of this node.
    Inside,
}

/// Where the choice is made.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    /// This node's name.
    pub node: &'a str,
    /// Its zone, if labelled.
    pub zone: Option<&'a str>,
}

/// The traffic policy for a client of such a frontend.
///
/// On a ClusterIP it is the internal one. On the others it is the external one, for clients outside: whoever
/// is inside reaches every backend there, as if it had come through a balancer with all nodes behind it.
pub fn policy(service: &Service, frontend: FrontendKind, client: Client) -> TrafficPolicy {
    match (frontend, client) {
        (FrontendKind::ClusterIp, _) => service.internal_policy,
        (FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp, Client::Outside) => {
            service.external_policy
        }
        (FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp, Client::Inside) => {
            TrafficPolicy::Cluster
        }
    }
}

/// Those for new connections, in the order given: ready ones, by policy and topology; only if there is none
/// of these, terminating ones by policy.
pub fn choose<'b, 'w>(
    backends: &'b [Backend<'w>],
    policy: TrafficPolicy,
    here: Here<'_>,
) -> Vec<&'b Backend<'w>> {
    let fit = |fitness| backends.iter().filter(move |b| b.fitness == fitness && in_reach(b, policy, here));
    let ready: Vec<_> = fit(Fitness::Ready).collect();
    if ready.is_empty() {
        return fit(Fitness::Terminating).collect();
    }
    match policy {
        TrafficPolicy::Cluster => nearest(ready, here),
        TrafficPolicy::Local => ready,
    }
}

/// How many of them are on this node and ready: what `healthCheckNodePort` answers by.
pub fn ready_here(backends: &[Backend<'_>], here: Here<'_>) -> usize {
    let local = |b: &&Backend<'_>| in_reach(b, TrafficPolicy::Local, here);
    backends.iter().filter(|b| b.fitness == Fitness::Ready).filter(local).count()
}

fn in_reach(backend: &Backend<'_>, policy: TrafficPolicy, here: Here<'_>) -> bool {
    match policy {
        TrafficPolicy::Cluster => true,
        TrafficPolicy::Local => backend.node == Some(here.node),
    }
}

/// Those meant for this node, else those meant for its zone, else all. A hint counts only if every ready
/// backend has one of its kind, and one of them is for here: else some would be overloaded or unreachable.
fn nearest<'b, 'w>(ready: Vec<&'b Backend<'w>>, here: Here<'_>) -> Vec<&'b Backend<'w>> {
    let meant = |hints: for<'a> fn(&'a Backend<'w>) -> &'a [String], name: &str| {
        let all = ready.iter().all(|b| !hints(b).is_empty());
        let ours: Vec<_> =
            ready.iter().copied().filter(|b| hints(b).iter().any(|hint| hint == name)).collect();
        (all && !ours.is_empty()).then_some(ours)
    };
    if let Some(ours) = meant(|b| b.nodes, here.node) {
        return ours;
    }
    here.zone.and_then(|zone| meant(|b| b.zones, zone)).unwrap_or(ready)
}
