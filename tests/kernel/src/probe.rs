//! Real packets between namespaces: TCP, UDP and ping, with short patience.

use crate::Netns;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::{Duration, Instant};

/// How long a probe waits for an answer, before [`scaled`].
pub const PATIENCE: Duration = Duration::from_millis(700);

/// Whether this is the emulated machine of `make test-vm` (`CILIUM_TEST_VM`).
pub fn emulated() -> bool {
    std::env::var_os("CILIUM_TEST_VM").is_some_and(|value| !value.is_empty() && value != "0")
}

/// A deadline as it is to be on this machine: ten times longer where it is emulated.
pub fn scaled(patience: Duration) -> Duration {
    if emulated() { patience.saturating_mul(10) } else { patience }
}

/// Serves TCP and UDP on `port` inside `netns`, both families, until the namespace's process ends:
/// each answers with `name`, a space, and the address the client was seen with. UDP is bound to each
/// address there is now: from a socket bound to none, the kernel would answer with the address of the
/// way back, which need not be the one that was asked.
pub fn serve(netns: &Netns, name: &str, port: u16) {
    let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    let addresses = global_addresses(netns);
    let (tcp, udp) = netns.enter(|| {
        let tcp = TcpListener::bind(any).unwrap_or_else(|e| panic!("bind TCP {any}: {e}"));
        let udp: Vec<UdpSocket> = addresses
            .iter()
            .map(|ip| UdpSocket::bind((*ip, port)).unwrap_or_else(|e| panic!("bind UDP {ip}: {e}")))
            .collect();
        (tcp, udp)
    });
    let greeting = name.to_owned();
    // Sockets stay in the namespace they were made in, wherever the thread runs.
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let Ok(mut stream) = stream else { return };
            let greeting = greeting.clone();
            std::thread::spawn(move || {
                let Ok(peer) = stream.peer_addr() else { return };
                let mut buffer = [0; 64];
                // In one segment: the client reads once.
                let answer = format!("{greeting} {}\n", peer.ip().to_canonical());
                while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    for udp in udp {
        let greeting = name.to_owned();
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(format!("{greeting} {}\n", peer.ip().to_canonical()).as_bytes(), peer);
            }
        });
    }
}

/// The addresses of global scope inside a namespace.
fn global_addresses(netns: &Netns) -> Vec<IpAddr> {
    let listed = netns.shell("ip -o addr show scope global").stdout;
    let listed = String::from_utf8_lossy(&listed);
    // `2: eth0    inet 10.0.0.1/24 scope global eth0 …`
    let address = |line: &str| line.split_whitespace().nth(3)?.split('/').next()?.parse().ok();
    listed.lines().filter_map(address).collect()
}

/// What a server answered: its name, and the client address it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Name of the server.
    pub server: String,
    /// Address of the client as seen.
    pub client: IpAddr,
}

fn parse(text: &str) -> Option<Answer> {
    let (server, client) = text.trim().split_once(' ')?;
    Some(Answer { server: server.to_owned(), client: client.parse().ok()? })
}

/// Asks a server at an address and port.
pub type Ask = fn(&Netns, IpAddr, u16) -> Option<Answer>;

/// Each protocol, and how it asks.
pub const BOTH: [(&str, Ask); 2] = [("TCP", tcp), ("UDP", udp)];

/// One TCP request; `None` if nothing came back in time.
pub fn tcp(from: &Netns, to: IpAddr, port: u16) -> Option<Answer> {
    from.enter(|| ask_tcp(SocketAddr::new(to, port), PATIENCE))
}

/// One TCP request from the calling thread's namespace; `patience` is [`scaled`].
pub fn ask_tcp(to: SocketAddr, patience: Duration) -> Option<Answer> {
    let patience = scaled(patience);
    let mut stream = TcpStream::connect_timeout(&to, patience).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    stream.write_all(b"?").ok()?;
    let mut buffer = [0; 128];
    let n = stream.read(&mut buffer).ok()?;
    parse(std::str::from_utf8(&buffer[..n]).ok()?)
}

