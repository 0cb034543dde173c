//! What our datapath is compared with, each in namespaces of its own so that no netfilter, conntrack
//! or route of one is met by another; and ours, with policy on.

use crate::traffic::{self, CLOSED, ECHO, Path, SINK, Server};
use anyhow::{Context, Result, bail};
use cilium_tests_kernel::probe::eventually;
use cilium_tests_kernel::{Cluster, Mode, Netns, Options, Pod};
use std::io::{Seek, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::ops::RangeInclusive;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Two ends, and what is between them.
#[derive(Debug)]
pub(crate) struct Reference {
    /// The client's end.
    pub client: Netns,
    /// The server.
    pub server: Server,
    /// All else that must live as long.
    between: Vec<Netns>,
}

/// MTU of pods, the same on all ways: what VXLAN leaves of 1500.
const MTU: u32 = 1450;

/// The server behind `rt`.
pub(crate) const ROUTED_SERVER: Ipv4Addr = Ipv4Addr::new(10, 66, 1, 3);

/// A pod's link as kubenet lays it out: a veth, a host route on the router's side.
fn plug(router: &Netns, pod: &Netns, link: &str, address: Ipv4Addr) {
    router.ip(&format!("link add {link} mtu {MTU} type veth peer name eth0 mtu {MTU} netns {}", pod.name()));
    router.ip(&format!("link set {link} up"));
    router.ip(&format!("route add {address}/32 dev {link}"));
    pod.ip(&format!("addr add {address}/32 dev eth0"));
    pod.ip("link set eth0 up");
    pod.ip("route add 169.254.7.1 dev eth0");
    pod.ip("route add default via 169.254.7.1 dev eth0");
}

fn router(what: &str) -> Result<Netns> {
    let netns = Netns::new(what);
    // The pods' gateway, on every router the same.
    netns.ip("addr add 169.254.7.1/32 dev lo");
    netns
        .enter(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))
        .context("make the reference's router forward")?;
    Ok(netns)
}

fn ends(client: Netns, server: Netns, address: Ipv4Addr, mut between: Vec<Netns>) -> Result<Reference> {
    traffic::prepare(&client)?;
    traffic::prepare(&server)?;
    let listening = Server::start(&server, address.into())?;
    between.push(server);
    Ok(Reference { client, server: listening, between })
}

/// `rt`: two pods and the kernel's routing between them. The server answers echoes on `ports` too.
pub(crate) fn route(ports: &[u16]) -> Result<Reference> {
    let (host, client, server) = (router("rt")?, Netns::new("rtc"), Netns::new("rts"));
    plug(&host, &client, "c", Ipv4Addr::new(10, 66, 1, 2));
    plug(&host, &server, "s", ROUTED_SERVER);
    Server::also(&server, ports.iter().copied())?;
    ends(client, server, ROUTED_SERVER, vec![host])
}

