//! Geneve as the overlay of two whole nodes: connectivity, Services, NodePorts whose backend is elsewhere, policy, the
//! identity on the wire, drift, and a change of the protocol. `make test-vm` runs it on kernels that have Geneve; on
//! one that has not, the agent must say so and lose nothing.

use cilium_tests_kernel::cluster::{Node, OUTSIDE_V4, OUTSIDE_V6};
use cilium_tests_kernel::probe::{emulated, eventually, ping, scaled, serve, tcp, udp};
use cilium_tests_kernel::services::{PORT, TARGET, cluster_ip, ip, node_port};
use cilium_tests_kernel::{Cluster, Netns, Options, Pod, Service};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

/// Number of the Service.
const SHOP: u8 = 10;
const WAIT: Duration = Duration::from_secs(15);
/// UDP port of Geneve (RFC 8926, section 3.3).
const GENEVE: u16 = 6081;

/// Whether this kernel has the device.
fn has_geneve() -> bool {
    Netns::new("probe").shell("ip link add g0 type geneve external").status.success()
}

/// Names of our overlays on a node.
fn overlays(node: &Node) -> Vec<String> {
    let text = String::from_utf8_lossy(&node.netns.shell("ip -br link").stdout).into_owned();
    let names = text.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| ["cilium_vxlan", "cilium_geneve"].contains(name)).map(str::to_owned).collect()
}

/// Writes other lines of `[routing]` in place of those it finds.
fn edit(node: &Node, old: &str, new: &str) {
    let text = std::fs::read_to_string(node.config()).expect("the configuration");
    assert!(text.contains(old), "{old:?} is in the configuration");
    std::fs::write(node.config(), text.replace(old, new)).expect("write the configuration");
}

const MODE: &str = "mode = \"tunnel\"\n";
const WITH_GENEVE: &str = "mode = \"tunnel\"\ntunnel_protocol = \"geneve\"\n";

/// Ping, TCP and UDP in both families; the server sees the client's own address, where it is given.
fn reaches(from: &Netns, own: Option<[IpAddr; 2]>, to: [IpAddr; 2], server: &str, what: &str) {
    for family in 0..2 {
        let to = to[family];
        // The first packet may wait for a neighbour; every later one must pass at once.
        eventually(Duration::from_secs(3), || ping(from, to, None));
        assert!(ping(from, to, None), "{what}: ping {to}");
        for (protocol, answer) in [("TCP", tcp(from, to, TARGET)), ("UDP", udp(from, to, TARGET))] {
            let answer = answer.unwrap_or_else(|| panic!("{what}: {protocol} {to}: no answer"));
            assert_eq!(answer.server, server, "{what}: {protocol} {to}");
            if let Some(own) = own {
                assert_eq!(answer.client, own[family], "{what}: {protocol} {to}: seen as");
            }
        }
    }
}

/// A NodePort Service of both families over these pods.
fn service(pods: &[&Pod]) -> String {
    let service = Service::new("shop", cluster_ip(SHOP), pods);
    Service { node_port: Some(node_port(SHOP)), ..service }.manifest()
}

/// The identity a node gave its pod.
fn identity(cluster: &Cluster, pod: &Pod) -> u32 {
    let output = cluster.nodes[pod.node].cilium(&["endpoint", "list", "-o", "json"]);
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a list");
    let address = pod.ipv4.to_string();
    let ours = list.as_array().into_iter().flatten().find(|endpoint| endpoint.to_string().contains(&address));
    let number = ours.and_then(|endpoint| endpoint["status"]["identity"]["id"].as_u64());
    u32::try_from(number.unwrap_or_else(|| panic!("{address} has an identity: {list}"))).expect("32 bits")
}

