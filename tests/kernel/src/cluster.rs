//! Nodes (a namespace and an agent each) on one wire, with an outside host.

use crate::Netns;
use crate::cgroup::Cgroup;
use crate::l1::sys;
use crate::netns::{succeed, unique};
use crate::probe::eventually;
use std::ffi::CString;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// How pods of different nodes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// VXLAN.
    Tunnel,
    /// Direct node routes.
    Native,
}

/// What kind of cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Routing.
    pub mode: Mode,
    /// Number of nodes, 1 to 9.
    pub nodes: usize,
    /// Lines added to every `cilium.toml`.
    pub extra: String,
    /// Sockets meet Services: each node gets a cgroup of its own ([`Node::cgroup`]). Else packets are
    /// translated one by one.
    pub socket: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { mode: Mode::Tunnel, nodes: 2, extra: String::new(), socket: false }
    }
}

/// One node.
#[derive(Debug)]
pub struct Node {
    /// Its name: `n1`, `n2`, …
    pub name: String,
    /// Its namespace.
    pub netns: Netns,
    /// Its IPv4 address on the wire.
    pub ipv4: IpAddr,
    /// Its IPv6 address on the wire.
    pub ipv6: IpAddr,
    /// Its `run_dir`, `state_dir`, config and log.
    pub dir: PathBuf,
    /// Its `bpf_dir`.
    pub pins: PathBuf,
    /// The cgroup of its processes and pods, with [`Options::socket`].
    pub cgroup: Option<Arc<Cgroup>>,
    agent: Option<Child>,
}

/// An attached pod.
#[derive(Debug)]
pub struct Pod {
    /// Its namespace.
    pub netns: Netns,
    /// Name, in namespace `default` unless it has a slash.
    pub name: String,
    /// The node it is on.
    pub node: usize,
    /// Its IPv4 address.
    pub ipv4: IpAddr,
    /// Its IPv6 address.
    pub ipv6: IpAddr,
}

impl Pod {
    /// Its addresses, by family.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.ipv4, self.ipv6]
    }
}

/// A cluster on one wire. Dropping it ends the agents and removes everything.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// A host outside the cluster, on the same wire: 192.168.77.200 and fd77::200.
    pub outside: Netns,
    /// The shared manifest folder.
    pub manifests: PathBuf,
    wire: Netns,
    dir: tempfile::TempDir,
}

/// IPv4 address of the outside host.
pub const OUTSIDE_V4: &str = "192.168.77.200";
/// IPv6 address of the outside host.
pub const OUTSIDE_V6: &str = "fd77::200";

/// A binary built beside the running test or program.
pub fn binary(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("the test's own path");
    // A test is target/<profile>/deps/test, a program target/<profile>/program.
    let dir = exe.parent().expect("a file is in a directory");
    let dir = if dir.ends_with("deps") { dir.parent().expect("target/<profile>") } else { dir };
    let path = std::env::var_os("CILIUM_BIN").map_or_else(|| dir.to_owned(), PathBuf::from).join(name);
    assert!(path.exists(), "{} is missing: run `cargo build -p cilium -p cilium-cni` first", path.display());
    path
}

/// Named ports of pods.
const PORTS: &str = "{name: main, containerPort: 80}, {name: alt, containerPort: 443}";

impl Cluster {
    /// Starts the nodes and waits until every agent is healthy.
    pub fn start(options: &Options) -> Self {
        let mut cluster = Self::prepare(options);
        for node in &mut cluster.nodes {
            node.start_agent();
        }
        for node in &cluster.nodes {
            node.wait_healthy(Duration::from_secs(30));
        }
        cluster
    }

