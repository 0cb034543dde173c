//! Which backend: by chance, kept by network namespaces and by sockets, moved when it is gone.

use crate::stage::{Frontend, Stage, TCP, UDP, alone, ask, assert_even, at, elsewhere, serve, tcp, udp};
use cilium_abi::lb::{BACKEND_TERMINATING, FRONTEND_CLUSTER_IP};
use cilium_abi::maps;
use cilium_abi::node::NODE_SOCK;
use cilium_tests_kernel::l1::sys;
use std::collections::{BTreeMap, BTreeSet};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[test]
fn connections_are_spread_evenly() {
    alone("choice::connections_are_spread_evenly", || {
        let mut stage = Stage::new(NODE_SOCK);
        let backends = stage.backends(false, 4, 8080);
        serve(&backends);
        let to = at("10.96.0.1", 80);
        for (proto, rev_nat) in [(TCP, 1), (UDP, 2)] {
            stage.put(&Frontend::new(to, proto, rev_nat, &backends));
        }
        let (mut streams, mut connected, mut sent) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for _ in 0..3000 {
            *streams.entry(tcp(to).expect("connected").1).or_insert(0) += 1;
            let socket = udp(to);
            socket.connect(to).expect("connected");
            *connected.entry(ask_connected(&socket)).or_insert(0) += 1;
            *sent.entry(ask(&udp(to), to).expect("answered").0).or_insert(0) += 1;
        }
        assert_even(&streams, &backends, "TCP");
        assert_even(&connected, &backends, "UDP, connected");
        assert_even(&sent, &backends, "UDP, not connected");
    });
}

fn ask_connected(socket: &UdpSocket) -> u32 {
    socket.send(b"?").expect("sent");
    let mut number = [0; 4];
    socket.recv(&mut number).expect("answered");
    u32::from_ne_bytes(number)
}

#[test]
fn a_namespace_keeps_its_backend() {
    alone("choice::a_namespace_keeps_its_backend", || {
        let mut stage = Stage::new(NODE_SOCK);
        let backends = stage.backends(false, 4, 8080);
        serve(&backends);
        let (to, seconds) = (at("10.96.0.1", 80), 3);
        let mut frontend = Frontend::new(to, TCP, 1, &backends);
        (frontend.flags, frontend.affinity) = (FRONTEND_CLUSTER_IP, seconds);
        stage.put(&frontend);
        let datagrams = Frontend { proto: UDP, rev_nat: 2, ..frontend.clone() };
        stage.put(&datagrams);
        let kept = tcp(to).expect("connected").1;
        let kept_datagrams = ask(&udp(to), to).expect("answered").0;
        for _ in 0..50 {
            assert_eq!(tcp(to).expect("connected").1, kept);
            assert_eq!(ask(&udp(to), to).expect("answered").0, kept_datagrams);
        }
        // Each namespace has its own.
        let chosen = |stage: &Stage| {
            let socket = udp(to);
            socket.connect(to).expect("connected");
            stage.given(&socket)
        };
        let mut seen = BTreeSet::new();
        for _ in 0..12 {
            let first = elsewhere(|| {
                let first = chosen(&stage);
                for _ in 0..10 {
                    assert_eq!(chosen(&stage), first);
                }
                first
            });
            seen.insert(first);
        }
        assert!(seen.len() > 1, "12 namespaces, 4 backends: {seen:?}");
        // It is kept as long as it is used in time, and no longer.
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(1200));
            assert_eq!(tcp(to).expect("connected").1, kept);
        }
        let expired = (0..20).any(|_| {
            let row = cilium_abi::lb::AffinityRow { backend: kept, used: 1 };
            for (key, _) in sys::dump::<cilium_abi::lb::AffinityKey, cilium_abi::lb::AffinityRow>(
                stage.map(&maps::AFFINITY),
                8192,
            )
            .expect("the map can be read")
            {
                sys::update(stage.map(&maps::AFFINITY), &key, &row).expect("a row can be written");
            }
            tcp(to).expect("connected").1 != kept
        });
        assert!(expired, "chosen anew after the timeout");
        // The one that is kept leaves this service, but not the node: it is not chosen any more.
        let kept = tcp(to).expect("connected").1;
        frontend.backends.retain(|backend| backend.number != kept);
        stage.put(&frontend);
        let next = tcp(to).expect("connected").1;
        assert_ne!(next, kept);
        for _ in 0..20 {
            assert_eq!(tcp(to).expect("connected").1, next);
        }
    });
}

