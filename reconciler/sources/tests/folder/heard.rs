//! What the kernel tells of the folder, and what it does not tell.

use crate::{Bench, find, names, pod, told};
use cilium_crds::kind::ObjectKind;
use cilium_crds::lower::Facts;
use cilium_sources::folder::{Now, Watch};
use std::fs;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

impl Bench {
    /// With a folder that is watched, and scanned once.
    fn watched() -> (Self, Watch) {
        let mut bench = Self::new();
        let watch = bench.folder.watch().unwrap();
        bench.write("a.yaml", &pod("a"));
        assert_eq!(names(&bench.scan()), ["Pod default/a"]);
        (bench, watch)
    }

    /// A look at what was heard of, by the clock.
    fn now(&mut self) -> cilium_sources::folder::Snapshot {
        self.uptime += Duration::from_millis(1);
        self.folder.scan_heard(Now { uptime: self.uptime, wall: SystemTime::now() })
    }

    /// The same, once more if it says that something is to be looked at again.
    fn settled_look(&mut self) -> cilium_sources::folder::Snapshot {
        let first = self.now();
        match first.again.filter(|again| *again <= Duration::from_millis(50)) {
            Some(again) => {
                std::thread::sleep(again);
                self.now()
            }
            None => first,
        }
    }
}

#[test]
fn the_watch_wakes_for_files_in_folders_made_later_and_not_for_temporary_ones() {
    let (mut bench, watch) = Bench::watched();
    assert!(!watch.wait(Duration::from_millis(50)), "what was scanned is no news");
    bench.write(".a.yaml.swp", "x");
    bench.write("b.yaml.tmp", "x");
    assert!(!watch.wait(Duration::from_millis(200)));
    bench.write("some.log", "x");
    assert!(watch.wait(Duration::from_secs(5)), "it might be a link to a folder");
    bench.heard();
    bench.write("some.log", "y");
    assert!(!watch.wait(Duration::from_millis(200)));
    bench.write("b.yaml", &pod("b"));
    assert!(watch.wait(Duration::from_secs(5)));
    bench.write("b.yaml", &pod("b2"));
    assert!(!watch.wait(Duration::from_millis(200)), "told already, and not yet scanned");
    assert_eq!(names(&bench.heard()), ["Pod default/a", "Pod default/b2"]);
    bench.write("sub/c.yaml", &pod("c"));
    assert!(watch.wait(Duration::from_secs(5)));
    assert_eq!(bench.heard().objects.len(), 3);
    bench.write("sub/c.yaml", &pod("d"));
    assert!(watch.wait(Duration::from_secs(5)));
    assert_eq!(names(&bench.heard()), ["Pod default/a", "Pod default/b2", "Pod default/d"]);
    fs::read(bench.root.join("a.yaml")).unwrap();
    assert!(!watch.wait(Duration::from_millis(200)), "reading is nothing");
}

#[test]
fn a_folder_that_comes_goes_or_is_replaced_is_noticed() {
    let (mut bench, watch) = Bench::watched();
    let wait = || (0..100).any(|_| watch.wait(Duration::from_millis(50)));
    let away = bench.root.with_extension("away");
    fs::rename(&bench.root, &away).unwrap();
    assert!(wait());
    assert!(!bench.heard().synced);
    fs::create_dir(&bench.root).unwrap();
    bench.write("b.yaml", &pod("b"));
    assert!(wait());
    assert_eq!(names(&bench.heard()), ["Pod default/b"]);
    bench.write("b.yaml", &pod("c"));
    assert!(wait());
    assert_eq!(names(&bench.heard()), ["Pod default/c"]);
    // What happens to the one that was replaced is nobody's business.
    fs::write(away.join("x.yaml"), pod("x")).unwrap();
    assert!(!watch.wait(Duration::from_millis(200)));
}

#[test]
fn a_scan_hears_itself_what_was_done_before_it() {
    let (mut bench, _watch) = Bench::watched();
    for round in 0..200 {
        let name = format!("p{round}");
        bench.write("a.yaml", &pod(&name));
        assert_eq!(names(&bench.heard()), [format!("Pod default/{name}")]);
    }
    bench.write("b.yaml", &pod("b"));
    assert_eq!(bench.heard().objects.len(), 2);
    bench.remove("b.yaml");
    assert_eq!(bench.heard().objects.len(), 1);
}

