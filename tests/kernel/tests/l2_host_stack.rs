//! `routing.host_stack` alone, where Services are ours: switched on and off again beneath an open connection, on a
//! node whose netfilter drops what it takes to be out of turn.

use cilium_tests_kernel::cluster::{OUTSIDE_V4, OUTSIDE_V6};
use cilium_tests_kernel::netns::succeed;
use cilium_tests_kernel::probe::{eventually, ping, serve};
use cilium_tests_kernel::{Cluster, Options};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const TARGET: u16 = 7000;

/// Keys are read when the agent starts: it is started again with other ones, and an open connection goes on.
#[test]
fn a_connection_outlives_the_switch_to_the_stack_and_back() {
    let mut cluster = Cluster::start(&Options { nodes: 1, ..Options::default() });
    let pod = cluster.pod(0, "client", "app: client");
    serve(&cluster.outside, "outside", TARGET);
    cluster.settle();
    let node = &cluster.nodes[0].netns;
    for tables in ["iptables", "ip6tables"] {
        succeed(node.command(tables).args("-w -A FORWARD -m conntrack --ctstate INVALID -j DROP".split(' ')));
    }
    let plain = std::fs::read_to_string(cluster.nodes[0].config()).expect("a configuration");
    let through = plain.replace("[routing]\n", "[routing]\nhost_stack = true\n");
    assert_ne!(plain, through);
    for (family, to) in [OUTSIDE_V4, OUTSIDE_V6].into_iter().enumerate() {
        let to = SocketAddr::new(to.parse().expect("a literal address"), TARGET);
        assert!(eventually(Duration::from_secs(5), || ping(&pod.netns, to.ip(), None)), "no way to {to}");
        let mut stream =
            pod.netns.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(2)).expect("connect"));
        stream.set_read_timeout(Some(Duration::from_secs(3))).expect("a timeout");
        for (step, toml) in [&plain, &through, &plain].into_iter().enumerate() {
            let node = &mut cluster.nodes[0];
            std::fs::write(node.config(), toml).expect("write the configuration");
            node.stop_agent(libc::SIGTERM);
            node.start_agent();
            node.wait_healthy(Duration::from_secs(30));
            cluster.settle();
            for _ in 0..3 {
                let mut buffer = [0; 64];
                let answered = stream.write_all(b"?").and_then(|()| stream.read(&mut buffer));
                assert!(matches!(answered, Ok(n) if n > 0), "family {family}, step {step}: {answered:?}");
            }
            let family = ["ipv4", "ipv6"][family];
            let list = format!("conntrack -L -f {family} -d {} 2>/dev/null", to.ip());
            let tracked = cluster.nodes[0].netns.shell(&list).stdout;
            let seen = String::from_utf8_lossy(&tracked).contains("ESTABLISHED");
            // What it knew it does not forget at once.
            assert_eq!(seen, step > 0, "{family}, step {step}: netfilter knows the connection: {seen}");
        }
    }
}
