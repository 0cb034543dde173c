//! Clients outside: who is let in to a frontend, and backends on this node.

use super::case::{BOTH, CLIENT, Case, LIST, PORT, REV_NAT, opened, serve};
use cilium_abi::{
    Address, Be16,
    ct::CtRow,
    drop, identity,
    lb::{
        FRONTEND_EXTERNAL, FRONTEND_SOURCE_DENY, FRONTEND_SOURCE_RANGES, FRONTEND_TWO_SCOPES, FrontendKey,
        FrontendRow, SCOPE_EXTERNAL, SCOPE_INTERNAL, SourceRangeKey,
    },
    node::mark,
    proto,
};
use cilium_tests_kernel::l1::{
    frontends::{HOST_BACKEND_PORT, NODE_PORT, range},
    model::Parsed,
    packet::{ACK, FIN, SYN, ping, sctp, udp, unreachable},
    script::{Check, Fixture, Site, fixture},
    world::{
        A, B, BACKEND_PORT, C, ETH0_MAC, Family, GATEWAY_MAC, Mode, OUTSIDE_ID, Rule, SERVICE_PORT, X, at, ip,
    },
};

/// A backend that is a pod of this node.
fn here(case: Case) -> Vec<Fixture> {
    let (b, client, frontend) = (B.ip(case.family), case.client, case.frontend);
    let closed = |text: &str| {
        case.serving_b(text).world(|world| {
            world.close(B, false);
        })
    };
    vec![
        case.serving_b("from outside to a pod here")
            .sends(Site::FromNet, case.request(SYN))
            .check(Check::Source(client, CLIENT))
            .check(Check::Destination(b, BACKEND_PORT))
            .check(Check::Ttl(63))
            .check(Check::Macs(B.mac(), B.node_mac()))
            .check(Check::Mark(0))
            .check(Check::Known(case.with(b, BACKEND_PORT), true)),
        case.serving_b("and back by route, with the frontend's address")
            .world(|world| {
                world.close(B, true);
            })
            .sends(Site::FromNet, case.request(SYN))
            .sends(Site::From(B), case.answer(SYN | ACK))
            .check(Check::Source(frontend, PORT))
            .check(Check::Destination(client, CLIENT))
            .check(Check::Ttl(63))
            .check(Check::Macs(GATEWAY_MAC, ETH0_MAC))
            .check(Check::Mark(mark::SNAT_DONE))
            .passes(Site::ToNet, case.packet((frontend, PORT), (client, CLIENT), SYN | ACK))
            .marked(mark::SNAT_DONE)
            .check(Check::Untouched)
            .check(Check::Translations(0)),
        case.serving_b("a conversation with a pod here")
            .sends(Site::FromNet, case.request(SYN))
            .sends(Site::From(B), case.answer(SYN | ACK))
            .sends(Site::FromNet, case.request(ACK))
            .check(Check::Destination(b, BACKEND_PORT))
            .sends(Site::From(B), case.answer(ACK))
            .check(Check::Source(frontend, PORT))
            .sends(Site::FromNet, case.request(FIN | ACK))
            .sends(Site::From(B), case.answer(FIN | ACK))
            .check(Check::Source(frontend, PORT))
            .check(Check::Destination(client, CLIENT)),
        case.serving_b("where devices serve nobody the packet is the stack's")
            .mode(Mode::Native)
            .passes(Site::FromNet, case.request(SYN))
            .check(Check::Untouched)
            .check(Check::Known(case.with(b, BACKEND_PORT), false)),
        case.row(case.serving_b("a frontend for the cluster only"), |row| row.flags &= !FRONTEND_EXTERNAL)
            .drops(Site::FromNet, case.request(SYN), drop::IS_CLUSTER_IP)
            .check(Check::Untouched)
            .check(Check::Known(case.with(b, BACKEND_PORT), false)),
        fixture(case.name("a ClusterIP from outside")).mode(Mode::Balancer).drops(
            Site::FromNet,
            case.packet((client, CLIENT), (at::service(case.family), SERVICE_PORT), SYN),
            drop::IS_CLUSTER_IP,
        ),
        case.serving_b("another port is the stack's")
            .passes(Site::FromNet, case.packet((client, CLIENT), (frontend, PORT + 1), SYN))
            .check(Check::Untouched),
        case.serving_b("another protocol is the stack's")
            .passes(Site::FromNet, {
                let other = Case { is_tcp: !case.is_tcp, ..case };
                other.packet((client, CLIENT), (frontend, PORT), SYN)
            })
            .check(Check::Untouched),
        fixture(case.name("a pod's own address is no frontend from outside"))
            .mode(Mode::Balancer)
            .world(move |world| {
                let place = FrontendKey { addr: A.ip(case.family), port: Be16::new(PORT), ..case.place(0) };
                let row = FrontendRow { list: LIST, rev_nat: REV_NAT, ..FrontendRow::default() };
                serve(world, place, row, &[(b, BACKEND_PORT)]);
            })
            .sends(Site::FromNet, case.packet((client, CLIENT), (A.ip(case.family), PORT), SYN))
            .check(Check::Destination(A.ip(case.family), PORT)),
        closed("policy knows the client by its own address")
            .drops(Site::FromNet, case.request(SYN), drop::POLICY_DENIED)
            .check(Check::Identities(OUTSIDE_ID, B.identity))
            .check(Check::Known(case.with(b, BACKEND_PORT), false)),
        closed("policy allows the client, and the backend's port")
            .world(move |world| {
                world.rule(Rule::any(B, false).peer(OUTSIDE_ID).port(case.proto(), BACKEND_PORT));
            })
            .sends(Site::FromNet, case.request(SYN)),
        closed("the frontend's port is not what policy sees")
            .world(move |world| {
                world.rule(Rule::any(B, false).peer(OUTSIDE_ID).port(case.proto(), PORT));
            })
            .drops(Site::FromNet, case.request(SYN), drop::POLICY_DENIED),
        closed("what the node may, a client of its frontend may not")
            .world(|world| {
                world.rule(Rule::any(B, false).peer(identity::HOST));
            })
            .drops(Site::FromNet, case.request(SYN), drop::POLICY_DENIED),
        case.serving("a pod without configuration", &[(X.ip(case.family), BACKEND_PORT)]).drops(
            Site::FromNet,
            case.request(SYN),
            drop::ENDPOINT_NOT_READY,
        ),
        case.serving_b("TTL 1").drops(Site::FromNet, case.request(SYN).ttl(1), drop::TTL_EXCEEDED),
        case.serving_b("replies whose frontend is gone keep the pod's address")
            .world(|world| {
                world.revnats.remove(&u32::from(REV_NAT));
            })
            .sends(Site::FromNet, case.request(SYN))
            .sends(Site::From(B), case.answer(SYN | ACK))
            .check(Check::Source(b, BACKEND_PORT)),
        case.serving_b("a pod's error about a request is about the frontend")
            .sends(Site::FromNet, case.request(SYN))
            .sends(Site::From(B), move |_: &[Parsed]| {
                let about = case.packet((client, CLIENT), (b, BACKEND_PORT), SYN).bytes();
                unreachable(b, client, &about).from(B)
            })
            .check(Check::Source(b, 0))
            .check(Check::Inside(case.asked())),
        case.serving_b("an error about an answer reaches the pod, about what it sent")
            .sends(Site::FromNet, case.request(SYN))
            .sends(Site::From(B), case.answer(SYN | ACK))
            .check(Check::Mark(mark::SNAT_DONE))
            .sends(Site::FromNet, move |_: &[Parsed]| {
                let about = case.packet((frontend, PORT), (client, CLIENT), ACK).bytes();
                unreachable(at::gateway(case.family), frontend, &about)
            })
            .check(Check::Source(at::gateway(case.family), 0))
            .check(Check::Destination(b, 0))
            .check(Check::Inside(case.ends((b, BACKEND_PORT), (client, CLIENT))))
            .check(Check::Macs(B.mac(), B.node_mac())),
        case.serving_b("an answer's port is held by no flow of the node")
            .sends(Site::FromNet, case.request(SYN))
            .sends(Site::From(B), case.answer(SYN | ACK))
            .passes(Site::ToNet, case.packet((frontend, PORT), (client, CLIENT), SYN | ACK))
            .marked(mark::IDENTITY | B.identity << 16)
            .check(Check::Untouched)
            .check(Check::Translations(0)),
        case.serving_b("the node's own flow from a frontend's port gets another")
            .passes(Site::ToNet, case.packet((frontend, PORT), (client, CLIENT), SYN))
            .check(Check::SourcePort(32_768, 65_535))
            .check(Check::Translations(2)),
    ]
}

