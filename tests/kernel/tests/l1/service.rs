//! Services: there, back, without backends, and when backends come and go.

use cilium_abi::{
    Address, Be16, drop,
    lb::{BACKEND_TERMINATING, SlotKey},
};
use cilium_tests_kernel::l1::{
    frontends::{
        AFFINITY_PORT, HOST_BACKEND_PORT, HOST_PORT, LISTED_PORT, LOCAL_PORT, MAGLEV_PORT, NODE_PORT,
        PROCESS_PORT, REFUSED_PORT,
    },
    model::Parsed,
    packet::{ACK, Build, FIN, RST, SYN, ping, tcp, udp, unreachable},
    script::{Check, Fixture, Site, fixture},
    world::{A, B, BACKEND_PORT, C, Family, Mode, Rule, SERVICE_PORT, World, at},
};

const CLIENT: u16 = 4000;

/// Leaves one backend in every list.
fn only(world: &mut World, addr: Address) {
    let keep: Vec<u32> =
        world.backends.iter().filter(|(_, row)| row.addr == addr).map(|(number, _)| *number).collect();
    let lists: Vec<u32> = world.frontends.values().filter(|row| row.count > 0).map(|row| row.list).collect();
    world.slots.retain(|key, _| !lists.contains(&key.list));
    for row in world.frontends.values_mut().filter(|row| row.count > 0) {
        let number = keep.iter().find(|number| **number / 1000 == 0 && **number / 100 == row.list / 10);
        if let Some(number) = number {
            world.slots.insert(SlotKey { list: row.list, slot: 0 }, *number);
            row.count = 1;
        }
    }
}

fn request(family: Family, is_tcp: bool, flags: u8) -> Build {
    let (src, dst) = (A.ip(family), at::service(family));
    let ports = (CLIENT, SERVICE_PORT);
    if is_tcp { tcp(src, dst, ports, flags) } else { udp(src, dst, ports) }.from(A)
}

/// The answer of whichever backend got the last packet.
fn answer(is_tcp: bool, flags: u8) -> impl Fn(&[Parsed]) -> Build {
    move |outputs| {
        let ends = outputs.last().expect("a packet went before").ends;
        let ports = (ends.dport, ends.sport);
        let build =
            if is_tcp { tcp(ends.dst, ends.src, ports, flags) } else { udp(ends.dst, ends.src, ports) };
        match [B, C].into_iter().find(|pod| pod.ip(Family::V4) == ends.dst || pod.ip(Family::V6) == ends.dst)
        {
            Some(pod) => build.from(pod),
            None => build,
        }
    }
}

