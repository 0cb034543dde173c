//! Label selectors: `matchLabels` and `matchExpressions`, over labels with sources.
//!
//! Source: Kubernetes' LabelSelector; Cilium's "Endpoint Selector" and label sources.

use std::net::IpAddr;

use serde_json::Value;

use crate::labels::{CIDR, CLUSTER, Label, NAMESPACE_LABELS, NODE, POD_NAMESPACE, RESERVED, prefix_of_key};
use crate::read::{At, Findings};

/// What a selector's keys are keys of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    /// Of an identity's labels: `source:key`; no source, or `any:`, is every source.
    Identity,
    /// Of a pod's own labels, as a Kubernetes API names them: no sources.
    Pod,
    /// Of a namespace's labels.
    Namespace,
    /// Of a node's labels; a source says nothing, but for `reserved:`.
    Node,
    /// Of the labels of an object that is no endpoint (a Service, a CiliumCIDRGroup).
    Object,
}

/// A key: of one source, or of any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) source: Option<String>,
    pub(crate) name: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Requirement {
    pub(crate) key: Key,
    pub(crate) operator: Operator,
}

/// Requirements, all of which must hold; none: everything is selected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    pub(crate) requirements: Vec<Requirement>,
}

/// What a selector is held against: labels, and the address whose enclosing prefixes are `cidr:`
/// labels too (`None` where CIDR rules do not apply).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Labelled<'a> {
    pub(crate) labels: &'a [Label],
    pub(crate) prefixes_of: Option<IpAddr>,
}

impl<'a> Labelled<'a> {
    pub(crate) fn plain(labels: &'a [Label]) -> Self {
        Labelled { labels, prefixes_of: None }
    }

    fn values(&self, key: &Key) -> Vec<&'a str> {
        let of_source = |label: &&Label| key.source.as_deref().is_none_or(|source| source == label.source);
        let labels = self.labels.iter().filter(of_source).filter(|label| label.key == key.name);
        let mut values: Vec<&str> = labels.map(|label| label.value.as_str()).collect();
        if let Some(address) = self.prefixes_of
            && key.source.as_deref().is_none_or(|source| source == CIDR)
            && prefix_of_key(&key.name).is_some_and(|prefix| prefix.contains(&address))
        {
            values.push("");
        }
        values
    }
}

impl Selector {
    pub(crate) fn matches(&self, labelled: Labelled<'_>) -> bool {
        // "reserved:all" selects everything, whatever is beside it.
        let all = self.names_reserved("all");
        all || self.requirements.iter().all(|requirement| {
            let values = labelled.values(&requirement.key);
            let one_of =
                |wanted: &[String]| values.iter().any(|value| wanted.iter().any(|want| want == value));
            match &requirement.operator {
                Operator::In(wanted) => one_of(wanted),
                Operator::NotIn(unwanted) => !one_of(unwanted),
                Operator::Exists => !values.is_empty(),
                Operator::DoesNotExist => values.is_empty(),
            }
        })
    }

    /// Whether a key of this source is named.
    pub(crate) fn names_source(&self, source: &str) -> bool {
        self.requirements.iter().any(|requirement| requirement.key.source.as_deref() == Some(source))
    }

    /// Whether `key` is named, of `k8s:` or of any source.
    pub(crate) fn names(&self, key: &str) -> bool {
        self.requirements
            .iter()
            .any(|requirement| requirement.key.of_kubernetes() && requirement.key.name == key)
    }

    /// Whether `reserved:NAME` is named.
    pub(crate) fn names_reserved(&self, name: &str) -> bool {
        let is = |key: &Key| key.source.as_deref() == Some(RESERVED) && key.name == name;
        self.requirements.iter().any(|requirement| is(&requirement.key))
    }

    pub(crate) fn names_namespace(&self) -> bool {
        self.names(POD_NAMESPACE)
    }

    pub(crate) fn names_cluster(&self) -> bool {
        self.names(CLUSTER)
    }

    /// Whether a label of the namespace is named.
    pub(crate) fn names_namespace_labels(&self) -> bool {
        let is = |key: &Key| {
            key.of_kubernetes()
                && key.name.strip_prefix(NAMESPACE_LABELS).is_some_and(|rest| rest.starts_with('.'))
        };
        self.requirements.iter().any(|requirement| is(&requirement.key))
    }

