//! The matrix of Services: every kind of frontend, with a backend on the node asked and with one elsewhere, from
//! pods, nodes and a machine outside. Each cell is asked once, with what the backend is to see. `matrix.md` lists
//! them, and what is not run with its reason; `CILIUM_BLESS=1` writes it anew.

use cilium_tests_kernel::cluster::{OUTSIDE_V4, OUTSIDE_V6};
use cilium_tests_kernel::matrix::{
    Backend, Cell, Client, Forwarding, Frontend, Hook, Plan, Proto, Record, Setup,
};
use cilium_tests_kernel::probe::{Answer, PATIENCE, ask_tcp, ask_udp, eventually, serve};
use cilium_tests_kernel::services::{
    BALANCERS, CLUSTER_IPS, EXTERNALS, PORT, TARGET, balancer, cluster_ip, external, ip, node_port,
    with_host_port,
};
use cilium_tests_kernel::{Cluster, Mode, Netns, Options, Pod, Service};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

const HOST_PORT: u16 = 8081;
const WAIT: Duration = Duration::from_secs(15);
const LOCAL: &str = "  externalTrafficPolicy: Local\n  internalTrafficPolicy: Local\n";

/// Numbers of the Services, of which their addresses and ports are made.
fn number(backend: Backend, local: bool) -> u8 {
    20 + u8::from(backend == Backend::Far) + 2 * u8::from(local)
}

/// Two nodes with a backend and a client each.
struct Stage {
    cluster: Cluster,
    _cards: Vec<OwnedFd>,
    setup: Setup,
    near: Pod,
    far: Pod,
    clients: [Pod; 2],
}

impl Stage {
    fn set(setup: Setup) -> Self {
        let acceleration = if setup.hook == Hook::Drivers { "native" } else { "disabled" };
        let extra =
            format!("[load_balancer]\nmode = \"{}\"\nacceleration = \"{acceleration}\"\n", setup.forwarding);
        let socket = setup.hook == Hook::Sockets;
        let cluster = Cluster::start(&Options { mode: setup.mode, extra, socket, ..Options::default() });
        let cards = if setup.hook == Hook::Drivers { cluster.like_cards() } else { Vec::new() };
        cluster.write("pod-default-near.yaml", &with_host_port(HOST_PORT));
        let near = cluster.attach(0, "near");
        let far = cluster.pod(1, "far", "app: far");
        let clients = [cluster.pod(0, "client", "app: client"), cluster.pod(1, "other", "app: client")];
        for pod in [&near, &far] {
            serve(&pod.netns, &pod.name, TARGET);
        }
        let mut text = String::new();
        for (backend, pod) in [(Backend::Near, &near), (Backend::Far, &far)] {
            for local in [false, true] {
                let n = number(backend, local);
                let spec = if local { LOCAL } else { "" };
                let service = Service { spec, ..Service::numbered(&format!("s{n}"), n, &[pod]) }.manifest();
                text.push_str(&service);
            }
        }
        cluster.write("services.yaml", &text);
        cluster.outside_asks_first_node(&[BALANCERS, EXTERNALS, CLUSTER_IPS]);
        let stage = Self { cluster, _cards: cards, setup, near, far, clients };
        stage.warm();
        stage
    }

    /// Waits until every client has asked every node and backend: neighbours are known, Services are there.
    fn warm(&self) {
        self.cluster.settle();
        for cell in Cell::all().filter(|cell| cell.setup() == self.setup && !cell.is_refused()) {
            if matches!(cell.frontend, Frontend::NodePort) && matches!(cell.plan(), Plan::Run(_)) {
                eventually(WAIT, || self.ask(cell).is_some());
            }
        }
        self.cluster.settle();
    }

    fn node(&self, n: usize) -> [IpAddr; 2] {
        self.cluster.nodes[n].addresses()
    }

    fn place(&self, cell: Cell) -> SocketAddr {
        use Frontend::{
            ClusterIp, ClusterIpLocal, ExternalIp, ExternalIpLocal, HostPort, LoadBalancer,
            LoadBalancerLocal, NodePort, NodePortLocal,
        };
        let local =
            matches!(cell.frontend, ClusterIpLocal | NodePortLocal | LoadBalancerLocal | ExternalIpLocal);
        let n = number(cell.backend, local);
        let (addrs, port) = match cell.frontend {
            ClusterIp | ClusterIpLocal => (cluster_ip(n), PORT),
            NodePort | NodePortLocal => (self.node(0), node_port(n)),
            LoadBalancer | LoadBalancerLocal => (balancer(n), PORT),
            ExternalIp | ExternalIpLocal => (external(n), PORT),
            HostPort => (self.node(0), HOST_PORT),
        };
        SocketAddr::new(addrs[usize::from(cell.ipv6)], port)
    }

    fn netns(&self, client: Client) -> &Netns {
        match client {
            Client::Pod => &self.clients[0].netns,
            Client::OtherPod => &self.clients[1].netns,
            Client::Host => &self.cluster.nodes[0].netns,
            Client::OtherHost => &self.cluster.nodes[1].netns,
            Client::Outside => &self.cluster.outside,
        }
    }

