//! Clients outside the cluster beyond the matrix of `l2_services`: whose packets drivers send on, conversations, many
//! connections, traffic policies with backends on both nodes, and who may not be served.

use cilium_tests_kernel::cluster::{OUTSIDE_V4, OUTSIDE_V6, binary};
use cilium_tests_kernel::probe::{BOTH, ask_tcp, eventually, scaled, serve, tcp, udp};
use cilium_tests_kernel::services::{
    BALANCERS, CLUSTER_IPS, EXTERNALS, PORT, TARGET, balancer, cluster_ip, external, ip, node_port,
    with_host_port,
};
use cilium_tests_kernel::{Cluster, Mode, Netns, Options, Pod, Service};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const HOST_PORT: u16 = 8081;
const PATIENCE: Duration = Duration::from_secs(10);

/// Drop reasons (`cilium_abi::event::reason`): a ClusterIP from outside; not in the source ranges.
const IS_CLUSTER_IP: u64 = 174;
const NOT_IN_SOURCE_RANGE: u64 = 177;

/// A Service of type LoadBalancer with addresses made of `n`, its backends, and more lines of its spec.
fn service(name: &str, n: u8, backends: &[&Pod], spec: &str) -> String {
    Service { spec, ..Service::numbered(name, n, backends) }.manifest()
}

/// A running `cilium monitor`, and the reasons of the drops it told.
struct Monitor {
    child: Child,
    drops: Arc<Mutex<Vec<(u64, String)>>>,
}

