//! A load balancer of its own whose backends answer clients themselves, by IP in IP: client, balancer and backends on
//! one wire. The backends have the frontend's address on `lo`. Where the kernel has tunnels of the kind, they take the
//! outer header off; else a process does, from raw sockets into a TUN device.

use cilium_tests_kernel::Netns;
use cilium_tests_kernel::capture::{Capture, ends};
use cilium_tests_kernel::cluster::pass_in_driver;
use cilium_tests_kernel::netns::succeed;
use cilium_tests_kernel::probe::{Answer, BOTH, emulated, serve, tcp};
use cilium_tests_kernel::services::{BALANCERS, PORT, balancer, ip, node_port};
use cilium_tests_kernel::standalone::{Balancer, PATIENCE};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Number of the Service.
const WEB: u8 = 10;
/// Where what comes is counted, and told at its end.
const SINK: u16 = 81;
/// A frontend's port that is not its backends'.
const MOVED: u16 = 8000;
const CLIENT: [&str; 2] = ["10.63.0.2", "fd63::2"];
const BALANCER: [&str; 2] = ["10.63.0.1", "fd63::1"];
/// Connections per family and protocol.
fn many() -> usize {
    if emulated() { 20 } else { 100 }
}

/// Bytes of a long stream.
fn long() -> usize {
    if emulated() { 1 << 18 } else { 4 << 20 }
}

/// Both families' addresses of the backend `n`.
fn backend(n: u8) -> [String; 2] {
    [format!("10.63.0.1{n}"), format!("fd63::1{n}")]
}

/// A host on the wire.
fn host(wire: &Netns, name: &str, addresses: [&str; 2]) -> Netns {
    let netns = Netns::new(name);
    netns.ip("link set lo up");
    netns.ip(&format!("link add eth0 type veth peer name {name} netns {}", wire.name()));
    succeed(netns.command("sysctl").args([
        "-q",
        "-w",
        "net.ipv6.conf.eth0.accept_dad=0",
        "net.ipv4.conf.all.rp_filter=0",
        "net.ipv4.conf.default.rp_filter=0",
    ]));
    netns.ip(&format!("addr add {}/24 dev eth0", addresses[0]));
    netns.ip(&format!("-6 addr add {}/64 dev eth0 nodad", addresses[1]));
    netns.ip("link set eth0 up");
    wire.ip(&format!("link set {name} master br0 up"));
    netns
}

/// A socket that gets what comes within another header of a family.
fn enclosed(family: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; the descriptor is owned from here on.
    unsafe {
        let fd = libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// A device whose packets are written here.
fn tunnel_end() -> io::Result<File> {
    let device = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all zeroes is a valid value of this plain struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"inner") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
    // SAFETY: the request is a valid one of this call.
    let code = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if code == 0 { Ok(device) } else { Err(io::Error::last_os_error()) }
}

/// Lets the kernel's own tunnels take packets out of IP in IP, from whoever sends them; whether it has such.
fn decapsulate_by_devices(netns: &Netns) -> bool {
    netns.shell("ip link add t4 type ipip external && ip link add t6 type ip6tnl external").status.success()
        && netns.shell("ip link set t4 up && ip link set t6 up").status.success()
}

/// Lets a host take packets out of IP in IP by itself: what is inside comes in by a device of its own.
fn decapsulate(netns: &Netns) {
    let device = netns.enter(tunnel_end).expect("a TUN device");
    netns.ip("link set inner up");
    for (family, protocol) in [(libc::AF_INET, 4), (libc::AF_INET6, 41)] {
        let socket = netns.enter(move || enclosed(family, protocol)).expect("a raw socket");
        let mut device = device.try_clone().expect("a second handle");
        std::thread::spawn(move || {
            let mut buffer = vec![0u8; 1 << 16];
            loop {
                // SAFETY: the buffer is valid for its length.
                let n =
                    unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
                let Ok(n) = usize::try_from(n) else { return };
                // Sockets of IPv4 give the header, too.
                let start = if family == libc::AF_INET { usize::from(buffer[0] & 15) * 4 } else { 0 };
                let _ = device.write(&buffer[start..n]);
            }
        });
    }
}

/// Tells each client how many bytes it sent.
fn sink(netns: &Netns) {
    let listener = netns.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, SINK))).expect("bind the sink");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let count = io::copy(&mut stream, &mut io::sink()).unwrap_or(0);
                let _ = stream.write_all(count.to_string().as_bytes());
            });
        }
    });
}

