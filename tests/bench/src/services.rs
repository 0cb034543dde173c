//! D5 to D9: connections through a Service among many, per packet and at sockets, beside the same layout without it and
//! beside kube-proxy's rules; all at once, each in namespaces of its own.

use crate::figure::{Figure, Goal};
use crate::kubeproxy::{self, nth};
use crate::manifests::{service, service_ip, services};
use crate::race::{Race, void};
use crate::topology::{Pair, ROUTED_SERVER, Reference, kube_proxy, pair, pair_with, policy, route};
use crate::traffic::{ECHO, Path, Server, Work};
use anyhow::{Result, bail};
use cilium_tests_kernel::cgroup::Cgroup;
use cilium_tests_kernel::probe::eventually;
use cilium_tests_kernel::{Cluster, Options};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::Range;
use std::time::Duration;

/// How many Services there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// As in a cluster of one's own.
    pub few: u32,
    /// As in most clusters.
    pub some: u32,
    /// That of the goals.
    pub many: u32,
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
/// How many are asked, by chance: a client has as many destinations as on the direct way, so that its sockets in
/// TIME_WAIT are in the way of new ones as often.
const ASKED: u32 = PORTS.len() as u32;

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
    asked: Vec<SocketAddr>,
    cluster: Cluster,
}

/// The pair's server behind a Service: these ports of it are the backends.
fn front(cluster: &Cluster, name: &str, pair: &Pair, at: Ipv4Addr, ports: &[u16]) -> Result<SocketAddr> {
    let IpAddr::V4(address) = pair.server.address else { bail!("servers have IPv4") };
    let at = SocketAddrV4::new(at, FRONT);
    let backends: Vec<SocketAddrV4> = ports.iter().map(|port| SocketAddrV4::new(address, *port)).collect();
    cluster.write(&format!("{name}.yaml"), &service(name, at, &backends));
    Ok(at.into())
}

/// A pair whose server listens on these ports too.
fn listening(cluster: &Cluster, name: &str, ports: impl Iterator<Item = u16>) -> Result<Pair> {
    let made = pair(cluster, name, 0, 0)?;
    Server::also(&made.pod.netns, ports)?;
    Ok(made)
}

impl Shop {
    fn open(count: u32, translated: Translated) -> Result<Self> {
        let socket = translated == Translated::AtSockets;
        let mut cluster = Cluster::prepare(&Options { nodes: 1, socket, ..Options::default() });
        for (name, text) in services(count - ASKED, BACKENDS) {
            cluster.write(&name, &text);
        }
        cluster.write("policy.yaml", &(policy(ECHO..=WIDE.end) + &many_rows()));
        cluster.nodes[0].start_agent();
        cluster.nodes[0].wait_healthy(Duration::from_secs(60));
        let pair = listening(&cluster, "asked", PORTS[1..].iter().copied())?;
        let asked =
            (0..ASKED).map(|n| front(&cluster, &format!("asked{n}"), &pair, service_ip(count + n), &PORTS));
        let asked = asked.collect::<Result<_>>()?;
        let shop = Self { pair, asked, cluster };
        shop.wait(&shop.asked, &shop.pair)?;
        Ok(shop)
    }

    fn wait(&self, asked: &[SocketAddr], pair: &Pair) -> Result<()> {
        let path = Path::new("ours", &pair.client.netns, &pair.server).at(asked.to_vec()).of(self.cgroup());
        if !eventually(Duration::from_secs(30), || path.answers()) {
            bail!("not all of {asked:?} answer\n{}", self.cluster.nodes[0].log_tail());
        }
        Ok(())
    }

    fn way<'a>(&'a self, name: &'static str) -> Path<'a> {
        Path::new(name, &self.pair.client.netns, &self.pair.server).at(self.asked.clone()).of(self.cgroup())
    }

    fn cgroup(&self) -> Option<&Cgroup> {
        self.cluster.nodes[0].cgroup.as_deref()
    }
}

/// What kube-proxy would make of so many Services, of which those in the middle are asked, as far from the first rule
/// as a connection meets them on average; and the last ones.
struct KubeProxy {
    reference: Reference,
    middle: Vec<SocketAddr>,
    last: Vec<SocketAddr>,
}

