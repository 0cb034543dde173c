//! A process of its own in a cgroup and a network namespace of its own, with the production programs
//! attached; backends that say who they are; and rows.
//!
//! Sockets belong to the cgroup their process was in when it made them, so each test is a process: the test
//! binary runs itself again for one test. The cgroup is removed at the end, also after a panic, and must
//! have no program left then.

use aya::programs::{CgroupAttachMode, Program};
use aya::{Ebpf, programs::links::FdLink};
use cilium_abi::{
    Address, Be16,
    endpoint::{ENDPOINT_HOST, EndpointRow},
    lb::{
        BackendRow, FrontendKey, FrontendRow, RevNatRow, SCOPE_EXTERNAL, SOCK_REVERSE, SlotKey, SockRevKey,
        SockRevRow,
    },
    maps,
    node::{NODE_SOCK, NodeConstants},
};
use cilium_tests_kernel::l1::{
    lab::{self, ROWS},
    sys,
    world::{Mode, constants},
};
use cilium_tests_kernel::probe::scaled;
use cilium_tests_kernel::services::ip;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use zerocopy::IntoBytes;

/// Set in the process of one test.
const INSIDE: &str = "CILIUM_SOCK_TEST";
/// IP protocols.
pub(crate) const TCP: u8 = cilium_abi::proto::TCP;
pub(crate) const UDP: u8 = cilium_abi::proto::UDP;
/// How long a socket waits.
fn patience() -> Duration {
    scaled(Duration::from_secs(5))
}

/// Runs a test's body in a process of its own.
pub(crate) fn alone(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let this = std::env::current_exe().expect("the test has a file");
    let done = Command::new(this)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .expect("the test runs again");
    let said = String::from_utf8_lossy(&done.stdout);
    // Whoever counts the tests of a run counts this one once: by its own lines, not by those of its inner run.
    let begins = format!("test {test} ... ");
    for line in said.lines().filter(|line| !line.is_empty() && !line.starts_with("test result:")) {
        match line.strip_prefix(&begins) {
            Some("ok") => {}
            Some(rest) => println!("{rest}"),
            None => println!("{line}"),
        }
    }
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("1 passed"), "the test ran: {said}");
}

pub(crate) fn at(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(text), port)
}

fn call(code: i32, what: &str) {
    assert_eq!(code, 0, "{what}: {}", io::Error::last_os_error());
}

/// The cookie of a socket (`SO_COOKIE`) or of its network namespace (`SO_NETNS_COOKIE`).
fn cookie(socket: BorrowedFd<'_>, option: i32) -> u64 {
    let mut value = 0u64;
    let mut size: libc::socklen_t = 8;
    // SAFETY: the kernel writes at most the eight bytes announced.
    let code = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw mut value).cast(), &raw mut size)
    };
    call(code, "getsockopt");
    value
}

fn netns_cookie() -> u64 {
    /// include/uapi/asm-generic/socket.h
    const SO_NETNS_COOKIE: i32 = 71;
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback is up");
    cookie(socket.as_fd(), SO_NETNS_COOKIE)
}

/// Moves this thread into a new network namespace, where backends' addresses are local.
fn new_netns() {
    // SAFETY: a plain system call; it moves only the calling thread.
    call(unsafe { libc::unshare(libc::CLONE_NEWNET) }, "unshare");
    for name in ["default", "all"] {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        std::fs::write(&path, "0").unwrap_or_else(|e| panic!("{path}: {e}"));
    }
    let mut batch = String::from("link set lo up\n");
    batch += "route add local 10.9.0.0/16 dev lo\n";
    // Unlike the other family's, these can be bound only one by one.
    (1..=4).for_each(|n| batch += &format!("addr add fd09::{n}/128 dev lo nodad\n"));
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("iproute2");
    child.stdin.take().expect("piped").write_all(batch.as_bytes()).expect("ip reads");
    assert!(child.wait().expect("ip ends").success(), "ip refused:\n{batch}");
}

/// A cgroup under a cgroup2 mount that only this thread sees.
struct Cgroup {
    home: PathBuf,
    path: PathBuf,
    _mount: tempfile::TempDir,
}

