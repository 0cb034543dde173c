//! Direct server return: clients outside, at every kind of frontend, with a backend on another node. The backend
//! sees the client's own address, and answers it without the node that was asked.

use cilium_tests_kernel::capture::{Capture, ends, has_ports, tells_frontend};
use cilium_tests_kernel::cluster::{OUTSIDE_V4, OUTSIDE_V6};
use cilium_tests_kernel::probe::{BOTH, ask_tcp, connect_from, eventually, scaled, serve, tcp};
use cilium_tests_kernel::services::{
    BALANCERS, Backend, EXTERNALS, PORT, TARGET, balancer, external, ip, node_port,
};
use cilium_tests_kernel::{Cluster, Mode, Options, Pod, Service};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Mutex;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);
const HOST_PORT: u16 = 7100;

fn service(name: &str, n: u8, backends: &[&Pod], spec: &str) -> String {
    Service { spec, ..Service::numbered(name, n, backends) }.manifest()
}

/// The same with an annotation.
fn annotated(name: &str, n: u8, backends: &[&Pod], mode: &str) -> String {
    let metadata = &format!("annotations: {{service.cilium.io/forwarding-mode: {mode}}}");
    Service { metadata, ..Service::numbered(name, n, backends) }.manifest()
}

/// A Service whose backend is a process of the second node.
fn of_host(cluster: &Cluster, name: &str, n: u8) -> String {
    let backends = vec![Backend::from(&cluster.nodes[1])];
    Service { backends, target: HOST_PORT, ..Service::numbered(name, n, &[]) }.manifest()
}

/// What of the way is asked of a node.
#[derive(Clone, Copy, Debug)]
struct Way {
    mode: Mode,
    forwarding: &'static str,
    accelerated: bool,
}

/// Two nodes: the first is asked, the second has the backends.
struct Stage {
    cluster: Cluster,
    _cards: Vec<OwnedFd>,
    near: Pod,
    far: Pod,
    way: Way,
    /// What the first node has on the wire.
    wire: Capture,
    cells: Mutex<usize>,
    failed: Mutex<Vec<String>>,
}

impl Stage {
    fn set(way: Way) -> Self {
        let Way { mode, forwarding, accelerated } = way;
        let drivers = if accelerated { "acceleration = \"native\"\n" } else { "" };
        // Tables and direct return together, where the rest is as it is tried elsewhere, too.
        let algorithm = if forwarding == "hybrid" { "maglev" } else { "random" };
        let extra =
            format!("[load_balancer]\nmode = \"{forwarding}\"\nalgorithm = \"{algorithm}\"\n{drivers}");
        let cluster = Cluster::start(&Options { mode, extra, ..Options::default() });
        let cards = cluster.like_cards();
        let near = cluster.pod(0, "near", "app: near");
        let far = cluster.pod(1, "far", "app: far");
        serve(&near.netns, "near", TARGET);
        serve(&far.netns, "far", TARGET);
        serve(&cluster.nodes[1].netns, "process", HOST_PORT);
        let all = [
            service("far", 22, &[&far], ""),
            service("both", 23, &[&near, &far], ""),
            service("sticky", 24, &[&near, &far], "  sessionAffinity: ClientIP\n"),
            annotated("plain", 25, &[&far], "snat"),
            annotated("direct", 26, &[&far], "dsr"),
            of_host(&cluster, "process", 27),
            service("ranged", 28, &[&far], "  loadBalancerSourceRanges: [\"10.9.0.0/16\"]\n"),
        ];
        cluster.write("services.yaml", &all.concat());
        cluster.outside_asks_first_node(&[BALANCERS, EXTERNALS]);
        // Each has 2 ports at a ClusterIP, a balancer's and an external address of two families.
        cluster.nodes.iter().for_each(|node| node.wait_for_frontends(all.len() * 2 * 2 * 3));
        cluster.settle();
        let (netns, port) = cluster.port(0);
        let wire = Capture::start(netns, &port);
        let stage = Self {
            cluster,
            _cards: cards,
            near,
            far,
            way,
            wire,
            cells: Mutex::new(0),
            failed: Mutex::new(Vec::new()),
        };
        for to in stage.node(0) {
            eventually(PATIENCE, || tcp(&stage.cluster.outside, to, node_port(22)).is_some());
        }
        stage
    }

    fn node(&self, n: usize) -> [IpAddr; 2] {
        self.cluster.nodes[n].addresses()
    }

    fn fail(&self, what: String) {
        self.failed.lock().unwrap().push(what);
    }

