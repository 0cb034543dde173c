//! D5 to D9: connections through a Service among many, per packet and at sockets, beside the same layout without it and
//! beside kube-proxy's rules; all at once, each in namespaces of its own.

use crate::figure::{Figure, Goal, Verdict};
use crate::kubeproxy::{self, nth};
use crate::manifests::{service, service_ip, services};
use crate::race::{ROUNDS, Race, void};
use crate::topology::{Pair, ROUTED_SERVER, Reference, kube_proxy, pair, pair_with};
use crate::traffic::{ECHO, Path, Server, Work};
use anyhow::{Result, bail};
use cilium_tests_kernel::cgroup::Cgroup;
use cilium_tests_kernel::probe::eventually;
use cilium_tests_kernel::{Cluster, Options};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

/// How many Services there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    few: u32,
    some: u32,
    many: u32,
}

impl Sizes {
    /// Those of the goals.
    pub(crate) const GOAL: Self = Self { few: 10, some: 1_000, many: 10_000 };
    /// To try the machinery.
    pub(crate) const SMALL: Self = Self { few: 10, some: 30, many: 100 };
}

/// Backends of each Service, also of those that are asked.
const BACKENDS: u32 = 3;
/// Ports of the one server that are the backends.
const PORTS: [u16; 3] = [ECHO, 5011, 5021];
/// Ports of the server with as many backends as a Service may well have.
const WIDE: std::ops::Range<u16> = 5101..5201;
/// Port of the Services that are asked.
const FRONT: u16 = 80;

