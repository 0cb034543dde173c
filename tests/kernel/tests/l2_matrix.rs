//! Connectivity of two nodes: every pair of ends, both families, TCP, UDP and ping, tunnel and native.

use cilium_tests_kernel::cluster::{OUTSIDE_V4, OUTSIDE_V6};
use cilium_tests_kernel::probe::{eventually, ping, serve, tcp, udp};
use cilium_tests_kernel::{Cluster, Mode, Netns, Options, Pod};
use std::net::IpAddr;
use std::time::Duration;

const PORT: u16 = 7000;

struct Row<'a> {
    what: &'a str,
    from: &'a Netns,
    to: [IpAddr; 2],
    server: &'a str,
    /// The address the server must see, where it is certain.
    seen: Option<[IpAddr; 2]>,
}

fn matrix(mode: Mode) {
    let cluster = Cluster::start(&Options { mode, ..Options::default() });
    let [a, b, c] = cluster.three_pods(PORT);
    cluster.nodes_serve(PORT);
    serve(&cluster.outside, "outside", PORT);
    cluster.settle();
    let of = Pod::addresses;
    let node = |n: usize| cluster.nodes[n].addresses();
    let outside = [OUTSIDE_V4.parse().unwrap(), OUTSIDE_V6.parse().unwrap()];
    let rows = [
        Row { what: "pod to pod, same node", from: &a.netns, to: of(&b), server: "b", seen: Some(of(&a)) },
        Row { what: "pod to pod, other node", from: &a.netns, to: of(&c), server: "c", seen: Some(of(&a)) },
        Row { what: "pod to pod, back", from: &c.netns, to: of(&a), server: "a", seen: Some(of(&c)) },
        Row { what: "pod to its host", from: &a.netns, to: node(0), server: "n1", seen: Some(of(&a)) },
        Row { what: "pod to the other host", from: &a.netns, to: node(1), server: "n2", seen: None },
        Row { what: "host to its pod", from: &cluster.nodes[0].netns, to: of(&a), server: "a", seen: None },
        Row {
            what: "host to another node's pod",
            from: &cluster.nodes[0].netns,
            to: of(&c),
            server: "c",
            seen: None,
        },
        Row { what: "pod to outside", from: &a.netns, to: outside, server: "outside", seen: Some(node(0)) },
    ];
    let mut failed = Vec::new();
    for row in &rows {
        for family in 0..2 {
            let to = row.to[family];
            // The first packet may wait for a neighbour; every later one must pass at once.
            eventually(Duration::from_secs(3), || ping(row.from, to, None));
            if !ping(row.from, to, None) {
                failed.push(format!("{}: ping {to}", row.what));
            }
            for (name, answer) in [("TCP", tcp(row.from, to, PORT)), ("UDP", udp(row.from, to, PORT))] {
                match answer {
                    Some(answer) if answer.server != row.server => {
                        failed.push(format!("{}: {name} {to}: answered by {}", row.what, answer.server));
                    }
                    Some(answer) if row.seen.is_some_and(|seen| seen[family] != answer.client) => {
                        failed.push(format!("{}: {name} {to}: seen as {}", row.what, answer.client));
                    }
                    Some(_) => {}
                    None => failed.push(format!("{}: {name} {to}: no answer", row.what)),
                }
            }
        }
    }
    for (what, to) in [("same node", of(&b)), ("other node", of(&c))] {
        let mtu = path_mtu(&a, to[0]);
        if !ping(&a.netns, to[0], Some(mtu - 28)) {
            failed.push(format!("DF ping of {mtu} bytes, {what}, IPv4"));
        }
        let mtu = path_mtu(&a, to[1]);
        if !ping(&a.netns, to[1], Some(mtu - 48)) {
            failed.push(format!("DF ping of {mtu} bytes, {what}, IPv6"));
        }
    }
    assert!(failed.is_empty(), "{mode:?}:\n  {}", failed.join("\n  "));
}

/// The MTU the pod uses towards an address: the route's if it has one, else the interface's.
fn path_mtu(pod: &Pod, to: IpAddr) -> u32 {
    let route = String::from_utf8(pod.netns.shell(&format!("ip route get {to}")).stdout).unwrap();
    let link =
        String::from_utf8(pod.netns.shell("cat /proc/net/dev >/dev/null; ip link show eth0").stdout).unwrap();
    let after = |text: &str| -> Option<u32> {
        let mut words = text.split_whitespace().skip_while(|w| *w != "mtu");
        words.nth(1)?.parse().ok()
    };
    after(&route).or_else(|| after(&link)).expect("an MTU")
}

#[test]
fn tunnel() {
    matrix(Mode::Tunnel);
}

#[test]
fn native() {
    matrix(Mode::Native);
}
