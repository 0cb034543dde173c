//! Budgets of the programs: verified instructions, time to verify, map memory, nanoseconds per packet.

use cilium_abi::{maps, node::NodeConstants};
use cilium_tests_kernel::l1::{
    lab::{self, Hook, Input, Lab},
    packet::{ACK, SYN, tcp, udp},
    sys::{self, SKB_WORDS, insn},
    world::{A, B, C, Family, Links, Mode, OUTSIDE_ID, Rule, World, at, constants},
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
/// Nanoseconds of an established packet beyond an empty program's.
const ESTABLISHED: f64 = 150.0;

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
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd())).expect("proc is mounted");
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
    assert_eq!(maps::ALL.iter().filter(|spec| spec.flags & maps::NO_PREALLOC == 0).count(), 6, "preallocated maps");
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

fn paths(lab: &mut Lab) -> Vec<(&'static str, f64)> {
    let Links { lxc, eth0, .. } = lab.links;
    let mut world = World::base(&lab.links, lab.mode);
    world.close(A, true).rule(Rule::any(A, true).peer(B.identity).port(6, 80));
    world.rule(Rule::any(A, true).peer(OUTSIDE_ID));
    world.close(B, false).rule(Rule::any(B, false).peer(A.identity).port(6, 80));
    world.rule(Rule::any(B, false).peer(OUTSIDE_ID).port(6, 80));
    // What is delivered to a pod keeps the frame's addresses as they were sent, so that it can be sent again.
    for row in world.endpoints.values_mut().filter(|row| row.endpoint_id == B.id) {
        (row.mac, row.node_mac) = (A.node_mac(), A.mac());
    }
    let at_hook = |hook, ifindex, data: Vec<u8>| Input { hook, ifindex, mark: 0, wire: None, data };
    let from_a = |data| at_hook(Hook::FromContainer, lxc[A.link], data);
    let mut out = Vec::new();
    for (name, family) in [("v4", Family::V4), ("v6", Family::V6)] {
        let (a, b, outside) = (A.ip(family), B.ip(family), at::outside(family));
        let forward = |flags| tcp(a, b, (4000, 80), flags).from(A).ttl(255).bytes();
        let back = |flags| tcp(b, a, (80, 4000), flags).from(B).bytes();
        let open = [
            from_a(forward(SYN)),
            at_hook(Hook::FromContainer, lxc[B.link], back(SYN | ACK)),
            from_a(forward(ACK)),
        ];
        let pod_to_pod = established(lab, &world, &open, &from_a(forward(ACK)));
        let inward = |flags| at_hook(Hook::ToContainer, lxc[B.link], tcp(outside, b, (4000, 80), flags).bytes());
        let host_to_pod = established(lab, &world, &[inward(SYN), inward(ACK)], &inward(ACK));
        let leaving = || at_hook(Hook::ToNetdev, eth0, udp(C.ip(family), outside, (4000, 53)).bytes());
        // Once masqueraded its source is the node's: what repeats is the node's own packet.
        let masqueraded = established(lab, &world, &[leaving()], &leaving());
        let (pod, host, device) = match family {
            Family::V4 => ("v4 pod to pod, both policies", "v4 host side to pod", "v4 device out"),
            Family::V6 => ("v6 pod to pod, both policies", "v6 host side to pod", "v6 device out"),
        };
        assert!(pod.starts_with(name));
        out.extend([(pod, pod_to_pod), (host, host_to_pod), (device, masqueraded)]);
    }
    out
}

#[test]
fn l1_established_packets_stay_within_time() {
    let mut lab = Lab::new(Mode::Native);
    let empty = floor(&[insn(0xb7, 0, 0, 0, 0), insn(0x95, 0, 0, 0, 0)]);
    let hash = lookups(HASH) - empty;
    let lru = lookups(LRU_HASH) - empty;
    println!("floors: empty {empty:.0} ns, hash lookup {hash:.0} ns, LRU lookup {lru:.0} ns");
    let slow_machine = std::env::var_os("CILIUM_TEST_VM").is_some();
    let mut over = Vec::new();
    for (name, nanoseconds) in paths(&mut lab) {
        let net = nanoseconds - empty;
        println!("{name:30} {net:5.0} ns net");
        if net > ESTABLISHED && !slow_machine {
            over.push(format!("{name}: {net:.0} ns"));
        }
    }
    assert!(over.is_empty(), "more than {ESTABLISHED} ns beyond an empty program: {over:?}");
}
