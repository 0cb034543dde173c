//! Services met at sockets: processes of the node itself and of pods, on real agents, each node with a cgroup
//! of its own.

use cilium_tests_kernel::netns::succeed;
use cilium_tests_kernel::probe::{Answer, eventually, scaled, serve};
use cilium_tests_kernel::services::{PORT, TARGET, ip};
use cilium_tests_kernel::{Cluster, Mode, Netns, Node, Options, Pod, Service};
use serde_json::Value;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const NODE_PORT: u16 = 30_080;
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a probe waits.
const ANSWER: Duration = Duration::from_secs(2);

const TWO: [&str; 2] = ["10.96.0.10", "fd96::10"];
const NEAR: [&str; 2] = ["10.96.0.11", "fd96::11"];
const FAR: [&str; 2] = ["10.96.0.12", "fd96::12"];
const NONE: [&str; 2] = ["10.96.0.13", "fd96::13"];
const LOOPBACK: [&str; 2] = ["127.0.0.1", "::1"];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Proto {
    Tcp,
    Udp,
}
use Proto::{Tcp, Udp};

fn at(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(text), port)
}

/// A Service with these ClusterIPs and backends, and a NodePort unless that is 0.
fn service(name: &str, ips: [&str; 2], node_port: u16, backends: &[&Pod]) -> String {
    let service = Service::new(name, ips.map(ip), backends);
    Service { node_port: (node_port != 0).then_some(node_port), ..service }.manifest()
}

/// Runs work on a thread in a namespace and in a node's cgroup.
fn on<T: Send>(node: &Node, netns: &Netns, work: impl FnOnce() -> T + Send) -> T {
    let cgroup = node.cgroup.as_ref().expect("sockets are on");
    netns.enter(|| {
        cgroup.enter();
        work()
    })
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let (server, client) = std::str::from_utf8(bytes).ok()?.trim().split_once(' ')?;
    Some(Answer { server: server.to_owned(), client: client.parse().ok()? })
}

/// One question by a connected socket: the answer, and whom the socket says it is connected to.
fn ask(proto: Proto, to: SocketAddr) -> io::Result<(Answer, SocketAddr)> {
    let mut buffer = [0; 128];
    let wrong = || io::Error::from(ErrorKind::InvalidData);
    let (n, peer) = match proto {
        Tcp => {
            let mut stream = TcpStream::connect_timeout(&to, scaled(ANSWER))?;
            stream.set_read_timeout(Some(scaled(ANSWER)))?;
            stream.write_all(b"?")?;
            (stream.read(&mut buffer)?, stream.peer_addr()?)
        }
        Udp => {
            let socket = udp_to(to)?;
            socket.send(b"?")?;
            (socket.recv(&mut buffer)?, socket.peer_addr()?)
        }
    };
    Ok((parse(&buffer[..n]).ok_or_else(wrong)?, peer))
}

fn udp_any(to: SocketAddr) -> io::Result<UdpSocket> {
    let local = if to.is_ipv4() { "0.0.0.0" } else { "::" };
    let socket = UdpSocket::bind(at(local, 0))?;
    socket.set_read_timeout(Some(scaled(ANSWER)))?;
    Ok(socket)
}

fn udp_to(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = udp_any(to)?;
    socket.connect(to)?;
    Ok(socket)
}

/// Two nodes, a backend and a client on each, and Services in front.
struct Stage {
    cluster: Cluster,
    near: Pod,
    far: Pod,
    client: Pod,
}

fn options(mode: Mode) -> Options {
    let extra = "[reconciler]\nfull_read = \"1s\"\n".to_owned();
    Options { mode, extra, socket: true, ..Options::default() }
}

