//! Closed until open: a pod that sends from the moment it has an interface gets nothing out before its
//! policy stands.

use cilium_tests_kernel::cluster::{OUTSIDE_V4, OUTSIDE_V6};
use cilium_tests_kernel::probe::eventually;
use cilium_tests_kernel::{Cluster, Netns, Options, Pod};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Port of everything that is sent: no other frame of the test carries it behind these addresses.
const PORT: u16 = 47_321;
const PATIENCE: Duration = Duration::from_secs(10);

/// UDP datagrams and TCP SYNs to every target, as fast as is sensible, from before there is an interface.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    fn start(from: &Netns, targets: &[IpAddr]) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let targets: Vec<SocketAddr> = targets.iter().map(|ip| SocketAddr::new(*ip, PORT)).collect();
        let (stopped, count) = (stop.clone(), sent.clone());
        let thread = from.spawn(move || {
            let v4 = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            let v6 = UdpSocket::bind("[::]:0").expect("a socket");
            while !stopped.load(Ordering::Relaxed) {
                for target in &targets {
                    let socket = if target.is_ipv4() { &v4 } else { &v6 };
                    // Refused as long as there is no route: it is tried again at once.
                    let udp = socket.send_to(b"flood", target).is_ok();
                    count.fetch_add(u64::from(udp) + u64::from(syn(*target)), Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_micros(100));
            }
        });
        Self { stop, sent, thread: Some(thread) }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Begins a connection and forgets it: one SYN.
fn syn(to: SocketAddr) -> bool {
    let domain = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let Some(socket) = socket(domain, kind, 0) else { return false };
    let port = to.port().to_be_bytes();
    let family = u16::try_from(domain).expect("a small number").to_ne_bytes();
    // `struct sockaddr_in` or `struct sockaddr_in6`.
    let address: Vec<u8> = match to.ip() {
        IpAddr::V4(ip) => [&family[..], &port, &ip.octets(), &[0; 8]].concat(),
        IpAddr::V6(ip) => [&family[..], &port, &[0; 4], &ip.octets(), &[0; 4]].concat(),
    };
    let length = u32::try_from(address.len()).expect("short");
    // SAFETY: `address` is a socket address of the stated length.
    let code = unsafe { libc::connect(socket.as_raw_fd(), address.as_ptr().cast(), length) };
    code == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::EINPROGRESS)
}

