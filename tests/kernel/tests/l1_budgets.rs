//! Budgets of the programs: verified instructions, time to verify, map memory, nanoseconds per packet.

use cilium_abi::{
    endpoint::{CONFIG_EGRESS_NO_ANY, CONFIG_INGRESS_NO_ANY},
    maps,
    node::NodeConstants,
};
use cilium_tests_kernel::l1::{
    lab::{self, Hook, Input, Lab},
    packet::{ACK, SYN, tcp, udp},
    sys::{self, SKB_WORDS, insn},
    world::{A, B, Family, Links, Mode, OUTSIDE_ID, Rule, World, at, constants},
};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Instant;

/// `BPF_MAP_TYPE_HASH` and `BPF_MAP_TYPE_LRU_HASH`.
const HASH: u32 = 1;
const LRU_HASH: u32 = 9;

/// Instructions the verifier may look at per program.
const VERIFIED: u32 = 150_000;
/// Map memory with test sizes, and with the default ones.
const TEST_MEMORY: u64 = 16 << 20;
const DEFAULT_MEMORY: u64 = 256 << 20;
/// Nanoseconds beyond an empty program's, by what the packet is.
const ESTABLISHED: f64 = 150.0;
const NEW: f64 = 1500.0;
const NEW_SERVICE: f64 = 1800.0;
const DENIED: f64 = 200.0;
/// Nanoseconds of an insert into an LRU map, as measured for the design.
const LRU_INSERT: f64 = 400.0;
/// Nanoseconds of an event: the exact clock, and a place in the ring.
const EVENT: f64 = 60.0;
/// How many times the floors of the maps it touches a packet may take.
const RATIO: f64 = 1.5;

#[test]
fn l1_programs_stay_within_the_verifiers_budget() {
    let started = Instant::now();
    let bpf = lab::load(&constants(Mode::Tunnel), Some(lab::ROWS));
    println!("loaded in {:.0} ms", started.elapsed().as_secs_f64() * 1e3);
    let mut over = Vec::new();
    let mut names = 0;
    for (name, program) in bpf.programs() {
        let info = program.info().expect("the kernel tells about a program");
        let verified = info.verified_instruction_count().expect("since Linux 5.16");
        println!("{name:20} {verified:7} instructions verified, {:6} bytes jited", info.size_jitted());
        names += 1;
        if verified > VERIFIED {
            over.push(name.to_owned());
        }
    }
    assert_eq!(names, Hook::ALL.len() + 1, "every program was looked at");
    assert!(over.is_empty(), "{over:?} need more than {VERIFIED} instructions to verify");
}

/// Bytes the kernel charges for a map.
fn memory(map: BorrowedFd<'_>) -> u64 {
    let text =
        std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd())).expect("proc is mounted");
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:")).expect("maps tell their memory");
    line.trim().parse().expect("a number")
}

/// Memory of all maps with rows up to `most`; hash maps without preallocation as if they were full
/// would not count, since they take memory as they fill.
fn total(node: &NodeConstants, most: Option<u32>) -> u64 {
    let bpf = lab::load(node, most);
    let mut sum = 0;
    for (name, map) in bpf.maps() {
        let fd = lab::descriptor(map);
        let bytes = memory(fd);
        println!("{name:24} {:9.1} KiB", bytes as f64 / 1024.0);
        sum += bytes;
    }
    println!("{:24} {:9.1} MiB", "all", sum as f64 / 1048576.0);
    sum
}

#[test]
fn l1_maps_stay_within_memory() {
    let small = total(&constants(Mode::Tunnel), Some(lab::ROWS));
    assert!(small <= TEST_MEMORY, "{small} bytes with test sizes");
    let full = total(&constants(Mode::Tunnel), None);
    assert!(full <= DEFAULT_MEMORY, "{full} bytes with the default sizes");
    assert_eq!(
        maps::ALL.iter().filter(|spec| spec.flags & maps::NO_PREALLOC == 0).count(),
        6,
        "preallocated maps"
    );
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
        100_000,
    )
}