    /// Adds `k8s:key=value`.
    pub(crate) fn require(&mut self, key: &str, value: &str) {
        self.push(key, Operator::In(vec![value.to_owned()]));
    }

    /// Adds "has a label `k8s:key`".
    pub(crate) fn require_any(&mut self, key: &str) {
        self.push(key, Operator::Exists);
    }

    fn push(&mut self, key: &str, operator: Operator) {
        let key = Key { source: Some("k8s".to_owned()), name: key.to_owned() };
        self.requirements.push(Requirement { key, operator });
    }
}

impl Key {
    fn of_kubernetes(&self) -> bool {
        self.source.as_deref().is_none_or(|source| source == "k8s")
    }

    fn read(text: &str, keys: Keys) -> Key {
        let (source, name) = match text.split_once(':') {
            Some(("any" | "", name)) => (None, name),
            Some((source, name)) => (Some(source), name),
            None => text.strip_prefix('$').map_or((None, text), |name| (Some(RESERVED), name)),
        };
        let (source, name) = match keys {
            Keys::Identity => (source, name),
            Keys::Node if source == Some(RESERVED) => (source, name),
            Keys::Node => (Some(NODE), name),
            // No sources here: a colon is part of the key.
            Keys::Pod | Keys::Namespace => (Some("k8s"), text),
            Keys::Object => (None, name),
        };
        Key { source: source.map(str::to_owned), name: name.to_owned() }
    }
}

/// Reads a selector. What cannot be read of it is left out, with a finding.
pub(crate) fn read(at: &At<'_>, keys: Keys, findings: &mut Findings) -> Selector {
    at.only(&["matchLabels", "matchExpressions"], findings);
    let mut requirements = Vec::new();
    if let Some(labels) = at.member("matchLabels") {
        match labels.value.as_object() {
            None => findings.invalid(&labels.path, "is not a map of strings"),
            Some(map) => {
                for (name, value) in map {
                    let path = format!("{}.{name}", labels.path);
                    let key = read_key(name, keys, &path, findings);
                    if let Some(value) = read_value(value, &path, findings) {
                        requirements.push(Requirement { key, operator: Operator::In(vec![value]) });
                    }
                }
            }
        }
    }
    for expression in at.list("matchExpressions", findings).unwrap_or_default() {
        requirements.extend(read_expression(&expression, keys, findings));
    }
    Selector { requirements }
}

fn read_expression(at: &At<'_>, keys: Keys, findings: &mut Findings) -> Option<Requirement> {
    at.only(&["key", "operator", "values"], findings);
    let Some(key) = at.member("key") else {
        findings.invalid(&at.below("key"), "is required");
        return None;
    };
    let key = read_key(key.text(findings)?, keys, &key.path, findings);
    let mut values = Vec::new();
    for value in at.list("values", findings).unwrap_or_default() {
        values.extend(read_value(value.value, &value.path, findings));
    }
    let Some(operator) = at.member("operator") else {
        findings.invalid(&at.below("operator"), "is required");
        return None;
    };
    let operator = match (operator.text(findings)?, values.is_empty()) {
        ("In", false) => Operator::In(values),
        ("NotIn", false) => Operator::NotIn(values),
        ("Exists", true) => Operator::Exists,
        ("DoesNotExist", true) => Operator::DoesNotExist,
        ("In" | "NotIn", true) => {
            findings.invalid(&at.below("values"), "must not be empty with In and NotIn");
            return None;
        }
        ("Exists" | "DoesNotExist", false) => {
            findings.invalid(&at.below("values"), "must be empty with Exists and DoesNotExist");
            return None;
        }
        _ => {
            findings.invalid(&operator.path, "is none of In, NotIn, Exists, DoesNotExist");
            return None;
        }
    };
    Some(Requirement { key, operator })
}

fn read_key(text: &str, keys: Keys, path: &str, findings: &mut Findings) -> Key {
    let key = Key::read(text, keys);
    if !is_qualified_name(&key.name) {
        findings.invalid(path, format!("{text:?} is not a label key"));
    }
    key
}

