//! Label selectors → [`Selector`].

use super::cursor::{Cursor, Notes};
use crate::api::LabelSelector;
use crate::schema::quoted;
use cilium_engine::world::{Label, Operator, Requirement, Selector};
use std::collections::BTreeSet;

/// Label of every pod: its namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// What labels of the namespace begin with, on its pods.
pub const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels";

/// How keys of a selector become labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// `source:key`; without a source: any.
    Cilium,
    /// Labels of pods.
    Pod,
    /// Labels of namespaces.
    Namespace,
    /// Labels of CiliumCIDRGroups.
    Group,
    /// Labels of Services.
    Service,
    /// Labels of nodes, of whichever source, but for `reserved:key`.
    Node,
}

/// Source of the labels of CiliumCIDRGroups.
pub(super) const GROUP_SOURCE: &str = "cidrgroup";

/// Source of the labels of nodes.
const NODE_SOURCE: &str = "node";

/// Sources of labels.
const SOURCES: &[&str] = &[
    "k8s",
    "any",
    "reserved",
    "container",
    "cidr",
    "cidrgroup",
    "fqdn",
    "node",
    "unspec",
    "cni",
    "generated",
];

/// The selector; `None` if it cannot be read, which is told.
pub(super) fn selector(cursor: &Cursor<'_>, keys: Keys, notes: &mut Notes) -> Option<Selector> {
    let api: LabelSelector = notes.read(cursor)?;
    let mut good = true;
    let mut requirements = Vec::new();
    for (key, value) in api.match_labels.unwrap_or_default() {
        let at = cursor.at("matchLabels");
        let label = label(&at, &key, keys, notes);
        good &= label_value(&at, &value, notes);
        match label {
            Some(label) => requirements.push(Requirement { label, operator: Operator::In([value].into()) }),
            None => good = false,
        }
    }
    let expressions = cursor.key("matchExpressions").map(|c| c.items()).unwrap_or_default();
    for (api, at) in api.match_expressions.unwrap_or_default().into_iter().zip(&expressions) {
        let values: BTreeSet<String> = api.values.unwrap_or_default().into_iter().collect();
        good &= values.iter().all(|value| label_value(&at.at("values"), value, notes));
        let operator = match (api.operator.as_str(), values.is_empty()) {
            ("In", false) => Operator::In(values),
            ("NotIn", false) => Operator::NotIn(values),
            ("Exists", true) => Operator::Exists,
            ("DoesNotExist", true) => Operator::DoesNotExist,
            ("In" | "NotIn", true) => {
                notes.invalid(at, format!("`{}` needs `values`", api.operator), "name at least one value");
                good = false;
                continue;
            }
            (operator, _) => {
                notes.invalid(
                    at,
                    format!("`{operator}` takes no `values`"),
                    "remove `values`, or use `In` or `NotIn`",
                );
                good = false;
                continue;
            }
        };
        match label(at, &api.key, keys, notes) {
            Some(label) => requirements.push(Requirement { label, operator }),
            None => good = false,
        }
    }
    good.then(|| sorted(requirements))
}

/// A selector of these requirements.
pub(super) fn sorted(mut requirements: Vec<Requirement>) -> Selector {
    requirements.sort();
    requirements.dedup();
    Selector { requirements }
}

/// The requirement that pods are of this namespace.
pub(super) fn in_namespace(namespace: &str) -> Requirement {
    Requirement {
        label: Label::new("k8s", POD_NAMESPACE),
        operator: Operator::In([namespace.to_owned()].into()),
    }
}

/// The requirement that it is a pod, of whichever namespace.
pub(super) fn in_any_namespace() -> Requirement {
    Requirement { label: Label::new("k8s", POD_NAMESPACE), operator: Operator::Exists }
}

/// The selector with one more requirement.
pub(super) fn with(selector: Selector, requirement: Requirement) -> Selector {
    let mut requirements = selector.requirements;
    requirements.push(requirement);
    sorted(requirements)
}

/// Whether the selector says something about the namespace of pods.
pub(super) fn names_namespace(selector: &Selector) -> bool {
    selector
        .requirements
        .iter()
        .any(|r| r.label.key == POD_NAMESPACE && matches!(&*r.label.source, "k8s" | "any"))
}

/// Whether the selector says something about labels of namespaces.
pub(super) fn names_namespace_labels(selector: &Selector) -> bool {
    selector
        .requirements
        .iter()
        .any(|r| r.label.key.starts_with(NAMESPACE_LABELS) && matches!(&*r.label.source, "k8s" | "any"))
}

/// Whether the selector names a label of source `reserved`.
pub(super) fn names_reserved(selector: &Selector) -> bool {
    selector.requirements.iter().any(|r| r.label.source == "reserved")
}

fn label(at: &Cursor<'_>, key: &str, keys: Keys, notes: &mut Notes) -> Option<Label> {
    let (source, name) = match keys {
        Keys::Cilium => match key.split_once(':') {
            Some((source, name)) => (source, name.to_owned()),
            None => ("any", key.to_owned()),
        },
        Keys::Node => match key.split_once(':') {
            Some(("reserved", name)) => ("reserved", name.to_owned()),
            Some((_, name)) => (NODE_SOURCE, name.to_owned()),
            None => (NODE_SOURCE, key.to_owned()),
        },
        Keys::Pod | Keys::Service => ("k8s", key.to_owned()),
        Keys::Group => (GROUP_SOURCE, key.to_owned()),
        Keys::Namespace => ("k8s", format!("{NAMESPACE_LABELS}.{key}")),
    };
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
    // Labels that name a prefix or a pattern have characters of their own.
    let free = keys == Keys::Cilium && matches!(source, "cidr" | "cidrgroup" | "fqdn");
    let good = !name.is_empty()
        && name.len() <= 512
        && (free || (edge(name.chars().next()) && edge(name.chars().last()) && name.chars().all(inside)));
    if !good {
        let hint = "a key is letters, digits, `-`, `_`, `.`, with at most one `source:` before it";
        notes.invalid(at, format!("{} is no label key", quoted(key)), hint);
        return None;
    }
    if let (Keys::Cilium, "any", Some(rest)) = (keys, source, name.strip_prefix("reserved.")) {
        let hint = format!("write `reserved:{rest}`");
        notes.warning(at, format!("no endpoint has the label {}", quoted(&name)), &hint);
    }
    if !SOURCES.contains(&source) {
        let hint = format!("sources of labels are {}; without one, any is meant", SOURCES.join(", "));
        notes.warning(at, format!("no label has the source {}", quoted(source)), &hint);
    }
    Some(Label::new(source, &name))
}

fn label_value(at: &Cursor<'_>, value: &str, notes: &mut Notes) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let good = value.len() <= 63
        && edge(value.chars().next())
        && edge(value.chars().last())
        && value.chars().all(inside);
    if !good {
        let hint = "a value has at most 63 letters, digits, `-`, `_`, `.`, and begins and ends with a letter or digit";
        notes.invalid(at, format!("{} is no label value", quoted(value)), hint);
    }
    good
}