/// A program that looks one key of 40 bytes up.
fn lookups(kind: u32) -> f64 {
    let map = sys::create(kind, 40, 36, 8192).expect("a map can be made");
    sys::update(map.as_fd(), &[0u8; 40], &[0u8; 36]).expect("a row can be written");
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

/// What was measured, in nanoseconds with an empty program's, and what it may take: so much, or half as
/// much again as the floors of the maps it touches.
struct Measured {
    name: String,
    nanoseconds: f64,
    limit: f64,
    /// Hash lookups, LRU lookups, LRU inserts, events.
    touches: [f64; 4],
}

fn repeated(lab: &mut Lab) -> Vec<Measured> {
    let Links { lxc, eth0, .. } = lab.links;
    let world = world(lab);
    let at_hook = |hook, ifindex, data: Vec<u8>| Input { hook, ifindex, mark: 0, wire: None, data };
    let from_a = |data| at_hook(Hook::FromContainer, lxc[A.link], data);
    let mut out = Vec::new();
    for family in [Family::V4, Family::V6] {
        let (a, b, outside) = (A.ip(family), B.ip(family), at::outside(family));
        let mut add = |name: &str, nanoseconds, touches| {
            out.push(Measured {
                name: format!("{family:?} {name}"),
                nanoseconds,
                limit: ESTABLISHED,
                touches,
            });
        };
        let forward = |flags| tcp(a, b, (4000, 80), flags).from(A).ttl(255).bytes();
        let back = |flags| tcp(b, a, (80, 4000), flags).from(B).bytes();
        let open = [
            from_a(forward(SYN)),
            at_hook(Hook::FromContainer, lxc[B.link], back(SYN | ACK)),
            from_a(forward(ACK)),
        ];
        // Two configurations, an endpoint, two policies of two rows.
        add(
            "established, pod to pod",
            established(lab, &world, &open, &from_a(forward(ACK))),
            [7.0, 1.0, 0.0, 0.0],
        );
        let inward =
            |flags| at_hook(Hook::ToContainer, lxc[B.link], tcp(outside, b, (4000, 80), flags).bytes());
        let host_to_pod = established(lab, &world, &[inward(SYN), inward(ACK)], &inward(ACK));
        // A configuration, an endpoint, an exact address, a policy of two rows; the identity is remembered.
        add("established, host side to pod", host_to_pod, [5.0, 1.0, 0.0, 0.0]);
        let leaving = || at_hook(Hook::ToNetdev, eth0, udp(at::node(family), outside, (4000, 53)).bytes());
        add(
            "the node's own, out of a device",
            established(lab, &world, &[leaving()], &leaving()),
            [2.0, 2.0, 0.0, 0.0],
        );
    }
    out
}

/// Packets that open something or are refused. `once_more` is what a single run costs beyond one of many.
fn singular(lab: &mut Lab, once_more: f64) -> Vec<Measured> {
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
        let mut add = |name: &str, nanoseconds, limit, touches| {
            out.push(Measured { name: format!("{family:?} {name}"), nanoseconds, limit, touches });
        };
        add("new, pod to pod", once(lab, &world, 7, packets(b, 80)), NEW, [8.0, 1.0, 1.0, 0.0]);
        add(
            "new, by a service",
            once(lab, &world, 7, packets(service, 80)),
            NEW_SERVICE,
            [11.0, 3.0, 2.0, 0.0],
        );
        let refused = packets(b, 81).next().expect("there is one");
        let denied = least(
            |each| {
                lab.forget();
                let ran = lab.run_unheard(&refused, each, 0).expect("the packet runs");
                assert_eq!(ran.verdict, 2, "policy refuses it");
                ran.nanoseconds
            },
            300,
        );
        out.push(Measured {
            name: format!("{family:?} denied, two events"),
            nanoseconds: denied + once_more,
            limit: DENIED,
            touches: [5.0, 1.0, 0.0, 2.0],
        });
    }
    out
}

#[test]
fn l1_packets_stay_within_time() {
    let mut lab = Lab::new(Mode::Native);
    lab.enter();
    let empty_code = [insn(0xb7, 0, 0, 0, 0), insn(0x95, 0, 0, 0, 0)];
    let empty = floor(&empty_code);
    let (hash, lru) = (lookups(HASH) - empty, lookups(LRU_HASH) - empty);
    let program = sys::load(&empty_code).expect("the verifier takes a floor");
    let context = [0u32; SKB_WORDS];
    let mut single: Vec<u32> = (0..1500)
        .map(|_| sys::test_run(program.as_fd(), &PACKET, &context, 1, 0).expect("a floor runs").nanoseconds)
        .collect();
    single.sort_unstable();
    let empty_once = f64::from(single[single.len() / 2]);
    println!(
        "floors: empty {empty:.0} ns ({empty_once:.0} run once), hash lookup {hash:.0} ns, LRU lookup {lru:.0} ns"
    );
    let mut over = Vec::new();
    let all = repeated(&mut lab)
        .into_iter()
        .map(|measured| (measured, empty))
        .chain(singular(&mut lab, empty_once - empty).into_iter().map(|measured| (measured, empty_once)));
    for (measured, base) in all.collect::<Vec<_>>() {
        let net = measured.nanoseconds - base;
        let floors: f64 =
            measured.touches.iter().zip([hash, lru, LRU_INSERT, EVENT]).map(|(n, ns)| n * ns).sum();
        println!("{:34} {net:5.0} ns net, floors {floors:4.0}, ratio {:.2}", measured.name, net / floors);
        // Under emulation a hash lookup alone takes microseconds; the floors still tell.
        if net > measured.limit.max(floors * RATIO) {
            over.push(format!("{}: {net:.0} ns", measured.name));
        }
    }
    assert!(over.is_empty(), "slower than its limit and its floors: {over:?}");
}
