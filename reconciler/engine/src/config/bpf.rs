//! `[bpf]`.

use super::span::Span;
use cilium_abi::maps;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Sizes of BPF maps, and how long connections are remembered.
///
/// A map that the agent fills is filled anew at its new size. What the kernel wrote (connections,
/// masqueraded flows) starts empty there, which connections of the moment notice: hence `disruptive`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Bpf {
    /// TCP connections remembered.
    #[schemars(range(min = 1024, max = 16777216), extend("x-impact" = "disruptive"))]
    pub ct_tcp_max: u32,
    /// Other flows (UDP, ICMP, SCTP) remembered.
    #[schemars(range(min = 1024, max = 16777216), extend("x-impact" = "disruptive"))]
    pub ct_any_max: u32,
    /// Rows for masqueraded flows: two for each.
    #[schemars(range(min = 1024, max = 16777216), extend("x-impact" = "disruptive"))]
    pub nat_max: u32,
    /// Datagrams in fragments that are under way. One takes a row wherever its packets are looked at: one or two.
    #[schemars(range(min = 1024, max = 1048576), extend("x-impact" = "disruptive"))]
    pub fragments_max: u32,
    /// Service frontends, and as many backends and reverse entries; lists of backends take eight times this.
    #[schemars(range(min = 64, max = 2097152), extend("x-impact" = "reload"))]
    pub lb_max: u32,
    /// Maglev tables: one for each set of backends that frontends choose from by one, and free ones for sets that
    /// replace others. Each takes eight bytes times `load_balancer.maglev.table_size`.
    #[schemars(range(min = 1, max = 4096), extend("x-impact" = "reload"))]
    pub maglev_max: u32,
    /// Policy rows of all pods of this node together; pods with the same rules share theirs.
    #[schemars(range(min = 256, max = 16777216), extend("x-impact" = "reload"))]
    pub policy_max: u32,
    /// Addresses with an identity.
    #[schemars(range(min = 256, max = 16777216), extend("x-impact" = "reload"))]
    pub ipcache_max: u32,
    /// Prefixes with an identity (CIDRs in policies, pod CIDRs of nodes).
    #[schemars(range(min = 256, max = 16777216), extend("x-impact" = "reload"))]
    pub ipcache_prefix_max: u32,
    /// Size of the ring buffer of events, in bytes: a power of two.
    #[schemars(range(min = 65536, max = 268435456), extend("x-impact" = "reload"))]
    pub events_bytes: u32,
    /// How long an established TCP connection is remembered without a packet, in whole seconds.
    #[schemars(extend("x-min" = "1s", "x-max" = "30d", "x-step" = "1s", "x-impact" = "reload"))]
    pub ct_timeout_regular_tcp: Span,
    /// How long a TCP connection is remembered that has seen only its first SYN, in whole seconds.
    #[schemars(extend("x-min" = "1s", "x-max" = "1h", "x-step" = "1s", "x-impact" = "reload"))]
    pub ct_timeout_regular_tcp_syn: Span,
    /// How long a closed TCP connection is remembered, in whole seconds.
    #[schemars(extend("x-min" = "1s", "x-max" = "1h", "x-step" = "1s", "x-impact" = "reload"))]
    pub ct_timeout_regular_tcp_fin: Span,
    /// How long a flow that is not TCP is remembered without a packet, in whole seconds.
    #[schemars(extend("x-min" = "1s", "x-max" = "1d", "x-step" = "1s", "x-impact" = "reload"))]
    pub ct_timeout_regular_any: Span,
    /// How often expired connections are swept out of the maps.
    #[schemars(extend("x-min" = "1s", "x-max" = "12h", "x-impact" = "hitless"))]
    pub ct_gc_interval: Span,
}

/// With tables of the default size, 16 MiB.
const MAGLEV_TABLES: u32 = 128;

impl Default for Bpf {
    fn default() -> Self {
        Self {
            ct_tcp_max: maps::CT_TCP.max_entries,
            ct_any_max: maps::CT_ANY.max_entries,
            nat_max: maps::SNAT.max_entries,
            fragments_max: maps::FRAGMENTS.max_entries,
            lb_max: maps::FRONTEND.max_entries,
            maglev_max: MAGLEV_TABLES,
            policy_max: maps::POLICY.max_entries,
            ipcache_max: maps::IPCACHE.max_entries,
            ipcache_prefix_max: maps::IPCACHE_PREFIX.max_entries,
            events_bytes: maps::EVENTS.max_entries,
            ct_timeout_regular_tcp: Span::from_secs(8_000),
            ct_timeout_regular_tcp_syn: Span::from_secs(60),
            ct_timeout_regular_tcp_fin: Span::from_secs(10),
            ct_timeout_regular_any: Span::from_secs(60),
            ct_gc_interval: Span::from_secs(300),
        }
    }
}