impl Cgroup {
    fn new() -> Self {
        // SAFETY: plain system calls, of NUL-terminated strings that outlive them.
        unsafe {
            call(libc::unshare(libc::CLONE_NEWNS), "unshare");
            let (none, root) = (c"none".as_ptr(), c"/".as_ptr());
            let flags = libc::MS_REC | libc::MS_PRIVATE;
            call(libc::mount(none, root, none, flags, std::ptr::null()), "make mounts private");
        }
        let mount = tempfile::tempdir().expect("a directory can be made");
        let target = std::ffi::CString::new(mount.path().to_str().expect("plain")).expect("plain");
        let kind = c"cgroup2".as_ptr();
        // SAFETY: as above.
        call(unsafe { libc::mount(kind, target.as_ptr(), kind, 0, std::ptr::null()) }, "mount cgroup2");
        let text = std::fs::read_to_string("/proc/self/cgroup").expect("proc is mounted");
        let own = text.lines().find_map(|line| line.strip_prefix("0::/")).expect("cgroup2 is in the kernel");
        let home = mount.path().join(own);
        let path = mount.path().join(format!("cilium-sock-{}", std::process::id()));
        std::fs::create_dir(&path).expect("a cgroup can be made");
        Self { home, path, _mount: mount }
    }

    fn enter(path: &Path) {
        std::fs::write(path.join("cgroup.procs"), "0").unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::write(self.home.join("cgroup.procs"), "0");
        let removed = std::fs::remove_dir(&self.path);
        // SAFETY: a NUL-terminated string that outlives the call.
        unsafe {
            let target =
                std::ffi::CString::new(self._mount.path().to_str().unwrap_or("")).unwrap_or_default();
            libc::umount2(target.as_ptr(), libc::MNT_DETACH);
        }
        assert!(std::thread::panicking() || removed.is_ok(), "the cgroup is empty: {removed:?}");
    }
}

/// All of it.
pub(crate) struct Stage {
    links: Vec<FdLink>,
    bpf: Ebpf,
    cgroup: Cgroup,
    lists: u32,
}

/// A frontend as a test wants it.
#[derive(Clone)]
pub(crate) struct Frontend {
    pub(crate) at: SocketAddr,
    pub(crate) proto: u8,
    pub(crate) scope: u8,
    pub(crate) flags: u32,
    pub(crate) affinity: u32,
    pub(crate) rev_nat: u16,
    pub(crate) backends: Vec<Backend>,
}

impl Frontend {
    pub(crate) fn new(at: SocketAddr, proto: u8, rev_nat: u16, backends: &[Backend]) -> Self {
        let (scope, backends) = (SCOPE_EXTERNAL, backends.to_vec());
        Self { at, proto, scope, flags: 0, affinity: 0, rev_nat, backends }
    }

    fn key(&self) -> FrontendKey {
        let (addr, port) = (Address::from(self.at.ip()), Be16::new(self.at.port()));
        FrontendKey { addr, port, proto: self.proto, scope: self.scope }
    }
}

/// A backend that listens, TCP and UDP, and says its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) number: u32,
    pub(crate) at: SocketAddr,
}

impl Stage {
    /// In the cgroup, with programs of these flags attached there.
    pub(crate) fn new(flags: u32) -> Self {
        let stage = Self::outside(flags);
        Cgroup::enter(&stage.cgroup.path);
        stage
    }

    /// As [`Self::new`], but this process has not entered the cgroup.
    pub(crate) fn outside(flags: u32) -> Self {
        new_netns();
        let netns = netns_cookie();
        let (low, high) = (netns as u32, (netns >> 32) as u32);
        let base = constants(Mode::Native);
        let node = NodeConstants { flags: base.flags & !NODE_SOCK | flags, host_netns: [low, high], ..base };
        let bpf = lab::load_those(&node, Some(ROWS), |name| name.starts_with("cil_sock"));
        let mut stage = Self { links: Vec::new(), bpf, cgroup: Cgroup::new(), lists: 0 };
        stage.attach();
        stage
    }

