//! The manifests in `yaml/` are those the types make, and hold what API servers ask of a schema.

use cilium_crds::manifest::manifests;
use cilium_crds::yaml::{Node, Value, parse_one};
use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn the_manifests_are_in_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    let made = manifests();
    for manifest in &made {
        let path = folder.join(&manifest.file);
        if std::env::var_os("CILIUM_BLESS").is_some() {
            std::fs::write(&path, &manifest.text).expect("the manifest can be written");
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(there == manifest.text, "{} is out of date: CILIUM_BLESS=1 makes it anew", manifest.file);
    }
    let there: BTreeSet<String> = std::fs::read_dir(&folder)
        .expect("the folder is part of the crate")
        .map(|entry| entry.expect("a readable entry").file_name().into_string().expect("a name in UTF-8"))
        .collect();
    let made: BTreeSet<String> = made.into_iter().map(|m| m.file).collect();
    assert_eq!(there, made);
    assert_eq!(made.len(), 6);
}

/// <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema>
#[test]
fn the_schemas_are_structural() {
    for manifest in manifests() {
        let document = parse_one(manifest.text.as_bytes()).expect("what we write can be read");
        assert!(document.findings.is_empty(), "{:?}", document.findings);
        let versions =
            document.root.find("spec").and_then(|s| s.find("versions")).and_then(Node::list).unwrap();
        let schema = versions[0].find("schema").and_then(|s| s.find("openAPIV3Schema")).unwrap();
        structural(schema, &manifest.file);
        let kind = document.root.find("spec").and_then(|s| s.find("names")).and_then(|n| n.find("kind"));
        assert!(kind.and_then(Node::text).is_some_and(|k| k.starts_with("Cilium")));
    }
}

fn structural(schema: &Node, path: &str) {
    let Value::Map(entries) = &schema.value else { panic!("{path}: no mapping") };
    for key in entries.iter().map(|e| e.key.as_str()) {
        assert!(
            !matches!(key, "$ref" | "$defs" | "oneOf" | "anyOf" | "allOf" | "nullable" | "title" | "default"),
            "{path}: {key}"
        );
    }
    let free = ["x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"];
    assert!(
        schema.find("type").is_some() || free.iter().any(|f| schema.find(f).is_some()),
        "{path}: needs a type"
    );
    assert!(
        schema.find("properties").is_none() || schema.find("additionalProperties").is_none(),
        "{path}: properties and additionalProperties exclude each other"
    );
    if let Some(Value::Map(fields)) = schema.find("properties").map(|p| &p.value) {
        fields.iter().for_each(|f| structural(&f.value, &format!("{path}.{}", f.key)));
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.find(key) {
            structural(inner, &format!("{path}[]"));
        }
    }
}
