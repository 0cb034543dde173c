//! A load balancer of its own: no pods and no cluster, clients behind one device and backends behind another. The
//! backends know no way to the client.

use cilium_tests_kernel::Netns;
use cilium_tests_kernel::cluster::binary;
use cilium_tests_kernel::netns::{succeed, unique};
use cilium_tests_kernel::probe::{Answer, eventually, serve, tcp, udp};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Output};
use std::time::Duration;

const TARGET: u16 = 7000;
const PORT: u16 = 80;
const NODE_PORT: u16 = 30_080;
const PATIENCE: Duration = Duration::from_secs(15);
const CLIENT: [&str; 2] = ["10.61.0.2", "fd61::2"];
const FRONT: [&str; 2] = ["10.61.0.1", "fd61::1"];
const BACK: [&str; 2] = ["10.62.0.1", "fd62::1"];
const FRONTEND: [&str; 2] = ["203.0.113.10", "2001:db8:99::10"];
const RESERVED: &str = "net.ipv4.ip_local_reserved_ports";

/// Both families' addresses of the backend `n`.
fn backend(n: u8) -> [String; 2] {
    [format!("10.62.0.1{n}"), format!("fd62::1{n}")]
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// A device `name` of `of` and its other end in `to`.
fn plug(of: &Netns, name: &str, addresses: [&str; 2], to: &Netns, end: &str) {
    of.ip(&format!("link add {name} type veth peer name {end} netns {}", to.name()));
    succeed(of.command("sysctl").args(["-q", "-w", &format!("net.ipv6.conf.{name}.accept_dad=0")]));
    of.ip(&format!("addr add {}/24 dev {name}", addresses[0]));
    of.ip(&format!("-6 addr add {}/64 dev {name} nodad", addresses[1]));
    of.ip(&format!("link set {name} up"));
}

/// The balancer, who it serves and by whom.
struct Site {
    balancer: Netns,
    client: Netns,
    _backends: Vec<Netns>,
    _wire: Netns,
    dir: tempfile::TempDir,
    pins: PathBuf,
    agent: Option<Child>,
}

impl Site {
    fn new(reserved: &str) -> Self {
        let [wire, balancer, client] = ["wire", "lb", "client"].map(Netns::new);
        wire.ip("link add br0 type bridge mcast_snooping 0");
        wire.ip("link set br0 up");
        plug(&balancer, "front", FRONT, &client, "eth0");
        client.ip(&format!("addr add {}/24 dev eth0", CLIENT[0]));
        client.ip(&format!("-6 addr add {}/64 dev eth0 nodad", CLIENT[1]));
        client.ip("link set eth0 up");
        client.ip(&format!("route add 203.0.113.0/24 via {}", FRONT[0]));
        client.ip(&format!("-6 route add 2001:db8:99::/64 via {}", FRONT[1]));
        plug(&balancer, "back", BACK, &wire, "lb");
        wire.ip("link set lb master br0 up");
        let backends = [1, 2].map(|n| {
            let netns = Netns::new(&format!("bk{n}"));
            let addresses = backend(n);
            plug(&netns, "eth0", [&addresses[0], &addresses[1]], &wire, &format!("bk{n}"));
            wire.ip(&format!("link set bk{n} master br0 up"));
            serve(&netns, &format!("bk{n}"), TARGET);
            netns
        });
        succeed(balancer.command("sysctl").args(["-q", "-w", &format!("{RESERVED}={reserved}")]));
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pins = Path::new("/sys/fs/bpf").join(unique("lb"));
        std::fs::create_dir_all(&pins).expect("create the pin directory");
        std::fs::create_dir_all(dir.path().join("manifests")).expect("create the manifest folder");
        let site = Self { balancer, client, _backends: backends.into(), _wire: wire, dir, pins, agent: None };
        site.configure();
        site
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("cilium.toml")
    }

    fn configure(&self) {
        let (dir, pins) = (self.dir.path().display(), self.pins.display());
        let toml = format!(
            "version = 1\n[node]\nname = \"lb\"\naddresses = [\"{}\", \"{}\"]\n[paths]\nrun_dir = \
             \"{dir}/run\"\nstate_dir = \"{dir}/state\"\nbpf_dir = \"{pins}\"\ncni_conf_dir = \"\"\ncni_bin_dir = \
             \"\"\n[source.manifests]\npath = \"{dir}/manifests\"\n[ipv6]\nenabled = true\n[routing]\nmode = \
             \"native\"\ndevices = [\"front\", \"back\"]\n[masquerade]\nipv4 = false\nipv6 = \
             false\n[load_balancer]\nsocket = false\n[metrics]\nlisten = \"\"\n",
            FRONT[0], FRONT[1]
        );
        std::fs::write(self.config(), toml).expect("write cilium.toml");
        let ports = ["TCP", "UDP"].map(|proto| {
            let name = proto.to_lowercase();
            format!("{{name: {name}, port: {PORT}, protocol: {proto}, targetPort: {TARGET}, nodePort: {NODE_PORT}}}")
        });
        let mut yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: default}}\nspec:\n  type: \
             LoadBalancer\n  ipFamilyPolicy: RequireDualStack\n  ports: [{}]\nstatus: {{loadBalancer: {{ingress: \
             [{{ip: {}}}, {{ip: \"{}\"}}]}}}}\n",
            ports.join(", "),
            FRONTEND[0],
            FRONTEND[1]
        );
        for (family, name) in ["IPv4", "IPv6"].into_iter().enumerate() {
            let endpoints = [1, 2].map(|n| format!("{{addresses: [\"{}\"]}}", backend(n)[family])).join(", ");
            yaml.push_str(&format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-{}, namespace: \
                 default, labels: {{kubernetes.io/service-name: web}}}}\naddressType: {name}\nports: [{{name: tcp, \
                 port: {TARGET}, protocol: TCP}}, {{name: udp, port: {TARGET}, protocol: UDP}}]\nendpoints: \
                 [{endpoints}]\n",
                name.to_lowercase()
            ));
        }
        std::fs::write(self.dir.path().join("manifests/web.yaml"), yaml).expect("write the manifest");
    }

    fn start(&mut self) {
        let log = std::fs::File::create(self.dir.path().join("agent.log")).expect("open the agent's log");
        let errors = log.try_clone().expect("a second handle");
        let mut command = self.balancer.command(binary("cilium"));
        command.arg("--config").arg(self.config()).arg("agent").stdout(log).stderr(errors);
        self.agent = Some(command.spawn().expect("start the agent"));
        let serves = || self.cilium(&["status"]).status.success() && self.cilium(&["plan"]).status.success();
        assert!(eventually(PATIENCE, serves), "{}", self.log());
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.agent.take() {
            let pid = i32::try_from(child.id()).expect("pids are small");
            // SAFETY: a plain system call; the child is ours and not yet reaped.
            unsafe { libc::kill(pid, libc::SIGTERM) };
            let _ = child.wait();
        }
    }

    fn cilium(&self, args: &[&str]) -> Output {
        let mut command = self.balancer.command(binary("cilium"));
        command.arg("--config").arg(self.config()).args(args).output().expect("run cilium")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default()
    }

    fn reserved(&self) -> String {
        let output = succeed(self.balancer.command("sysctl").args(["-n", RESERVED]));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        self.stop();
        let _ = self.cilium(&["destroy"]);
        let _ = std::fs::remove_dir_all(&self.pins);
    }
}

/// Asks a server at an address and port.
type Ask = fn(&Netns, IpAddr, u16) -> Option<Answer>;

#[test]
fn vm_backends_behind_another_device_see_its_address() {
    let mut site = Site::new("5000");
    site.start();
    for family in 0..2 {
        for (name, ask) in [("TCP", tcp as Ask), ("UDP", udp)] {
            for (addr, port) in [(FRONTEND[family], PORT), (FRONT[family], NODE_PORT)] {
                let mut servers = Vec::new();
                for _ in 0..24 {
                    let answer = ask(&site.client, ip(addr), port);
                    let Some(Answer { server, client }) = answer else {
                        panic!("{name} {addr} {port}: no answer after {servers:?}\n{}", site.log());
                    };
                    assert_eq!(client, ip(BACK[family]), "{name} {addr} {port}: what {server} saw");
                    servers.push(server);
                }
                servers.sort();
                servers.dedup();
                assert_eq!(servers, ["bk1", "bk2"], "{name} {addr} {port}");
            }
        }
    }
    assert!(!site.log().contains("no pod CIDRs"), "nobody asked for pods:\n{}", site.log());
}

#[test]
fn node_ports_are_reserved_and_given_back() {
    let before = "5000,31000-31010";
    let mut site = Site::new(before);
    site.start();
    assert_eq!(site.reserved(), "5000,30000-32767");
    // What somebody adds meanwhile stays.
    let set = |value: &str| {
        succeed(site.balancer.command("sysctl").args(["-q", "-w", &format!("{RESERVED}={value}")]));
    };
    set("5000,6000,30000-32767");
    assert!(site.cilium(&["plan"]).status.success(), "more is reserved than is asked for");
    set("7000");
    assert!(eventually(PATIENCE, || site.reserved() == "7000,30000-32767"), "{}", site.reserved());
    site.stop();
    succeed(&mut {
        let mut command = site.balancer.command(binary("cilium"));
        command.arg("--config").arg(site.config()).arg("destroy");
        command
    });
    assert_eq!(site.reserved(), before);
}