fn socket(domain: i32, kind: i32, protocol: i32) -> Option<OwnedFd> {
    // SAFETY: creates a descriptor; checked before use.
    let raw = unsafe { libc::socket(domain, kind, protocol) };
    // SAFETY: `raw` was just created and is owned by nobody else.
    (raw >= 0).then(|| unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Counts frames of the flood on every interface of a namespace, whichever way they go, also inside a
/// tunnel's packets.
struct Witness {
    what: &'static str,
    stop: Arc<AtomicBool>,
    seen: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Witness {
    fn start(what: &'static str, netns: &Netns, interface: &str, targets: &[IpAddr]) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let all = (libc::ETH_P_ALL as u16).to_be();
        let socket = netns.enter(|| {
            let socket = socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(all))
                .expect("a packet socket");
            let name = std::ffi::CString::new(interface).expect("a name");
            // SAFETY: `name` is a NUL-terminated string that outlives the call.
            let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
            assert_ne!(index, 0, "{interface} is there");
            // SAFETY: plain numbers; all zero is valid.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = all;
            address.sll_ifindex = i32::try_from(index).expect("a small number");
            let length = size_of::<libc::sockaddr_ll>() as u32;
            // SAFETY: `address` is a socket address of the stated length.
            let code = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
            assert_eq!(code, 0, "bind to {interface}");
            socket
        });
        let patience = libc::timeval { tv_sec: 0, tv_usec: 50_000 };
        // SAFETY: `patience` is valid for its size.
        let code = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const patience).cast(),
                size_of::<libc::timeval>() as u32,
            )
        };
        assert_eq!(code, 0, "a time limit");
        let marks: Vec<Vec<u8>> = targets
            .iter()
            .map(|ip| match ip {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            })
            .collect();
        let (stopped, count) = (stop.clone(), seen.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0_u8; 2048];
            while !stopped.load(Ordering::Relaxed) {
                // SAFETY: the buffer is valid for its length.
                let n =
                    unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
                let Ok(n) = usize::try_from(n) else { continue };
                if marks.iter().any(|mark| is_flood(&buffer[..n], mark)) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { what, stop, seen, thread: Some(thread) }
    }

    fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Somewhere the destination's address, and behind a source port ours: the end of an IP header, and the
/// beginning of UDP or TCP.
fn is_flood(frame: &[u8], destination: &[u8]) -> bool {
    let length = destination.len();
    frame.windows(length + 4).any(|w| w[..length] == *destination && w[length + 2..] == PORT.to_be_bytes())
}

struct Scene {
    cluster: Cluster,
    targets: Vec<IpAddr>,
    witnesses: Vec<Witness>,
    _pods: [Pod; 2],
}

impl Scene {
    /// A neighbour on the node of the flood, a pod on another node, and a host outside, all watched.
    fn set() -> Self {
        let cluster = Cluster::start(&Options::default());
        let near = cluster.pod(0, "near", "app: near");
        let far = cluster.pod(1, "far", "app: far");
        let outside = [OUTSIDE_V4, OUTSIDE_V6].map(|ip| ip.parse().expect("a literal address"));
        let targets = vec![near.ipv4, near.ipv6, far.ipv4, far.ipv6, outside[0], outside[1]];
        cluster.settle();
        let witnesses = vec![
            Witness::start("the neighbour", &near.netns, "eth0", &targets),
            Witness::start("the pod of the other node", &far.netns, "eth0", &targets),
            Witness::start("the wire", &cluster.nodes[0].netns, "eth0", &targets),
            Witness::start("the host outside", &cluster.outside, "eth0", &targets),
        ];
        Self { cluster, targets, witnesses, _pods: [near, far] }
    }

    fn seen(&self) -> u64 {
        self.witnesses.iter().map(Witness::seen).sum()
    }

    fn nothing_was_seen(&self, when: &str, flood: &Flood) {
        let seen: Vec<String> = self.witnesses.iter().map(|w| format!("{}: {}", w.what, w.seen())).collect();
        let log = self.cluster.nodes[0].log_tail();
        assert_eq!(self.seen(), 0, "{when}, of {} sent: {}\n{log}", flood.sent(), seen.join(", "));
    }

    /// The mirror: the same flood is seen by every witness once it may pass.
    fn all_is_seen(&self, flood: &Flood) {
        let all = || self.witnesses.iter().all(|w| w.seen() > 0);
        let passed = eventually(PATIENCE, all);
        let seen: Vec<String> = self.witnesses.iter().map(|w| format!("{}: {}", w.what, w.seen())).collect();
        assert!(passed, "the flood does not pass when it may, of {} sent: {}", flood.sent(), seen.join(", "));
    }
}

/// Lets the flood run on, closed as the pod is by now.
fn run_on(flood: &Flood) {
    let until = flood.sent() + 300;
    assert!(eventually(PATIENCE, || flood.sent() >= until), "the flood does not flow: {}", flood.sent());
}

fn policy(rules: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: flood, namespace: default}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: flood}}}}\n  egress:\n{rules}"
    )
}

#[test]
fn nothing_leaves_before_the_policy_stands() {
    let scene = Scene::set();
    let closed = policy("  - toEndpoints: [{matchLabels: {app: nobody}}]\n");
    scene.cluster.write("policy.yaml", &closed);
    let node = &scene.cluster.nodes[0];
    for n in 0..5 {
        let name = format!("flood{n}");
        let object = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default, labels: {{app: flood}}}}\nspec: \
             {{nodeName: n1, containers: [{{name: c}}]}}\n"
        );
        scene.cluster.write(&format!("pod-{name}.yaml"), &object);
    }
    scene.cluster.settle();
    let mut floods = Vec::new();
    for n in 0..5 {
        let netns = Netns::new("pod");
        let flood = Flood::start(&netns, &scene.targets);
        let began = Instant::now();
        node.cni("ADD", &netns, &format!("flood{n}")).expect("ADD");
        let (took, within) = (began.elapsed(), flood.sent());
        run_on(&flood);
        println!(
            "pod {n}: ADD took {took:?}, {within} sent before it returned, {} since",
            flood.sent() - within
        );
        scene.nothing_was_seen("before and under an allow-list", &flood);
        floods.push((flood, netns));
    }
    // The same pods, once they may.
    floods.truncate(1);
    scene.cluster.write("policy.yaml", &policy("  - toEntities: [all]\n"));
    scene.all_is_seen(&floods[0].0);
}

#[test]
fn nothing_leaves_before_the_pod_is_known() {
    let scene = Scene::set();
    let netns = Netns::new("pod");
    let flood = Flood::start(&netns, &scene.targets);
    scene.cluster.nodes[0].cni("ADD", &netns, "unknown").expect("ADD");
    run_on(&flood);
    scene.nothing_was_seen("while nobody knows what the pod is", &flood);
    scene.cluster.write(
        "pod-default-unknown.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: unknown, namespace: default, labels: {app: free}}\nspec: {nodeName: \
         n1, containers: [{name: c}]}\n",
    );
    scene.all_is_seen(&flood);
}