#[test]
fn what_was_not_told_is_found_by_a_look_at_everything() {
    let (mut bench, watch) = Bench::watched();
    bench.write("b.yaml", &pod("b"));
    assert_eq!(bench.heard().objects.len(), 2);
    // What is written by another name of the file is not told where the first one is.
    let other = bench.root.with_extension("other");
    fs::hard_link(bench.root.join("a.yaml"), &other).unwrap();
    let before = bench.heard();
    fs::write(other, pod("missed")).unwrap();
    assert!(!watch.wait(Duration::from_millis(100)));
    assert_eq!(names(&bench.heard()), names(&before), "nobody heard of it");
    assert_eq!(names(&bench.scan()), ["Pod default/b", "Pod default/missed"]);
}

#[test]
fn where_too_much_happened_to_be_told_everything_is_looked_at() {
    let (mut bench, watch) = Bench::watched();
    let most: usize =
        fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    bench.write("b.yaml", &pod("b"));
    assert_eq!(bench.heard().objects.len(), 2);
    // Two names in turn: the kernel takes equal events that follow each other as one.
    let (x, y) = (bench.root.join("x.yaml"), bench.root.join("y.yaml"));
    fs::write(&x, pod("x")).unwrap();
    for _ in 0..most / 4 + 1 {
        fs::rename(&x, &y).unwrap();
        fs::rename(&y, &x).unwrap();
    }
    // The queue is full: these are not told.
    bench.remove("a.yaml");
    bench.write("b.yaml", &pod("changed"));
    bench.write("deep/er/c.yaml", &pod("c"));
    assert!(watch.wait(Duration::from_secs(5)));
    assert_eq!(names(&bench.heard()), ["Pod default/c", "Pod default/changed", "Pod default/x"]);
    bench.write("deep/er/c.yaml", &pod("c2"));
    assert_eq!(names(&bench.heard()), ["Pod default/c2", "Pod default/changed", "Pod default/x"]);
}

#[test]
fn a_folder_renamed_away_and_back_takes_its_objects_with_it() {
    let (mut bench, watch) = Bench::watched();
    let outside = bench.root.with_extension("outside");
    fs::create_dir(&outside).unwrap();
    for i in 0..3 {
        bench.write(&format!("team/{i}/p.yaml"), &pod(&format!("p{i}")));
    }
    let all = bench.heard();
    assert_eq!(all.objects.len(), 4);
    fs::rename(bench.root.join("team"), outside.join("team")).unwrap();
    assert!(watch.wait(Duration::from_secs(5)));
    let snapshot = bench.heard();
    assert!(snapshot.synced);
    assert_eq!(names(&snapshot), ["Pod default/a"]);
    // Outside it is not heard.
    fs::write(outside.join("team/0/p.yaml"), pod("changed")).unwrap();
    assert!(!watch.wait(Duration::from_millis(100)));
    fs::rename(outside.join("team"), bench.root.join("back")).unwrap();
    let snapshot = bench.heard();
    assert_eq!(
        names(&snapshot),
        ["Pod default/a", "Pod default/changed", "Pod default/p1", "Pod default/p2"]
    );
    assert_eq!(snapshot.objects.values().last().unwrap().header.place.file, "back/2/p.yaml");
    bench.write("back/2/p.yaml", &pod("again"));
    assert!(bench.heard().objects.values().any(|o| o.header.name.name == "again"));
    // Within the folder.
    fs::rename(bench.root.join("back"), bench.root.join("elsewhere")).unwrap();
    assert_eq!(bench.heard().objects.len(), 4);
    bench.write("elsewhere/1/p.yaml", &pod("at-last"));
    assert!(bench.heard().objects.values().any(|o| o.header.name.name == "at-last"));
}

