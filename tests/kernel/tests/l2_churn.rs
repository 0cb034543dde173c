//! Every backend of a Service is replaced, one after the other, as a rolling update does it: nobody who connects
//! meanwhile is refused, and nobody who is connected is cut off before his backend says so. Once with packets
//! translated, of pods and of clients outside; once with backends met at sockets, of pods and of the nodes.

use cilium_tests_kernel::cluster::{OUTSIDE_V4, long};
use cilium_tests_kernel::probe::{ask_tcp, eventually};
use cilium_tests_kernel::{Cgroup, Cluster, Netns, Options, Pod};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const TARGET: u16 = 7000;
const NODE_PORT: u16 = 30_080;
const VIP: &str = "10.96.0.10";
/// Backends at any time.
const BACKENDS: usize = 3;
/// Connections a second, of all who open them.
const RATE: u64 = 300;
/// Connections that stay.
const LONG: usize = 200;
/// From one replacement to the next.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a backend that is about to end serves on.
const GRACE: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(5);

/// A backend: a pod with a server that takes its leave.
struct Backend {
    pod: Pod,
    /// Set when it ends: each connection is answered once more, with [`BYE`], and closed.
    leaving: Arc<AtomicBool>,
    open: Arc<AtomicU64>,
}

/// The last answer of a backend that ends.
const BYE: &[u8] = b"bye\n";

impl Backend {
    fn start(cluster: &Cluster, n: usize) -> Self {
        let pod = cluster.pod(n % 2, &format!("web-{n}"), "app: web");
        let listener =
            pod.netns.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, TARGET)).expect("a free port"));
        let (leaving, open) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let backend = Self { leaving: leaving.clone(), open: open.clone(), pod };
        let answer = format!("web-{n} 0.0.0.0\n");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let (answer, leaving, open) = (answer.clone(), leaving.clone(), open.clone());
                open.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    serve(stream, &answer, &leaving);
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        backend
    }
}

fn serve(mut stream: TcpStream, answer: &str, leaving: &AtomicBool) {
    let mut buffer = [0; 64];
    while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {
        let ends = leaving.load(Ordering::SeqCst);
        if stream.write_all(if ends { BYE } else { answer.as_bytes() }).is_err() || ends {
            return;
        }
    }
}

/// The Service, and its backends: those that take connections, and those that only keep theirs.
fn manifests(ready: &[Backend], terminating: &[&Backend]) -> String {
    let row = |backend: &Backend, conditions: &str| {
        format!(
            "{{addresses: [\"{}\"], nodeName: n{}, conditions: {{{conditions}}}}}",
            backend.pod.ipv4,
            backend.pod.node + 1
        )
    };
    let rows: Vec<String> = ready
        .iter()
        .map(|backend| row(backend, "ready: true, serving: true, terminating: false"))
        .chain(
            terminating.iter().map(|backend| row(backend, "ready: false, serving: true, terminating: true")),
        )
        .collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: default}}\nspec:\n  type: NodePort\n  \
         clusterIP: {VIP}\n  ports: [{{port: 80, protocol: TCP, targetPort: {TARGET}, nodePort: {NODE_PORT}}}]\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-1, namespace: default, labels: \
         {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\nports: [{{port: {TARGET}, protocol: \
         TCP}}]\nendpoints: [{}]\n",
        rows.join(", ")
    )
}

/// What clients met that they should not have.
#[derive(Clone, Default)]
struct Tally {
    done: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Tally {
    fn count(&self, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => {
                self.done.fetch_add(1, Ordering::Relaxed);
            }
            Err(e) => self.failures.lock().expect("no client panics").push(e),
        }
    }
}

fn connect(to: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(|e| format!("connect {to}: {e}"))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    Ok(stream)
}

/// One question on a connection; whether the other side takes its leave.
fn ask(stream: &mut TcpStream) -> Result<bool, String> {
    let mut buffer = [0; 64];
    stream.write_all(b"?").map_err(|e| format!("write: {e}"))?;
    match stream.read(&mut buffer) {
        Ok(0) => Err("closed without an answer".into()),
        Ok(n) => Ok(&buffer[..n] == BYE),
        Err(e) => Err(format!("from {:?}: read: {e}", stream.local_addr())),
    }
}

/// From where, with sockets of which node, to where.
#[derive(Clone)]
struct Place<'a> {
    netns: &'a Netns,
    cgroup: Option<Arc<Cgroup>>,
    to: SocketAddr,
}

impl Place<'_> {
    fn spawn(&self, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
        let cgroup = self.cgroup.clone();
        self.netns.spawn(move || {
            cgroup.iter().for_each(|cgroup| cgroup.enter());
            work();
        })
    }

    fn answers(&self) -> bool {
        self.netns.enter(|| {
            self.cgroup.iter().for_each(|cgroup| cgroup.enter());
            ask_tcp(self.to, Duration::from_millis(700)).is_some()
        })
    }

    /// One of so many who open [`RATE`] connections a second until `stop`, one question each.
    fn newcomers(&self, of: u64, tally: &Tally, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
        let (to, tally, stop) = (self.to, tally.clone(), stop.clone());
        self.spawn(move || {
            let begun = Instant::now();
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let due = begun + Duration::from_micros(n * of * 1_000_000 / RATE);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let at = begun.elapsed();
                let outcome = connect(to).and_then(|mut stream| ask(&mut stream)).map(|_| ());
                tally.count(outcome.map_err(|e| format!("new to {to}, after {at:?}: {e}")));
            }
        })
    }

    /// Stays connected until `stop`; connects again when told good-bye, and only then.
    fn stayer(&self, tally: &Tally, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
        let (to, tally, stop) = (self.to, tally.clone(), stop.clone());
        self.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let since = Instant::now();
                let outcome = connect(to).and_then(|mut stream| {
                    while !stop.load(Ordering::Relaxed) {
                        if ask(&mut stream)? {
                            return Ok(());
                        }
                        std::thread::sleep(Duration::from_millis(50));
                    }
                    Ok(())
                });
                tally.count(outcome.map_err(|e| format!("long, connected for {:?}: {e}", since.elapsed())));
            }
        })
    }
}

