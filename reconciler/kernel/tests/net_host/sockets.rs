//! Sockets of real processes, found by whom they are connected to and ended.

use crate::net_support::{Namespace, ip};
use cilium_kernel::net::own_cookie;
use cilium_kernel::net::sockdiag::{SockDiag, Terminated, Transport, terminate};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

const ADDRESSES: [&str; 3] = ["127.0.0.7", "::1", "::ffff:127.0.0.7"];

fn at(addr: &str, port: u16) -> SocketAddr {
    SocketAddr::new(addr.parse().expect("an address"), port)
}

fn one(addr: SocketAddr) -> BTreeSet<SocketAddr> {
    BTreeSet::from([addr])
}

fn datagrams(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).expect("a socket");
    socket.connect(to).expect("connected");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("it can wait");
    socket
}

#[test]
fn datagram_sockets_to_a_dead_backend_are_ended() {
    let netns = Namespace::new();
    let path = netns.path();
    netns.run(|| {
        ip(&["link", "set", "lo", "up"]);
        for addr in ADDRESSES {
            let (dead, alive) = (at(addr, 5300), at(addr, 5301));
            let (doomed, spared) = (datagrams(dead), datagrams(alive));
            let everyone = one(dead).into_iter().chain(one(alive)).collect();
            // From outside, by the namespace's path.
            let done = std::thread::scope(|scope| {
                let outside = scope.spawn(|| {
                    let found = SockDiag::open_in(Some(&path))
                        .expect("a socket")
                        .connected(Transport::Udp, &everyone);
                    let found = found.expect("the kernel lists sockets");
                    let canonical = SocketAddr::new(dead.ip().to_canonical(), dead.port());
                    assert_eq!(found.len(), 2, "{addr}: {found:?}");
                    assert!(found.iter().any(|socket| socket.remote == canonical && socket.cookie != 0));
                    let none = terminate(Some(&path), Transport::Udp, &one(dead), |_| false);
                    assert_eq!(none.expect("listed"), Terminated { found: 1, ended: 0 });
                    terminate(Some(&path), Transport::Udp, &one(dead), |_| true).expect("ended")
                });
                outside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            assert_eq!(done, Terminated { found: 1, ended: 1 }, "{addr}");
            let error = doomed.recv(&mut [0; 8]).expect_err("the owner is told");
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{addr}: {error}");
            spared.set_nonblocking(true).expect("it can");
            assert_eq!(spared.recv(&mut [0; 8]).expect_err("nothing came").kind(), ErrorKind::WouldBlock);
            let again = terminate(None, Transport::Udp, &one(dead), |_| true).expect("listed");
            assert_eq!(again, Terminated::default(), "it is connected no more");
        }
    });
}

#[test]
fn only_one_namespace_is_touched() {
    let (first, second) = (Namespace::new(), Namespace::new());
    let there = second.run(|| {
        ip(&["link", "set", "lo", "up"]);
        datagrams(at("127.0.0.7", 5300))
    });
    first.run(|| {
        ip(&["link", "set", "lo", "up"]);
        let here = datagrams(at("127.0.0.7", 5300));
        let done = terminate(None, Transport::Udp, &one(at("127.0.0.7", 5300)), |_| true).expect("ended");
        assert_eq!(done, Terminated { found: 1, ended: 1 });
        assert!(here.recv(&mut [0; 8]).is_err());
    });
    there.set_nonblocking(true).expect("it can");
    assert_eq!(there.recv(&mut [0; 8]).expect_err("nothing came").kind(), ErrorKind::WouldBlock);
    let cookies = [first.run(own_cookie), first.run(own_cookie), second.run(own_cookie)];
    let cookies = cookies.map(|cookie| cookie.expect("the kernel tells it"));
    assert!(cookies[0] == cookies[1] && cookies[1] != cookies[2] && cookies[0] != 0, "{cookies:?}");
}

#[test]
fn streams_to_a_dead_backend_are_reset() {
    Namespace::new().run(|| {
        ip(&["link", "set", "lo", "up"]);
        for addr in ["127.0.0.7", "::1"] {
            let listener = TcpListener::bind(at(addr, 8000)).expect("a listener");
            let mut client = TcpStream::connect(at(addr, 8000)).expect("connected");
            let (mut server, from) = listener.accept().expect("connected");
            // What listens there is connected to nobody, and what it accepted to the client.
            let done = terminate(None, Transport::Tcp, &one(at(addr, 8000)), |socket| socket.local == from);
            assert_eq!(done.expect("ended"), Terminated { found: 1, ended: 1 });
            let told = client.read(&mut [0; 8]).expect_err("the owner is told").kind();
            assert_eq!(told, ErrorKind::ConnectionAborted);
            assert_eq!(server.read(&mut [0; 8]).expect_err("reset").kind(), ErrorKind::ConnectionReset);
            assert!(TcpStream::connect(at(addr, 8000)).is_ok(), "who listens is spared");
        }
    });
}

#[test]
fn many_are_found_among_many() {
    Namespace::new().run(|| {
        ip(&["link", "set", "lo", "up"]);
        let sockets: Vec<UdpSocket> = (0..600u16).map(|n| datagrams(at("127.0.0.7", 6000 + n % 3))).collect();
        let begun = std::time::Instant::now();
        let to = [6000, 6001].map(|port| at("127.0.0.7", port)).into();
        let done = terminate(None, Transport::Udp, &to, |_| true).expect("ended");
        println!("400 of 600 sockets found and ended in {:?}", begun.elapsed());
        assert_eq!(done, Terminated { found: 400, ended: 400 });
        for (n, socket) in sockets.iter().enumerate() {
            socket.set_nonblocking(true).expect("it can");
            let kind = socket.recv(&mut [0; 8]).expect_err("nothing came").kind();
            let wanted = if n % 3 == 2 { ErrorKind::WouldBlock } else { ErrorKind::ConnectionAborted };
            assert_eq!(kind, wanted, "socket {n}");
        }
    });
}

#[test]
fn a_namespace_that_is_not_there_is_said() {
    let error = terminate(Some("/nonexistent/netns".as_ref()), Transport::Udp, &one(at("::1", 1)), |_| true);
    let error = error.expect_err("there is none");
    assert!(error.message.contains("/nonexistent/netns"), "{error}");
}
