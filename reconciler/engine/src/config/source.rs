//! `[source]`.

use super::optional;
use super::paths::AbsolutePath;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where objects come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// A folder of YAML and JSON files.
    #[default]
    Manifests,
}

/// Where objects (pods, services, policies, nodes) come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Source {
    /// Kind of source.
    #[schemars(extend("x-impact" = "disruptive"))]
    pub kind: SourceKind,
    /// The manifest folder, for `kind = "manifests"`.
    pub manifests: Manifests,
}

/// The manifest folder, for `kind = "manifests"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Manifests {
    /// Folder of YAML and JSON files, watched, at any depth, several documents per file allowed.
    #[schemars(extend("x-impact" = "disruptive"))]
    pub path: AbsolutePath,
    /// Folder this agent writes its own CiliumNode, CiliumEndpoint and CiliumIdentity objects to, usually
    /// inside a shared `path`. Empty: it publishes nothing.
    #[serde(with = "optional")]
    #[schemars(with = "String", extend("x-form" = "path", "x-impact" = "hitless"))]
    pub publish: Option<AbsolutePath>,
}

impl Default for Manifests {
    fn default() -> Self {
        Self { path: "/etc/cilium/manifests".parse().expect("a literal absolute path"), publish: None }
    }
}