struct Site {
    balancer: Balancer,
    wire: Netns,
    client: Netns,
    _backends: [Netns; 2],
    /// What lets frames pass that drivers send back.
    _cards: Vec<OwnedFd>,
}

impl Site {
    fn new(drivers: bool) -> Self {
        let wire = Netns::new("wire");
        wire.ip("link add br0 type bridge mcast_snooping 0");
        wire.ip("link set br0 up");
        let lb = host(&wire, "lb", BALANCER);
        let client = host(&wire, "client", CLIENT);
        client.ip(&format!("route add {} via {}", BALANCERS[0], BALANCER[0]));
        client.ip(&format!("-6 route add {} via {}", BALANCERS[1], BALANCER[1]));
        let backends = [1, 2].map(|n| {
            let addresses = backend(n);
            let name = format!("bk{n}");
            let netns = host(&wire, &name, [&addresses[0], &addresses[1]]);
            let [v4, v6] = balancer(WEB);
            netns.ip(&format!("addr add {v4}/32 dev lo"));
            netns.ip(&format!("-6 addr add {v6}/128 dev lo nodad"));
            if decapsulate_by_devices(&netns) {
                println!("{name}: by the kernel's own devices");
            } else {
                decapsulate(&netns);
            }
            serve(&netns, &name, PORT);
            sink(&netns);
            // What comes to a backend is as on a wire: whole checksums, and no more than a frame's length.
            succeed(wire.command("ethtool").args(["-K", &name, "tx", "off", "tso", "off", "gso", "off"]));
            netns
        });
        let mut cards = Vec::new();
        if drivers {
            for netns in [&lb, &client].into_iter().chain(&backends) {
                succeed(
                    netns.command("ethtool").args(["-K", "eth0", "tx", "off", "tso", "off", "gso", "off"]),
                );
            }
            cards.extend(["lb", "client", "bk1", "bk2"].map(|port| pass_in_driver(&wire, port)));
        }
        let acceleration = if drivers { "native" } else { "disabled" };
        let load_balancing = format!(
            "algorithm = \"maglev\"\nmode = \"dsr\"\ndsr_dispatch = \"ipip\"\nacceleration = \"{acceleration}\"\n"
        );
        let mut balancer = Balancer::new(lb, BALANCER, &["eth0"], &load_balancing);
        balancer.write("web.yaml", &web());
        balancer.start();
        Self { balancer, wire, client, _backends: backends, _cards: cards }
    }

    fn says(&self, args: &[&str]) -> String {
        String::from_utf8_lossy(&self.balancer.cilium(args).stdout).into_owned()
    }

    /// Frames that drivers sent on.
    fn driven(&self) -> bool {
        self.says(&["bpf", "metrics", "list"]).contains("before the stack")
    }
}

fn web() -> String {
    let ([v4, v6], node_port) = (balancer(WEB), node_port(WEB));
    let mut yaml = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: default}}\nspec:\n  type: \
         LoadBalancer\n  ipFamilyPolicy: RequireDualStack\n  ports:\n  - {{name: tcp, port: {PORT}, protocol: \
         TCP, targetPort: {PORT}, nodePort: {node_port}}}\n  - {{name: udp, port: {PORT}, protocol: UDP, \
         targetPort: {PORT}}}\n  - {{name: sink, port: {SINK}, protocol: TCP, targetPort: {SINK}}}\n  - {{name: \
         moved, port: {MOVED}, protocol: TCP, targetPort: {PORT}}}\nstatus: {{loadBalancer: {{ingress: [{{ip: \
         {v4}}}, {{ip: \"{v6}\"}}]}}}}\n"
    );
    for (family, name) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let endpoints = [1, 2].map(|n| format!("{{addresses: [\"{}\"]}}", backend(n)[family])).join(", ");
        yaml.push_str(&format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-{}, namespace: \
             default, labels: {{kubernetes.io/service-name: web}}}}\naddressType: {name}\nports: [{{name: tcp, \
             port: {PORT}, protocol: TCP}}, {{name: udp, port: {PORT}, protocol: UDP}}, {{name: sink, port: \
             {SINK}, protocol: TCP}}, {{name: moved, port: {PORT}, protocol: TCP}}]\nendpoints: [{endpoints}]\n",
            name.to_lowercase()
        ));
    }
    yaml
}

/// Whether a frame has an IP packet within another IP header, to somebody.
fn is_within(frame: &[u8], to: IpAddr) -> bool {
    let number = match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(23) == Some(&4),
        Some([0x86, 0xdd]) => frame.get(20) == Some(&41),
        _ => false,
    };
    number && ends(frame).is_some_and(|(_, dst)| dst == to)
}

