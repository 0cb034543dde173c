//! Services of the test, each with one backend, so that who answers is known.

use cilium_tests_kernel::services::{self, Backend, balancer, cluster_ip, node_port};

/// A Service of type LoadBalancer with addresses made of `n`.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) n: u8,
    /// Its external traffic policy is `Local`.
    pub(crate) local: bool,
    pub(crate) backend: Backend,
}

impl Service {
    /// The Service and its EndpointSlices.
    pub(crate) fn manifest(&self) -> String {
        let policy = if self.local { "Local" } else { "Cluster" };
        services::Service {
            node_port: Some(node_port(self.n)),
            balancer: Some(balancer(self.n)),
            backends: vec![self.backend.clone()],
            spec: &format!("  externalTrafficPolicy: {policy}\n"),
            ..services::Service::new(self.name, cluster_ip(self.n), &[])
        }
        .manifest()
    }

    /// Whether its backend is on a node, numbered from 0.
    pub(crate) fn serves_on(&self, node: usize) -> bool {
        self.backend.node == Some(format!("n{}", node + 1))
    }
}