/// A Geneve packet from nobody we know, with this number in its header: inside, UDP from an address of the first
/// node's pods that no pod has. RFC 8926, section 3; RFC 791; RFC 768.
fn forged(identity: u32, to: Ipv4Addr) -> Vec<u8> {
    let [_, a, b, c] = identity.to_be_bytes();
    // No options; Ethernet inside (0x6558).
    let mut packet = vec![0, 0, 0x65, 0x58, a, b, c, 0];
    packet.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    let mut ip = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 77, 1, 251];
    ip.extend(to.octets());
    let sum: u32 = ip.chunks(2).map(|half| u32::from(half[0]) << 8 | u32::from(half[1])).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(ip);
    packet.extend([0x30, 0x39]);
    packet.extend(PROBED.to_be_bytes());
    packet.extend([0, 12, 0, 0, b'h', b'e', b'y', b'!']);
    packet
}

/// Where [`forged`] packets go.
const PROBED: u16 = 7001;

/// Whether a packet with this identity in the tunnel's header, and nowhere else, gets into the pod.
fn admitted(cluster: &Cluster, pod: &Pod, identity: u32) -> bool {
    let IpAddr::V4(to) = pod.ipv4 else { panic!("{} is IPv4", pod.ipv4) };
    let inbox = pod.netns.enter(|| UdpSocket::bind((to, PROBED))).expect("bind in the pod");
    inbox.set_read_timeout(Some(scaled(Duration::from_millis(500)))).expect("a valid timeout");
    let sender = cluster.outside.enter(|| UdpSocket::bind((OUTSIDE_V4, 0))).expect("bind outside");
    let packet = forged(identity, to);
    sender.send_to(&packet, (cluster.nodes[pod.node].ipv4, GENEVE)).expect("sent");
    inbox.recv(&mut [0; 64]).is_ok()
}

struct Scene {
    cluster: Cluster,
    /// Two on the first node, one on the second.
    a: Pod,
    b: Pod,
    c: Pod,
}

impl Scene {
    fn open(routing: &str) -> Self {
        let mut cluster = Cluster::prepare(&Options::default());
        for node in &mut cluster.nodes {
            edit(node, MODE, routing);
            node.start_agent();
        }
        for node in &cluster.nodes {
            node.wait_healthy(Duration::from_secs(30));
        }
        let [a, b, c] = cluster.three_pods(TARGET);
        cluster.nodes_serve(TARGET);
        cluster.settle();
        Self { cluster, a, b, c }
    }

    fn pods_reach_pods(&self, when: &str) {
        for (from, to) in [(&self.a, &self.b), (&self.a, &self.c), (&self.c, &self.a)] {
            let what = format!("{} to {}, {when}", from.name, to.name);
            reaches(&from.netns, Some(from.addresses()), to.addresses(), &to.name, &what);
        }
    }

    fn hosts_too(&self) {
        let [n1, n2] = [0, 1].map(|n| &self.cluster.nodes[n]);
        reaches(&n1.netns, None, self.a.addresses(), "a", "host to its pod");
        reaches(&n1.netns, None, self.c.addresses(), "c", "host to another node's pod");
        reaches(&self.a.netns, Some(self.a.addresses()), n1.addresses(), "n1", "pod to its host");
        reaches(&self.a.netns, None, n2.addresses(), "n2", "pod to another host");
    }

    /// What fits the pods' MTU passes whole, and uses the wire's up.
    fn mtu(&self) {
        let [v4, v6] = self.c.addresses();
        for (to, headers) in [(v4, 28), (v6, 48)] {
            assert!(ping(&self.a.netns, to, Some(1450 - headers)), "1450 bytes to {to}");
            assert!(!ping(&self.a.netns, to, Some(1451 - headers)), "1451 bytes to {to}");
        }
    }