    /// Makes the nodes and their files; no agent runs yet, and nothing of ours is in any kernel.
    pub fn prepare(options: &Options) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let manifests = dir.path().join("manifests");
        std::fs::create_dir_all(manifests.join("published")).expect("create the manifest folder");
        let wire = Netns::new("wire");
        wire.ip("link add br0 type bridge mcast_snooping 0");
        wire.ip("link set br0 up");
        let outside = Netns::new("out");
        plug(&wire, &outside, OUTSIDE_V4, OUTSIDE_V6);
        let mut cluster = Self { nodes: Vec::new(), outside, manifests, wire, dir };
        let pins_root = Path::new("/sys/fs/bpf").join(unique("pins"));
        let mut yaml = String::new();
        for n in 1..=options.nodes {
            let (ipv4, ipv6) = (format!("192.168.77.{n}"), format!("fd77::{n}"));
            yaml.push_str(&format!(
                "---\napiVersion: cilium.io/v2\nkind: CiliumNode\nmetadata: {{name: n{n}, labels: {{role: n{n}}}}}\nspec:\n  addresses:\n  \
                 - {{type: InternalIP, ip: {ipv4}}}\n  - {{type: InternalIP, ip: \"{ipv6}\"}}\n  ipam:\n    podCIDRs: \
                 [10.77.{n}.0/24, \"fd78:{n}::/112\"]\n"
            ));
            let netns = Netns::new(&format!("n{n}"));
            plug(&cluster.wire, &netns, &ipv4, &ipv6);
            netns.ip(&format!("route add default via {OUTSIDE_V4}"));
            netns.ip(&format!("-6 route add default via {OUTSIDE_V6}"));
            let home = cluster.dir.path().join(format!("n{n}"));
            std::fs::create_dir_all(&home).expect("create the node's directory");
            let node = Node {
                name: format!("n{n}"),
                netns,
                ipv4: ipv4.parse().expect("a literal address"),
                ipv6: ipv6.parse().expect("a literal address"),
                pins: pins_root.join(format!("n{n}")),
                dir: home,
                cgroup: options.socket.then(|| Arc::new(Cgroup::new(&format!("n{n}")))),
                agent: None,
            };
            std::fs::create_dir_all(&node.pins).expect("create the pin directory");
            std::fs::write(node.config(), cluster.toml(options, &node)).expect("write cilium.toml");
            cluster.nodes.push(node);
        }
        cluster.write("nodes.yaml", &yaml);
        cluster
    }

    fn toml(&self, options: &Options, node: &Node) -> String {
        let (mode, direct) = match options.mode {
            Mode::Tunnel => ("tunnel", ""),
            Mode::Native => (
                "native",
                "auto_direct_node_routes = true\nipv4_native_cidr = \"10.77.0.0/16\"\nipv6_native_cidr = \
                 \"fd78::/16\"\n",
            ),
        };
        let (dir, pins, manifests) = (node.dir.display(), node.pins.display(), self.manifests.display());
        let cgroup =
            node.cgroup.as_ref().map_or_else(String::new, |cgroup| cgroup.path().display().to_string());
        let socket = format!("[load_balancer]\nsocket = {}\n", options.socket);
        let extra = match options.extra.contains("[load_balancer]\n") {
            true => options.extra.replace("[load_balancer]\n", &socket),
            false => format!("{}\n{socket}", options.extra),
        };
        format!(
            "version = 1\n[cluster]\nname = \"test\"\n[node]\nname = \"{}\"\n[paths]\nrun_dir = \
             \"{dir}/run\"\nstate_dir = \"{dir}/state\"\nbpf_dir = \"{pins}\"\ncgroup_root = \"{cgroup}\"\ncni_conf_dir = \
             \"{dir}/cni\"\ncni_bin_dir = \"\"\n[source.manifests]\npath = \"{manifests}\"\npublish = \
             \"{manifests}/published\"\n[ipv6]\nenabled = true\n[metrics]\nlisten = \"\"\n[routing]\nmode = \
             \"{mode}\"\n{direct}[bpf]\nct_tcp_max = 65536\nct_any_max = 65536\nnat_max = 65536\n{extra}\n",
            node.name
        )
    }

    /// Writes a manifest (atomically: half a file is another test's matter).
    pub fn write(&self, file: &str, yaml: &str) {
        let temporary = self.manifests.join(format!(".{file}.tmp"));
        std::fs::write(&temporary, yaml).expect("write a manifest");
        std::fs::rename(&temporary, self.manifests.join(file)).expect("rename a manifest");
    }

    /// Removes a manifest.
    pub fn remove(&self, file: &str) {
        std::fs::remove_file(self.manifests.join(file)).expect("remove a manifest");
    }

    /// Writes a Pod object, which has names for ports, and attaches it through the CNI plugin. `name` may be `namespace/name`.
    pub fn pod(&self, node: usize, name: &str, labels: &str) -> Pod {
        let (namespace, bare) = name.split_once('/').unwrap_or(("default", name));
        self.write(
            &format!("pod-{namespace}-{bare}.yaml"),
            &format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {bare}, namespace: {namespace}, labels: \
                 {{{labels}}}}}\nspec: {{nodeName: n{}, containers: [{{name: c, ports: [{PORTS}]}}]}}\n",
                node + 1
            ),
        );
        self.attach(node, name)
    }

    /// Attaches a pod without writing an object for it.
    pub fn attach(&self, node: usize, name: &str) -> Pod {
        let netns = Netns::new("pod");
        let result = self.nodes[node].cni("ADD", &netns, name).unwrap_or_else(|e| {
            panic!("ADD of {name}: {e}\n{}", self.nodes[node].log_tail());
        });
        let address = |v6: bool| -> IpAddr {
            let all = result["ips"].as_array().expect("ips").iter();
            let mut bare =
                all.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse::<IpAddr>().ok());
            bare.find(|ip| ip.is_ipv6() == v6).expect("an address of each family")
        };
        Pod { ipv4: address(false), ipv6: address(true), netns, name: name.to_owned(), node }
    }

    /// Detaches a pod and removes its object.
    pub fn detach(&self, pod: Pod) {
        self.nodes[pod.node].cni("DEL", &pod.netns, &pod.name).expect("DEL always succeeds");
        let (namespace, bare) = pod.name.split_once('/').unwrap_or(("default", &pod.name));
        let _ = std::fs::remove_file(self.manifests.join(format!("pod-{namespace}-{bare}.yaml")));
    }

    /// Waits until `plan` of every node is empty.
    pub fn settle(&self) {
        for node in &self.nodes {
            assert!(
                eventually(Duration::from_secs(15), || node.plan_is_empty()),
                "{} does not settle:\n{}\n{}",
                node.name,
                String::from_utf8_lossy(&node.cilium(&["plan"]).stdout),
                node.log_tail()
            );
        }
    }
}

