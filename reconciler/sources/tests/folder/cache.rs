//! Starts with a cache, whole, damaged and foreign: always what a start without one finds.

use crate::{BROKEN, Bench, GOOD, allows, find, names, pod, told};
use cilium_crds::kind::ObjectKind;
use cilium_crds::object::Object;
use cilium_sources::folder::{ManifestFolder, Now, Snapshot};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

impl Bench {
    fn cache(&self) -> PathBuf {
        self.state.join("manifests.cache")
    }

    /// A folder with all that may be wrong in it, read and ended: a policy that broke, an object written twice,
    /// a file that is no YAML, one with a warning.
    fn with_all_sorts() -> Self {
        let mut bench = Self::new();
        bench.write("p.yaml", GOOD);
        bench.write("cut.yaml", &format!("{}---\n{}", pod("x"), pod("y")));
        bench.scan();
        bench.write("p.yaml", BROKEN);
        bench.write("cut.yaml", &format!("{}---\nkind: [", pod("x")));
        bench.write("a.yaml", &format!("{}---\n{}", pod("a"), pod("b")));
        bench.write("deep/b.yaml", &pod("b"));
        bench.write("odd.yaml", "apiVersion: cilium.io/v2\nkind: CiliumEnvoyConfig\nmetadata: {name: e}\n");
        for n in 0..40 {
            bench.write(&format!("many/{n}.yaml"), &pod(&format!("p{n}")));
        }
        bench.scan();
        bench
    }

    fn has_all_sorts(&mut self, context: &str) {
        let snapshot = self.scan();
        assert_eq!(snapshot.objects.len(), 45, "{context}: {:?}", names(&snapshot));
        assert_eq!(allows(find(&snapshot, ObjectKind::CiliumNetworkPolicy, "web")), 1, "{context}");
        assert_eq!(told(&snapshot).len(), 7, "{context}: {:#?}", told(&snapshot));
    }
}

fn same(a: &Snapshot, b: &Snapshot) -> bool {
    // Rules of a last good version from the store say positions of the store's text.
    let written = |snapshot: &Snapshot| {
        let objects = snapshot.objects.values().filter(|o| !told_of(o).contains("last good"));
        objects.cloned().collect::<Vec<_>>()
    };
    let kept = |snapshot: &Snapshot| allows(find(snapshot, ObjectKind::CiliumNetworkPolicy, "web"));
    written(a) == written(b) && kept(a) == kept(b) && told(a) == told(b) && names(a) == names(b)
}

fn told_of(object: &Object) -> String {
    object.problems.iter().map(ToString::to_string).collect()
}

/// Numbers that look random, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % most.max(1)
    }
}

#[test]
fn a_start_finds_the_same_with_and_without_a_cache() {
    let mut bench = Bench::with_all_sorts();
    bench.has_all_sorts("running");
    bench.reopen();
    assert!(bench.cache().exists());
    let with = bench.scan();
    bench.has_all_sorts("with");
    bench.reopen();
    fs::remove_file(bench.cache()).unwrap();
    bench.restart();
    let without = bench.scan();
    assert!(same(&with, &without), "{:#?}\n{:#?}", told(&with), told(&without));
}

#[test]
fn whatever_the_cache_became_a_start_finds_the_same() {
    let mut bench = Bench::with_all_sorts();
    bench.reopen();
    let right = fs::read(bench.cache()).unwrap();
    let before = bench.scan();
    let other = {
        let mut other = Bench::new();
        other.write("p.yaml", &GOOD.replace("host", "all"));
        for n in 0..40 {
            other.write(&format!("many/{n}.yaml"), &pod(&format!("other{n}")));
        }
        other.scan();
        other.reopen();
        fs::read(other.cache()).unwrap()
    };
    let mut dice = Dice(20_261_121);
    for round in 0..500 {
        let mut bytes = right.clone();
        let what = dice.below(9);
        let (a, b) = (dice.below(bytes.len()), dice.below(bytes.len()));
        let (from, to) = (a.min(b), a.max(b));
        match what {
            0 => bytes[a] ^= 1 << dice.below(8),
            1 => bytes.truncate(a),
            2 => bytes[from..to].fill(0),
            3 => drop(bytes.drain(from..to)),
            4 => bytes.swap(a, b),
            5 => bytes.extend_from_slice(&right[from..]),
            6 => bytes.splice(from..from, right[from..to].to_vec()).for_each(drop),
            7 => bytes = [&right[..from], &other[from.min(other.len())..]].concat(),
            _ => bytes = [&other[..], &right[from..]].concat(),
        }
        fs::write(bench.cache(), &bytes).unwrap();
        bench.restart();
        let after = bench.scan();
        assert!(
            same(&before, &after),
            "round {round}, mutation {what} at {from} to {to}: {:#?}",
            told(&after)
        );
    }
    fs::write(bench.cache(), &other).unwrap();
    bench.restart();
    assert!(same(&before, &bench.scan()), "another folder's");
}

