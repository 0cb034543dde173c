//! Labels that make an endpoint's identity: those of its pod and namespace that Cilium's default
//! filter lets through (features.md §1.5), and those Cilium adds itself.

use crate::world::{EndpointRecord, Label, Labels, ObjectName, Pod, World};

pub(super) const NAMESPACE: &str = "io.kubernetes.pod.namespace";
const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";
pub(super) const CLUSTER: &str = "io.cilium.k8s.policy.cluster";
const SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";

/// Keys beginning so are part of the identity, if the match is longer than that of [`IGNORED`].
const INCLUDED: &[&str] = &[
    "io.kubernetes.pod.namespace",
    "io.cilium.k8s.namespace.labels",
    "app.kubernetes.io",
    "io.cilium.k8s.policy.cluster",
    "io.cilium.k8s.policy.serviceaccount",
];

/// Keys beginning so are no part of it: they differ between equal pods.
const IGNORED: &[&str] = &[
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

/// Whether a label with this key is part of an identity. The longest inclusion must be longer than the
/// shortest exclusion.
pub(super) fn is_identity_label(key: &str) -> bool {
    let included = INCLUDED.iter().filter(|p| key.starts_with(**p)).map(|p| p.len()).max().unwrap_or(0);
    let beta = key.rfind("beta.kubernetes.io").map(|at| at + "beta.kubernetes.io".len());
    let annotation = key.starts_with("annotation").then_some(key.len());
    let ignored =
        IGNORED.iter().filter(|p| key.starts_with(**p)).map(|p| p.len()).chain(beta).chain(annotation).min();
    ignored.is_none_or(|ignored| included > ignored)
}

/// Labels of a pod's identity.
pub(super) fn of_pod(name: &ObjectName, pod: &Pod, world: &World, cluster: &str) -> Labels {
    let mut labels = Labels::default();
    let mut add = |key: String, value: &str| {
        if is_identity_label(&key) {
            labels.0.insert(Label::new("k8s", &key), value);
        }
    };
    for (key, value) in &pod.labels {
        // What only Cilium says, no pod may say of itself (CVE-2023-39347).
        if !key.starts_with("io.cilium.k8s.") {
            add(key.clone(), value);
        }
    }
    if let Some(namespace) = world.namespaces.get(name.namespace.as_str()) {
        for (key, value) in &namespace.labels {
            add(format!("{NAMESPACE_LABELS}{key}"), value);
        }
    }
    // Last, so that no label a pod carries can pose as one of these.
    add(NAMESPACE.to_owned(), &name.namespace);
    add(CLUSTER.to_owned(), cluster);
    let account = if pod.service_account.is_empty() { "default" } else { &pod.service_account };
    add(SERVICE_ACCOUNT.to_owned(), account);
    labels
}

/// Labels of a local endpoint; `None` while its pod is not known.
pub(super) fn of_endpoint(record: &EndpointRecord, world: &World, cluster: &str) -> Option<Labels> {
    match &record.pod {
        Some(name) => world.pods.get(name).map(|pod| of_pod(name, pod, world, cluster)),
        None => {
            let mut labels = Labels::default().with("k8s", CLUSTER, cluster);
            for (key, value) in &record.labels {
                labels.0.insert(Label::new("container", key), value);
            }
            Some(labels)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_filter_is_ciliums() {
        for kept in [
            "app",
            "app.kubernetes.io/name",
            "io.kubernetes.pod.namespace",
            "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name",
            "io.cilium.k8s.policy.cluster",
            "role.k8s.io",
            "pod",
        ] {
            assert!(is_identity_label(kept), "{kept}");
        }
        for dropped in [
            "io.kubernetes.pod.name",
            "kubernetes.io/os",
            "node.beta.kubernetes.io/x",
            "k8s.io/x",
            "pod-template-hash",
            "controller-revision-hash",
            "controller-uid",
            "statefulset.kubernetes.io/pod-name",
            "apps.kubernetes.io/pod-index",
            "batch.kubernetes.io/controller-uid",
            "annotation.x",
            "etcd_node",
            "topology.kubernetes.io/zone",
        ] {
            assert!(!is_identity_label(dropped), "{dropped}");
        }
    }

    #[test]
    fn a_pod_cannot_pose_as_another_namespace() {
        let mut pod = Pod::default();
        pod.labels.insert(NAMESPACE.into(), "kube-system".into());
        pod.labels.insert(CLUSTER.into(), "other".into());
        pod.labels.insert(format!("{NAMESPACE_LABELS}team"), "admins".into());
        let labels = of_pod(&ObjectName::new("shop", "web"), &pod, &World::default(), "default");
        assert_eq!(labels.0[&Label::new("k8s", NAMESPACE)], "shop");
        assert_eq!(labels.0[&Label::new("k8s", CLUSTER)], "default");
        assert_eq!(labels.0[&Label::new("k8s", SERVICE_ACCOUNT)], "default");
        assert_eq!(labels.0.len(), 3);
    }
}
