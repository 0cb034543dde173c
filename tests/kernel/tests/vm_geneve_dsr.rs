//! Direct server return over Geneve: a client outside asks one node, a backend of another sees the client's own address
//! and answers it by itself, with the frontend's address, of which it knows by the tunnel's header. `make test-vm` runs
//! this on kernels that have Geneve.

use cilium_tests_kernel::capture::{Capture, ends, has_ports};
use cilium_tests_kernel::cluster::{OUTSIDE_V4, OUTSIDE_V6};
use cilium_tests_kernel::probe::{BOTH, eventually, scaled, serve};
use cilium_tests_kernel::services::{BALANCERS, Backend, PORT, TARGET, balancer, cluster_ip, ip, node_port};
use cilium_tests_kernel::{Cluster, Netns, Options, Pod, Service};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(15);
/// Numbers of the Services.
const FAR: u8 = 22;
const BULK: u8 = 23;
const PROCESS: u8 = 24;
const HOST_PORT: u16 = 7100;
const BULK_PORT: u16 = 7200;
/// UDP port of Geneve (RFC 8926, section 3.3).
const GENEVE: [u8; 2] = 6081_u16.to_be_bytes();

fn has_geneve() -> bool {
    Netns::new("probe").shell("ip link add g0 type geneve external").status.success()
}

/// The options in the header of a frame that is Geneve (RFC 8926, section 3.4), over IPv4 or IPv6.
fn options(frame: &[u8]) -> Option<&[u8]> {
    let (protocol, udp) = match frame.get(12..14)? {
        [0x08, 0x00] => (23, 34),
        [0x86, 0xdd] => (20, 54),
        _ => return None,
    };
    let is_geneve = *frame.get(protocol)? == 17 && *frame.get(udp + 2..udp + 4)? == GENEVE;
    let length = usize::from(*frame.get(udp + 8)? & 0x3f) * 4;
    if is_geneve { frame.get(udp + 16..udp + 16 + length) } else { None }
}

/// As Cilium writes it: class 0x014b, type 1 and critical, the words that follow, the frontend, zeroes.
fn option(frontend: IpAddr, port: u16) -> Vec<u8> {
    let (addr, words) = match frontend {
        IpAddr::V4(addr) => (addr.octets().to_vec(), 2),
        IpAddr::V6(addr) => (addr.octets().to_vec(), 5),
    };
    [&[1, 0x4b, 0x81, words][..], &addr, &port.to_be_bytes(), &[0, 0]].concat()
}

/// A Service with a NodePort.
fn service<'a>(name: &'a str, n: u8, backends: &[&Pod]) -> Service<'a> {
    Service { node_port: Some(node_port(n)), ..Service::new(name, cluster_ip(n), backends) }
}

struct Stage {
    cluster: Cluster,
    far: Pod,
    /// What the first node, which is asked, has on the wire.
    wire: Capture,
}

impl Stage {
    fn set() -> Self {
        let extra = "[load_balancer]\nmode = \"dsr\"\ndsr_dispatch = \"geneve\"\n".to_owned();
        let mut cluster = Cluster::prepare(&Options { extra, ..Options::default() });
        for node in &mut cluster.nodes {
            let text = std::fs::read_to_string(node.config()).expect("the configuration");
            let geneve =
                text.replace("mode = \"tunnel\"\n", "mode = \"tunnel\"\ntunnel_protocol = \"geneve\"\n");
            assert_ne!(text, geneve);
            std::fs::write(node.config(), geneve).expect("write the configuration");
            node.start_agent();
        }
        for node in &cluster.nodes {
            node.wait_healthy(Duration::from_secs(30));
        }
        let far = cluster.pod(1, "far", "app: far");
        serve(&far.netns, "far", TARGET);
        serve(&cluster.nodes[1].netns, "process", HOST_PORT);
        let of_pod = Service { balancer: Some(balancer(FAR)), ..service("far", FAR, &[&far]) };
        // Its backend is a process of the second node.
        let backends = vec![Backend::from(&cluster.nodes[1])];
        let of_process = Service { backends, target: HOST_PORT, ..service("process", PROCESS, &[]) };
        cluster.write("services.yaml", &(of_pod.manifest() + &of_process.manifest()));
        cluster.outside_asks_first_node(&[BALANCERS]);
        cluster.nodes.iter().for_each(|node| node.wait_for_frontends(2 * 2 * (3 + 2)));
        cluster.settle();
        let (netns, port) = cluster.port(0);
        let wire = Capture::start(netns, &port);
        Self { cluster, far, wire }
    }

