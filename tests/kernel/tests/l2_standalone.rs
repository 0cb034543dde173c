//! A load balancer of its own: no pods and no cluster, clients behind one device and backends behind another. The
//! backends know no way to the client.

use cilium_tests_kernel::netns::succeed;
use cilium_tests_kernel::probe::{Answer, BOTH, eventually, serve};
use cilium_tests_kernel::services::{BALANCERS, Backend, PORT, TARGET, balancer, ip, node_port};
use cilium_tests_kernel::standalone::{Balancer, PATIENCE};
use cilium_tests_kernel::{Netns, Service};

/// Number of the Service.
const WEB: u8 = 10;
const CLIENT: [&str; 2] = ["10.61.0.2", "fd61::2"];
const FRONT: [&str; 2] = ["10.61.0.1", "fd61::1"];
const BACK: [&str; 2] = ["10.62.0.1", "fd62::1"];
const RESERVED: &str = "net.ipv4.ip_local_reserved_ports";

/// Both families' addresses of the backend `n`.
fn backend(n: u8) -> [String; 2] {
    [format!("10.62.0.1{n}"), format!("fd62::1{n}")]
}

/// A device `name` of `of` and its other end in `to`.
fn plug(of: &Netns, name: &str, addresses: [&str; 2], to: &Netns, end: &str) {
    of.ip(&format!("link add {name} type veth peer name {end} netns {}", to.name()));
    succeed(of.command("sysctl").args(["-q", "-w", &format!("net.ipv6.conf.{name}.accept_dad=0")]));
    of.ip(&format!("addr add {}/24 dev {name}", addresses[0]));
    of.ip(&format!("-6 addr add {}/64 dev {name} nodad", addresses[1]));
    of.ip(&format!("link set {name} up"));
}

/// The balancer, who it serves and by whom.
struct Site {
    balancer: Balancer,
    client: Netns,
    _backends: [Netns; 2],
    _wire: Netns,
}

impl Site {
    fn new(reserved: &str) -> Self {
        let [wire, balancer, client] = ["wire", "lb", "client"].map(Netns::new);
        wire.ip("link add br0 type bridge mcast_snooping 0");
        wire.ip("link set br0 up");
        plug(&balancer, "front", FRONT, &client, "eth0");
        client.ip(&format!("addr add {}/24 dev eth0", CLIENT[0]));
        client.ip(&format!("-6 addr add {}/64 dev eth0 nodad", CLIENT[1]));
        client.ip("link set eth0 up");
        client.ip(&format!("route add {} via {}", BALANCERS[0], FRONT[0]));
        client.ip(&format!("-6 route add {} via {}", BALANCERS[1], FRONT[1]));
        plug(&balancer, "back", BACK, &wire, "lb");
        wire.ip("link set lb master br0 up");
        let backends = [1, 2].map(|n| {
            let netns = Netns::new(&format!("bk{n}"));
            let addresses = backend(n);
            plug(&netns, "eth0", [&addresses[0], &addresses[1]], &wire, &format!("bk{n}"));
            wire.ip(&format!("link set bk{n} master br0 up"));
            serve(&netns, &format!("bk{n}"), TARGET);
            netns
        });
        succeed(balancer.command("sysctl").args(["-q", "-w", &format!("{RESERVED}={reserved}")]));
        let balancer = Balancer::new(balancer, FRONT, &["front", "back"], "");
        balancer.write("web.yaml", &web());
        Self { balancer, client, _backends: backends, _wire: wire }
    }

    fn reserved(&self) -> String {
        let output = succeed(self.balancer.netns.command("sysctl").args(["-n", RESERVED]));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

fn web() -> String {
    let backends = [1, 2].map(|n| Backend::from(backend(n).map(|address| ip(&address))));
    Service {
        cluster_ips: None,
        node_port: Some(node_port(WEB)),
        balancer: Some(balancer(WEB)),
        backends: backends.into(),
        ..Service::new("web", balancer(WEB), &[])
    }
    .manifest()
}

#[test]
fn vm_backends_behind_another_device_see_its_address() {
    let mut site = Site::new("5000");
    site.balancer.start();
    for family in 0..2 {
        for (name, ask) in BOTH {
            for (addr, port) in [(balancer(WEB)[family], PORT), (ip(FRONT[family]), node_port(WEB))] {
                let mut servers = Vec::new();
                for _ in 0..24 {
                    let answer = ask(&site.client, addr, port);
                    let Some(Answer { server, client }) = answer else {
                        panic!("{name} {addr} {port}: no answer after {servers:?}\n{}", site.balancer.log());
                    };
                    assert_eq!(client, ip(BACK[family]), "{name} {addr} {port}: what {server} saw");
                    servers.push(server);
                }
                servers.sort();
                servers.dedup();
                assert_eq!(servers, ["bk1", "bk2"], "{name} {addr} {port}");
            }
        }
    }
    assert!(!site.balancer.log().contains("no pod CIDRs"), "nobody asked for pods:\n{}", site.balancer.log());
}

#[test]
fn node_ports_are_reserved_and_given_back() {
    let before = "5000,31000-31010";
    let mut site = Site::new(before);
    site.balancer.start();
    assert_eq!(site.reserved(), "5000,30000-32767");
    // What somebody adds meanwhile stays.
    let set = |value: &str| {
        succeed(site.balancer.netns.command("sysctl").args(["-q", "-w", &format!("{RESERVED}={value}")]));
    };
    set("5000,6000,30000-32767");
    assert!(site.balancer.cilium(&["plan"]).status.success(), "more is reserved than is asked for");
    set("7000");
    assert!(eventually(PATIENCE, || site.reserved() == "7000,30000-32767"), "{}", site.reserved());
    site.balancer.stop();
    let destroyed = site.balancer.cilium(&["destroy"]);
    assert!(destroyed.status.success(), "{}", String::from_utf8_lossy(&destroyed.stderr));
    assert_eq!(site.reserved(), before);
}