fn translation() -> Vec<Fixture> {
    let mut table = Vec::new();
    for family in [Family::V4, Family::V6] {
        for is_tcp in [true, false] {
            let name = |text: &str| format!("{family:?} {} {text}", if is_tcp { "TCP" } else { "UDP" });
            let (service, own) = (at::service(family), A.ip(family));
            let with = move |text: &str, backend: Address| {
                fixture(name(text)).world(move |world| only(world, backend))
            };
            let synack = SYN | ACK;
            table.extend([
                with("to a backend here", B.ip(family))
                    .sends(Site::From(A), request(family, is_tcp, SYN))
                    .check(Check::Destination(B.ip(family), BACKEND_PORT))
                    .check(Check::Source(own, CLIENT))
                    .check(Check::Macs(B.mac(), B.node_mac()))
                    .check(Check::Entry(true)),
                with("and back from here", B.ip(family))
                    .sends(Site::From(A), request(family, is_tcp, SYN))
                    .sends(Site::From(B), answer(is_tcp, synack))
                    .check(Check::Source(service, SERVICE_PORT))
                    .check(Check::Destination(own, CLIENT)),
                with("to a backend there, native", at::remote_pod(family))
                    .sends(Site::From(A), request(family, is_tcp, SYN))
                    .check(Check::Destination(at::remote_pod(family), BACKEND_PORT)),
                with("and back by the device", at::remote_pod(family))
                    .sends(Site::From(A), request(family, is_tcp, SYN))
                    .sends(Site::FromNet, answer(is_tcp, synack))
                    .check(Check::Source(service, SERVICE_PORT))
                    .check(Check::Macs(A.mac(), A.node_mac())),
                with("and back by the host", at::remote_pod(family))
                    .sends(Site::From(A), request(family, is_tcp, SYN))
                    .sends(Site::FromHost, answer(is_tcp, synack))
                    .check(Check::Source(service, SERVICE_PORT)),
                with("and back by the overlay", at::remote_pod(family))
                    .mode(Mode::Tunnel)
                    .sends(Site::From(A), request(family, is_tcp, SYN))
                    .sends(Site::FromTunnel(2001), answer(is_tcp, synack))
                    .check(Check::Source(service, SERVICE_PORT)),
                fixture(name("some backend, and back"))
                    .world(|world| world.slots.retain(|key, _| key.slot < 2))
                    .world(|world| world.frontends.values_mut().for_each(|row| row.count = row.count.min(2)))
                    .sends(Site::From(A), request(family, is_tcp, SYN))
                    .check(Check::Source(own, CLIENT)),
                fixture(name("no backend")).drops(
                    Site::From(A),
                    {
                        let (dst, ports) = (at::empty_service(family), (CLIENT, SERVICE_PORT));
                        if is_tcp { tcp(own, dst, ports, SYN) } else { udp(own, dst, ports) }.from(A)
                    },
                    drop::NO_SERVICE_BACKEND,
                ),
                with("policy sees the backend", B.ip(family))
                    .world(|world| {
                        world.close(A, true).rule(Rule::any(A, true).peer(B.identity));
                    })
                    .sends(Site::From(A), request(family, is_tcp, SYN)),
                with("policy sees the backend's port", B.ip(family))
                    .world(|world| {
                        let both = [
                            Rule::any(A, true).port(6, SERVICE_PORT),
                            Rule::any(A, true).port(17, SERVICE_PORT),
                        ];
                        world.close(A, true).rule(both[0]).rule(both[1]);
                    })
                    .drops(Site::From(A), request(family, is_tcp, SYN), drop::POLICY_DENIED)
                    .check(Check::Entry(false)),
                with("another port of the service's address is no service", B.ip(family)).sends(
                    Site::From(A),
                    if is_tcp {
                        tcp(own, service, (CLIENT, 81), SYN)
                    } else {
                        udp(own, service, (CLIENT, 81))
                    }
                    .from(A),
                ),
                with("to itself, as the router", A.ip(family))
                    .world(move |world| {
                        for row in world.backends.values_mut().filter(|row| row.addr == B.ip(family)) {
                            row.addr = A.ip(family);
                        }
                        only(world, A.ip(family));
                    })
                    .sends(Site::From(A), request(family, is_tcp, SYN))
                    .check(Check::Source(at::router(family), CLIENT))
                    .check(Check::Destination(own, BACKEND_PORT))
                    .sends(Site::From(A), move |outputs: &[Parsed]| {
                        answer(is_tcp, SYN | ACK)(outputs).from(A)
                    })
                    .check(Check::Source(service, SERVICE_PORT))
                    .check(Check::Destination(own, CLIENT)),
            ]);
        }
        table.extend(corners(family));
    }
    table
}