impl Stage {
    fn set(mode: Mode) -> Self {
        let cluster = Cluster::start(&options(mode));
        let near = cluster.pod(0, "near", "app: near");
        let far = cluster.pod(1, "far", "app: far");
        let client = cluster.pod(0, "client", "app: client");
        serve(&near.netns, "near", TARGET);
        serve(&far.netns, "far", TARGET);
        let stage = Self { cluster, near, far, client };
        stage.two(&[&stage.near, &stage.far]);
        stage.cluster.write("near.yaml", &service("near", NEAR, NODE_PORT, &[&stage.near]));
        stage.cluster.write("far.yaml", &service("far", FAR, NODE_PORT + 1, &[&stage.far]));
        stage.cluster.write("none.yaml", &service("none", NONE, 0, &[]));
        stage.cluster.settle();
        stage
    }

    fn two(&self, backends: &[&Pod]) {
        self.cluster.write("two.yaml", &service("two", TWO, 0, backends));
    }

    fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    fn host<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on(self.node(), &self.node().netns, work)
    }

    fn pod<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on(self.node(), &self.client.netns, work)
    }

    /// Waits until a Service's backends are what sockets of the node meet, nobody else.
    fn meets(&self, to: SocketAddr, servers: &[&str]) {
        let met = || {
            let mut met: Vec<String> =
                self.host(|| (0..12).filter_map(|_| Some(ask(Udp, to).ok()?.0.server)).collect());
            met.sort();
            met.dedup();
            met == servers
        };
        assert!(eventually(PATIENCE, met), "{to} is not {servers:?}: {}", self.node().log_tail());
    }
}

/// Conntrack entries of Services on a node: packets that were translated.
fn translated(node: &Node) -> Vec<Value> {
    let listed = node.cilium(&["bpf", "ct", "list", "-o", "json"]);
    let rows: Vec<Value> = serde_json::from_slice(&listed.stdout).expect("JSON");
    rows.into_iter().filter(|row| row["key"]["service"] == true).collect()
}

fn sockets(node: &Node) -> String {
    node.status()["sockets"]["state"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn vm_the_node_and_its_pods_meet_services_at_their_sockets() {
    let stage = Stage::set(Mode::Tunnel);
    let (node, failed) = (stage.node(), Mutex::new(Vec::new()));
    assert_eq!(sockets(node), "active");
    let mut cells = 0;
    let mut cell = |what: &str, in_pod: bool, to: SocketAddr, server: &str| {
        for proto in [Tcp, Udp] {
            cells += 1;
            let asked = || ask(proto, to);
            let answer = if in_pod { stage.pod(asked) } else { stage.host(asked) };
            let wrong = match answer {
                Ok((_, peer)) if peer != to => format!("getpeername says {peer}"),
                Ok((answer, _)) if answer.server != server => format!("answered by {}", answer.server),
                Ok((answer, _)) if in_pod && answer.client != own(&stage.client, to) => {
                    format!("the client is seen as {}", answer.client)
                }
                Ok(_) => continue,
                Err(e) => e.to_string(),
            };
            failed.lock().unwrap().push(format!("{what}: {proto:?} {to}: {wrong}"));
        }
    };
    for (at_ip, server, node_port) in [(NEAR, "near", NODE_PORT), (FAR, "far", NODE_PORT + 1)] {
        for text in at_ip {
            cell("host to ClusterIP", false, at(text, PORT), server);
            cell("pod to ClusterIP", true, at(text, PORT), server);
        }
        for addr in [node.ipv4, node.ipv6] {
            cell("host to NodePort", false, SocketAddr::new(addr, node_port), server);
            cell("pod to NodePort", true, SocketAddr::new(addr, node_port), server);
        }
        for text in LOOPBACK {
            cell("host to NodePort at loopback", false, at(text, node_port), server);
        }
    }
    println!("{cells} cells");
    let left = translated(node);
    assert!(failed.lock().unwrap().is_empty(), "{:#?}", failed.lock().unwrap());
    assert!(left.is_empty(), "packets were translated: {left:#?}");

    // A datagram's sender is the frontend, as its owner sees it.
    for text in NEAR {
        let to = at(text, PORT);
        let from = stage.pod(|| {
            let socket = udp_any(to)?;
            socket.send_to(b"?", to)?;
            socket.recv_from(&mut [0; 128]).map(|(_, from)| from)
        });
        assert_eq!(from.unwrap_or_else(|e| panic!("{to}: {e}")), to);
    }
    // Without a backend the call fails at once.
    for to in NONE.map(|text| at(text, PORT)) {
        let begun = Instant::now();
        let refused = stage.host(|| ask(Tcp, to)).expect_err("nobody is there");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to}");
        assert!(begun.elapsed() < Duration::from_millis(500), "{to}: {:?}", begun.elapsed());
    }
    // A NodePort is nobody's to bind on the node, and anybody's in a pod; a pod's loopback is the pod.
    for text in ["0.0.0.0", "::", "127.0.0.1"] {
        let bound = stage.host(|| TcpListener::bind(at(text, NODE_PORT)).map(drop));
        assert_eq!(bound.expect_err("a NodePort").kind(), ErrorKind::AddrInUse, "{text}");
        stage.pod(|| TcpListener::bind(at(text, NODE_PORT)).map(drop)).expect("in a pod");
    }
    stage.host(|| TcpListener::bind(at("0.0.0.0", NODE_PORT + 100)).map(drop)).expect("no NodePort");
    stage.pod(|| ask(Tcp, at("127.0.0.1", NODE_PORT))).expect_err("a pod's loopback");
}

fn own(pod: &Pod, to: SocketAddr) -> IpAddr {
    if to.is_ipv4() { pod.ipv4 } else { pod.ipv6 }
}

/// A connected UDP socket that was answered by `server`.
fn connected(to: SocketAddr, server: &str) -> UdpSocket {
    for _ in 0..100 {
        let socket = udp_to(to).expect("connect");
        socket.send(b"?").expect("send");
        let mut buffer = [0; 128];
        let n = socket.recv(&mut buffer).expect("an answer");
        if parse(&buffer[..n]).is_some_and(|answer| answer.server == server) {
            return socket;
        }
    }
    panic!("{to} never met {server}");
}

/// Whether a socket was ended: its owner's calls fail.
fn is_ended(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(Duration::from_millis(10))).expect("a timeout");
    match socket.recv(&mut [0; 128]) {
        Err(e) => !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        Ok(_) => false,
    }
}

