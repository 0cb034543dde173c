//! Clears up behind a measuring process, also if it was killed or panicked (a release build aborts then,
//! and drops nothing).

use anyhow::{Context, Result};
use cilium_tests_kernel::cgroup::own;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Says to the second process that it is the one to measure.
const MEASURING: &str = "CILIUM_BENCH_MEASURING";

/// In the first process: runs this program again, waits, clears up and gives its code. In the second:
/// `None`.
pub(crate) fn behind_another() -> Result<Option<ExitCode>> {
    if std::env::var_os(MEASURING).is_some() {
        return Ok(None);
    }
    let program = std::env::current_exe().context("the program's own path")?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(MEASURING, "1")
        .spawn()
        .context("start the measuring process")?;
    // An interrupt ends the measuring process; this one still has to clear up.
    // SAFETY: plain system calls; ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
    let status = child.wait().context("wait for the measuring process")?;
    if !status.success() {
        clear(&format!("ct{}-", child.id()));
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(Some(code.into()))
}

/// Ends what runs in namespaces with this prefix, and removes them and the pins and cgroups with it.
fn clear(prefix: &str) {
    let names = |dir: &str| -> Vec<String> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.starts_with(prefix)).collect()
    };
    for name in names("/var/run/netns") {
        let inside = Command::new("ip").args(["netns", "pids", &name]).output();
        let inside =
            inside.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        for pid in inside.lines().filter_map(|line| line.trim().parse::<i32>().ok()) {
            // SAFETY: a plain system call; the process is in a namespace made by the one we started.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        let _ = Command::new("ip").args(["netns", "del", &name]).status();
    }
    for name in names("/sys/fs/bpf") {
        let _ = std::fs::remove_dir_all(Path::new("/sys/fs/bpf").join(name));
    }
    let cgroups = own();
    for name in names(&cgroups.display().to_string()) {
        let _ = std::fs::remove_dir(cgroups.join(name));
    }
}
