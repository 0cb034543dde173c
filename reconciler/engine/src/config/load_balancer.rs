//! `[load_balancer]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a backend is chosen for a new connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// At random, all alike.
    #[default]
    Random,
}

/// Services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoadBalancer {
    /// Services are translated here: ClusterIP, for traffic of pods. `false` leaves them to kube-proxy.
    #[schemars(extend("x-impact" = "disruptive"))]
    pub kube_proxy_replacement: bool,
    /// How a backend is chosen for a new connection.
    #[schemars(extend("x-impact" = "hitless"))]
    pub algorithm: Algorithm,
}

impl Default for LoadBalancer {
    fn default() -> Self {
        Self { kube_proxy_replacement: true, algorithm: Algorithm::default() }
    }
}
