//! Who a socket meets, and whom it sees.

use crate::stage::{Backend, Frontend, Stage, TCP, UDP, alone, answer, ask, at, hear, serve, tcp, udp};
use cilium_abi::lb::{FRONTEND_CLUSTER_IP, FRONTEND_REJECT, FRONTEND_TWO_SCOPES, SCOPE_INTERNAL};
use cilium_abi::node::NODE_SOCK;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};

/// A frontend of each family, by both protocols, to the same backends; and the address clients use. The
/// third is the first as IPv6 sockets name it.
fn services(stage: &mut Stage) -> Vec<(SocketAddr, Vec<Backend>)> {
    let mut services = Vec::new();
    for (is_v6, addr, rev_nat) in [(false, "10.96.0.1", 1), (true, "fd96::1", 3)] {
        let backends = stage.backends(is_v6, 3, 8080);
        serve(&backends);
        for (proto, rev_nat) in [(TCP, rev_nat), (UDP, rev_nat + 1)] {
            let mut frontend = Frontend::new(at(addr, 80), proto, rev_nat, &backends);
            frontend.flags = FRONTEND_CLUSTER_IP;
            stage.put(&frontend);
        }
        services.push((at(addr, 80), backends));
    }
    let mapped = (at("::ffff:10.96.0.1", 80), services[0].1.clone());
    services.push(mapped);
    services
}

fn is_one(backends: &[Backend], number: u32) -> bool {
    backends.iter().any(|backend| backend.number == number)
}

#[test]
fn sockets_meet_backends_and_see_frontends() {
    alone("translate::sockets_meet_backends_and_see_frontends", || {
        let mut stage = Stage::new(NODE_SOCK);
        for (frontend, backends) in services(&mut stage) {
            let (stream, who) = tcp(frontend).unwrap_or_else(|e| panic!("TCP {frontend}: {e}"));
            assert!(is_one(&backends, who), "{frontend}: {who}");
            assert_eq!(stream.peer_addr().expect("connected"), frontend);
            assert_eq!(stage.given(&stream), Some(who));

            let connected = udp(frontend);
            connected.connect(frontend).unwrap_or_else(|e| panic!("UDP {frontend}: {e}"));
            assert_eq!(connected.peer_addr().expect("connected"), frontend);
            connected.send(b"?").expect("sent");
            let (who, from) = answer(&connected).expect("answered");
            assert!(is_one(&backends, who) && from == frontend, "{frontend}: {who} {from}");

            let (who, from) = ask(&udp(frontend), frontend).unwrap_or_else(|e| panic!("UDP {frontend}: {e}"));
            assert!(is_one(&backends, who) && from == frontend, "{frontend}: {who} {from}");
        }
    });
}

#[test]
fn one_socket_sends_to_several() {
    alone("translate::one_socket_sends_to_several", || {
        let mut stage = Stage::new(NODE_SOCK);
        let services = services(&mut stage);
        let other = stage.backends(false, 2, 9090);
        serve(&other);
        let second = at("10.96.0.2", 53);
        stage.put(&Frontend::new(second, UDP, 9, &other));
        let first = services[0].0;
        // Straight to a backend, which no frontend in use here has.
        let straight = stage.backends(false, 1, 7070);
        serve(&straight);

        let socket = udp(first);
        let (kept, _) = ask(&socket, first).expect("answered");
        let (kept_other, from) = ask(&socket, second).expect("answered");
        assert!(is_one(&other, kept_other) && from == second);
        for _ in 0..20 {
            assert_eq!(ask(&socket, first).expect("answered"), (kept, first));
            assert_eq!(ask(&socket, second).expect("answered"), (kept_other, second));
            let (who, from) = ask(&socket, straight[0].at).expect("answered");
            assert_eq!((who, from), (straight[0].number, straight[0].at));
        }
        // Answers out of order.
        for to in [first, second, straight[0].at] {
            socket.send_to(b"?", to).expect("sent");
        }
        let mut seen: Vec<SocketAddr> = (0..3).map(|_| answer(&socket).expect("answered").1).collect();
        let mut sent = vec![first, second, straight[0].at];
        seen.sort_unstable();
        sent.sort_unstable();
        assert_eq!(seen, sent);
        // The same from an IPv6 socket, by mapped addresses.
        let socket = udp(services[2].0);
        assert_eq!(ask(&socket, services[2].0).expect("answered").1, services[2].0);
        assert_eq!(ask(&socket, services[1].0).expect("answered").1, services[1].0);
    });
}

#[test]
fn a_socket_that_is_connected_anew_sees_whom_it_names() {
    alone("translate::a_socket_that_is_connected_anew_sees_whom_it_names", || {
        let mut stage = Stage::new(NODE_SOCK);
        let backends = stage.backends(false, 1, 8080);
        serve(&backends);
        let frontends = [at("10.96.0.1", 80), at("10.96.0.2", 80)];
        for (rev_nat, frontend) in (1..).zip(frontends) {
            stage.put(&Frontend::new(frontend, UDP, rev_nat, &backends));
        }
        let socket = udp(frontends[0]);
        for to in [frontends[0], frontends[1], backends[0].at, frontends[1]] {
            socket.connect(to).expect("connected");
            assert_eq!(socket.peer_addr().expect("connected"), to);
            socket.send(b"?").expect("sent");
            assert_eq!(answer(&socket).expect("answered"), (backends[0].number, to));
        }
    });
}