/// `rt` with connection tracking, as any rule on a connection's state turns it on.
pub(crate) fn tracked() -> Result<Reference> {
    let reference = route(&[])?;
    let rule = "iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP; sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_time_wait=1";
    let done = reference.between[0].shell(rule);
    if !done.status.success() {
        bail!("iptables: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(reference)
}

/// `rt` with Services: what `load` is, run with `text` as its input, makes of the router. The server answers
/// echoes on `ports`.
pub(crate) fn kube_proxy(load: &str, text: &str, ports: &[u16]) -> Result<Reference> {
    let reference = route(ports)?;
    let router = &reference.between[0];
    feed(router, load, text)?;
    let short = "sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_time_wait=1 net.netfilter.nf_conntrack_max=1048576";
    // The second key is the host's alone on some kernels.
    let _ = router.shell(short);
    Ok(reference)
}

/// Runs a command inside with a text on its input, and tells how long it took.
pub(crate) fn feed(netns: &Netns, command: &str, text: &str) -> Result<Duration> {
    let mut input = tempfile::tempfile().context("a temporary file")?;
    input.write_all(text.as_bytes()).context("write the rules")?;
    input.rewind().context("rewind the rules")?;
    let mut words = command.split_whitespace();
    let mut run = netns.command(words.next().unwrap_or_default());
    run.args(words).stdin(input).stdout(Stdio::null()).stderr(Stdio::piped());
    let began = Instant::now();
    let done = run.output().with_context(|| format!("run {command}"))?;
    let took = began.elapsed();
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("{command}: {}", said.lines().next().unwrap_or("failed"));
    }
    Ok(took)
}

/// Two routers on a bridge, a kernel VXLAN between them, a pod on each: laid out as our nodes are.
pub(crate) fn vxlan() -> Result<Reference> {
    let wire = Netns::new("vxw");
    wire.ip("link add br0 type bridge mcast_snooping 0");
    wire.ip("link set br0 up");
    let pods = [Ipv4Addr::new(10, 67, 1, 2), Ipv4Addr::new(10, 67, 2, 2)];
    let mut nodes = Vec::new();
    let mut inside = Vec::new();
    for n in [1u8, 2] {
        let (node, pod) = (router("vxn")?, Netns::new("vxp"));
        let other = 3 - n;
        node.ip(&format!("link add eth0 type veth peer name p{n} netns {}", wire.name()));
        node.ip(&format!("addr add 192.168.67.{n}/24 dev eth0"));
        node.ip("link set eth0 up");
        wire.ip(&format!("link set p{n} master br0 up"));
        node.ip(&format!(
            "link add vx0 mtu {MTU} type vxlan id 67 local 192.168.67.{n} remote 192.168.67.{other} dstport 8472 dev eth0"
        ));
        node.ip(&format!("addr add 172.31.67.{n}/24 dev vx0"));
        node.ip("link set vx0 up");
        plug(&node, &pod, "c", pods[usize::from(n - 1)]);
        node.ip(&format!("route add 10.67.{other}.0/24 via 172.31.67.{other} dev vx0"));
        nodes.push(node);
        inside.push(pod);
    }
    let (Some(server), Some(client)) = (inside.pop(), inside.pop()) else { bail!("two pods were made") };
    nodes.push(wire);
    ends(client, server, pods[1], nodes)
}

/// A client and a server of ours.
#[derive(Debug)]
pub(crate) struct Pair {
    /// The client.
    pub client: Pod,
    /// The server's pod.
    pub pod: Pod,
    /// The server.
    pub server: Server,
}

/// Two nodes of ours, with two pairs of pods on one node each and two across.
#[derive(Debug)]
pub(crate) struct Ours {
    /// Pairs within a node, the second for the A/A control on the other node.
    pub within: [Pair; 2],
    /// Pairs across, two.
    pub across: [Pair; 2],
    /// The nodes; ended last.
    pub cluster: Cluster,
}

/// Default deny on both sides; what passes has a rule with ports.
pub(crate) fn policy(ports: RangeInclusive<u16>) -> String {
    let (first, last) = ports.into_inner();
    let ports = format!("toPorts: [{{ports: [{{port: \"{first}\", endPort: {last}, protocol: TCP}}]}}]");
    let object = |role: &str, way: &str, peers: &str, peer: &str| {
        format!(
            "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {role}s, namespace: default}}\n\
             spec:\n  endpointSelector: {{matchLabels: {{role: {role}}}}}\n  {way}:\n  \
             - {peers}: [{{matchLabels: {{role: {peer}}}}}]\n    {ports}\n"
        )
    };
    object("server", "ingress", "fromEndpoints", "client")
        + &object("client", "egress", "toEndpoints", "server")
}

/// A pair in a cluster; it answers when this returns.
pub(crate) fn pair(cluster: &Cluster, name: &str, client: usize, server: usize) -> Result<Pair> {
    pair_with(cluster, name, (client, "role: client"), (server, "role: server"))
}

/// As [`pair`], with labels.
pub(crate) fn pair_with(
    cluster: &Cluster,
    name: &str,
    (client, of_client): (usize, &str),
    (server, of_server): (usize, &str),
) -> Result<Pair> {
    let client = cluster.pod(client, &format!("{name}-client"), of_client);
    let pod = cluster.pod(server, &format!("{name}-server"), of_server);
    for netns in [&client.netns, &pod.netns] {
        traffic::prepare(netns)?;
    }
    let server = Server::start(&pod.netns, pod.ipv4)?;
    let answers = || Path::new("", &client.netns, &server).answers();
    if !eventually(Duration::from_secs(15), answers) {
        bail!("{name}: the server does not answer\n{}", cluster.nodes[client.node].log_tail());
    }
    Ok(Pair { client, pod, server })
}

/// Whether a port answers that policy closes.
fn open(client: &Netns, server: IpAddr) -> bool {
    let to = SocketAddr::new(server, CLOSED);
    client.enter(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)).is_ok())
}

impl Ours {
    /// Starts two nodes and the pods, and waits until policy is in force.
    pub(crate) fn start() -> Result<Self> {
        let cluster = Cluster::start(&Options { mode: Mode::Tunnel, ..Options::default() });
        cluster.write("policy.yaml", &policy(ECHO..=SINK));
        let within = [pair(&cluster, "a", 0, 0)?, pair(&cluster, "b", 1, 1)?];
        let across = [pair(&cluster, "c", 0, 1)?, pair(&cluster, "d", 0, 1)?];
        cluster.settle();
        for pair in within.iter().chain(&across) {
            if open(&pair.client.netns, pair.server.address) {
                bail!("policy is not in force: port {CLOSED} of {} answers", pair.server.address);
            }
        }
        Ok(Self { within, across, cluster })
    }
}
