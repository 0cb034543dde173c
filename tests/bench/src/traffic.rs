//! One closed-loop client and one server, both on one CPU: a slice of round trips, connections or bytes.
//!
//! Never: knowledge of what is between them.

use crate::stats::{Chance, median};
use anyhow::{Context, Result, ensure};
use cilium_tests_kernel::Netns;
use cilium_tests_kernel::cgroup::Cgroup;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Port that answers every byte with one.
pub(crate) const ECHO: u16 = 5001;
/// Port that swallows all.
pub(crate) const SINK: u16 = 5002;
/// Port that nobody may reach where policy is on.
pub(crate) const CLOSED: u16 = 5003;

/// How long a slice is.
pub(crate) const SLICE: Duration = Duration::from_millis(200);
/// Longer than this without an answer is an error.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes per write of a stream.
const CHUNK: usize = 64 << 10;

/// What a slice does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Round trips on one connection: nanoseconds of one, median.
    RoundTrips,
    /// A connection, a round trip, an end: nanoseconds of it, median.
    Connections,
    /// A stream: gigabits per second of CPU time of both ends.
    Stream,
}

/// Pins the calling thread to the last CPU this process may use.
pub(crate) fn pin() {
    // SAFETY: `cpu_set_t` is plain bits; the calls read and write the one passed, for this thread.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) == 0 {
            let most = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
            if let Some(last) = (0..most).rev().find(|cpu| libc::CPU_ISSET(*cpu, &set)) {
                let mut one: libc::cpu_set_t = std::mem::zeroed();
                libc::CPU_SET(last, &mut one);
                libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const one);
            }
        }
    }
}

fn thread_id() -> u32 {
    // SAFETY: a system call without arguments.
    unsafe { libc::gettid() }.cast_unsigned()
}

/// Nanoseconds a thread of this process was on a CPU (softirq on its back included).
fn on_cpu(thread: u32) -> Result<u64> {
    let path = format!("/proc/self/task/{thread}/schedstat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    text.split_whitespace().next().and_then(|n| n.parse().ok()).with_context(|| format!("{path} has no time"))
}

/// A server that lives as long as the process. Its sockets stay in the namespace they were made in.
#[derive(Debug)]
pub(crate) struct Server {
    /// Address clients use.
    pub address: IpAddr,
    sink: u32,
}

impl Server {
    /// Has echoes answered on more ports of a pod, until this process ends.
    pub(crate) fn also(netns: &Netns, ports: impl Iterator<Item = u16>) -> Result<()> {
        for port in ports {
            let listener = netns
                .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
                .with_context(|| format!("listen on {port}"))?;
            std::thread::spawn(move || answer(&listener));
        }
        Ok(())
    }

    /// Serves inside `netns`; clients reach it at `address`.
    pub(crate) fn start(netns: &Netns, address: IpAddr) -> Result<Self> {
        let [echo, sink, closed] =
            netns.enter(|| [ECHO, SINK, CLOSED].map(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))));
        let (echo, sink, closed) =
            (echo.context("listen")?, sink.context("listen")?, closed.context("listen")?);
        std::thread::spawn(move || answer(&echo));
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            pin();
            let _ = tell.send(thread_id());
            let mut buffer = vec![0; 4 * CHUNK];
            each(&sink, |stream| {
                while stream.read(&mut buffer)? > 0 {}
                // The client's clock stops when all was read.
                stream.write_all(b".")
            });
        });
        std::thread::spawn(move || each(&closed, |_| Ok(())));
        let sink = told.recv_timeout(PATIENCE).context("the server's thread does not start")?;
        Ok(Self { address, sink })
    }
}

/// Answers what comes, one connection after the other, on the CPU of the clients.
fn answer(listener: &TcpListener) {
    pin();
    each(listener, |stream| {
        let mut buffer = [0; 64];
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                n => stream.write_all(&buffer[..n])?,
            }
        }
    });
}

fn each(listener: &TcpListener, mut serve: impl FnMut(&mut TcpStream) -> io::Result<()>) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        let _ = stream.set_nodelay(true);
        // A client that breaks off is counted on its own side.
        let _ = serve(&mut stream);
    }
}

/// A client's namespace and its server.
#[derive(Debug)]
pub(crate) struct Path<'a> {
    /// What it is, for people.
    pub name: &'a str,
    /// Where the client is.
    pub client: &'a Netns,
    /// The server.
    server: &'a Server,
    /// Where clients ask for an echo, each connection at one of them by chance.
    echo: Vec<SocketAddr>,
    /// The cgroup of the client's sockets, if it matters.
    cgroup: Option<&'a Cgroup>,
}

