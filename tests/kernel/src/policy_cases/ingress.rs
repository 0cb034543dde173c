//! CiliumNetworkPolicy, ingress: peers by labels, ports, ICMP types.

use super::Policy::Cnp;
use super::{Case, case, on};

pub(super) const CASES: &[Case] = &[
    case(
        "one peer by label",
        &[Cnp(on!("web", "ingress: [{fromEndpoints: [{matchLabels: {app: near}}]}]"))],
        "far>web tcp/80 v4",
        "near>web tcp/80 v4",
    ),
    case(
        "one peer by label, on the other node",
        &[Cnp(on!("web", "ingress: [{fromEndpoints: [{matchLabels: {app: far}}]}]"))],
        "near>web tcp/80 v6",
        "far>web tcp/80 v6",
    ),
    case(
        "a peer and a UDP port are not its TCP port",
        &[Cnp(on!(
            "web",
            "ingress: [{fromEndpoints: [{matchLabels: {app: far}}], toPorts: [{ports: [{port: \"80\", protocol: UDP}]}]}]"
        ))],
        "far>web tcp/80 v4",
        "far>web udp/80 v4",
    ),
    case(
        "a peer and a TCP port are not its UDP port",
        &[Cnp(on!(
            "web",
            "ingress: [{fromEndpoints: [{matchLabels: {app: far}}], toPorts: [{ports: [{port: \"80\", protocol: TCP}]}]}]"
        ))],
        "far>web udp/80 v6",
        "far>web tcp/80 v6",
    ),
    case(
        "a port from anyone",
        &[Cnp(on!("web", "ingress: [{toPorts: [{ports: [{port: \"80\", protocol: TCP}]}]}]"))],
        "near>web tcp/443 v4",
        "near>web tcp/80 v4",
    ),
    case(
        "a port of any protocol",
        &[Cnp(on!("web", "ingress: [{toPorts: [{ports: [{port: \"80\"}]}]}]"))],
        "near>web udp/443 v4",
        "near>web udp/80 v4",
    ),
    case(
        "port 0 is every port of its protocol",
        &[Cnp(on!("web", "ingress: [{toPorts: [{ports: [{port: \"0\", protocol: TCP}]}]}]"))],
        "far>web udp/8080 v4",
        "far>web tcp/8080 v4",
    ),
    case(
        "a range of ports",
        &[Cnp(on!("web", "ingress: [{toPorts: [{ports: [{port: \"400\", endPort: 500, protocol: TCP}]}]}]"))],
        "near>web tcp/80 v4",
        "near>web tcp/443 v4",
    ),
    case(
        "a range of UDP ports, IPv6, across",
        &[Cnp(on!(
            "web",
            "ingress: [{toPorts: [{ports: [{port: \"8000\", endPort: 8100, protocol: UDP}]}]}]"
        ))],
        "far>web udp/443 v6",
        "far>web udp/8080 v6",
    ),
    case(
        "the last port of a range is in it, the next is not",
        &[Cnp(on!("web", "ingress: [{toPorts: [{ports: [{port: \"81\", endPort: 443, protocol: TCP}]}]}]"))],
        "near>web tcp/80 v6",
        "near>web tcp/443 v6",
    ),
    case(
        "the first port of a range is in it",
        &[Cnp(on!("web", "ingress: [{toPorts: [{ports: [{port: \"80\", endPort: 442, protocol: UDP}]}]}]"))],
        "far>web udp/443 v4",
        "far>web udp/80 v4",
    ),
    case(
        "matchExpressions In",
        &[Cnp(on!(
            "web",
            "ingress: [{fromEndpoints: [{matchExpressions: [{key: app, operator: In, values: [near, far]}]}]}]"
        ))],
        "odd>web tcp/80 v4",
        "far>web tcp/80 v4",
    ),
    case(
        "matchExpressions NotIn: without the label counts too",
        &[Cnp(on!(
            "web",
            "ingress: [{fromEndpoints: [{matchExpressions: [{key: env, operator: NotIn, values: [test]}]}]}]"
        ))],
        "far>web udp/80 v4",
        "odd>web udp/80 v4",
    ),
    case(
        "matchExpressions Exists",
        &[Cnp(on!(
            "web",
            "ingress: [{fromEndpoints: [{matchExpressions: [{key: env, operator: Exists}]}]}]"
        ))],
        "odd>web tcp/80 v6",
        "near>web tcp/80 v6",
    ),
    case(
        "matchExpressions DoesNotExist",
        &[Cnp(on!(
            "web",
            "ingress: [{fromEndpoints: [{matchExpressions: [{key: env, operator: DoesNotExist}]}]}]"
        ))],
        "near>web udp/80 v6",
        "odd>web udp/80 v6",
    ),
    case(
        "all labels of a selector must match",
        &[Cnp(on!("web", "ingress: [{fromEndpoints: [{matchLabels: {tier: front, env: prod}}]}]"))],
        "far>web tcp/80 v6",
        "near>web tcp/80 v6",
    ),
    case(
        "selectors of a list are alternatives",
        &[Cnp(on!(
            "web",
            "ingress: [{fromEndpoints: [{matchLabels: {app: near}}, {matchLabels: {app: odd}}]}]"
        ))],
        "far>web udp/443 v6",
        "odd>web udp/443 v6",
    ),
    case(
        "the empty selector is the policy's own namespace",
        &[Cnp(on!("web", "ingress: [{fromEndpoints: [{}]}]"))],
        "blue>web tcp/80 v4",
        "near>web tcp/80 v4",
    ),
    case(
        "another namespace by name",
        &[Cnp(on!(
            "web",
            "ingress: [{fromEndpoints: [{matchLabels: {\"k8s:io.kubernetes.pod.namespace\": blue}}]}]"
        ))],
        "near>web tcp/80 v6",
        "blue>web tcp/80 v6",
    ),
    case(
        "another namespace by its labels",
        &[Cnp(on!(
            "web",
            "ingress: [{fromEndpoints: [{matchLabels: {\"k8s:io.cilium.k8s.namespace.labels.team\": green}}]}]"
        ))],
        "blue>web tcp/80 v6",
        "green>web tcp/80 v6",
    ),
    case(
        "an entry without peers closes ingress, and not egress",
        &[Cnp(on!("web", "ingress: [{}]"))],
        "near>web tcp/80 v4",
        "web>near tcp/80 v4",
    ),
    case(
        "an echo request by its type",
        &[Cnp(on!("web", "ingress: [{icmps: [{fields: [{family: IPv4, type: 8}]}]}]"))],
        "near>web tcp/80 v4",
        "near>web icmp v4",
    ),
    case(
        "a TCP port is no echo request",
        &[Cnp(on!("web", "ingress: [{toPorts: [{ports: [{port: \"80\", protocol: TCP}]}]}]"))],
        "near>web icmp v4",
        "near>web tcp/80 v4",
    ),
    case(
        "an IPv6 echo request by its name, across",
        &[Cnp(on!("web", "ingress: [{icmps: [{fields: [{family: IPv6, type: EchoRequest}]}]}]"))],
        "far>web tcp/80 v6",
        "far>web icmp v6",
    ),
    case(
        "an IPv4 type is no IPv6 type",
        &[Cnp(on!("web", "ingress: [{icmps: [{fields: [{family: IPv4, type: 8}]}]}]"))],
        "near>web icmp v6",
        "near>web icmp v4",
    ),
    case(
        "another ICMP type is no echo request",
        &[Cnp(on!(
            "web",
            "ingress: [{icmps: [{fields: [{family: IPv4, type: 13}]}]}, {toPorts: [{ports: [{port: \"80\"}]}]}]"
        ))],
        "far>web icmp v4",
        "far>web tcp/80 v4",
    ),
    case(
        "a peer without ports may ping",
        &[Cnp(on!("web", "ingress: [{fromEndpoints: [{matchLabels: {app: far}}]}]"))],
        "near>web icmp v6",
        "far>web icmp v6",
    ),
    case(
        "two policies unite",
        &[
            Cnp(on!("web", "ingress: [{fromEndpoints: [{matchLabels: {app: near}}]}]")),
            Cnp(on!("web", "ingress: [{fromEndpoints: [{matchLabels: {app: far}}]}]")),
        ],
        "odd>web tcp/443 v4",
        "far>web tcp/443 v4",
    ),
    case(
        "a policy is about whom it selects",
        &[Cnp(on!("near", "ingress: [{fromEndpoints: [{matchLabels: {app: web}}]}]"))],
        "far>near tcp/80 v4",
        "far>web tcp/80 v4",
    ),
];