#[test]
fn without_a_backend_the_caller_is_told() {
    alone("translate::without_a_backend_the_caller_is_told", || {
        let mut stage = Stage::new(NODE_SOCK);
        for (told, silent) in [("10.96.0.3", "10.96.0.4"), ("fd96::3", "fd96::4")] {
            for (proto, rev_nat) in [(TCP, 5), (UDP, 6)] {
                let mut frontend = Frontend::new(at(told, 80), proto, rev_nat, &[]);
                frontend.flags = FRONTEND_REJECT;
                stage.put(&frontend);
                stage.put(&Frontend::new(at(silent, 80), proto, rev_nat + 2, &[]));
            }
            let kind = |e: std::io::Error| e.kind();
            let told = at(told, 80);
            assert_eq!(TcpStream::connect(told).map(drop).map_err(kind), Err(ErrorKind::ConnectionRefused));
            assert_eq!(udp(told).connect(told).map_err(kind), Err(ErrorKind::ConnectionRefused));
            assert_eq!(udp(told).send_to(b"?", told).map_err(kind), Err(ErrorKind::ConnectionRefused));
            // Left alone: there is no route here.
            let silent = at(silent, 80);
            let left = TcpStream::connect(silent).map(drop).map_err(kind);
            assert_eq!(left, Err(ErrorKind::NetworkUnreachable));
            assert_eq!(udp(silent).send_to(b"?", silent).map_err(kind), Err(ErrorKind::NetworkUnreachable));
        }
        // A list whose backends are all unknown is no list.
        let ghost = Backend { number: 4242, at: at("10.9.0.77", 80) };
        stage.put(&Frontend::new(at("10.96.0.5", 80), TCP, 20, &[ghost]));
        let refused = TcpStream::connect(at("10.96.0.5", 80)).map(drop).map_err(|e| e.kind());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
        // Nor one of the other family.
        let other = stage.backends(true, 1, 8080);
        stage.put(&Frontend::new(at("10.96.0.6", 80), TCP, 21, &other));
        let refused = TcpStream::connect(at("10.96.0.6", 80)).map(drop).map_err(|e| e.kind());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
    });
}

#[test]
fn clients_inside_have_rows_of_their_own() {
    alone("translate::clients_inside_have_rows_of_their_own", || {
        let mut stage = Stage::new(NODE_SOCK);
        let outer = stage.backends(false, 1, 8080);
        let inner = stage.backends(false, 1, 9090);
        serve(&inner);
        let to = at("10.96.0.1", 80);
        let mut frontend = Frontend::new(to, TCP, 1, &outer);
        frontend.flags = FRONTEND_TWO_SCOPES;
        stage.put(&frontend);
        let inside = Frontend { scope: SCOPE_INTERNAL, backends: inner.clone(), ..frontend };
        stage.put(&inside);
        let (stream, who) = tcp(to).expect("connected");
        assert_eq!((stream.peer_addr().expect("connected"), who), (to, inner[0].number));
    });
}

#[test]
fn established_connections_stay_when_backends_change() {
    alone("translate::established_connections_stay_when_backends_change", || {
        let mut stage = Stage::new(NODE_SOCK);
        let backends = stage.backends(false, 2, 8080);
        serve(&backends);
        let to = at("10.96.0.1", 80);
        stage.put(&Frontend::new(to, TCP, 1, &backends[..1]));
        let (mut stream, who) = tcp(to).expect("connected");
        assert_eq!(who, backends[0].number);
        stage.put(&Frontend::new(to, TCP, 1, &backends[1..]));
        assert_eq!(tcp(to).expect("connected").1, backends[1].number);
        stream.write_all(b"?").expect("the connection lives");
        assert_eq!(hear(&mut stream).expect("the connection lives"), backends[0].number);
        assert_eq!(stream.peer_addr().expect("connected"), to);
    });
}

#[test]
fn others_are_left_alone() {
    alone("translate::others_are_left_alone", || {
        let mut stage = Stage::outside(NODE_SOCK);
        let (frontend, backends) = services(&mut stage).swap_remove(0);
        let untouched = |why: &str| {
            let tried = TcpStream::connect(frontend).map(drop).map_err(|e| e.kind());
            assert_eq!(tried, Err(ErrorKind::NetworkUnreachable), "{why}");
        };
        untouched("a process that is not in the cgroup");
        let early: UdpSocket = udp(frontend);
        stage.enter();
        assert!(is_one(&backends, tcp(frontend).expect("connected").1));
        let tried = early.connect(frontend).map_err(|e| e.kind());
        assert_eq!(tried, Err(ErrorKind::NetworkUnreachable), "made before the process entered");
        // No frontend: another port, another protocol, plain addresses.
        let (stream, who) = tcp(backends[0].at).expect("connected");
        assert_eq!((stream.peer_addr().expect("connected"), who), (backends[0].at, backends[0].number));
        let other = SocketAddr::new(frontend.ip(), 81);
        assert_eq!(
            TcpStream::connect(other).map_err(|e| e.kind()).err(),
            Some(ErrorKind::NetworkUnreachable)
        );
        stage.leave();
        untouched("a process that left");
        stage.enter();
        stage.detach();
        untouched("without programs");
        stage.attach();
        assert!(tcp(frontend).is_ok());
    });
}

#[test]
fn switched_off_nothing_happens() {
    alone("translate::switched_off_nothing_happens", || {
        let mut stage = Stage::new(0);
        let (frontend, _) = services(&mut stage).swap_remove(0);
        let tried = TcpStream::connect(frontend).map(drop).map_err(|e| e.kind());
        assert_eq!(tried, Err(ErrorKind::NetworkUnreachable));
        assert!(udp(frontend).send_to(b"?", frontend).is_err());
    });
}
