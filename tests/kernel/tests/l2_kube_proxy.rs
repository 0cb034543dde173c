//! Beside a kube-proxy (`load_balancer.kube_proxy_replacement = false`), whose rules the test writes: its ways from
//! outside, from pods and from the node to pods here and elsewhere; ours to ClusterIPs; masquerading of both at
//! once; and policy in all of them.

#[path = "kube_proxy/rules.rs"]
mod rules;
#[path = "kube_proxy/services.rs"]
mod services;

use cilium_tests_kernel::cluster::{OUTSIDE_V4, OUTSIDE_V6};
use cilium_tests_kernel::netns::succeed;
use cilium_tests_kernel::probe::{Answer, PATIENCE, ask_tcp, ask_udp, eventually, ping, serve, tcp};
use cilium_tests_kernel::services::{BALANCERS, Backend, PORT, TARGET, balancer, cluster_ip, ip, node_port};
use cilium_tests_kernel::{Cluster, Mode, Netns, Options, Pod};
use rules::{Proxy, Rules};
use services::Service;
use std::cell::{Cell, RefCell};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Numbers of the Services.
const NEAR: u8 = 21;
const FAR: u8 = 22;
const HERE: u8 = 23;
const THERE: u8 = 24;
const GUARDED: u8 = 25;
const FAR_GUARDED: u8 = 26;
const FENCED: u8 = 27;
const SHUT: u8 = 28;
const AWAY: u8 = 29;
/// That kube-proxy knows nothing of.
const OURS: u8 = 30;

const CLUSTER: [&str; 2] = ["10.77.0.0/16", "fd78::/16"];

