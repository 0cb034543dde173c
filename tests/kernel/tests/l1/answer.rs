//! Frontends without backend: what their clients are told, at pods and at devices.

use super::case::{CLIENT, Case, PORT};
use cilium_abi::{
    Address, Mac, drop,
    lb::{FRONTEND_EXTERNAL, FRONTEND_REJECT},
    node::mark,
    proto,
};
use cilium_tests_kernel::l1::{
    compare::settle,
    lab::{Hook, Input},
    model::Parsed,
    packet::{ACK, Build, FIN, RST, SYN, sctp, udp},
    script::{Check, Fixture, Site},
    world::{A, ETH0_MAC, Family, GATEWAY_MAC, ip},
};
use std::time::Duration;

const NONE: u8 = drop::NO_SERVICE_BACKEND;
/// Where ICMP begins, and TCP.
const fn l4(family: Family) -> usize {
    if matches!(family, Family::V4) { 34 } else { 54 }
}

/// A client here or outside, of a frontend that is to tell that it has no backend.
fn telling(case: Case, text: &str) -> Fixture {
    case.row(case.serving(text, &[]), |row| row.flags |= FRONTEND_REJECT)
}

fn framed(site: Site, build: Build) -> Build {
    match site {
        Site::From(pod) => build.from(pod),
        _ => build.macs(ETH0_MAC, GATEWAY_MAC),
    }
}

/// What was asked from `client` at `site`, answered.
fn told(case: Case, site: Site, client: Address, text: &str) -> Vec<Fixture> {
    let (family, frontend) = (case.family, case.frontend);
    let request = |flags| framed(site, case.packet((client, CLIENT), (frontend, PORT), flags));
    let macs = match site {
        Site::From(pod) => Check::Macs(pod.mac(), pod.node_mac()),
        _ => Check::Macs(GATEWAY_MAC, ETH0_MAC),
    };
    let at = l4(family);
    let back = |fixture: Fixture| {
        fixture
            .check(macs.clone())
            .check(Check::Ttl(64))
            .check(Check::Mark(mark::SNAT_DONE))
            .check(Check::Known(case.ends((client, CLIENT), (frontend, PORT)), false))
    };
    let name = |what: &str| format!("{text}, {what}");
    if !case.is_tcp {
        let kinds = if family == Family::V4 { (3, 3) } else { (1, 4) };
        let unreachable = |what: &str, build: Build, bytes: usize| {
            back(telling(case, &name(what)).refuses(site, build, NONE))
                .check(Check::Source(frontend, 0))
                .check(Check::Destination(client, 0))
                .check(Check::Inside(case.ends((client, CLIENT), (frontend, PORT))))
                .check(Check::Byte(at, kinds.0))
                .check(Check::Byte(at + 1, kinds.1))
                .check(Check::Length(at + 8 + bytes))
        };
        let header = if family == Family::V4 { 20 } else { 40 };
        let plain = request(0);
        let size = plain.bytes().len() - 14;
        let mut table = vec![
            unreachable("port unreachable", plain.clone(), size / 4 * 4),
            unreachable("an odd length", plain.clone().longer(3), size.div_ceil(4) * 4),
            unreachable("all of it is quoted", plain.clone().longer(448 - size), 448),
            unreachable("a long one is cut", plain.clone().longer(1200), 448),
        ];
        if family == Family::V4 {
            table.push(unreachable("without checksum", plain.clone().without_checksum(), size / 4 * 4));
            table.push(telling(case, &name("behind options")).drops(site, plain.extra(0, 1), NONE));
        } else {
            table.push(telling(case, &name("behind options")).drops(site, plain.extra(60, 1), NONE));
        }
        assert!(size > header);
        return table;
    }
    let reset = |what: &str, flags: u8, kind: u8, seq: [u8; 4], ack: [u8; 4], more: usize| {
        let mut fixture = back(telling(case, &name(what)).refuses(site, request(flags).longer(more), NONE))
            .check(Check::Source(frontend, PORT))
            .check(Check::Destination(client, CLIENT))
            .check(Check::Byte(at + 13, kind))
            .check(Check::Length(at + 20));
        for (place, byte) in seq.into_iter().chain(ack).enumerate() {
            fixture = fixture.check(Check::Byte(at + 4 + place, byte));
        }
        fixture
    };
    // What packets of these tests carry as numbers.
    let bytes = request(SYN).bytes();
    let number = |place: usize| u32::from_be_bytes(bytes[place..place + 4].try_into().expect("four bytes"));
    let (seq, ack) = (number(at + 4), number(at + 8));
    let payload = (bytes.len() - at - 20) as u32;
    let next = |count: u32| (seq + payload + count).to_be_bytes();
    vec![
        reset("a SYN is reset", SYN, RST | ACK, [0; 4], next(1), 0),
        reset("a SYN with data is reset", SYN, RST | ACK, [0; 4], next(1 + 100), 100),
        reset("an ACK is reset", ACK, RST, ack.to_be_bytes(), [0; 4], 0),
        reset("a FIN without ACK is reset", FIN, RST | ACK, [0; 4], next(1), 0),
        reset("data is reset", ACK, RST, ack.to_be_bytes(), [0; 4], 1000),
        telling(case, &name("a reset is not answered"))
            .drops(site, request(RST), NONE)
            .check(Check::Untouched),
        telling(case, &name("a reset with ACK is not answered")).drops(site, request(RST | ACK), NONE),
    ]
}

