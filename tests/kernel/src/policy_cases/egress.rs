//! CiliumNetworkPolicy, egress; and both directions together.

use super::Policy::Cnp;
use super::{Case, case, on};

pub(super) const CASES: &[Case] = &[
    case(
        "one peer by label",
        &[Cnp(on!("near", "egress: [{toEndpoints: [{matchLabels: {app: web}}]}]"))],
        "near>far tcp/80 v4",
        "near>web tcp/80 v4",
    ),
    case(
        "a peer on the other node and a port",
        &[Cnp(on!(
            "far",
            "egress: [{toEndpoints: [{matchLabels: {app: web}}], toPorts: [{ports: [{port: \"80\", protocol: TCP}]}]}]"
        ))],
        "far>web tcp/443 v6",
        "far>web tcp/80 v6",
    ),
    case(
        "UDP to anyone",
        &[Cnp(on!("near", "egress: [{toPorts: [{ports: [{port: \"0\", protocol: UDP}]}]}]"))],
        "near>far tcp/80 v4",
        "near>far udp/80 v4",
    ),
    case(
        "a UDP port, IPv6",
        &[Cnp(on!("near", "egress: [{toPorts: [{ports: [{port: \"8080\", protocol: UDP}]}]}]"))],
        "near>far udp/80 v6",
        "near>far udp/8080 v6",
    ),
    case(
        "a TCP port is no echo request",
        &[Cnp(on!("far", "egress: [{toPorts: [{ports: [{port: \"80\", protocol: TCP}]}]}]"))],
        "far>web icmp v4",
        "far>web tcp/80 v4",
    ),
    case(
        "an IPv6 type is no IPv4 type",
        &[Cnp(on!("far", "egress: [{icmps: [{fields: [{family: IPv6, type: 128}]}]}]"))],
        "far>web icmp v4",
        "far>web icmp v6",
    ),
    case(
        "closed egress lets answers out",
        &[Cnp(on!("near", "egress: [{}]"))],
        "near>web tcp/80 v4",
        "far>near tcp/80 v4",
    ),
    case(
        "closed egress lets UDP answers out, IPv6",
        &[Cnp(on!("far", "egress: [{}]"))],
        "far>web udp/80 v6",
        "web>far udp/80 v6",
    ),
    case(
        "another namespace by its labels",
        &[Cnp(on!(
            "near",
            "egress: [{toEndpoints: [{matchLabels: {\"k8s:io.cilium.k8s.namespace.labels.team\": blue}}]}]"
        ))],
        "near>green tcp/80 v4",
        "near>blue tcp/80 v4",
    ),
    case(
        "a range of ports to a peer",
        &[Cnp(on!(
            "near",
            "egress: [{toEndpoints: [{matchLabels: {tier: front}}], toPorts: [{ports: [{port: \"1\", endPort: 1023, \
             protocol: TCP}]}]}]"
        ))],
        "near>far tcp/8080 v6",
        "near>far tcp/443 v6",
    ),
    case(
        "matchExpressions on a peer",
        &[Cnp(on!(
            "near",
            "egress: [{toEndpoints: [{matchExpressions: [{key: tier, operator: In, values: [back]}]}]}]"
        ))],
        "near>far udp/80 v4",
        "near>odd udp/80 v4",
    ),
    case(
        "matchExpressions on the subject",
        &[Cnp(
            "{endpointSelector: {matchExpressions: [{key: env, operator: Exists}]}, egress: [{toEndpoints: \
             [{matchLabels: {app: web}}]}]}",
        )],
        "far>odd tcp/80 v4",
        "odd>far tcp/80 v4",
    ),
    case(
        "what the sender may, the receiver may forbid",
        &[
            Cnp(on!("near", "egress: [{toEndpoints: [{}]}]")),
            Cnp(on!("web", "ingress: [{fromEndpoints: [{matchLabels: {app: far}}]}]")),
        ],
        "near>web tcp/443 v6",
        "near>odd tcp/443 v6",
    ),
    case(
        "what the receiver may, the sender may forbid",
        &[
            Cnp(on!("far", "egress: [{toEndpoints: [{matchLabels: {app: odd}}]}]")),
            Cnp(on!("web", "ingress: [{fromEndpoints: [{}]}]")),
        ],
        "far>web udp/443 v4",
        "near>web udp/443 v4",
    ),
    case(
        "two directions in one rule",
        &[Cnp(on!(
            "near",
            "ingress: [{fromEndpoints: [{matchLabels: {app: web}}]}], egress: [{toEndpoints: [{matchLabels: {app: \
             far}}]}]"
        ))],
        "near>odd icmp v4",
        "near>far icmp v4",
    ),
];
