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
    /// Of the least that does with a known connection what ours does, IPv4.
    pub lending: f64,
    /// Of ours, by packet.
    pub ours: Vec<(String, f64)>,
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
    let net = |program: BorrowedFd<'_>, packet: &Input| repeated(program, packet) - repeated(empty, packet);
    let ours_net = |lab: &Lab, packet: &Input| net(lab.program(PROGRAM), packet);
    let eth0 = lab.links.eth0;
    let input = |data| Input { hook: Hook::FromNetdev, ifindex: eth0, mark: 0, wire: None, data };
    let mut ours = Vec::new();
    let mut least = [f64::NAN; 2];
    for family in [Family::V4, Family::V6] {
        let (client, node, backend) = (at::outside(family), at::node(family), at::remote_pod(family));
        let asks = |source, flags| input(tcp(client, node, (source, FAR_PORT), flags).bytes());
        // The port lent is the client's own, which is free.
        let answers = |flags| input(tcp(backend, node, (BACKEND_PORT, 4000), flags).bytes());
        lab.forget();
        for packet in [asks(4000, SYN), answers(SYN | ACK), asks(4000, ACK)] {
            let seen = lab.run(&packet).expect("the packet runs");
            assert!(seen.by_driver && seen.verdict == 7, "the driver has the last word: {:?}", seen.events);
        }
        if family == Family::V4 {
            let packet = asks(4000, ACK);
            let balancers = [
                Minimal::stateless(FAR_PORT, BACKEND_PORT),
                Minimal::lending(FAR_PORT, BACKEND_PORT, (&client, 4000), eth0),
            ];
            let moved = |from| tcp(from, backend, (4000, BACKEND_PORT), ACK).macs(GATEWAY_MAC, ETH0_MAC);
            let wanted = [moved(client).bytes(), moved(node).ttl(63).bytes()];
            for ((balancer, wanted), least) in balancers.iter().zip(wanted).zip(&mut least) {
                let ran = sys::test_run_xdp(balancer.program(), eth0, &packet.data, 1);
                let ran = ran.expect("the packet runs");
                assert_eq!(ran.verdict, XDP_TX, "it is balanced");
                assert_eq!(ran.data, wanted, "sums and all");
                *least = net(balancer.program(), &packet);
            }
        }
        ours.push((format!("{family:?} known, to the backend"), ours_net(lab, &asks(4000, ACK))));
        ours.push((format!("{family:?} known, back to the client"), ours_net(lab, &answers(ACK))));
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
        ours.push((format!("{family:?} new, to the backend"), opened));
    }
    let [stateless, lending] = least;
    Driver { stateless, lending, ours }
}

/// One packet over and over.
fn repeated(program: BorrowedFd<'_>, packet: &Input) -> f64 {
    let relay = Relay::rewinding(Kind::Driver, &packet.data, Some(program));
    let run = |each| {
        let ran =
            sys::test_run_xdp(relay.program(), packet.ifindex, &packet.data, each).expect("the packet runs");
        assert_eq!(ran.verdict, XDP_TX, "it is balanced, time and again");
        ran.nanoseconds
    };
    super::least(run, EACH)
}