/// Addresses that nobody outside has.
fn forged(case: Case) -> Vec<Fixture> {
    let (b, family) = (B.ip(case.family), case.family);
    let from = |text: &str, client: Address| {
        case.serving_b(text)
            .drops(
                Site::FromNet,
                case.packet((client, CLIENT), (case.frontend, PORT), SYN),
                drop::INVALID_SOURCE_IP,
            )
            .check(Check::Known(case.ends((client, CLIENT), (b, BACKEND_PORT)), false))
    };
    vec![
        from("to a frontend with the address of a pod here", A.ip(family)),
        from("to a frontend with the backend's own address", b),
        from("to a frontend with the address of this node", at::node(family)),
        from("to a frontend with the router's address", at::router(family)),
        from("to a frontend beside the tunnel", at::remote_pod(family)).mode(Mode::BalancerTunnel),
        case.serving_b("to a frontend from another node's pod, native")
            .sends(Site::FromNet, case.packet((at::remote_pod(family), CLIENT), (case.frontend, PORT), SYN)),
        case.serving_b("to a frontend from another node, tunnel")
            .mode(Mode::BalancerTunnel)
            .sends(Site::FromNet, case.packet((at::remote_node(family), CLIENT), (case.frontend, PORT), SYN)),
    ]
}

fn without_backend(case: Case) -> Vec<Fixture> {
    let refused = |fixture: Fixture| {
        fixture
            .drops(Site::FromNet, case.request(SYN), drop::NO_SERVICE_BACKEND)
            .check(Check::Untouched)
            .check(Check::Known(case.with(B.ip(case.family), BACKEND_PORT), false))
    };
    vec![
        refused(case.row(case.serving_b("no slot counts"), |row| row.count = 0)),
        refused(case.serving_b("a list that is not there").world(|world| {
            world.slots.retain(|key, _| key.list != LIST);
        })),
        refused(case.serving_b("a backend that is not there").world(|world| {
            world.backends.retain(|number, _| number / 10 != LIST);
        })),
    ]
}