fn silent(case: Case) -> Vec<Fixture> {
    let family = case.family;
    let request = || case.request(SYN);
    let from = |text: &str, client: &str| {
        telling(case, text).drops(
            Site::FromNet,
            case.packet((ip(client), CLIENT), (case.frontend, PORT), SYN),
            NONE,
        )
    };
    let mut table = vec![
        case.serving("not to be told", &[]).drops(Site::FromNet, request(), NONE).check(Check::Untouched),
        case.row(telling(case, "a list that lost its slots is not told of"), |row| row.count = 1)
            .drops(Site::FromNet, request(), NONE)
            .check(Check::Untouched),
        telling(case, "a frame to a group")
            .drops(Site::FromNet, request().macs(Mac([1, 0, 0x5e, 0, 0, 1]), GATEWAY_MAC), NONE)
            .check(Check::Untouched),
        case.row(telling(case, "a ClusterIP from outside is dropped"), |row| row.flags &= !FRONTEND_EXTERNAL)
            .drops(Site::FromNet, request(), drop::IS_CLUSTER_IP),
    ];
    match family {
        Family::V4 => table.extend([
            from("from a group", "239.1.2.3"),
            from("from loopback", "127.0.0.9"),
            from("from broadcast", "255.255.255.255"),
            from("from nobody", "0.0.0.0"),
        ]),
        Family::V6 => table.extend([from("from a group", "ff02::1"), from("from nobody", "::")]),
    }
    if !case.is_tcp {
        table.push(
            case.row(
                telling(case, "SCTP").world(move |world| {
                    let place = case.place(0);
                    let row = world.frontends[&place];
                    let place = cilium_abi::lb::FrontendKey { proto: proto::SCTP, ..place };
                    world.frontends.insert(place, row);
                }),
                |_| {},
            )
            .refuses(
                Site::FromNet,
                sctp(case.client, case.frontend, (CLIENT, PORT)).macs(ETH0_MAC, GATEWAY_MAC),
                NONE,
            )
            .check(Check::Source(case.frontend, 0)),
        );
        // The device's hook lets the answer out as it is.
        table.push(
            telling(case, "an answer leaves as it is")
                .refuses(Site::FromNet, request().macs(ETH0_MAC, GATEWAY_MAC), NONE)
                .passes(Site::ToNet, move |_: &[Parsed]| udp(case.frontend, case.client, (PORT, CLIENT)))
                .marked(mark::SNAT_DONE)
                .check(Check::Untouched),
        );
    }
    table
}

#[test]
fn l1_clients_without_backend_are_told() {
    let inside = |case: Case| told(case, Site::From(A), A.ip(case.family), "pod");
    let outside = |case: Case| told(case, Site::FromNet, case.client, "outside");
    super::run(
        Case::all()
            .flat_map(|case| [inside(case), outside(case), silent(case)].into_iter().flatten())
            .collect(),
    );
}

/// Every second and CPU has so many answers; the rest are dropped without one.
#[test]
fn l1_answers_are_bounded() {
    const MOST: usize = 1000;
    let case = Case::all().next().expect("there is one");
    let frame = case.request(SYN).macs(ETH0_MAC, GATEWAY_MAC).bytes();
    let bounded = telling(case, "bounded").prepare(move |trial| {
        stay_on_a_cpu();
        let data = frame.clone();
        let input =
            Input { hook: Hook::FromNetdev, ifindex: trial.lab.links.eth0, mark: 0, wire: None, data };
        settle(Duration::from_millis(600));
        let answered =
            (0..MOST + 200).filter(|_| trial.lab.run_bare(&input).expect("it runs").verdict == 7).count();
        assert_eq!(answered, MOST, "answers within a second");
        trial.lab.forget();
        *trial.model.drops.entry((NONE, 1)).or_default() += MOST as u64 + 200;
    });
    super::run(vec![bounded]);
}

fn stay_on_a_cpu() {
    // SAFETY: plain system calls about the calling thread, with a set of the size they are told.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(usize::try_from(libc::sched_getcpu()).unwrap_or(0), &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &raw const set), 0);
    }
}
