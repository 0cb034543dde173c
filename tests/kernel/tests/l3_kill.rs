//! kill -9 of the agent while objects change and traffic flows: nothing is lost, nothing changes its name.

use cilium_tests_kernel::cluster::{Node, OUTSIDE_V4, long};
use cilium_tests_kernel::flow::{Flow, flow};
use cilium_tests_kernel::probe::{eventually, serve, tcp};
use cilium_tests_kernel::{Cluster, Netns, Options, Pod};
use std::io::{Read, Seek, SeekFrom};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PORT: u16 = 7000;
const STREAM: u16 = 7001;
const VIP: &str = "10.96.0.10";
const WAIT: Duration = Duration::from_secs(20);

/// A stream of numbered datagrams in one direction.
struct Stream {
    name: &'static str,
    sender: JoinHandle<u64>,
    received: Arc<AtomicU64>,
    /// Set when the receiver saw a number twice or out of order.
    disordered: Arc<AtomicU64>,
}

fn stream(
    from: &Netns,
    to: &Netns,
    at: IpAddr,
    address: SocketAddr,
    name: &'static str,
    gap: Duration,
    stop: &Arc<AtomicBool>,
) -> Stream {
    let receiver = to.enter(|| UdpSocket::bind((at, address.port())).expect("bind the receiver"));
    let size: libc::c_int = 16 << 20;
    // SAFETY: the value is an int, as the option wants, and the descriptor is open.
    let code = unsafe {
        let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("small");
        libc::setsockopt(
            receiver.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const size).cast(),
            length,
        )
    };
    assert_eq!(code, 0, "SO_RCVBUFFORCE: {}", std::io::Error::last_os_error());
    let (received, disordered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (count, wrong) = (received.clone(), disordered.clone());
    std::thread::spawn(move || {
        let (mut buffer, mut next) = ([0; 64], 0);
        while let Ok(n) = receiver.recv(&mut buffer) {
            let Some(Ok(number)) =
                buffer.get(..8).filter(|_| n == 8).map(|b| b.try_into().map(u64::from_be_bytes))
            else {
                continue;
            };
            if number != next {
                wrong.fetch_add(1, Ordering::Relaxed);
            }
            next = number + 1;
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let socket = from.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind the sender");
        socket.connect(address).expect("connect the sender");
        socket
    });
    let stop = stop.clone();
    let sender = std::thread::spawn(move || {
        let (mut number, start) = (0u64, Instant::now());
        while !stop.load(Ordering::Relaxed) {
            if socket.send(&number.to_be_bytes()).is_ok() {
                number += 1;
            }
            let due = start + gap.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
            std::thread::sleep(due.saturating_duration_since(Instant::now()).min(Duration::from_millis(50)));
        }
        number
    });
    Stream { name, sender, received, disordered }
}

/// Where objects are changed from another thread.
struct Folder(PathBuf);

impl Folder {
    fn write(&self, file: &str, yaml: &str) {
        let temporary = self.0.join(format!(".{file}.tmp"));
        std::fs::write(&temporary, yaml).expect("write a manifest");
        std::fs::rename(&temporary, self.0.join(file)).expect("rename a manifest");
    }

    /// One object of a rotating choice.
    fn change(&self, n: u64) {
        match n % 4 {
            0 => self.write(&format!("churn-svc-{}.yaml", n % 7), &service(&format!("churn-{}", n % 7), &format!("10.96.1.{}", n % 7 + 1), 1000 + n % 50)),
            // Beside the rule that lets the clients in: its rows stand among those that change.
            1 => self.write("churn-policy.yaml", &policy("churn", "server", "other", 2000 + n % 100)),
            2 => self.write(
                "pod-default-idle.yaml",
                &format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: idle, namespace: default, labels: {{app: idle, rev: r{}}}}}\nspec: {{nodeName: n1, containers: [{{name: c}}]}}\n", n % 5),
            ),
            _ => self.write("churn-idle.yaml", &policy("churn-idle", "idle", "client", 3000 + n % 100)),
        }
    }
}

fn service(name: &str, vip: &str, port: u64) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec: {{clusterIP: {vip}, selector: {{app: server}}, \
         ports: [{{name: a, port: {port}, targetPort: {PORT}}}, {{name: u, protocol: UDP, port: {STREAM}, targetPort: {STREAM}}}]}}\n"
    )
}