    /// Attaches all programs.
    pub(crate) fn attach(&mut self) {
        let group = File::open(&self.cgroup.path).expect("the cgroup is there");
        for (name, program) in self.bpf.programs_mut().filter(|(name, _)| name.starts_with("cil_sock")) {
            let link = match program {
                Program::CgroupSockAddr(program) => {
                    let id = program.attach(&group, CgroupAttachMode::Single);
                    let id = id.unwrap_or_else(|e| panic!("attach {name}: {e:?}"));
                    program.take_link(id).ok().and_then(|link| FdLink::try_from(link).ok())
                }
                Program::CgroupSock(program) => {
                    let id = program.attach(&group, CgroupAttachMode::Single);
                    let id = id.unwrap_or_else(|e| panic!("attach {name}: {e:?}"));
                    program.take_link(id).ok().and_then(|link| FdLink::try_from(link).ok())
                }
                _ => panic!("{name} is no program of a cgroup"),
            };
            self.links.push(link.expect("attached by a link"));
        }
        assert_eq!(self.links.len(), 10);
    }

    /// Takes all programs off.
    pub(crate) fn detach(&mut self) {
        self.links.clear();
    }

    /// Leaves the cgroup: sockets made from now on are not in it.
    pub(crate) fn leave(&self) {
        Cgroup::enter(&self.cgroup.home);
    }

    /// Enters the cgroup.
    pub(crate) fn enter(&self) {
        Cgroup::enter(&self.cgroup.path);
    }

    pub(crate) fn map(&self, spec: &maps::MapSpec) -> BorrowedFd<'_> {
        lab::map(&self.bpf, spec.name)
    }

    /// Backends on this port, from 10.9.0.1 or fd09::1 on.
    pub(crate) fn backends(&self, is_v6: bool, count: u32, port: u16) -> Vec<Backend> {
        let backends = (1..=count).map(|n| {
            let text = if is_v6 { format!("fd09::{n}") } else { format!("10.9.0.{n}") };
            let number = n + u32::from(port) * 100 + u32::from(is_v6) * 50;
            let backend = Backend { number, at: at(&text, port) };
            self.put_backend(backend, 0);
            backend
        });
        backends.collect()
    }

    pub(crate) fn put_backend(&self, backend: Backend, flags: u8) {
        let (addr, port) = (Address::from(backend.at.ip()), Be16::new(backend.at.port()));
        let row = BackendRow { addr, port, proto: TCP, flags };
        sys::update(self.map(&maps::BACKEND), &backend.number, &row).expect("a row can be written");
    }

    /// Writes a list, flips the frontend to it, removes the old one.
    pub(crate) fn put(&mut self, frontend: &Frontend) {
        self.lists += 1;
        let list = self.lists;
        for (slot, backend) in (0u32..).zip(&frontend.backends) {
            sys::update(self.map(&maps::SLOT), &SlotKey { list, slot }, &backend.number)
                .expect("a row can be written");
        }
        let key = frontend.key();
        let old: Option<FrontendRow> = sys::lookup(self.map(&maps::FRONTEND), &key);
        let row = FrontendRow {
            list,
            count: u16::try_from(frontend.backends.len()).expect("few"),
            rev_nat: frontend.rev_nat,
            flags: frontend.flags,
            maglev: 0,
            affinity: frontend.affinity,
        };
        sys::update(self.map(&maps::FRONTEND), &key, &row).expect("a row can be written");
        for slot in 0..old.map_or(0, |row| u32::from(row.count)) {
            let list = old.map_or(0, |row| row.list);
            sys::delete(self.map(&maps::SLOT), &SlotKey { list, slot }).expect("a row can be removed");
        }
        let back = RevNatRow { addr: key.addr, port: key.port, reserved: 0 };
        sys::update(self.map(&maps::REVNAT), &u32::from(frontend.rev_nat), &back)
            .expect("a row can be written");
    }

    /// An address of the node.
    pub(crate) fn own(&self, addr: &str) {
        let row = EndpointRow { flags: ENDPOINT_HOST, identity: 1, ..EndpointRow::default() };
        sys::update(self.map(&maps::ENDPOINT), &Address::from(ip(addr)), &row).expect("a row can be written");
    }

    /// The backend a socket was given, as the programs wrote it down.
    pub(crate) fn given(&self, socket: impl AsFd) -> Option<u32> {
        let own = cookie(socket.as_fd(), libc::SO_COOKIE);
        let rows = sys::dump::<SockRevKey, SockRevRow>(self.map(&maps::SOCK_REV), ROWS as usize);
        let rows = rows.expect("the map can be read");
        let mut found = rows.into_iter().filter(|(key, _)| key.cookie == own && key.kind == SOCK_REVERSE);
        found.next().map(|(_, row)| row.backend)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.detach();
        if std::thread::panicking() {
            return;
        }
        let group = File::open(&self.cgroup.path).expect("the cgroup is there");
        for hook in [10, 11, 12, 13, 14, 15, 19, 20, 29, 30] {
            let left = sys::attached(group.as_fd(), hook).expect("a cgroup tells its programs");
            assert_eq!(left, 0, "programs left at attach type {hook}");
        }
    }
}

