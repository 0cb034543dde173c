//! Untyped values read with their JSON path; what cannot be read becomes a [`Finding`].
//!
//! `null` and an absent member are the same thing, as in the Kubernetes API.

use std::ops::Range;

use serde_json::Value;

/// One thing that is wrong with an object, or that is not evaluated here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// JSON path from the object's root, e.g. `spec.ingress[0].toPorts[1].ports[0].port`.
    pub path: String,
    /// What is wrong, lower case, without the path.
    pub what: String,
    /// Whether the API forbids it, or this oracle (and the first versions of the datapath) lack it.
    pub kind: Kind,
}

/// Why there is a [`Finding`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// In the API, but not evaluated: L7 rules, `toFQDNs`, TLS, authentication, cloud groups.
    Unsupported,
    /// Against the documentation: unreadable, contradictory, out of bounds, not in the API.
    Invalid,
}

/// The findings of one object, in the order of reading.
#[derive(Debug, Default)]
pub(crate) struct Findings(pub(crate) Vec<Finding>);

impl Findings {
    pub(crate) fn invalid(&mut self, path: &str, what: impl Into<String>) {
        self.0.push(Finding { path: path.to_owned(), what: what.into(), kind: Kind::Invalid });
    }

    pub(crate) fn unsupported(&mut self, path: &str, what: impl Into<String>) {
        self.0.push(Finding { path: path.to_owned(), what: what.into(), kind: Kind::Unsupported });
    }

    /// How many there are; [`Findings::any_since`] tells whether a part read after this had one.
    pub(crate) fn mark(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn any_since(&self, mark: usize) -> bool {
        self.0.len() > mark
    }
}

/// A value and where it is.
#[derive(Debug, Clone)]
pub(crate) struct At<'a> {
    pub(crate) value: &'a Value,
    pub(crate) path: String,
}

impl<'a> At<'a> {
    pub(crate) fn root(value: &'a Value) -> Self {
        At { value, path: String::new() }
    }

    /// The member `name`, unless absent or `null`.
    pub(crate) fn member(&self, name: &str) -> Option<At<'a>> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Some(At { value, path })
    }

    /// The items of the list `name`: `None` if absent; empty, with a finding, if it is no list.
    pub(crate) fn list(&self, name: &str, findings: &mut Findings) -> Option<Vec<At<'a>>> {
        let member = self.member(name)?;
        let Some(items) = member.value.as_array() else {
            findings.invalid(&member.path, "is not a list");
            return Some(Vec::new());
        };
        let at = |(n, value)| At { value, path: format!("{}[{n}]", member.path) };
        Some(items.iter().enumerate().map(at).collect())
    }

    /// As [`At::list`], with bounds on the number of items.
    pub(crate) fn bounded(
        &self,
        name: &str,
        bounds: Range<usize>,
        findings: &mut Findings,
    ) -> Option<Vec<At<'a>>> {
        let mark = findings.mark();
        let items = self.list(name, findings)?;
        if !bounds.contains(&items.len()) && !findings.any_since(mark) {
            let (least, most) = (bounds.start, bounds.end - 1);
            findings.invalid(&self.below(name), format!("has {} items, not {least} to {most}", items.len()));
        }
        Some(items)
    }

    /// The path of the member `name`, be it there or not.
    pub(crate) fn below(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    pub(crate) fn text(&self, findings: &mut Findings) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            findings.invalid(&self.path, "is not a string");
        }
        text
    }

    pub(crate) fn boolean(&self, findings: &mut Findings) -> Option<bool> {
        let boolean = self.value.as_bool();
        if boolean.is_none() {
            findings.invalid(&self.path, "is neither true nor false");
        }
        boolean
    }

    /// An integer within `bounds`, both ends included.
    pub(crate) fn integer(&self, least: i64, most: i64, findings: &mut Findings) -> Option<i64> {
        let number = self.value.as_i64().filter(|number| (least..=most).contains(number));
        if number.is_none() {
            findings.invalid(&self.path, format!("is not an integer from {least} to {most}"));
        }
        number
    }

    /// A finding for every member that is not one of `names`, or if this is no object at all.
    pub(crate) fn only(&self, names: &[&str], findings: &mut Findings) {
        let Some(members) = self.value.as_object() else {
            findings.invalid(&self.path, "is not an object");
            return;
        };
        for name in members.keys().filter(|name| !names.contains(&name.as_str())) {
            findings.invalid(&self.below(name), "is not in the API");
        }
    }

    /// Which of `names` are there.
    pub(crate) fn present<'n>(&self, names: &[&'n str]) -> Vec<&'n str> {
        names.iter().copied().filter(|name| self.member(name).is_some()).collect()
    }

    /// A finding unless exactly one of `names` is there.
    pub(crate) fn exactly_one(&self, names: &[&str], findings: &mut Findings) {
        let present = self.present(names);
        if present.len() != 1 {
            let found = if present.is_empty() { "none".to_owned() } else { present.join(" and ") };
            findings
                .invalid(&self.path, format!("must have exactly one of {}, has {found}", names.join(", ")));
        }
    }
}

/// `metadata.namespace` or `metadata.name`; the namespace of what names none is `default`.
pub(crate) fn name_of(object: &Value) -> (String, String) {
    let metadata = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    let namespace = Some(metadata("namespace")).filter(|namespace| !namespace.is_empty());
    (namespace.unwrap_or_else(|| "default".to_owned()), metadata("name"))
}

/// The string members of a map of strings, e.g. `metadata.labels`; others are left out.
pub(crate) fn strings(map: &Value) -> Vec<(String, String)> {
    let pair = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    map.as_object().into_iter().flatten().filter_map(pair).collect()
}
