//! Node ports, their protection, and whose sockets are served.

use crate::stage::{Frontend, Stage, TCP, UDP, alone, ask, at, elsewhere, serve, tcp, udp};
use cilium_abi::lb::{FRONTEND_CLUSTER_IP, FRONTEND_NODE_PORT};
use cilium_abi::node::{NODE_SOCK, NODE_SOCK_HOST_ONLY};
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;

/// A NodePort on every address of the node, which has one of each family, as have others.
fn node_port(stage: &mut Stage, port: u16) {
    for addr in ["192.0.2.10/32", "192.0.2.99/32", "2001:db8::10/128", "2001:db8::99/128"] {
        let status = Command::new("ip").args(["addr", "add", addr, "dev", "lo"]).status();
        assert!(status.is_ok_and(|status| status.success()), "ip addr add {addr}");
    }
    stage.own("192.0.2.10");
    stage.own("2001:db8::10");
    for (is_v6, every, rev_nat) in [(false, "0.0.0.0", 1), (true, "::", 3)] {
        let backends = stage.backends(is_v6, 2, 8080);
        serve(&backends);
        for (proto, rev_nat) in [(TCP, rev_nat), (UDP, rev_nat + 1)] {
            let mut frontend = Frontend::new(at(every, port), proto, rev_nat, &backends);
            frontend.flags = FRONTEND_NODE_PORT;
            stage.put(&frontend);
        }
    }
}

const LOOPBACK: [&str; 5] = ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "0.0.0.0"];
const OWN: [&str; 3] = ["192.0.2.10", "2001:db8::10", "::ffff:192.0.2.10"];
const FOREIGN: [&str; 2] = ["192.0.2.99", "2001:db8::99"];

#[test]
fn node_ports_answer_on_the_nodes_addresses() {
    alone("node::node_ports_answer_on_the_nodes_addresses", || {
        let mut stage = Stage::new(NODE_SOCK);
        node_port(&mut stage, 30_001);
        for addr in OWN.iter().chain(&LOOPBACK) {
            let to = at(addr, 30_001);
            let (stream, _) = tcp(to).unwrap_or_else(|e| panic!("TCP {to}: {e}"));
            assert_eq!(stream.peer_addr().expect("connected"), to);
            let (_, from) = ask(&udp(to), to).unwrap_or_else(|e| panic!("UDP {to}: {e}"));
            assert_eq!(from, to);
        }
        for addr in FOREIGN {
            let to = at(addr, 30_001);
            let tried = TcpStream::connect(to).map(drop).map_err(|e| e.kind());
            assert_eq!(tried, Err(ErrorKind::ConnectionRefused), "{to} is of another node");
        }
        let other = TcpStream::connect(at("127.0.0.1", 30_002)).map(drop).map_err(|e| e.kind());
        assert_eq!(other, Err(ErrorKind::ConnectionRefused));
        // A pod's loopback is the pod's; the node's addresses are the node's from there too.
        elsewhere(|| {
            let given = |addr: &str| {
                let socket = udp(at(addr, 30_001));
                socket.connect(at(addr, 30_001)).expect("connected");
                stage.given(&socket)
            };
            for addr in LOOPBACK {
                assert_eq!(given(addr), None, "{addr} in a pod");
            }
            for addr in OWN {
                assert!(given(addr).is_some(), "{addr} from a pod");
            }
        });
        // Without the flag a row of every address is nobody's.
        let backends = stage.backends(false, 1, 8080);
        let mut frontend = Frontend::new(at("0.0.0.0", 30_005), TCP, 30, &backends);
        frontend.flags = FRONTEND_CLUSTER_IP;
        stage.put(&frontend);
        assert!(TcpStream::connect(at("192.0.2.10", 30_005)).is_err());
    });
}

#[test]
fn node_ports_cannot_be_bound() {
    alone("node::node_ports_cannot_be_bound", || {
        let mut stage = Stage::new(NODE_SOCK);
        node_port(&mut stage, 30_001);
        // On one address only, and of one protocol.
        let backends = stage.backends(false, 1, 8080);
        let mut frontend = Frontend::new(at("192.0.2.10", 30_003), TCP, 31, &backends);
        frontend.flags = FRONTEND_NODE_PORT;
        stage.put(&frontend);
        let service = Frontend::new(at("192.0.2.10", 30_004), TCP, 32, &backends);
        stage.put(&service);

        let every = ["0.0.0.0", "::", "127.0.0.1", "::1", "192.0.2.10", "2001:db8::10"];
        for addr in every {
            let to = at(addr, 30_001);
            let refused = |e: std::io::Error| e.kind();
            assert_eq!(TcpListener::bind(to).map(drop).map_err(refused), Err(ErrorKind::AddrInUse), "{to}");
            assert_eq!(UdpSocket::bind(to).map(drop).map_err(refused), Err(ErrorKind::AddrInUse), "{to}");
            TcpListener::bind(at(addr, 30_002)).unwrap_or_else(|e| panic!("{addr}, another port: {e}"));
            UdpSocket::bind(at(addr, 0)).unwrap_or_else(|e| panic!("{addr}, any port: {e}"));
        }
        for addr in FOREIGN {
            TcpListener::bind(at(addr, 30_001)).unwrap_or_else(|e| panic!("{addr}, not the node's: {e}"));
        }
        let one = at("192.0.2.10", 30_003);
        assert!(TcpListener::bind(one).is_err() && UdpSocket::bind(one).is_ok());
        assert!(TcpListener::bind(at("127.0.0.1", 30_003)).is_ok());
        assert!(TcpListener::bind(at("192.0.2.10", 30_004)).is_ok(), "no NodePort");
        // An IPv4 node port alone keeps sockets of all addresses of both families out.
        let mut frontend = Frontend::new(at("0.0.0.0", 30_006), TCP, 33, &backends);
        frontend.flags = FRONTEND_NODE_PORT;
        stage.put(&frontend);
        assert!(TcpListener::bind(at("::", 30_006)).is_err());
        assert!(TcpListener::bind(at("::1", 30_006)).is_ok());
        elsewhere(|| {
            for addr in ["0.0.0.0", "::1"] {
                TcpListener::bind(at(addr, 30_001)).unwrap_or_else(|e| panic!("{addr} in a pod: {e}"));
            }
        });
        stage.detach();
        TcpListener::bind(at("0.0.0.0", 30_001)).expect("nobody minds");
    });
}

#[test]
fn only_the_hosts_sockets_if_asked() {
    alone("node::only_the_hosts_sockets_if_asked", || {
        let mut stage = Stage::new(NODE_SOCK | NODE_SOCK_HOST_ONLY);
        let backends = stage.backends(false, 2, 8080);
        serve(&backends);
        let to = at("10.96.0.1", 80);
        for (proto, rev_nat) in [(TCP, 1), (UDP, 2)] {
            stage.put(&Frontend::new(to, proto, rev_nat, &backends));
        }
        assert_eq!(tcp(to).expect("connected").0.peer_addr().expect("connected"), to);
        assert_eq!(ask(&udp(to), to).expect("answered").1, to);
        elsewhere(|| {
            let tried = TcpStream::connect(to).map(drop).map_err(|e| e.kind());
            assert_eq!(tried, Err(ErrorKind::NetworkUnreachable), "left to the pod's packets");
            assert!(udp(to).send_to(b"?", to).is_err());
        });
    });
}
