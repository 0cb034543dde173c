//! The typed configuration: one value, one small file per table of `cilium.toml`.
//!
//! Every key, its default, its range, its documentation and what a change of it costs stand once, on
//! the field that holds it; the JSON schema, the example file and the reference page are generated
//! from there ([`keys`], [`document`]). Nothing here reads a file, the environment or a clock: layers
//! and source positions belong to `cilium-sources`. A key that no code acts on must not be here; a
//! key known to users but not built yet is listed in [`unbuilt`], so that it gets an honest error.

mod bpf;
mod change;
mod cluster;
mod datapath;
mod digest;
pub mod document;
mod family;
mod ipam;
pub mod keys;
mod load_balancer;
mod maglev;
mod masquerade;
mod metrics;
mod monitor;
mod node;
mod optional;
mod paths;
mod policy;
mod reconciler;
mod routing;
mod source;
mod span;
pub mod unbuilt;
mod validate;

pub use bpf::Bpf;
pub use change::{Change, Impact, changes};
pub use cluster::Cluster;
pub use datapath::{Attach, Datapath};
pub use digest::Digest;
pub use family::{Ipv4, Ipv6};
pub use ipam::{Ipam, IpamMode};
pub use load_balancer::{Acceleration, Algorithm, DsrDispatch, LbMode, LoadBalancer, NoBackendResponse};
pub use maglev::Maglev;
pub use masquerade::Masquerade;
pub use metrics::Metrics;
pub use monitor::{Aggregation, Monitor};
pub use node::Node;
pub use paths::{AbsolutePath, NotAbsolute, Paths};
pub use policy::{AllowLocalhost, Enforcement, InvalidPolicy, Policy};
pub use reconciler::Reconciler;
pub use routing::{Device, NotADevice, Routing, RoutingMode, TunnelProtocol};
pub use source::{Manifests, Source, SourceKind};
pub use span::{NotASpan, Span};
pub use validate::Fault;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Version of the document this build reads and writes.
pub const VERSION: u32 = 1;

/// The whole configuration of one node's agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Version of this document. A file of another version is refused; `cilium migrate up` rewrites it.
    #[schemars(range(min = 1, max = 1), extend("x-impact" = "hitless"))]
    pub version: u32,
    /// The cluster this node belongs to.
    pub cluster: Cluster,
    /// This node.
    pub node: Node,
    /// Where things are on this host.
    pub paths: Paths,
    /// Where objects (pods, services, policies, nodes) come from.
    pub source: Source,
    /// Pod addresses.
    pub ipam: Ipam,
    /// IPv4.
    pub ipv4: Ipv4,
    /// IPv6.
    pub ipv6: Ipv6,
    /// How packets reach pods of other nodes.
    pub routing: Routing,
    /// Whether pods appear as their node to the outside.
    pub masquerade: Masquerade,
    /// Services.
    pub load_balancer: LoadBalancer,
    /// Network policy.
    pub policy: Policy,
    /// How programs are attached.
    pub datapath: Datapath,
    /// The loop that keeps the kernel as desired.
    pub reconciler: Reconciler,
    /// Events of the datapath, as `cilium monitor` shows them.
    pub monitor: Monitor,
    /// Prometheus metrics of the agent.
    pub metrics: Metrics,
    /// Sizes of BPF maps, and how long connections are remembered.
    pub bpf: Bpf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            version: VERSION,
            cluster: Cluster::default(),
            node: Node::default(),
            paths: Paths::default(),
            source: Source::default(),
            ipam: Ipam::default(),
            ipv4: Ipv4::default(),
            ipv6: Ipv6::default(),
            routing: Routing::default(),
            masquerade: Masquerade::default(),
            load_balancer: LoadBalancer::default(),
            policy: Policy::default(),
            datapath: Datapath::default(),
            reconciler: Reconciler::default(),
            monitor: Monitor::default(),
            metrics: Metrics::default(),
            bpf: Bpf::default(),
        }
    }
}

impl Config {
    /// Digest of the effective values: equal for two configurations that behave alike, whatever
    /// comments, order or layers they were written with.
    pub fn hash(&self) -> Digest {
        Digest::of(self.to_value().to_string().as_bytes())
    }

    /// Whether pods' traffic goes through the host's stack.
    pub fn through_host_stack(&self) -> bool {
        self.routing.host_stack || !self.load_balancer.kube_proxy_replacement
    }

    /// The values as JSON, the form `keys`, `changes` and `validate` walk.
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("every field of Config serialises: plain structs, string keys")
    }

    /// Contradictions between keys and values that no single key's type can refuse.
    /// Empty means usable.
    pub fn validate(&self) -> Vec<Fault> {
        validate::validate(self)
    }
}
