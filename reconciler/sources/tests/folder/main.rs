//! The manifest folder on a real file system, with the time as an argument.

mod cache;
mod heard;
mod store;

use cilium_crds::kind::ObjectKind;
use cilium_crds::lower::Facts;
use cilium_crds::object::Object;
use cilium_engine::problem::Severity;
use cilium_sources::folder::{EMPTY_AFTER, ManifestFolder, Now, Snapshot};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const GOOD: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: web, namespace: shop}\n\
                    spec:\n  endpointSelector: {matchLabels: {app: web}}\n  ingress: [{fromEntities: [host]}]\n";
const BROKEN: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: web, namespace: shop}\n\
                      spec:\n  endpointSelector: {matchLabels: {app: web}}\n  ingress: [{fromEntity: [world]}]\n";

fn pod(name: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\n")
}

struct Bench {
    _dir: tempfile::TempDir,
    root: PathBuf,
    state: PathBuf,
    folder: ManifestFolder,
    uptime: Duration,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (root, state) = (dir.path().join("manifests"), dir.path().join("state"));
        fs::create_dir(&root).unwrap();
        let folder = ManifestFolder::new(&root, "n1", &state);
        Self { _dir: dir, root, state, folder, uptime: Duration::from_secs(1000) }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.root.join(name)).unwrap();
    }

    /// A scan at a time when all files have settled.
    fn scan(&mut self) -> Snapshot {
        self.scan_after(Duration::from_secs(10))
    }

    fn scan_after(&mut self, passed: Duration) -> Snapshot {
        self.uptime += passed;
        let wall = SystemTime::now() + Duration::from_secs(3600);
        self.folder.scan(Now { uptime: self.uptime, wall })
    }

    /// A scan that looks only at what was heard of, when all files have settled.
    fn heard(&mut self) -> Snapshot {
        self.uptime += Duration::from_secs(10);
        let wall = SystemTime::now() + Duration::from_secs(3600);
        self.folder.scan_heard(Now { uptime: self.uptime, wall })
    }

    /// A restart after the end of the agent before, which writes what it has left to write.
    fn reopen(&mut self) {
        self.folder = ManifestFolder::to_look(&self.root, "n1", None);
        self.restart();
    }

    fn restart(&mut self) {
        self.folder = ManifestFolder::new(&self.root, "n1", &self.state);
    }
}

fn names(snapshot: &Snapshot) -> Vec<String> {
    snapshot.objects.values().map(|o| o.header.title()).collect()
}

fn find<'a>(snapshot: &'a Snapshot, kind: ObjectKind, name: &str) -> &'a Object {
    snapshot.objects.values().find(|o| o.header.kind == kind && o.header.name.name == name).unwrap()
}

/// All problems, of files and objects.
fn told(snapshot: &Snapshot) -> Vec<String> {
    let of_objects = snapshot.objects.values().flat_map(|o| &o.problems);
    snapshot.problems.iter().chain(of_objects).map(ToString::to_string).collect()
}

fn allows(object: &Object) -> usize {
    let Facts::Policy(rules) = &object.facts else { panic!("no policy") };
    rules.iter().map(|r| r.clauses.len()).sum()
}

#[test]
fn a_broken_file_among_good_ones_is_told_and_changes_nothing_else() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &pod("a"));
    bench.write("deep/er/b.yml", &format!("{}---\n{}", pod("b"), pod("c")));
    bench.write("d.json", r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "d"}}"#);
    bench.write("broken.yaml", "kind: [unfinished\n");
    let snapshot = bench.scan();
    assert_eq!(names(&snapshot), ["Pod default/a", "Pod default/b", "Pod default/c", "Pod default/d"]);
    assert!(snapshot.synced);
    let told = told(&snapshot);
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("broken.yaml:2:1") && told[0].contains("is not YAML"), "{told:?}");
}

#[test]
fn files_of_editors_and_hidden_ones_are_not_read() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &pod("a"));
    for name in [
        ".a.yaml.swp",
        "a.yaml~",
        "#a.yaml#",
        ".#a.yaml",
        ".hidden.yaml",
        ".git/config.yaml",
        "a.yaml.tmp",
        "4913",
        "README.md",
        "b.yaml.bak",
    ] {
        bench.write(name, &pod("x"));
    }
    let snapshot = bench.scan();
    assert_eq!(names(&snapshot), ["Pod default/a"]);
    assert_eq!(told(&snapshot), [""; 0]);
}