    fn services(&self) {
        self.cluster.write("service.yaml", &service(&[&self.b, &self.c]));
        for vip in cluster_ip(SHOP) {
            for ask in [tcp, udp] {
                let mut seen = Vec::new();
                let both = eventually(WAIT, || {
                    seen.extend(ask(&self.a.netns, vip, PORT).map(|answer| answer.server));
                    seen.iter().any(|s| s == "b") && seen.iter().any(|s| s == "c")
                });
                assert!(both, "{vip}: answered by {seen:?}");
            }
        }
        // The only backend is not on the node that is asked.
        self.cluster.write("service.yaml", &service(&[&self.c]));
        self.cluster.settle();
        for to in self.cluster.nodes[0].addresses() {
            for (protocol, ask) in [("TCP", tcp as fn(&Netns, IpAddr, u16) -> _), ("UDP", udp)] {
                let there = eventually(WAIT, || ask(&self.cluster.outside, to, node_port(SHOP)).is_some());
                let answer = ask(&self.cluster.outside, to, node_port(SHOP));
                assert!(there && answer.is_some_and(|a| a.server == "c"), "{protocol} to NodePort {to}");
            }
        }
        let outside = [OUTSIDE_V4, OUTSIDE_V6].map(ip);
        serve(&self.cluster.outside, "outside", TARGET);
        reaches(&self.c.netns, Some(self.cluster.nodes[1].addresses()), outside, "outside", "pod to outside");
    }

    /// `c` admits `a` alone, by address for known pods and by the tunnel's header for others.
    fn policy(&self) {
        self.cluster.write(
            "policy.yaml",
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: c, namespace: default}\nspec:\n  \
             endpointSelector: {matchLabels: {app: c}}\n  ingress: [{fromEndpoints: [{matchLabels: {app: a}}]}]\n",
        );
        let [v4, v6] = self.c.addresses();
        assert!(eventually(WAIT, || tcp(&self.b.netns, v4, TARGET).is_none()), "b is never denied");
        self.cluster.settle();
        assert!(
            udp(&self.b.netns, v4, TARGET).is_none() && tcp(&self.b.netns, v6, TARGET).is_none(),
            "b is denied"
        );
        reaches(&self.a.netns, Some(self.a.addresses()), self.c.addresses(), "c", "a under the policy");
        let [a, b] = [&self.a, &self.b].map(|pod| identity(&self.cluster, pod));
        assert!(admitted(&self.cluster, &self.c, a), "identity {a} is admitted by the tunnel's header");
        for other in [b, 0, 1, 0xff_ffff] {
            assert!(!admitted(&self.cluster, &self.c, other), "identity {other} is admitted");
        }
        self.cluster.remove("policy.yaml");
        assert!(eventually(WAIT, || tcp(&self.b.netns, v4, TARGET).is_some()), "b is denied for ever");
        assert!(admitted(&self.cluster, &self.c, b), "without a policy everybody is");
    }

    fn drift(&self) {
        let node = &self.cluster.nodes[0];
        for harm in [
            "ip link set cilium_geneve down",
            "ip link set cilium_geneve mtu 1300",
            "ip link del cilium_geneve",
        ] {
            assert!(node.netns.shell(harm).status.success(), "{harm}");
            assert!(eventually(WAIT, || node.plan_is_empty()), "{harm}: {}", node.log_tail());
            reaches(&self.a.netns, Some(self.a.addresses()), self.c.addresses(), "c", harm);
        }
        let foreign = "ip link del cilium_geneve; ip link add cilium_geneve type geneve id 7 remote 192.0.2.1; ip link set \
                       cilium_geneve alias cilium:cilium_geneve";
        node.netns.shell(foreign);
        assert!(eventually(WAIT, || node.plan_is_empty()), "{foreign}: {}", node.log_tail());
        reaches(&self.a.netns, Some(self.a.addresses()), self.c.addresses(), "c", foreign);
    }

    fn restart(&mut self, n: usize, what: &str) {
        let node = &mut self.cluster.nodes[n];
        node.stop_agent(libc::SIGTERM);
        node.start_agent();
        node.wait_healthy(Duration::from_secs(30));
        assert!(eventually(WAIT, || node.plan_is_empty()), "{what}: {}", node.log_tail());
    }

    fn destroy(mut self) {
        for node in &mut self.cluster.nodes {
            node.stop_agent(libc::SIGTERM);
            let output = node.cilium(&["destroy", "--with-pods"]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: destroy: {said}", node.name);
            assert_eq!(overlays(node), Vec::<String>::new(), "{}", node.name);
        }
    }
}