fn policy(name: &str, subject: &str, from: &str, port: u64) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  endpointSelector: \
         {{matchLabels: {{app: {subject}}}}}\n  ingress:\n  - fromEndpoints: [{{matchLabels: {{app: {from}}}}}]\n    toPorts: [{{ports: \
         [{{port: \"{port}\", protocol: ANY}}]}}]\n"
    )
}

/// Names and addresses of everything that must stay as it is.
fn names(node: &Node) -> Vec<String> {
    let text = String::from_utf8_lossy(&node.cilium(&["ip", "list"]).stdout).into_owned();
    let mut lines: Vec<String> = text
        .lines()
        .filter(|l| !l.contains("idle"))
        .map(|l| l.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
        .collect();
    lines.sort();
    lines
}

/// What the log of a process says about where it was killed.
fn inside_an_apply(log: &str) -> bool {
    let line =
        log.lines().rev().find(|line| line.contains("apply progress=") || line.contains(": pass woken_by="));
    line.is_some_and(|line| line.contains("progress=Begin"))
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

#[test]
fn kills_lose_nothing() {
    // SAFETY: no other thread of this process runs yet that reads the environment.
    unsafe { std::env::set_var("CILIUM_LOG", "info,cilium::agent::pass=trace") };
    let (kills, flows_each, gap) =
        if long() { (100, 50, Duration::from_micros(200)) } else { (10, 5, Duration::from_millis(1)) };
    let seed = std::env::var("CILIUM_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(7);
    eprintln!("seed {seed} (CILIUM_TEST_SEED)");
    let mut random = Random(seed);
    let mut cluster = Cluster::start(&Options::default());
    // One pod for each sort of connection: two of one pod, one through a Service and one straight to its
    // backend, may take the same local port, and then are one connection for the backend.
    let client = cluster.pod(0, "client", "app: client");
    let shopper = cluster.pod(0, "shopper", "app: client");
    let prober = cluster.pod(0, "prober", "app: client");
    let near = cluster.pod(0, "near", "app: server");
    let far = cluster.pod(1, "far", "app: server");
    let guest = cluster.pod(0, "guest", "app: guest");
    let _idle = cluster.pod(0, "idle", "app: idle, rev: r0");
    for pod in [&near, &far] {
        serve(&pod.netns, &pod.name, PORT);
    }
    serve(&cluster.outside, "outside", PORT);
    cluster.write("svc.yaml", &service("svc", VIP, 80));
    cluster.write(
        "allow.yaml",
        &policy("allow", "server", "client", 0)
            .replace("    toPorts: [{ports: [{port: \"0\", protocol: ANY}]}]\n", ""),
    );
    cluster.settle();
    let reaches =
        |from: &Pod, to: &str, port| tcp(&from.netns, to.parse().expect("a literal address"), port).is_some();
    assert!(eventually(WAIT, || reaches(&prober, VIP, 80) && reaches(&client, OUTSIDE_V4, PORT)));
    assert!(eventually(WAIT, || tcp(&client.netns, far.ipv4, PORT).is_some()
        && tcp(&guest.netns, near.ipv4, PORT).is_none()));

    let stop = Arc::new(AtomicBool::new(false));
    let outside: IpAddr = OUTSIDE_V4.parse().expect("a literal address");
    let vip: IpAddr = VIP.parse().expect("a literal address");
    let ways = [
        ("Service", vip, 80),
        ("policy", near.ipv4, PORT),
        ("other node", far.ipv4, PORT),
        ("masquerade", outside, PORT),
    ];
    let pause = Duration::from_millis(if long() { 100 } else { 20 });
    let flows: Vec<Flow> = ways
        .iter()
        .flat_map(|&(name, to, port)| {
            (0..flows_each).map(move |n| (format!("{name} {n}"), SocketAddr::new(to, port)))
        })
        .map(|(name, to)| {
            let from = if to.ip() == vip { &shopper } else { &client };
            flow(&from.netns, &name, to, pause, &stop)
        })
        .collect();
    let streams = [
        stream(&client.netns, &near.netns, near.ipv4, (near.ipv4, STREAM + 1).into(), "policy", gap, &stop),
        stream(&client.netns, &far.netns, far.ipv4, (far.ipv4, STREAM + 1).into(), "other node", gap, &stop),
        stream(&client.netns, &cluster.outside, outside, (outside, STREAM).into(), "masquerade", gap, &stop),
    ];
    // Through the Service: either backend may be chosen, and stays chosen.
    let through =
        [&near, &far].map(|pod| pod.netns.enter(|| UdpSocket::bind((pod.ipv4, STREAM)).expect("bind")));
    let counts = through.map(|socket| {
        let (count, counted) = (Arc::new(AtomicU64::new(0)), socket);
        let out = count.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while counted.recv(&mut buffer).is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        out
    });
    let through = client.netns.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        socket.connect((vip, STREAM)).expect("connect");
        socket
    });
    let ending = stop.clone();
    let through = std::thread::spawn(move || {
        let mut sent = 0u64;
        while !ending.load(Ordering::Relaxed) {
            sent += u64::from(through.send(&sent.to_be_bytes()).is_ok());
            std::thread::sleep(Duration::from_millis(1));
        }
        sent
    });
    let churn = std::thread::spawn({
        let (folder, stop) = (Folder(cluster.manifests.clone()), stop.clone());
        move || {
            let (mut changes, start) = (0u64, Instant::now());
            while !stop.load(Ordering::Relaxed) {
                folder.change(changes);
                changes += 1;
                let due = start + Duration::from_millis(50 * changes);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            (changes, start.elapsed())
        }
    });

    let before = names(&cluster.nodes[0]);
    let (mut inside, mut back) = (0, Vec::new());
    // Until enough of them have landed inside an apply.
    let mut kill = 0;
    while kill < kills || (inside * 10 < kills * 6 && kill < 4 * kills) {
        let from = cluster.nodes[0].log().len();
        // Most kills wait for a write to begin; the others come at any time.
        if kill % 5 == 4 {
            std::thread::sleep(Duration::from_millis(random.below(400)));
        } else {
            let which = 1 + usize::try_from(random.below(8)).expect("small");
            let mut log =
                std::fs::File::open(cluster.nodes[0].dir.join("agent.log")).expect("the agent's log");
            log.seek(SeekFrom::Start(u64::try_from(from).expect("small"))).expect("its end");
            let (deadline, mut since) = (Instant::now() + Duration::from_secs(5), String::new());
            while since.matches("progress=Begin").count() < which && Instant::now() < deadline {
                log.read_to_string(&mut since).expect("read the log");
                std::thread::yield_now();
            }
        }
        cluster.nodes[0].stop_agent(libc::SIGKILL);
        inside += usize::from(inside_an_apply(&cluster.nodes[0].log()));
        // Changes while nobody is there to see them.
        let open = kill % 2 == 0;
        let vip = format!("10.96.2.{}", kill % 200 + 1);
        cluster.write("down.yaml", &service("down", &vip, 80));
        cluster.write(
            "guest.yaml",
            &policy("guest", "server", if open { "guest" } else { "nobody" }, u64::from(PORT)),
        );
        let from = cluster.nodes[0].log().len();
        let started = Instant::now();
        cluster.nodes[0].start_agent();
        let synced = || cluster.nodes[0].log().get(from..).is_some_and(|log| log.contains("in_sync=true"));
        assert!(eventually(WAIT, synced), "not in sync again:\n{}", cluster.nodes[0].log_tail());
        back.push(started.elapsed());
        kill += 1;
        let in_force = || reaches(&prober, &vip, 80) && tcp(&guest.netns, near.ipv4, PORT).is_some() == open;
        assert!(
            eventually(WAIT, in_force),
            "kill {kill}: what changed while down is not in force:\n{}",
            cluster.nodes[0].log_tail()
        );
    }
    cluster.nodes[0].wait_healthy(WAIT);
    stop.store(true, Ordering::Relaxed);
    let (changes, took) = churn.join().expect("the changer");
    let mut failed = Vec::new();
    let (mut answers, mut retransmitted, mut slowest) = (0, 0, Duration::ZERO);
    let connections = flows.len();
    for flow in flows {
        let name = flow.name().to_owned();
        match flow.end() {
            Ok(told) => {
                (answers, retransmitted) = (answers + told.answers, retransmitted + told.retransmitted);
                slowest = slowest.max(told.slowest);
            }
            Err(e) => failed.push(format!("{name}: {e}")),
        }
    }
    let mut datagrams = 0;
    for Stream { name, sender, received, disordered } in streams {
        let sent = sender.join().expect("a sender");
        eventually(Duration::from_secs(3), || received.load(Ordering::Relaxed) >= sent);
        let got = received.load(Ordering::Relaxed);
        datagrams += got;
        if got != sent || disordered.load(Ordering::Relaxed) > 0 {
            failed.push(format!(
                "UDP {name}: {got} of {sent} arrived, {} gaps",
                disordered.load(Ordering::Relaxed)
            ));
        }
    }
    let sent = through.join().expect("the sender");
    let [near_got, far_got] = &counts;
    let got = || near_got.load(Ordering::Relaxed) + far_got.load(Ordering::Relaxed);
    if !eventually(Duration::from_secs(3), || got() >= sent) {
        failed.push(format!("UDP Service: {} of {sent} arrived", got()));
    }
    back.sort();
    let at = |share: usize| back[(back.len() * share / 100).min(back.len() - 1)];
    eprintln!(
        "{kill} kills, {inside} inside an apply; {changes} changes in {took:?}; {connections} TCP flows: {answers} answers, slowest {slowest:?}, \
         {retransmitted} segments sent again; {} datagrams; in sync again p50 {:?}, p99 {:?}",
        datagrams + got(),
        at(50),
        at(99)
    );
    assert!(failed.is_empty(), "lost:\n  {}", failed.join("\n  "));
    assert_eq!(names(&cluster.nodes[0]), before, "addresses and identities stay");
    assert_eq!(retransmitted, 0, "segments were lost");
    assert!(inside * 10 >= kills * 6, "only {inside} of {kill} kills landed inside an apply");
    let goal = if cfg!(debug_assertions) { 10 } else { 2 };
    assert!(at(99) < Duration::from_secs(goal), "in sync again: p99 {:?}", at(99));
    cluster.settle();
}
