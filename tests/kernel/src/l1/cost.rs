//! What packets cost: nanoseconds of the production programs in `BPF_PROG_TEST_RUN`, beside floors
//! measured in the same run (an empty program, the lookups and inserts that a packet needs).
//!
//! Never: a judgement; limits are given, whoever measures compares.

pub mod driver;
mod minimal;
mod north_south;

use super::lab::{Hook, Input, Lab};
use super::packet::{ACK, SYN, tcp, udp};
use super::sys::{self, HASH, LRU_HASH, PERCPU_ARRAY, SKB_WORDS, insn};
use super::world::{A, B, Family, Links, Mode, OUTSIDE_ID, Rule, World, at, constants};
use cilium_abi::endpoint::{CONFIG_EGRESS_NO_ANY, CONFIG_INGRESS_NO_ANY};
use cilium_abi::node::NodeConstants;
use std::os::fd::AsFd;
use std::time::Duration;

/// Nanoseconds of an insert into an LRU map, as measured for the design.
const LRU_INSERT: f64 = 400.0;
/// Nanoseconds of an event: the exact clock, and a place in the ring.
const EVENT: f64 = 60.0;
/// Refused packets that may be told of in a window, and how many of them are measured at once.
const REFUSALS: u32 = 1000;
const TOLD: u32 = 300;
/// Longer than a window.
const A_WINDOW: Duration = Duration::from_millis(25);
/// Nanoseconds of a lookup in a hash map on a machine that counts as fast.
const LOOKUP: f64 = 20.0;

/// What kind of packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sort {
    /// Of a connection that is known.
    Established,
    /// Opens one.
    New,
    /// Opens one, through a service.
    NewService,
    /// Of a known connection of a client outside.
    Outside,
    /// Opens one of a client outside, with a pod here.
    NewOutside,
    /// Opens one of a client outside, with a backend elsewhere: four rows are written.
    NewElsewhere,
    /// Refused by policy, with an event.
    Refused,
    /// The same in a flood, of which most are counted only.
    Denied,
}

impl Sort {
    /// Nanoseconds it may take beyond an empty program.
    pub const fn limit(self) -> f64 {
        match self {
            Self::Established => 150.0,
            Self::New => 1500.0,
            Self::NewService | Self::NewOutside => 1800.0,
            Self::Outside => 700.0,
            Self::NewElsewhere => 3000.0,
            Self::Refused => 300.0,
            Self::Denied => 200.0,
        }
    }
}

/// What the maps take at least, nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Floors {
    /// An empty program.
    pub empty: f64,
    /// The same, run once.
    pub empty_once: f64,
    /// A hash lookup.
    pub hash: f64,
    /// A lookup in an LRU hash.
    pub lru: f64,
    /// A lookup in a per-CPU array.
    pub array: f64,
    /// A lookup of the kernel's route, IPv4 and IPv6.
    pub route: [f64; 2],
    /// A new address and port for one end, with checksums, IPv4 and IPv6.
    pub rewrite: [f64; 2],
}

/// One packet's cost.
#[derive(Clone, Debug)]
pub struct Cost {
    /// The packet.
    pub name: String,
    /// Its kind.
    pub sort: Sort,
    /// Nanoseconds beyond an empty program's.
    pub net: f64,
    /// Sum of the floors of the maps it touches.
    pub floors: f64,
}

impl Floors {
    /// The least of both, each beyond the least empty program.
    fn or_less(&self, other: &Self) -> Self {
        let empty = self.empty.min(other.empty);
        let net = |mine: f64, others: f64| (mine + self.empty).min(others + other.empty) - empty;
        let both = |mine: [f64; 2], others: [f64; 2]| [0, 1].map(|v6: usize| net(mine[v6], others[v6]));
        Self {
            empty,
            empty_once: self.empty_once.min(other.empty_once),
            hash: net(self.hash, other.hash),
            lru: net(self.lru, other.lru),
            array: net(self.array, other.array),
            route: both(self.route, other.route),
            rewrite: both(self.rewrite, other.rewrite),
        }
    }

    /// How many times as slow as the machine of the limits this one is; at least 1. Under emulation everything takes
    /// as many times longer as a lookup does.
    pub fn slow(&self) -> f64 {
        (self.hash / LOOKUP).max(1.0)
    }
}

/// Least nanoseconds per run over many calls of `each` runs.
fn least(mut run: impl FnMut(u32) -> u32, each: u32) -> f64 {
    (0..60).map(|_| run(each)).min().map_or(f64::MAX, f64::from)
}

