//! Entities: the world, nodes, the cluster, all, none.

use super::Policy::Cnp;
use super::{Case, case, on};

pub(super) const CASES: &[Case] = &[
    case(
        "the cluster is not the world",
        &[Cnp(on!("web", "ingress: [{fromEntities: [cluster]}]"))],
        "out-a>web tcp/80 v4",
        "far>web tcp/80 v4",
    ),
    case(
        "the cluster has the other nodes",
        &[Cnp(on!("web", "ingress: [{fromEntities: [cluster]}]"))],
        "out-b>web udp/80 v6",
        "host2>web udp/80 v6",
    ),
    case(
        "the world is not the cluster",
        &[Cnp(on!("web", "ingress: [{fromEntities: [world]}]"))],
        "near>web tcp/80 v4",
        "out-a>web tcp/80 v4",
    ),
    case(
        "the world is not the cluster, UDP over IPv6",
        &[Cnp(on!("web", "ingress: [{fromEntities: [world]}]"))],
        "far>web udp/80 v6",
        "out-a>web udp/80 v6",
    ),
    case(
        "the IPv4 world is not the IPv6 world",
        &[Cnp(on!("web", "ingress: [{fromEntities: [world-ipv4]}]"))],
        "out-a>web tcp/80 v6",
        "out-a>web tcp/80 v4",
    ),
    case(
        "the IPv6 world is not the IPv4 world",
        &[Cnp(on!("web", "ingress: [{fromEntities: [world-ipv6]}]"))],
        "out-a>web icmp v4",
        "out-a>web icmp v6",
    ),
    case(
        "other nodes are not their pods",
        &[Cnp(on!("web", "ingress: [{fromEntities: [remote-node]}]"))],
        "far>web tcp/80 v4",
        "host2>web tcp/80 v4",
    ),
    case(
        "other nodes may ping, IPv6",
        &[Cnp(on!("web", "ingress: [{fromEntities: [remote-node]}]"))],
        "far>web icmp v6",
        "host2>web icmp v6",
    ),
    case(
        "the host is not another node",
        &[Cnp(on!("web", "ingress: [{fromEntities: [host]}]"))],
        "host2>web tcp/80 v4",
        "host1>web tcp/80 v4",
    ),
    case(
        "the host is not another node, UDP over IPv6",
        &[Cnp(on!("web", "ingress: [{fromEntities: [host]}]"))],
        "host2>web udp/80 v6",
        "host1>web udp/80 v6",
    ),
    case(
        "all, on one port",
        &[Cnp(on!(
            "web",
            "ingress: [{fromEntities: [all], toPorts: [{ports: [{port: \"80\", protocol: UDP}]}]}]"
        ))],
        "out-a>web tcp/80 v4",
        "out-a>web udp/80 v4",
    ),
    case(
        "none is nobody; the node reaches its own pods all the same",
        &[Cnp(on!("web", "ingress: [{fromEntities: [none]}]"))],
        "near>web tcp/80 v6",
        "host1>web tcp/80 v6",
    ),
    case(
        "to the world",
        &[Cnp(on!("near", "egress: [{toEntities: [world]}]"))],
        "near>far tcp/80 v4",
        "near>out-a tcp/80 v4",
    ),
    case(
        "to the world, UDP over IPv6",
        &[Cnp(on!("near", "egress: [{toEntities: [world]}]"))],
        "near>far udp/80 v6",
        "near>out-b udp/80 v6",
    ),
    case(
        "to the IPv6 world",
        &[Cnp(on!("far", "egress: [{toEntities: [world-ipv6]}]"))],
        "far>out-a tcp/80 v4",
        "far>out-a tcp/80 v6",
    ),
    case(
        "to the host, not to another node",
        &[Cnp(on!("near", "egress: [{toEntities: [host]}]"))],
        "near>host2 tcp/80 v4",
        "near>host1 tcp/80 v4",
    ),
    case(
        "to another node, not to the host",
        &[Cnp(on!("near", "egress: [{toEntities: [remote-node]}]"))],
        "near>host1 udp/80 v4",
        "near>host2 udp/80 v4",
    ),
    case(
        "to the cluster: its nodes too",
        &[Cnp(on!("near", "egress: [{toEntities: [cluster]}]"))],
        "near>out-a tcp/80 v6",
        "near>host2 tcp/80 v6",
    ),
    case(
        "to all, on one port",
        &[Cnp(on!(
            "far",
            "egress: [{toEntities: [all], toPorts: [{ports: [{port: \"443\", protocol: TCP}]}]}]"
        ))],
        "far>out-b tcp/80 v4",
        "far>out-b tcp/443 v4",
    ),
    case(
        "two entities",
        &[Cnp(on!("far", "egress: [{toEntities: [world, remote-node]}]"))],
        "far>odd icmp v4",
        "far>host1 icmp v4",
    ),
];
