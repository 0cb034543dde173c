//! Services and EndpointSlices that mean harm, hundreds of files at once and changing, beside one that means well:
//! everybody who asks that one is served all the time, the loop goes on and comes to rest, memory stays bounded,
//! and of two that want one frontend the older has it, whatever their files are called.

use cilium_tests_kernel::cluster::long;
use cilium_tests_kernel::probe::{ask_tcp, ask_udp, eventually, serve, tcp};
use cilium_tests_kernel::services::{PORT, TARGET, ip};
use cilium_tests_kernel::{Cluster, Node, Options, Pod, Service};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(60);
const HEALTHY: [&str; 2] = ["10.96.0.10", "fd96::10"];
const NODE_PORT: u16 = 30_080;
/// A pass with all of these objects anew, in a debug build beside other tests.
const AGAIN: Duration = Duration::from_secs(30);
/// KiB that an agent may hold: several times what it holds without.
const MOST_MEMORY: u64 = 400 << 10;
/// Bytes that it may log for a round.
const MOST_LOG: usize = 1 << 20;

/// Numbers that look random, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % u64::try_from(sides).expect("few")).expect("fewer")
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())].clone()
    }
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

fn slice(of: &str, family: &str, endpoints: Value, ports: Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
        "metadata": {"name": format!("{of}-1"), "labels": {"kubernetes.io/service-name": of}},
        "endpoints": endpoints, "ports": ports,
    })
}

/// One file's worth of harm: what the healthy Service has, and what nobody may have.
fn hostile(dice: &mut Dice, n: usize) -> String {
    let name = match dice.roll(12) {
        0 => format!("{}{n}", "a".repeat(250)),
        _ => format!("hostile-{n}"),
    };
    let wrong =
        [json!(0), json!(65_536), json!(-1), json!("80"), json!("x".repeat(5000)), json!(null), json!([])];
    let addresses = [
        HEALTHY[0],
        HEALTHY[1],
        "0.0.0.0",
        "::",
        "127.0.0.1",
        "::1",
        "224.0.0.1",
        "ff02::1",
        "::ffff:10.96.0.10",
        "169.254.1.1",
        "255.255.255.255",
        "10.96.0.10/32",
        "",
    ];
    let port = |dice: &mut Dice| json!({"name": "tcp", "port": PORT, "nodePort": NODE_PORT, "targetPort": dice.pick(&[json!(TARGET), json!("named")])});
    let objects = match dice.roll(14) {
        0 => vec![service(&name, json!({"clusterIP": HEALTHY[0], "ports": [{"port": dice.pick(&wrong)}]}))],
        1 => {
            let spec = json!({"type": "NodePort", "clusterIP": HEALTHY[0], "ports": [{"port": PORT, "nodePort": dice.pick(&wrong)}]});
            vec![service(&name, spec)]
        }
        // All it has, without backends: as old as nobody knows.
        2 => {
            vec![service(&name, json!({"type": "NodePort", "clusterIP": HEALTHY[0], "ports": [port(dice)]}))]
        }
        // The same with backends of nobody.
        3 => {
            let spec = json!({"type": "LoadBalancer", "clusterIP": HEALTHY[0], "externalIPs": ["192.168.77.1"], "ports": [port(dice)]});
            let endpoints =
                json!([{"addresses": [dice.pick(&["203.0.113.99", "127.0.0.1", "224.0.0.1", "10.77.1.1"])]}]);
            vec![
                service(&name, spec),
                slice(&name, "IPv4", endpoints, json!([{"name": "tcp", "port": TARGET}])),
            ]
        }
        4 => {
            let ports: Vec<Value> = (0..1000)
                .map(|at| json!({"name": format!("p{at}"), "port": 1 + at, "nodePort": 30_000 + at}))
                .collect();
            vec![service(
                &name,
                json!({"type": "NodePort", "clusterIP": dice.pick(&addresses), "ports": ports}),
            )]
        }
        5 => {
            let endpoints: Vec<Value> = (0..5000)
                .map(|at| json!({"addresses": [format!("10.9.{}.{}", at / 250, at % 250 + 1)]}))
                .collect();
            vec![slice("healthy", "IPv4", json!(endpoints), json!([{"name": "tcp", "port": TARGET}]))]
        }
        6 => {
            let endpoints: Vec<Value> = (0..1000).map(|_| json!({"addresses": ["10.9.0.1"]})).collect();
            let spec = json!({"clusterIP": format!("10.96.1.{}", n % 250 + 1), "ports": [port(dice)]});
            vec![
                service(&name, spec),
                slice(&name, "IPv4", json!(endpoints), json!([{"name": "tcp", "port": 1}])),
            ]
        }
        7 => {
            let endpoints = json!([{"addresses": ["10.9.0.1"]}, {"addresses": ["fd09::1"]}]);
            vec![slice("healthy", "IPv4", endpoints, json!([{"name": "tcp", "port": TARGET}]))]
        }
        8 => {
            let spec = json!({"clusterIP": "10.96.0.10", "clusterIPs": addresses, "ipFamilies": ["IPv4", "IPv4"], "ports": [port(dice)]});
            vec![service(&name, spec)]
        }
        9 => vec![service(
            &name,
            dice.pick(&[json!(null), json!([]), json!("spec"), json!({"ports": {"port": 80}})]),
        )],
        10 => {
            let mut object = service(&name, json!({"clusterIP": HEALTHY[0], "ports": [port(dice)]}));
            let long = "x".repeat(100_000);
            let text = dice.pick(&["", "\u{0}", "Dsr", "a in (", &long]);
            object["metadata"]["annotations"] = json!({
                "service.cilium.io/type": text, "service.cilium.io/forwarding-mode": text,
                "service.cilium.io/node-selector": text, "lbipam.cilium.io/ips": text,
            });
            vec![object]
        }
        11 => {
            let spec =
                json!({"clusterIP": HEALTHY[0], "portz": [{"port": 80}], "x".repeat(1000): {"a": [null]}});
            vec![service(&name, spec)]
        }
        12 => {
            let spec = json!({"type": "LoadBalancer", "loadBalancerIP": dice.pick(&addresses), "externalIPs": addresses, "ports": [port(dice)]});
            vec![service(&name, spec)]
        }
        // Its own name, in another namespace.
        _ => {
            let mut object = service("healthy", json!({"clusterIP": HEALTHY[0], "ports": [port(dice)]}));
            object["metadata"]["namespace"] = json!(format!("ns-{n}"));
            vec![object]
        }
    };
    let text: Vec<String> = objects.iter().map(Value::to_string).collect();
    let mut text = text.join("\n---\n");
    if dice.roll(20) == 0 {
        let cut = dice.roll(text.len());
        text = text.chars().take(cut).collect();
    }
    text
}