impl KubeProxy {
    fn open(count: u32, load: &str, text: fn(&[kubeproxy::Service]) -> String) -> Result<Self> {
        let asked = |n: u32| kubeproxy::Service {
            name: format!("asked{n}"),
            at: SocketAddrV4::new(service_ip(count + n), FRONT),
            backends: PORTS.map(|port| SocketAddrV4::new(ROUTED_SERVER, port)).to_vec(),
        };
        let (middle, last) = (0..ASKED, ASKED..2 * ASKED);
        let mut all: Vec<kubeproxy::Service> = (0..count - 2 * ASKED).map(|n| nth(n, BACKENDS)).collect();
        let place = all.len() / 2;
        all.splice(place..place, middle.clone().map(asked));
        all.extend(last.clone().map(asked));
        let reference = kube_proxy(load, &text(&all), &PORTS[1..])?;
        let at = |these: Range<u32>| -> Vec<SocketAddr> { these.map(|n| asked(n).at.into()).collect() };
        let made = Self { reference, middle: at(middle), last: at(last) };
        for way in [made.way(load), made.way_to_last(load)] {
            if !eventually(Duration::from_secs(10), || way.answers()) {
                bail!("{load}: not all Services answer");
            }
        }
        Ok(made)
    }

    fn way<'a>(&'a self, name: &'a str) -> Path<'a> {
        Path::new(name, &self.reference.client, &self.reference.server).at(self.middle.clone())
    }

    fn way_to_last<'a>(&'a self, name: &'a str) -> Path<'a> {
        Path::new(name, &self.reference.client, &self.reference.server).at(self.last.clone())
    }
}

/// The input of iptables-restore and of nft.
const IPTABLES: &str = "iptables-restore -w";
const NFT: &str = "nft -f -";

/// Everything.
pub(crate) fn run(sizes: Sizes, wanted: &dyn Fn(&str) -> bool, most: usize) -> Result<Vec<Figure>> {
    let Sizes { few, some, many } = sizes;
    let [ours, again] = [Shop::open(many, Translated::PerPacket)?, Shop::open(many, Translated::PerPacket)?];
    let direct = direct_pair(&ours.cluster)?;
    let mut out = Vec::new();
    if ["D5", "D6", "D7", "D8"].into_iter().any(wanted) {
        let [mid, ten] = [Shop::open(some, Translated::PerPacket)?, Shop::open(few, Translated::PerPacket)?];
        let wide = Wide::open(&ours, many + ASKED)?;
        let ruled = ruled_pair(&ours.cluster)?;
        let sockets = Shop::open(many, Translated::AtSockets)?;
        let past = direct_pair(&sockets.cluster)?;
        eprintln!("bench: rules of kube-proxy");
        let iptables = KubeProxy::open(many, IPTABLES, kubeproxy::iptables)?;
        let iptables_ten = KubeProxy::open(few, IPTABLES, kubeproxy::iptables)?;
        let iptables_some = KubeProxy::open(some, IPTABLES, kubeproxy::iptables)?;
        let nft = KubeProxy::open(many, NFT, kubeproxy::nftables)?;
        let nft_some = KubeProxy::open(some, NFT, kubeproxy::nftables)?;
        let nft_few = KubeProxy::open(few, NFT, kubeproxy::nftables)?;
        let route = route(&PORTS[1..])?;
        for shop in [&ours, &again, &mid, &ten, &sockets] {
            shop.cluster.settle();
        }
        let ways = vec![
            ours.way("many Services"),
            again.way("many Services again"),
            straight("own direct path", &direct),
            mid.way("some Services"),
            ten.way("few Services"),
            iptables.way("iptables, many"),
            nft.way("nftables, many"),
            iptables_ten.way("iptables, few"),
            Path::new("one backend each", &wide.ones.client.netns, &wide.ones.server)
                .at(wide.ones_at.clone()),
            Path::new("100 backends each", &wide.hundreds.client.netns, &wide.hundreds.server)
                .at(wide.hundreds_at.clone()),
            straight("10 000 policy rows", &ruled),
            sockets.way("at sockets"),
            straight("own direct path", &past).of(sockets.cgroup()),
            iptables.way_to_last("iptables, many, the last"),
            Path::new("rt", &route.client, &route.server).on(&PORTS),
            iptables_some.way("iptables, some"),
            nft_some.way("nftables, some"),
            nft_few.way("nftables, few"),
        ];
        out.extend(connections(ways, sizes, most));
    }
    if wanted("D9") {
        out.extend(established(&ours, &again, &direct, most));
    }
    Ok(out)
}

/// A hundred Services with as many backends each; and a hundred with one. Both are asked by chance, and both servers
/// have as many ports, and as many threads that wait.
struct Wide {
    ones: Pair,
    ones_at: Vec<SocketAddr>,
    hundreds: Pair,
    hundreds_at: Vec<SocketAddr>,
}

impl Wide {
    /// Adds them; `free` is the first number of a Service that nobody has.
    fn open(shop: &Shop, free: u32) -> Result<Self> {
        let cluster = &shop.cluster;
        let [ones, hundreds] = [listening(cluster, "ones", WIDE)?, listening(cluster, "hundreds", WIDE)?];
        let (mut ones_at, mut hundreds_at) = (Vec::new(), Vec::new());
        let all: Vec<u16> = WIDE.collect();
        for (n, port) in (0..).zip(&all) {
            ones_at.push(front(cluster, &format!("one{n}"), &ones, service_ip(free + n), &[*port])?);
            let at = service_ip(free + 200 + n);
            hundreds_at.push(front(cluster, &format!("hundred{n}"), &hundreds, at, &all)?);
        }
        shop.wait(&ones_at, &ones)?;
        shop.wait(&hundreds_at, &hundreds)?;
        Ok(Self { ones, ones_at, hundreds, hundreds_at })
    }
}

