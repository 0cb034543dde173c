//! Labels of identities: `source:key=value`, and the default filter that says which labels of a pod
//! are part of its identity.
//!
//! Read next: [`crate::world`], which makes the identities.

use std::net::IpAddr;

use ipnet::IpNet;

pub(crate) const K8S: &str = "k8s";
pub(crate) const RESERVED: &str = "reserved";
pub(crate) const NODE: &str = "node";
pub(crate) const CIDR: &str = "cidr";
pub(crate) const CIDR_GROUP: &str = "cidrgroup";

/// What Cilium itself owns; a pod cannot give itself such a label.
const OWNED: &str = "io.cilium.k8s";
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(crate) const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels";
pub(crate) const CLUSTER: &str = "io.cilium.k8s.policy.cluster";
pub(crate) const SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";

/// One label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) source: &'static str,
    pub(crate) key: String,
    pub(crate) value: String,
}

impl Label {
    pub(crate) fn new(source: &'static str, key: impl Into<String>, value: impl Into<String>) -> Self {
        Label { source, key: key.into(), value: value.into() }
    }

    pub(crate) fn reserved(name: &str) -> Self {
        Label::new(RESERVED, name, "")
    }
}

/// The labels of a pod's identity, from its own, its namespace's, and what Cilium adds.
pub(crate) fn of_pod(
    own: &[(String, String)],
    namespace: &str,
    namespace_labels: &[(String, String)],
    service_account: &str,
    cluster: &str,
) -> Vec<Label> {
    let own = own.iter().filter(|(key, _)| !key.starts_with(OWNED) && key != POD_NAMESPACE);
    let mut labels: Vec<Label> = own.map(|(key, value)| Label::new(K8S, key, value)).collect();
    for (key, value) in namespace_labels {
        labels.push(Label::new(K8S, format!("{NAMESPACE_LABELS}.{key}"), value));
    }
    labels.push(Label::new(K8S, POD_NAMESPACE, namespace));
    labels.push(Label::new(K8S, CLUSTER, cluster));
    if !service_account.is_empty() {
        labels.push(Label::new(K8S, SERVICE_ACCOUNT, service_account));
    }
    labels.retain(|label| is_identity_relevant(&label.key));
    labels
}

/// Key prefixes the default filter includes (whatever the source).
const INCLUDED: [&str; 5] = [POD_NAMESPACE, NAMESPACE_LABELS, "app.kubernetes.io", CLUSTER, SERVICE_ACCOUNT];

/// Key prefixes the default filter ignores.
const IGNORED: [&str; 13] = [
    "io.kubernetes",
    "kubernetes.io",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/controller-uid",
    "topology.kubernetes.io",
    "k8s.io",
    "pod-template-generation",
    "pod-template-hash",
    "controller-revision-hash",
    "controller-uid",
    "etcd_node",
];

/// Whether the default filter keeps a label of this key: the longest inclusion that matches must be
/// longer than the shortest exclusion that does; a key nothing matches is kept.
///
/// Two exclusions are more than a prefix: `.*beta.kubernetes.io` is found anywhere and reaches to its
/// end, `annotation.*` reaches to the key's end. Source: Cilium's `pkg/labelsfilter/filter.go` and
/// "Limiting Identity-Relevant Labels"; `topology.kubernetes.io` since cilium/cilium#43725.
pub(crate) fn is_identity_relevant(key: &str) -> bool {
    const BETA: &str = "beta.kubernetes.io";
    let included =
        INCLUDED.iter().filter(|prefix| key.starts_with(**prefix)).map(|prefix| prefix.len()).max();
    let prefixes = IGNORED.iter().filter(|prefix| key.starts_with(**prefix)).map(|prefix| prefix.len());
    let beta = key.rfind(BETA).map(|start| start + BETA.len());
    let annotation = key.starts_with("annotation").then_some(key.len());
    let ignored = prefixes.chain(beta).chain(annotation).min();
    match (included, ignored) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(included), Some(ignored)) => included > ignored,
    }
}

/// A prefix as the key of a `cidr:` label writes it: `-` for `:`, a zero before or after where the
/// key would begin or end with `-`.
pub(crate) fn prefix_of_key(key: &str) -> Option<IpNet> {
    let (address, length) = key.split_once('/')?;
    let address: IpAddr = address.replace('-', ":").parse().ok()?;
    Some(IpNet::new(address, length.parse().ok()?).ok()?.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_filter_keeps_what_cilium_keeps() {
        for kept in [
            "app",
            "app.kubernetes.io/name",
            "io.kubernetes.pod.namespace",
            "io.cilium.k8s.policy.cluster",
            "io.cilium.k8s.policy.serviceaccount",
            "io.cilium.k8s.namespace.labels.team",
            "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name",
            "job-name",
            "batch.kubernetes.io/job-name",
            "my.k8s.io/x",
            "node.kubernetes.io/x",
        ] {
            assert!(is_identity_relevant(kept), "{kept}");
        }
    }

    #[test]
    fn the_default_filter_drops_what_cilium_drops() {
        for dropped in [
            "io.kubernetes.container.name",
            "kubernetes.io/arch",
            "statefulset.kubernetes.io/pod-name",
            "apps.kubernetes.io/pod-index",
            "batch.kubernetes.io/job-completion-index",
            "batch.kubernetes.io/controller-uid",
            "controller-uid",
            "beta.kubernetes.io/os",
            "failure-domain.beta.kubernetes.io/zone",
            "k8s.io/cluster",
            "topology.kubernetes.io/zone",
            "pod-template-hash",
            "annotation.sidecar",
            "etcd_node",
        ] {
            assert!(!is_identity_relevant(dropped), "{dropped}");
        }
    }

    #[test]
    fn the_longest_inclusion_is_held_against_the_shortest_exclusion() {
        // Included over 17 characters; ".*beta.kubernetes.io" reaches further.
        assert!(!is_identity_relevant("app.kubernetes.io/beta.kubernetes.io"));
        assert!(!is_identity_relevant("io.cilium.k8s.namespace.labels.beta.kubernetes.io/x"));
    }

    #[test]
    fn a_pod_cannot_give_itself_what_cilium_owns() {
        let own = [
            ("io.cilium.k8s.policy.cluster".to_owned(), "other".to_owned()),
            ("io.cilium.k8s.namespace.labels.team".to_owned(), "red".to_owned()),
            ("io.kubernetes.pod.namespace".to_owned(), "kube-system".to_owned()),
        ];
        let labels = of_pod(&own, "shop", &[], "", "local");
        let seen: Vec<String> = labels.iter().map(|label| format!("{}={}", label.key, label.value)).collect();
        assert_eq!(seen, ["io.kubernetes.pod.namespace=shop", "io.cilium.k8s.policy.cluster=local"]);
    }

    #[test]
    fn prefixes_are_read_from_keys() {
        assert_eq!(prefix_of_key("10.1.2.3/8"), "10.0.0.0/8".parse().ok());
        assert_eq!(prefix_of_key("fd00--/8"), "fd00::/8".parse().ok());
        assert_eq!(prefix_of_key("0--0/0"), "::/0".parse().ok());
        assert_eq!(prefix_of_key("app"), None);
    }
}