fn corners(family: Family) -> Vec<Fixture> {
    let name = |text: &str| format!("{family:?} {text}");
    let (own, service, b) = (A.ip(family), at::service(family), B.ip(family));
    let with = |text: &str| fixture(name(text)).world(move |world| only(world, b));
    let mut table = vec![
        with("echo to a service is not translated")
            .sends(Site::From(A), ping(own, service, 3).from(A))
            .check(Check::Destination(service, 0)),
        with("an error about a reply-to-be comes from the backend, about the frontend")
            .sends(Site::From(A), request(family, false, 0))
            .sends(Site::From(B), move |outputs: &[Parsed]| {
                let ends = outputs[0].ends;
                let about = udp(ends.src, ends.dst, (ends.sport, ends.dport)).bytes();
                unreachable(ends.dst, ends.src, &about).from(B)
            })
            .check(Check::Source(b, 0)),
        with("a direct connection's replies are not the service's")
            .sends(Site::From(A), tcp(own, b, (CLIENT, BACKEND_PORT), SYN).from(A))
            .sends(Site::From(B), answer(true, SYN | ACK))
            .check(Check::Source(b, BACKEND_PORT)),
        with("port reuse: service, then direct")
            .sends(Site::From(A), request(family, true, SYN))
            .sends(Site::From(B), answer(true, SYN | ACK))
            .check(Check::Source(service, SERVICE_PORT))
            .sends(Site::From(A), request(family, true, RST))
            .sends(Site::From(A), tcp(own, b, (CLIENT, BACKEND_PORT), SYN).from(A))
            .sends(Site::From(B), answer(true, SYN | ACK))
            .check(Check::Source(b, BACKEND_PORT)),
        with("port reuse: direct, then service")
            .sends(Site::From(A), tcp(own, b, (CLIENT, BACKEND_PORT), SYN).from(A))
            .sends(Site::From(B), answer(true, SYN | ACK))
            .sends(Site::From(A), tcp(own, b, (CLIENT, BACKEND_PORT), FIN | ACK).from(A))
            .sends(Site::From(A), request(family, true, SYN))
            .check(Check::Destination(b, BACKEND_PORT))
            .sends(Site::From(B), answer(true, SYN | ACK))
            .check(Check::Source(service, SERVICE_PORT)),
        with("TTL 1 to a service").drops(
            Site::From(A),
            request(family, true, SYN).ttl(1),
            drop::TTL_EXCEEDED,
        ),
        with("from the host's side nothing is translated")
            .passes(Site::FromNet, tcp(at::outside(family), service, (CLIENT, SERVICE_PORT), SYN))
            .check(Check::Untouched),
    ];
    if family == Family::V4 {
        table.push(
            with("UDP without a checksum stays without")
                .sends(Site::From(A), request(family, false, 0).without_checksum())
                .check(Check::Destination(b, BACKEND_PORT))
                .check(Check::Byte(40, 0))
                .check(Check::Byte(41, 0)),
        );
        table.push(
            with("IPv4 options are stepped over")
                .sends(Site::From(A), request(family, true, SYN).extra(0, 2))
                .check(Check::Destination(b, BACKEND_PORT)),
        );
    } else {
        table.push(
            with("extension headers are stepped over")
                .sends(Site::From(A), request(family, true, SYN).extra(0, 1).extra(60, 2))
                .check(Check::Destination(b, BACKEND_PORT)),
        );
    }
    table
}

/// A backend that is chosen, then goes or is about to.
fn changes() -> Vec<Fixture> {
    use cilium_abi::ct::{CT_INITIATOR_HIGH, CtRow, KIND_SERVICE};
    use cilium_tests_kernel::l1::{
        compare::coarse_seconds,
        model::{Ends, key},
    };
    let mut table = Vec::new();
    for family in [Family::V4, Family::V6] {
        let (b, c) = (B.ip(family), C.ip(family));
        // The list has B only; an entry remembers C, slot 1 of the TCP list.
        let remembers = move |text: &str, edit: fn(&mut World, u32), flags: u16| {
            let number = (u32::from(family == Family::V6) * 2 + 1) * 100 + 1;
            fixture(format!("{family:?} {text}"))
                .world(move |world| {
                    only(world, b);
                    edit(world, number);
                })
                .prepare(move |trial| {
                    let ends = Ends {
                        src: A.ip(family),
                        dst: at::service(family),
                        sport: CLIENT,
                        dport: SERVICE_PORT,
                        proto: 6,
                    };
                    let (key, _) = key(&ends, KIND_SERVICE);
                    let row =
                        CtRow { expires: coarse_seconds() + 500, backend: number, flags, ..CtRow::default() };
                    trial.lab.put_connection(&key, &row);
                    trial.model.connections.insert(key, row);
                })
        };
        let stays: fn(&mut World, u32) = |_, _| {};
        let leaves: fn(&mut World, u32) = |world, number| {
            if let Some(row) = world.backends.get_mut(&number) {
                row.flags |= BACKEND_TERMINATING;
            }
        };
        let gone: fn(&mut World, u32) = |world, number| {
            world.backends.remove(&number);
        };
        let to = |addr| Check::Destination(addr, BACKEND_PORT);
        for flags in [0, CT_INITIATOR_HIGH] {
            let (src, dst, sport, dport) = (A.ip(family), at::service(family), CLIENT, SERVICE_PORT);
            let row = CtRow { flags, seen_forward: SYN, ..CtRow::default() };
            table.push(
                fixture(format!(
                    "{family:?} a SYN ends what its ends had before the frontend, flags {flags}"
                ))
                .world(move |world| only(world, b))
                .entry(Ends { src, dst, sport, dport, proto: 6 }, row, 50)
                .sends(Site::From(A), request(family, true, SYN))
                .check(to(b))
                .sends(Site::From(A), request(family, true, ACK))
                .check(to(b)),
            );
        }
        let (segment, syn) = (|| request(family, true, ACK), || request(family, true, SYN));
        table.extend([
            remembers("an established connection keeps its backend", stays, 0)
                .sends(Site::From(A), segment())
                .check(to(c)),
            remembers("a retransmitted SYN keeps it", stays, 0).sends(Site::From(A), syn()).check(to(c)),
            remembers("a connection keeps a backend that leaves", leaves, 0)
                .sends(Site::From(A), segment())
                .check(to(c)),
            remembers("a SYN does not", leaves, 0).sends(Site::From(A), syn()).check(to(b)),
            remembers("a segment to a backend that is gone is sent to another", gone, 0)
                .sends(Site::From(A), segment())
                .check(to(b)),
            remembers("a SYN to a backend that is gone is sent to another", gone, 0)
                .sends(Site::From(A), syn())
                .check(to(b)),
            remembers("a SYN after FIN chooses again", stays, cilium_abi::ct::CT_CLOSING_FORWARD)
                .sends(Site::From(A), syn())
                .check(to(b)),
            remembers("a segment after FIN does not", stays, cilium_abi::ct::CT_CLOSING_FORWARD)
                .sends(Site::From(A), segment())
                .check(to(c)),
        ]);
    }
    table
}

