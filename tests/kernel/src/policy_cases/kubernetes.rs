//! NetworkPolicy, and CiliumClusterwideNetworkPolicy.

use super::Policy::{Ccnp, Cnp, Np};
use super::{Case, case, on};

pub(super) const CASES: &[Case] = &[
    case(
        "NetworkPolicy: pods by labels",
        &[Np(
            "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: near}}}]}]}",
        )],
        "far>web tcp/80 v4",
        "near>web tcp/80 v4",
    ),
    case(
        "NetworkPolicy: no ingress rule closes ingress alone",
        &[Np("{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}")],
        "near>web udp/80 v6",
        "web>near udp/80 v6",
    ),
    case(
        "NetworkPolicy: an empty podSelector is the namespace",
        &[Np("{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}")],
        "green>odd tcp/80 v4",
        "near>odd tcp/80 v4",
    ),
    case(
        "NetworkPolicy: a namespace by its labels",
        &[Np(
            "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: \
             green}}}]}]}",
        )],
        "blue>web tcp/80 v4",
        "green>web tcp/80 v4",
    ),
    case(
        "NetworkPolicy: pods of a namespace need both",
        &[Np(
            "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kind: \
             lane}}, podSelector: {matchLabels: {app: far}}}]}]}",
        )],
        "odd>web tcp/80 v6",
        "far>web tcp/80 v6",
    ),
    case(
        "NetworkPolicy: a namespaceSelector and a podSelector as two peers",
        &[Np(
            "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: \
             blue}}}, {podSelector: {matchLabels: {app: near}}}]}]}",
        )],
        "far>web udp/80 v4",
        "blue>web udp/80 v4",
    ),
    case(
        "NetworkPolicy: namespaces by matchExpressions",
        &[Np(
            "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: \
             trust, operator: DoesNotExist}]}}]}]}",
        )],
        "green>web tcp/443 v6",
        "blue>web tcp/443 v6",
    ),
    case(
        "NetworkPolicy: every namespace, but not the world",
        &[Np("{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{namespaceSelector: {}}]}]}")],
        "out-a>web tcp/80 v4",
        "green>web tcp/80 v4",
    ),
    case(
        "NetworkPolicy: a port from anyone",
        &[Np("{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 80, protocol: TCP}]}]}")],
        "out-a>web tcp/443 v4",
        "out-a>web tcp/80 v4",
    ),
    case(
        "NetworkPolicy: a range of ports",
        &[Np(
            "{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 8000, endPort: 8080, protocol: UDP}]}]}",
        )],
        "far>web udp/443 v4",
        "far>web udp/8080 v4",
    ),
    case(
        "NetworkPolicy: ports are no echo requests",
        &[Np("{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{protocol: TCP}]}]}")],
        "far>web icmp v6",
        "far>web tcp/443 v6",
    ),
    case(
        "NetworkPolicy: ipBlock with an exception",
        &[Np(
            "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24, except: \
             [203.0.113.128/25]}}]}]}",
        )],
        "out-b>web udp/80 v4",
        "out-a>web udp/80 v4",
    ),
    case(
        "NetworkPolicy: egress to an IPv6 ipBlock with an exception",
        &[Np(
            "{podSelector: {matchLabels: {app: near}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: \
             \"2001:db8:1::/48\", except: [\"2001:db8:1:f::/64\"]}}]}]}",
        )],
        "near>out-b tcp/443 v6",
        "near>out-a tcp/443 v6",
    ),
    case(
        "NetworkPolicy: egress rules alone close egress; ingress is closed with them",
        &[Np(
            "{podSelector: {matchLabels: {app: near}}, egress: [{to: [{podSelector: {matchLabels: {app: far}}}]}]}",
        )],
        "odd>near tcp/80 v4",
        "near>far tcp/80 v4",
    ),
    case(
        "NetworkPolicy: egress by policyTypes leaves ingress open",
        &[Np(
            "{podSelector: {matchExpressions: [{key: app, operator: In, values: [near, far]}]}, policyTypes: [Egress]}",
        )],
        "far>web tcp/80 v4",
        "web>far tcp/80 v4",
    ),
    case(
        "NetworkPolicy and CiliumNetworkPolicy unite",
        &[
            Np(
                "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: near}}}]}]}",
            ),
            Cnp(on!("web", "ingress: [{fromEndpoints: [{matchLabels: {app: odd}}]}]")),
        ],
        "far>web udp/80 v6",
        "odd>web udp/80 v6",
    ),
    case(
        "clusterwide: a subject by its namespace",
        &[Ccnp(
            "{endpointSelector: {matchLabels: {\"k8s:io.kubernetes.pod.namespace\": $NS, app: web}}, ingress: \
             [{fromEndpoints: [{matchLabels: {\"k8s:io.cilium.k8s.namespace.labels.team\": green}}]}]}",
        )],
        "far>web tcp/80 v4",
        "green>web tcp/80 v4",
    ),
    case(
        "clusterwide: peers of any namespace",
        &[Ccnp(
            "{endpointSelector: {matchLabels: {\"k8s:io.kubernetes.pod.namespace\": $NS, app: web}}, ingress: \
             [{fromEndpoints: [{matchLabels: {app: guest}}]}]}",
        )],
        "near>web tcp/80 v6",
        "blue>web tcp/80 v6",
    ),
    case(
        "clusterwide: subjects by matchExpressions, egress to nodes",
        &[Ccnp(
            "{endpointSelector: {matchExpressions: [{key: \"k8s:io.kubernetes.pod.namespace\", operator: In, values: \
             [$NS]}, {key: app, operator: NotIn, values: [web]}]}, egress: [{toEntities: [remote-node, host]}]}",
        )],
        "near>web udp/80 v4",
        "near>host2 udp/80 v4",
    ),
    case(
        "clusterwide: the empty peer is every endpoint, not the world",
        &[Ccnp(
            "{endpointSelector: {matchLabels: {\"k8s:io.kubernetes.pod.namespace\": $NS, app: web}}, ingress: \
             [{fromEndpoints: [{}]}]}",
        )],
        "out-b>web icmp v6",
        "green>web icmp v6",
    ),
];
