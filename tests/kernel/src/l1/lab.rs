//! The production programs in a namespace of their own: loads them once, fills their maps, runs them.

use super::frontends::MAGLEV_ROWS;
use super::relay::{Kind, Relay};
use super::sys::{self, SKB_CB, SKB_IFINDEX, SKB_INGRESS, SKB_MARK, SKB_WORDS};
use super::world::{
    ETH0_MAC, GATEWAY_MAC, Links, Mode, REMOTE_NODE_MAC, SERVER_MAC, SIDE_MAC, World, constants,
};
use aya::maps::{Map, MapData, RingBuf};
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use cilium_abi::{
    Mac,
    ct::{CtKey, CtRow},
    event::Event,
    maps, metrics,
    node::{NODE_XDP, NodeConstants},
    snat::{SnatKey, SnatRow},
};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::process::{Command, Stdio};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The object, as the release embeds it.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("CILIUM_BPF_OBJECT"));

/// Most rows of a map in tests.
pub const ROWS: u32 = 8192;

/// Where programs write answers, and count them: a map of their own, and the size of its row.
const ANSWERS: &str = "cilium_answer";
const ANSWERS_ROW: usize = 648;

/// A program's hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// `cil_from_container`.
    FromContainer,
    /// `cil_from_host`.
    FromHost,
    /// `cil_to_host`.
    ToHost,
    /// `cil_from_netdev`.
    FromNetdev,
    /// `cil_to_netdev`.
    ToNetdev,
    /// `cil_from_overlay`.
    FromOverlay,
    /// `cil_to_overlay`.
    ToOverlay,
}

impl Hook {
    /// Every classifier.
    pub const ALL: [Self; 7] = [
        Self::FromContainer,
        Self::FromHost,
        Self::ToHost,
        Self::FromNetdev,
        Self::ToNetdev,
        Self::FromOverlay,
        Self::ToOverlay,
    ];

    /// The program's name.
    pub const fn program(self) -> &'static str {
        match self {
            Self::FromContainer => "cil_from_container",
            Self::FromHost => "cil_from_host",
            Self::ToHost => "cil_to_host",
            Self::FromNetdev => "cil_from_netdev",
            Self::ToNetdev => "cil_to_netdev",
            Self::FromOverlay => "cil_from_overlay",
            Self::ToOverlay => "cil_to_overlay",
        }
    }
}

/// A packet at a hook.
#[derive(Clone, Debug)]
pub struct Input {
    /// Where.
    pub hook: Hook,
    /// The interface of the hook.
    pub ifindex: u32,
    /// `skb->mark`.
    pub mark: u32,
    /// The number in the tunnel header, for a packet out of a tunnel.
    pub wire: Option<u32>,
    /// The frame.
    pub data: Vec<u8>,
}

impl Input {
    /// Whether the packet came into the node by an interface: what the stack sends did, if it is out of a tunnel.
    pub fn is_received(&self) -> bool {
        self.hook != Hook::FromHost || self.wire.is_some()
    }
}

/// What a program did.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The verdict.
    pub verdict: i32,
    /// The frame afterwards.
    pub data: Vec<u8>,
    /// `skb->mark` afterwards.
    pub mark: u32,
    /// The events it gave.
    pub events: Vec<Event>,
    /// Whether the driver's program had the last word on the frame.
    pub by_driver: bool,
}

/// What a driver's program did.
enum Driven {
    /// The stack has the frame, as it is now.
    On(Vec<u8>),
    /// It ended there.
    Ended(sys::Ran),
}

/// Verdicts (include/uapi/linux/bpf.h, pkt_cls.h).
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
const XDP_TX: i32 = 3;
const TC_ACT_SHOT: i32 = 2;
const TC_ACT_REDIRECT: i32 = 7;

/// A loaded program set.
pub struct Lab {
    netns: File,
    /// Interfaces.
    pub links: Links,
    /// Constants the programs were loaded with.
    pub node: NodeConstants,
    /// Kind of node.
    pub mode: Mode,
    bpf: Ebpf,
    events: RingBuf<MapData>,
    /// Gives a packet tunnel metadata, then tail-calls `cil_from_overlay`.
    out_of_tunnel: Relay,
    installed: World,
    cpus: usize,
    /// The flag that gives a packet a sum over all of it, as devices do, and has it checked afterwards;
    /// 0 where the kernel has none.
    summed: u32,
}