#[test]
fn l1_services_translate_there_and_back() {
    super::run(translation());
}

/// One backend for every frontend of its family.
fn everything_is(world: &mut World, addr: Address) {
    for row in world.frontends.values_mut().filter(|row| row.count > 0) {
        row.count = 1;
    }
    let firsts: Vec<u32> =
        world.slots.iter().filter(|(key, _)| key.slot == 0).map(|(_, number)| *number).collect();
    for number in &firsts {
        if let Some(row) = world.backends.get_mut(number).filter(|row| row.addr.is_v4() == addr.is_v4()) {
            (row.addr, row.port) = (addr, Be16::new(BACKEND_PORT));
        }
    }
    for number in world.maglev.values_mut() {
        *number = firsts.iter().copied().filter(|first| first <= number).max().unwrap_or(0);
    }
}

/// Every kind of frontend from a pod, there and back.
fn kinds() -> Vec<Fixture> {
    let mut table = Vec::new();
    for family in [Family::V4, Family::V6] {
        let (own, b, node) = (A.ip(family), B.ip(family), at::node(family));
        for is_tcp in [true, false] {
            let to = |addr: Address, port: u16| {
                let ports = (CLIENT, port);
                if is_tcp { tcp(own, addr, ports, SYN) } else { udp(own, addr, ports) }.from(A)
            };
            let kinds = [
                ("a NodePort", node, NODE_PORT),
                ("a NodePort of two scopes", node, LOCAL_PORT),
                ("a hostPort", node, HOST_PORT),
                ("a load balancer that lists clients", at::balancer(family), LISTED_PORT),
                ("a load balancer that refuses clients", at::balancer(family), REFUSED_PORT),
                ("an external address with a table", at::external(family), MAGLEV_PORT),
                ("an external address with affinity", at::external(family), AFFINITY_PORT),
            ];
            for (text, addr, port) in kinds {
                for mode in Mode::ALL {
                    table.push(
                        fixture(format!(
                            "{family:?} {} {mode:?} to {text}",
                            if is_tcp { "TCP" } else { "UDP" }
                        ))
                        .mode(mode)
                        .world(move |world| everything_is(world, b))
                        .sends(Site::From(A), to(addr, port))
                        .check(Check::Source(own, CLIENT))
                        .check(Check::Destination(b, BACKEND_PORT))
                        .sends(Site::From(B), answer(is_tcp, SYN | ACK))
                        .check(Check::Source(addr, port))
                        .check(Check::Destination(own, CLIENT)),
                    );
                }
            }
            table.push(
                fixture(format!("{family:?} TCP {is_tcp} to a process of this node"))
                    .mode(Mode::Balancer)
                    .passes(Site::From(A), to(node, PROCESS_PORT))
                    .check(Check::Source(own, CLIENT))
                    .check(Check::Destination(node, HOST_BACKEND_PORT))
                    .sends(Site::FromHost, answer(is_tcp, SYN | ACK))
                    .check(Check::Source(node, PROCESS_PORT))
                    .check(Check::Destination(own, CLIENT)),
            );
        }
    }
    table
}

#[test]
fn l1_services_of_every_kind_serve_pods() {
    super::run(kinds());
}

#[test]
fn l1_services_follow_their_backends() {
    super::run(changes());
}
