//! The runner over the real steps, with their golden documents.

use super::*;
use cilium_engine::config::Config;
use proptest::prelude::*;
use tempfile::TempDir;

const NOW: u64 = 1_800_000_000;

fn document(text: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cilium.toml");
    fs::write(&path, text).unwrap();
    (dir, path)
}

fn go(path: &Path, target: Target) -> Migration {
    let migration = plan(path, target).unwrap();
    apply(&migration, NOW).unwrap();
    migration
}

fn content(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// Compares with a golden file of a step; with `CILIUM_BLESS=1` writes it.
fn golden(step: &str, name: &str, seen: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config").join(step).join(name);
    if std::env::var_os("CILIUM_BLESS").is_some() {
        fs::write(&path, seen).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap_or_default(), seen, "{}", path.display());
}

fn assert_current(text: &str) {
    let config: Config = toml::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(config.validate(), [], "{text}");
}

#[test]
fn flat_keys_up_and_back_are_the_golden_triple() {
    let (_dir, path) = document(include_str!("../config/s0001_flat_keys/before.toml"));
    go(&path, Target::Up(None));
    let after = content(&path);
    golden("s0001_flat_keys", "after.toml", &after);
    assert_current(&after);
    go(&path, Target::Down(0));
    golden("s0001_flat_keys", "back.toml", &content(&path));
    // What the way back made of it means the same.
    go(&path, Target::Up(Some(1)));
    assert_eq!(toml::from_str::<Config>(&content(&path)).unwrap(), toml::from_str::<Config>(&after).unwrap());
}

#[test]
fn what_a_downgrade_cannot_express_is_saved_and_given_back() {
    let newer = include_str!("../config/s0001_flat_keys/newer.toml");
    assert_current(newer);
    let (_dir, path) = document(newer);
    let down = go(&path, Target::Down(0));
    assert_eq!(down.saved.len(), 1);
    golden("s0001_flat_keys", "older.toml", &content(&path));
    golden("s0001_flat_keys", "saved.toml", &content(&down.saved[0].path));
    assert_eq!(status(&path).unwrap().saved, [down.saved[0].path.clone()]);
    go(&path, Target::Up(None));
    golden("s0001_flat_keys", "again.toml", &content(&path));
    assert_eq!(toml::from_str::<Config>(&content(&path)).unwrap(), toml::from_str::<Config>(newer).unwrap());
    assert!(!down.saved[0].path.exists(), "what was given back is not kept");
}

#[test]
fn what_was_edited_below_wins_over_what_was_saved() {
    let (_dir, path) = document("version = 1\n[reconciler]\nfull_read = \"30s\"\ndebounce = \"10ms\"\n");
    go(&path, Target::Down(0));
    fs::write(&path, "[reconciler]\nfull_read = \"60s\"\n").unwrap();
    let up = go(&path, Target::Up(None));
    let config: Config = toml::from_str(&content(&path)).unwrap();
    assert_eq!(config.reconciler.full_read.to_string(), "1m");
    assert_eq!(config.reconciler.debounce.to_string(), "10ms");
    assert!(up.to_string().contains("reconciler.full_read: the saved value is not given back"), "{up}");
}

#[test]
fn a_document_that_lacks_only_its_version_gets_just_that() {
    let (_dir, path) = document("[ipv6]\nenabled = true # yes\n");
    go(&path, Target::Up(None));
    assert_eq!(content(&path), "version = 1\n[ipv6]\nenabled = true # yes\n");
}

#[test]
fn disabled_tunnels_become_native_routing() {
    let (_dir, path) = document("tunnel = \"disabled\"\nauto-direct-node-routes = \"true\"\n");
    go(&path, Target::Up(None));
    assert_eq!(
        content(&path),
        "version = 1\n\n[routing]\nmode = \"native\"\nauto_direct_node_routes = true\n"
    );
}

#[test]
fn a_plan_writes_nothing() {
    let text = include_str!("../config/s0001_flat_keys/before.toml");
    let (dir, path) = document(text);
    let planned = plan(&path, Target::Up(None)).unwrap();
    assert!(!planned.is_empty());
    assert!(planned.to_string().contains("version 0 -> 1"), "{planned}");
    assert_eq!(content(&path), text);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn status_tells_version_pending_and_done() {
    let (_dir, path) = document("tunnel = \"vxlan\"\n");
    let before = status(&path).unwrap();
    assert_eq!((before.version, before.current, before.pending.len()), (0, CURRENT, CURRENT as usize));
    go(&path, Target::Up(None));
    let after = status(&path).unwrap();
    assert_eq!((after.version, after.pending.len(), after.ledger.done.len()), (CURRENT, 0, CURRENT as usize));
    assert_eq!(after.ledger.done[0].at, NOW);
    assert_eq!(after.altered, []);
    assert!(go(&path, Target::Up(None)).is_empty(), "a second time there is nothing to do");
}

#[test]
fn a_step_taken_by_another_build_is_noticed_and_a_torn_ledger_tolerated() {
    let (_dir, path) = document("tunnel = \"vxlan\"\n");
    go(&path, Target::Up(None));
    let ledger = folder(&fs::canonicalize(&path).unwrap()).join("ledger.jsonl");
    let mut line: Done = serde_json::from_str(content(&ledger).trim()).unwrap();
    line.digest = Digest::of(b"another source");
    fs::write(&ledger, format!("{}\n{{\"step\": \"00", serde_json::to_string(&line).unwrap())).unwrap();
    let seen = status(&path).unwrap();
    assert_eq!(seen.altered, [StepName("0001_flat_keys".into())]);
    assert_eq!(seen.ledger.unreadable, 1);
}

#[test]
fn what_is_not_known_is_refused_and_nothing_written() {
    for (text, part) in [
        ("enable-ipsec = true\n", "nothing is known of enable-ipsec"),
        ("tunnel = \"ipip\"\n", "tunnel = \"ipip\" cannot be carried over"),
        ("mtu = \"big\"\n", "mtu = \"big\" cannot be carried over"),
        ("enable-ipv4 = 1\n", "enable-ipv4 = 1 cannot be carried over"),
        ("tunnel = \"vxlan\"\n[routing]\nmode = \"native\"\n", "tunnel and routing.mode both stand"),
        ("mtu = 1500\nrouting = { mode = \"native\" }\n", "routing is not what the step expects"),
        ("version = \"one\"\n", "must be a whole number"),
        ("version = 7\n", "no steps lead from version 7"),
        ("version = \n", "is not TOML"),
    ] {
        let (dir, path) = document(text);
        let error = plan(&path, Target::Up(None)).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

#[test]
fn the_wrong_way_names_the_right_one() {
    let (_dir, path) = document("version = 1\n");
    assert!(plan(&path, Target::Up(Some(0))).unwrap_err().to_string().contains("cilium migrate down"));
    let (_dir, path) = document("mtu = 1\n");
    assert!(plan(&path, Target::Down(1)).unwrap_err().to_string().contains("cilium migrate up"));
    assert!(matches!(plan(&path, Target::Up(Some(9))), Err(Error::Unknown { .. })));
}

#[test]
fn a_document_edited_after_the_plan_is_not_overwritten() {
    let (_dir, path) = document("tunnel = \"vxlan\"\n");
    let planned = plan(&path, Target::Up(None)).unwrap();
    fs::write(&path, "tunnel = \"disabled\"\n").unwrap();
    assert!(matches!(apply(&planned, NOW), Err(Error::Changed { .. })));
    assert_eq!(content(&path), "tunnel = \"disabled\"\n");
}

#[test]
fn mode_and_links_survive_and_the_former_document_is_kept() {
    use std::os::unix::fs::PermissionsExt as _;
    let text = "tunnel = \"vxlan\"\n";
    let (dir, path) = document(text);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let link = dir.path().join("link.toml");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    go(&link, Target::Up(None));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(content(&path).starts_with("version = 1\n"));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    let kept = folder(&fs::canonicalize(&path).unwrap())
        .join(format!("before-{}.toml", Digest::of(text.as_bytes()).short()));
    assert_eq!(content(&kept), text);
}

proptest! {
    #[test]
    fn any_newer_document_comes_back_with_its_meaning(
        name in "[a-z]{1,8}", mtu in 1400u16..9000, native in any::<bool>(), drop in any::<bool>(),
        secs in 1u32..100, devices in proptest::collection::btree_set("eth[0-9]{1,3}", 0..4),
        comment in "[ -~]{0,20}",
    ) {
        let mode = if native { "native" } else { "tunnel" };
        let text = format!(
            "# {comment}\nversion = 1\n# {comment}\n[cluster]\nname = \"{name}\" # {comment}\n[routing]\nmode = \"{mode}\"\nmtu = {mtu}\n\
             devices = {devices:?}\n[monitor]\ndrop = {drop}\n[reconciler]\nfull_read = \"{secs}s\"\n",
            devices = devices.iter().collect::<Vec<_>>(),
        );
        let (_dir, path) = document(&text);
        go(&path, Target::Down(0));
        go(&path, Target::Up(None));
        let back = content(&path);
        prop_assert_eq!(toml::from_str::<Config>(&back).unwrap(), toml::from_str::<Config>(&text).unwrap());
        prop_assert!(back.matches(&format!("# {comment}")).count() >= 3, "a comment is lost:\n{}", back);
    }

    #[test]
    fn no_document_makes_the_runner_panic(text in "([a-z-]{1,14} = [\\[\\]{}a-z0-9\", .]{0,12}\n){0,4}(\\[[a-z.]{1,9}\\]\n)?.{0,12}") {
        let (_dir, path) = document(&text);
        for target in [Target::Up(None), Target::Down(0)] {
            if let Ok(migration) = plan(&path, target) {
                prop_assert!(migration.after.parse::<DocumentMut>().is_ok());
            }
        }
    }
}
