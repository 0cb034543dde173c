//! Files in a folder of the test's own.

use super::*;
use std::collections::BTreeSet;

fn paths(root: &Path) -> KernelPaths {
    KernelPaths {
        bpf_dir: root.join("bpf"),
        publish_dir: Some(root.join("published")),
        cgroup_root: None,
        cni_conf_dir: Some(root.join("cni")),
        node_name: "n1".to_owned(),
    }
}

fn published(node: &str) -> FileRow {
    let content = format!("kind: CiliumNode\nmetadata:\n  annotations:\n    {PUBLISHED_BY}: {node}\n");
    FileRow { content, mode: 0o644 }
}

fn create(path: &Path, row: &FileRow) -> Step<File> {
    Step::Create { key: FileKey(path.to_owned()), row: row.clone() }
}

#[test]
fn what_was_written_is_read_also_when_written_twice() {
    let root = tempfile::tempdir().expect("a folder");
    let paths = paths(root.path());
    let node = root.path().join("published/n1.ciliumnode.yaml");
    let conflist = root.path().join("cni").join(CONFLIST);
    let list = FileRow { content: "{}".to_owned(), mode: 0o600 };
    for _ in 0..2 {
        let done = apply(&paths, &[create(&node, &published("n1")), create(&conflist, &list)]);
        assert!(done.iter().all(Result::is_ok), "{done:?}");
    }
    let seen = observe(&paths, &Scope::All).expect("readable");
    assert_eq!(seen, [(FileKey(conflist.clone()), list.clone()), (FileKey(node.clone()), published("n1"))]);
    let one = observe(&paths, &Scope::Keys(BTreeSet::from([FileKey(node.clone())]))).expect("readable");
    assert_eq!(one, [(FileKey(node.clone()), published("n1"))]);
    for _ in 0..2 {
        let done = apply(&paths, &[Step::Remove { key: FileKey(node.clone()), seen: published("n1") }]);
        assert!(done.iter().all(Result::is_ok), "{done:?}");
    }
    assert_eq!(observe(&paths, &Scope::All).expect("readable"), [(FileKey(conflist), list)]);
    assert_eq!(fs::read_dir(root.path().join("published")).expect("there").count(), 0, "nothing left over");
}

#[test]
fn drift_of_content_and_mode_is_seen() {
    let root = tempfile::tempdir().expect("a folder");
    let paths = paths(root.path());
    let conflist = root.path().join("cni").join(CONFLIST);
    let list = FileRow { content: "{}".to_owned(), mode: 0o600 };
    assert!(apply(&paths, &[create(&conflist, &list)])[0].is_ok());
    fs::set_permissions(&conflist, fs::Permissions::from_mode(0o644)).expect("mode");
    fs::write(&conflist, [0xff, b'x']).expect("content");
    let seen = observe(&paths, &Scope::All).expect("readable");
    assert_eq!(seen[0].1.mode, 0o644);
    assert_ne!(seen[0].1.content, list.content);
}

#[test]
fn others_files_are_neither_seen_nor_removed() {
    let root = tempfile::tempdir().expect("a folder");
    let paths = paths(root.path());
    let folder = root.path().join("published");
    fs::create_dir(&folder).expect("folder");
    fs::write(folder.join("n1.other.yaml"), published("n12").content).expect("file");
    fs::write(folder.join("n1.hand.yaml"), "kind: Service\n").expect("file");
    fs::write(root.path().join("secret.yaml"), published("n1").content).expect("file");
    std::os::unix::fs::symlink(root.path().join("secret.yaml"), folder.join("n1.link.yaml")).expect("link");
    fs::write(folder.join("n1.large.yaml"), published("n1").content.repeat(20_000)).expect("file");
    assert_eq!(observe(&paths, &Scope::All).expect("readable"), []);
    for name in ["n1.other.yaml", "n1.hand.yaml", "n1.link.yaml", "../secret.yaml"] {
        let step = Step::Remove { key: FileKey(folder.join(name)), seen: published("n1") };
        assert!(apply(&paths, &[step])[0].is_err(), "{name}");
    }
    assert!(apply(&paths, &[create(&root.path().join("x"), &published("n1"))])[0].is_err());
    assert_eq!(fs::read_dir(&folder).expect("there").count(), 4);
}

#[test]
fn ours_are_found_among_any_number_of_others_without_opening_those() {
    let root = tempfile::tempdir().expect("a folder");
    let paths = paths(root.path());
    let folder = root.path().join("published");
    fs::create_dir(&folder).expect("folder");
    // Hard links of one file; those beyond the 65 536th were not seen once.
    let other = folder.join("n2.ciliumnode.yaml");
    fs::write(&other, published("n2").content).expect("file");
    let mut link_to = other.clone();
    for n in 0..70_000 {
        let path = folder.join(format!("n2.ciliumendpoint.shop.p{n}.yaml"));
        if fs::hard_link(&link_to, &path).is_err() {
            // The file system gives one file no more names.
            fs::write(&path, published("n2").content).expect("file");
            link_to = path;
        }
    }
    // By its name another node's, whatever it says.
    fs::write(folder.join("n12.ciliumnode.yaml"), published("n1").content).expect("file");
    let ours: Vec<_> = ["n1.ciliumnode.yaml", "n1.zzz.yaml"].map(|name| folder.join(name)).into();
    for path in &ours {
        assert!(apply(&paths, &[create(path, &published("n1"))])[0].is_ok());
    }
    let seen = observe(&paths, &Scope::All).expect("readable");
    let seen: Vec<_> = seen.into_iter().map(|(key, _)| key.0).collect();
    assert_eq!(seen, ours);
}

#[test]
fn the_annotation_is_known_in_yaml_and_json() {
    for text in [
        "cilium.io/published-by: n1",
        "cilium.io/published-by: 'n1'\n",
        "{\"cilium.io/published-by\":\"n1\"}",
    ] {
        assert!(published_by(text, "n1"), "{text}");
    }
    for text in ["cilium.io/published-by: n12", "cilium.io/published-by-x: n1", "cilium.io/published-by:"] {
        assert!(!published_by(text, "n1"), "{text}");
    }
}