const PACKET: [u8; 64] = [2; 64];

fn floor(code: &[u64]) -> f64 {
    let program = sys::load(code).expect("the verifier takes a floor");
    let context = [0u32; SKB_WORDS];
    least(
        |each| sys::test_run(program.as_fd(), &PACKET, &context, each, 0).expect("a floor runs").nanoseconds,
        30_000,
    )
}

/// A program that looks one key of 40 bytes up, in an array one of 4.
fn lookups(kind: u32) -> f64 {
    let key = if kind == PERCPU_ARRAY { 4 } else { 40 };
    let map = sys::create(kind, key, 40, 8192).expect("a map can be made");
    if kind != PERCPU_ARRAY {
        sys::update(map.as_fd(), &[0u8; 40], &[0u8; 40]).expect("a row can be written");
    }
    let [low, high] = sys::load_map(1, map.as_fd());
    let mut code = vec![insn(0xb7, 0, 0, 0, 0)];
    code.extend((1..=5).map(|word| insn(0x7b, 10, 0, -8 * word, 0)));
    code.extend([low, high, insn(0xbf, 2, 10, 0, 0), insn(0x07, 2, 0, 0, -40)]);
    // bpf_map_lookup_elem
    code.extend([insn(0x85, 0, 0, 0, 1), insn(0xb7, 0, 0, 0, 0), insn(0x95, 0, 0, 0, 0)]);
    floor(&code)
}

/// One established packet over and over. It comes back changed, so the test makes the changes void: the
/// hardware addresses written are those it had, and TTL lasts for 250 runs.
fn established(lab: &mut Lab, world: &World, open: &[Input], packet: &Input) -> f64 {
    lab.enter();
    lab.install(world);
    lab.forget();
    for input in open {
        lab.run(input).expect("the packet runs");
    }
    let (seen, _) = lab.run_with(packet, 1, 0).expect("the packet runs");
    assert_ne!(seen.verdict, 2, "the packet is established: {:?}", seen.events);
    least(
        |each| {
            let (seen, nanoseconds) = lab.run_with(packet, each, 0).expect("the packet runs");
            assert_ne!(seen.verdict, 2, "no run dropped it: {:?}", seen.events);
            nanoseconds
        },
        250,
    )
}

/// Median nanoseconds of packets that are each run once, since they change what comes after.
fn once(lab: &mut Lab, world: &World, verdict: i32, packets: impl Iterator<Item = Input>) -> f64 {
    lab.enter();
    lab.install(world);
    lab.forget();
    let mut times: Vec<u32> = packets
        .map(|packet| {
            // Read at once, each event would wake the reader: that is the machine's price, not the program's.
            let ran = lab.run_unheard(&packet, 1, 0).expect("the packet runs");
            assert_eq!(ran.verdict, verdict, "as the scenario wants");
            ran.nanoseconds
        })
        .collect();
    times.sort_unstable();
    f64::from(times[times.len() / 2])
}

/// Pod A may open port 80 of pod B, and both are closed otherwise; rows and hints as compiled.
fn world(lab: &Lab) -> World {
    let mut world = World::base(&lab.links, lab.mode);
    world.close(A, true).rule(Rule::any(A, true).peer(B.identity).port(6, 80));
    world.rule(Rule::any(A, true).peer(B.identity).port(6, 8080));
    world.close(B, false).rule(Rule::any(B, false).peer(A.identity).port(6, 80));
    world.rule(Rule::any(B, false).peer(A.identity).port(6, 8080));
    world.rule(Rule::any(B, false).peer(OUTSIDE_ID).port(6, 80));
    for (pod, hint) in [(A, CONFIG_EGRESS_NO_ANY), (B, CONFIG_INGRESS_NO_ANY)] {
        if let Some(config) = world.configs.get_mut(&lab.links.lxc[pod.link]) {
            config.flags |= hint;
        }
    }
    // Every backend is pod B, on one port.
    for row in world.backends.values_mut() {
        row.addr = if row.addr.is_v4() { B.ip(Family::V4) } else { B.ip(Family::V6) };
    }
    // What is delivered to B keeps the frame's addresses as they were sent, so that it can be sent again.
    for row in world.endpoints.values_mut().filter(|row| row.endpoint_id == B.id) {
        (row.mac, row.node_mac) = (A.node_mac(), A.mac());
    }
    world
}

