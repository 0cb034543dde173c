//! Services without backend: their clients, in pods and outside, are told at once, or never.

use cilium_tests_kernel::probe::{eventually, scaled};
use cilium_tests_kernel::services::{PORT, cluster_ip, ip};
use cilium_tests_kernel::{Cluster, Netns, Options};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

const NODE_PORT: u16 = 30_041;
const PATIENCE: Duration = Duration::from_secs(10);

fn service() -> String {
    let ports = ["TCP", "UDP"].map(|proto| {
        format!("{{name: {}, port: {PORT}, protocol: {proto}, nodePort: {NODE_PORT}}}", proto.to_lowercase())
    });
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: none, namespace: default}}\nspec:\n  type: \
         NodePort\n  clusterIP: 10.96.0.41\n  clusterIPs: [10.96.0.41, \"fd96::41\"]\n  ipFamilyPolicy: \
         RequireDualStack\n  ports: [{}]\n",
        ports.join(", ")
    )
}

/// What a client hears within half a second.
fn tcp(from: &Netns, to: SocketAddr) -> Result<(), ErrorKind> {
    from.enter(|| TcpStream::connect_timeout(&to, scaled(Duration::from_millis(500))))
        .map(drop)
        .map_err(|e| e.kind())
}

fn udp(from: &Netns, to: SocketAddr, payload: usize) -> Result<(), ErrorKind> {
    let any: IpAddr = if to.is_ipv4() { ip("0.0.0.0") } else { ip("::") };
    from.enter(|| {
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(scaled(Duration::from_millis(500))))?;
        socket.connect(to)?;
        socket.send(&vec![7; payload])?;
        socket.recv(&mut [0; 16]).map(drop)
    })
    .map_err(|e| e.kind())
}

#[test]
fn clients_without_backend_are_refused_or_left_waiting() {
    let reject = Options { nodes: 1, ..Options::default() };
    let silent =
        Options { extra: "[load_balancer]\nno_backend_response = \"drop\"\n".into(), ..reject.clone() };
    for (options, refused) in [(reject, true), (silent, false)] {
        let cluster = Cluster::start(&options);
        let client = cluster.pod(0, "client", "app: client");
        cluster.write("none.yaml", &service());
        let node = &cluster.nodes[0];
        let known = || {
            String::from_utf8_lossy(&node.cilium(&["service", "list"]).stdout)
                .contains(&NODE_PORT.to_string())
        };
        assert!(eventually(PATIENCE, known), "{}", node.log_tail());
        cluster.settle();
        let inside = cluster_ip(41).map(|to| (&client.netns, SocketAddr::new(to, PORT)));
        let outside = node.addresses().map(|to| (&cluster.outside, SocketAddr::new(to, NODE_PORT)));
        let near = node.addresses().map(|to| (&client.netns, SocketAddr::new(to, NODE_PORT)));
        for (from, to) in [inside, outside, near].concat() {
            let want = |told: Result<(), ErrorKind>, waited: Duration, what: &str| match told {
                Err(ErrorKind::ConnectionRefused) if refused => {
                    assert!(
                        waited < scaled(Duration::from_millis(400)),
                        "{what} {to}: told after {waited:?}"
                    );
                }
                Err(ErrorKind::TimedOut | ErrorKind::WouldBlock) if !refused => {}
                other => panic!("{what} {to}: {other:?}, refusing {refused}\n{}", node.log_tail()),
            };
            // The first packet may wait for a neighbour; what is measured does not.
            let _ = tcp(from, to);
            let begun = Instant::now();
            want(tcp(from, to), begun.elapsed(), "TCP");
            for payload in [4, 7, 1400] {
                let begun = Instant::now();
                want(udp(from, to, payload), begun.elapsed(), "UDP");
            }
        }
        let drops = String::from_utf8_lossy(&node.cilium(&["bpf", "metrics", "list"]).stdout).into_owned();
        assert!(drops.contains("Service backend not found"), "{drops}");
    }
}
