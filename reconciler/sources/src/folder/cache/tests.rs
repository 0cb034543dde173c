//! The cache by itself: what it takes over, and what it leaves.

use super::super::walk::Stamp;
use super::super::{ManifestFolder, Now, Snapshot};
use super::*;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: 172.20.0.1, ports: [{{port: 80}}]}}\n"
    )
}

fn scan(folder: &mut ManifestFolder) -> Snapshot {
    let wall = SystemTime::now() + Duration::from_secs(3600);
    folder.scan(Now { uptime: Duration::from_secs(1000), wall })
}

fn place(dir: &Path) -> Place {
    Place { path: dir.join("state/manifests.cache"), node: "n1".into() }
}

fn folder(dir: &Path) -> ManifestFolder {
    ManifestFolder::new(&dir.join("manifests"), "n1", &dir.join("state"))
}

/// A folder of three files that was read once.
fn settled() -> (tempfile::TempDir, Snapshot) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("manifests");
    fs::create_dir(&root).unwrap();
    for name in ["a", "b", "c"] {
        fs::write(root.join(format!("{name}.yaml")), service(name)).unwrap();
    }
    let mut folder = folder(dir.path());
    let snapshot = scan(&mut folder);
    assert_eq!(snapshot.objects.len(), 3);
    drop(folder);
    (dir, snapshot)
}

#[test]
fn what_stamps_prove_is_taken_over_and_nothing_is_written_again() {
    let (dir, before) = settled();
    let place = place(dir.path());
    let cached = place.load(&mut LabelPool::default());
    assert_eq!((cached.files.len(), cached.versions.versions().len()), (3, 3));
    let written = fs::metadata(&place.path).unwrap();
    let mut folder = folder(dir.path());
    assert_eq!(folder.cached.files.len(), 3);
    assert!(folder.store.was_as_known());
    let after = scan(&mut folder);
    assert_eq!((after.objects, after.problems), (before.objects, before.problems));
    assert!(!folder.uncached);
    drop(folder);
    assert_eq!(Stamp::of(&fs::metadata(&place.path).unwrap()), Stamp::of(&written));
}

/// Has the cache say something else of the files, with their stamps, and checks.
fn forge(place: &Place) {
    let mut cached = place.load(&mut LabelPool::default());
    for file in cached.files.values_mut() {
        for member in &mut file.members {
            let mut object = Object::clone(&member.object);
            object.header.place.line = 77;
            member.object = Arc::new(object);
        }
    }
    let files = cached.files.into_iter().collect();
    place.store(&files, &cached.versions.versions().iter().cloned().collect()).unwrap();
}

fn lines(snapshot: &Snapshot) -> Vec<u32> {
    snapshot.objects.values().map(|object| object.header.place.line).collect()
}

#[test]
fn only_files_that_are_other_than_the_cache_knows_are_read() {
    let (dir, _) = settled();
    forge(&place(dir.path()));
    let root = dir.path().join("manifests");
    let snapshot = scan(&mut folder(dir.path()));
    assert_eq!(lines(&snapshot), [77, 77, 77], "none is read");
    forge(&place(dir.path()));
    // The same text again: other times.
    fs::write(root.join("b.yaml"), service("b")).unwrap();
    assert_eq!(lines(&scan(&mut folder(dir.path()))), [77, 1, 77]);
    forge(&place(dir.path()));
    // Another file with the same times and size.
    fs::rename(root.join("c.yaml"), root.join("d.yaml")).unwrap();
    fs::copy(root.join("d.yaml"), root.join("c.yaml")).unwrap();
    fs::remove_file(root.join("d.yaml")).unwrap();
    assert_eq!(lines(&scan(&mut folder(dir.path()))), [77, 77, 1]);
}

#[test]
fn a_cache_of_another_node_or_of_a_store_that_is_gone_is_not_believed() {
    let (dir, before) = settled();
    forge(&place(dir.path()));
    let foreign = ManifestFolder::new(&dir.path().join("manifests"), "n2", &dir.path().join("state"));
    assert!(foreign.cached.files.is_empty());
    drop(foreign);
    // Texts are needed to write last good versions: all is read.
    fs::remove_dir_all(dir.path().join("state/last-good")).unwrap();
    let mut again = folder(dir.path());
    assert_eq!(scan(&mut again).objects, before.objects);
    assert_eq!(fs::read_dir(dir.path().join("state/last-good")).unwrap().count(), 3);
    // And one that was changed behind our back.
    drop(again);
    forge(&place(dir.path()));
    let one = fs::read_dir(dir.path().join("state/last-good")).unwrap().next().unwrap().unwrap().path();
    fs::write(&one, "{").unwrap();
    let snapshot = scan(&mut folder(dir.path()));
    assert_eq!(lines(&snapshot).iter().filter(|line| **line == 1).count(), 1);
    assert!(one.with_extension("bad").exists() && one.exists());
}

#[test]
fn contents_with_right_checks_that_are_no_shards_are_left_out() {
    let (dir, before) = settled();
    let place = place(dir.path());
    let bytes = fs::read(&place.path).unwrap();
    let ((_, content), _) = cut(&bytes).unwrap();
    // What a mistake of ours could write, not a disk: every length and tag is another once.
    for at in 0..content.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut content = content.to_vec();
            content[at] = value;
            if let Ok(shard) = postcard::from_bytes::<Read>(&content) {
                Cached::default().take_in(Decoded::of(shard), &mut LabelPool::default());
            }
        }
    }
    let mut file = Vec::new();
    for content in [&content[..content.len() / 2], &[], content] {
        file.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
        file.extend(place.check(content));
        file.extend(content);
    }
    fs::write(&place.path, file).unwrap();
    let mut folder = folder(dir.path());
    assert_eq!(folder.cached.files.len(), 3, "the last is whole");
    assert_eq!(scan(&mut folder).objects, before.objects);
}
