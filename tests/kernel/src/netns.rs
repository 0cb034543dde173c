//! A network namespace of a test.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A name nobody else uses: `ct<pid>-<n>-<what>`.
pub fn unique(what: &str) -> String {
    format!("ct{}-{}-{what}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A named network namespace, deleted on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes one, with loopback up.
    pub fn new(what: &str) -> Self {
        let name = unique(what);
        succeed(Command::new("ip").args(["netns", "add", &name]));
        let netns = Self { name };
        netns.ip("link set lo up");
        // A port that a test binds by its number, 40000 to 47999, must not be one the kernel gave to an earlier
        // connection, still in TIME_WAIT. A range, for of reserved ports the kernel hands out the next one that is
        // not: nearly every third connection of every host would be from port 48000 or close to it.
        succeed(netns.command("sysctl").args(["-q", "-w", "net.ipv4.ip_local_port_range=48000 65535"]));
        netns
    }

    /// Its name for `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path.
    pub fn path(&self) -> PathBuf {
        Path::new("/var/run/netns").join(&self.name)
    }

    /// A command that will run inside. `nsenter` rather than `ip netns exec`, which hides bpffs.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs a shell command inside and returns what it did.
    pub fn shell(&self, script: &str) -> Output {
        self.command("sh").args(["-c", script]).output().expect("nsenter is installed")
    }

    /// Runs `ip ARGS` inside; it must succeed.
    pub fn ip(&self, args: &str) {
        succeed(self.command("ip").args(args.split_whitespace()));
    }

    /// Runs a closure on a thread of its own inside the namespace.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(self.path()).expect("the namespace exists");
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                set_netns(&file);
                work()
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Starts a thread inside the namespace that outlives this call.
    pub fn spawn(&self, work: impl FnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
        let file = File::open(self.path()).expect("the namespace exists");
        std::thread::spawn(move || {
            set_netns(&file);
            work();
        })
    }
}

fn set_netns(file: &File) {
    // SAFETY: a plain system call on a descriptor we hold; it moves only the calling thread.
    let code = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(code, 0, "setns: {}", std::io::Error::last_os_error());
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// Runs a command that must succeed.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
