//! Dependencies point one way, and the pure crates do no I/O: read from the manifests, so that a new
//! arrow is a decision somebody made here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What each crate of ours may depend on, of ours.
const ARROWS: &[(&str, &[&str])] = &[
    ("ebpf/abi", &[]),
    ("reconciler/engine", &["cilium-abi"]),
    ("reconciler/kernel", &["cilium-abi", "cilium-engine", "xtask"]),
    ("crds", &["cilium-engine"]),
    ("migrations", &["cilium-engine"]),
    ("reconciler/sources", &["cilium-crds", "cilium-engine"]),
    ("reconciler/flows", &["cilium-abi", "cilium-engine"]),
    ("reconciler/cni", &[]),
    (
        "reconciler/cilium",
        &[
            "cilium-abi",
            "cilium-cni",
            "cilium-crds",
            "cilium-engine",
            "cilium-flows",
            "cilium-kernel",
            "cilium-migrations",
            "cilium-sources",
        ],
    ),
    ("deploy/xtask", &[]),
];

/// Crates that do I/O or keep time, which the pure crates must not have.
const IMPURE: &[&str] = &[
    "tokio",
    "aya",
    "kube",
    "rtnetlink",
    "netlink-sys",
    "libc",
    "notify",
    "reqwest",
    "hyper",
    "axum",
    "tempfile",
];
const PURE: &[&str] = &["reconciler/engine", "crds"];

/// Names in `[dependencies]` and `[build-dependencies]` of a manifest.
fn dependencies(folder: &str) -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join(folder).join("Cargo.toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut section = "";
    let mut names = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if matches!(section, "[dependencies]" | "[build-dependencies]") && !line.starts_with('#') {
            let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
            if !name.is_empty() {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

#[test]
fn dependencies_point_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    for (folder, allowed) in &allowed {
        let ours = dependencies(folder);
        for name in ours.iter().filter(|n| n.starts_with("cilium-") || *n == "xtask") {
            assert!(allowed.contains(&name.as_str()), "{folder} must not depend on {name}");
        }
    }
}

#[test]
fn the_pure_crates_do_no_io() {
    for folder in PURE {
        let found = dependencies(folder);
        assert!(!found.is_empty(), "{folder}: no dependencies read");
        for name in IMPURE {
            assert!(!found.contains(*name), "{folder} must not depend on {name}");
        }
    }
}

#[test]
fn sources_of_the_pure_crates_name_no_io() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    for folder in ["reconciler/engine/src", "crds/src"] {
        collect(&root.join(folder), &mut files);
    }
    assert!(files.len() > 20, "only {} files found", files.len());
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for forbidden in
            ["std::fs", "std::env", "std::process", "Instant::now", "SystemTime::now", "std::net::Tcp"]
        {
            let line = code.lines().find(|l| l.contains(forbidden) && !l.trim_start().starts_with("//"));
            assert!(
                line.is_none(),
                "{}: {forbidden} in a pure crate: {}",
                path.display(),
                line.unwrap_or_default()
            );
        }
    }
}

fn collect(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}
