//! A load balancer of its own: an agent in a network namespace, with neither pods nor a cluster.

use crate::Netns;
use crate::cluster::binary;
use crate::netns::unique;
use crate::probe::eventually;
use std::path::{Path, PathBuf};
use std::process::{Child, Output};
use std::time::Duration;

/// How long one waits for what an agent does.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// The balancer. Dropping it ends the agent and removes what it made.
#[derive(Debug)]
pub struct Balancer {
    /// Its namespace.
    pub netns: Netns,
    dir: tempfile::TempDir,
    pins: PathBuf,
    agent: Option<Child>,
}

impl Balancer {
    /// One that is configured, and does not run yet. `load_balancing`: lines of `[load_balancer]`.
    pub fn new(netns: Netns, addresses: [&str; 2], devices: &[&str], load_balancing: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pins = Path::new("/sys/fs/bpf").join(unique("lb"));
        std::fs::create_dir_all(&pins).expect("create the pin directory");
        std::fs::create_dir_all(dir.path().join("manifests")).expect("create the manifest folder");
        let balancer = Self { netns, dir, pins, agent: None };
        let (dir, pins) = (balancer.dir.path().display(), balancer.pins.display());
        let toml = format!(
            "version = 1\n[node]\nname = \"lb\"\naddresses = {addresses:?}\n[paths]\nrun_dir = \"{dir}/run\"\nstate_dir = \
             \"{dir}/state\"\nbpf_dir = \"{pins}\"\ncni_conf_dir = \"\"\ncni_bin_dir = \"\"\n[source.manifests]\npath = \
             \"{dir}/manifests\"\n[ipv6]\nenabled = true\n[routing]\nmode = \"native\"\ndevices = \
             {devices:?}\n[masquerade]\nipv4 = false\nipv6 = false\n[load_balancer]\nsocket = \
             false\n{load_balancing}[metrics]\nlisten = \"\"\n"
        );
        std::fs::write(balancer.config(), toml).expect("write cilium.toml");
        balancer
    }

    /// Writes a manifest.
    pub fn write(&self, file: &str, yaml: &str) {
        std::fs::write(self.dir.path().join("manifests").join(file), yaml).expect("write the manifest");
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("cilium.toml")
    }

    /// Starts the agent, and waits until it serves.
    ///
    /// # Panics
    /// It does not.
    pub fn start(&mut self) {
        let log = std::fs::File::create(self.dir.path().join("agent.log")).expect("open the agent's log");
        let errors = log.try_clone().expect("a second handle");
        let mut command = self.netns.command(binary("cilium"));
        command.arg("--config").arg(self.config()).arg("agent").stdout(log).stderr(errors);
        self.agent = Some(command.spawn().expect("start the agent"));
        let serves = || self.cilium(&["status"]).status.success() && self.cilium(&["plan"]).status.success();
        assert!(eventually(PATIENCE, serves), "{}", self.log());
    }

    /// Ends the agent and waits for it.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.agent.take() {
            let pid = i32::try_from(child.id()).expect("pids are small");
            // SAFETY: a plain system call; the child is ours and not yet reaped.
            unsafe { libc::kill(pid, libc::SIGTERM) };
            let _ = child.wait();
        }
    }

    /// Runs `cilium ARGS` with its configuration, inside it.
    pub fn cilium(&self, args: &[&str]) -> Output {
        let mut command = self.netns.command(binary("cilium"));
        command.arg("--config").arg(self.config()).args(args).output().expect("run cilium")
    }

    /// The agent's log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        self.stop();
        let _ = self.cilium(&["destroy"]);
        let _ = std::fs::remove_dir_all(&self.pins);
    }
}
