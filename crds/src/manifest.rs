//! CustomResourceDefinition manifests of the `cilium.io` kinds, made from the types. They stand in `yaml/`.

use crate::kind::{ObjectKind, Scope};
use crate::schema;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// Version of the schemas, as the label on the manifests says it.
const SCHEMA_VERSION: &str = "1.34.0";

/// A manifest: its file name and its text.
pub struct Manifest {
    /// File name within `yaml/`.
    pub file: String,
    /// YAML.
    pub text: String,
}

struct Names {
    plural: &'static str,
    short: &'static [&'static str],
    categories: &'static [&'static str],
}

fn names(kind: ObjectKind) -> Option<Names> {
    let (plural, short, categories): (_, &[_], &[_]) = match kind {
        ObjectKind::CiliumNetworkPolicy => {
            ("ciliumnetworkpolicies", &["cnp", "ciliumnp"], &["cilium", "ciliumpolicy"])
        }
        ObjectKind::CiliumClusterwideNetworkPolicy => {
            ("ciliumclusterwidenetworkpolicies", &["ccnp"], &["cilium", "ciliumpolicy"])
        }
        ObjectKind::CiliumNode => ("ciliumnodes", &["cn", "ciliumn"], &["cilium"]),
        ObjectKind::CiliumEndpoint => ("ciliumendpoints", &["cep", "ciliumep"], &["cilium"]),
        ObjectKind::CiliumIdentity => ("ciliumidentities", &["ciliumid"], &["cilium"]),
        ObjectKind::CiliumCIDRGroup => ("ciliumcidrgroups", &["ccg"], &["cilium"]),
        ObjectKind::Namespace
        | ObjectKind::Node
        | ObjectKind::Pod
        | ObjectKind::Service
        | ObjectKind::EndpointSlice
        | ObjectKind::NetworkPolicy
        | ObjectKind::ClusterNetworkPolicy
        | ObjectKind::AdminNetworkPolicy
        | ObjectKind::BaselineAdminNetworkPolicy => return None,
    };
    Some(Names { plural, short, categories })
}

/// All manifests.
pub fn manifests() -> Vec<Manifest> {
    ObjectKind::ALL.iter().filter_map(|kind| manifest(*kind)).collect()
}

fn manifest(kind: ObjectKind) -> Option<Manifest> {
    let Names { plural, short, categories } = names(kind)?;
    let (group, version) = kind.api_version().split_once('/')?;
    let scope = match kind.scope() {
        Scope::Namespaced => "Namespaced",
        Scope::Cluster => "Cluster",
    };
    let value = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{group}"),
            "labels": { "io.cilium.k8s.crd.schema.version": SCHEMA_VERSION },
        },
        "spec": {
            "group": group,
            "names": {
                "kind": kind.name(),
                "listKind": format!("{}List", kind.name()),
                "plural": plural,
                "singular": kind.name().to_lowercase(),
                "shortNames": short,
                "categories": categories,
            },
            "scope": scope,
            "versions": [{
                "name": version,
                "served": true,
                "storage": true,
                "schema": { "openAPIV3Schema": structural(schema::of(kind)) },
                "subresources": { "status": {} },
            }],
        },
    });
    let mut text = String::from(
        "# Made from the types in crds/src/api; `CILIUM_BLESS=1 cargo test -p cilium-crds` makes it anew.\n",
    );
    block(&value, 0, &mut text);
    Some(Manifest { file: format!("{plural}.yaml"), text })
}

/// The schema as the API server wants it: unknown fields are its own matter, metadata too.
fn structural(schema: &Value) -> Value {
    let mut schema = strip(schema);
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("metadata".into(), json!({ "type": "object" }));
    }
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| name != "apiVersion" && name != "kind");
    }
    schema
}

fn strip(schema: &Value) -> Value {
    let Value::Object(map) = schema else { return schema.clone() };
    let mut out = Map::new();
    for (key, value) in map {
        let value = match key.as_str() {
            "title" | "nullable" | "default" | "$schema" => continue,
            "additionalProperties" if *value == Value::Bool(false) => continue,
            // Only the widths that API servers know.
            "format" if value != "int64" && value != "int32" => continue,
            "properties" => match value {
                Value::Object(fields) => {
                    Value::Object(fields.iter().map(|(k, v)| (k.clone(), strip(v))).collect())
                }
                other => other.clone(),
            },
            "items" | "additionalProperties" => strip(value),
            _ => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    Value::Object(out)
}

/// Block style. Keys and texts are written as JSON wherever plain ones could mean something else.
fn block(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                write!(out, "{indent}{}:", scalar(key)).expect("writing to a String cannot fail");
                nested(value, depth, out);
            }
        }
        Value::Array(list) => {
            for item in list {
                let mut inner = String::new();
                nested(item, depth, &mut inner);
                // The first line of a mapping stands beside the dash.
                match item {
                    Value::Object(map) if !map.is_empty() => {
                        let inner = inner.trim_start_matches('\n');
                        out.push_str(&indent);
                        out.push_str("- ");
                        out.push_str(inner.get(indent.len() + 2..).unwrap_or(inner));
                    }
                    _ => {
                        out.push_str(&indent);
                        out.push('-');
                        out.push_str(&inner);
                    }
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => nested(value, depth, out),
    }
}

fn nested(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) if map.is_empty() => out.push_str(" {}\n"),
        Value::Array(list) if list.is_empty() => out.push_str(" []\n"),
        Value::Object(_) | Value::Array(_) => {
            out.push('\n');
            block(value, depth + 1, out);
        }
        Value::String(text) => writeln!(out, " {}", scalar(text)).expect("writing to a String cannot fail"),
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            writeln!(out, " {value}").expect("writing to a String cannot fail");
        }
    }
}

fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let word = text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(plain);
    let other = matches!(
        text.to_ascii_lowercase().as_str(),
        "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n"
    );
    if word && !other { text.to_owned() } else { Value::from(text).to_string() }
}