    /// Whether clients of a protocol are to be answered directly.
    fn is_direct(&self, proto: &str) -> bool {
        self.way.forwarding == "dsr" || proto == "TCP"
    }

    /// Every family and protocol of a frontend: who answers, whom it sees, and by which way the answer comes.
    fn cell(&self, what: &str, to: [IpAddr; 2], port: u16, server: &str, direct: impl Fn(&str) -> bool) {
        for (to, client) in to.into_iter().zip([OUTSIDE_V4, OUTSIDE_V6].map(ip)) {
            for (proto, ask) in BOTH {
                *self.cells.lock().unwrap() += 1;
                let direct = direct(proto);
                self.wire.clear();
                let answer = ask(&self.cluster.outside, to, port);
                // What is on its way yet is seen within the capture's patience.
                std::thread::sleep(Duration::from_millis(30));
                let by_asked = self
                    .wire
                    .count(|frame| has_ports(frame) && ends(frame).is_some_and(|(_, dst)| dst == client));
                let told = self.wire.count(tells_frontend);
                let cell = format!("{what}: {proto} {}", SocketAddr::new(to, port));
                let wrong = match answer {
                    None => Some("no answer".to_owned()),
                    Some(answer) if answer.server != server => Some(format!("answered by {}", answer.server)),
                    Some(answer) if (answer.client == client) != direct => {
                        Some(format!("the client is seen as {}", answer.client))
                    }
                    Some(_) if (by_asked == 0) != direct => {
                        Some(format!("{by_asked} packets of answers by the node that was asked"))
                    }
                    Some(_) if self.way.mode == Mode::Native && (told > 0) != direct => {
                        Some(format!("{told} packets tell of the frontend"))
                    }
                    Some(_) => None,
                };
                println!("{:?} {cell}: {}", self.way, wrong.as_deref().unwrap_or("ok"));
                if let Some(wrong) = wrong {
                    self.fail(format!("{cell}: {wrong}"));
                }
            }
        }
    }

    fn frontends(&self) {
        let direct = |proto: &str| self.is_direct(proto);
        self.cell("NodePort", self.node(0), node_port(22), "far", direct);
        self.cell("LoadBalancer", balancer(22), PORT, "far", direct);
        self.cell("external IP", external(22), PORT, "far", direct);
        self.cell("annotation snat", balancer(25), PORT, "far", |_| false);
        self.cell("annotation dsr", balancer(26), PORT, "far", |_| true);
        self.cell("process of the other node", balancer(27), PORT, "process", direct);
        self.cell("process, NodePort", self.node(0), node_port(27), "process", direct);
        for to in balancer(28) {
            for (proto, ask) in BOTH {
                *self.cells.lock().unwrap() += 1;
                if ask(&self.cluster.outside, to, PORT).is_some() {
                    self.fail(format!("not in the source ranges: {proto} {to}: answered"));
                }
            }
        }
    }

    /// Drivers send on what they are to, and tell of the frontend: packets of clients whose backend is elsewhere, if
    /// no tunnel is between.
    fn drivers(&self) {
        let sent = || -> u64 {
            let output = self.cluster.nodes[0].cilium(&["bpf", "metrics", "list", "-o", "json"]);
            let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let rows = rows.as_array().into_iter().flatten();
            let by_drivers = rows.filter(|row| row["description"] == "Success before the stack");
            by_drivers.filter_map(|row| row["packets"].as_u64()).sum()
        };
        for to in balancer(26) {
            for (proto, ask) in BOTH {
                *self.cells.lock().unwrap() += 1;
                let before = sent();
                let answered = ask(&self.cluster.outside, to, PORT).is_some();
                let by_drivers = sent() - before;
                let wanted = self.way.accelerated && self.way.mode == Mode::Native;
                println!("{:?} {proto} {to}: drivers sent {by_drivers} packets on", self.way);
                if !answered || (by_drivers > 0) != wanted {
                    self.fail(format!("{proto} {to}: drivers sent {by_drivers}, answered: {answered}"));
                }
            }
        }
    }

    /// Many connections, each of its own port, to two backends, and to one that the client keeps.
    fn many(&self) {
        for (n, connections, servers) in [(23, 200, 2), (24, 40, 1)] {
            for to in balancer(n) {
                let to = SocketAddr::new(to, PORT);
                let mut spread: BTreeMap<String, usize> = BTreeMap::new();
                let ask = || ask_tcp(to, Duration::from_secs(2)).map_or("lost".to_owned(), |a| a.server);
                let answers: Vec<String> =
                    self.cluster.outside.enter(|| (0..connections).map(|_| ask()).collect());
                answers.into_iter().for_each(|server| *spread.entry(server).or_default() += 1);
                println!("{:?} {connections} connections to {to}: {spread:?}", self.way);
                if spread.contains_key("lost") || spread.len() != servers {
                    self.fail(format!("{connections} connections to {to}: {spread:?}"));
                }
            }
        }
    }

