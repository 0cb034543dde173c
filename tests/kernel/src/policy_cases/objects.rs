//! What rules name: ports, groups of prefixes, Services, nodes.

use super::Policy::{Cnp, Group, Service};
use super::{Case, case, denied_by_rule, on};

pub(super) const CASES: &[Case] = &[
    case(
        "a port by the name that the pod gives it",
        &[Cnp(on!("web", "ingress: [{toPorts: [{ports: [{port: main, protocol: TCP}]}]}]"))],
        "near>web tcp/443 v4",
        "near>web tcp/80 v4",
    ),
    case(
        "a port by the name that peers give it, IPv6",
        &[Cnp(on!("near", "egress: [{toPorts: [{ports: [{port: alt}]}]}]"))],
        "near>far tcp/80 v6",
        "near>far tcp/443 v6",
    ),
    denied_by_rule(
        "a port denied by its name",
        &[Cnp(on!(
            "web",
            "ingress: [{fromEntities: [all]}], ingressDeny: [{toPorts: [{ports: [{port: alt}]}]}]"
        ))],
        "far>web tcp/443 v4",
        "far>web tcp/80 v4",
    ),
    case(
        "a group of prefixes by name",
        &[
            Cnp(on!("web", "ingress: [{fromCIDRSet: [{cidrGroupRef: $NAME-1}]}]")),
            Group("{externalCIDRs: [203.0.113.10/32, \"2001:db8:1:a::/64\"]}"),
        ],
        "out-b>web tcp/80 v4",
        "out-a>web tcp/80 v4",
    ),
    case(
        "a group of prefixes with an exception, egress over IPv6",
        &[
            Cnp(on!(
                "web",
                "egress: [{toCIDRSet: [{cidrGroupRef: $NAME-1, except: [\"2001:db8:1:f::/64\"]}]}]"
            )),
            Group("{externalCIDRs: [\"2001:db8:1::/48\"]}"),
        ],
        "web>out-b udp/80 v6",
        "web>out-a udp/80 v6",
    ),
    case(
        "whoever is within a group carries its name",
        &[
            Cnp(on!(
                "web",
                "ingress: [{fromEndpoints: [{matchExpressions: [{key: \"cidrgroup:io.cilium.policy.cidrgroupname/$NAME-1\", operator: \
                 Exists}, {key: \"reserved:world\", operator: Exists}]}]}]"
            )),
            Group("{externalCIDRs: [203.0.113.10/32]}"),
        ],
        "out-b>web tcp/80 v4",
        "out-a>web tcp/80 v4",
    ),
    case(
        "the pods behind a Service",
        &[
            Cnp(on!(
                "near",
                "egress: [{toServices: [{k8sService: {serviceName: $NAME-1, namespace: $NS}}]}]"
            )),
            Service("{clusterIP: None, selector: {app: web}, ports: [{port: 80}]}"),
        ],
        "near>far tcp/80 v4",
        "near>web tcp/80 v4",
    ),
    case(
        "other nodes by their labels",
        &[Cnp(on!("web", "ingress: [{fromNodes: [{matchLabels: {role: n2}}]}]"))],
        "far>web tcp/80 v4",
        "host2>web tcp/80 v4",
    ),
    case(
        "other nodes by labels that this one has not, IPv6",
        &[Cnp(on!("web", "ingress: [{fromNodes: [{matchLabels: {role: n9}}]}]"))],
        "host2>web tcp/80 v6",
        "host1>web tcp/80 v6",
    ),
    case(
        "out to other nodes by their labels",
        &[Cnp(on!(
            "web",
            "egress: [{toNodes: [{matchExpressions: [{key: role, operator: NotIn, values: [n1]}]}]}]"
        ))],
        "web>far tcp/80 v4",
        "web>host2 tcp/80 v4",
    ),
    denied_by_rule(
        "the node reaches its own pods, but for what is denied it",
        &[Cnp(on!(
            "web",
            "ingress: [{fromEntities: [none]}], ingressDeny: [{fromEntities: [host], toPorts: [{ports: [{port: \
             \"443\"}]}]}]"
        ))],
        "host1>web tcp/443 v4",
        "host1>web tcp/80 v4",
    ),
];