#[test]
fn thousands_of_files_at_once_all_count_and_are_kept() {
    let (mut bench, _watch) = Bench::watched();
    let writer = std::thread::spawn({
        let root = bench.root.clone();
        move || {
            for i in 0..3000 {
                let dir = root.join(format!("d{}", i % 7));
                fs::create_dir_all(&dir).unwrap();
                fs::write(dir.join(format!("{i}.yaml")), pod(&format!("p{i}"))).unwrap();
            }
        }
    });
    let mut scans = 0;
    let mut before = 1;
    while !writer.is_finished() {
        let now = bench.heard().objects.len();
        assert!(now >= before);
        (before, scans) = (now, scans + 1);
    }
    writer.join().unwrap();
    let snapshot = bench.heard();
    assert_eq!(snapshot.objects.len(), 3001, "after {scans} scans");
    assert_eq!(told(&snapshot), [""; 0]);
    let again = bench.heard();
    assert!(again.objects.shares(&snapshot.objects));
    // Broken all at once and read by a new agent: their last good versions were kept. Its thread is done when
    // the old one has ended.
    let elsewhere = bench.root.with_extension("none");
    bench.folder = cilium_sources::folder::ManifestFolder::to_look(&elsewhere, "n1", None);
    for i in 0..3000 {
        bench.write(&format!("d{}/{i}.yaml", i % 7), "a: [");
    }
    bench.restart();
    assert_eq!(bench.scan().objects.len(), 3001);
}

#[test]
fn an_object_that_did_not_change_is_the_same_in_memory() {
    let (mut bench, _watch) = Bench::watched();
    bench.write("many.yaml", &[pod("x"), pod("y"), pod("z")].join("---\n"));
    let before = bench.heard();
    bench.write("many.yaml", &[pod("x"), pod("other"), pod("z")].join("---\n"));
    let now = bench.heard();
    assert_eq!(names(&now), ["Pod default/a", "Pod default/other", "Pod default/x", "Pod default/z"]);
    let same = now
        .objects
        .iter()
        .filter(|(id, object)| before.objects.get(*id).is_some_and(|before| Arc::ptr_eq(before, object)));
    assert_eq!(same.count(), 3);
}

#[test]
fn what_is_behind_links_is_looked_at_though_nobody_hears_of_it() {
    let (mut bench, watch) = Bench::watched();
    let outside = bench.root.with_extension("outside");
    fs::create_dir_all(outside.join("v1")).unwrap();
    fs::create_dir_all(outside.join("v2")).unwrap();
    let link = |to: &str, at: std::path::PathBuf| {
        let beside = at.with_extension("tmp");
        std::os::unix::fs::symlink(to, &beside).unwrap();
        fs::rename(beside, at).unwrap();
    };
    fs::write(outside.join("one.yaml"), pod("one")).unwrap();
    fs::write(outside.join("v1/x.yaml"), pod("v1")).unwrap();
    fs::write(outside.join("v2/x.yaml"), pod("v2")).unwrap();
    link("v1", outside.join("current"));
    link("../manifests.outside/one.yaml", bench.root.join("one.yaml"));
    link("../manifests.outside/current", bench.root.join("dir"));
    link("../manifests.outside/later.yaml", bench.root.join("later.yaml"));
    assert_eq!(names(&bench.heard()), ["Pod default/a", "Pod default/one", "Pod default/v1"]);
    fs::write(outside.join("one.yaml"), pod("two")).unwrap();
    assert_eq!(names(&bench.heard()), ["Pod default/a", "Pod default/two", "Pod default/v1"]);
    // A folder behind a link is watched.
    fs::write(outside.join("v1/x.yaml"), pod("v1a")).unwrap();
    assert!(watch.wait(Duration::from_secs(5)));
    assert_eq!(names(&bench.heard()), ["Pod default/a", "Pod default/two", "Pod default/v1a"]);
    link("v2", outside.join("current"));
    assert_eq!(names(&bench.heard()), ["Pod default/a", "Pod default/two", "Pod default/v2"]);
    fs::write(outside.join("later.yaml"), pod("later")).unwrap();
    assert_eq!(bench.heard().objects.len(), 4);
    fs::remove_file(outside.join("one.yaml")).unwrap();
    assert_eq!(names(&bench.heard()), ["Pod default/a", "Pod default/later", "Pod default/v2"]);
}