impl Lab {
    /// Makes the namespace and loads the programs for a mode.
    pub fn new(mode: Mode) -> Self {
        Self::with(mode, constants(mode))
    }

    /// As [`Self::new`], with other constants than the mode's.
    pub fn with(mode: Mode, node: NodeConstants) -> Self {
        let (netns, links) = std::thread::spawn(namespace).join().expect("the namespace could be set up");
        let mut bpf = load(&node, Some(ROWS));
        let events = bpf.take_map(maps::EVENTS.name).expect("the object has a ring buffer");
        let events = RingBuf::try_from(events).expect("it is a ring buffer");
        let out_of_tunnel = tunnel_entry(program(&bpf, Hook::FromOverlay.program()));
        let cpus = aya::util::nr_cpus().expect("the kernel tells its CPUs");
        let lab = Self {
            netns,
            links,
            node,
            mode,
            bpf,
            events,
            out_of_tunnel,
            installed: World::default(),
            cpus,
            summed: 0,
        };
        lab.enter();
        let program = lab.program(Hook::ToHost.program());
        let probe = sys::test_run(program, &[0; 64], &[0; SKB_WORDS], 1, sys::CHECKSUM_COMPLETE);
        Self { summed: if probe.is_ok() { sys::CHECKSUM_COMPLETE } else { 0 }, ..lab }
    }

    /// Moves the calling thread into the namespace: test runs look interfaces and routes up there.
    pub fn enter(&self) {
        set_netns(&self.netns);
    }