/// What a packet's time has in it that is not the program's.
#[derive(Clone, Copy, Debug)]
enum Base {
    /// One of many runs.
    Empty,
    /// A single run.
    Once,
    /// So many nanoseconds of a program around it.
    Own(f64),
}

/// What was measured of a packet.
#[derive(Clone, Debug)]
struct Measured {
    name: String,
    sort: Sort,
    family: Family,
    /// With what is not the program's.
    nanoseconds: f64,
    base: Base,
    /// Hash lookups, LRU lookups, LRU inserts, events, arrays (scratch, revision, counters).
    touches: [f64; 5],
    /// Routes looked up, and ends rewritten.
    helpers: [f64; 2],
}

impl Measured {
    fn or_less(&self, other: &Self) -> Self {
        assert_eq!(self.name, other.name, "every round measures the same packets");
        let base = match (self.base, other.base) {
            (Base::Own(mine), Base::Own(others)) => Base::Own(mine.min(others)),
            (base, _) => base,
        };
        Self { nanoseconds: self.nanoseconds.min(other.nanoseconds), base, ..self.clone() }
    }

    fn cost(&self, floors: &Floors) -> Cost {
        let slow = floors.slow();
        let each = [floors.hash, floors.lru, LRU_INSERT * slow, EVENT * slow, floors.array];
        let base = match self.base {
            Base::Empty => floors.empty,
            Base::Once => floors.empty_once,
            Base::Own(nanoseconds) => nanoseconds,
        };
        let v6 = usize::from(self.family == Family::V6);
        let helpers = self.helpers.iter().zip([floors.route[v6], floors.rewrite[v6]]);
        Cost {
            name: format!("{:?} {}", self.family, self.name),
            sort: self.sort,
            net: self.nanoseconds - base,
            floors: self.touches.iter().zip(each).chain(helpers).map(|(n, ns)| n * ns).sum(),
        }
    }
}

fn repeated(lab: &mut Lab) -> Vec<Measured> {
    let Links { lxc, eth0, host, .. } = lab.links;
    let world = world(lab);
    let at_hook = |hook, ifindex, data: Vec<u8>| Input { hook, ifindex, mark: 0, wire: None, data };
    let from_a = |data| at_hook(Hook::FromContainer, lxc[A.link], data);
    let mut out = Vec::new();
    for family in [Family::V4, Family::V6] {
        let (a, b, outside) = (A.ip(family), B.ip(family), at::outside(family));
        let mut add = |name: &str, nanoseconds, touches| {
            let (name, base) = (name.to_owned(), Base::Empty);
            let sort = Sort::Established;
            out.push(Measured { name, sort, family, nanoseconds, base, touches, helpers: [0.0; 2] });
        };
        let forward = |flags| tcp(a, b, (4000, 80), flags).from(A).ttl(255).bytes();
        let back = |flags| tcp(b, a, (80, 4000), flags).from(B).bytes();
        let open = [
            from_a(forward(SYN)),
            at_hook(Hook::FromContainer, lxc[B.link], back(SYN | ACK)),
            from_a(forward(ACK)),
        ];
        // Two configurations and an endpoint; the verdicts are remembered.
        add(
            "established, pod to pod",
            established(lab, &world, &open, &from_a(forward(ACK))),
            [3.0, 1.0, 0.0, 0.0, 4.0],
        );
        let inward =
            |flags| at_hook(Hook::FromHost, host, tcp(outside, b, (4000, 80), flags).from(A).bytes());
        let host_to_pod = established(lab, &world, &[inward(SYN), inward(ACK)], &inward(ACK));
        // A configuration, the endpoint, the sender's place here and its exact address; the identity and the
        // verdict are remembered.
        add("established, host to pod", host_to_pod, [4.0, 1.0, 0.0, 0.0, 3.0]);
        let leaving = || at_hook(Hook::ToNetdev, eth0, udp(at::node(family), outside, (4000, 53)).bytes());
        add(
            "the node's own, out of a device",
            established(lab, &world, &[leaving()], &leaving()),
            [2.0, 2.0, 0.0, 0.0, 2.0],
        );
    }
    out
}

