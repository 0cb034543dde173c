//! Two whole nodes with what this kernel attaches programs by: TCX from Linux 6.6 on, clsact before. On
//! a kernel that has TCX and is not a guest of `make test-vm`, clsact is forced: it is never untested.

use cilium_tests_kernel::probe::{emulated, eventually, ping, scaled, serve, tcp, udp};
use cilium_tests_kernel::{Cluster, Mode, Netns, Options, Pod};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const PORT: u16 = 7000;
const SERVICE_PORT: u16 = 80;
const VIP: [&str; 2] = ["10.96.0.10", "fd96::10"];
const WAIT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hooks {
    Tcx,
    Clsact,
}

/// What the agents are told, and what must come of it.
fn hooks() -> (&'static str, Hooks) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("procfs");
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match (emulated(), version >= (6, 6)) {
        (true, true) => ("auto", Hooks::Tcx),
        (true, false) => ("auto", Hooks::Clsact),
        (false, _) => ("clsact", Hooks::Clsact),
    }
}

/// Our filters on the interfaces of a namespace.
fn filters(netns: &Netns) -> Vec<String> {
    // sysfs, as it is mounted, shows another namespace's interfaces.
    let script = "for i in $(ip -br link | sed 's/[@ ].*//'); do for h in ingress egress; do tc filter show dev \
                  $i $h; done; done";
    let text = String::from_utf8_lossy(&netns.shell(script).stdout).into_owned();
    text.lines().filter(|line| line.contains("cil_")).map(str::to_owned).collect()
}

/// Programs and maps of ours that the kernel holds, with their ids.
fn loaded() -> BTreeSet<String> {
    let programs = aya::programs::loaded_programs().flatten();
    let programs = programs.filter_map(|p| Some(format!("program {} {}", p.id(), p.name_as_str()?)));
    let maps = aya::maps::loaded_maps().flatten();
    let maps = maps.filter_map(|m| Some(format!("map {} {}", m.id(), m.name_as_str()?)));
    programs.chain(maps).filter(|what| what.contains(" cil")).collect()
}

struct Scene {
    cluster: Cluster,
    /// What was loaded before it, by others.
    strange: BTreeSet<String>,
    /// A client and a server on the first node, a server on the second.
    a: Pod,
    b: Pod,
    c: Pod,
    begun: Instant,
}

fn of(pod: &Pod) -> [IpAddr; 2] {
    [pod.ipv4, pod.ipv6]
}

impl Scene {
    fn open(mode: Mode, attach: &str) -> Self {
        let (begun, strange) = (Instant::now(), loaded());
        let extra = format!("[datapath]\nattach = \"{attach}\"\n");
        let cluster = Cluster::start(&Options { mode, extra, ..Options::default() });
        let a = cluster.pod(0, "a", "app: a");
        let b = cluster.pod(0, "b", "app: b");
        let c = cluster.pod(1, "c", "app: c");
        for pod in [&a, &b, &c] {
            serve(&pod.netns, &pod.name, PORT);
        }
        cluster.settle();
        let scene = Self { cluster, strange, a, b, c, begun };
        scene.done("two nodes and three pods");
        scene
    }

    fn done(&self, what: &str) {
        println!("{:6.1} s: {what}", self.begun.elapsed().as_secs_f32());
    }

    /// Ping, TCP and UDP in both families; the server sees the pod itself.
    fn reaches(&self, from: &Pod, to: &Pod, when: &str) {
        for (to_ip, own) in of(to).into_iter().zip(of(from)) {
            // The first packet may wait for a neighbour; every later one must pass at once.
            eventually(Duration::from_secs(3), || ping(&from.netns, to_ip, None));
            let what = format!("{} to {} ({to_ip}), {when}", from.name, to.name);
            assert!(ping(&from.netns, to_ip, None), "{what}: ping");
            for (protocol, answer) in
                [("TCP", tcp(&from.netns, to_ip, PORT)), ("UDP", udp(&from.netns, to_ip, PORT))]
            {
                let answer = answer.unwrap_or_else(|| panic!("{what}: {protocol}: no answer"));
                assert_eq!(
                    (answer.server.as_str(), answer.client),
                    (to.name.as_str(), own),
                    "{what}: {protocol}"
                );
            }
        }
    }

    fn all_reach_all(&self, when: &str) {
        self.reaches(&self.a, &self.b, when);
        self.reaches(&self.a, &self.c, when);
        self.reaches(&self.c, &self.a, when);
    }

