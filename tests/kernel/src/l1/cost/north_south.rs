//! Packets of clients outside. They come out translated: one that is run over and over is made what it
//! was before every run, by a program of its own, whose time is taken off.

use super::super::frontends::{FAR_PORT, NODE_PORT};
use super::super::lab::{Hook, Input, Lab};
use super::super::packet::{ACK, SYN, tcp};
use super::super::relay::{Kind, Relay};
use super::super::sys::{self, SKB_IFINDEX, SKB_INGRESS, SKB_WORDS, insn};
use super::super::world::{B, BACKEND_PORT, Family, Mode, OUTSIDE_ID, Rule, World, at};
use super::{Base, Measured, PACKET, Sort, floor, least, once};
use cilium_abi::lb::SlotKey;
use std::os::fd::AsFd;

/// Packets of a kind that are measured.
const PACKETS: u16 = 700;

/// As [`super::world`]; the frontend of backends elsewhere has one.
pub(super) fn world(lab: &Lab) -> World {
    let mut world = super::world(lab);
    world.rule(Rule::any(B, false).peer(OUTSIDE_ID).port(6, BACKEND_PORT));
    // One backend elsewhere.
    for row in world.frontends.iter_mut().filter(|(key, _)| key.port.host() == FAR_PORT).map(|(_, row)| row) {
        let number = world.slots.get(&SlotKey { list: row.list, slot: 0 }).expect("it has backends");
        let backend = world.backends.get_mut(number).expect("it is there");
        let family = if backend.addr.is_v4() { Family::V4 } else { Family::V6 };
        backend.addr = at::remote_pod(family);
        row.count = 1;
    }
    world
}

/// Measures all, on a node that serves frontends. The calling thread ends up in its namespace.
pub(super) fn measure() -> Vec<Measured> {
    let mut lab = Lab::new(Mode::Balancer);
    let world = world(&lab);
    let eth0 = lab.links.eth0;
    let mut out = Vec::new();
    for family in [Family::V4, Family::V6] {
        let (client, node) = (at::outside(family), at::node(family));
        let input =
            |data: Vec<u8>| Input { hook: Hook::FromNetdev, ifindex: eth0, mark: 0, wire: None, data };
        let asks = |port, source, flags| input(tcp(client, node, (source, port), flags).bytes());
        let answers = |flags| {
            let data = tcp(at::remote_pod(family), node, (BACKEND_PORT, 4000), flags).bytes();
            input(data)
        };
        let opens = |port| (10_000..10_000 + PACKETS).map(move |source| asks(port, source, SYN));
        let again = |lab: &mut Lab, open: &[Input], packet: &Input| established(lab, &world, open, packet);
        let new = |lab: &mut Lab, port| (once(lab, &world, 7, opens(port)), Base::Once);
        let mut add = |name: &str, (nanoseconds, base), sort, touches, helpers| {
            let name = name.to_owned();
            out.push(Measured { name, sort, family, nanoseconds, base, touches, helpers });
        };
        // The frontend, who the ends are, the slot, the backend twice, the pod's configuration, the client's
        // place here, its exact address and its prefix, and policy.
        add(
            "new, from outside to a NodePort here",
            new(&mut lab, NODE_PORT),
            Sort::NewOutside,
            [12.0, 2.0, 2.0, 0.0, 4.0],
            [0.0, 1.0],
        );
        // As above without policy; the device, and whether a frontend has the port.
        add(
            "new, from outside to a NodePort elsewhere",
            new(&mut lab, FAR_PORT),
            Sort::NewElsewhere,
            [10.0, 3.0, 4.0, 0.0, 4.0],
            [1.0, 2.0],
        );
        add(
            "established, from outside to a NodePort here",
            again(&mut lab, &[asks(NODE_PORT, 4000, SYN)], &asks(NODE_PORT, 4000, ACK)),
            Sort::Outside,
            [9.0, 2.0, 0.0, 0.0, 4.0],
            [0.0, 1.0],
        );
        add(
            "established, from outside to a NodePort elsewhere",
            again(&mut lab, &[asks(FAR_PORT, 4000, SYN)], &asks(FAR_PORT, 4000, ACK)),
            Sort::Outside,
            [8.0, 3.0, 0.0, 0.0, 4.0],
            [1.0, 2.0],
        );
        add(
            "established, from elsewhere back to a client outside",
            again(&mut lab, &[asks(FAR_PORT, 4000, SYN), answers(SYN | ACK)], &answers(ACK)),
            Sort::Outside,
            [5.0, 2.0, 0.0, 0.0, 5.0],
            [1.0, 2.0],
        );
    }
    out
}

