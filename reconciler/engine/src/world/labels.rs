//! Labels with their sources, and selectors over them.

use crate::map::Few;
use crate::shared::Text;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// A label's name: `k8s:app`, `reserved:host`, `cidr:10.0.0.0/8`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Label {
    /// Where it comes from: `k8s`, `reserved`, `cidr`, `container`; in selectors also `any`.
    pub source: Text,
    /// Its key.
    pub key: Text,
}

impl Label {
    /// A label of this source.
    pub fn new(source: &str, key: &str) -> Self {
        Self { source: source.into(), key: key.into() }
    }

    /// Whether a selector naming `self` means `other` (`any` means every source).
    pub fn means(&self, other: &Self) -> bool {
        self.key == other.key && (self.source == "any" || self.source == other.source)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.key)
    }
}

/// A set of labels with values; `Display` is `k8s:app=web,reserved:host`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Labels(pub Few<Label, Text>);

impl Labels {
    /// Sorted lines `source:key=value`, as they stand in CiliumIdentity and are hashed.
    pub fn sorted_lines(&self) -> Vec<String> {
        self.0.iter().map(|(l, v)| format!("{l}={v}")).collect()
    }
    /// With one more.
    #[must_use]
    pub fn with(mut self, source: &str, key: &str, value: &str) -> Self {
        self.0.insert(Label::new(source, key), value);
        self
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (label, value)) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            if value.is_empty() { write!(f, "{label}")? } else { write!(f, "{label}={value}")? }
        }
        Ok(())
    }
}

/// How a requirement compares.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Operator {
    /// The value is one of these.
    In(BTreeSet<String>),
    /// The label is absent, or its value none of these.
    NotIn(BTreeSet<String>),
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

/// One condition of a selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Requirement {
    /// The label; source `any` means every source.
    pub label: Label,
    /// The condition.
    pub operator: Operator,
}

/// All requirements must hold; none: everything is selected.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Selector {
    /// The conditions, sorted.
    pub requirements: Vec<Requirement>,
}

impl Selector {
    /// Whether these labels are selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.means(|| labels.0.iter())
    }

    /// Whether these labels are selected, of which one may have several values.
    pub fn means<'l, I>(&self, labels: impl Fn() -> I) -> bool
    where
        I: Iterator<Item = (&'l Label, &'l Text)>,
    {
        self.requirements.iter().all(|r| {
            let mut values = labels().filter(|(l, _)| r.label.means(l)).map(|(_, v)| v);
            match &r.operator {
                Operator::In(set) => values.any(|v| set.contains(v.as_str())),
                Operator::NotIn(set) => !values.any(|v| set.contains(v.as_str())),
                Operator::Exists => values.next().is_some(),
                Operator::DoesNotExist => values.next().is_none(),
            }
        })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.requirements.is_empty() {
            return f.write_str("everything");
        }
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            let list = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join("|");
            match &r.operator {
                Operator::In(set) => write!(f, "{}={}", r.label, list(set))?,
                Operator::NotIn(set) => write!(f, "{}!={}", r.label, list(set))?,
                Operator::Exists => write!(f, "{}", r.label)?,
                Operator::DoesNotExist => write!(f, "!{}", r.label)?,
            }
        }
        Ok(())
    }
}