#[test]
fn sockets_to_a_backend_that_is_gone_are_ended() {
    let mut stage = Stage::set(Mode::Native);
    for with_agent in [true, false] {
        stage.two(&[&stage.near, &stage.far]);
        let to = TWO.map(|text| at(text, PORT));
        to.iter().for_each(|to| stage.meets(*to, &["far", "near"]));
        let mut ended = Vec::new();
        for to in to {
            ended.push(stage.host(|| connected(to, "near")));
            ended.push(stage.pod(|| connected(to, "near")));
        }
        // Who connected to the backend itself, or meets another one, goes on; so does TCP.
        let direct = SocketAddr::new(stage.near.ipv4, TARGET);
        let spared = [
            stage.pod(|| connected(direct, "near")),
            stage.host(|| connected(direct, "near")),
            stage.pod(|| connected(to[0], "far")),
        ];
        let mut stream = stage.pod(|| {
            (0..100)
                .find_map(|_| {
                    let mut stream = TcpStream::connect(to[0]).ok()?;
                    say(&mut stream).filter(|answer| answer.server == "near").map(|_| stream)
                })
                .expect("a connection to near")
        });
        if !with_agent {
            stage.cluster.nodes[0].stop_agent(libc::SIGKILL);
        }
        stage.two(&[&stage.far]);
        // `near` keeps its NodePort Service: gone from one list, not from all.
        std::thread::sleep(Duration::from_millis(1500));
        assert!(!ended.iter().any(is_ended), "with_agent {with_agent}: another Service has it");
        stage.cluster.remove("near.yaml");
        if !with_agent {
            std::thread::sleep(Duration::from_millis(300));
            assert!(!ended.iter().any(is_ended), "nobody is there to end them");
            stage.cluster.nodes[0].start_agent();
        }
        let begun = Instant::now();
        assert!(eventually(PATIENCE, || ended.iter().all(is_ended)), "{}", stage.node().log_tail());
        println!("with_agent {with_agent}: all ended after {:?}", begun.elapsed());
        assert!(!spared.iter().any(is_ended), "{}", stage.node().log_tail());
        assert_eq!(say(&mut stream).expect("TCP goes on").server, "near");
        // The owner connects anew, as it would after any error.
        for to in to {
            assert_eq!(stage.pod(|| ask(Udp, to)).expect("recovered").0.server, "far");
            assert_eq!(stage.host(|| ask(Udp, to)).expect("recovered").0.server, "far");
        }
        stage.cluster.write("near.yaml", &service("near", NEAR, NODE_PORT, &[&stage.near]));
        stage.node().wait_healthy(PATIENCE);
    }
}