/// Sends a long stream; how much of it arrived.
fn pour(from: &Netns, to: IpAddr) -> io::Result<String> {
    from.enter(|| {
        let mut stream = TcpStream::connect((to, SINK))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&vec![0x5a; long()])?;
        stream.shutdown(Shutdown::Write)?;
        let mut told = String::new();
        stream.read_to_string(&mut told)?;
        Ok(told)
    })
}

fn answered_past_the_balancer(drivers: bool) {
    let site = Site::new(drivers);
    let capture = Capture::start(&site.wire, "lb");
    for family in 0..2 {
        let frontend = balancer(WEB)[family];
        for (name, ask) in BOTH {
            capture.clear();
            let (mut lost, mut servers) = (0, Vec::new());
            for _ in 0..many() {
                match ask(&site.client, frontend, PORT) {
                    Some(Answer { server, client }) => {
                        assert_eq!(client, ip(CLIENT[family]), "{name}: what {server} saw");
                        servers.push(server);
                    }
                    None => lost += 1,
                }
            }
            assert_eq!(
                lost,
                0,
                "{name} {frontend}: without an answer, of {}\n{}",
                many(),
                site.balancer.log()
            );
            servers.sort();
            servers.dedup();
            assert_eq!(servers, ["bk1", "bk2"], "{name} {frontend}");
            let sent: usize =
                [1, 2].map(|n| capture.count(|frame| is_within(frame, ip(&backend(n)[family])))).iter().sum();
            println!("{name} {frontend}: {} asked, {lost} lost, {sent} packets went on", many());
            assert!(sent >= many(), "{name} {frontend}: {sent} packets went on within another header");
            let answers = capture.count(|frame| ends(frame).is_some_and(|(src, _)| src == frontend));
            assert_eq!(answers, 0, "{name} {frontend}: answers by the balancer");
        }
        // Too long for the way at first: the client is told how long it may be.
        capture.clear();
        let told = pour(&site.client, frontend)
            .unwrap_or_else(|e| panic!("{frontend}: {e}\n{}", site.balancer.log()));
        assert_eq!(told, long().to_string(), "{frontend}");
        // ICMP alone comes from the frontend, by the balancer.
        let errors = capture.count(|frame| ends(frame).is_some_and(|(src, _)| src == frontend));
        println!("{frontend}: {told} bytes of a stream, {errors} times told of the MTU");
        assert!(errors > 0, "{frontend}: nobody was told of the way's MTU");
        // What cannot come as it is.
        for (addr, port) in [(frontend, MOVED), (ip(BALANCER[family]), node_port(WEB))] {
            let answer = tcp(&site.client, addr, port);
            let seen = answer.map(|answer| answer.client);
            assert_eq!(seen, Some(ip(BALANCER[family])), "{addr} {port}: with the balancer's address");
        }
    }
    assert_eq!(site.driven(), drivers, "{}", site.says(&["bpf", "metrics", "list"]));
    let problems = site.says(&["status", "--verbose"]);
    assert!(problems.contains(&format!("port {MOVED}: 2 backends outside")), "{problems}");
}

#[test]
fn vm_backends_answer_by_themselves() {
    answered_past_the_balancer(false);
}

#[test]
fn vm_backends_of_drivers_answer_by_themselves() {
    answered_past_the_balancer(true);
}