impl Cluster {
    /// A node's port on the wire: where it is, and its name. A capture there sees what drivers send back, too.
    pub fn port(&self, node: usize) -> (&Netns, String) {
        (&self.wire, port_of(&self.nodes[node].netns))
    }
}

impl Cluster {
    /// Makes the veth devices of nodes and of the client outside behave as network cards do: what leaves has whole
    /// checksums and no more than a frame's length, and what a driver sends back is taken at once, which the other
    /// end of a veth does only if a program runs in its driver too. Needs `ethtool`. The programs stay while what
    /// is returned does.
    #[must_use]
    pub fn like_cards(&self) -> Vec<OwnedFd> {
        let hosts: Vec<_> = self.nodes.iter().map(|node| &node.netns).chain([&self.outside]).collect();
        for host in &hosts {
            succeed(host.command("ethtool").args(["-K", "eth0", "tx", "off", "tso", "off", "gso", "off"]));
        }
        hosts.iter().map(|host| pass_in_driver(&self.wire, &port_of(host))).collect()
    }
}

/// Makes a program that passes every frame run in the driver of a device, while what is returned is there.
pub fn pass_in_driver(netns: &Netns, device: &str) -> OwnedFd {
    // `r0 = XDP_PASS`, `exit`.
    let pass = sys::load_xdp(&[sys::insn(0xb7, 0, 0, 0, 2), sys::insn(0x95, 0, 0, 0, 0)])
        .expect("the verifier takes two instructions");
    netns.enter(|| {
        let ifindex = index_of(device).expect("the device is there");
        sys::run_in_driver(pass.as_fd(), ifindex).expect("its driver has XDP")
    })
}

