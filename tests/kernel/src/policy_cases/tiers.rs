//! ClusterNetworkPolicy: before and after the other policies.

use super::Policy::{Cnp, Tiered};
use super::{Case, case, denied_by_rule, on};

/// `spec` of a policy about the pods with `app: web` in the namespace of the case.
macro_rules! ranked {
    ($tier:literal, $rules:literal) => {
        concat!(
            "{tier: ",
            $tier,
            ", priority: 10, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $NS}}, \
             podSelector: {matchLabels: {app: web}}}}, ",
            $rules,
            "}"
        )
    };
}

pub(super) const CASES: &[Case] = &[
    denied_by_rule(
        "an admin's deny comes before what a policy allows",
        &[
            Tiered(ranked!(
                "Admin",
                "ingress: [{action: Deny, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: near}}}}]}]"
            )),
            Cnp(on!("web", "ingress: [{fromEntities: [all]}]")),
        ],
        "near>web tcp/80 v4",
        "far>web tcp/80 v4",
    ),
    case(
        "an admin's accept comes before a default deny",
        &[
            Tiered(ranked!(
                "Admin",
                "ingress: [{action: Accept, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: far}}}}]}]"
            )),
            Cnp(on!("web", "ingress: [{fromEntities: [none]}]")),
        ],
        "near>web udp/80 v6",
        "far>web udp/80 v6",
    ),
    denied_by_rule(
        "what an admin passes on others do not deny",
        &[Tiered(ranked!(
            "Admin",
            "ingress: [{action: Pass, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: near}}}}]}, \
             {action: Deny, from: [{namespaces: {}}]}]"
        ))],
        "far>web tcp/80 v6",
        "near>web tcp/80 v6",
    ),
    case(
        "what an admin passes on is left to policies",
        &[
            Tiered(ranked!("Admin", "ingress: [{action: Pass, from: [{namespaces: {}}]}]")),
            Cnp(on!("web", "ingress: [{fromEndpoints: [{matchLabels: {app: near}}]}]")),
        ],
        "far>web tcp/80 v4",
        "near>web tcp/80 v4",
    ),
    denied_by_rule(
        "one port",
        &[Tiered(ranked!(
            "Admin",
            "ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 443}}}]}]"
        ))],
        "far>web tcp/443 v4",
        "far>web tcp/80 v4",
    ),
    denied_by_rule(
        "the baseline is for those whom no policy is about",
        &[Tiered(ranked!(
            "Baseline",
            "ingress: [{action: Deny, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {tier: front}}}}]}]"
        ))],
        "near>web icmp v4",
        "odd>web icmp v4",
    ),
    case(
        "a default deny is before the baseline",
        &[
            Tiered(ranked!("Baseline", "ingress: [{action: Accept, from: [{namespaces: {}}]}]")),
            Cnp(on!("web", "ingress: [{fromEndpoints: [{matchLabels: {app: far}}]}]")),
        ],
        "near>web tcp/80 v4",
        "far>web tcp/80 v4",
    ),
    denied_by_rule(
        "out to nodes by their labels",
        &[Tiered(ranked!("Admin", "egress: [{action: Deny, to: [{nodes: {matchLabels: {role: n2}}}]}]"))],
        "web>host2 tcp/80 v4",
        "web>far tcp/80 v4",
    ),
];