#[test]
fn a_file_heard_of_while_it_is_written_is_read_when_it_has_settled() {
    let (mut bench, watch) = Bench::watched();
    let mut file = fs::File::create(bench.root.join("a.yaml")).unwrap();
    file.write_all(pod("changed").as_bytes()).unwrap();
    let written = file.metadata().unwrap().modified().unwrap();
    let now = |ms| Now {
        uptime: Duration::from_secs(2000) + Duration::from_millis(ms),
        wall: written + Duration::from_millis(ms),
    };
    let snapshot = bench.folder.scan_heard(now(10));
    assert_eq!(names(&snapshot), ["Pod default/a"]);
    assert_eq!(snapshot.again, Some(Duration::from_millis(40)));
    // Nothing is heard of it any more.
    assert_eq!(names(&bench.folder.scan_heard(now(50))), ["Pod default/changed"]);
    drop(file);
    assert!(watch.wait(Duration::from_secs(5)));
    bench.write("a.yaml", "# nothing\n");
    bench.write("b.yaml", &pod("b"));
    let late = |s: u64| Now {
        uptime: Duration::from_secs(3000 + s),
        wall: SystemTime::now() + Duration::from_secs(60),
    };
    let snapshot = bench.folder.scan_heard(late(0));
    assert_eq!(names(&snapshot), ["Pod default/b", "Pod default/changed"]);
    assert_eq!(snapshot.again, Some(Duration::from_secs(2)));
    assert_eq!(names(&bench.folder.scan_heard(late(2))), ["Pod default/b"]);
}

#[test]
fn a_file_that_is_whole_is_read_at_once_however_young_it_is() {
    let (mut bench, watch) = Bench::watched();
    let beside = bench.root.join(".new.tmp");
    for round in 0..20 {
        fs::write(&beside, pod(&format!("moved{round}"))).unwrap();
        fs::rename(&beside, bench.root.join("a.yaml")).unwrap();
        assert!(watch.wait(Duration::from_secs(5)));
        // The object that was there is gone, of which the file has to convince.
        assert_eq!(names(&bench.settled_look()), [format!("Pod default/moved{round}")]);
    }
    for round in 0..20 {
        fs::write(&beside, pod("moved19").replace("app: moved19", &format!("app: v{round}"))).unwrap();
        fs::rename(&beside, bench.root.join("a.yaml")).unwrap();
        assert!(watch.wait(Duration::from_secs(5)));
        let snapshot = bench.now();
        let Facts::Pod(pod) = &find(&snapshot, ObjectKind::Pod, "moved19").facts else { panic!("a pod") };
        assert_eq!(pod.labels["app"], format!("v{round}"));
    }
    bench.write("b.yaml", &pod("b"));
    assert!(watch.wait(Duration::from_secs(5)));
    assert_eq!(names(&bench.now())[0], "Pod default/b");
}