/// Lets backends listen, in the namespace of the calling thread.
pub(crate) fn serve(backends: &[Backend]) {
    for backend in backends {
        let greeting = backend.number.as_bytes().to_vec();
        let listener = TcpListener::bind(backend.at).unwrap_or_else(|e| panic!("TCP {}: {e}", backend.at));
        let socket = UdpSocket::bind(backend.at).unwrap_or_else(|e| panic!("UDP {}: {e}", backend.at));
        let told = greeting.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.write_all(&told);
                // Whoever stays says something later on.
                let told = told.clone();
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while matches!(io::Read::read(&mut stream, &mut byte), Ok(1)) {
                        let _ = stream.write_all(&told);
                    }
                });
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&greeting, peer);
            }
        });
    }
}

/// Connects by TCP; gives the stream and who answered.
pub(crate) fn tcp(to: SocketAddr) -> io::Result<(TcpStream, u32)> {
    let mut stream = TcpStream::connect_timeout(&to, patience())?;
    stream.set_read_timeout(Some(patience()))?;
    let who = hear(&mut stream)?;
    Ok((stream, who))
}

/// What a stream's backend says.
pub(crate) fn hear(stream: &mut TcpStream) -> io::Result<u32> {
    let mut number = [0; 4];
    io::Read::read_exact(stream, &mut number)?;
    Ok(u32::from_ne_bytes(number))
}

/// A UDP socket of the family of `to`.
pub(crate) fn udp(to: SocketAddr) -> UdpSocket {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).expect("a socket can be made");
    socket.set_read_timeout(Some(patience())).expect("it can wait");
    socket
}

/// Sends a datagram; gives who answered, by number and by address.
pub(crate) fn ask(socket: &UdpSocket, to: SocketAddr) -> io::Result<(u32, SocketAddr)> {
    socket.send_to(b"?", to)?;
    answer(socket)
}

/// The next datagram: who answered.
pub(crate) fn answer(socket: &UdpSocket) -> io::Result<(u32, SocketAddr)> {
    let mut number = [0; 4];
    let (_, from) = socket.recv_from(&mut number)?;
    Ok((u32::from_ne_bytes(number), from))
}

/// How often each of some backends was met; all must lie within 15 % of the mean.
pub(crate) fn assert_even(met: &BTreeMap<u32, u32>, backends: &[Backend], what: &str) {
    let total: u32 = met.values().sum();
    let mean = f64::from(total) / backends.len() as f64;
    for backend in backends {
        let times = f64::from(met.get(&backend.number).copied().unwrap_or(0));
        assert!((times - mean).abs() <= 0.15 * mean, "{what}: {backend:?} {times} of {total}: {met:?}");
    }
    println!("{what}: {met:?}");
}

/// Runs work in another network namespace of the machine, in the same cgroup.
pub(crate) fn elsewhere<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            new_netns();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