    fn ask(&self, cell: Cell) -> Option<Answer> {
        let to = self.place(cell);
        let at = match cell.client {
            Client::Pod | Client::Host => Some(0),
            Client::OtherPod | Client::OtherHost => Some(1),
            Client::Outside => None,
        };
        let cgroup = at.and_then(|n: usize| self.cluster.nodes[n].cgroup.as_ref());
        self.netns(cell.client).enter(|| {
            cgroup.into_iter().for_each(|cgroup| cgroup.enter());
            match cell.proto {
                Proto::Tcp => ask_tcp(to, PATIENCE),
                Proto::Udp => ask_udp(to, PATIENCE),
            }
        })
    }

    /// Whom the backend is to see.
    fn seen(&self, cell: Cell) -> IpAddr {
        let tunnel = self.setup.mode == Mode::Tunnel;
        let pods = [0, 1].map(|n: usize| self.clients[n].addresses());
        // Whom the first node meets at its device.
        let comes_as = match cell.client {
            Client::Pod => pods[0],
            // On its way to a node a pod is masqueraded, but for routed pods.
            Client::OtherPod if cell.comes_by_device() && tunnel => self.node(1),
            Client::OtherPod => pods[1],
            Client::Host => self.host(0, cell),
            Client::OtherHost if cell.comes_by_device() => self.node(1),
            Client::OtherHost => self.host(1, cell),
            Client::Outside => [ip(OUTSIDE_V4), ip(OUTSIDE_V6)],
        };
        // Who is of the cluster is lent an address in any case.
        let direct = self.setup.forwarding == Forwarding::Dsr && cell.client == Client::Outside;
        let lent = !direct && cell.comes_by_device() && cell.backend == Backend::Far;
        let seen = if lent { self.cluster.lent(self.setup.mode) } else { comes_as };
        seen[usize::from(cell.ipv6)]
    }

    /// The address with which a node itself asks the backend.
    fn host(&self, n: usize, cell: Cell) -> [IpAddr; 2] {
        let here = (n == 0) == (cell.backend == Backend::Near);
        match here || self.setup.mode == Mode::Tunnel {
            true => self.cluster.router(n),
            false => self.node(n),
        }
    }

    fn wrong(&self, cell: Cell) -> Option<String> {
        let server = match cell.backend {
            Backend::Near => &self.near,
            Backend::Far => &self.far,
        };
        match self.ask(cell) {
            None if cell.is_refused() => None,
            None => Some(format!("no answer; asked once more: {:?}", self.ask(cell))),
            Some(answer) if cell.is_refused() => Some(format!("answered by {}", answer.server)),
            Some(answer) if answer.server != server.name => Some(format!("answered by {}", answer.server)),
            Some(answer) => {
                let want = self.seen(cell);
                (answer.client != want).then(|| format!("seen as {} instead of {want}", answer.client))
            }
        }
    }
}

fn run(test: &'static str) {
    let record = Record::of(test);
    let cells: Vec<Cell> = record.cells().collect();
    let stage = Stage::set(cells.first().expect("it has cells").setup());
    // Both protocols and families of what is asked at once.
    for four in cells.chunks(4) {
        std::thread::scope(|scope| {
            for cell in four {
                scope.spawn(|| record.ran(*cell, stage.wrong(*cell)));
            }
        });
    }
    record.end();
}

#[test]
fn tunnel() {
    run("l2_services::tunnel");
}

#[test]
fn tunnel_drivers() {
    run("l2_services::tunnel_drivers");
}

#[test]
fn tunnel_sockets() {
    run("l2_services::tunnel_sockets");
}

#[test]
fn tunnel_dsr() {
    run("l2_services::tunnel_dsr");
}

#[test]
fn tunnel_dsr_drivers() {
    run("l2_services::tunnel_dsr_drivers");
}

#[test]
fn native_dsr() {
    run("l2_services::native_dsr");
}

#[test]
fn vm_native_dsr_drivers() {
    run("l2_services::vm_native_dsr_drivers");
}

#[test]
fn native() {
    run("l2_services::native");
}

#[test]
fn vm_native_drivers() {
    run("l2_services::vm_native_drivers");
}

#[test]
fn vm_native_sockets() {
    run("l2_services::vm_native_sockets");
}

