//! Datagrams longer than the way takes, in fragments: between all ends, by Services, to outside and from there, in
//! both families and routing modes. One that policy denies does not come, nor does any part of it.

use cilium_abi::{Address, Mac, drop};
use cilium_tests_kernel::cluster::{OUTSIDE_V4, OUTSIDE_V6};
use cilium_tests_kernel::l1::packet::{self, split};
use cilium_tests_kernel::probe::{eventually, scaled};
use cilium_tests_kernel::services::{BALANCERS, balancer, cluster_ip, ip, node_port};
use cilium_tests_kernel::{Cluster, Mode, Netns, Node, Options, Pod, Service};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PORT: u16 = 7000;
/// Nobody may ask it.
const DENIED: u16 = 7001;
/// Numbers of the Services.
const NEAR: u8 = 60;
const FAR: u8 = 61;
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of datagrams: a few fragments, and more than twenty.
const SIZES: [usize; 2] = [4000, 30_000];

type Seen = Arc<Mutex<BTreeSet<IpAddr>>>;

/// Sends every datagram back to where it came from; who that was.
fn echo(netns: &Netns, addresses: [IpAddr; 2], port: u16) -> Seen {
    let seen = Seen::default();
    for address in addresses {
        let socket = netns.enter(|| UdpSocket::bind((address, port))).expect("bind");
        let seen = seen.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok((size, peer)) = socket.recv_from(&mut buffer) {
                seen.lock().expect("no reader panics").insert(peer.ip());
                let _ = socket.send_to(&buffer[..size], peer);
            }
        });
    }
    seen
}

/// Whether a datagram of some size is echoed, byte by byte.
fn exchange(from: &Netns, to: SocketAddr, size: usize) -> Result<(), String> {
    let local = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let content: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
    from.enter(|| {
        let socket = UdpSocket::bind(local)?;
        socket.set_read_timeout(Some(scaled(Duration::from_secs(2))))?;
        socket.connect(to)?;
        socket.send(&content)?;
        let mut buffer = vec![0; 65_536];
        let got = socket.recv(&mut buffer)?;
        if buffer[..got] == content { Ok(()) } else { Err(io::Error::other(format!("{got} other bytes"))) }
    })
    .map_err(|e| e.to_string())
}

fn ping(from: &Netns, to: IpAddr) -> bool {
    let wait = scaled(Duration::from_secs(2)).as_secs();
    from.shell(&format!("ping -n -q -c 1 -W {wait} -s 4000 {to}")).status.success()
}