fn resident(node: &Node) -> u64 {
    let pid = node.agent_pid().expect("it runs");
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}

/// Asks the healthy Service again and again, from a pod and by the node's port from outside.
struct Probe {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    lost: Arc<Mutex<Vec<String>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Probe {
    fn start(cluster: &Cluster, client: &Pod) -> Self {
        let mut probe =
            Self { stop: Arc::default(), asked: Arc::default(), lost: Arc::default(), threads: Vec::new() };
        let node = [cluster.nodes[0].ipv4, cluster.nodes[0].ipv6];
        for family in 0..2 {
            let places = [
                (&client.netns, SocketAddr::new(ip(HEALTHY[family]), PORT)),
                (&cluster.outside, SocketAddr::new(node[family], NODE_PORT)),
            ];
            for (from, to) in places {
                let (stop, asked, lost) = (probe.stop.clone(), probe.asked.clone(), probe.lost.clone());
                let begun = Instant::now();
                probe.threads.push(from.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        for ask in [ask_tcp, ask_udp] {
                            let answer = ask(to, Duration::from_secs(3));
                            asked.fetch_add(1, Ordering::Relaxed);
                            if answer.as_ref().is_none_or(|answer| answer.server != "web") {
                                let at = begun.elapsed();
                                lost.lock().expect("nobody panics").push(format!("{at:?}: {to}: {answer:?}"));
                            }
                        }
                        std::thread::sleep(Duration::from_millis(10));
                    }
                }));
            }
        }
        probe
    }

    /// How many questions, and those that were not answered.
    fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("nobody panics"));
        let lost = std::mem::take(&mut *self.lost.lock().expect("ended"));
        (self.asked.load(Ordering::Relaxed), lost)
    }
}

/// The healthy Service, older than any other.
fn healthy(web: &Pod) -> String {
    Service {
        node_port: Some(NODE_PORT),
        metadata: "creationTimestamp: \"2020-01-01T00:00:00Z\"",
        ..Service::new("healthy", HEALTHY.map(ip), &[web])
    }
    .manifest()
}

/// The node is in sync, and with everything it was told.
fn rests(node: &Node) -> bool {
    node.status()["in-sync"] == true && node.plan_is_empty()
}

