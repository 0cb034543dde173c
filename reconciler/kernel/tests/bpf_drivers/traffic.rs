//! Traffic between two namespaces, of which nothing may be lost whatever is done meanwhile.

use crate::bench::{Namespace, run};
use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Two namespaces and a pair between them; this thread is in the near one, and the far one echoes.
pub(crate) struct Traffic {
    socket: UdpSocket,
    _far: Namespace,
    _near: Namespace,
}

impl Traffic {
    pub(crate) fn start(link: &str) -> Self {
        let far = Namespace::enter();
        let echo = UdpSocket::bind("0.0.0.0:7000").unwrap();
        let near = Namespace::enter();
        run("ip", &["link", "add", link, "type", "veth", "peer", "name", "kb-b", "netns", &far.name]);
        run("ip", &["addr", "add", "10.99.0.1/24", "dev", link]);
        run("ip", &["link", "set", link, "up"]);
        run("ip", &["netns", "exec", &far.name, "ip", "addr", "add", "10.99.0.2/24", "dev", "kb-b"]);
        run("ip", &["netns", "exec", &far.name, "ip", "link", "set", "kb-b", "up"]);
        std::thread::spawn(move || {
            let mut buffer = [0; 4];
            while let Ok((_, peer)) = echo.recv_from(&mut buffer) {
                let _ = echo.send_to(&buffer, peer);
            }
        });
        let socket = UdpSocket::bind("10.99.0.1:0").unwrap();
        socket.connect("10.99.0.2:7000").unwrap();
        Self { socket, _far: far, _near: near }
    }

    /// Does something again and again, at least so many times, while datagrams are under way, none of which may be
    /// lost. The number of each time is handed over, from 1.
    pub(crate) fn while_talking(&self, least: u32, mut work: impl FnMut(u32)) {
        let socket = self.socket.try_clone().unwrap();
        let enough = Arc::new(AtomicBool::new(false));
        let told = enough.clone();
        let talking = std::thread::spawn(move || unanswered(&socket, &told));
        let mut times = 0u32;
        while !talking.is_finished() {
            times += 1;
            work(times);
            enough.store(times >= least, Ordering::Relaxed);
        }
        let (sent, lost) = talking.join().unwrap();
        println!("{times} times, {} of {sent} lost", lost.len());
        assert!(lost.is_empty(), "lost: {lost:?}");
        assert!(times >= least, "{times} times");
    }
}

/// Sent at the least.
const DATAGRAMS: u32 = 400;
const PACE: Duration = Duration::from_millis(2);

/// Sends numbered datagrams until it is enough, a few of which are under way at once: how many, and those that were
/// never answered. `ping` would not wait for the last answers: once it has had one it ends two round trips after its
/// last request (iputils, `schedule_exit`), whatever `-W` says.
fn unanswered(socket: &UdpSocket, enough: &AtomicBool) -> (u32, BTreeSet<u32>) {
    const UNDER_WAY: usize = 64;
    const PATIENCE: Duration = Duration::from_secs(10);
    let mut asked = BTreeSet::new();
    let hear = |asked: &mut BTreeSet<u32>, patience: Duration| {
        let mut buffer = [0; 4];
        socket.set_read_timeout(Some(patience)).unwrap();
        let heard = socket.recv(&mut buffer).is_ok();
        heard && asked.remove(&u32::from_be_bytes(buffer))
    };
    let mut sent = 0;
    while sent < DATAGRAMS || !enough.load(Ordering::Relaxed) {
        std::thread::sleep(PACE);
        socket.send(&sent.to_be_bytes()).unwrap();
        asked.insert(sent);
        sent += 1;
        let patience = if asked.len() < UNDER_WAY { PACE } else { PATIENCE };
        if !hear(&mut asked, patience) && patience == PATIENCE {
            break;
        }
    }
    while !asked.is_empty() && hear(&mut asked, PATIENCE) {}
    (sent, asked)
}