/// Who may reach whom: friends the guarded, the host outside the fenced, nobody there is the shut; and the bound
/// reach no more than one pod.
const POLICIES: &str = "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: guarded, namespace: default}
spec: {endpointSelector: {matchLabels: {app: guarded}}, ingress: [{fromEndpoints: [{matchLabels: {app: friend}}]}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: fenced, namespace: default}
spec: {endpointSelector: {matchLabels: {app: fenced}}, ingress: [{fromCIDR: [192.168.77.200/32, \"fd77::200/128\"]}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: shut, namespace: default}
spec: {endpointSelector: {matchLabels: {app: shut}}, ingress: [{fromCIDR: [198.18.0.0/15, \"2001:db8:bad::/48\"]}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: bound, namespace: default}
spec: {endpointSelector: {matchLabels: {app: bound}}, egress: [{toEndpoints: [{matchLabels: {app: near}}]}]}
";

struct Stage {
    cluster: Cluster,
    mode: Mode,
    /// Whether kube-proxy knows the pods' addresses.
    told: bool,
    proxy: Proxy,
    pods: Vec<Pod>,
    cells: Cell<usize>,
    failed: RefCell<Vec<String>>,
}

fn feed(netns: &Netns, program: &str, args: &[&str], input: &str) {
    let mut command: Command = netns.command(program);
    let mut child =
        command.args(args).stdin(Stdio::piped()).spawn().unwrap_or_else(|e| panic!("{program}: {e}"));
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("write the rules");
    let status = child.wait().expect("wait for the program");
    assert!(status.success(), "{program}: {status}\n{input}");
}

impl Stage {
    fn set(mode: Mode, proxy: Proxy, told: bool) -> Self {
        let extra = "[load_balancer]\nkube_proxy_replacement = false\n".to_owned();
        let cluster = Cluster::start(&Options { mode, extra, socket: true, ..Options::default() });
        let mut pods = Vec::new();
        for (node, name, app) in [
            (0, "near", "near"),
            (1, "far", "far"),
            (0, "client", "friend"),
            (0, "stranger", "stranger"),
            (0, "guarded", "guarded"),
            (1, "far-guarded", "guarded"),
            (0, "fenced", "fenced"),
            (0, "shut", "shut"),
            (0, "bound", "bound"),
        ] {
            let pod = cluster.pod(node, name, &format!("app: {app}"));
            serve(&pod.netns, &pod.name, TARGET);
            pods.push(pod);
        }
        serve(&cluster.outside, "outside", TARGET);
        cluster.nodes_serve(TARGET);
        cluster.write("policies.yaml", POLICIES);
        let stage =
            Self { cluster, mode, told, proxy, pods, cells: Cell::new(0), failed: RefCell::new(Vec::new()) };
        let services = stage.services();
        let text: String = services.iter().map(Service::manifest).collect();
        stage.cluster.write("services.yaml", &text);
        stage.kube_proxy(&services[..services.len() - 1]);
        stage.warm();
        stage
    }

    fn services(&self) -> Vec<Service> {
        let of = |name: &str| Backend::from(self.pod(name));
        let service = |name, n, local, backend| Service { name, n, local, backend };
        vec![
            service("near", NEAR, false, of("near")),
            service("far", FAR, false, of("far")),
            service("here", HERE, true, of("near")),
            service("there", THERE, true, of("far")),
            service("guarded", GUARDED, false, of("guarded")),
            service("far-guarded", FAR_GUARDED, false, of("far-guarded")),
            service("fenced", FENCED, false, of("fenced")),
            service("shut", SHUT, false, of("shut")),
            service("away", AWAY, false, Backend::from(self.outside())),
            service("ours", OURS, false, of("far")),
        ]
    }

    /// What kube-proxy writes on both nodes.
    fn kube_proxy(&self, services: &[Service]) {
        for (at, node) in self.cluster.nodes.iter().enumerate() {
            let cluster = self.told.then_some(CLUSTER);
            let rules = Rules { services, node: at, cluster, addresses: node.addresses() };
            match self.proxy {
                Proxy::Iptables => {
                    feed(&node.netns, "iptables-restore", &["-w"], &rules.iptables(0));
                    feed(&node.netns, "ip6tables-restore", &["-w"], &rules.iptables(1));
                }
                Proxy::Nftables => feed(&node.netns, "nft", &["-f", "-"], &rules.nftables()),
            }
        }
        self.cluster.outside_asks_first_node(&[BALANCERS]);
    }

    /// Waits until everything is known, neighbours among it.
    fn warm(&self) {
        self.cluster.settle();
        let first = &self.cluster.nodes[0];
        for family in 0..2 {
            for pod in &self.pods {
                let to = pod.addresses()[family];
                let host = &self.cluster.nodes[pod.node].netns;
                eventually(Duration::from_secs(5), || ping(host, to, None));
                eventually(Duration::from_secs(5), || ping(&pod.netns, self.outside()[family], None));
            }
            let to = self.node(1)[family];
            assert!(eventually(Duration::from_secs(10), || ping(&first.netns, to, None)), "no way to {to}");
            let ready = || tcp(&self.pod("client").netns, cluster_ip(FAR)[family], PORT).is_some();
            assert!(eventually(Duration::from_secs(10), ready), "no ClusterIP:\n{}", first.log_tail());
        }
    }

    fn pod(&self, name: &str) -> &Pod {
        self.pods.iter().find(|pod| pod.name == name).unwrap_or_else(|| panic!("there is no pod {name}"))
    }

    fn of(&self, name: &str) -> [IpAddr; 2] {
        self.pod(name).addresses()
    }

    fn node(&self, n: usize) -> [IpAddr; 2] {
        self.cluster.nodes[n].addresses()
    }

    fn outside(&self) -> [IpAddr; 2] {
        [OUTSIDE_V4, OUTSIDE_V6].map(ip)
    }

    fn router(&self, n: usize) -> [IpAddr; 2] {
        self.cluster.router(n)
    }

    /// What a backend of the other node sees when kube-proxy of the first one masquerades.
    fn lent(&self) -> [IpAddr; 2] {
        self.cluster.lent(self.mode)
    }

    /// Every family and protocol from a client to a place; `server` none: nobody answers.
    fn cell(
        &self,
        what: &str,
        from: &Netns,
        (to, port): ([IpAddr; 2], u16),
        server: Option<&str>,
        seen: Option<[IpAddr; 2]>,
    ) {
        for family in 0..2 {
            let at = SocketAddr::new(to[family], port);
            let patience = if server.is_some() { Duration::from_secs(2) } else { PATIENCE };
            for (proto, ask) in
                [("TCP", ask_tcp as fn(SocketAddr, Duration) -> Option<Answer>), ("UDP", ask_udp)]
            {
                self.cells.set(self.cells.get() + 1);
                let answer = from.enter(|| ask(at, patience));
                let shown = answer.as_ref().map_or_else(
                    || "no answer".to_owned(),
                    |answer| format!("{} sees {}", answer.server, answer.client),
                );
                let right = match (&answer, server) {
                    (None, None) => true,
                    (Some(answer), Some(server)) => {
                        answer.server == server && seen.is_none_or(|seen| seen[family] == answer.client)
                    }
                    _ => false,
                };
                println!("  {} {what}: {proto} {at}: {shown}", if right { "ok  " } else { "FAIL" });
                if !right {
                    let wanted = seen.map_or_else(String::new, |seen| format!(" sees {}", seen[family]));
                    let wanted = format!("{}{wanted}", server.unwrap_or("no answer"));
                    self.failed.borrow_mut().push(format!("{what}: {proto} {at}: {shown}, not {wanted}"));
                }
            }
        }
    }

    fn clients_outside(&self) {
        let outside = &self.cluster.outside;
        let ports = |node: usize, n: u8| (self.node(node), node_port(n));
        let (own, router, lent) = (Some(self.outside()), Some(self.router(0)), Some(self.lent()));
        self.cell("outside to NodePort, backend here", outside, ports(0, NEAR), Some("near"), router);
        self.cell("outside to NodePort, backend elsewhere", outside, ports(0, FAR), Some("far"), lent);
        self.cell(
            "outside to LoadBalancer, backend here",
            outside,
            (balancer(NEAR), PORT),
            Some("near"),
            router,
        );
        self.cell("outside to LoadBalancer, elsewhere", outside, (balancer(FAR), PORT), Some("far"), lent);
        self.cell("outside to NodePort, Local", outside, ports(0, HERE), Some("near"), own);
        self.cell("outside to NodePort, Local, node 2", outside, ports(1, THERE), Some("far"), own);
        self.cell("outside to LoadBalancer, Local", outside, (balancer(HERE), PORT), Some("near"), own);
        self.cell("outside to what kube-proxy does not serve", outside, ports(0, OURS), None, None);
        self.cell("outside to NodePort, Local, none here", outside, ports(0, THERE), None, None);
    }

    fn pods(&self) {
        let client = &self.pod("client").netns;
        let ports = |node: usize, n: u8| (self.node(node), node_port(n));
        let own = Some(self.of("client"));
        let (router, lent) = (Some(self.router(0)), Some(self.lent()));
        self.cell("pod to ClusterIP, backend here", client, (cluster_ip(NEAR), PORT), Some("near"), own);
        self.cell("pod to ClusterIP, backend elsewhere", client, (cluster_ip(FAR), PORT), Some("far"), own);
        self.cell("pod to our ClusterIP", client, (cluster_ip(OURS), PORT), Some("far"), own);
        self.cell("pod to what kube-proxy does not serve", client, ports(0, OURS), None, None);
        self.cell("pod to NodePort, backend here", client, ports(0, NEAR), Some("near"), router);
        self.cell("pod to NodePort, backend elsewhere", client, ports(0, FAR), Some("far"), lent);
        self.cell("pod to node 2's NodePort, backend at node 1", client, ports(1, NEAR), Some("near"), None);
        self.cell(
            "pod to node 2's NodePort, backend there",
            client,
            ports(1, FAR),
            Some("far"),
            Some(self.router(1)),
        );
        // Node 2 has none, or sends it back with the pod's own address, which nobody outside has.
        self.cell("pod to node 2's NodePort, Local, here", client, ports(1, HERE), None, None);
        self.cell("pod to LoadBalancer, backend here", client, (balancer(NEAR), PORT), Some("near"), router);
        self.cell("pod to LoadBalancer, elsewhere", client, (balancer(FAR), PORT), Some("far"), lent);
        self.cell("pod to NodePort, Local, here", client, ports(0, HERE), Some("near"), own);
        // Told where pods are, kube-proxy takes their packets for the cluster's own: to any backend, as they are.
        let there = self.told.then_some("far");
        self.cell("pod to NodePort, Local, elsewhere", client, ports(0, THERE), there, own);
        self.cell("pod to itself by NodePort", &self.pod("near").netns, ports(0, NEAR), Some("near"), router);
        self.cell(
            "pod to itself by ClusterIP",
            &self.pod("near").netns,
            (cluster_ip(NEAR), PORT),
            Some("near"),
            router,
        );
    }

    fn hosts(&self) {
        let host = &self.cluster.nodes[0].netns;
        let ports = |n: u8| (self.node(0), node_port(n));
        self.cell("host to ClusterIP, backend here", host, (cluster_ip(NEAR), PORT), Some("near"), None);
        // By an address of the overlay, or the answer would come beside it.
        let seen = Some(self.lent());
        self.cell("host to ClusterIP, elsewhere", host, (cluster_ip(FAR), PORT), Some("far"), seen);
        self.cell("host to our ClusterIP", host, (cluster_ip(OURS), PORT), None, None);
        self.cell("host to NodePort, backend here", host, ports(NEAR), Some("near"), None);
        self.cell("host to NodePort, backend elsewhere", host, ports(FAR), Some("far"), None);
        self.cell("host to LoadBalancer, elsewhere", host, (balancer(FAR), PORT), Some("far"), None);
        self.cell("host to NodePort, Local, elsewhere", host, ports(THERE), Some("far"), None);
    }

    /// What needs no Service works as ever.
    fn plain(&self) {
        let client = &self.pod("client").netns;
        let own = Some(self.of("client"));
        self.cell("pod to outside", client, (self.outside(), TARGET), Some("outside"), Some(self.node(0)));
        self.cell("pod to pod here", client, (self.of("near"), TARGET), Some("near"), own);
        self.cell("pod to pod elsewhere", client, (self.of("far"), TARGET), Some("far"), own);
        self.cell("pod to its host", client, (self.node(0), TARGET), Some("n1"), own);
        self.cell("pod to the other host", client, (self.node(1), TARGET), Some("n2"), None);
        let host = &self.cluster.nodes[0].netns;
        self.cell("host to its pod", host, (self.of("near"), TARGET), Some("near"), None);
        self.cell("host to pod elsewhere", host, (self.of("far"), TARGET), Some("far"), None);
        self.cell("host to outside", host, (self.outside(), TARGET), Some("outside"), Some(self.node(0)));
        let seen = Some(self.node(0));
        self.cell("pod to LoadBalancer, outside", client, (balancer(AWAY), PORT), Some("outside"), seen);
        self.cell("pod to ClusterIP, outside", client, (cluster_ip(AWAY), PORT), Some("outside"), seen);
    }

    /// Of one source port, to one place: two pods, the node, and a pod whose packets kube-proxy masquerades.
    fn one_port(&self) {
        let netns = |name: &str| &self.pod(name).netns;
        let direct = self.outside().map(|ip| SocketAddr::new(ip, TARGET));
        let balanced = balancer(AWAY).map(|ip| SocketAddr::new(ip, PORT));
        let who = [
            (netns("client"), direct),
            (&self.cluster.nodes[0].netns, direct),
            (netns("stranger"), direct),
            (netns("near"), balanced),
        ];
        for family in 0..2 {
            let any: IpAddr = ["0.0.0.0", "::"][family].parse().expect("a literal address");
            let sockets: Vec<UdpSocket> = who
                .iter()
                .map(|(from, to)| {
                    from.enter(|| {
                        let socket = UdpSocket::bind((any, 45_000)).expect("a free port");
                        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
                        socket.connect(to[family]).expect("connect");
                        socket
                    })
                })
                .collect();
            for _ in 0..3 {
                for socket in &sockets {
                    socket.send(b"?").expect("send");
                }
                for (socket, (from, _)) in sockets.iter().zip(&who) {
                    self.cells.set(self.cells.get() + 1);
                    let mut buffer = [0; 64];
                    if let Err(e) = socket.recv(&mut buffer) {
                        let from = from.name();
                        self.failed.borrow_mut().push(format!("port 45000 of {from}, family {family}: {e}"));
                    }
                }
            }
        }
    }

    fn policy(&self) {
        let netns = |name: &str| &self.pod(name).netns;
        let ports = |n: u8| (self.node(0), node_port(n));
        let outside = &self.cluster.outside;
        let guarded = Some("guarded");
        self.cell("friend to LoadBalancer", netns("client"), (balancer(GUARDED), PORT), guarded, None);
        self.cell("stranger to LoadBalancer", netns("stranger"), (balancer(GUARDED), PORT), None, None);
        self.cell("friend to NodePort", netns("client"), ports(GUARDED), guarded, None);
        self.cell("stranger to NodePort", netns("stranger"), ports(GUARDED), None, None);
        self.cell("friend to ClusterIP", netns("client"), (cluster_ip(GUARDED), PORT), guarded, None);
        self.cell("stranger to ClusterIP", netns("stranger"), (cluster_ip(GUARDED), PORT), None, None);
        self.cell("outside to the guarded's NodePort", outside, ports(GUARDED), None, None);
        self.cell("outside to the far guarded's NodePort", outside, ports(FAR_GUARDED), None, None);
        // Masqueraded beside the tunnel it is the node that asks.
        let far = (self.mode == Mode::Tunnel).then_some("far-guarded");
        self.cell(
            "friend to LoadBalancer, elsewhere",
            netns("client"),
            (balancer(FAR_GUARDED), PORT),
            far,
            None,
        );
        self.cell("stranger to it", netns("stranger"), (balancer(FAR_GUARDED), PORT), None, None);
        self.cell("outside to the fenced's NodePort", outside, ports(FENCED), Some("fenced"), None);
        self.cell("pod to the fenced's NodePort", netns("client"), ports(FENCED), None, None);
        self.cell("outside to the shut's NodePort", outside, ports(SHUT), None, None);
        self.cell(
            "host to the shut's NodePort",
            &self.cluster.nodes[0].netns,
            ports(SHUT),
            Some("shut"),
            None,
        );
        self.cell("bound to ClusterIP", netns("bound"), (cluster_ip(NEAR), PORT), Some("near"), None);
        self.cell("bound to LoadBalancer", netns("bound"), (balancer(NEAR), PORT), None, None);
    }

    /// Packets that netfilter saw without what came before them, which kube-proxy drops.
    fn invalid(&self, node: usize) -> u64 {
        let netns = &self.cluster.nodes[node].netns;
        let count = |text: &str, line: &str, at: usize| -> u64 {
            let lines: Vec<&str> = text.lines().filter(|l| l.contains(line)).collect();
            assert!(!lines.is_empty(), "no {line:?} in:\n{text}");
            let number = |l: &&str| l.split_whitespace().nth(at).and_then(|n| n.parse::<u64>().ok());
            lines.iter().map(|l| number(l).unwrap_or_else(|| panic!("no count: {l}"))).sum()
        };
        let shown = |program: &str, args: &str| {
            let output = succeed(netns.command(program).args(args.split(' ')));
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        match self.proxy {
            Proxy::Iptables => ["iptables", "ip6tables"]
                .map(|program| count(&shown(program, "-w -nvxL KUBE-FORWARD"), "INVALID", 0))
                .iter()
                .sum(),
            // `ct state invalid counter packets 0 bytes 0 drop`
            Proxy::Nftables => count(&shown("nft", "list ruleset"), "ct state invalid counter", 5),
        }
    }

    fn end(self) {
        for node in 0..2 {
            let invalid = self.invalid(node);
            if invalid != 0 {
                let told = format!("n{}: netfilter saw {invalid} packets out of turn", node + 1);
                self.failed.borrow_mut().push(told);
            }
        }
        self.cluster.settle();
        let failed = self.failed.into_inner();
        let what = format!(
            "{:?}, {:?}, pod CIDR {}",
            self.mode,
            self.proxy,
            if self.told { "told" } else { "unknown" }
        );
        println!("{what}: {} cells", self.cells.get());
        assert!(failed.is_empty(), "{what}:\n  {}", failed.join("\n  "));
    }
}

fn matrix(mode: Mode, proxy: Proxy, told: bool) {
    let stage = Stage::set(mode, proxy, told);
    stage.plain();
    stage.clients_outside();
    stage.pods();
    stage.hosts();
    stage.one_port();
    stage.policy();
    stage.end();
}

#[test]
fn tunnel_iptables() {
    matrix(Mode::Tunnel, Proxy::Iptables, true);
}

#[test]
fn tunnel_nftables() {
    matrix(Mode::Tunnel, Proxy::Nftables, false);
}

#[test]
fn native_iptables() {
    matrix(Mode::Native, Proxy::Iptables, false);
}

#[test]
fn native_nftables() {
    matrix(Mode::Native, Proxy::Nftables, true);
}