/// The listing: a line per frontend, backend and client, a column per way nodes can be; each stands for TCP and UDP
/// in both families.
fn listing() -> String {
    let mut columns: Vec<(String, BTreeMap<_, Plan>)> = Vec::new();
    for setup in Setup::all() {
        let cells = Cell::all().filter(|cell| cell.setup() == setup);
        let mut plans: BTreeMap<_, Plan> = BTreeMap::new();
        for cell in cells {
            let plan = plans.entry((cell.frontend, cell.backend, cell.client)).or_insert(cell.plan());
            assert_eq!(*plan, cell.plan(), "{cell}: a line stands for all protocols and families");
        }
        columns.push((setup.to_string(), plans));
    }
    let plans = || columns.iter().flat_map(|(_, plans)| plans.values());
    let skipped: BTreeSet<&str> =
        plans().filter_map(|plan| if let Plan::Skip(why) = plan { Some(*why) } else { None }).collect();
    let letters: BTreeMap<&str, char> = skipped.into_iter().zip('a'..='z').collect();
    let (run, all) = (plans().filter(|p| matches!(p, Plan::Run(_))).count() * 4, plans().count() * 4);
    let mut text = format!(
        "# Cells of load balancing\n\nWritten by `tests/kernel/tests/l2_services.rs` (`CILIUM_BLESS=1`) from \
         `tests/kernel/src/matrix.rs`. {run} of {all} cells\nare run. Each entry stands for TCP and UDP in IPv4 and \
         IPv6: `run` by the test at the head of the column, with the\nsource address that the backend sees; `refused` \
         is run, too, and no answer may come. A letter is the reason why it is\nskipped. The node asked is the first \
         one; \"here\" is there.\n\n"
    );
    for (why, letter) in &letters {
        let _ = writeln!(text, "* {letter}: {why}");
    }
    text.push('\n');
    for (at, (setup, plans)) in columns.iter().enumerate() {
        let tests: BTreeSet<&str> =
            plans.values().filter_map(|p| if let Plan::Run(test) = p { Some(*test) } else { None }).collect();
        let tests = tests.into_iter().map(|test| format!("`{test}`")).collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "{}. {setup}: {}", at + 1, if tests.is_empty() { "nobody" } else { &tests });
    }
    let heads: String = (1..=columns.len()).map(|n| format!(" {n} |")).collect();
    let _ = write!(text, "\n| client | frontend | backend |{heads}\n|---|---|---|");
    text.push_str(&"---|".repeat(columns.len()));
    text.push('\n');
    for (frontend, backend, client) in columns[0].1.keys() {
        let _ = write!(text, "| {client} | {frontend} | {backend} |");
        for cell in Setup::all().map(|setup| cell_of(*frontend, *backend, *client, setup)) {
            let entry = match cell.plan() {
                Plan::Run(_) if cell.is_refused() => "refused".to_owned(),
                Plan::Run(_) => "run".to_owned(),
                Plan::Skip(why) => letters[why].to_string(),
            };
            let _ = write!(text, " {entry} |");
        }
        text.push('\n');
    }
    text
}

fn cell_of(frontend: Frontend, backend: Backend, client: Client, setup: Setup) -> Cell {
    let Setup { mode, forwarding, hook } = setup;
    let (tunnel, proto, ipv6) = (mode == Mode::Tunnel, Proto::Tcp, false);
    Cell { frontend, backend, client, tunnel, forwarding, hook, proto, ipv6 }
}

/// Every cell is run by a test that is there, or skipped with a reason; and the committed list says so.
#[test]
fn the_list_is_in_date_and_leaves_no_cell_out() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut run, mut skipped) = (BTreeMap::<_, usize>::new(), BTreeMap::<_, usize>::new());
    for cell in Cell::all() {
        match cell.plan() {
            Plan::Run(test) => *run.entry(test).or_default() += 1,
            Plan::Skip(why) => *skipped.entry(why).or_default() += 1,
        }
    }
    for (test, count) in &run {
        println!("run: {count} cells by {test}");
        let (binary, function) = test.split_once("::").expect("a binary and a function");
        let file = folder.join(format!("tests/{binary}.rs"));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert!(text.contains(&format!("#[test]\nfn {function}()")), "{test} is no test");
        assert!(text.contains(&format!("\"{test}\"")), "{test} does not say what it ran");
    }
    skipped.iter().for_each(|(why, count)| println!("skipped: {count} cells: {why}"));
    assert!(run.values().sum::<usize>() >= 160, "{run:?}");
    let (file, text) = (folder.join("matrix.md"), listing());
    if std::env::var_os("CILIUM_BLESS").is_some() {
        std::fs::write(&file, &text).expect("write matrix.md");
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(committed == text, "{} is out of date: CILIUM_BLESS=1 writes it", file.display());
}

/// The node asked decides for clients that come by its device, their own node for all others.
#[test]
fn a_cell_knows_where_it_is_decided() {
    let find = |frontend, client| {
        let setup = Setup { mode: Mode::Native, forwarding: Forwarding::Snat, hook: Hook::Packets };
        cell_of(frontend, Backend::Far, client, setup)
    };
    assert!(find(Frontend::NodePort, Client::OtherPod).comes_by_device());
    assert!(!find(Frontend::LoadBalancer, Client::OtherPod).comes_by_device());
    assert!(find(Frontend::NodePortLocal, Client::Outside).is_refused());
    assert!(!find(Frontend::NodePortLocal, Client::Pod).is_refused());
    assert!(find(Frontend::ClusterIpLocal, Client::Pod).is_refused());
    assert!(!find(Frontend::ClusterIpLocal, Client::OtherPod).is_refused());
}
