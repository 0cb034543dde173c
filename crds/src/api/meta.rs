//! `metadata`: all fields Kubernetes has, of which a few are read.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Annotation on objects an agent publishes: the node's name.
pub const PUBLISHED_BY: &str = "cilium.io/published-by";

/// `metadata`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectMeta {
    /// Name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Namespace; empty: `default` for namespaced kinds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Not read.
    #[serde(default, skip_serializing)]
    pub creation_timestamp: Unread,
    /// Not read.
    #[serde(default, skip_serializing)]
    pub deletion_grace_period_seconds: Unread,
    /// When it was asked to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<String>,
    /// Not read.
    #[serde(default, skip_serializing)]
    pub finalizers: Unread,
    /// Not read.
    #[serde(default, skip_serializing)]
    pub generate_name: Unread,
    /// Not read.
    #[serde(default, skip_serializing)]
    pub generation: Unread,
    /// Not read.
    #[serde(default, skip_serializing)]
    pub managed_fields: Unread,
    /// Not read.
    #[serde(default, skip_serializing)]
    pub owner_references: Unread,
    /// Not read.
    #[serde(default, skip_serializing)]
    pub resource_version: Unread,
    /// Not read.
    #[serde(default, skip_serializing)]
    pub self_link: Unread,
    /// Not read.
    #[serde(default, skip_serializing)]
    pub uid: Unread,
}

/// A field that may hold anything and is not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unread;

impl<'de> Deserialize<'de> for Unread {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl Serialize for Unread {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

impl JsonSchema for Unread {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Unread".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
    }
    fn inline_schema() -> bool {
        true
    }
}