/// Packets that open something or are refused.
fn singular(lab: &mut Lab) -> Vec<Measured> {
    let lxc = lab.links.lxc;
    let world = world(lab);
    let mut out = Vec::new();
    for family in [Family::V4, Family::V6] {
        let (a, b, service) = (A.ip(family), B.ip(family), at::service(family));
        let packets = |dst, port| {
            (10_000..10_700).map(move |source| {
                let data = tcp(a, dst, (source, port), SYN).from(A).bytes();
                Input { hook: Hook::FromContainer, ifindex: lxc[A.link], mark: 0, wire: None, data }
            })
        };
        let mut add = |name: &str, nanoseconds, sort, touches| {
            let (name, base) = (name.to_owned(), Base::Once);
            out.push(Measured { name, sort, family, nanoseconds, base, touches, helpers: [0.0; 2] });
        };
        add("new, pod to pod", once(lab, &world, 7, packets(b, 80)), Sort::New, [8.0, 1.0, 1.0, 0.0, 4.0]);
        add(
            "new, by a service",
            once(lab, &world, 7, packets(service, 80)),
            Sort::NewService,
            [11.0, 3.0, 2.0, 0.0, 4.0],
        );
        let refused = packets(b, 81).next().expect("there is one");
        let run = |lab: &Lab, each| {
            let ran = lab.run_unheard(&refused, each, 0).expect("the packet runs");
            assert_eq!(ran.verdict, 2, "policy refuses it");
            ran.nanoseconds
        };
        let mut denied = |name: &str, sort, nanoseconds: f64, events| {
            let (name, touches) = (format!("denied, {name}"), [5.0, 1.0, 0.0, events, 3.0]);
            let base = Base::Empty;
            out.push(Measured { name, sort, family, nanoseconds, base, touches, helpers: [0.0; 2] });
        };
        let told = |lab: &mut Lab, each| {
            lab.forget();
            std::thread::sleep(A_WINDOW);
            run(lab, each)
        };
        denied("told by an event", Sort::Refused, least(|each| told(lab, each), TOLD), 1.0);
        // Whatever the window has left is used up first.
        run(lab, REFUSALS);
        denied("in a flood", Sort::Denied, least(|each| run(lab, each), 1000), 0.0);
    }
    out
}

/// The least that was measured of everything. What else runs on a machine only ever adds to a time: the more rounds,
/// the less of it is left.
#[derive(Clone, Debug)]
pub struct Least {
    /// The floors.
    pub floors: Floors,
    packets: Vec<Measured>,
}

impl Least {
    /// Measures all, on a thread of its own, which ends up in the lab's namespace.
    ///
    /// # Panics
    /// A packet does not get its verdict.
    pub fn of_a_round() -> Self {
        match std::thread::spawn(round).join() {
            Ok(least) => least,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// The least of both.
    #[must_use]
    pub fn or_less(&self, other: &Self) -> Self {
        assert_eq!(self.packets.len(), other.packets.len(), "every round measures the same packets");
        let packets = self.packets.iter().zip(&other.packets).map(|(mine, others)| mine.or_less(others));
        Self { floors: self.floors.or_less(&other.floors), packets: packets.collect() }
    }

    /// Each packet beside its floors.
    pub fn costs(&self) -> Vec<Cost> {
        self.packets.iter().map(|measured| measured.cost(&self.floors)).collect()
    }
}

/// Measures all once.
pub fn measure() -> (Floors, Vec<Cost>) {
    let least = Least::of_a_round();
    (least.floors, least.costs())
}

fn round() -> Least {
    let mut lab = Lab::with(Mode::Native, NodeConstants { refusals: REFUSALS, ..constants(Mode::Native) });
    lab.enter();
    let empty_code = [insn(0xb7, 0, 0, 0, 0), insn(0x95, 0, 0, 0, 0)];
    let empty = floor(&empty_code);
    let [hash, lru, array] = [HASH, LRU_HASH, PERCPU_ARRAY].map(|kind| lookups(kind) - empty);
    let program = sys::load(&empty_code).expect("the verifier takes a floor");
    let context = [0u32; SKB_WORDS];
    let mut single: Vec<u32> = (0..1500)
        .map(|_| sys::test_run(program.as_fd(), &PACKET, &context, 1, 0).expect("a floor runs").nanoseconds)
        .collect();
    single.sort_unstable();
    let empty_once = f64::from(single[single.len() / 2]);
    let both = [Family::V4, Family::V6];
    let route = both.map(|family| north_south::route(family, lab.links.eth0) - empty);
    let rewrite = both.map(|family| north_south::rewrite(family) - empty);
    let floors = Floors { empty, empty_once, hash, lru, array, route, rewrite };
    let mut packets = repeated(&mut lab);
    packets.extend(singular(&mut lab));
    packets.extend(north_south::measure());
    Least { floors, packets }
}