#[test]
fn what_stands_in_the_place_of_the_cache_is_neither_waited_for_nor_believed() {
    let mut bench = Bench::with_all_sorts();
    let cache = bench.cache();
    let empty = |cache: &PathBuf| drop(fs::remove_file(cache).or_else(|_| fs::remove_dir_all(cache)));
    for round in 0..3 {
        bench.reopen();
        empty(&cache);
        match round {
            0 => fs::create_dir_all(cache.join("within")).unwrap(),
            1 => assert!(Command::new("mkfifo").arg(&cache).status().unwrap().success()),
            _ => std::os::unix::fs::symlink(&cache, &cache).unwrap(),
        }
        bench.restart();
        bench.has_all_sorts(&format!("round {round}"));
    }
}

#[test]
fn what_breaks_while_no_agent_runs_keeps_its_last_good_version() {
    let mut bench = Bench::new();
    bench.write("p.yaml", GOOD);
    bench.write("a.yaml", &pod("a"));
    bench.scan();
    bench.reopen();
    bench.scan();
    bench.reopen();
    bench.write("p.yaml", BROKEN);
    bench.remove("a.yaml");
    let snapshot = bench.scan();
    assert_eq!(names(&snapshot), ["CiliumNetworkPolicy shop/web"]);
    assert_eq!(allows(find(&snapshot, ObjectKind::CiliumNetworkPolicy, "web")), 1);
    // And again from the cache that was written then.
    bench.reopen();
    assert_eq!(allows(find(&bench.scan(), ObjectKind::CiliumNetworkPolicy, "web")), 1);
    // Without the folder all of them count.
    bench.reopen();
    fs::rename(&bench.root, bench.root.with_extension("away")).unwrap();
    let snapshot = bench.scan();
    assert_eq!((names(&snapshot), snapshot.synced), (vec!["CiliumNetworkPolicy shop/web".to_owned()], false));
}

#[test]
fn a_file_that_may_have_changed_in_the_same_step_of_time_is_read_again() {
    for n in 0..50 {
        let mut bench = Bench::new();
        bench.write("p.yaml", GOOD);
        // Now, not when all files have settled.
        let snapshot = bench.folder.scan(Now { uptime: Duration::ZERO, wall: SystemTime::now() });
        assert_eq!(allows(find(&snapshot, ObjectKind::CiliumNetworkPolicy, "web")), 1);
        // In its place, with the same size: often the times stay the same too.
        bench.write("p.yaml", &GOOD.replace("[{fromEntities: [host]}]", "[]                      "));
        bench.reopen();
        let snapshot = bench.folder.scan(Now { uptime: Duration::ZERO, wall: SystemTime::now() });
        assert_eq!(allows(find(&snapshot, ObjectKind::CiliumNetworkPolicy, "web")), 0, "round {n}");
    }
}

#[test]
fn commands_that_only_look_use_the_cache_and_write_none() {
    let mut bench = Bench::with_all_sorts();
    bench.reopen();
    let (before, bytes) = (bench.scan(), fs::read(bench.cache()).unwrap());
    bench.write("a.yaml", &pod("a"));
    let now = Now { uptime: Duration::ZERO, wall: SystemTime::now() + Duration::from_secs(60) };
    let mut look = ManifestFolder::to_look(&bench.root, "n1", Some(&bench.state));
    assert!(!same(&before, &look.scan(now)));
    drop(look);
    assert_eq!(fs::read(bench.cache()).unwrap(), bytes);
}
