//! Deny rules over allow rules, and the switches of default deny.

use super::Policy::{Ccnp, Cnp};
use super::{Case, case, denied_by_rule, on};

pub(super) const CASES: &[Case] = &[
    denied_by_rule(
        "a peer denied over all allowed",
        &[Cnp(on!(
            "web",
            "ingress: [{fromEntities: [all]}], ingressDeny: [{fromEndpoints: [{matchLabels: {app: near}}]}]"
        ))],
        "near>web tcp/80 v4",
        "far>web tcp/80 v4",
    ),
    denied_by_rule(
        "a port denied over all allowed, across",
        &[Cnp(on!(
            "web",
            "ingress: [{fromEntities: [all]}], ingressDeny: [{toPorts: [{ports: [{port: \"443\", protocol: TCP}]}]}]"
        ))],
        "far>web tcp/443 v4",
        "far>web tcp/80 v4",
    ),
    denied_by_rule(
        "a UDP port denied to a peer that is allowed, IPv6",
        &[Cnp(on!(
            "web",
            "ingress: [{fromEndpoints: [{matchLabels: {app: far}}]}], ingressDeny: [{fromEndpoints: [{matchLabels: \
             {app: far}}], toPorts: [{ports: [{port: \"443\", protocol: UDP}]}]}]"
        ))],
        "far>web udp/443 v6",
        "far>web udp/80 v6",
    ),
    denied_by_rule(
        "echo requests denied over all allowed",
        &[Cnp(on!(
            "web",
            "ingress: [{fromEndpoints: [{}]}], ingressDeny: [{icmps: [{fields: [{family: IPv4, type: EchoRequest}]}]}]"
        ))],
        "near>web icmp v4",
        "near>web tcp/80 v4",
    ),
    denied_by_rule(
        "IPv6 echo requests denied, IPv4 ones allowed",
        &[Cnp(on!(
            "web",
            "ingress: [{fromEndpoints: [{}]}], ingressDeny: [{icmps: [{fields: [{family: IPv6, type: 128}]}]}]"
        ))],
        "far>web icmp v6",
        "far>web icmp v4",
    ),
    denied_by_rule(
        "a range denied over all allowed",
        &[Cnp(on!(
            "web",
            "ingress: [{fromEndpoints: [{}]}], ingressDeny: [{toPorts: [{ports: [{port: \"400\", endPort: 500}]}]}]"
        ))],
        "near>web udp/443 v4",
        "near>web udp/80 v4",
    ),
    denied_by_rule(
        "a whole peer denied over its one port allowed",
        &[Cnp(on!(
            "web",
            "ingress: [{toPorts: [{ports: [{port: \"80\", protocol: TCP}]}]}], ingressDeny: [{fromEndpoints: \
             [{matchLabels: {tier: front}}]}]"
        ))],
        "far>web tcp/80 v6",
        "odd>web tcp/80 v6",
    ),
    denied_by_rule(
        "the namespace denied over one of it allowed",
        &[Cnp(on!(
            "web",
            "ingress: [{fromEndpoints: [{matchLabels: {app: near}}, {matchLabels: \
             {\"k8s:io.kubernetes.pod.namespace\": blue}}]}], ingressDeny: [{fromEndpoints: [{}]}]"
        ))],
        "near>web tcp/443 v4",
        "blue>web tcp/443 v4",
    ),
    denied_by_rule(
        "one policy denies what another allows",
        &[
            Cnp(on!("web", "ingress: [{fromEndpoints: [{}]}]")),
            Cnp(on!("web", "ingressDeny: [{fromEndpoints: [{matchLabels: {app: far}}]}]")),
        ],
        "far>web tcp/8080 v4",
        "odd>web tcp/8080 v4",
    ),
    denied_by_rule(
        "a clusterwide policy denies what one of the namespace allows",
        &[
            Cnp(on!("web", "ingress: [{fromEntities: [cluster]}]")),
            Ccnp(
                "{endpointSelector: {matchLabels: {\"k8s:io.kubernetes.pod.namespace\": $NS}}, ingressDeny: \
                 [{fromEndpoints: [{matchLabels: {\"k8s:io.kubernetes.pod.namespace\": green}}]}]}",
            ),
        ],
        "green>web tcp/80 v4",
        "far>web tcp/80 v4",
    ),
    denied_by_rule(
        "egress to a peer denied over all allowed",
        &[Cnp(on!(
            "near",
            "egress: [{toEntities: [all]}], egressDeny: [{toEndpoints: [{matchLabels: {app: far}}]}]"
        ))],
        "near>far udp/80 v4",
        "near>odd udp/80 v4",
    ),
    denied_by_rule(
        "egress to a port denied over all allowed, IPv6",
        &[Cnp(on!(
            "near",
            "egress: [{toEntities: [all]}], egressDeny: [{toPorts: [{ports: [{port: \"443\", protocol: TCP}]}]}]"
        ))],
        "near>far tcp/443 v6",
        "near>far tcp/80 v6",
    ),
    denied_by_rule(
        "the world denied over all allowed",
        &[Cnp(on!("web", "ingress: [{fromEntities: [all]}], ingressDeny: [{fromEntities: [world]}]"))],
        "out-a>web tcp/80 v6",
        "near>web tcp/80 v6",
    ),
    denied_by_rule(
        "other nodes denied over the cluster allowed",
        &[Cnp(on!(
            "web",
            "ingress: [{fromEntities: [cluster]}], ingressDeny: [{fromEntities: [remote-node]}]"
        ))],
        "host2>web udp/80 v4",
        "far>web udp/80 v4",
    ),
    denied_by_rule(
        "a prefix denied within one allowed",
        &[Cnp(on!(
            "near",
            "egress: [{toCIDR: [203.0.113.0/24]}], egressDeny: [{toCIDR: [203.0.113.128/25]}]"
        ))],
        "near>out-b tcp/80 v4",
        "near>out-a tcp/80 v4",
    ),
    denied_by_rule(
        "a prefix allowed within one denied",
        &[Cnp(on!(
            "web",
            "ingress: [{fromCIDR: [203.0.113.10/32]}, {fromEndpoints: [{}]}], ingressDeny: [{fromCIDR: \
             [203.0.113.0/24]}]"
        ))],
        "out-a>web udp/80 v4",
        "near>web udp/80 v4",
    ),
    denied_by_rule(
        "the world denied over a prefix of it allowed",
        &[Cnp(on!(
            "far",
            "egress: [{toCIDR: [203.0.113.0/24]}, {toEntities: [cluster]}], egressDeny: [{toEntities: [world]}]"
        ))],
        "far>out-a icmp v4",
        "far>web icmp v4",
    ),
    denied_by_rule(
        "an exception of what is denied is not denied",
        &[Cnp(on!(
            "near",
            "egress: [{toEntities: [world]}], egressDeny: [{toCIDRSet: [{cidr: \"2001:db8:1::/48\", except: \
             [\"2001:db8:1:a::/64\"]}]}]"
        ))],
        "near>out-b udp/443 v6",
        "near>out-a udp/443 v6",
    ),
    case(
        "deny rules alone close their direction",
        &[Cnp(on!("web", "ingressDeny: [{fromEndpoints: [{matchLabels: {app: near}}]}]"))],
        "far>web tcp/80 v4",
        "web>far tcp/80 v4",
    ),
    denied_by_rule(
        "deny rules without default deny: the rest passes",
        &[Cnp(on!(
            "web",
            "enableDefaultDeny: {ingress: false}, ingressDeny: [{fromEndpoints: [{matchLabels: {app: near}}]}]"
        ))],
        "near>web tcp/80 v6",
        "far>web tcp/80 v6",
    ),
    denied_by_rule(
        "egress deny rules without default deny: the rest passes",
        &[Cnp(on!(
            "far",
            "enableDefaultDeny: {egress: false}, egressDeny: [{toPorts: [{ports: [{port: \"443\", protocol: UDP}]}]}]"
        ))],
        "far>web udp/443 v4",
        "far>out-a udp/80 v4",
    ),
    case(
        "default deny switched off for ingress, on for egress",
        &[Cnp(on!(
            "near",
            "enableDefaultDeny: {ingress: false, egress: true}, ingress: [{fromEndpoints: [{matchLabels: {app: \
             web}}]}], egress: [{toEndpoints: [{matchLabels: {app: far}}]}]"
        ))],
        "near>web tcp/80 v4",
        "odd>near tcp/80 v4",
    ),
    case(
        "default deny switched on without a section",
        &[Cnp(on!("near", "enableDefaultDeny: {egress: true}, ingress: [{fromEntities: [all]}]"))],
        "near>far icmp v6",
        "far>near icmp v6",
    ),
    case(
        "default deny of one policy holds where another's is off",
        &[
            Cnp(on!(
                "web",
                "enableDefaultDeny: {ingress: false}, ingress: [{fromEndpoints: [{matchLabels: {app: far}}]}]"
            )),
            Cnp(on!("web", "ingress: [{fromEndpoints: [{matchLabels: {app: near}}]}]")),
        ],
        "odd>web udp/80 v4",
        "far>web udp/80 v4",
    ),
];