/// Prepares a client's namespace: plain congestion control, and ports enough for many connections.
pub(crate) fn prepare(netns: &Netns) -> Result<()> {
    netns.enter(|| {
        for (key, value) in [
            ("tcp_congestion_control", "reno"),
            ("tcp_tw_reuse", "1"),
            ("ip_local_port_range", "10000 65000"),
        ] {
            std::fs::write(format!("/proc/sys/net/ipv4/{key}"), value)
                .with_context(|| format!("sysctl {key}"))?;
        }
        Ok(())
    })
}

pub(crate) fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// One byte there, one back.
pub(crate) fn round_trip(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}

impl<'a> Path<'a> {
    /// To the server itself.
    pub(crate) fn new(name: &'a str, client: &'a Netns, server: &'a Server) -> Self {
        Self { name, client, server, echo: vec![SocketAddr::new(server.address, ECHO)], cgroup: None }
    }

    /// The client's sockets are of this cgroup.
    #[must_use]
    pub(crate) fn of(mut self, cgroup: Option<&'a Cgroup>) -> Self {
        self.cgroup = cgroup;
        self
    }

    /// Does it as the client.
    fn as_client<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.client.enter(|| {
            // The thread is one of its own, and ends here.
            if let Some(cgroup) = self.cgroup {
                cgroup.enter();
            }
            work()
        })
    }

    /// To ports of the server itself, as a Service with these backends would choose.
    #[must_use]
    pub(crate) fn on(self, ports: &[u16]) -> Self {
        let at = ports.iter().map(|port| SocketAddr::new(self.server.address, *port)).collect();
        self.at(at)
    }

    /// To what stands for the server, one of these each time, by chance.
    #[must_use]
    pub(crate) fn at(mut self, these: Vec<SocketAddr>) -> Self {
        self.echo = these;
        self
    }

    /// Whether an echo comes back.
    pub(crate) fn answers(&self) -> bool {
        self.as_client(|| {
            self.echo.iter().all(|to| connect(*to).and_then(|mut stream| round_trip(&mut stream)).is_ok())
        })
    }

    /// Runs one slice.
    pub(crate) fn slice(&self, work: Work) -> Result<f64> {
        let run = || match work {
            Work::RoundTrips => self.round_trips(),
            Work::Connections => self.connections(),
            Work::Stream => self.stream(),
        };
        let pinned = || {
            pin();
            run()
        };
        self.as_client(pinned).with_context(|| format!("{work:?} over {}", self.name))
    }

    fn round_trips(&self) -> Result<f64> {
        let first = self.echo.first().context("there is somewhere to ask")?;
        let mut stream = connect(*first)?;
        for _ in 0..20 {
            round_trip(&mut stream)?;
        }
        timed(|| round_trip(&mut stream))
    }

    fn connections(&self) -> Result<f64> {
        let mut chance = Chance::new(self.echo.len() as u64);
        let mut once = || match self.echo.get(chance.below(self.echo.len())) {
            Some(to) => round_trip(&mut connect(*to)?),
            None => Err(io::Error::other("there is nowhere to ask")),
        };
        for _ in 0..5 {
            once()?;
        }
        timed(once)
    }

    fn stream(&self) -> Result<f64> {
        let mut stream = connect(SocketAddr::new(self.server.address, SINK))?;
        let chunk = vec![0x5a; CHUNK];
        for _ in 0..16 {
            stream.write_all(&chunk)?;
        }
        let (me, started) = (thread_id(), Instant::now());
        let before = on_cpu(me)? + on_cpu(self.server.sink)?;
        let mut bytes = 0;
        while started.elapsed() < SLICE {
            stream.write_all(&chunk)?;
            bytes += chunk.len();
        }
        stream.shutdown(std::net::Shutdown::Write)?;
        stream.read_exact(&mut [0])?;
        let spent = on_cpu(me)? + on_cpu(self.server.sink)? - before;
        ensure!(spent > 0, "the kernel counts no CPU time");
        Ok(bytes as f64 * 8.0 / spent as f64)
    }
}

/// Median nanoseconds of one of many, for the length of a slice.
fn timed(mut once: impl FnMut() -> io::Result<()>) -> Result<f64> {
    let mut times = Vec::with_capacity(1 << 14);
    let started = Instant::now();
    let mut last = Duration::ZERO;
    while last < SLICE {
        once()?;
        let now = started.elapsed();
        times.push((now - last).as_nanos() as f64);
        last = now;
    }
    Ok(median(&times))
}