    /// A program's descriptor.
    pub fn program(&self, name: &str) -> BorrowedFd<'_> {
        program(&self.bpf, name)
    }

    /// All programs.
    pub fn programs(&self) -> impl Iterator<Item = (&str, &Program)> {
        self.bpf.programs()
    }

    /// A map's descriptor.
    pub fn map(&self, name: &str) -> BorrowedFd<'_> {
        map(&self.bpf, name)
    }

    /// Makes the maps hold exactly this world, and no flows.
    pub fn install(&mut self, world: &World) {
        let old = std::mem::take(&mut self.installed);
        sync(self.map(maps::ENDPOINT.name), &old.endpoints, &world.endpoints);
        sync(self.map(maps::EP_CONFIG.name), &old.configs, &world.configs);
        sync(self.map(maps::DEVICE.name), &old.devices, &world.devices);
        sync(self.map(maps::IPCACHE.name), &old.ipcache, &world.ipcache);
        sync(self.map(maps::IPCACHE_PREFIX.name), &old.prefixes, &world.prefixes);
        sync(self.map(maps::POLICY.name), &old.policy_rows(), &world.policy_rows());
        sync(self.map(maps::FRONTEND.name), &old.frontends, &world.frontends);
        sync(self.map(maps::SLOT.name), &old.slots, &world.slots);
        sync(self.map(maps::BACKEND.name), &old.backends, &world.backends);
        sync(self.map(maps::REVNAT.name), &old.revnats, &world.revnats);
        sync(self.map(maps::SOURCE_RANGE.name), &old.source_ranges, &world.source_ranges);
        for place in 0..MAGLEV_ROWS {
            let number = world.maglev.get(&place).copied().unwrap_or(0);
            if number != old.maglev.get(&place).copied().unwrap_or(0) {
                sys::update(self.map(maps::MAGLEV.name), &place, &number).expect("a place can be written");
            }
        }
        sys::update(self.map(maps::RUNTIME.name), &0u32, &world.runtime)
            .expect("the runtime row can be written");
        sys::update(self.map(maps::REVISION.name), &0u32, &world.revision)
            .expect("the revision can be written");
        self.installed = world.clone();
    }

    /// Forgets every connection, translation and affinity, and unread events.
    pub fn forget(&mut self) {
        for name in [maps::CT_TCP.name, maps::CT_ANY.name] {
            let map = self.map(name);
            for (key, _) in sys::dump::<CtKey, CtRow>(map, ROWS as usize).expect("the map can be read") {
                sys::delete(map, &key).expect("an entry can be removed");
            }
        }
        let map = self.map(maps::SNAT.name);
        for (key, _) in sys::dump::<SnatKey, SnatRow>(map, ROWS as usize).expect("the map can be read") {
            sys::delete(map, &key).expect("a row can be removed");
        }
        let map = self.map(maps::FRAGMENTS.name);
        for key in self.fragments().keys() {
            sys::delete(map, key).expect("a row can be removed");
        }
        let map = self.map(maps::AFFINITY.name);
        for key in self.affinities().keys() {
            sys::delete(map, key).expect("a row can be removed");
        }
        let answers = self.map(ANSWERS);
        sys::clear_per_cpu(answers, 0, ANSWERS_ROW, self.cpus).expect("a row can be cleared");
        while self.events.next().is_some() {}
    }

    /// Packets counted under a reason and direction.
    pub fn count(&self, reason: u8, direction: u8) -> u64 {
        let index = metrics::index(reason, direction);
        let rows = sys::lookup_per_cpu::<metrics::MetricsRow>(self.map(maps::METRICS.name), index, self.cpus);
        rows.iter().map(|row| row.packets).sum()
    }

    /// Runs a hook's program on a packet. What comes from the wire carries a device's sum over the
    /// whole packet, where the kernel can do that in a test run.
    ///
    /// # Errors
    /// `EINVAL`: the kernel does not build such a packet. `EBADMSG`: the packet's sum is wrong now.
    pub fn run(&mut self, input: &Input) -> io::Result<Seen> {
        let from_wire = matches!(input.hook, Hook::FromNetdev | Hook::FromOverlay);
        let flags = if from_wire { self.summed } else { 0 };
        self.run_with(input, 1, flags).map(|(seen, _)| seen)
    }

    /// As [`Self::run`], without a device's sum: a packet of another length has none, which the kernel would
    /// take for a wrong one.
    ///
    /// # Errors
    /// `EINVAL`: the kernel does not build such a packet.
    pub fn run_bare(&mut self, input: &Input) -> io::Result<Seen> {
        self.run_with(input, 1, 0).map(|(seen, _)| seen)
    }

    /// As [`Self::run`], so many times on the same packet and with flags; also nanoseconds per run.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_with(&mut self, input: &Input, repeat: u32, flags: u32) -> io::Result<(Seen, u32)> {
        let (by_driver, ran) = match self.run_driver(input)? {
            Driven::On(data) => (false, self.run_unheard(&Input { data, ..input.clone() }, repeat, flags)?),
            Driven::Ended(ran) => (true, ran),
        };
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            events.push(Event::read_from_bytes(&item).expect("events have one size"));
        }
        Ok((
            Seen { verdict: ran.verdict, data: ran.data, mark: ran.context[SKB_MARK], events, by_driver },
            ran.nanoseconds,
        ))
    }

    /// What becomes of a frame before the stack sees it: where drivers serve frontends, their program's word,
    /// in words of the other hooks.
    fn run_driver(&self, input: &Input) -> io::Result<Driven> {
        if self.node.flags & NODE_XDP == 0 || input.hook != Hook::FromNetdev {
            return Ok(Driven::On(input.data.clone()));
        }
        let ran = sys::test_run_xdp(self.program("cil_xdp_entry"), input.ifindex, &input.data, 1)?;
        let verdict = match ran.verdict {
            XDP_PASS => return Ok(Driven::On(ran.data)),
            XDP_TX => TC_ACT_REDIRECT,
            XDP_DROP => TC_ACT_SHOT,
            other => panic!("the driver's program never says {other}"),
        };
        let mut context = [0; SKB_WORDS];
        context[SKB_MARK] = input.mark;
        Ok(Driven::Ended(sys::Ran { verdict, context, ..ran }))
    }

    /// As [`Self::run_with`], with nobody reading events.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_unheard(&self, input: &Input, repeat: u32, flags: u32) -> io::Result<sys::Ran> {
        let mut context = [0u32; SKB_WORDS];
        context[SKB_MARK] = input.mark;
        context[SKB_IFINDEX] = input.ifindex;
        context[SKB_INGRESS] = if input.is_received() { input.ifindex } else { 0 };
        let program = match input.wire {
            Some(wire) if input.hook == Hook::FromOverlay => {
                context[SKB_CB] = wire;
                self.out_of_tunnel.program()
            }
            _ => self.program(input.hook.program()),
        };
        sys::test_run(program, &input.data, &context, repeat, flags)
    }
}