/// Default deny on both sides; what passes has a rule with ports.
const POLICY: &str = "---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: servers, namespace: default}
spec:
  endpointSelector: {matchLabels: {role: server}}
  ingress:
  - fromEndpoints: [{matchLabels: {role: client}}]
    toPorts: [{ports: [{port: \"5001\", endPort: 5200, protocol: TCP}]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: clients, namespace: default}
spec:
  endpointSelector: {matchLabels: {role: client}}
  egress:
  - toEndpoints: [{matchLabels: {role: server}}]
    toPorts: [{ports: [{port: \"5001\", endPort: 5200, protocol: TCP}]}]
";

/// Ten thousand rows for the servers of role `ruled`, beside those that let their clients in.
fn many_rows() -> String {
    let peers: Vec<String> = (0..100).map(|n| format!("\"198.18.{n}.0/24\"")).collect();
    let ports = |n: u32| -> String {
        let ports: Vec<String> =
            (0..25).map(|i| format!("{{port: \"{}\", protocol: TCP}}", 20_000 + n * 1_000 + i * 2)).collect();
        ports.join(", ")
    };
    let rules: Vec<String> = (0..4)
        .map(|n| format!("  - fromCIDR: [{}]\n    toPorts: [{{ports: [{}]}}]\n", peers.join(", "), ports(n)))
        .collect();
    format!(
        "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: rows, namespace: default}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{rows: many}}}}\n  ingress:\n{}",
        rules.concat()
    )
}

/// Where a Service is translated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Translated {
    /// In each packet.
    PerPacket,
    /// When a socket connects.
    AtSockets,
}

/// A node of ours among so many Services.
struct Shop {
    pair: Pair,
    vip: SocketAddr,
    cluster: Cluster,
}

/// The pair's server behind a Service: its ports are the backends.
fn front(cluster: &Cluster, name: &str, pair: &Pair, at: Ipv4Addr, ports: &[u16]) -> Result<SocketAddr> {
    let IpAddr::V4(address) = pair.server.address else { bail!("servers have IPv4") };
    let beyond = ports.iter().copied().filter(|port| *port != ECHO);
    Server::also(&pair.pod.netns, beyond)?;
    let at = SocketAddrV4::new(at, FRONT);
    let backends: Vec<SocketAddrV4> = ports.iter().map(|port| SocketAddrV4::new(address, *port)).collect();
    cluster.write(&format!("{name}.yaml"), &service(name, at, &backends));
    Ok(at.into())
}

impl Shop {
    fn open(count: u32, translated: Translated) -> Result<Self> {
        let socket = translated == Translated::AtSockets;
        let mut cluster = Cluster::prepare(&Options { nodes: 1, socket, ..Options::default() });
        for (name, text) in services(count - 1, BACKENDS) {
            cluster.write(&name, &text);
        }
        cluster.write("policy.yaml", &(POLICY.to_owned() + &many_rows()));
        cluster.nodes[0].start_agent();
        cluster.nodes[0].wait_healthy(Duration::from_secs(60));
        let pair = pair(&cluster, "asked", 0, 0)?;
        let vip = front(&cluster, "asked", &pair, service_ip(count), &PORTS)?;
        let shop = Self { pair, vip, cluster };
        shop.wait(vip, &shop.pair)?;
        Ok(shop)
    }

    fn wait(&self, vip: SocketAddr, pair: &Pair) -> Result<()> {
        let path = Path::new("ours", &pair.client.netns, &pair.server).by(vip).of(self.cgroup());
        if !eventually(Duration::from_secs(30), || path.answers()) {
            bail!("{vip} does not answer\n{}", self.cluster.nodes[0].log_tail());
        }
        Ok(())
    }

    fn way<'a>(&'a self, name: &'static str) -> Path<'a> {
        Path::new(name, &self.pair.client.netns, &self.pair.server).by(self.vip).of(self.cgroup())
    }

    fn cgroup(&self) -> Option<&Cgroup> {
        self.cluster.nodes[0].cgroup.as_deref()
    }
}

/// What kube-proxy would make of so many Services, of which the one in the middle is asked: as far from the first
/// rule as a connection meets it on average.
struct KubeProxy {
    reference: Reference,
    vip: SocketAddr,
}

impl KubeProxy {
    fn open(count: u32, load: &str, text: fn(&[kubeproxy::Service]) -> String) -> Result<Self> {
        let vip = SocketAddrV4::new(service_ip(count), FRONT);
        let mut all: Vec<kubeproxy::Service> = (0..count - 1).map(|n| nth(n, BACKENDS)).collect();
        all.insert(
            (count / 2) as usize,
            kubeproxy::Service {
                name: "asked".into(),
                at: vip,
                backends: PORTS.map(|port| SocketAddrV4::new(ROUTED_SERVER, port)).to_vec(),
            },
        );
        let reference = kube_proxy(load, &text(&all), &PORTS[1..])?;
        let made = Self { reference, vip: vip.into() };
        if !eventually(Duration::from_secs(10), || made.way("kube-proxy").answers()) {
            bail!("{load}: {vip} does not answer");
        }
        Ok(made)
    }

    fn way<'a>(&'a self, name: &'static str) -> Path<'a> {
        Path::new(name, &self.reference.client, &self.reference.server).by(self.vip)
    }
}

/// The input of iptables-restore and of nft.
const IPTABLES: &str = "iptables-restore -w";
const NFT: &str = "nft -f -";

/// Everything.
pub(crate) fn run(sizes: Sizes, wanted: &dyn Fn(&str) -> bool, most: usize) -> Result<Vec<Figure>> {
    let Sizes { few, some, many } = sizes;
    let [ours, again] = [Shop::open(many, Translated::PerPacket)?, Shop::open(many, Translated::PerPacket)?];
    let direct = pair(&ours.cluster, "direct", 0, 0)?;
    let mut out = Vec::new();
    if ["D5", "D6", "D7", "D8"].into_iter().any(wanted) {
        let [mid, ten] = [Shop::open(some, Translated::PerPacket)?, Shop::open(few, Translated::PerPacket)?];
        let wide = Wide::open(&ours, many)?;
        let ruled = ruled_pair(&ours.cluster)?;
        let sockets = Shop::open(many, Translated::AtSockets)?;
        let past = pair(&sockets.cluster, "direct", 0, 0)?;
        eprintln!("bench: rules of kube-proxy");
        let iptables = KubeProxy::open(many, IPTABLES, kubeproxy::iptables)?;
        let iptables_ten = KubeProxy::open(few, IPTABLES, kubeproxy::iptables)?;
        let nft = KubeProxy::open(many, NFT, kubeproxy::nftables)?;
        for shop in [&ours, &again, &mid, &ten, &sockets] {
            shop.cluster.settle();
        }
        let ways = vec![
            ours.way("many Services"),
            again.way("many Services again"),
            Path::new("own direct path", &direct.client.netns, &direct.server),
            mid.way("some Services"),
            ten.way("few Services"),
            iptables.way("iptables, many"),
            nft.way("nftables, many"),
            iptables_ten.way("iptables, few"),
            Path::new("one backend each", &wide.ones.client.netns, &wide.ones.server)
                .by_turns(wide.ones_at.clone()),
            Path::new("100 backends", &wide.hundred.client.netns, &wide.hundred.server).by(wide.hundred_at),
            Path::new("10 000 policy rows", &ruled.client.netns, &ruled.server),
            sockets.way("at sockets"),
            Path::new("own direct path", &past.client.netns, &past.server).of(sockets.cgroup()),
        ];
        out.extend(connections(ways, sizes, most));
    }
    if wanted("D9") {
        out.extend(established(&ours, &again, &direct, most));
    }
    Ok(out)
}

/// A Service with a hundred backends; and a hundred Services with one each, asked in turn. Both servers have as many
/// ports, and as many threads that wait.
struct Wide {
    ones: Pair,
    ones_at: Vec<SocketAddr>,
    hundred: Pair,
    hundred_at: SocketAddr,
}

impl Wide {
    /// Adds them; `free` is the first number of a Service that nobody has, but for the one that is asked.
    fn open(shop: &Shop, free: u32) -> Result<Self> {
        let cluster = &shop.cluster;
        let ones = pair(cluster, "ones", 0, 0)?;
        let mut ones_at = Vec::new();
        for (port, n) in WIDE.zip(1..) {
            ones_at.push(front(cluster, &format!("one{n}"), &ones, service_ip(free + n), &[port])?);
        }
        let hundred = pair(cluster, "hundred", 0, 0)?;
        let hundred_at =
            front(cluster, "hundred", &hundred, service_ip(free + 200), &WIDE.collect::<Vec<_>>())?;
        for at in ones_at.iter().step_by(99) {
            shop.wait(*at, &ones)?;
        }
        shop.wait(hundred_at, &hundred)?;
        Ok(Self { ones, ones_at, hundred, hundred_at })
    }
}

/// A pair whose server has ten thousand policy rows more.
fn ruled_pair(cluster: &Cluster) -> Result<Pair> {
    let made = pair_with(cluster, "ruled", (0, "role: client"), (0, "role: server, rows: many"))?;
    cluster.settle();
    let listed = cluster.nodes[0].cilium(&["status", "-o", "json"]);
    let status: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap_or_default();
    let kinds = status["kinds"].as_array().into_iter().flatten();
    let rows =
        kinds.filter(|kind| kind["kind"] == "policy").filter_map(|kind| kind["wanted"].as_u64()).sum::<u64>();
    if rows < 10_000 {
        bail!("only {rows} policy rows: the rule of ten thousand is not in force");
    }
    Ok(made)
}

/// Places of the ways in a race of connections.
const OURS: usize = 0;
const AGAIN: usize = 1;
const DIRECT: usize = 2;
const SOME: usize = 3;
const FEW: usize = 4;
const IPTABLES_MANY: usize = 5;
const NFT_MANY: usize = 6;
const IPTABLES_FEW: usize = 7;
const ONES: usize = 8;
const HUNDRED: usize = 9;
const RULED: usize = 10;
const SOCKETS: usize = 11;
const PAST_SOCKETS: usize = 12;

/// Each goal: what of it, which way beside which, and how much.
fn goals(sizes: Sizes) -> Vec<(&'static str, String, (usize, usize), Goal)> {
    let Sizes { few, some, many } = sizes;
    let flat = Goal::at_most(1.02, 1.01);
    let among = format!("connection by a Service, {many} there, per packet");
    vec![
        ("D5", among, (OURS, DIRECT), Goal::at_most(1.06, 1.03)),
        (
            "D6",
            format!("connection by a Service, {many} there, at sockets"),
            (SOCKETS, PAST_SOCKETS),
            Goal::at_most(1.02, 1.0),
        ),
        ("D7", format!("D5 beside iptables with {many}"), (OURS, IPTABLES_MANY), Goal::at_most(0.20, 0.16)),
        ("D7", format!("D5 beside nftables with {many}"), (OURS, NFT_MANY), Goal::at_most(0.90, 0.83)),
        ("D7", format!("D5 beside iptables with {few}"), (OURS, IPTABLES_FEW), Goal::at_most(0.88, 0.81)),
        ("D8", format!("{many} Services beside {few}"), (OURS, FEW), flat),
        ("D8", format!("{some} Services beside {few}"), (SOME, FEW), flat),
        ("D8", "one Service of 100 backends beside 100 of one".into(), (HUNDRED, ONES), flat),
        ("D8", "10 000 policy rows beside a few, direct".into(), (RULED, DIRECT), flat),
    ]
}

fn connections(ways: Vec<Path<'_>>, sizes: Sizes, most: usize) -> Vec<Figure> {
    let goals = goals(sizes);
    let mut race = Race::new(ways, Work::Connections);
    eprintln!("bench: connections by Services");
    let mut until = ROUNDS;
    loop {
        if let Err(e) = race.run(until) {
            return goals
                .iter()
                .map(|(id, name, _, goal)| void((*id, name), *goal, format!("{e:#}")))
                .collect();
        }
        let open = |(_, _, (way, to), goal): &(_, _, (usize, usize), Goal)| {
            goal.judge(race.ratio(*way, *to)) == Verdict::Inconclusive
        };
        let undecided = goals.iter().any(open) || !race.is_steady(AGAIN, OURS);
        if until >= most || !undecided {
            break;
        }
        until *= 2;
    }
    let mut out: Vec<Figure> = goals
        .iter()
        .map(|(id, name, ways, goal)| race.judged((*id, name), *ways, *goal, (AGAIN, OURS)))
        .collect();
    out.insert(1, race.shown("D5", format!("  A/A control, {} rounds", race.rounds()), (AGAIN, OURS)));
    out
}

/// D9: round trips on one connection by a Service.
fn established(ours: &Shop, again: &Shop, direct: &Pair, most: usize) -> Vec<Figure> {
    let id = ("D9", "round trip by a Service, p50");
    let goal = Goal::at_most(1.05, 1.02);
    let ways = vec![
        ours.way("by a Service"),
        again.way("by a Service again"),
        Path::new("own direct path", &direct.client.netns, &direct.server),
    ];
    let mut race = Race::new(ways, Work::RoundTrips);
    eprintln!("bench: {}", id.1);
    let mut until = ROUNDS;
    loop {
        if let Err(e) = race.run(until) {
            return vec![void(id, goal, format!("{e:#}"))];
        }
        let open = goal.judge(race.ratio(OURS, DIRECT)) == Verdict::Inconclusive;
        if until >= most || (!open && race.is_steady(AGAIN, OURS)) {
            break;
        }
        until *= 2;
    }
    vec![
        race.judged(id, (OURS, DIRECT), goal, (AGAIN, OURS)),
        race.shown("D9", format!("  A/A control, {} rounds", race.rounds()), (AGAIN, OURS)),
    ]
}