#[test]
fn hundreds_of_hostile_files_harm_no_other_service() {
    let (files, rounds) = if long() { (1000, 60) } else { (200, 4) };
    let seed = std::env::var("CILIUM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        u64::from(since.subsec_nanos())
    });
    println!("CILIUM_SEED={seed}");
    let mut dice = Dice(seed);
    let cluster = Cluster::start(&Options { nodes: 1, ..Options::default() });
    let node = &cluster.nodes[0];
    let (web, client) = (cluster.pod(0, "web", "app: web"), cluster.pod(0, "client", "app: client"));
    serve(&web.netns, "web", TARGET);
    cluster.write("healthy.yaml", &healthy(&web));
    for family in 0..2 {
        let node_port = [node.ipv4, node.ipv6][family];
        let vip = ip(HEALTHY[family]);
        assert!(eventually(WAIT, || tcp(&client.netns, vip, PORT).is_some()), "{}", node.log_tail());
        assert!(eventually(WAIT, || tcp(&cluster.outside, node_port, NODE_PORT).is_some()));
    }
    let (pid, before) = (node.agent_pid(), resident(node));
    let probe = Probe::start(&cluster, &client);
    let write = |dice: &mut Dice, n: usize| cluster.write(&format!("h{n:04}.yaml"), &hostile(dice, n));

    let mut slowest = Duration::ZERO;
    for round in 0..=rounds {
        match round {
            0 => (0..files).for_each(|n| write(&mut dice, n)),
            _ => {
                for _ in 0..1 + dice.roll(60) {
                    let n = dice.roll(files);
                    if dice.roll(3) == 0 {
                        let _ = std::fs::remove_file(cluster.manifests.join(format!("h{n:04}.yaml")));
                    } else {
                        write(&mut dice, n);
                    }
                }
            }
        }
        // What is written after all of it is in force: the loop has come by.
        let mark = format!("10.96.200.{}", round + 1);
        let service = Service::new("mark", [ip(&mark), ip(&format!("fd96:200::{}", round + 1))], &[&web]);
        let begun = Instant::now();
        cluster.write("zz-mark.yaml", &service.manifest());
        let served = || tcp(&client.netns, ip(&mark), PORT).is_some_and(|answer| answer.server == "web");
        assert!(eventually(WAIT, served), "round {round}: {}\n{}", node.status(), node.log_tail());
        slowest = slowest.max(begun.elapsed());
        assert!(eventually(WAIT, || rests(node)), "round {round}: {}\n{}", node.status(), node.log_tail());
    }
    let problems = node.status()["problems"].as_array().map_or(0, Vec::len);
    let after = resident(node);
    let log = node.log().len();
    let (asked, lost) = probe.end();
    println!(
        "{files} files, {rounds} rounds: {asked} questions, {} lost; {problems} problems told; in force after {slowest:?} \
         at the latest; {before} KiB, then {after}; {log} bytes of log",
        lost.len()
    );
    assert!(lost.is_empty() && asked > 100, "{asked} questions, lost {lost:#?}");
    assert_eq!(node.agent_pid(), pid);
    assert!(!node.log().contains("panicked"), "{}", node.log_tail());
    assert!(problems > files / 2, "{problems}");
    assert!(after < MOST_MEMORY, "{after} KiB");
    assert!(log < MOST_LOG * (rounds + 2), "{log} bytes of log");
    assert!(slowest < AGAIN, "{slowest:?}");

    // Gone again: nothing is left of them.
    for n in 0..files {
        let _ = std::fs::remove_file(cluster.manifests.join(format!("h{n:04}.yaml")));
    }
    let clean = || node.status()["problems"].as_array().is_some_and(Vec::is_empty) && rests(node);
    assert!(eventually(WAIT, clean), "{}\n{}", node.status(), node.log_tail());
    assert!(tcp(&client.netns, ip(HEALTHY[0]), PORT).is_some());
}

#[test]
fn the_older_has_a_frontend_whatever_the_files_are_called() {
    let cluster = Cluster::start(&Options { nodes: 1, ..Options::default() });
    let node = &cluster.nodes[0];
    let client = cluster.pod(0, "client", "app: client");
    let pods = [cluster.pod(0, "old", "app: old"), cluster.pod(0, "young", "app: young")];
    pods.iter().for_each(|pod| serve(&pod.netns, &pod.name, TARGET));
    let manifest = |n: usize| {
        let metadata = &format!("creationTimestamp: \"202{n}-01-01T00:00:00Z\"");
        let service = Service::new(&pods[n].name, HEALTHY.map(ip), &[&pods[n]]);
        Service { node_port: Some(NODE_PORT), metadata, ..service }.manifest()
    };
    let asked = || tcp(&client.netns, ip(HEALTHY[0]), PORT).map(|answer| answer.server);
    let told = || {
        let status = node.status();
        let problems: Vec<String> = status["problems"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|problem| format!("{}: {}", problem["origin"], problem["message"]))
            .collect();
        let one = |who: &str, what: &str| {
            problems.iter().any(|p| p.contains(&format!("Service default/{who}")) && p.contains(what))
        };
        one("young", "already belongs to Service default/old")
            && one("old", "is also wanted by Service default/young")
    };
    for names in [["a.yaml", "b.yaml"], ["b.yaml", "a.yaml"]] {
        for first in [0, 1] {
            for n in [first, 1 - first] {
                cluster.write(names[n], &manifest(n));
                assert!(eventually(WAIT, || asked().is_some()), "{}", node.log_tail());
            }
            assert!(eventually(WAIT, || asked().as_deref() == Some("old") && told()), "{}", node.status());
            // Once the older has gone, the other has it, and nobody is told anything.
            cluster.remove(names[0]);
            assert!(eventually(WAIT, || asked().as_deref() == Some("young")), "{}", node.status());
            let quiet = || node.status()["problems"].as_array().is_some_and(Vec::is_empty);
            assert!(eventually(WAIT, quiet), "{}", node.status());
            cluster.remove(names[1]);
            assert!(eventually(WAIT, || asked().is_none()), "{}", node.log_tail());
        }
    }
}