/// A program's descriptor.
pub fn program<'a>(bpf: &'a Ebpf, name: &str) -> BorrowedFd<'a> {
    let fd = match bpf.program(name) {
        Some(Program::SchedClassifier(program)) => program.fd(),
        Some(Program::Xdp(program)) => program.fd(),
        Some(Program::CgroupSockAddr(program)) => program.fd(),
        Some(Program::CgroupSock(program)) => program.fd(),
        _ => panic!("the object has no program {name}"),
    };
    fd.expect("all programs are loaded").as_fd()
}

/// A map's descriptor, by its name.
pub fn map<'a>(bpf: &'a Ebpf, name: &str) -> BorrowedFd<'a> {
    descriptor(bpf.map(name).unwrap_or_else(|| panic!("the object has no map {name}")))
}

/// A map's descriptor.
pub fn descriptor(map: &Map) -> BorrowedFd<'_> {
    match map {
        Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::LpmTrie(data)
        | Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data) => data.fd().as_fd(),
        _ => panic!("the object has a map of a kind nobody reads"),
    }
}

/// Loads the object; maps of more than `most` rows get `most`.
pub fn load(node: &NodeConstants, most: Option<u32>) -> Ebpf {
    load_those(node, most, |_| true)
}

/// As [`load`], but of the programs only those that are wanted by name.
pub fn load_those(node: &NodeConstants, most: Option<u32>, wanted: impl Fn(&str) -> bool) -> Ebpf {
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(VerifierLogLevel::STATS);
    for spec in maps::ALL {
        if let Some(most) = most.filter(|most| spec.max_entries > *most) {
            loader.map_max_entries(spec.name, most);
        }
    }
    if most.is_some() {
        loader.map_max_entries(maps::EVENTS.name, 256 << 10);
        loader.map_max_entries(maps::MAGLEV.name, MAGLEV_ROWS);
    }
    loader.override_global("NODE", node.as_bytes(), true);
    // Another object than the release's, to see that the tests notice.
    let mut bpf = match std::env::var_os("CILIUM_TEST_OBJECT") {
        Some(path) => loader.load_file(path),
        None => loader.load(OBJECT),
    }
    .expect("the object is well-formed");
    for (name, program) in bpf.programs_mut().filter(|(name, _)| wanted(name)) {
        let loaded = match program {
            Program::SchedClassifier(program) => program.load(),
            Program::Xdp(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            Program::CgroupSock(program) => program.load(),
            _ => panic!("{name} is of a kind nobody attaches"),
        };
        loaded.unwrap_or_else(|e| panic!("the verifier refuses {name}: {e:?}"));
    }
    bpf
}

/// Writes what is new or changed, removes what is gone.
fn sync<K, V>(map: BorrowedFd<'_>, old: &BTreeMap<K, V>, new: &BTreeMap<K, V>)
where
    K: Ord + IntoBytes + Immutable,
    V: PartialEq + IntoBytes + Immutable,
{
    for (key, row) in new {
        if old.get(key) != Some(row) {
            sys::update(map, key, row).expect("a row can be written");
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(key)) {
        sys::delete(map, key).expect("a row can be removed");
    }
}

/// A program that sets tunnel metadata from `cb[0]`, and then is `cil_from_overlay`.
///
/// A test run cannot be given metadata; what a program set for sending reads back as received.
fn tunnel_entry(target: BorrowedFd<'_>) -> Relay {
    use sys::insn;
    // struct bpf_tunnel_key of 44 bytes at r10-48: id, remote address, tos, ttl; the rest zero.
    let mut code = vec![insn(0xb7, 0, 0, 0, 0)];
    code.extend((1..=6).map(|word| insn(0x7b, 10, 0, -8 * word, 0)));
    code.extend([
        insn(0x61, 1, 6, 4 * SKB_CB as i16, 0),
        insn(0x63, 10, 1, -48, 0),
        insn(0x62, 10, 0, -44, 0x7f00_0001),
        insn(0xbf, 1, 6, 0, 0),
        insn(0xbf, 2, 10, 0, 0),
        insn(0x07, 2, 0, 0, -48),
        insn(0xb7, 3, 0, 0, 44),
        insn(0xb7, 4, 0, 0, 0),
        // bpf_skb_set_tunnel_key
        insn(0x85, 0, 0, 0, 21),
    ]);
    Relay::new(Kind::Classifier, &code, Some(target))
}

fn set_netns(file: &File) {
    // SAFETY: a plain system call on a descriptor we hold; it moves only the calling thread.
    let code = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(code, 0, "setns: {}", io::Error::last_os_error());
}

/// Sets the namespace up; runs on a thread that ends, so that nothing else is in it.
fn namespace() -> (File, Links) {
    // SAFETY: a plain system call; it moves only the calling thread.
    let code = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(code, 0, "a network namespace needs root: {}", io::Error::last_os_error());
    for (key, value) in [
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/disable_ipv6", "0"),
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/conf/default/forwarding", "1"),
    ] {
        std::fs::write(format!("/proc/sys/net/{key}"), value).unwrap_or_else(|e| panic!("sysctl {key}: {e}"));
    }
    let mut batch = String::from("link set lo up\n");
    let links = ["l1-a", "l1-b", "l1-c", "l1-x", "l1-host", "l1-overlay", "l1-eth0", "l1-side"];
    for name in links {
        let mac = match name {
            "l1-eth0" => format!("address {} ", text(ETH0_MAC)),
            "l1-side" => format!("address {} ", text(SIDE_MAC)),
            _ => String::new(),
        };
        batch += &format!(
            "link add {name} {mac}type veth peer name p{name}\nlink set {name} up\nlink set p{name} up\n"
        );
    }
    let [gateway, remote, server] = [GATEWAY_MAC, REMOTE_NODE_MAC, SERVER_MAC].map(text);
    batch += &format!(
        "addr add 192.0.2.10/24 dev l1-eth0
addr add 2001:db8::10/64 dev l1-eth0 nodad
addr add 198.18.7.10/24 dev l1-side
addr add 2001:db8:7::10/64 dev l1-side nodad
addr add 10.1.0.1/32 dev l1-host
addr add fd00:1::1/128 dev l1-host nodad
route add 10.1.0.0/24 dev l1-host
route add fd00:1::/64 dev l1-host
route add default via 192.0.2.1 dev l1-eth0
route add default via 2001:db8::1 dev l1-eth0
route add blackhole 203.0.113.0/24
route add blackhole 2001:db8:203::/64
neigh add 192.0.2.1 lladdr {gateway} dev l1-eth0 nud permanent
neigh add 2001:db8::1 lladdr {gateway} dev l1-eth0 nud permanent
neigh add 192.0.2.20 lladdr {remote} dev l1-eth0 nud permanent
neigh add 2001:db8::20 lladdr {remote} dev l1-eth0 nud permanent
neigh add 198.18.7.20 lladdr {server} dev l1-side nud permanent
neigh add 2001:db8:7::20 lladdr {server} dev l1-side nud permanent
"
    );
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("ip (iproute2) is installed");
    child.stdin.take().expect("piped").write_all(batch.as_bytes()).expect("ip reads its batch");
    assert!(child.wait().expect("ip ends").success(), "ip refused:\n{batch}");
    let [a, b, c, x, host, overlay, eth0, side] = links.map(index);
    let netns = File::open("/proc/thread-self/ns/net").expect("proc is mounted");
    (netns, Links { lxc: [a, b, c, x], host, overlay, eth0, side })
}

fn index(name: &str) -> u32 {
    let name = std::ffi::CString::new(name).expect("no NUL");
    // SAFETY: a NUL-terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "{name:?}: {}", io::Error::last_os_error());
    index
}

fn text(mac: Mac) -> String {
    mac.0.map(|byte| format!("{byte:02x}")).join(":")
}