    /// A datagram that fills the client's MTU has no room for the option: the client is told, and then sends what has.
    fn long_datagrams(&self) {
        if !self.is_direct("UDP") {
            return;
        }
        let tunnel = if self.way.mode == Mode::Tunnel { 50 } else { 0 };
        for (to, header, option) in [(balancer(22)[0], 20, 8), (balancer(22)[1], 40, 24)] {
            *self.cells.lock().unwrap() += 1;
            let wanted = 1500 - tunnel - option;
            let seen =
                self.cluster.outside.enter(|| long_datagram(SocketAddr::new(to, PORT), header, wanted));
            println!("{:?} a datagram of 1500 bytes to {to}: {seen:?}", self.way);
            if seen.as_ref().ok() != Some(&wanted) {
                self.fail(format!("long datagrams to {to}: {seen:?}, not {wanted}"));
            }
        }
    }

    /// A connection goes on while the agents of both nodes are killed and start again.
    fn kills(&mut self) {
        let mut streams: Vec<TcpStream> = self.cluster.outside.enter(|| {
            let to = [self.node(0)[0], balancer(22)[1]].into_iter().zip([node_port(22), PORT]);
            to.map(|(to, port)| {
                let to = SocketAddr::new(to, port);
                TcpStream::connect_timeout(&to, scaled(PATIENCE)).unwrap_or_else(|e| panic!("{to}: {e}"))
            })
            .collect()
        });
        let mut talk = |when: &str, failed: &Mutex<Vec<String>>| {
            for stream in &mut streams {
                if let Err(why) = exchange(stream) {
                    failed.lock().unwrap().push(format!("{when}: {why}"));
                }
            }
        };
        talk("before", &self.failed);
        for node in 0..2 {
            self.cluster.nodes[node].stop_agent(libc::SIGKILL);
            talk("killed", &self.failed);
            self.cluster.nodes[node].start_agent();
            self.cluster.nodes[node].wait_healthy(Duration::from_secs(30));
            talk("started again", &self.failed);
        }
        self.cluster.settle();
    }

    /// One port of the client's, on one connection after another to the same backend: by two frontends, and directly.
    fn reused_port(&self) {
        for (family, client) in [OUTSIDE_V4, OUTSIDE_V6].map(ip).into_iter().enumerate() {
            *self.cells.lock().unwrap() += 1;
            let pod = self.far.addresses()[family];
            let mut places = vec![
                (balancer(22)[family], PORT),
                (self.node(0)[family], node_port(22)),
                (external(22)[family], PORT),
            ];
            if self.way.mode == Mode::Native {
                let gateway = self.node(1)[family];
                let family = if family == 0 { "" } else { "-6 " };
                self.cluster.outside.ip(&format!("{family}route replace {pod} via {gateway}"));
                places.insert(1, (pod, TARGET));
                places.push((pod, TARGET));
            }
            for (to, port) in places {
                let to = SocketAddr::new(to, port);
                let answer = self.cluster.outside.enter(|| ask_from(SocketAddr::new(client, 45_454), to));
                if !answer.as_ref().is_ok_and(|text| text.starts_with("far ")) {
                    self.fail(format!("{to} from a port used before: {answer:?}"));
                }
            }
        }
    }

    /// The backend's node asks policy about the client itself.
    fn policy(&self) {
        let rules = |nets: [&str; 2]| {
            format!(
                "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: from, namespace: \
                 default}}\nspec:\n  endpointSelector: {{matchLabels: {{app: far}}}}\n  ingress: [{{fromCIDR: \
                 [\"{}\", \"{}\"]}}]\n",
                nets[0], nets[1]
            )
        };
        let outside = &self.cluster.outside;
        let ask = |to: IpAddr| tcp(outside, to, PORT).is_some();
        self.cluster.write("policy.yaml", &rules(["10.99.0.0/16", "fd99::/64"]));
        for to in balancer(22) {
            *self.cells.lock().unwrap() += 1;
            if !eventually(PATIENCE, || !ask(to)) {
                self.fail(format!("policy: {to} answers a client that no rule names"));
            }
        }
        self.cluster
            .write("policy.yaml", &rules([&format!("{OUTSIDE_V4}/32"), &format!("{OUTSIDE_V6}/128")]));
        for to in balancer(22) {
            *self.cells.lock().unwrap() += 1;
            if !eventually(PATIENCE, || ask(to)) {
                self.fail(format!("policy: {to} does not answer the client that a rule names"));
            }
        }
        self.cluster.remove("policy.yaml");
        self.cluster.settle();
    }