#[test]
fn an_object_that_breaks_keeps_its_last_good_version_also_across_a_restart() {
    let mut bench = Bench::new();
    bench.write("p.yaml", GOOD);
    assert_eq!(allows(find(&bench.scan(), ObjectKind::CiliumNetworkPolicy, "web")), 1);
    bench.write("p.yaml", BROKEN);
    for round in 0..3 {
        let snapshot = bench.scan();
        let object = find(&snapshot, ObjectKind::CiliumNetworkPolicy, "web");
        assert_eq!(allows(object), 1, "round {round}");
        let told = told(&snapshot);
        assert!(
            told.iter().any(|t| t.contains("p.yaml:6:") && t.contains("did you mean `fromEntities`")),
            "{told:?}"
        );
        assert!(told.iter().any(|t| t.contains("last good version stays in force")), "{told:?}");
        assert!(snapshot.synced);
        bench.restart();
    }
    bench.write("p.yaml", &GOOD.replace("host", "world, host"));
    let snapshot = bench.scan();
    assert_eq!(told(&snapshot), [""; 0]);
    bench.remove("p.yaml");
    bench.write("other.yaml", &pod("a"));
    assert_eq!(names(&bench.scan()), ["Pod default/a"]);
    // Not from the store either.
    bench.write("p.yaml", BROKEN);
    assert_eq!(allows(find(&bench.scan(), ObjectKind::CiliumNetworkPolicy, "web")), 0);
}

#[test]
fn a_policy_never_seen_valid_fails_closed() {
    let mut bench = Bench::new();
    bench.write("p.yaml", BROKEN);
    let snapshot = bench.scan();
    let object = find(&snapshot, ObjectKind::CiliumNetworkPolicy, "web");
    assert!(!object.valid);
    assert_eq!(allows(object), 0);
    let Facts::Policy(rules) = &object.facts else { panic!("no policy") };
    assert!(rules[0].default_deny.ingress && !rules[0].default_deny.egress);
}

#[test]
fn a_file_that_is_no_yaml_any_more_keeps_all_its_objects_until_it_is_mended() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &format!("{}---\n{}---\n{}", pod("a"), pod("b"), GOOD));
    assert_eq!(bench.scan().objects.len(), 3);
    bench.write("a.yaml", &format!("{}---\nkind: [half", pod("a")));
    for _ in 0..2 {
        let snapshot = bench.scan();
        assert_eq!(snapshot.objects.len(), 3);
        assert!(snapshot.synced);
        assert!(told(&snapshot).iter().any(|t| t.contains("a.yaml:6:1") && t.contains("not YAML")));
        assert_eq!(told(&snapshot).iter().filter(|t| t.contains("cannot be read as a whole")).count(), 2);
        bench.restart();
    }
    bench.write("a.yaml", &pod("a"));
    let snapshot = bench.scan();
    assert_eq!(names(&snapshot), ["Pod default/a"]);
    assert_eq!(told(&snapshot), [""; 0]);
}

#[test]
fn a_document_that_lost_its_name_keeps_what_the_file_had() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &format!("{}---\n{}", pod("a"), GOOD));
    bench.scan();
    bench.write("a.yaml", &format!("{}---\n{}", pod("a"), GOOD.replace("name: web, ", "")));
    let snapshot = bench.scan();
    assert_eq!(names(&snapshot), ["Pod default/a", "CiliumNetworkPolicy shop/web"]);
    assert!(told(&snapshot).iter().any(|t| t.contains("`metadata.name` is missing")));
}

#[test]
fn a_file_that_vanished_removes_its_objects() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &pod("a"));
    bench.write("b.yaml", &pod("b"));
    assert_eq!(bench.scan().objects.len(), 2);
    bench.remove("b.yaml");
    let snapshot = bench.scan();
    assert_eq!(names(&snapshot), ["Pod default/a"]);
    assert!(snapshot.synced);
    assert_eq!(fs::read_dir(bench.state.join("last-good")).unwrap().count(), 1);
}

#[test]
fn of_two_documents_the_path_that_sorts_first_counts_and_both_are_told() {
    let mut bench = Bench::new();
    bench.write("b.yaml", &pod("x").replace("app: x", "app: from-b"));
    bench.write("a.yaml", &pod("x").replace("app: x", "app: from-a"));
    let snapshot = bench.scan();
    let Facts::Pod(pod) = &find(&snapshot, ObjectKind::Pod, "x").facts else { panic!("no pod") };
    assert_eq!(pod.labels["app"], "from-a");
    let told = told(&snapshot);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("(a.yaml:1)") && told[0].contains("written again in b.yaml:1"));
    assert!(told[1].contains("(b.yaml:1)") && told[1].contains("does not count: a.yaml:1 has it"));
    bench.remove("a.yaml");
    let snapshot = bench.scan();
    let Facts::Pod(pod) = &find(&snapshot, ObjectKind::Pod, "x").facts else { panic!("no pod") };
    assert_eq!(pod.labels["app"], "from-b");
}

