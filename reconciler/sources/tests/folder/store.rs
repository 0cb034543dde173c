//! The store of last good versions, damaged and unwritable.

use crate::{BROKEN, Bench, GOOD, allows, content, find, names, pod, told};
use cilium_crds::kind::ObjectKind;
use cilium_sources::folder::{ManifestFolder, Now};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

#[test]
fn a_store_that_is_damaged_is_put_aside_and_told() {
    let mut bench = Bench::new();
    bench.write("a.yaml", GOOD);
    bench.write("b.yaml", &pod("b"));
    bench.scan();
    let store = bench.state.join("last-good");
    let stored: Vec<PathBuf> = fs::read_dir(&store).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(stored.len(), 2);
    fs::write(&stored[0], "{").unwrap();
    fs::write(store.join("x.json"), r#"{"version":1,"file":"a","line":1,"document":{"kind":"Pod"}}"#)
        .unwrap();
    bench.restart();
    let snapshot = bench.scan();
    assert_eq!(snapshot.objects.len(), 2);
    assert_eq!(told(&snapshot).iter().filter(|t| t.contains("no last good version")).count(), 2);
    bench.restart();
    assert_eq!(told(&bench.scan()), [""; 0]);
}

#[test]
fn a_store_that_cannot_be_written_is_told_and_objects_count_all_the_same() {
    let mut bench = Bench::new();
    fs::write(&bench.state, "a file where a folder should be").unwrap();
    bench.write("a.yaml", &pod("a"));
    let snapshot = bench.scan();
    assert_eq!(names(&snapshot), ["Pod default/a"]);
    assert!(told(&snapshot).iter().any(|t| t.contains("was not kept")), "{:?}", told(&snapshot));
    assert_eq!(told(&bench.scan()), told(&snapshot), "as long as it is so");
    // Once it can be written it is, without a change of the object.
    fs::remove_file(&bench.state).unwrap();
    assert_eq!(told(&bench.scan()), [""; 0]);
    bench.write("a.yaml", "a: [");
    bench.restart();
    assert_eq!(names(&bench.scan()), ["Pod default/a"]);
}

#[test]
fn a_last_good_version_that_cannot_be_removed_is_removed_later_unless_its_object_is_back() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &pod("a"));
    bench.write("b.yaml", &pod("b"));
    bench.write("c.yaml", &pod("c"));
    bench.scan();
    let store = bench.state.join("last-good");
    let stored = || -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = fs::read_dir(&store).unwrap().map(|e| e.unwrap().path()).collect();
        paths.sort();
        paths
    };
    let (before, kept) = (stored(), content(&store));
    // A folder cannot be removed as a file.
    let jam = |on: bool| {
        for (path, bytes) in kept.iter().filter(|(path, _)| path.is_file() || path.is_dir()) {
            if on {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            } else {
                fs::remove_dir(path).unwrap();
                fs::write(path, bytes).unwrap();
            }
        }
    };
    jam(true);
    bench.remove("a.yaml");
    bench.remove("b.yaml");
    let snapshot = bench.scan();
    assert_eq!(names(&snapshot), ["Pod default/c"]);
    assert_eq!(told(&snapshot).iter().filter(|t| t.contains("was not removed")).count(), 2);
    bench.write("b.yaml", &pod("b"));
    assert_eq!(names(&bench.scan()), ["Pod default/b", "Pod default/c"]);
    jam(false);
    assert_eq!(told(&bench.scan()), [""; 0]);
    assert_eq!(stored().len(), before.len() - 1);
    bench.restart();
    assert_eq!(names(&bench.scan()), ["Pod default/b", "Pod default/c"]);
}

#[test]
fn a_store_that_is_no_folder_is_put_aside() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &pod("a"));
    fs::create_dir(&bench.state).unwrap();
    fs::write(bench.state.join("last-good"), "no folder").unwrap();
    bench.restart();
    assert!(told(&bench.scan()).iter().any(|t| t.contains("put aside") || t.contains(".bad")));
    bench.write("a.yaml", "a: [");
    bench.restart();
    assert_eq!(names(&bench.scan()), ["Pod default/a"]);
}

#[test]
fn commands_that_only_look_know_last_good_versions_and_write_none() {
    let mut bench = Bench::new();
    bench.write("p.yaml", GOOD);
    bench.write("a.yaml", &pod("a"));
    bench.scan();
    let store = bench.state.join("last-good");
    fs::write(store.join("damaged.json"), "{").unwrap();
    let before = content(&store);
    bench.write("p.yaml", BROKEN);
    bench.remove("a.yaml");
    bench.write("b.yaml", &pod("b"));
    let now = Now { uptime: Duration::ZERO, wall: SystemTime::now() + Duration::from_secs(60) };
    let snapshot = ManifestFolder::to_look(&bench.root, "n1", Some(&bench.state)).scan(now);
    assert_eq!(names(&snapshot), ["Pod default/b", "CiliumNetworkPolicy shop/web"]);
    assert_eq!(allows(find(&snapshot, ObjectKind::CiliumNetworkPolicy, "web")), 1);
    let snapshot = ManifestFolder::to_look(&bench.root, "n1", None).scan(now);
    assert_eq!(allows(find(&snapshot, ObjectKind::CiliumNetworkPolicy, "web")), 0);
    assert_eq!(before, content(&store));
}

#[test]
fn of_very_many_that_cannot_be_kept_all_are_told_and_later_kept() {
    let mut bench = Bench::new();
    fs::write(&bench.state, "a file where a folder should be").unwrap();
    for n in 0..600 {
        bench.write(&format!("{n}.yaml"), &pod(&format!("p{n}")));
    }
    let mut snapshot = bench.scan();
    assert_eq!(snapshot.objects.len(), 600);
    assert!(snapshot.again.is_some(), "most are still to be written");
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(20));
        snapshot = bench.scan();
        if snapshot.problems.len() == 600 {
            break;
        }
    }
    assert_eq!((snapshot.problems.len(), snapshot.again), (600, None));
    fs::remove_file(&bench.state).unwrap();
    for _ in 0..100 {
        snapshot = bench.scan();
        if snapshot.problems.is_empty() && snapshot.again.is_none() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!((snapshot.problems.len(), snapshot.again), (0, None));
    assert_eq!(fs::read_dir(bench.state.join("last-good")).unwrap().count(), 600);
    // What changed and what went while it was written is right in the end.
    for n in 0..600 {
        bench.write(&format!("{n}.yaml"), &pod(&format!("q{n}")));
    }
    bench.scan();
    for n in 1..600 {
        bench.remove(&format!("{n}.yaml"));
    }
    for _ in 0..100 {
        snapshot = bench.scan();
        if snapshot.again.is_none() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(names(&snapshot), ["Pod default/q0"]);
    assert_eq!(fs::read_dir(bench.state.join("last-good")).unwrap().count(), 1);
}