fn scopes(case: Case) -> Vec<Fixture> {
    let (b, c) = (B.ip(case.family), C.ip(case.family));
    // Outside B, inside C.
    let two = |text: &str, flags: u32| {
        let fixture = case.serving_b(text).world(move |world| {
            let row = FrontendRow { list: LIST + 1, rev_nat: REV_NAT, ..FrontendRow::default() };
            serve(world, case.place(SCOPE_INTERNAL), row, &[(c, BACKEND_PORT)]);
        });
        case.row(fixture, move |row| row.flags |= flags)
    };
    let without = |fixture: Fixture, scope: u8| {
        fixture.world(move |world| {
            world.frontends.remove(&case.place(scope));
        })
    };
    let inside = || case.packet((A.ip(case.family), CLIENT), (case.frontend, PORT), SYN).from(A);
    let untranslated = Check::Destination(case.frontend, PORT);
    vec![
        two("two scopes, outside", FRONTEND_TWO_SCOPES)
            .sends(Site::FromNet, case.request(SYN))
            .check(Check::Destination(b, BACKEND_PORT)),
        two("two scopes, inside", FRONTEND_TWO_SCOPES)
            .sends(Site::From(A), inside())
            .check(Check::Destination(c, BACKEND_PORT))
            .sends(Site::From(C), case.answer(SYN | ACK))
            .check(Check::Source(case.frontend, PORT)),
        without(two("two scopes, inside there is none", FRONTEND_TWO_SCOPES), SCOPE_INTERNAL)
            .passes(Site::From(A), inside())
            .check(untranslated.clone()),
        without(two("two scopes, outside there is one alone", FRONTEND_TWO_SCOPES), SCOPE_INTERNAL)
            .sends(Site::FromNet, case.request(SYN))
            .check(Check::Destination(b, BACKEND_PORT)),
        two("one scope, inside", 0).sends(Site::From(A), inside()).check(Check::Destination(b, BACKEND_PORT)),
        without(two("inside alone is no frontend inside", FRONTEND_TWO_SCOPES), SCOPE_EXTERNAL)
            .passes(Site::From(A), inside())
            .check(untranslated),
        without(two("inside alone is no frontend outside", FRONTEND_TWO_SCOPES), SCOPE_EXTERNAL)
            .passes(Site::FromNet, case.request(SYN))
            .check(Check::Untouched),
        case.row(case.serving_b("inside a frontend for the cluster only"), |row| {
            row.flags &= !FRONTEND_EXTERNAL;
        })
        .sends(Site::From(A), inside())
        .check(Check::Destination(b, BACKEND_PORT)),
        case.row(case.serving_b("ranges of sources bind nobody inside"), |row| {
            row.flags |= FRONTEND_SOURCE_RANGES;
        })
        .sends(Site::From(A), inside())
        .check(Check::Destination(b, BACKEND_PORT)),
    ]
}

