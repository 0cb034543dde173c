//! A bpffs directory and network namespaces of this test's own, removed also when it panics.

use cilium_abi::maps::{self, MapSpec};
use cilium_engine::driver::{Driver, Step};
use cilium_engine::state::{BpfMap, MapKey, MapRow, Resource};
use cilium_kernel::AttachMode;
use cilium_kernel::bpf::Bpf;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Why root tests cannot run here, if they cannot.
pub(crate) fn unable() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let root = status
        .lines()
        .find_map(|l| l.strip_prefix("Uid:"))
        .is_some_and(|l| l.split_whitespace().nth(1) == Some("0"));
    if !root {
        return Some("needs root".into());
    }
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    if !mounts
        .lines()
        .any(|l| l.split(' ').nth(1) == Some("/sys/fs/bpf") && l.split(' ').nth(2) == Some("bpf"))
    {
        return Some("needs a bpffs on /sys/fs/bpf (mount -t bpf bpf /sys/fs/bpf)".into());
    }
    None
}

/// Returns from the test, saying why, where it cannot run.
#[macro_export]
macro_rules! root_or_skip {
    () => {
        if let Some(why) = $crate::bench::unable() {
            println!("SKIP: {why}");
            return;
        }
    };
}

/// Why TCX cannot be tested here, if it cannot.
pub(crate) fn without_tcx() -> Option<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (version < (6, 6)).then(|| format!("needs TCX (Linux 6.6), this is {}", release.trim()))
}

/// Returns from the test, saying why, where there is no TCX.
#[macro_export]
macro_rules! tcx_or_skip {
    () => {
        $crate::root_or_skip!();
        if let Some(why) = $crate::bench::without_tcx() {
            println!("SKIP: {why}");
            return;
        }
    };
}

/// A `bpf_dir` of its own.
pub(crate) struct Dir(pub(crate) PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(PathBuf::from(format!("/sys/fs/bpf/cilium-test-{}-{n}", std::process::id())))
    }

    pub(crate) fn bpf(&self, mode: AttachMode) -> Bpf {
        Bpf::open(&self.0, mode).expect("a mounted bpffs was checked")
    }

    pub(crate) fn map(&self, pin: &str) -> PathBuf {
        self.0.join("maps").join(pin)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        remove_tree(&self.0);
    }
}

fn remove_tree(path: &Path) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path());
        } else {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    let _ = std::fs::remove_dir(path);
}

/// Enters a network namespace of its own on this thread, which ends with the test.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    pub(crate) fn enter() -> Self {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kb-{}-{n}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let here = Self { name };
        let file = std::fs::File::open(format!("/run/netns/{}", here.name)).expect("just made");
        enter(&file);
        run("ip", &["link", "set", "lo", "up"]);
        here
    }
}

#[expect(unsafe_code, reason = "setns(2) has no safe form in std")]
fn enter(file: &std::fs::File) {
    use std::os::fd::AsRawFd;
    // SAFETY: a plain system call on an open descriptor; it changes this thread only.
    let done = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(done, 0, "setns: {}", std::io::Error::last_os_error());
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Runs a command that must succeed.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// All maps, small.
pub(crate) fn map_steps() -> Vec<Step<BpfMap>> {
    maps::ALL
        .iter()
        .chain([&maps::EVENTS])
        .map(|spec| {
            let max_entries = match spec.name {
                "cilium_runtime" | "cilium_revision" | "cilium_metrics" => spec.max_entries,
                "cilium_events" => 65_536,
                _ => spec.max_entries.min(1024),
            };
            let (key, row) = shape(spec, max_entries);
            Step::Create { key, row }
        })
        .collect()
}

/// A map as a row.
pub(crate) fn shape(spec: &MapSpec, max_entries: u32) -> (MapKey, MapRow) {
    let row = MapRow {
        kind: spec.kind,
        key_size: spec.key_size,
        value_size: spec.value_size,
        max_entries,
        flags: spec.flags,
    };
    (MapKey(format!("{}_v{}", spec.name, spec.version)), row)
}

/// Carries out steps that must succeed.
pub(crate) fn must<R: Resource>(bpf: &mut Bpf, steps: &[Step<R>])
where
    Bpf: Driver<R>,
{
    for (step, result) in steps.iter().zip(bpf.apply(steps)) {
        result.unwrap_or_else(|e| panic!("{} {}: {e}", R::KIND, step.key()));
    }
}