#[test]
fn vm_geneve() {
    if !has_geneve() {
        return refused();
    }
    let mut scene = Scene::open(WITH_GENEVE);
    for node in &scene.cluster.nodes {
        assert_eq!(overlays(node), ["cilium_geneve"], "{}", node.name);
    }
    scene.pods_reach_pods("first");
    scene.hosts_too();
    scene.mtu();
    println!("connectivity");
    scene.services();
    println!("Services");
    scene.policy();
    println!("policy");
    scene.drift();
    println!("drift");
    scene.restart(0, "restarted");
    scene.pods_reach_pods("after a restart");
    scene.destroy();
}

/// From VXLAN to Geneve on one and the same port and back, a node at a time. Between nodes that differ nothing passes.
#[test]
fn vm_the_protocol_is_changed_node_by_node() {
    if !has_geneve() {
        return println!("SKIP: needs geneve");
    }
    let vxlan = "tunnel_protocol = \"vxlan\"\ntunnel_port = 8472\n";
    let geneve = "tunnel_protocol = \"geneve\"\ntunnel_port = 8472\n";
    let mut scene = Scene::open(&format!("{MODE}{vxlan}"));
    scene.pods_reach_pods("over VXLAN");
    for (from, to, link) in [(vxlan, geneve, "cilium_geneve"), (geneve, vxlan, "cilium_vxlan")] {
        edit(&scene.cluster.nodes[0], from, to);
        scene.restart(0, link);
        assert_eq!(overlays(&scene.cluster.nodes[0]), [link]);
        assert_ne!(overlays(&scene.cluster.nodes[1]), [link]);
        reaches(
            &scene.a.netns,
            Some(scene.a.addresses()),
            scene.b.addresses(),
            "b",
            "within the node, while nodes differ",
        );
        for to in scene.c.addresses() {
            assert!(!ping(&scene.a.netns, to, None), "{to} is reached while nodes differ");
        }
        edit(&scene.cluster.nodes[1], from, to);
        scene.restart(1, link);
        assert_eq!(overlays(&scene.cluster.nodes[1]), [link]);
        scene.pods_reach_pods(link);
    }
    scene.destroy();
}

/// The agent says what is wrong and what to do; pods of the node still reach each other; VXLAN is the way out.
fn refused() {
    assert!(!emulated(), "the kernels of `make test-vm` have Geneve");
    let mut cluster = Cluster::prepare(&Options { nodes: 1, ..Options::default() });
    let node = &mut cluster.nodes[0];
    edit(node, MODE, WITH_GENEVE);
    node.start_agent();
    let told = |node: &Node| String::from_utf8_lossy(&node.cilium(&["status"]).stdout).into_owned();
    let says =
        |text: &str| text.contains("this kernel has no geneve") && text.contains("routing.tunnel_protocol");
    assert!(eventually(WAIT, || says(&told(node))), "{}\n{}", told(node), node.log_tail());
    assert!(!node.cilium(&["status"]).status.success(), "a node without its overlay is not healthy");
    let log = node.log();
    assert!(says(&log), "{log}");
    let (a, b) = (cluster.pod(0, "a", "app: a"), cluster.pod(0, "b", "app: b"));
    serve(&b.netns, "b", TARGET);
    reaches(&a.netns, Some(a.addresses()), b.addresses(), "b", "within the node");
    let node = &mut cluster.nodes[0];
    node.stop_agent(libc::SIGTERM);
    edit(node, WITH_GENEVE, MODE);
    node.start_agent();
    node.wait_healthy(Duration::from_secs(30));
    assert_eq!(overlays(node), ["cilium_vxlan"]);
    reaches(&a.netns, Some(a.addresses()), b.addresses(), "b", "with VXLAN");
}