fn ranges(case: Case) -> Vec<Fixture> {
    let family = case.family;
    let b = B.ip(family);
    let listing = |text: &str, flags: u32, keys: &[SourceRangeKey]| {
        let keys = keys.to_vec();
        let fixture = case.serving_b(text).world(move |world| {
            world.source_ranges.clear();
            world.source_ranges.extend(keys.iter().map(|key| (*key, 1)));
        });
        case.row(fixture, move |row| row.flags |= flags)
    };
    let (allow, deny) = (FRONTEND_SOURCE_RANGES, FRONTEND_SOURCE_RANGES | FRONTEND_SOURCE_DENY);
    let ours = range(family, REV_NAT);
    let everything = match family {
        Family::V4 => SourceRangeKey { prefix_len: 32 + 96, addr: ip("0.0.0.0"), ..ours },
        Family::V6 => SourceRangeKey { prefix_len: 32, addr: Address::NONE, ..ours },
    };
    let alone = SourceRangeKey { prefix_len: 160, addr: case.client, ..ours };
    let from = |client| case.packet((client, CLIENT), (case.frontend, PORT), SYN);
    let serves = |fixture: Fixture, client: Address| {
        fixture.sends(Site::FromNet, from(client)).check(Check::Destination(b, BACKEND_PORT))
    };
    let refuses = |fixture: Fixture, client: Address| {
        fixture
            .drops(Site::FromNet, from(client), drop::NOT_IN_SOURCE_RANGE)
            .check(Check::Untouched)
            .check(Check::Known(case.ends((client, CLIENT), (b, BACKEND_PORT)), false))
    };
    let (client, stranger) = (case.client, at::world(family));
    vec![
        serves(listing("a source that is listed", allow, &[ours]), client),
        refuses(listing("a source that is not", allow, &[ours]), stranger),
        refuses(listing("no source is listed", allow, &[]), client),
        serves(listing("one address is listed", allow, &[alone]), client),
        refuses(listing("another address than the one listed", allow, &[alone]), at::world(family)),
        serves(listing("every address is listed", allow, &[everything]), stranger),
        refuses(
            listing("another frontend's list", allow, &[SourceRangeKey { rev_nat: REV_NAT + 1, ..ours }]),
            client,
        ),
        serves(listing("a list that nobody asks for", 0, &[alone]), stranger),
        refuses(listing("a source that is refused", deny, &[ours]), client),
        serves(listing("a source that is not refused", deny, &[ours]), stranger),
        serves(listing("no source is refused", deny, &[]), client),
        refuses(listing("every source is refused", deny, &[everything]), stranger),
        case.row(listing("for the cluster only comes before ranges", allow, &[]), |row| {
            row.flags &= !FRONTEND_EXTERNAL;
        })
        .drops(Site::FromNet, from(client), drop::IS_CLUSTER_IP),
        case.row(listing("ranges come before backends", allow, &[]), |row| row.count = 0).drops(
            Site::FromNet,
            from(client),
            drop::NOT_IN_SOURCE_RANGE,
        ),
    ]
}