fn say(stream: &mut TcpStream) -> Option<Answer> {
    stream.set_read_timeout(Some(scaled(ANSWER))).ok()?;
    stream.write_all(b"?").ok()?;
    let mut buffer = [0; 128];
    let n = stream.read(&mut buffer).ok()?;
    parse(&buffer[..n])
}

/// How many programs run at a cgroup.
fn running(cgroup: &Path) -> usize {
    let shown = succeed(Command::new("bpftool").args(["-j", "cgroup", "show"]).arg(cgroup)).stdout;
    match serde_json::from_slice::<Value>(&shown) {
        Ok(Value::Array(rows)) => rows.len(),
        _ => 0,
    }
}

fn connects(stage: &Stage) -> bool {
    NEAR.iter().all(|text| stage.host(|| ask(Tcp, at(text, PORT))).is_ok())
}

#[test]
fn programs_outlive_the_agent_are_swapped_repaired_and_destroyed() {
    let mut stage = Stage::set(Mode::Tunnel);
    let cgroup = stage.node().cgroup.as_ref().expect("sockets are on").path().to_owned();
    let links = stage.node().pins.join("links");
    assert_eq!(running(&cgroup), 10);
    let mut stream = stage.host(|| TcpStream::connect(at(NEAR[0], PORT)).expect("connect"));
    let mut goes_on = || assert_eq!(say(&mut stream).expect("the connection goes on").server, "near");
    goes_on();

    // Without an agent, and with another one.
    stage.cluster.nodes[0].stop_agent(libc::SIGKILL);
    assert!(connects(&stage), "without an agent");
    // Another set: its constants differ.
    let config = stage.node().config();
    let text = std::fs::read_to_string(&config).expect("its configuration");
    std::fs::write(&config, format!("{text}\n[monitor]\ndrop = false\n")).expect("write it");
    let hammer = Hammer::start(stage.node());
    let node = &mut stage.cluster.nodes[0];
    let before = sets(&node.pins);
    start(node);
    let swapped = || node.plan_is_empty() && sets(&node.pins) != before;
    let is_swapped = eventually(Duration::from_secs(30), swapped);
    let (count, lost) = hammer.stop();
    assert!(is_swapped, "{}", node.log_tail());
    println!("{count} connections while the programs were swapped");
    assert!(count > 0 && lost.is_empty(), "{count}: {lost:?}");
    goes_on();

    // Somebody detaches a program, takes a pin away, attaches one twice.
    let pin = |program: &str| links.join(program);
    succeed(Command::new("bpftool").args(["link", "detach", "pinned"]).arg(pin("cil_sock4_connect")));
    std::fs::remove_file(pin("cil_sock6_connect")).expect("a pin");
    let whole = |stage: &Stage| {
        running(&cgroup) == 10 && pin("cil_sock6_connect").exists() && stage.node().plan_is_empty()
    };
    // A full read of the debug build is followed by a long rest.
    assert!(eventually(Duration::from_secs(90), || whole(&stage)), "{}", stage.node().log_tail());
    assert!(connects(&stage), "after the repair");
    goes_on();

    let node = &mut stage.cluster.nodes[0];
    node.stop_agent(libc::SIGTERM);
    let done = node.cilium(&["destroy", "--with-pods"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(running(&cgroup), 0, "destroyed");
    assert!(!links.exists(), "no pin is left");
}

/// Connects again and again from a node.
struct Hammer {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<(usize, Vec<String>)>>,
    thread: JoinHandle<()>,
}

impl Hammer {
    fn start(node: &Node) -> Self {
        let cgroup = node.cgroup.clone().expect("sockets are on");
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::<Mutex<(usize, Vec<String>)>>::default());
        let thread = node.netns.spawn({
            let (stop, seen) = (stop.clone(), seen.clone());
            move || {
                cgroup.enter();
                while !stop.load(Ordering::Relaxed) {
                    let asked = ask(Tcp, at(NEAR[0], PORT));
                    let mut seen = seen.lock().expect("no reader panics");
                    seen.0 += 1;
                    seen.1.extend(asked.err().map(|e| e.to_string()));
                }
            }
        });
        Self { stop, seen, thread }
    }

    /// How many there were, and what those that failed said.
    fn stop(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it does not panic");
        std::mem::take(&mut *self.seen.lock().expect("it does not panic"))
    }
}

/// The sets that are pinned.
fn sets(pins: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(pins.join("progs")).into_iter().flatten();
    let mut sets: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    sets.sort();
    sets
}

fn start(node: &mut Node) {
    node.start_agent();
    node.wait_healthy(Duration::from_secs(30));
}

#[test]
fn a_kernel_that_refuses_is_a_problem_and_no_more() {
    let mut cluster = Cluster::prepare(&options(Mode::Tunnel));
    start(&mut cluster.nodes[1]);
    // The other node's program, so that it is a stranger's, and alone.
    let set = sets(&cluster.nodes[1].pins).remove(0);
    let cgroup = cluster.nodes[0].cgroup.as_ref().expect("sockets are on").path().to_owned();
    let by_hand = |what: &str| {
        let mut command = Command::new("bpftool");
        command.args(["cgroup", what]).arg(&cgroup).args(["cgroup_inet4_connect", "pinned"]);
        succeed(command.arg(set.join("cil_sock4_connect")));
    };
    by_hand("attach");
    start(&mut cluster.nodes[0]);
    let node = &cluster.nodes[0];
    let problems = |node: &Node| node.status()["problems"].to_string();
    assert_eq!(sockets(node), "inactive", "{}", node.status());
    assert!(problems(node).contains("cil_sock4_connect"), "{}", problems(node));
    assert_eq!(node.status()["in-sync"], true);
    by_hand("detach");
    assert!(eventually(Duration::from_secs(30), || sockets(node) == "active"), "{}", node.log_tail());
    assert_eq!(problems(node), "[]");
    assert_eq!(running(&cgroup), 10);
}

#[test]
fn without_a_cgroup_packets_are_translated() {
    let mut cluster = Cluster::prepare(&options(Mode::Tunnel));
    let config = cluster.nodes[0].config();
    let text = std::fs::read_to_string(&config).expect("its configuration");
    let cgroup = cluster.nodes[0].cgroup.as_ref().expect("sockets are on").path().display().to_string();
    std::fs::write(&config, text.replace(&cgroup, "/proc")).expect("write it");
    cluster.nodes.iter_mut().for_each(start);
    let node = &cluster.nodes[0];
    let problems = node.status()["problems"].to_string();
    assert_eq!(sockets(node), "inactive");
    assert!(problems.contains("/proc is not on a mounted cgroup2"), "{problems}");
    let far = cluster.pod(1, "far", "app: far");
    let client = cluster.pod(0, "client", "app: client");
    serve(&far.netns, "far", TARGET);
    cluster.write("far.yaml", &service("far", FAR, NODE_PORT, &[&far]));
    let asked = || client.netns.enter(|| ask(Tcp, at(FAR[0], PORT))).is_ok();
    assert!(eventually(PATIENCE, asked), "{}", node.log_tail());
    assert!(!translated(node).is_empty(), "by packets");
}