fn read_value(value: &Value, path: &str, findings: &mut Findings) -> Option<String> {
    match value.as_str() {
        Some(text) if text.is_empty() || (text.len() <= 63 && is_name(text)) => Some(text.to_owned()),
        Some(text) => {
            findings.invalid(path, format!("{text:?} is not a label value"));
            None
        }
        None => {
            findings.invalid(path, "is not a string");
            None
        }
    }
}

/// `[prefix/]name`: the prefix a DNS subdomain, the name at most 63 letters, digits, `-`, `_`, `.`.
/// The name of what stands for a namespace's label may be longer by what stands before it.
fn is_qualified_name(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    let longest = if name.starts_with(NAMESPACE_LABELS) { 64 + NAMESPACE_LABELS.len() } else { 63 };
    let is_prefix = |prefix: &str| {
        prefix.len() <= 253
            && is_name(prefix)
            && !prefix.contains(|c: char| c == '_' || c.is_ascii_uppercase())
    };
    prefix.is_none_or(is_prefix) && name.len() <= longest && is_name(name)
}

/// Letters, digits, `-`, `_`, `.`, the first and the last a letter or digit.
fn is_name(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    ends(text.chars().next())
        && ends(text.chars().last())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selector(value: &Value, keys: Keys) -> (Selector, usize) {
        let mut findings = Findings::default();
        let selector = read(&At::root(value), keys, &mut findings);
        (selector, findings.mark())
    }

    fn selects(value: &Value, labels: &[Label]) -> bool {
        let (selector, findings) = selector(value, Keys::Identity);
        assert_eq!(findings, 0, "{value}");
        selector.matches(Labelled::plain(labels))
    }

    #[test]
    fn operators_mean_what_kubernetes_says() {
        let labels = [Label::new("k8s", "app", "shop")];
        let expression = |operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": "app", "operator": operator, "values": values}]});
        assert!(selects(&json!({}), &labels));
        assert!(selects(&expression("In", &["shop", "x"]), &labels));
        assert!(!selects(&expression("In", &["x"]), &labels));
        assert!(!selects(&expression("NotIn", &["shop"]), &labels));
        assert!(selects(&expression("NotIn", &["shop"]), &[]), "an absent label is not in the list");
        assert!(selects(&expression("Exists", &[]), &labels));
        assert!(!selects(&expression("Exists", &[]), &[]));
        assert!(selects(&expression("DoesNotExist", &[]), &[]));
    }

    #[test]
    fn a_key_without_source_is_of_any_source() {
        let reserved = [Label::reserved("host")];
        assert!(selects(&json!({"matchLabels": {"host": ""}}), &reserved));
        assert!(selects(&json!({"matchLabels": {"any:host": ""}}), &reserved));
        assert!(selects(&json!({"matchLabels": {"reserved:host": ""}}), &reserved));
        assert!(selects(&json!({"matchLabels": {"$host": ""}}), &reserved));
        assert!(!selects(&json!({"matchLabels": {"k8s:host": ""}}), &reserved));
        assert!(selects(&json!({"matchLabels": {"reserved:all": ""}}), &[]));
    }

    #[test]
    fn an_address_has_all_enclosing_prefixes_as_labels() {
        let (selector, _) = selector(&json!({"matchLabels": {"cidr:10.0.0.0/8": ""}}), Keys::Identity);
        let at = |address: &str| Labelled { labels: &[], prefixes_of: address.parse().ok() };
        assert!(selector.matches(at("10.9.8.7")));
        assert!(!selector.matches(at("11.0.0.1")));
        assert!(!selector.matches(at("fd00::1")));
        assert!(!selector.matches(Labelled::plain(&[])));
    }

    #[test]
    fn what_is_no_selector_is_found() {
        for bad in [
            json!([]),
            json!({"matchLabel": {}}),
            json!({"matchLabels": {"a": 1}}),
            json!({"matchLabels": {"-a": "b"}}),
            json!({"matchLabels": {"a": "b c"}}),
            json!({"matchExpressions": [{"key": "a", "operator": "in", "values": ["b"]}]}),
            json!({"matchExpressions": [{"key": "a", "operator": "In"}]}),
            json!({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}),
            json!({"matchExpressions": [{"operator": "Exists"}]}),
        ] {
            assert_eq!(selector(&bad, Keys::Identity).1, 1, "{bad}");
        }
    }
}