/// A program that looks the route to [`at::outside`] up.
pub(super) fn route(family: Family, ifindex: u32) -> f64 {
    /// `struct bpf_fib_lookup`.
    const SIZE: i32 = 64;
    /// Its interface, and its destination, in bytes from its start.
    const INTERFACE: i16 = 8;
    const DESTINATION: i16 = 32;
    let field = |at: i16| at - SIZE as i16;
    let (number, words) = match family {
        Family::V4 => (libc::AF_INET, vec![at::outside(family).v4_word()]),
        Family::V6 => (libc::AF_INET6, at::outside(family).words.to_vec()),
    };
    let mut code = vec![insn(0xb7, 0, 0, 0, 0)];
    code.extend((1..=8).map(|word| insn(0x7b, 10, 0, -8 * word, 0)));
    code.extend([
        insn(0x72, 10, 0, field(0), number),
        insn(0x62, 10, 0, field(INTERFACE), ifindex.cast_signed()),
    ]);
    for (place, word) in (0..).zip(words) {
        code.push(insn(0x62, 10, 0, field(DESTINATION + 4 * place), word.cast_signed()));
    }
    code.extend([
        insn(0xbf, 2, 10, 0, 0),
        insn(0x07, 2, 0, 0, -SIZE),
        insn(0xb7, 3, 0, 0, SIZE),
        insn(0xb7, 4, 0, 0, 0),
        // bpf_fib_lookup
        insn(0x85, 0, 0, 0, 69),
        insn(0x95, 0, 0, 0, 0),
    ]);
    let program = sys::load(&code).expect("the verifier takes a floor");
    let context = [0u32; SKB_WORDS];
    let ran = sys::test_run(program.as_fd(), &PACKET, &context, 1, 0).expect("a floor runs");
    assert_eq!(ran.verdict, 0, "there is a route, and a neighbour");
    floor(&code)
}

/// A program that corrects a checksum for an address and for a port, and writes the port.
pub(super) fn rewrite(family: Family) -> f64 {
    // bpf_l4_csum_replace of `from` to `to`, two or four bytes, or a difference (0).
    let correct = |flags: i32| {
        [
            insn(0xbf, 1, 6, 0, 0),
            insn(0xb7, 2, 0, 0, 50),
            insn(0xb7, 3, 0, 0, if flags & 0xf == 0 { 0 } else { 7 }),
            insn(0xb7, 4, 0, 0, 9),
            insn(0xb7, 5, 0, 0, flags),
            insn(0x85, 0, 0, 0, 11),
        ]
    };
    /// `BPF_F_PSEUDO_HDR`.
    const PSEUDO: i32 = 1 << 4;
    let mut code = vec![insn(0xbf, 6, 1, 0, 0), insn(0xb7, 0, 0, 0, 0)];
    code.extend((1..=4).map(|word| insn(0x7b, 10, 0, -8 * word, 0)));
    if family == Family::V6 {
        code.extend([
            insn(0xbf, 1, 10, 0, 0),
            insn(0x07, 1, 0, 0, -32),
            insn(0xb7, 2, 0, 0, 16),
            insn(0xbf, 3, 10, 0, 0),
            insn(0x07, 3, 0, 0, -16),
            insn(0xb7, 4, 0, 0, 16),
            insn(0xb7, 5, 0, 0, 0),
            // bpf_csum_diff
            insn(0x85, 0, 0, 0, 28),
        ]);
    }
    code.extend(correct(if family == Family::V6 { PSEUDO } else { PSEUDO | 4 }));
    code.extend(correct(2));
    code.extend([
        insn(0xbf, 1, 6, 0, 0),
        insn(0xb7, 2, 0, 0, 36),
        insn(0xbf, 3, 10, 0, 0),
        insn(0x07, 3, 0, 0, -2),
        insn(0xb7, 4, 0, 0, 2),
        insn(0xb7, 5, 0, 0, 0),
        // bpf_skb_store_bytes
        insn(0x85, 0, 0, 0, 9),
        insn(0xb7, 0, 0, 0, 0),
        insn(0x95, 0, 0, 0, 0),
    ]);
    floor(&code)
}

/// Runs a program on a packet of a device.
fn run(program: &Relay, input: &Input, each: u32) -> sys::Ran {
    let mut context = [0u32; SKB_WORDS];
    context[SKB_IFINDEX] = input.ifindex;
    context[SKB_INGRESS] = input.ifindex;
    sys::test_run(program.program(), &input.data, &context, each, 0).expect("the packet runs")
}

/// One established packet over and over: nanoseconds with the program around ours, and of that alone.
fn established(lab: &mut Lab, world: &World, open: &[Input], packet: &Input) -> (f64, Base) {
    const EACH: u32 = 500;
    lab.enter();
    lab.install(world);
    lab.forget();
    for input in open {
        let seen = lab.run(input).expect("the packet runs");
        assert_eq!(seen.verdict, 7, "the connection is opened: {:?}", seen.events);
    }
    let target = lab.program(Hook::FromNetdev.program());
    let [alone, whole] =
        [None, Some(target)].map(|target| Relay::rewinding(Kind::Classifier, &packet.data, target));
    assert_eq!(run(&whole, packet, 3).verdict, 7, "the packet is established, time and again");
    let alone = least(|each| run(&alone, packet, each).nanoseconds, EACH);
    (least(|each| run(&whole, packet, each).nanoseconds, EACH), Base::Own(alone))
}