#[test]
fn what_this_node_published_is_not_read_and_others_stand_beside_what_is_given() {
    let node = |by: &str, ip: &str| {
        let annotations = if by.is_empty() {
            String::new()
        } else {
            format!(", annotations: {{cilium.io/published-by: {by}}}")
        };
        format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNode\nmetadata: {{name: n2{annotations}}}\n\
             spec: {{addresses: [{{type: InternalIP, ip: {ip}}}], ipam: {{podCIDRs: [10.2.0.0/24]}}}}\n"
        )
    };
    let claim = |by: &str| {
        format!(
            "apiVersion: cilium.io/v2\nkind: CiliumIdentity\nmetadata: {{name: \"4711\", annotations: \
             {{cilium.io/published-by: {by}}}}}\nsecurity-labels: {{\"k8s:app\": web}}\n"
        )
    };
    let mut bench = Bench::new();
    bench.write("given.yaml", &node("", "192.0.2.2"));
    bench.write("n2.yaml", &node("n2", "192.0.2.22"));
    bench.write("n1.yaml", &claim("n1"));
    bench.write("n2i.yaml", &claim("n2"));
    bench.write("n3i.yaml", &claim("n3"));
    let snapshot = bench.scan();
    assert_eq!(told(&snapshot), [""; 0]);
    let mut seen: Vec<(String, Option<&str>)> =
        snapshot.objects.values().map(|o| (o.header.title(), o.header.published_by.as_deref())).collect();
    seen.sort();
    assert_eq!(
        seen,
        [
            ("CiliumIdentity 4711".to_owned(), Some("n2")),
            ("CiliumIdentity 4711".to_owned(), Some("n3")),
            ("CiliumNode n2".to_owned(), None),
            ("CiliumNode n2".to_owned(), Some("n2")),
        ]
    );
}

#[test]
fn a_folder_that_is_suddenly_empty_is_not_believed_for_a_minute() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &pod("a"));
    assert!(bench.scan().synced);
    bench.remove("a.yaml");
    for restarted in [false, true] {
        if restarted {
            bench.restart();
        }
        let snapshot = bench.scan_after(Duration::from_secs(1));
        assert!(!snapshot.synced);
        assert_eq!(names(&snapshot), ["Pod default/a"]);
        assert_eq!(snapshot.again, Some(EMPTY_AFTER));
        assert!(told(&snapshot).iter().any(|t| t.contains("`.empty`")));
        let snapshot = bench.scan_after(EMPTY_AFTER - Duration::from_secs(1));
        assert!(!snapshot.synced && snapshot.objects.len() == 1);
        assert_eq!(snapshot.again, Some(Duration::from_secs(1)));
    }
    let snapshot = bench.scan_after(Duration::from_secs(1));
    assert!(snapshot.synced && snapshot.objects.is_empty());
    bench.restart();
    assert!(bench.scan_after(Duration::from_secs(1)).objects.is_empty());
}

#[test]
fn a_file_that_says_so_makes_an_empty_folder_believed_at_once() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &pod("a"));
    bench.scan();
    bench.remove("a.yaml");
    bench.write(".empty", "");
    let snapshot = bench.scan();
    assert!(snapshot.synced && snapshot.objects.is_empty());
    assert_eq!(told(&snapshot), [""; 0]);
}

#[test]
fn a_missing_folder_changes_nothing_ever() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &pod("a"));
    bench.scan();
    fs::remove_dir_all(&bench.root).unwrap();
    for restarted in [false, true] {
        if restarted {
            bench.restart();
        }
        let snapshot = bench.scan_after(EMPTY_AFTER * 10);
        assert!(!snapshot.synced);
        assert_eq!(names(&snapshot), ["Pod default/a"]);
        assert!(told(&snapshot)[0].contains("cannot be read"));
    }
    bench.write("b.yaml", &pod("b"));
    let snapshot = bench.scan();
    assert!(snapshot.synced);
    assert_eq!(names(&snapshot), ["Pod default/b"]);
}

#[test]
fn an_emptied_file_is_being_written_for_two_seconds() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &pod("a"));
    bench.write("b.yaml", &pod("b"));
    bench.scan();
    for restarted in [false, true] {
        bench.write("a.yaml", "");
        if restarted {
            bench.restart();
        }
        let snapshot = bench.scan_after(Duration::from_secs(5));
        assert_eq!(names(&snapshot), ["Pod default/a", "Pod default/b"], "restarted: {restarted}");
        assert!(snapshot.again.is_some_and(|a| a <= Duration::from_secs(2)));
        bench.write("a.yaml", &pod("a"));
        let snapshot = bench.scan();
        assert_eq!(names(&snapshot), ["Pod default/a", "Pod default/b"]);
        assert_eq!(told(&snapshot), [""; 0]);
    }
    bench.write("a.yaml", "# nothing\n");
    bench.scan_after(Duration::from_secs(1));
    let snapshot = bench.scan_after(Duration::from_secs(3));
    assert_eq!(names(&snapshot), ["Pod default/b"]);
    assert_eq!(snapshot.again, None);
}