#[test]
fn who_waits_is_told_when_a_file_is_whole_or_stays_begun() {
    let (mut bench, watch) = Bench::watched();
    let mut file = fs::File::create(bench.root.join("b.yaml")).unwrap();
    let closed = std::thread::spawn(move || {
        for line in pod("b").lines() {
            writeln!(file, "{line}").unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    assert!(watch.wait(Duration::from_secs(5)));
    assert!(closed.is_finished() || closed.join().is_ok(), "the file was closed");
    assert_eq!(names(&bench.now()), ["Pod default/a", "Pod default/b"]);
    let mut begun = fs::File::create(bench.root.join("c.yaml")).unwrap();
    begun.write_all(pod("c").as_bytes()).unwrap();
    let since = Instant::now();
    assert!(watch.wait(Duration::from_secs(5)));
    assert!(since.elapsed() >= Duration::from_millis(50) && since.elapsed() < Duration::from_secs(2));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(bench.now().objects.len(), 3, "open, but quiet");
}

#[test]
fn a_file_written_piece_by_piece_is_neither_believed_nor_told_to_be_broken_meanwhile() {
    let (mut bench, watch) = Bench::watched();
    let path = bench.root.join("many.yaml");
    let pieces = [&*pod("x"), "---\n", &*pod("y"), "---\n", &*pod("z")];
    fs::write(&path, pieces.concat()).unwrap();
    assert!(watch.wait(Duration::from_secs(5)));
    let all = ["Pod default/a", "Pod default/x", "Pod default/y", "Pod default/z"];
    assert_eq!(names(&bench.now()), all);
    // As `>` and then `>>` do; the piece before the last ends within an object.
    fs::write(&path, "").unwrap();
    let text = pieces.concat();
    for piece in text.as_bytes().chunks(7) {
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(piece).unwrap();
        drop(file);
        let snapshot = bench.now();
        assert_eq!(names(&snapshot), all);
        assert_eq!(told(&snapshot), [""; 0]);
    }
    // What is wrong, or gone, all the same, is found when the file has settled.
    for (text, objects, wrong) in [(pod("x"), 2, 0), ("kind: [".to_owned(), 2, 1)] {
        fs::write(&path, text).unwrap();
        let before = bench.now();
        assert_eq!(told(&before), [""; 0]);
        std::thread::sleep(before.again.expect("it is looked at again"));
        let after = bench.now();
        assert_eq!((after.objects.len(), told(&after).len().min(1)), (objects, wrong));
    }
}

#[test]
fn a_change_within_the_same_tick_of_the_clock_is_not_missed() {
    let (mut bench, _watch) = Bench::watched();
    bench.write("b.yaml", &pod("b0000"));
    bench.now();
    for round in 0..500 {
        // The same file, of the same size.
        let label = format!("v{round:04}");
        bench.write("a.yaml", &pod("a").replace("app: a", &format!("app: {label}")));
        let snapshot = bench.now();
        let Facts::Pod(pod) = &find(&snapshot, ObjectKind::Pod, "a").facts else { panic!("a pod") };
        assert_eq!(pod.labels["app"], label);
    }
    let read = bench.now().objects;
    std::thread::sleep(Duration::from_millis(150));
    bench.folder.scan(Now { uptime: bench.uptime, wall: SystemTime::now() });
    assert!(bench.now().objects.shares(&read), "read once more for certainty, and the same");
}

#[test]
fn an_empty_mark_is_heard() {
    let (mut bench, watch) = Bench::watched();
    bench.remove("a.yaml");
    assert!(!bench.heard().synced);
    bench.write(".empty", "");
    assert!(watch.wait(Duration::from_secs(5)));
    let snapshot = bench.heard();
    assert!(snapshot.synced && snapshot.objects.is_empty());
}

#[test]
fn a_file_without_objects_that_is_heard_of_is_told_and_no_more_when_it_is_gone() {
    let (mut bench, _watch) = Bench::watched();
    bench.write("b.yaml", "kind: [unfinished\n");
    let snapshot = bench.heard();
    assert!(told(&snapshot).iter().any(|t| t.contains("b.yaml:2:1")), "{:?}", told(&snapshot));
    assert_eq!(told(&bench.heard()), told(&snapshot));
    bench.remove("b.yaml");
    assert_eq!(told(&bench.heard()), [""; 0]);
}

#[test]
fn a_folder_that_the_kernel_does_not_watch_as_a_whole_is_told_and_looked_at() {
    const WITHIN: &str = "WITH_TWO_WATCHES";
    if std::env::var_os(WITHIN).is_none() {
        // The same test where the kernel has two watches to give.
        let script = r#"echo 2 > /proc/sys/user/max_inotify_watches && exec "$0" "$@""#;
        let name = "heard::a_folder_that_the_kernel_does_not_watch_as_a_whole_is_told_and_looked_at";
        let out = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(WITHIN, "")
            .output()
            .unwrap();
        let (said, wrong) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success() && said.contains("1 passed"), "{said}{wrong}");
        return;
    }
    let (mut bench, _watch) = Bench::watched();
    for i in 0..3 {
        bench.write(&format!("{i}/p.yaml"), &pod(&format!("p{i}")));
    }
    let snapshot = bench.heard();
    assert!(snapshot.synced);
    assert_eq!(snapshot.objects.len(), 4);
    assert!(told(&snapshot)[0].contains("is not watched as a whole"), "{:?}", told(&snapshot));
    assert_eq!(snapshot.again, Some(Duration::from_secs(10)));
    // Some of these nobody tells.
    for i in 0..3 {
        bench.write(&format!("{i}/p.yaml"), &pod(&format!("q{i}")));
    }
    assert_eq!(names(&bench.heard())[1..], ["Pod default/q0", "Pod default/q1", "Pod default/q2"]);
    for i in 0..2 {
        fs::remove_dir_all(bench.root.join(i.to_string())).unwrap();
    }
    assert_eq!(told(&bench.heard()), [""; 0], "one folder is few enough");
}