    /// Every family and protocol of a frontend: who answers, whom it sees, what the header said, and by which way the
    /// answer came.
    fn cells(&self, what: &str, to: [IpAddr; 2], port: u16, server: &str) {
        for (to, client) in to.into_iter().zip([OUTSIDE_V4, OUTSIDE_V6].map(ip)) {
            for (proto, ask) in BOTH {
                let cell = format!("{what}: {proto} {}", SocketAddr::new(to, port));
                eventually(WAIT, || ask(&self.cluster.outside, to, port).is_some());
                self.wire.clear();
                let answer =
                    ask(&self.cluster.outside, to, port).unwrap_or_else(|| panic!("{cell}: no answer"));
                assert_eq!((answer.server.as_str(), answer.client), (server, client), "{cell}");
                let option = option(to, port);
                let told = |frame: &[u8]| options(frame) == Some(&option[..]);
                assert!(
                    eventually(WAIT, || self.wire.count(told) > 0),
                    "{cell}: no header tells of the frontend"
                );
                let back =
                    |frame: &[u8]| has_ports(frame) && ends(frame).is_some_and(|(_, dst)| dst == client);
                assert_eq!(self.wire.count(back), 0, "{cell}: answers by the node that was asked");
                println!("{cell}");
            }
        }
    }

    /// Some hundred KiB each way on one connection: segments of full length, few of which carry the option.
    fn bulk(&self) {
        const BYTES: usize = 200_000;
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), BULK_PORT);
        let listener = self.far.netns.enter(|| TcpListener::bind(any)).expect("bind in the pod");
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut all = vec![0; BYTES];
                if stream.read_exact(&mut all).is_ok() {
                    let _ = stream.write_all(&all);
                }
            }
        });
        let bulk = Service { target: BULK_PORT, ..service("bulk", BULK, &[&self.far]) };
        self.cluster.write("bulk.yaml", &bulk.manifest());
        self.cluster.settle();
        let sent: Vec<u8> = (0..BYTES).map(|n| n as u8).collect();
        for to in self.cluster.nodes[0].addresses() {
            let to = SocketAddr::new(to, node_port(BULK));
            let connect = || TcpStream::connect_timeout(&to, scaled(Duration::from_secs(2)));
            let mut stream = None;
            let connected = eventually(WAIT, || {
                stream = self.cluster.outside.enter(connect).ok();
                stream.is_some()
            });
            assert!(connected, "{to}: no connection");
            let mut stream = stream.expect("connected");
            stream.set_read_timeout(Some(scaled(Duration::from_secs(5)))).expect("a valid timeout");
            stream.write_all(&sent).unwrap_or_else(|e| panic!("{to}: {e}"));
            let mut got = vec![0; BYTES];
            stream.read_exact(&mut got).unwrap_or_else(|e| panic!("{to}: {e}"));
            assert!(got == sent, "{to}: other bytes came back");
        }
    }

    /// A datagram that does not fit with the option is answered with what would, and that passes.
    fn too_long(&self) {
        for to in self.cluster.nodes[0].addresses() {
            let local = SocketAddr::new(if to.is_ipv4() { ip(OUTSIDE_V4) } else { ip(OUTSIDE_V6) }, 0);
            let socket = self.cluster.outside.enter(|| UdpSocket::bind(local)).expect("bind outside");
            socket.connect((to, node_port(FAR))).expect("routed");
            socket.set_read_timeout(Some(scaled(Duration::from_millis(500)))).expect("a valid timeout");
            // 1500 less the outer headers (50), the option, and the inner headers.
            let fits = if to.is_ipv4() { 1500 - 50 - 12 - 28 } else { 1500 - 50 - 24 - 48 };
            let answered = |size: usize| {
                let _ = socket.send(&vec![b'?'; size]);
                socket.recv(&mut [0; 64]).is_ok()
            };
            assert!(eventually(WAIT, || answered(fits)), "{fits} bytes to {to}");
            // The first is lost to the answer; then the client's own stack knows, and cuts it.
            let known = eventually(WAIT, || {
                answered(fits + 1);
                let route = self.cluster.outside.shell(&format!("ip route get {to}")).stdout;
                let mtu = format!("mtu {}", if to.is_ipv4() { 1438 } else { 1426 });
                String::from_utf8_lossy(&route).contains(&mtu)
            });
            assert!(known, "{to}: the client is not told what fits");
        }
    }
}

#[test]
fn vm_geneve_dsr() {
    if !has_geneve() {
        return println!("SKIP: needs geneve");
    }
    let stage = Stage::set();
    let asked = stage.cluster.nodes[0].addresses();
    stage.cells("NodePort", asked, node_port(FAR), "far");
    stage.cells("LoadBalancer", balancer(FAR), PORT, "far");
    stage.cells("a process of the node", asked, node_port(PROCESS), "process");
    stage.bulk();
    println!("200 kB each way");
    stage.too_long();
}