    fn end(self) {
        let failed = self.failed.into_inner().unwrap();
        println!(
            "{:?}: {} cells, backends {} and {}",
            self.way,
            self.cells.into_inner().unwrap(),
            self.near.name,
            self.far.name
        );
        assert!(
            failed.is_empty(),
            "{:?}:\n  {}\n{}",
            self.way,
            failed.join("\n  "),
            self.cluster.nodes[1].log_tail()
        );
    }
}

/// One question on a connection.
fn exchange(stream: &mut TcpStream) -> Result<(), String> {
    stream.set_read_timeout(Some(scaled(Duration::from_secs(3)))).map_err(|e| e.to_string())?;
    stream.write_all(b"?").map_err(|e| e.to_string())?;
    let mut buffer = [0; 64];
    match stream.read(&mut buffer) {
        Ok(n) if buffer[..n].starts_with(b"far ") => Ok(()),
        other => Err(format!("{:?}: {other:?}", stream.peer_addr())),
    }
}

/// Asks from a port of the client's own choice, and lets go of it at once.
fn ask_from(from: SocketAddr, to: SocketAddr) -> std::io::Result<String> {
    let stream = connect_from(from, to, scaled(Duration::from_secs(3)))?;
    stream.set_read_timeout(Some(scaled(Duration::from_secs(3))))?;
    (&stream).write_all(b"?")?;
    let mut buffer = [0; 64];
    let n = (&stream).read(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
}

/// Sends datagrams of 1500 bytes until the kernel knows of a lesser MTU: that, if one that fills it is answered.
fn long_datagram(to: SocketAddr, header: usize, wanted: usize) -> std::io::Result<usize> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    let (level, discover, get, always) = if to.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_MTU, libc::IP_PMTUDISC_DO)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_MTU, libc::IPV6_PMTUDISC_DO)
    };
    let size = size_of::<libc::c_int>() as u32;
    // SAFETY: an integer of the size beside it.
    unsafe { libc::setsockopt(socket.as_raw_fd(), level, discover, (&raw const always).cast(), size) };
    socket.set_read_timeout(Some(scaled(Duration::from_millis(500))))?;
    socket.connect(to)?;
    let mtu = || -> std::io::Result<usize> {
        let (mut mtu, mut size): (libc::c_int, u32) = (0, size);
        // SAFETY: an integer, and its size.
        let code =
            unsafe { libc::getsockopt(socket.as_raw_fd(), level, get, (&raw mut mtu).cast(), &raw mut size) };
        if code == 0 {
            usize::try_from(mtu).map_err(std::io::Error::other)
        } else {
            Err(std::io::Error::last_os_error())
        }
    };
    let mut buffer = [0; 128];
    for _ in 0..5 {
        let _ = socket.send(&vec![b'?'; 1500 - header - 8]);
        let _ = socket.recv(&mut buffer);
        if mtu()? < 1500 {
            break;
        }
    }
    let found = mtu()?;
    socket.send(&vec![b'?'; wanted - header - 8])?;
    let n = socket.recv(&mut buffer)?;
    if buffer[..n].starts_with(b"far ") { Ok(found) } else { Err(std::io::Error::other("another answered")) }
}

fn matrix(mode: Mode, forwarding: &'static str, accelerated: bool) {
    let mut stage = Stage::set(Way { mode, forwarding, accelerated });
    stage.frontends();
    stage.drivers();
    stage.many();
    stage.long_datagrams();
    stage.reused_port();
    stage.policy();
    stage.kills();
    stage.end();
}

#[test]
fn tunnel() {
    matrix(Mode::Tunnel, "dsr", false);
}

#[test]
fn tunnel_hybrid() {
    matrix(Mode::Tunnel, "hybrid", false);
}

#[test]
fn tunnel_accelerated() {
    matrix(Mode::Tunnel, "dsr", true);
}

#[test]
fn native() {
    matrix(Mode::Native, "dsr", false);
}

#[test]
fn native_hybrid() {
    matrix(Mode::Native, "hybrid", false);
}

#[test]
fn native_accelerated() {
    matrix(Mode::Native, "dsr", true);
}