const POLICY: &str = "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: udp, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: guarded}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: a}}]
    toPorts: [{ports: [{port: \"7000\", protocol: UDP}]}]
";

/// Packets dropped for a reason on a node.
fn drops(node: &Node, reason: u8) -> u64 {
    let listed = node.cilium(&["bpf", "metrics", "list", "-o", "json"]).stdout;
    let listed: serde_json::Value = serde_json::from_slice(&listed).expect("JSON");
    let rows = listed.as_array().expect("a list").iter();
    rows.filter(|row| row["reason"] == reason).filter_map(|row| row["packets"].as_u64()).sum()
}

/// A socket on which every packet of a namespace's devices is seen, and sent.
fn wire(netns: &Netns) -> OwnedFd {
    netns.enter(|| {
        // SAFETY: a plain system call; the descriptor is ours.
        unsafe {
            let all = i32::from((libc::ETH_P_ALL as u16).to_be());
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, all);
            assert!(fd >= 0, "a packet socket: {}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(fd)
        }
    })
}

/// Fragments among the packets that came since the last time.
fn fragments_on(wire: &OwnedFd) -> usize {
    let mut frame = vec![0u8; 65_536];
    let mut count = 0;
    loop {
        // SAFETY: the buffer has the size that is told.
        let size = unsafe { libc::recv(wire.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
        let Ok(size) = usize::try_from(size) else { return count };
        let data = &frame[..size];
        let is_part = match data.get(12..14) {
            Some([8, 0]) => data.len() > 33 && (data[20] & 0x3f != 0 || data[21] != 0),
            Some([0x86, 0xdd]) => data.len() > 53 && data[20] == 44,
            _ => false,
        };
        count += usize::from(is_part);
    }
}

/// Sends a frame out of a pod's `eth0`.
fn send(pod: &Pod, wire: &OwnedFd, frame: &[u8]) {
    // SAFETY: a NUL-terminated name; the address is as long as is told.
    pod.netns.enter(|| unsafe {
        let mut to: libc::sockaddr_ll = std::mem::zeroed();
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = libc::if_nametoindex(c"eth0".as_ptr()) as i32;
        let size = size_of::<libc::sockaddr_ll>() as u32;
        let sent = libc::sendto(
            wire.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            size,
        );
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
    });
}

/// The hardware addresses of a pod's packets, destination first.
fn macs(pod: &Pod) -> (Mac, Mac) {
    let text = |script: &str| String::from_utf8(pod.netns.shell(script).stdout).expect("text");
    let mac = |text: &str| {
        let mut words = text.split_whitespace().skip_while(|word| !matches!(*word, "link/ether" | "lladdr"));
        let bytes: Vec<u8> = words
            .nth(1)
            .unwrap_or_else(|| panic!("no hardware address: {text}"))
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal"))
            .collect();
        Mac(bytes.try_into().expect("six bytes"))
    };
    (mac(&text("ip -4 neigh show dev eth0")), mac(&text("ip link show eth0")))
}

struct Stage {
    cluster: Cluster,
    pods: [Pod; 3],
    seen: [Seen; 3],
    mode: Mode,
}

impl Stage {
    /// Pods a and b on the first node, c on the other; Services before b and c, and a server outside.
    fn set(mode: Mode) -> Self {
        let cluster = Cluster::start(&Options { mode, ..Options::default() });
        let pod = |node: usize, name: &str| cluster.pod(node, name, &format!("app: {name}"));
        let pods = [pod(0, "a"), pod(0, "b"), pod(1, "c")];
        let seen = [0, 1, 2].map(|n: usize| echo(&pods[n].netns, of(&pods[n]), PORT));
        let [_, b, c] = &pods;
        let services = [Service::numbered("near", NEAR, &[b]), Service::numbered("far", FAR, &[c])];
        cluster.write("services.yaml", &services.map(|service| service.manifest()).concat());
        cluster.outside_asks_first_node(&[BALANCERS]);
        // Each has 2 ports at a ClusterIP, a balancer's and an external address of two families.
        cluster.nodes[0].wait_for_frontends(2 * 2 * 2 * 3);
        cluster.settle();
        Self { cluster, pods, seen, mode }
    }
}

fn of(pod: &Pod) -> [IpAddr; 2] {
    pod.addresses()
}

fn node(cluster: &Cluster, n: usize) -> [IpAddr; 2] {
    cluster.nodes[n].addresses()
}

/// A way: from, to, whether it is to answer pings, who must be seen as the sender and by whom.
struct Way<'a> {
    what: String,
    from: &'a Netns,
    to: [SocketAddr; 2],
    pings: bool,
    seen: Option<(&'a Seen, [IpAddr; 2])>,
}

fn at(addresses: [IpAddr; 2], port: u16) -> [SocketAddr; 2] {
    addresses.map(|address| SocketAddr::new(address, port))
}

fn ways<'a>(stage: &'a Stage, hosts: &'a [Seen; 3], outside: [IpAddr; 2]) -> Vec<Way<'a>> {
    let Stage { cluster, pods: [a, b, c], seen: [_, by_b, by_c], .. } = stage;
    let host = &cluster.nodes[0].netns;
    let (near, far) = (Some((by_b, of(a))), Some((by_c, of(a))));
    let way = |what: &str, from, to, pings, seen| Way { what: what.to_owned(), from, to, pings, seen };
    let mut all = vec![
        way("pod to pod, same node", &a.netns, at(of(b), PORT), true, near),
        way("pod to pod, other node", &a.netns, at(of(c), PORT), true, far),
        way("pod to pod, back", &c.netns, at(of(a), PORT), true, None),
        way("pod to its host", &a.netns, at(node(cluster, 0), PORT), true, Some((&hosts[0], of(a)))),
        way("pod to the other host", &a.netns, at(node(cluster, 1), PORT), true, None),
        way("host to its pod", host, at(of(a), PORT), true, None),
        way("host to another node's pod", host, at(of(c), PORT), true, None),
        way("pod to outside", &a.netns, at(outside, PORT), true, Some((&hosts[2], node(cluster, 0)))),
    ];
    for (name, n, seen) in [("near", NEAR, near), ("far", FAR, far)] {
        let client = match seen {
            Some((by, _)) if name == "near" => Some((by, outside)),
            Some((by, _)) => Some((by, cluster.lent(stage.mode))),
            None => None,
        };
        let out = &cluster.outside;
        all.extend([
            way(&format!("pod to ClusterIP, {name}"), &a.netns, at(cluster_ip(n), 80), false, seen),
            way(
                &format!("outside to NodePort, {name}"),
                out,
                at(node(cluster, 0), node_port(n)),
                false,
                client,
            ),
            way(&format!("outside to LoadBalancer, {name}"), out, at(balancer(n), 80), false, client),
        ]);
    }
    all
}

fn all_ways(mode: Mode) {
    let stage = Stage::set(mode);
    let cluster = &stage.cluster;
    let outside = [ip(OUTSIDE_V4), ip(OUTSIDE_V6)];
    let hosts = [
        echo(&cluster.nodes[0].netns, node(cluster, 0), PORT),
        echo(&cluster.nodes[1].netns, node(cluster, 1), PORT),
        echo(&cluster.outside, outside, PORT),
    ];
    let mut failed = Vec::new();
    for way in ways(&stage, &hosts, outside) {
        for family in 0..2 {
            let to = way.to[family];
            // The first packet may wait for a neighbour; every later one must pass at once.
            eventually(Duration::from_secs(5), || exchange(way.from, to, 1).is_ok());
            if let Some((seen, _)) = way.seen {
                seen.lock().expect("no writer panics").clear();
            }
            for size in SIZES {
                if let Err(why) = exchange(way.from, to, size) {
                    failed.push(format!("{}: {size} bytes to {to}: {why}", way.what));
                }
            }
            if let Some((seen, want)) = way.seen {
                let seen = seen.lock().expect("no writer panics").clone();
                if seen != BTreeSet::from([want[family]]) {
                    failed.push(format!("{}: to {to}: seen as {seen:?}, not {}", way.what, want[family]));
                }
            }
            if way.pings && !ping(way.from, to.ip()) {
                failed.push(format!("{}: ping of 4000 bytes to {}", way.what, to.ip()));
            }
        }
    }
    out_of_order(&stage, &mut failed);
    for node in &cluster.nodes {
        let count = drops(node, drop::FRAGMENT_UNSUPPORTED);
        if count != 0 {
            failed.push(format!("{count} fragments were not followed on {}", node.name));
        }
    }
    guarded(&stage, &mut failed);
    assert!(failed.is_empty(), "{mode:?}:\n  {}", failed.join("\n  "));
}

/// Fragments before their first one are dropped, counted and told; the same after it arrive.
fn out_of_order(stage: &Stage, failed: &mut Vec<String>) {
    let [a, _, c] = &stage.pods;
    let node = &stage.cluster.nodes[0];
    let wire = wire(&a.netns);
    for (family, (from, to)) in [(a.ipv4, c.ipv4), (a.ipv6, c.ipv6)].into_iter().enumerate() {
        let address = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => Address::v4(u32::from_ne_bytes(ip.octets())),
            IpAddr::V6(ip) => Address::v6(ip.octets()),
        };
        let socket = a.netns.enter(|| UdpSocket::bind((from, 0)).expect("bind"));
        socket.set_read_timeout(Some(scaled(Duration::from_secs(2)))).expect("a timeout");
        let port = socket.local_addr().expect("bound").port();
        let (gateway, own) = macs(a);
        let datagram = packet::udp(address(from), address(to), (port, PORT)).longer(3000).macs(gateway, own);
        let parts = split(&datagram.bytes(), 0x5000 + family as u32, &[1000, 2000]);
        let before = drops(node, drop::FRAGMENT_NOT_FOUND);
        send(a, &wire, &parts[2]);
        send(a, &wire, &parts[1]);
        send(a, &wire, &parts[0]);
        let dropped = || drops(node, drop::FRAGMENT_NOT_FOUND) - before;
        if !eventually(PATIENCE, || dropped() == 2) {
            failed.push(format!("{} of 2 early fragments to {to} were dropped", dropped()));
        }
        send(a, &wire, &parts[2]);
        send(a, &wire, &parts[1]);
        let mut buffer = vec![0; 65_536];
        match socket.recv_from(&mut buffer) {
            Ok((size, peer)) if size == 3007 && peer.ip() == to => {}
            other => failed.push(format!("the datagram to {to} did not come back: {other:?}")),
        }
        let listed = node.cilium(&["bpf", "frag", "list"]).stdout;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        if !listed.contains(&format!("{from} -> {to} id {}", 0x5000 + family)) {
            failed.push(format!("`bpf frag list` does not name the datagram to {to}:\n{listed}"));
        }
    }
}

/// A port that policy denies is denied to every fragment.
fn guarded(stage: &Stage, failed: &mut Vec<String>) {
    let cluster = &stage.cluster;
    cluster.write("policy.yaml", POLICY);
    let [a, ..] = &stage.pods;
    let pods =
        [(0, "guarded-near"), (1, "guarded-far")].map(|(n, name)| cluster.pod(n, name, "app: guarded"));
    cluster.settle();
    for pod in &pods {
        for port in [PORT, DENIED] {
            echo(&pod.netns, of(pod), port);
        }
        let watch = wire(&pod.netns);
        for address in of(pod) {
            let (allowed, denied) = (SocketAddr::new(address, PORT), SocketAddr::new(address, DENIED));
            if !eventually(PATIENCE, || exchange(&a.netns, allowed, 1).is_ok()) {
                failed.push(format!("{allowed} is not reached at all"));
            }
            fragments_on(&watch);
            for size in SIZES {
                if exchange(&a.netns, denied, size).is_ok() {
                    failed.push(format!("{denied} answers {size} bytes in spite of the policy"));
                }
            }
            if exchange(&a.netns, allowed, 1).is_err() {
                failed.push(format!("{allowed} does not answer after the denied datagrams"));
            }
            let came = fragments_on(&watch);
            if came != 0 {
                failed.push(format!("{came} fragments of what policy denies came to {denied}"));
            }
            if let Err(why) = exchange(&a.netns, allowed, SIZES[0]) {
                failed.push(format!("{allowed} does not answer {} bytes: {why}", SIZES[0]));
            }
            if fragments_on(&watch) < 3 {
                failed.push(format!("the witness at {allowed} sees no fragments"));
            }
        }
    }
}

#[test]
fn in_the_tunnel() {
    all_ways(Mode::Tunnel);
}

#[test]
fn natively() {
    all_ways(Mode::Native);
}
