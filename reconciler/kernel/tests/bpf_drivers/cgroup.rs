//! Programs of sockets on a cgroup of this test's own: attach, replace under traffic, drift, detach.

use crate::bench::{Dir, map_steps, must, run};
use cilium_abi::node::{NODE_IPV4, NODE_SOCK, NodeConstants};
use cilium_engine::driver::{Driver, DriverError, Scope, Step};
use cilium_engine::state::*;
use cilium_engine::world;
use cilium_kernel::AttachMode;
use cilium_kernel::bpf::Bpf;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A cgroup within it, of one test.
const NEXT: &str = "next";

/// A cgroup under a cgroup2 mount that only this thread sees.
struct Cgroup {
    mount: tempfile::TempDir,
    path: PathBuf,
}

impl Cgroup {
    #[expect(unsafe_code, reason = "unshare(2) and mount(2) have no safe form in std")]
    fn new(name: &str) -> Self {
        let mount = tempfile::tempdir().unwrap();
        let target = std::ffi::CString::new(mount.path().to_str().unwrap()).unwrap();
        let (none, kind) = (c"none".as_ptr(), c"cgroup2".as_ptr());
        // SAFETY: plain system calls, of NUL-terminated strings that outlive them; they change what this
        // thread sees, only.
        unsafe {
            assert_eq!(libc::unshare(libc::CLONE_NEWNS), 0);
            let private = libc::MS_REC | libc::MS_PRIVATE;
            assert_eq!(libc::mount(none, c"/".as_ptr(), none, private, std::ptr::null()), 0);
            let mounted = libc::mount(kind, target.as_ptr(), kind, 0, std::ptr::null());
            assert_eq!(mounted, 0, "{}", std::io::Error::last_os_error());
        }
        let path = mount.path().join(format!("cilium-test-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self { mount, path }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for path in [&self.path.join(NEXT), &self.path] {
            let _ = std::fs::remove_dir(path);
        }
        let _ = std::process::Command::new("umount").arg("-l").arg(self.mount.path()).status();
    }
}

fn set(n: u32) -> SetId {
    SetId(format!("{n:032x}"))
}

fn load(bpf: &mut Bpf, n: u32) {
    let constants = NodeConstants { flags: NODE_IPV4 | NODE_SOCK, ct_any: n, ..NodeConstants::default() };
    must(
        bpf,
        &[Step::<ProgramSet>::Create { key: set(n), row: ProgramSetRow::Constants(Box::new(constants)) }],
    );
}

fn all_of(root: &Path, id: &SetId) -> Vec<(SocketHook, SocketRow)> {
    SocketHook::ALL.map(|hook| (hook, SocketRow { cgroup: root.into(), set: id.clone() })).into()
}

fn put(bpf: &mut Bpf, root: &Path, hook: SocketHook, n: u32) -> Result<(), DriverError> {
    let row = SocketRow { cgroup: root.into(), set: set(n) };
    bpf.apply(&[Step::<SocketProgram>::Create { key: hook, row }]).remove(0)
}

fn attach(bpf: &mut Bpf, root: &Path, n: u32) {
    for hook in SocketHook::ALL {
        put(bpf, root, hook, n).unwrap_or_else(|e| panic!("{hook}: {e}"));
    }
}

/// Takes off what is seen, in one go.
fn detach(bpf: &mut Bpf) {
    let steps: Vec<_> =
        all(bpf).into_iter().map(|(key, seen)| Step::<SocketProgram>::Remove { key, seen }).collect();
    must(bpf, &steps);
}

fn all(bpf: &mut Bpf) -> Vec<(SocketHook, SocketRow)> {
    Driver::<SocketProgram>::observe(bpf, &Scope::All).unwrap()
}

/// The set that `cil_sock4_connect` is seen of.
fn seen(bpf: &mut Bpf) -> Option<SetId> {
    let hook = SocketHook::Connect4;
    let found = Driver::<SocketProgram>::observe(bpf, &Scope::Keys([hook].into())).unwrap();
    assert!(found.iter().all(|(key, _)| *key == hook), "only what was asked for");
    found.into_iter().next().map(|(_, row)| row.set)
}

fn none() -> SetId {
    SetId(String::new())
}

#[test]
fn programs_of_sockets_are_attached_replaced_and_taken_off() {
    crate::root_or_skip!();
    let (dir, other) = (Dir::new(), Dir::new());
    let cgroup = Cgroup::new("life");
    let root = &cgroup.path;
    let at = |dir: &Dir| dir.bpf(AttachMode::Auto).with_cgroup(Some(root.clone()));
    let (mut bpf, mut foreign) = (at(&dir), at(&other));
    assert_eq!(bpf.cgroup(), world::Cgroup::At(root.clone()));
    for bpf in [&mut bpf, &mut foreign] {
        must(bpf, &map_steps());
        load(bpf, 1);
    }
    load(&mut bpf, 2);
    assert_eq!(all(&mut bpf), vec![]);
    attach(&mut foreign, root, 1);
    assert_eq!(all(&mut bpf), vec![], "another's are none of ours");
    for n in [1, 1, 2] {
        let begun = Instant::now();
        attach(&mut bpf, root, n);
        let attached = begun.elapsed();
        assert_eq!(all(&mut bpf), all_of(root, &set(n)));
        println!("10 programs attached in {attached:?}, attached and read in {:?}", begun.elapsed());
    }
    assert_eq!(all(&mut foreign), all_of(root, &set(1)), "beside ours");
    // A set taken away under its programs: they run on, of no known set.
    must::<ProgramSet>(&mut bpf, &[Step::Remove { key: set(2), seen: ProgramSetRow::Complete }]);
    assert_eq!(seen(&mut bpf), Some(none()));
    attach(&mut bpf, root, 1);
    let whole = all(&mut bpf);
    assert_eq!(whole, all_of(root, &set(1)));
    for _ in 0..2 {
        // Gone already is fine.
        let steps: Vec<_> =
            whole.iter().cloned().map(|(key, seen)| Step::<SocketProgram>::Remove { key, seen }).collect();
        must(&mut bpf, &steps);
        assert_eq!(all(&mut bpf), vec![]);
    }
    assert_eq!(all(&mut foreign), all_of(root, &set(1)), "another's stay");
    detach(&mut foreign);
    std::fs::remove_dir(root).unwrap();
}

#[test]
fn a_call_never_goes_by_without_a_program() {
    crate::root_or_skip!();
    let dir = Dir::new();
    let cgroup = Cgroup::new("swap");
    let root = &cgroup.path;
    let mut bpf = dir.bpf(AttachMode::Auto).with_cgroup(Some(root.clone()));
    must(&mut bpf, &map_steps());
    load(&mut bpf, 1);
    load(&mut bpf, 2);
    attach(&mut bpf, root, 1);
    // The link stays the same while its program changes: there is no moment between two.
    let link = || {
        let shown = run("bpftool", &["-j", "link", "show", "pinned", pin(&dir).to_str().unwrap()]);
        let value: serde_json::Value = serde_json::from_str(&shown).unwrap();
        value["id"].as_u64().unwrap()
    };
    let first = link();
    for n in [2, 1, 2] {
        attach(&mut bpf, root, n);
        assert_eq!((seen(&mut bpf), link()), (Some(set(n)), first));
    }
    detach(&mut bpf);
}

fn pin(dir: &Dir) -> PathBuf {
    dir.0.join("links/cil_sock4_connect")
}

#[test]
fn what_runs_at_a_cgroup_as_it_should_not_is_put_right() {
    crate::root_or_skip!();
    let dir = Dir::new();
    let cgroup = Cgroup::new("drift");
    let root = &cgroup.path;
    let mut bpf = dir.bpf(AttachMode::Auto).with_cgroup(Some(root.clone()));
    must(&mut bpf, &map_steps());
    load(&mut bpf, 1);
    load(&mut bpf, 2);
    let right = |bpf: &mut Bpf, why: &str| {
        assert_eq!(seen(bpf), Some(none()), "{why}: seen");
        attach(bpf, root, 1);
        assert_eq!(all(bpf), all_of(root, &set(1)), "{why}: put right");
        assert_eq!(running(root), 1, "{why}: once");
    };
    attach(&mut bpf, root, 1);

    // Somebody holds the link while its pin goes.
    let held = aya::programs::links::PinnedLink::from_pin(pin(&dir)).unwrap();
    std::fs::remove_file(pin(&dir)).unwrap();
    right(&mut bpf, "a lost pin");
    drop(held);

    // By hand, without a link: the same program a second time cannot be, another set's can.
    let program = dir.0.join("progs").join(set(2).0).join("cil_sock4_connect");
    let by_hand = |what: &str| {
        let (root, program) = (root.to_str().unwrap(), program.to_str().unwrap());
        let mut args = vec!["cgroup", what, root, "cgroup_inet4_connect", "pinned", program];
        args.extend((what == "attach").then_some("multi"));
        run("bpftool", &args);
    };
    by_hand("attach");
    right(&mut bpf, "attached by hand too");
    detach(&mut bpf);
    by_hand("attach");
    right(&mut bpf, "attached by hand only");

    // The cgroup goes, and one of the same name comes.
    std::fs::remove_dir(root).unwrap();
    assert_eq!(all(&mut bpf), all_of(Path::new(""), &none()), "pins without a cgroup");
    let absent = put(&mut bpf, root, SocketHook::Connect4, 1).unwrap_err();
    assert!(absent.message.contains("no such directory"), "{absent}");
    let world::Cgroup::Missing(reason) = bpf.cgroup() else { panic!("there is none") };
    assert!(reason.contains("does not exist"), "{reason}");
    std::fs::create_dir(root).unwrap();
    right(&mut bpf, "another cgroup of the same name");

    // The programs move to another one.
    let next = root.join(NEXT);
    std::fs::create_dir(&next).unwrap();
    let mut bpf = bpf.with_cgroup(Some(next.clone()));
    assert_eq!(seen(&mut bpf), Some(none()));
    attach(&mut bpf, &next, 1);
    assert_eq!(all(&mut bpf), all_of(&next, &set(1)));
    assert_eq!((running(root), running(&next)), (0, 1), "not at both");
    detach(&mut bpf);
    assert_eq!(running(&next), 0);
    std::fs::remove_dir(&next).unwrap();

    // What cannot be is said.
    let mut bpf = bpf.with_cgroup(Some("/tmp".into()));
    let world::Cgroup::Missing(reason) = bpf.cgroup() else { panic!("/tmp is no cgroup") };
    assert!(reason.contains("not on a mounted cgroup2"), "{reason}");
    assert_eq!(all(&mut bpf), vec![], "and none is there");
    let plain = put(&mut bpf, Path::new("/tmp"), SocketHook::Connect4, 1).unwrap_err();
    assert!(plain.hint.contains("cgroup2"), "{plain}");
    let mut bpf = bpf.with_cgroup(Some(root.clone()));
    assert!(put(&mut bpf, root, SocketHook::Connect4, 9).is_err());
    run(
        "bpftool",
        &[
            "cgroup",
            "attach",
            root.to_str().unwrap(),
            "cgroup_inet4_connect",
            "pinned",
            program.to_str().unwrap(),
        ],
    );
    must::<ProgramSet>(&mut bpf, &[Step::Remove { key: set(2), seen: ProgramSetRow::Complete }]);
    let exclusive = put(&mut bpf, root, SocketHook::Connect4, 1).unwrap_err();
    assert!(exclusive.hint.contains("alone"), "{exclusive}");
}

/// How many programs run where IPv4 sockets connect.
fn running(root: &Path) -> usize {
    let shown = run("bpftool", &["-j", "cgroup", "show", root.to_str().unwrap()]);
    if shown.trim().is_empty() {
        return 0;
    }
    let value: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let rows = value.as_array().map(Vec::as_slice).unwrap_or_default();
    rows.iter().filter(|row| row["attach_type"] == "cgroup_inet4_connect").count()
}
