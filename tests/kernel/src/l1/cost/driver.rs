//! Load balancing in a driver: nanoseconds of the production program for packets of clients outside whose backend is
//! elsewhere, and of the least load balancers.

use super::super::frontends::FAR_PORT;
use super::super::lab::{Hook, Input, Lab};
use super::super::packet::{ACK, SYN, tcp};
use super::super::relay::{Kind, Relay};
use super::super::sys::{self, insn};
use super::super::world::{BACKEND_PORT, ETH0_MAC, Family, GATEWAY_MAC, Mode, at};
use super::minimal::Minimal;
use super::north_south;
use std::os::fd::{AsFd, BorrowedFd};

/// Runs of a packet in a measurement.
const EACH: u32 = 500;
/// Measurements of each.
const TURNS: usize = 60;
/// Connections opened.
const CONNECTIONS: u16 = 700;
/// The production program.
const PROGRAM: &str = "cil_xdp_entry";
/// Verdict.
const XDP_TX: i32 = 3;

/// Nanoseconds, beyond an empty program's.
#[derive(Clone, Debug)]
pub struct Driver {
    /// Of the least load balancer, which has no state, IPv4.
    pub stateless: f64,
    /// Of the least that does with a known connection what ours does, IPv4 and IPv6.
    pub lending: [f64; 2],
    /// Of ours.
    pub ours: Vec<Ours>,
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Of a known connection, to the backend: what the least that does the same does.
    There,
    /// Of a known connection, back to the client.
    Back,
    /// Opens one.
    New,
}

impl Frame {
    const fn name(self) -> &'static str {
        match self {
            Self::There => "known, to the backend",
            Self::Back => "known, back to the client",
            Self::New => "new, to the backend",
        }
    }
}

/// One packet through ours.
#[derive(Clone, Debug)]
pub struct Ours {
    /// Which.
    pub name: String,
    /// Nanoseconds, beyond an empty program's.
    pub net: f64,
    /// Nanoseconds of the least that does the same with a known connection of its family, measured in turns with it.
    pub lending: f64,
    /// What it is.
    pub frame: Frame,
}

/// Measures all, so many times. The calling thread ends up in the lab's namespace.
pub fn measure(rounds: usize) -> Vec<Driver> {
    let mut lab = Lab::new(Mode::Accelerated);
    let world = north_south::world(&lab);
    lab.enter();
    lab.install(&world);
    let empty =
        sys::load_xdp(&[insn(0xb7, 0, 0, 0, XDP_TX), insn(0x95, 0, 0, 0, 0)]).expect("two instructions");
    (0..rounds).map(|_| round(&mut lab, empty.as_fd())).collect()
}

fn round(lab: &mut Lab, empty: BorrowedFd<'_>) -> Driver {
    let eth0 = lab.links.eth0;
    let input = |data| Input { hook: Hook::FromNetdev, ifindex: eth0, mark: 0, wire: None, data };
    let mut ours = Vec::new();
    let (mut stateless, mut lending) = (f64::NAN, [f64::NAN; 2]);
    for (place, family) in [Family::V4, Family::V6].into_iter().enumerate() {
        let (client, node, backend) = (at::outside(family), at::node(family), at::remote_pod(family));
        let asks = |source, flags| input(tcp(client, node, (source, FAR_PORT), flags).bytes());
        // The port lent is the client's own, which is free.
        let answers = |flags| input(tcp(backend, node, (BACKEND_PORT, 4000), flags).bytes());
        lab.forget();
        for packet in [asks(4000, SYN), answers(SYN | ACK), asks(4000, ACK)] {
            let seen = lab.run(&packet).expect("the packet runs");
            assert!(seen.by_driver && seen.verdict == 7, "the driver has the last word: {:?}", seen.events);
        }
        let (there, back) = (asks(4000, ACK), answers(ACK));
        let balances = |balancer: &Minimal, wanted: Vec<u8>| {
            let ran = sys::test_run_xdp(balancer.program(), eth0, &there.data, 1).expect("the packet runs");
            assert_eq!(ran.verdict, XDP_TX, "it is balanced");
            assert_eq!(ran.data, wanted, "sums and all");
        };
        let moved = |from| tcp(from, backend, (4000, BACKEND_PORT), ACK).macs(GATEWAY_MAC, ETH0_MAC);
        let same = Minimal::lending(FAR_PORT, BACKEND_PORT, (&client, 4000), eth0);
        balances(&same, moved(node).ttl(63).bytes());
        let program = lab.program(PROGRAM);
        let mut runs = vec![
            repeated(empty, &there),
            repeated(same.program(), &there),
            repeated(program, &there),
            repeated(program, &back),
        ];
        if family == Family::V4 {
            let least = Minimal::stateless(FAR_PORT, BACKEND_PORT);
            balances(&least, moved(client).bytes());
            runs.push(repeated(least.program(), &there));
        }
        let times = in_turns(&runs);
        let net = |run: usize| times[run] - times[0];
        if family == Family::V4 {
            stateless = net(4);
        }
        lending[place] = net(1);
        let line = |frame: Frame, net| Ours {
            name: format!("{family:?} {}", frame.name()),
            net,
            lending: lending[place],
            frame,
        };
        ours.push(line(Frame::There, net(2)));
        ours.push(line(Frame::Back, net(3)));
        let once = |lab: &Lab, program: BorrowedFd<'_>| {
            let mut times: Vec<u32> = (10_000..10_000 + CONNECTIONS)
                .map(|source| {
                    let data = asks(source, SYN).data;
                    let ran = sys::test_run_xdp(program, lab.links.eth0, &data, 1).expect("the packet runs");
                    assert_eq!(ran.verdict, XDP_TX, "it is balanced");
                    ran.nanoseconds
                })
                .collect();
            times.sort_unstable();
            f64::from(times[times.len() / 2])
        };
        let opened = once(lab, lab.program(PROGRAM)) - once(lab, empty);
        ours.push(line(Frame::New, opened));
    }
    Driver { stateless, lending, ours }
}

/// A packet that is run over and over by one program.
struct Repeated<'a> {
    relay: Relay,
    packet: &'a Input,
}

fn repeated<'a>(program: BorrowedFd<'_>, packet: &'a Input) -> Repeated<'a> {
    Repeated { relay: Relay::rewinding(Kind::Driver, &packet.data, Some(program)), packet }
}

/// The least nanoseconds of each, measured in turns: what the machine does meanwhile befalls all alike.
fn in_turns(runs: &[Repeated<'_>]) -> Vec<f64> {
    let mut least = vec![f64::MAX; runs.len()];
    for _ in 0..TURNS {
        for (run, least) in runs.iter().zip(&mut least) {
            let Input { ifindex, data, .. } = run.packet;
            let ran = sys::test_run_xdp(run.relay.program(), *ifindex, data, EACH).expect("the packet runs");
            assert_eq!(ran.verdict, XDP_TX, "it is balanced, time and again");
            *least = least.min(f64::from(ran.nanoseconds));
        }
    }
    least
}
