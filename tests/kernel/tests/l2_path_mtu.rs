//! A client behind a narrow hop: backends of a NodePort, here and elsewhere, learn how long their packets may be.

use cilium_tests_kernel::netns::succeed;
use cilium_tests_kernel::probe::scaled;
use cilium_tests_kernel::services::{TARGET, cluster_ip, ip, node_port};
use cilium_tests_kernel::{Cluster, Mode, Netns, Options, Service};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// Numbers of the Services.
const NEAR: u8 = 51;
const FAR: u8 = 52;
const BYTES: usize = 200_000;
const MTU: usize = 1300;
const CLIENT: [&str; 2] = ["10.50.0.2", "fd50::2"];

/// Answers every connection with many bytes.
fn serve(netns: &Netns) {
    let listener = netns.enter(|| TcpListener::bind(("::", TARGET)).expect("bind"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let content: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
                let _ = stream.write_all(&content);
            });
        }
    });
}

/// Whether all of it came.
fn fetch(from: &Netns, to: SocketAddr) -> Result<(), String> {
    let stream = from.enter(|| TcpStream::connect_timeout(&to, scaled(Duration::from_secs(3))));
    let mut stream = stream.map_err(|e| format!("connect: {e}"))?;
    stream.set_read_timeout(Some(scaled(Duration::from_secs(4)))).expect("a timeout");
    let mut content = Vec::new();
    let ended = stream.read_to_end(&mut content);
    let right = content.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8);
    match ended {
        Ok(_) if content.len() == BYTES && right => Ok(()),
        other => Err(format!("{} of {BYTES} bytes, right {right}: {other:?}", content.len())),
    }
}

/// A node of its own behind the outside host, over a link that carries less than the wire.
fn behind(cluster: &Cluster) -> Netns {
    let client = Netns::new("far");
    let router = &cluster.outside;
    router.ip(&format!("link add narrow type veth peer name eth0 netns {}", client.name()));
    for key in
        ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.narrow.accept_dad=0"]
    {
        succeed(router.command("sysctl").args(["-q", "-w", key]));
    }
    succeed(client.command("sysctl").args(["-q", "-w", "net.ipv6.conf.eth0.accept_dad=0"]));
    router.ip("addr add 10.50.0.1/24 dev narrow");
    router.ip("-6 addr add fd50::1/64 dev narrow nodad");
    router.ip(&format!("link set narrow mtu {MTU} up"));
    client.ip(&format!("addr add {}/24 dev eth0", CLIENT[0]));
    client.ip(&format!("-6 addr add {}/64 dev eth0 nodad", CLIENT[1]));
    client.ip("link set eth0 up");
    client.ip("route add default via 10.50.0.1");
    client.ip("-6 route add default via fd50::1");
    client
}

fn learn(mode: Mode, forwarding: &str) {
    let extra = format!("[load_balancer]\nmode = \"{forwarding}\"\n");
    let cluster = Cluster::start(&Options { mode, extra, ..Options::default() });
    let (near, far) = (cluster.pod(0, "near", "app: near"), cluster.pod(1, "far", "app: far"));
    serve(&near.netns);
    serve(&far.netns);
    let services = [("near", NEAR, &near), ("far", FAR, &far)].map(|(name, n, pod)| {
        Service { node_port: Some(node_port(n)), ..Service::new(name, cluster_ip(n), &[pod]) }.manifest()
    });
    cluster.write("services.yaml", &services.concat());
    let client = behind(&cluster);
    let node = &cluster.nodes[0];
    // Each has 2 ports at a ClusterIP of two families.
    node.wait_for_frontends(2 * 2 * 2);
    cluster.settle();
    let lent = if forwarding == "dsr" { CLIENT.map(ip) } else { cluster.lent(mode) };
    for (family, addr) in node.addresses().into_iter().enumerate() {
        for (pod, port, peer) in
            [(&near, node_port(NEAR), ip(CLIENT[family])), (&far, node_port(FAR), lent[family])]
        {
            let what = format!("{mode:?} {} to {}", SocketAddr::new(addr, port), pod.name);
            if let Err(why) = fetch(&client, SocketAddr::new(addr, port)) {
                panic!("{what}: {why}\n{}", node.log_tail());
            }
            // That it was not by smaller segments from the start, or by luck.
            let route =
                pod.netns.command("ip").args(["route", "get", &peer.to_string()]).output().expect("ip runs");
            let route = String::from_utf8_lossy(&route.stdout).into_owned();
            assert!(route.contains(&format!("mtu {MTU}")), "{what}: the backend's route is {route}");
        }
    }
}

#[test]
fn in_the_tunnel() {
    learn(Mode::Tunnel, "snat");
}

#[test]
fn natively() {
    learn(Mode::Native, "snat");
}

#[test]
fn in_the_tunnel_with_direct_answers() {
    learn(Mode::Tunnel, "dsr");
}

#[test]
fn natively_with_direct_answers() {
    learn(Mode::Native, "dsr");
}
