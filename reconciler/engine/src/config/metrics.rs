//! `[metrics]`.

use super::optional;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Prometheus metrics of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Address and port `/metrics` is served on, for example `0.0.0.0:9962` or `[::]:9962`. Empty: not served.
    #[serde(with = "optional")]
    #[schemars(with = "String", extend("x-form" = "address:port", "x-impact" = "hitless"))]
    pub listen: Option<SocketAddr>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9962)) }
    }
}
