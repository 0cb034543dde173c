//! What processes of the node may bind beside Services (`load_balancer.node_port_bind_protection`).

use cilium_tests_kernel::probe::eventually;
use cilium_tests_kernel::{Cluster, Netns, Options};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

const NODE_PORT: u16 = 30_080;
const HEALTH: u16 = 32_100;
const HOST_PORT: u16 = 8081;
const PORT: u16 = 80;
const BALANCER: &str = "203.0.113.5";
const EXTERNAL: &str = "198.51.100.5";
const WAIT: Duration = Duration::from_secs(10);

fn service() -> String {
    let ports = ["TCP", "UDP"].map(|proto| {
        let name = proto.to_lowercase();
        format!("{{name: {name}, port: {PORT}, protocol: {proto}, targetPort: 7000, nodePort: {NODE_PORT}}}")
    });
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: default}}\nspec:\n  type: LoadBalancer\n  \
         clusterIP: 10.96.0.10\n  clusterIPs: [10.96.0.10, \"fd96::10\"]\n  ipFamilyPolicy: RequireDualStack\n  \
         externalIPs: [{EXTERNAL}]\n  externalTrafficPolicy: Local\n  healthCheckNodePort: {HEALTH}\n  ports: [{}]\n\
         status: {{loadBalancer: {{ingress: [{{ip: {BALANCER}}}]}}}}\n",
        ports.join(", ")
    )
}

/// Binds over TCP and UDP in a network namespace, as a process of the node's cgroup.
fn bind(cluster: &Cluster, netns: &Netns, at: &str, port: u16) -> [io::Result<u16>; 2] {
    let at = SocketAddr::new(at.parse::<IpAddr>().expect("an address"), port);
    let cgroup = cluster.nodes[0].cgroup.as_ref().expect("sockets are on");
    netns.enter(|| {
        cgroup.enter();
        let tcp = TcpListener::bind(at).and_then(|socket| socket.local_addr());
        let udp = UdpSocket::bind(at).and_then(|socket| socket.local_addr());
        [tcp, udp].map(|bound| bound.map(|at| at.port()))
    })
}

#[test]
fn l2_processes_of_the_node_do_not_get_what_belongs_to_services() {
    let mut cluster = Cluster::start(&Options { nodes: 1, socket: true, ..Options::default() });
    cluster.write("web.yaml", &service());
    cluster.write(
        "pod.yaml",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: host-port, namespace: default}}\nspec: {{nodeName: n1, \
             containers: [{{name: c, ports: [{{containerPort: 7000, hostPort: {HOST_PORT}}}]}}]}}\n"
        ),
    );
    let pod = cluster.attach(0, "host-port");
    cluster.settle();
    let node = cluster.nodes[0].netns.name().to_owned();
    // Who has such an address himself may bind it.
    for ip in [BALANCER, EXTERNAL] {
        cluster.nodes[0].netns.ip(&format!("addr add {ip}/32 dev lo"));
    }
    let own = [cluster.nodes[0].ipv4.to_string(), cluster.nodes[0].ipv6.to_string()];
    let node_ports: Vec<(&str, u16)> = ["0.0.0.0", "::", "127.0.0.1", "::1", &own[0], &own[1]]
        .into_iter()
        .map(|at| (at, NODE_PORT))
        .chain([(BALANCER, PORT), (EXTERNAL, PORT)])
        .collect();
    let refused = |cluster: &Cluster| {
        for (at, port) in &node_ports {
            for bound in bind(cluster, &cluster.nodes[0].netns, at, *port) {
                assert_eq!(
                    bound.expect_err("it is a frontend's").kind(),
                    ErrorKind::AddrInUse,
                    "{at} {port}"
                );
            }
            if *port == NODE_PORT && !own.iter().any(|own| own == at) {
                for bound in bind(cluster, &pod.netns, at, *port) {
                    bound.unwrap_or_else(|e| panic!("in a pod: {at} {port}: {e}"));
                }
            }
        }
    };
    refused(&cluster);
    // Nobody's, of the same range; where the agent answers health checks; a hostPort; a balancer's port elsewhere.
    let free = [("0.0.0.0", NODE_PORT + 1), (BALANCER, PORT + 1), ("0.0.0.0", HOST_PORT), ("::", PORT)];
    for (at, port) in free {
        for bound in bind(&cluster, &cluster.nodes[0].netns, at, port) {
            assert_eq!(bound.unwrap_or_else(|e| panic!("{at} {port} on {node}: {e}")), port);
        }
    }
    for at in ["0.0.0.0", "::", "127.0.0.1", &own[0], BALANCER] {
        for _ in 0..50 {
            for bound in bind(&cluster, &cluster.nodes[0].netns, at, 0) {
                let port = bound.unwrap_or_else(|e| panic!("any port of {at}: {e}"));
                assert!(!(30_000..32_768).contains(&port), "port {port} may become a NodePort");
            }
        }
    }
    // The agent itself listens in the range.
    assert!(eventually(WAIT, || cluster.nodes[0].status()["health-checks"] == serde_json::json!([])));
    let health = || cluster.outside.enter(|| std::net::TcpStream::connect((cluster.nodes[0].ipv4, HEALTH)));
    assert!(eventually(WAIT, || health().is_ok()), "{:?}", health());

    // Off, and on again.
    for (protects, was) in [(false, ""), (true, "node_port_bind_protection = false\n")] {
        let config = std::fs::read_to_string(cluster.nodes[0].config()).expect("its configuration");
        let config = match protects {
            false => {
                config.replace("[load_balancer]\n", "[load_balancer]\nnode_port_bind_protection = false\n")
            }
            true => config.replace(was, ""),
        };
        cluster.nodes[0].stop_agent(libc::SIGTERM);
        std::fs::write(cluster.nodes[0].config(), config).expect("write it");
        cluster.nodes[0].start_agent();
        cluster.nodes[0].wait_healthy(Duration::from_secs(30));
        cluster.settle();
        if protects {
            refused(&cluster);
            continue;
        }
        for (at, port) in &node_ports {
            for bound in bind(&cluster, &cluster.nodes[0].netns, at, *port) {
                assert_eq!(bound.unwrap_or_else(|e| panic!("{at} {port}: {e}")), *port);
            }
        }
    }
}