/// A backend that is a process of this node.
fn process(case: Case) -> Vec<Fixture> {
    let (node, client) = (at::node(case.family), case.client);
    let local = (node, HOST_BACKEND_PORT);
    let serving = |text: &str| case.serving(text, &[local]);
    let ends = case.with(node, HOST_BACKEND_PORT);
    let answer = move |flags| case.packet(local, (client, CLIENT), flags);
    // A connection that was opened by an end, and its number.
    let entry = |fixture: Fixture, opener, rev_nat: u16| {
        fixture.entry(opener, CtRow { flags: opened(&opener), rev_nat, ..CtRow::default() }, 500)
    };
    let back = case.ends(local, (client, CLIENT));
    let mut table = vec![
        serving("to a process of this node")
            .passes(Site::FromNet, case.request(SYN))
            .check(Check::Source(client, CLIENT))
            .check(Check::Destination(node, HOST_BACKEND_PORT))
            .check(Check::Ttl(64))
            .check(Check::Mark(0))
            .check(Check::Known(ends, true)),
        serving("a conversation with a process of this node")
            .passes(Site::FromNet, case.request(SYN))
            .passes(Site::ToNet, case.answer(SYN | ACK))
            .check(Check::Source(case.frontend, PORT))
            .check(Check::Destination(client, CLIENT))
            .check(Check::Ttl(64))
            .passes(Site::FromNet, case.request(ACK))
            .check(Check::Destination(node, HOST_BACKEND_PORT))
            .passes(Site::ToNet, case.answer(FIN | ACK))
            .check(Check::Source(case.frontend, PORT))
            .passes(Site::FromNet, case.request(FIN | ACK))
            .check(Check::Destination(node, HOST_BACKEND_PORT)),
        serving("to the router's address")
            .world(move |world| {
                for row in world.backends.values_mut().filter(|row| row.port.host() == HOST_BACKEND_PORT) {
                    row.addr = at::router(case.family);
                }
            })
            .passes(Site::FromNet, case.request(SYN))
            .check(Check::Destination(at::router(case.family), HOST_BACKEND_PORT))
            .passes(Site::ToNet, case.answer(SYN | ACK))
            .check(Check::Source(case.frontend, PORT)),
        serving("what answers nobody keeps its source")
            .passes(Site::ToNet, answer(ACK))
            .check(Check::Untouched),
        entry(serving("an answer that was translated already"), ends, REV_NAT)
            .passes(Site::ToNet, answer(ACK))
            .marked(mark::SNAT_DONE)
            .check(Check::Untouched),
        entry(serving("an answer to who used no frontend"), ends, 0)
            .passes(Site::ToNet, answer(ACK))
            .check(Check::Untouched),
        entry(serving("an answer where devices serve nobody"), ends, REV_NAT)
            .mode(Mode::Native)
            .passes(Site::ToNet, answer(ACK))
            .check(Check::Untouched),
        entry(serving("an answer to a frontend that is gone"), ends, REV_NAT)
            .world(|world| {
                world.revnats.remove(&u32::from(REV_NAT));
            })
            .passes(Site::ToNet, answer(ACK))
            .check(Check::Untouched),
        entry(serving("the process's own connection to the client"), back, REV_NAT)
            .passes(Site::ToNet, answer(ACK))
            .check(Check::Untouched),
        {
            let b = B.ip(case.family);
            let with_pod = case.with(b, BACKEND_PORT);
            entry(serving("a pod's answer is not a process's"), with_pod, REV_NAT)
                .passes(Site::ToNet, case.packet((b, BACKEND_PORT), (client, CLIENT), ACK))
                .check(Check::Untouched)
        },
        entry(serving("a process's error about a request is about the frontend"), ends, REV_NAT)
            .passes(Site::ToNet, move |_: &[Parsed]| {
                let about = case.packet((client, CLIENT), local, SYN).bytes();
                unreachable(node, client, &about)
            })
            .check(Check::Source(node, 0))
            .check(Check::Inside(case.asked())),
        entry(serving("a process's error to someone else"), ends, REV_NAT)
            .passes(Site::ToNet, move |_: &[Parsed]| {
                let about = case.packet((client, CLIENT), local, SYN).bytes();
                unreachable(node, at::world(case.family), &about)
            })
            .check(Check::Untouched),
    ];
    if case.is_tcp {
        table.push(
            entry(serving("a SYN the other way is no answer"), ends, REV_NAT)
                .passes(Site::ToNet, answer(SYN))
                .check(Check::Untouched),
        );
    }
    table
}

