//! Fields that are often written and are not in the API, each with the form that is.

/// What to write instead of this field, within the object at this path.
pub(super) fn real_form(path: &str, field: &str) -> Option<&'static str> {
    let last = path.rsplit('.').next().unwrap_or(path);
    let within = last.split('[').next().unwrap_or(last);
    let rule = matches!(within, "ingress" | "egress" | "ingressDeny" | "egressDeny");
    Some(match field {
        "icmp" | "icmps" if within == "rules" || within == "toPorts" => {
            "ICMP types stand on the rule beside `toPorts`: `icmps: [{fields: [{family: IPv4, type: 8}]}]`"
        }
        "icmp" if rule => "write `icmps: [{fields: [{family: IPv4, type: 8}]}]`",
        "fromRequires" | "toRequires" => {
            "removed from the API in 1.19: put the labels into `endpointSelector` or `fromEndpoints`, or deny the \
             others with `ingressDeny`/`egressDeny`"
        }
        "egressGateway" => "a gateway is chosen by an object of kind CiliumEgressGatewayPolicy",
        "terminatingTLS" | "originatingTLS" | "serverNames" | "listener" if within == "rules" => {
            "this stands on the entry of `toPorts`, beside `rules`, with `secret: {namespace, name}`"
        }
        "http" | "dns" | "kafka" | "l7" | "l7proto" => "layer 7 rules stand under `toPorts[].rules`",
        "podSelector" if within == "spec" || within == "specs" => {
            "in cilium.io policies it is `endpointSelector`"
        }
        "podSelector" => "in cilium.io policies peers are `fromEndpoints` and `toEndpoints`",
        "namespaceSelector" => {
            "select by the label `k8s:io.kubernetes.pod.namespace`, or by labels of the namespace: \
             `k8s:io.cilium.k8s.namespace.labels.KEY`"
        }
        "ipBlock" => "in cilium.io policies it is `fromCIDRSet` or `toCIDRSet` with `cidr` and `except`",
        "policyTypes" => {
            "in cilium.io policies the directions follow from the sections; see `enableDefaultDeny`"
        }
        "from" if rule => "in cilium.io policies peers are `fromEndpoints`, `fromEntities`, `fromCIDR`, …",
        "to" if rule => "in cilium.io policies peers are `toEndpoints`, `toEntities`, `toCIDR`, …",
        "ports" if rule => "write `toPorts: [{ports: [{port: \"80\", protocol: TCP}]}]`",
        "port" | "protocol" if rule || within == "toPorts" => {
            "write `toPorts: [{ports: [{port: \"80\", protocol: TCP}]}]`"
        }
        "toFQDN" | "toFqdns" | "toDNS" => "write `toFQDNs: [{matchName: example.com}]`, in `egress`",
        "toFQDNs" if within == "egressDeny" || within == "ingressDeny" => {
            "names are not possible in deny rules"
        }
        "rules" if rule => "layer 7 rules stand under `toPorts[].rules`",
        "authentication" => "it stands on an entry of `ingress` or `egress`",
        "endpointSelector" if within == "fromEndpoints" || within == "toEndpoints" => {
            "an entry is a selector itself: `fromEndpoints: [{matchLabels: {…}}]`"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::real_form;

    #[test]
    fn forms_from_tutorials_are_answered_with_the_real_one() {
        assert!(real_form("spec.ingress[0].toPorts[0].rules", "icmp").is_some_and(|s| s.contains("icmps:")));
        assert!(real_form("spec.ingress[0]", "fromRequires").is_some_and(|s| s.contains("1.19")));
        assert!(real_form("spec", "podSelector").is_some_and(|s| s.contains("endpointSelector")));
        assert!(
            real_form("spec.egress[1]", "egressGateway")
                .is_some_and(|s| s.contains("CiliumEgressGatewayPolicy"))
        );
        assert_eq!(real_form("spec.egress[1]", "frobnicate"), None);
    }
}