/// The number of an interface of the calling thread's namespace.
fn index_of(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: a NUL-terminated name.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// The end on the wire of a host's device.
fn port_of(host: &Netns) -> String {
    format!("p-{}", host.name().rsplit('-').next().unwrap_or("x"))
}

fn plug(wire: &Netns, host: &Netns, ipv4: &str, ipv6: &str) {
    let port = port_of(host);
    host.ip(&format!("link add eth0 type veth peer name {port} netns {}", wire.name()));
    // Else the link-local address is tentative for a second, and until then no neighbour is asked for.
    succeed(host.command("sysctl").args(["-q", "net.ipv6.conf.eth0.accept_dad=0"]));
    host.ip(&format!("addr add {ipv4}/24 dev eth0"));
    host.ip(&format!("-6 addr add {ipv6}/64 dev eth0 nodad"));
    host.ip("link set eth0 up");
    wire.ip(&format!("link set {port} master br0 up"));
}

impl Node {
    /// Its addresses on the wire, by family.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.ipv4, self.ipv6]
    }

    /// Path of its configuration.
    pub fn config(&self) -> PathBuf {
        self.dir.join("cilium.toml")
    }

    /// Starts the agent; its log goes to `agent.log`.
    pub fn start_agent(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join("agent.log"))
            .expect("open the agent's log");
        let errors = log.try_clone().expect("a second handle");
        let child = self
            .netns
            .command(binary("cilium"))
            .arg("--config")
            .arg(self.config())
            .arg("agent")
            .stdout(log)
            .stderr(errors)
            .spawn()
            .expect("start the agent");
        self.agent = Some(child);
    }

    /// Process id of the agent.
    pub fn agent_pid(&self) -> Option<u32> {
        self.agent.as_ref().map(Child::id)
    }

    /// Ends the agent with a signal and waits for it.
    pub fn stop_agent(&mut self, signal: i32) {
        if let Some(mut child) = self.agent.take() {
            let pid = i32::try_from(child.id()).expect("pids are small");
            // SAFETY: a plain system call; the child is ours and not yet reaped.
            unsafe { libc::kill(pid, signal) };
            let _ = child.wait();
        }
    }

    /// Runs `cilium ARGS` with this node's configuration, inside it.
    pub fn cilium(&self, args: &[&str]) -> std::process::Output {
        let mut command = self.netns.command(binary("cilium"));
        command.arg("--config").arg(self.config()).args(args);
        command.output().expect("run cilium")
    }

    /// Waits until `status` says healthy.
    pub fn wait_healthy(&self, patience: Duration) {
        let healthy = || self.cilium(&["status"]).status.success();
        assert!(
            eventually(patience, healthy),
            "{} is not healthy:\n{}\n{}",
            self.name,
            String::from_utf8_lossy(&self.cilium(&["status"]).stdout),
            self.log_tail()
        );
    }

    /// What `status -o json` says; `Null` while no agent answers.
    pub fn status(&self) -> serde_json::Value {
        let output = self.cilium(&["status", "-o", "json"]);
        serde_json::from_slice(&output.stdout).unwrap_or(serde_json::Value::Null)
    }

    /// The agent's whole log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default()
    }

    /// Whether `plan` has nothing to do.
    pub fn plan_is_empty(&self) -> bool {
        self.cilium(&["plan"]).status.success()
    }

    /// The end of the agent's log.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// Calls the CNI plugin for a pod (`namespace/name`, or a name in `default`).
    ///
    /// # Errors
    /// What the plugin printed.
    pub fn cni(&self, command: &str, netns: &Netns, pod: &str) -> Result<serde_json::Value, String> {
        let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
        let mut child = self
            .netns
            .command(binary("cilium-cni"))
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", netns.name())
            .env("CNI_NETNS", netns.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("start the plugin");
        let conf = serde_json::json!({
            "cniVersion": "1.0.0", "name": "cilium", "type": "cilium-cni", "run_dir": self.dir.join("run"),
        });
        child
            .stdin
            .take()
            .expect("piped")
            .write_all(conf.to_string().as_bytes())
            .expect("write the configuration");
        let output = child.wait_with_output().expect("wait for the plugin");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            return Err(text);
        }
        Ok(serde_json::from_str(&text).unwrap_or(serde_json::Value::Null))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.name, self.log_tail());
        }
        self.stop_agent(libc::SIGTERM);
        let _ = self.cilium(&["destroy", "--with-pods"]);
        let _ = std::fs::remove_dir_all(&self.pins);
        if let Some(root) = self.pins.parent() {
            let _ = std::fs::remove_dir(root);
        }
    }
}

/// Whether the full counts are asked for (`CILIUM_TEST_LONG`).
pub fn long() -> bool {
    std::env::var_os("CILIUM_TEST_LONG").is_some_and(|value| !value.is_empty() && value != "0")
}

/// Runs a command on the test's own namespace; it must succeed.
pub fn run(command: &mut Command) -> String {
    String::from_utf8_lossy(&succeed(command).stdout).into_owned()
}