    fn service(&self) {
        let ports = ["TCP", "UDP"].map(|p| {
            format!("{{name: {}, port: {SERVICE_PORT}, protocol: {p}, targetPort: {PORT}}}", p.to_lowercase())
        });
        let slice = |family: usize| {
            let kind = ["IPv4", "IPv6"][family];
            format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: shop-{}, namespace: \
                 default, labels: {{kubernetes.io/service-name: shop}}}}\naddressType: {kind}\nports: [{{name: tcp, \
                 port: {PORT}, protocol: TCP}}, {{name: udp, port: {PORT}, protocol: UDP}}]\nendpoints: \
                 [{{addresses: [\"{}\"]}}, {{addresses: [\"{}\"]}}]\n",
                kind.to_lowercase(),
                of(&self.b)[family],
                of(&self.c)[family],
            )
        };
        let service = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: shop, namespace: default}}\nspec:\n  clusterIP: {0}\n  \
             clusterIPs: [{0}, \"{1}\"]\n  ipFamilyPolicy: RequireDualStack\n  ports: [{2}]\n",
            VIP[0],
            VIP[1],
            ports.join(", ")
        );
        self.cluster.write("service.yaml", &(service + &slice(0) + &slice(1)));
        for vip in VIP {
            let vip: IpAddr = vip.parse().expect("a literal address");
            for (protocol, ask) in [("TCP", tcp as fn(&Netns, IpAddr, u16) -> _), ("UDP", udp)] {
                let mut seen = Vec::new();
                let both = eventually(WAIT, || {
                    let answer = ask(&self.a.netns, vip, SERVICE_PORT);
                    seen.extend(answer.map(|answer| answer.server));
                    seen.iter().any(|s| s == "b") && seen.iter().any(|s| s == "c")
                });
                assert!(both, "{protocol} to {vip}: answered by {seen:?}");
            }
        }
    }

    /// `c` admits `a` alone: `b` is denied, `a` is not, and `b` no longer is when the policy is gone.
    fn policy(&self) {
        self.reaches(&self.b, &self.c, "before the policy");
        self.cluster.write(
            "policy.yaml",
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: c, namespace: default}\nspec:\n  \
             endpointSelector: {matchLabels: {app: c}}\n  ingress: [{fromEndpoints: [{matchLabels: {app: a}}]}]\n",
        );
        let c = of(&self.c);
        assert!(eventually(WAIT, || tcp(&self.b.netns, c[0], PORT).is_none()), "b is never denied");
        self.cluster.settle();
        // Silence takes a probe's whole patience: all at once.
        let through: Vec<String> = std::thread::scope(|scope| {
            let b = &self.b.netns;
            let probes = c.map(|to| {
                [
                    ("TCP", scope.spawn(move || tcp(b, to, PORT).is_some())),
                    ("UDP", scope.spawn(move || udp(b, to, PORT).is_some())),
                    ("ping", scope.spawn(move || ping(b, to, None))),
                ]
                .map(|(protocol, probe)| (protocol, to, probe))
            });
            let probes = probes.into_iter().flatten();
            let ended = probes.map(|(what, to, probe)| (what, to, probe.join().expect("a probe ends")));
            ended
                .filter(|(_, _, answered)| *answered)
                .map(|(what, to, _)| format!("{what} to {to}"))
                .collect()
        });
        assert_eq!(through, Vec::<String>::new(), "b reaches c under the policy");
        self.reaches(&self.a, &self.c, "under the policy");
        self.cluster.remove("policy.yaml");
        assert!(eventually(WAIT, || tcp(&self.b.netns, c[0], PORT).is_some()), "b is denied for ever");
        self.reaches(&self.b, &self.c, "after the policy");
    }

    /// Connections outlive the agents, packets pass while there is none, and a new one takes over.
    fn restart(&mut self) {
        let mut kept: Vec<TcpStream> = of(&self.c)
            .into_iter()
            .map(|to| {
                let to = SocketAddr::new(to, PORT);
                let connect = || TcpStream::connect_timeout(&to, scaled(Duration::from_secs(2)));
                self.a.netns.enter(connect).unwrap_or_else(|e| panic!("{to}: {e}"))
            })
            .collect();
        let mut alive = |when: &str| {
            for stream in &mut kept {
                stream.set_read_timeout(Some(scaled(Duration::from_secs(2)))).expect("a valid timeout");
                let mut answer = [0; 64];
                stream.write_all(b"?").and_then(|()| stream.read(&mut answer)).unwrap_or_else(|e| {
                    panic!("{} {when}: {e}", stream.peer_addr().expect("connected"));
                });
            }
        };
        alive("before");
        self.cluster.nodes[0].stop_agent(libc::SIGKILL);
        self.cluster.nodes[1].stop_agent(libc::SIGTERM);
        alive("without agents");
        self.all_reach_all("without agents");
        for node in &mut self.cluster.nodes {
            node.start_agent();
        }
        for node in &self.cluster.nodes {
            node.wait_healthy(Duration::from_secs(30));
        }
        self.cluster.settle();
        alive("after the restart");
        self.all_reach_all("after the restart");
    }

    /// Nothing of ours is left, whatever it was attached by. A clsact qdisc without filters may stay.
    fn destroy(mut self) {
        for node in &mut self.cluster.nodes {
            node.stop_agent(libc::SIGTERM);
            let output = node.cilium(&["destroy", "--with-pods"]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: destroy: {said}", node.name);
            assert_eq!(filters(&node.netns), Vec::<String>::new(), "{}: filters are left", node.name);
            assert!(!node.pins.exists(), "{}: pins are left", node.name);
            let links = String::from_utf8_lossy(&node.netns.shell("ip -br link").stdout).into_owned();
            let ours = |line: &&str| line.starts_with("cilium") || line.starts_with("lxc");
            assert_eq!(links.lines().find(ours), None, "{}: interfaces are left", node.name);
        }
        // In the guest nobody else loads anything meanwhile. The kernel frees after a grace period.
        let left = || loaded().difference(&self.strange).cloned().collect::<Vec<_>>();
        if emulated() {
            assert!(eventually(WAIT, || left().is_empty()), "in the kernel are left: {:?}", left());
        }
        self.done("destroyed");
    }
}

fn whole(mode: Mode) {
    let (attach, expected) = hooks();
    let mut scene = Scene::open(mode, attach);
    for node in &scene.cluster.nodes {
        let attached = if filters(&node.netns).is_empty() { Hooks::Tcx } else { Hooks::Clsact };
        assert_eq!(attached, expected, "{}", node.name);
    }
    assert!(!loaded().is_subset(&scene.strange), "the kernel tells what it holds");
    scene.all_reach_all("first");
    scene.done("ping, TCP and UDP");
    scene.service();
    scene.done("ClusterIP");
    scene.policy();
    scene.done("policy");
    scene.restart();
    scene.done("agents restarted");
    scene.destroy();
}

#[test]
fn vm_tunnel() {
    whole(Mode::Tunnel);
}

#[test]
fn vm_native() {
    whole(Mode::Native);
}
