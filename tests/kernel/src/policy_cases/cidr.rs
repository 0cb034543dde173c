//! Prefixes, with exceptions and without.

use super::Policy::Cnp;
use super::{Case, case, on};

pub(super) const CASES: &[Case] = &[
    case(
        "from a prefix",
        &[Cnp(on!("web", "ingress: [{fromCIDR: [203.0.113.0/25]}]"))],
        "out-b>web tcp/80 v4",
        "out-a>web tcp/80 v4",
    ),
    case(
        "from a prefix with an exception",
        &[Cnp(on!("web", "ingress: [{fromCIDRSet: [{cidr: 203.0.113.0/24, except: [203.0.113.128/25]}]}]"))],
        "out-b>web tcp/443 v4",
        "out-a>web tcp/443 v4",
    ),
    case(
        "from an IPv6 prefix with an exception",
        &[Cnp(on!(
            "web",
            "ingress: [{fromCIDRSet: [{cidr: \"2001:db8:1::/48\", except: [\"2001:db8:1:f::/64\"]}]}]"
        ))],
        "out-b>web tcp/80 v6",
        "out-a>web tcp/80 v6",
    ),
    case(
        "from a prefix with an exception, on a port",
        &[Cnp(on!(
            "web",
            "ingress: [{fromCIDRSet: [{cidr: 203.0.113.0/24, except: [203.0.113.128/25]}], toPorts: [{ports: [{port: \
             \"80\", protocol: UDP}]}]}]"
        ))],
        "out-a>web udp/443 v4",
        "out-a>web udp/80 v4",
    ),
    case(
        "to a prefix with an exception, UDP",
        &[Cnp(on!("near", "egress: [{toCIDRSet: [{cidr: 203.0.113.0/24, except: [203.0.113.128/25]}]}]"))],
        "near>out-b udp/80 v4",
        "near>out-a udp/80 v4",
    ),
    case(
        "to an IPv6 prefix with an exception",
        &[Cnp(on!(
            "far",
            "egress: [{toCIDRSet: [{cidr: \"2001:db8:1::/48\", except: [\"2001:db8:1:f::/64\"]}]}]"
        ))],
        "far>out-b tcp/80 v6",
        "far>out-a tcp/80 v6",
    ),
    case(
        "to the whole world but one prefix",
        &[Cnp(on!("near", "egress: [{toCIDRSet: [{cidr: 0.0.0.0/0, except: [203.0.113.128/25]}]}]"))],
        "near>out-b icmp v4",
        "near>out-a icmp v4",
    ),
    case(
        "an exception of a prefix does not weaken another policy",
        &[
            Cnp(on!("near", "egress: [{toCIDRSet: [{cidr: 203.0.113.0/24, except: [203.0.113.200/32]}]}]")),
            Cnp(on!("near", "egress: [{toCIDR: [203.0.113.200], toPorts: [{ports: [{port: \"443\"}]}]}]")),
        ],
        "near>out-b tcp/80 v4",
        "near>out-b tcp/443 v4",
    ),
    case(
        "to one address",
        &[Cnp(on!("near", "egress: [{toCIDR: [\"2001:db8:1:a::10/128\"]}]"))],
        "near>out-b icmp v6",
        "near>out-a icmp v6",
    ),
    case(
        "a prefix is not the pods within it",
        &[Cnp(on!(
            "web",
            "ingress: [{fromCIDR: [10.0.0.0/8]}, {fromEndpoints: [{matchLabels: {app: near}}]}]"
        ))],
        "far>web tcp/80 v4",
        "near>web tcp/80 v4",
    ),
    case(
        "a prefix is not the nodes within it",
        &[Cnp(on!("near", "egress: [{toCIDR: [192.168.77.0/24]}, {toEntities: [host]}]"))],
        "near>host2 udp/443 v4",
        "near>host1 udp/443 v4",
    ),
    case(
        "0.0.0.0/0 is the IPv4 world, not the cluster",
        &[Cnp(on!("web", "ingress: [{fromCIDR: [0.0.0.0/0]}]"))],
        "far>web tcp/443 v4",
        "out-b>web tcp/443 v4",
    ),
    case(
        "::/0 is the IPv6 world, not the IPv4 one",
        &[Cnp(on!("near", "egress: [{toCIDR: [\"::/0\"]}]"))],
        "near>out-a udp/80 v4",
        "near>out-a udp/80 v6",
    ),
];