/// One at a time: each is meant to have the machine for itself.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn l2_every_backend_is_replaced_and_no_connection_fails() {
    replace(false);
}

#[test]
fn l2_the_same_for_sockets_of_pods_and_nodes() {
    replace(true);
}

fn replace(socket: bool) {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let cluster = Cluster::start(&Options { socket, ..Options::default() });
    let clients = [cluster.pod(0, "client-1", "app: client"), cluster.pod(1, "client-2", "app: client")];
    let mut serving: Vec<Backend> = (0..BACKENDS).map(|n| Backend::start(&cluster, n)).collect();
    let write = |ready: &[Backend], terminating: &[&Backend]| {
        cluster.write("web.yaml", &manifests(ready, terminating));
    };
    write(&serving, &[]);
    let vip = SocketAddr::new(VIP.parse().expect("a literal address"), 80);
    let node_port = SocketAddr::new(cluster.nodes[0].ipv4, NODE_PORT);
    let place = |netns, node: usize, to| Place { netns, cgroup: cluster.nodes[node].cgroup.clone(), to };
    let mut places = vec![place(&clients[0].netns, 0, vip), place(&clients[1].netns, 1, vip)];
    match socket {
        true => {
            places.push(place(&cluster.nodes[0].netns, 0, node_port));
            places.push(place(&cluster.nodes[1].netns, 1, vip));
        }
        false => places.push(Place { netns: &cluster.outside, cgroup: None, to: node_port }),
    }
    for place in &places {
        assert!(eventually(PATIENCE, || place.answers()), "{} answers", place.to);
    }
    for node in cluster.nodes.iter().filter(|_| socket) {
        assert_eq!(node.status()["sockets"]["state"], "active");
    }
    assert_eq!(OUTSIDE_V4.parse(), Ok(Ipv4Addr::new(192, 168, 77, 200)));

    let (stop, newly, lasting) = (Arc::new(AtomicBool::new(false)), Tally::default(), Tally::default());
    let mut threads = Vec::new();
    for (n, place) in places.iter().enumerate() {
        // Two each: one that waits for an answer must not lower the rate much.
        for _ in 0..2 {
            threads.push(place.newcomers(2 * places.len() as u64, &newly, &stop));
        }
        let share = LONG / places.len() + usize::from(n < LONG % places.len());
        threads.extend((0..share).map(|_| place.stayer(&lasting, &stop)));
    }

    let rounds = if long() {
        60
    } else if socket {
        6
    } else {
        9
    };
    let begun = Instant::now();
    let mut ending: Vec<(Instant, Backend)> = Vec::new();
    let mut by_leave = 0;
    for n in 0..rounds {
        std::thread::sleep((begun + PERIOD * n).saturating_duration_since(Instant::now()));
        // A new one comes, and one that is there begins to end.
        serving.push(Backend::start(&cluster, BACKENDS + n as usize));
        ending.push((Instant::now(), serving.remove(0)));
        // Those whose grace is over say good-bye, and go once nobody is connected to them.
        for (since, backend) in &ending {
            backend.leaving.store(since.elapsed() > GRACE, Ordering::SeqCst);
        }
        let (gone, still): (Vec<_>, Vec<_>) = ending.into_iter().partition(|(_, backend)| {
            backend.leaving.load(Ordering::SeqCst) && backend.open.load(Ordering::SeqCst) == 0
        });
        ending = still;
        write(&serving, &ending.iter().map(|(_, backend)| backend).collect::<Vec<_>>());
        by_leave += gone.len();
        if !gone.is_empty() {
            // Whoever was given one of them in the last moment has his answer before it is removed.
            assert!(eventually(PATIENCE, || cluster.nodes.iter().all(|node| node.plan_is_empty())));
        }
        for (_, backend) in gone {
            assert!(eventually(PATIENCE, || backend.open.load(Ordering::SeqCst) == 0));
            cluster.detach(backend.pod);
        }
    }
    let took = begun.elapsed();
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("no client panics");
    }
    let count = |tally: &Tally| tally.done.load(Ordering::Relaxed);
    let failures: Vec<String> =
        [&newly, &lasting].iter().flat_map(|tally| tally.failures.lock().expect("ended").clone()).collect();
    let rate = count(&newly) as f64 / took.as_secs_f64();
    println!(
        "{rounds} backends replaced in {took:?}, {by_leave} gone; {} new connections ({rate:.0}/s), {LONG} long ones \
         ended {} times by leave; {} failed",
        count(&newly),
        count(&lasting),
        failures.len()
    );
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for failure in &failures {
        *kinds.entry(failure.rsplit(": ").next().unwrap_or(failure)).or_default() += 1;
    }
    assert!(failures.is_empty(), "{kinds:?}, first {:?}", &failures[..failures.len().min(10)]);
    assert!(count(&newly) >= u64::from(rounds) * RATE / 4, "the clients kept their rate");
    assert!(count(&lasting) >= LONG as u64, "they stayed");
}