#[test]
fn new_connections_avoid_who_left_and_datagrams_move() {
    alone("choice::new_connections_avoid_who_left_and_datagrams_move", || {
        let mut stage = Stage::new(NODE_SOCK);
        let backends = stage.backends(false, 4, 8080);
        serve(&backends);
        let to = at("10.96.0.1", 80);
        let mut datagrams = Frontend::new(to, UDP, 1, &backends);
        stage.put(&datagrams);
        let mut streams = Frontend::new(to, TCP, 2, &backends);
        stage.put(&streams);
        let socket = udp(to);
        let kept = ask(&socket, to).expect("answered").0;
        for _ in 0..50 {
            assert_eq!(ask(&socket, to).expect("answered"), (kept, to));
        }
        // Another list that has it: it stays.
        datagrams.backends.rotate_left(1);
        stage.put(&datagrams);
        for _ in 0..50 {
            assert_eq!(ask(&socket, to).expect("answered"), (kept, to));
        }
        // One that ends keeps those it has.
        let ending = backends.iter().find(|backend| backend.number == kept).copied().expect("one of them");
        datagrams.backends.retain(|backend| backend.number != kept);
        streams.backends.retain(|backend| backend.number != kept);
        stage.put_backend(ending, BACKEND_TERMINATING);
        stage.put(&datagrams);
        stage.put(&streams);
        for _ in 0..50 {
            assert_eq!(ask(&socket, to).expect("answered"), (kept, to));
            assert_ne!(ask(&udp(to), to).expect("answered").0, kept);
            assert_ne!(tcp(to).expect("connected").1, kept);
        }
        // Gone: the socket moves, and stays there.
        sys::delete(stage.map(&maps::BACKEND), &kept).expect("a row can be removed");
        let next = ask(&socket, to).expect("answered").0;
        assert_ne!(next, kept);
        for _ in 0..50 {
            assert_eq!(ask(&socket, to).expect("answered"), (next, to));
        }
        // Out of the list though alive (in another service, say): it moves too.
        datagrams.backends.retain(|backend| backend.number != next);
        stage.put(&datagrams);
        for _ in 0..20 {
            assert_ne!(ask(&socket, to).expect("answered").0, next);
        }
    });
}

#[test]
fn no_connection_fails_while_lists_change() {
    alone("choice::no_connection_fails_while_lists_change", || {
        let mut stage = Stage::new(NODE_SOCK);
        let backends = stage.backends(false, 4, 8080);
        let to = at("10.96.0.1", 80);
        let mut frontend = Frontend::new(to, UDP, 1, &backends);
        stage.put(&frontend);
        let stop = AtomicBool::new(false);
        let (tried, flips) = std::thread::scope(|scope| {
            let connecting = scope.spawn(|| {
                let mut tried = 0u32;
                let socket = udp(to);
                while !stop.load(Ordering::Relaxed) {
                    socket.connect(to).unwrap_or_else(|e| panic!("after {tried}: {e}"));
                    tried += 1;
                }
                tried
            });
            let begun = Instant::now();
            let mut flips = 0u32;
            while begun.elapsed() < Duration::from_secs(3) && !connecting.is_finished() {
                frontend.backends = vec![backends[(flips % 4) as usize]];
                stage.put(&frontend);
                flips += 1;
            }
            stop.store(true, Ordering::Relaxed);
            let tried = connecting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (tried, flips)
        });
        println!("{tried} connections over {flips} changes of the list, none failed");
        assert!(tried > 1000);
    });
}