fn corners(family: Family) -> Vec<Fixture> {
    let name = |text: &str| format!("{family:?} {text}");
    let (client, node) = (at::outside(family), at::node(family));
    let udp_case =
        Case::all().find(|case| case.family == family && !case.is_tcp).expect("every family has UDP");
    let sctp_to = |backend: Address, port: u16, text: &str| {
        fixture(name(text)).mode(Mode::Balancer).world(move |world| {
            let place = FrontendKey { proto: proto::SCTP, ..udp_case.place(SCOPE_EXTERNAL) };
            let row = FrontendRow {
                list: LIST,
                rev_nat: REV_NAT,
                flags: FRONTEND_EXTERNAL,
                ..FrontendRow::default()
            };
            serve(world, place, row, &[(backend, port)]);
        })
    };
    let overlay = |mode: Mode| {
        fixture(name(&format!("a frontend at the overlay's port, {mode:?}"))).mode(mode).world(move |world| {
            let place = FrontendKey { port: Be16::new(8472), ..udp_case.place(SCOPE_EXTERNAL) };
            let row = FrontendRow {
                list: LIST,
                rev_nat: REV_NAT,
                flags: FRONTEND_EXTERNAL,
                ..FrontendRow::default()
            };
            serve(world, place, row, &[(B.ip(family), BACKEND_PORT)]);
        })
    };
    // Its checksum field, in the frame.
    let field = if family == Family::V4 { 40 } else { 60 };
    let bare = move |source: u16| udp(client, node, (source, PORT)).without_checksum();
    vec![
        udp_case
            .serving_b("without a checksum to a pod here stays without")
            .sends(Site::FromNet, bare(CLIENT))
            .check(Check::Destination(B.ip(family), BACKEND_PORT))
            .check(Check::Byte(field, 0))
            .check(Check::Byte(field + 1, 0)),
        udp_case
            .serving("without a checksum elsewhere and back", &[(at::remote_pod(family), BACKEND_PORT)])
            .sends(Site::FromNet, bare(PORT))
            .check(Check::SourcePort(32_768, 65_535))
            .check(Check::Byte(field, 0))
            .sends(Site::FromNet, move |outputs: &[Parsed]| udp_case.answer(ACK)(outputs).without_checksum())
            .check(Check::Source(node, PORT))
            .check(Check::Destination(client, PORT))
            .check(Check::Byte(field, 0))
            .check(Check::Byte(field + 1, 0)),
        fixture(name("an echo to a frontend's address is the stack's"))
            .mode(Mode::Balancer)
            .passes(Site::FromNet, ping(client, node, 7))
            .check(Check::Untouched),
        fixture(name("a fragment whose first was not seen is the stack's"))
            .mode(Mode::Balancer)
            .passes(Site::FromNet, udp(client, node, (CLIENT, NODE_PORT)).fragment(0x0010))
            .check(Check::Untouched),
        overlay(Mode::BalancerTunnel)
            .passes(Site::FromNet, udp(client, node, (CLIENT, 8472)))
            .check(Check::Untouched),
        overlay(Mode::Balancer)
            .sends(Site::FromNet, udp(client, node, (CLIENT, 8472)))
            .check(Check::Destination(B.ip(family), BACKEND_PORT)),
        sctp_to(B.ip(family), PORT, "SCTP to a pod here")
            .sends(Site::FromNet, sctp(client, node, (CLIENT, PORT)))
            .check(Check::Destination(B.ip(family), PORT))
            .sends(Site::From(B), sctp(B.ip(family), client, (PORT, CLIENT)).from(B))
            .check(Check::Source(node, PORT)),
        sctp_to(at::remote_pod(family), PORT, "SCTP to a backend elsewhere").drops(
            Site::FromNet,
            sctp(client, node, (CLIENT, PORT)),
            drop::SNAT_UNSUPPORTED_PROTOCOL,
        ),
    ]
}

#[test]
fn l1_frontends_let_clients_in() {
    super::run(Case::all().flat_map(here).collect());
    super::run(Case::all().flat_map(forged).collect());
    super::run(Case::all().flat_map(without_backend).collect());
    super::run(BOTH.into_iter().flat_map(corners).collect());
}

#[test]
fn l1_frontends_have_scopes_and_ranges() {
    super::run(Case::all().flat_map(scopes).collect());
    super::run(Case::all().flat_map(ranges).collect());
    // At an address that is on no interface.
    let elsewhere = |case: Case| Case { frontend: at::balancer(case.family), ..case };
    super::run(Case::all().map(elsewhere).flat_map(ranges).collect());
}

#[test]
fn l1_frontends_of_processes_answer() {
    super::run(Case::all().flat_map(process).collect());
}