/// A pair that no Service leads to. Its server listens where a Service's would: who answers is another thread for
/// each backend, and how often the scheduler goes from one to another is a tenth of a connection's time.
fn direct_pair(cluster: &Cluster) -> Result<Pair> {
    listening(cluster, "direct", PORTS[1..].iter().copied())
}

/// The way to all ports of such a pair.
fn straight<'a>(name: &'static str, pair: &'a Pair) -> Path<'a> {
    Path::new(name, &pair.client.netns, &pair.server).on(&PORTS)
}

/// As [`direct_pair`], with ten thousand policy rows more for the server.
fn ruled_pair(cluster: &Cluster) -> Result<Pair> {
    let made = pair_with(cluster, "ruled", (0, "role: client"), (0, "role: server, rows: many"))?;
    Server::also(&made.pod.netns, PORTS[1..].iter().copied())?;
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
const HUNDREDS: usize = 9;
const RULED: usize = 10;
const SOCKETS: usize = 11;
const PAST_SOCKETS: usize = 12;
const IPTABLES_LAST: usize = 13;
const ROUTE: usize = 14;
const IPTABLES_SOME: usize = 15;
const NFT_SOME: usize = 16;
const NFT_FEW: usize = 17;

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
        ("D8", "100 Services of 100 backends beside 100 of one".into(), (HUNDREDS, ONES), flat),
        ("D8", "10 000 policy rows beside a few, direct".into(), (RULED, DIRECT), flat),
    ]
}

fn connections(ways: Vec<Path<'_>>, sizes: Sizes, most: usize) -> Vec<Figure> {
    let goals = goals(sizes);
    let mut race = Race::new(ways, Work::Connections);
    eprintln!("bench: connections by Services");
    let judged: Vec<((usize, usize), Goal)> = goals.iter().map(|(_, _, ways, goal)| (*ways, *goal)).collect();
    if let Err(e) = race.decide(&judged, (AGAIN, OURS), most) {
        return goals.iter().map(|(id, name, _, goal)| void((*id, name), *goal, format!("{e:#}"))).collect();
    }
    let mut out: Vec<Figure> = goals
        .iter()
        .map(|(id, name, ways, goal)| race.judged((*id, name), *ways, *goal, (AGAIN, OURS)))
        .collect();
    out.insert(1, race.shown("D5", format!("  A/A control, {} rounds", race.rounds()), (AGAIN, OURS)));
    let Sizes { few, some, many } = sizes;
    let shown = |name: String, ways| race.shown("D7", format!("  {name}"), ways);
    let beyond =
        |to| race.beyond("D7", "  what that adds to the way without".into(), (OURS, DIRECT), (to, ROUTE));
    out.extend([
        shown(format!("{some} Services beside iptables with {some}"), (SOME, IPTABLES_SOME)),
        shown(format!("{some} Services beside nftables with {some}"), (SOME, NFT_SOME)),
        shown(format!("{few} Services beside nftables with {few}"), (FEW, NFT_FEW)),
        shown(format!("iptables with {many}, the last ones asked"), (OURS, IPTABLES_LAST)),
        shown("least there can be here: no Service on our side".into(), (DIRECT, IPTABLES_MANY)),
        shown("likewise, the last ones asked".into(), (DIRECT, IPTABLES_LAST)),
        beyond(IPTABLES_MANY),
        beyond(NFT_MANY),
        beyond(IPTABLES_FEW),
    ]);
    out
}

/// D9: round trips on one connection by a Service.
fn established(ours: &Shop, again: &Shop, direct: &Pair, most: usize) -> Vec<Figure> {
    let id = ("D9", "round trip by a Service, p50");
    let goal = Goal::at_most(1.05, 1.02);
    let ways =
        vec![ours.way("by a Service"), again.way("by a Service again"), straight("own direct path", direct)];
    let mut race = Race::new(ways, Work::RoundTrips);
    eprintln!("bench: {}", id.1);
    if let Err(e) = race.decide(&[((OURS, DIRECT), goal)], (AGAIN, OURS), most) {
        return vec![void(id, goal, format!("{e:#}"))];
    }
    vec![
        race.judged(id, (OURS, DIRECT), goal, (AGAIN, OURS)),
        race.shown("D9", format!("  A/A control, {} rounds", race.rounds()), (AGAIN, OURS)),
    ]
}