impl Monitor {
    fn start(cluster: &Cluster) -> Self {
        let node = &cluster.nodes[0];
        let mut command = node.netns.command(binary("cilium"));
        command.arg("--config").arg(node.config()).args(["monitor", "-o", "json"]);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("start the monitor");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let drops = Arc::new(Mutex::new(Vec::new()));
        let seen = drops.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let event: serde_json::Value = serde_json::from_str(&line).expect("one JSON object a line");
                if event["type"] == "drop" {
                    let to = event["destination"]["ip"].as_str().unwrap_or_default().to_owned();
                    let reason = event["reason"].as_u64().unwrap_or_default();
                    seen.lock().expect("no reader panics").push((reason, to));
                }
            }
        });
        Self { child, drops }
    }

    fn told(&self, reason: u64, to: IpAddr) -> bool {
        self.drops.lock().expect("no reader panics").contains(&(reason, to.to_string()))
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two nodes with a backend each, and Services in front of them.
struct Stage {
    cluster: Cluster,
    _cards: Vec<OwnedFd>,
    /// Theirs are the namespaces that the backends serve in.
    _backends: [Pod; 2],
    client: Pod,
    mode: Mode,
    /// Whether drivers serve clients.
    accelerated: bool,
    cells: Mutex<usize>,
    failed: Mutex<Vec<String>>,
}

const OUTSIDE: [&str; 2] = [OUTSIDE_V4, OUTSIDE_V6];

impl Stage {
    fn set(mode: Mode, accelerated: bool) -> Self {
        let extra = if accelerated { "[load_balancer]\nacceleration = \"native\"\n" } else { "" }.to_owned();
        let cluster = Cluster::start(&Options { mode, extra, ..Options::default() });
        let cards = cluster.like_cards();
        cluster.write("pod-default-near.yaml", &with_host_port(HOST_PORT));
        let near = cluster.attach(0, "near");
        let far = cluster.pod(1, "far", "app: far");
        let client = cluster.pod(0, "client", "app: client");
        for pod in [&near, &far] {
            serve(&pod.netns, &pod.name, TARGET);
        }
        let local = "  externalTrafficPolicy: Local\n";
        let ranges = |nets: &str| format!("  loadBalancerSourceRanges: [{nets}]\n");
        let sticky = "  sessionAffinity: ClientIP\n";
        let all = [
            service("near", 21, &[&near], ""),
            service("far", 22, &[&far], ""),
            service("both", 23, &[&near, &far], ""),
            service("local", 24, &[&near, &far], local),
            service("away", 25, &[&far], local),
            service("refused", 26, &[&near], &ranges("10.9.0.0/16")),
            service("ranged", 27, &[&near], &ranges("192.168.77.0/24, \"fd77::/64\"")),
            service("sticky", 28, &[&near, &far], sticky),
        ];
        cluster.write("services.yaml", &all.concat());
        cluster.outside_asks_first_node(&[BALANCERS, EXTERNALS, CLUSTER_IPS]);
        let stage = Self {
            cluster,
            _cards: cards,
            _backends: [near, far],
            client,
            mode,
            accelerated,
            cells: Mutex::new(0),
            failed: Mutex::new(Vec::new()),
        };
        // Each has 2 ports at a ClusterIP, a balancer's and an external address of two families.
        stage.cluster.nodes[0].wait_for_frontends(all.len() * 2 * 2 * 3);
        stage.cluster.settle();
        for family in 0..2 {
            eventually(PATIENCE, || {
                tcp(&stage.cluster.outside, stage.node(0)[family], node_port(22)).is_some()
            });
        }
        stage
    }

    fn node(&self, n: usize) -> [IpAddr; 2] {
        self.cluster.nodes[n].addresses()
    }

    fn outside(&self) -> [IpAddr; 2] {
        OUTSIDE.map(ip)
    }

    /// Every family and protocol from a client to a frontend.
    fn cell(
        &self,
        what: &str,
        from: &Netns,
        to: [IpAddr; 2],
        port: u16,
        server: &str,
        seen: Option<[IpAddr; 2]>,
    ) {
        for family in 0..2 {
            let (to, seen) = (to[family], seen.map(|seen| seen[family]));
            for (proto, ask) in BOTH {
                *self.cells.lock().unwrap() += 1;
                let wrong = match ask(from, to, port) {
                    None => "no answer".to_owned(),
                    Some(answer) if answer.server != server => format!("answered by {}", answer.server),
                    Some(answer) if seen.is_some_and(|seen| seen != answer.client) => {
                        format!("the client is seen as {}", answer.client)
                    }
                    Some(_) => continue,
                };
                self.fail(format!("{what}: {proto} {}: {wrong}", SocketAddr::new(to, port)));
            }
        }
    }

    fn silent(&self, what: &str, from: &Netns, to: [IpAddr; 2], port: u16) {
        for to in to {
            for (proto, answer) in [("TCP", tcp(from, to, port)), ("UDP", udp(from, to, port))] {
                *self.cells.lock().unwrap() += 1;
                if let Some(answer) = answer {
                    self.fail(format!("{what}: {proto} {to}: answered by {}", answer.server));
                }
            }
        }
    }

    fn fail(&self, what: String) {
        self.failed.lock().unwrap().push(what);
    }

    /// Pods beside programs in drivers, by which answers of the other node come. Without those, and whoever comes by a
    /// device, is in the matrix of `l2_services`.
    fn pods(&self) {
        let (client, own) = (&self.client.netns, Some(self.client.addresses()));
        for (n, server) in [(21, "near"), (22, "far")] {
            self.cell("pod to ClusterIP", client, cluster_ip(n), PORT, server, own);
            self.cell("pod to NodePort", client, self.node(0), node_port(n), server, own);
            self.cell("pod to LoadBalancer", client, balancer(n), PORT, server, own);
            self.cell("pod to external IP", client, external(n), PORT, server, own);
        }
        self.cell("pod to hostPort", client, self.node(0), HOST_PORT, "near", own);
    }

    fn local(&self) {
        let outside = &self.cluster.outside;
        for _ in 0..4 {
            let seen = Some(self.outside());
            self.cell("eTP Local", outside, self.node(0), node_port(24), "near", seen);
            self.cell("eTP Local, the other node", outside, self.node(1), node_port(24), "far", seen);
        }
        self.silent("eTP Local without a backend", outside, self.node(0), node_port(25));
        self.silent("eTP Local without a backend", outside, balancer(25), PORT);
        // Whoever is inside gets every backend.
        self.cell("eTP Local, from a pod", &self.client.netns, balancer(25), PORT, "far", None);
    }

    fn refused(&self) {
        let outside = &self.cluster.outside;
        let monitor = Monitor::start(&self.cluster);
        for (what, to, reason) in [
            ("ClusterIP from outside", cluster_ip(21), IS_CLUSTER_IP),
            ("not in the source ranges", balancer(26), NOT_IN_SOURCE_RANGE),
        ] {
            for to in to {
                *self.cells.lock().unwrap() += 1;
                let told = || {
                    if tcp(outside, to, PORT).is_some() {
                        self.fail(format!("{what}: {to}: answered"));
                    }
                    monitor.told(reason, to)
                };
                if !eventually(PATIENCE, told) {
                    let drops = monitor.drops.lock().unwrap().clone();
                    self.fail(format!("{what}: {to}: no drop for reason {reason}: {drops:?}"));
                }
            }
        }
        self.silent("hostPort of the other node", outside, self.node(1), HOST_PORT);
        self.cell("in the source ranges", outside, balancer(27), PORT, "near", Some(self.outside()));
        self.cell("source ranges, NodePort", outside, self.node(0), node_port(26), "near", None);
    }

    fn spread(&self, to: [IpAddr; 2], connections: usize) -> [BTreeMap<String, usize>; 2] {
        to.map(|to| {
            let mut spread: BTreeMap<String, usize> = BTreeMap::new();
            let to = SocketAddr::new(to, PORT);
            let ask = || ask_tcp(to, Duration::from_secs(2)).map_or("lost".to_owned(), |a| a.server);
            let answers: Vec<String> =
                self.cluster.outside.enter(|| (0..connections).map(|_| ask()).collect());
            answers.into_iter().for_each(|server| *spread.entry(server).or_default() += 1);
            spread
        })
    }

    fn many(&self) {
        let both = self.spread(balancer(23), 200);
        println!("{:?}: 200 connections to {:?}: {both:?}", self.mode, balancer(23));
        for spread in &both {
            if spread.contains_key("lost") || spread.len() != 2 {
                self.fail(format!("200 connections to two backends: {spread:?}"));
            }
        }
        for spread in self.spread(balancer(28), 40) {
            if spread.contains_key("lost") || spread.len() != 1 {
                self.fail(format!("session affinity: {spread:?}"));
            }
        }
    }

    /// Packets that the drivers of a node sent on.
    fn sent_by_driver(&self, node: usize) -> u64 {
        let output = self.cluster.nodes[node].cilium(&["bpf", "metrics", "list", "-o", "json"]);
        let rows: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
        let rows = rows.as_array().expect("a list").iter();
        rows.filter(|row| row["description"] == "Success before the stack")
            .map(|row| row["packets"].as_u64().expect("a number"))
            .sum()
    }

    /// Each family and protocol of a frontend whose backend is elsewhere: drivers send its packets on, both ways,
    /// if they are to, and if no tunnel is between; those to a backend here they leave alone.
    fn drivers(&self) {
        let outside = &self.cluster.outside;
        for (n, far) in [(21, false), (22, true)] {
            let places = [(self.node(0), node_port(n)), (balancer(n), PORT), (external(n), PORT)];
            for (to, port) in places.into_iter().flat_map(|(to, port)| to.map(|to| (to, port))) {
                for (proto, ask) in BOTH {
                    *self.cells.lock().unwrap() += 1;
                    let before = self.sent_by_driver(0);
                    let answered = ask(outside, to, port).is_some();
                    let sent = self.sent_by_driver(0) - before;
                    let wanted = self.accelerated && far && self.mode == Mode::Native;
                    if !answered || (sent >= 2) != wanted {
                        let to = SocketAddr::new(to, port);
                        self.fail(format!("{proto} {to}: drivers sent {sent} packets, answered: {answered}"));
                    }
                }
            }
        }
        let status = String::from_utf8_lossy(&self.cluster.nodes[0].cilium(&["status"]).stdout).into_owned();
        let line = if self.accelerated { "Acceleration:  eth0 active" } else { "Acceleration:  disabled" };
        if !status.contains(line) {
            self.fail(format!("no {line:?} in:\n{status}"));
        }
    }

    /// Many questions on one connection to a backend elsewhere, of 1 to 64 bytes: in answer to each the server's name.
    fn conversation(&self) {
        const QUESTIONS: usize = 500;
        for to in self.node(0) {
            *self.cells.lock().unwrap() += 1;
            let before = self.sent_by_driver(0);
            let talk = || -> std::io::Result<usize> {
                let patience = scaled(PATIENCE);
                let to = SocketAddr::new(to, node_port(22));
                let mut stream = TcpStream::connect_timeout(&to, patience)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(patience))?;
                let (mut right, mut buffer) = (0, [0; 128]);
                for n in 0..QUESTIONS {
                    stream.write_all(&[b'?'; 64][..1 + n % 64])?;
                    let n = stream.read(&mut buffer)?;
                    right += usize::from(buffer[..n].starts_with(b"far "));
                }
                Ok(right)
            };
            let right = self.cluster.outside.enter(talk);
            let sent = self.sent_by_driver(0) - before;
            // Question and answer; acknowledgements may go with them.
            let by_driver = sent >= 2 * QUESTIONS as u64;
            let wanted = self.accelerated && self.mode == Mode::Native;
            if !matches!(right, Ok(QUESTIONS)) || by_driver != wanted {
                self.fail(format!("conversation with {to}: {right:?} of {QUESTIONS}, drivers sent {sent}"));
            }
        }
    }

    fn end(self) {
        let failed = self.failed.into_inner().unwrap();
        println!("{:?}: {} cells", self.mode, self.cells.into_inner().unwrap());
        assert!(failed.is_empty(), "{:?}:\n  {}", self.mode, failed.join("\n  "));
    }
}

fn matrix(mode: Mode, accelerated: bool) {
    let stage = Stage::set(mode, accelerated);
    stage.drivers();
    stage.conversation();
    stage.local();
    stage.refused();
    stage.many();
    if accelerated {
        stage.pods();
    }
    stage.end();
}

#[test]
fn tunnel() {
    matrix(Mode::Tunnel, false);
}

#[test]
fn tunnel_accelerated() {
    matrix(Mode::Tunnel, true);
}

#[test]
fn native() {
    matrix(Mode::Native, false);
}

#[test]
fn native_accelerated() {
    matrix(Mode::Native, true);
}