/// One UDP request; `None` if nothing came back in time.
pub fn udp(from: &Netns, to: IpAddr, port: u16) -> Option<Answer> {
    from.enter(|| ask_udp(SocketAddr::new(to, port), PATIENCE))
}

/// One UDP request from the calling thread's namespace; `patience` is [`scaled`].
pub fn ask_udp(to: SocketAddr, patience: Duration) -> Option<Answer> {
    let local: SocketAddr =
        if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().expect("a literal address");
    let socket = UdpSocket::bind(local).ok()?;
    socket.set_read_timeout(Some(scaled(patience))).ok()?;
    socket.connect(to).ok()?;
    socket.send(b"?").ok()?;
    let mut buffer = [0; 128];
    let n = socket.recv(&mut buffer).ok()?;
    parse(std::str::from_utf8(&buffer[..n]).ok()?)
}

/// Whether one echo request is answered. `payload` bytes with DF set, if given.
pub fn ping(from: &Netns, to: IpAddr, payload: Option<u32>) -> bool {
    let size = payload.map_or_else(String::new, |n| format!("-M do -s {n}"));
    let wait = scaled(Duration::from_secs(1)).as_secs();
    from.shell(&format!("ping -n -q -c 1 -W {wait} {size} {to}")).status.success()
}

/// Repeats until it holds, at most `patience` ([`scaled`]).
pub fn eventually(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + scaled(patience);
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Connects from an address and port of the caller's choice, which is free again at once when the stream is dropped.
///
/// # Errors
/// The port is taken, or nobody answers in time.
pub fn connect_from(from: SocketAddr, to: SocketAddr, patience: Duration) -> std::io::Result<TcpStream> {
    use std::io::Error;
    let family = if from.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: a plain system call; the descriptor is owned from here on.
    let stream = unsafe {
        let fd = libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(Error::last_os_error());
        }
        TcpStream::from_raw_fd(fd)
    };
    let set = |name, value: &[libc::c_int]| {
        let size = size_of_val(value) as u32;
        // SAFETY: integers, of the size beside them.
        unsafe { libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, name, value.as_ptr().cast(), size) }
    };
    let time = libc::timeval { tv_sec: patience.as_secs() as libc::time_t, tv_usec: 0 };
    // SAFETY: a time of the size beside it.
    let timed = unsafe {
        let size = size_of::<libc::timeval>() as u32;
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDTIMEO,
            (&raw const time).cast(),
            size,
        )
    };
    if timed | set(libc::SO_REUSEADDR, &[1]) | set(libc::SO_LINGER, &[1, 0]) != 0 {
        return Err(Error::last_os_error());
    }
    let call = |at: SocketAddr, call: unsafe extern "C" fn(i32, *const libc::sockaddr, u32) -> i32| {
        // SAFETY: plain numbers, all zero is valid; each address is of the size beside it.
        let code = unsafe {
            match at {
                SocketAddr::V4(at) => {
                    let mut to: libc::sockaddr_in = std::mem::zeroed();
                    to.sin_family = libc::AF_INET as u16;
                    to.sin_port = at.port().to_be();
                    to.sin_addr.s_addr = u32::from_ne_bytes(at.ip().octets());
                    call(stream.as_raw_fd(), (&raw const to).cast(), size_of_val(&to) as u32)
                }
                SocketAddr::V6(at) => {
                    let mut to: libc::sockaddr_in6 = std::mem::zeroed();
                    to.sin6_family = libc::AF_INET6 as u16;
                    to.sin6_port = at.port().to_be();
                    to.sin6_addr.s6_addr = at.ip().octets();
                    call(stream.as_raw_fd(), (&raw const to).cast(), size_of_val(&to) as u32)
                }
            }
        };
        if code == 0 { Ok(()) } else { Err(Error::last_os_error()) }
    };
    // A child of a parallel test holds what was just closed until it executes its program.
    let mut last = Ok(());
    let taken = |last: &std::io::Result<()>| {
        last.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
    };
    eventually(patience, || {
        last = call(from, libc::bind);
        !taken(&last)
    });
    last?;
    call(to, libc::connect)?;
    Ok(stream)
}