#[test]
fn a_file_that_is_being_written_is_read_when_it_has_settled() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &pod("a"));
    bench.scan();
    bench.write("a.yaml", &pod("changed"));
    let written = fs::metadata(bench.root.join("a.yaml")).unwrap().modified().unwrap();
    let now = |ms| Now {
        uptime: Duration::from_secs(2000) + Duration::from_millis(ms),
        wall: written + Duration::from_millis(ms),
    };
    let snapshot = bench.folder.scan(now(10));
    assert_eq!(names(&snapshot), ["Pod default/a"]);
    assert_eq!(snapshot.again, Some(Duration::from_millis(40)));
    assert_eq!(names(&bench.folder.scan(now(50))), ["Pod default/changed"]);
}

#[test]
fn a_folder_below_that_cannot_be_read_keeps_its_objects() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &pod("a"));
    bench.write("sub/b.yaml", &pod("b"));
    assert_eq!(bench.scan().objects.len(), 2);
    // A link that leads to itself cannot be read by anyone, root included.
    fs::remove_dir_all(bench.root.join("sub")).unwrap();
    std::os::unix::fs::symlink("sub", bench.root.join("sub")).unwrap();
    let snapshot = bench.scan();
    assert_eq!(names(&snapshot), ["Pod default/a", "Pod default/b"]);
    assert!(!snapshot.synced);
    assert!(told(&snapshot).iter().any(|t| t.contains("sub/")));
    fs::remove_file(bench.root.join("sub")).unwrap();
    let snapshot = bench.scan();
    assert!(snapshot.synced);
    assert_eq!(names(&snapshot), ["Pod default/a"]);
}

#[test]
fn links_are_followed_as_kubernetes_mounts_them_and_loops_end() {
    let mut bench = Bench::new();
    bench.write("..2026_01/a.yaml", &pod("a"));
    std::os::unix::fs::symlink("..2026_01", bench.root.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/a.yaml", bench.root.join("a.yaml")).unwrap();
    std::os::unix::fs::symlink(".", bench.root.join("loop")).unwrap();
    std::os::unix::fs::symlink("nowhere", bench.root.join("gone.yaml")).unwrap();
    let snapshot = bench.scan();
    assert_eq!(names(&snapshot), ["Pod default/a"]);
    assert!(snapshot.synced);
}

#[test]
fn what_is_no_file_is_never_waited_for() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &pod("a"));
    let made = std::process::Command::new("mkfifo").arg(bench.root.join("pipe.yaml")).status().unwrap();
    assert!(made.success());
    assert_eq!(names(&bench.scan()), ["Pod default/a"]);
}

#[test]
fn an_unreadable_file_keeps_its_objects() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &pod("a"));
    bench.scan();
    let path = bench.root.join("a.yaml");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let snapshot = bench.scan();
    assert_eq!(names(&snapshot), ["Pod default/a"]);
    // Root reads it nevertheless.
    if fs::read(&path).is_err() {
        assert!(told(&snapshot).iter().any(|t| t.contains("cannot be read")));
    }
}

#[test]
fn a_scan_without_a_change_reads_and_writes_nothing_and_says_the_same() {
    let mut bench = Bench::new();
    for i in 0..200 {
        bench.write(&format!("{i}.yaml"), &pod(&format!("p{i}")));
    }
    bench.write("broken.yaml", BROKEN);
    let first = bench.scan();
    let stamp = |dir: &Path| fs::metadata(dir.join("last-good")).unwrap().modified().unwrap();
    let before = stamp(&bench.state);
    let second = bench.scan();
    assert_eq!(told(&first), told(&second));
    assert_eq!(before, stamp(&bench.state));
    assert_eq!(first.objects.len(), 201);
    for (a, b) in first.objects.values().zip(second.objects.values()) {
        assert!(std::sync::Arc::ptr_eq(a, b), "{} was read again", a.header.title());
    }
    assert!(first.objects.values().flat_map(|o| &o.problems).any(|p| p.severity == Severity::Error));
}

/// Name and content of every file below.
fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let mut all: Vec<_> = entries.map(|p| (p.clone(), fs::read(&p).unwrap())).collect();
    all.sort();
    all
}
