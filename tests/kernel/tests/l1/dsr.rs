//! Direct server return: what tells a backend's node of the frontend, put in at one node and taken off at the other.

use super::case::{CLIENT, Case, LIST, PORT, REV_NAT, serve};
use cilium_abi::{
    Address,
    ct::{CT_CLOSING_FORWARD, CT_INITIATOR_HIGH, CT_ONE_WAY, CtRow, KIND_CONNECTION},
    drop, identity,
    lb::{FRONTEND_DSR, FRONTEND_EXTERNAL, FRONTEND_NODE_PORT, FrontendKey, FrontendRow, SCOPE_EXTERNAL},
    node::mark,
};
use cilium_tests_kernel::l1::{
    model::{Ends, Parsed, key},
    packet::{ACK, Build, FIN, RST, SYN, tcp, udp, unreachable},
    script::{Check, Fixture, Site},
    world::{B, BACKEND_PORT, ETH0_MAC, Family, GATEWAY_MAC, Mode, OUTSIDE_ID, Rule, at, constants},
};

/// Bytes of link, IP and layer 4 headers and of the payload that packets here have.
fn length(case: Case, option: bool) -> usize {
    let (ip, more) = if case.family == Family::V4 { (20, 8) } else { (40, 24) };
    14 + ip + if case.is_tcp { 20 } else { 8 } + 7 + if option { more } else { 0 }
}

/// A client of nobody's prefix, whose frontend's backends elsewhere answer themselves.
fn asking(case: Case) -> Case {
    Case { client: at::world(case.family), ..case }
}

fn direct(case: Case, text: &str, mode: Mode) -> Fixture {
    let backend = at::remote_pod(case.family);
    let fixture = case.serving(text, &[(backend, BACKEND_PORT)]).mode(mode);
    case.row(fixture, |row| row.flags |= FRONTEND_DSR)
}

/// A connection that its client opened, with more flags.
fn open(ends: &Ends, flags: u16) -> CtRow {
    let high = if key(ends, KIND_CONNECTION).1 { CT_INITIATOR_HIGH } else { 0 };
    CtRow { flags: flags | high, seen_forward: SYN, ..CtRow::default() }
}

/// At the node that is asked.
fn asked(case: Case) -> Vec<Fixture> {
    let case = asking(case);
    let (backend, client, frontend) = (at::remote_pod(case.family), case.client, case.frontend);
    let ends = case.with(backend, BACKEND_PORT);
    let mut all = Vec::new();
    for mode in [Mode::Balancer, Mode::BalancerTunnel] {
        let text = |what: &str| format!("{mode:?}: {what}");
        all.push(
            direct(case, &text("a client keeps its address"), mode)
                .sends(Site::FromNet, case.request(SYN))
                .check(Check::Source(client, CLIENT))
                .check(Check::Destination(backend, BACKEND_PORT))
                .check(Check::Length(length(case, true)))
                .check(Check::Translations(0))
                .check(Check::Known(ends, true)),
        );
        all.push(
            direct(case, &text("packets that open no connection need no option"), mode)
                .sends(Site::FromNet, case.request(SYN))
                .sends(Site::FromNet, case.request(ACK))
                .check(Check::Source(client, CLIENT))
                .check(Check::Destination(backend, BACKEND_PORT))
                .check(Check::Length(length(case, !case.is_tcp)))
                .check(Check::Translations(0)),
        );
    }
    all.extend([
        direct(case, "no option where the backend is here", Mode::Balancer)
            .world(move |world| {
                let row = FrontendRow {
                    list: LIST,
                    rev_nat: REV_NAT,
                    flags: FRONTEND_NODE_PORT | FRONTEND_EXTERNAL | FRONTEND_DSR,
                    ..FrontendRow::default()
                };
                serve(world, case.place(SCOPE_EXTERNAL), row, &[(B.ip(case.family), BACKEND_PORT)]);
            })
            .sends(Site::FromNet, case.request(SYN))
            .check(Check::Length(length(case, false)))
            .sends(Site::From(B), case.answer(SYN | ACK))
            .check(Check::Source(frontend, PORT)),
        direct(case, "an address of the cluster is lent to who has one", Mode::Balancer)
            .sends(Site::FromNet, case.packet((at::remote_pod_2(case.family), CLIENT), (frontend, PORT), SYN))
            .check(Check::Length(length(case, false)))
            .check(Check::Destination(backend, BACKEND_PORT))
            .check(Check::Translations(2)),
        case.row(
            case.serving("a backend outside is told nothing", &[(at::outside(case.family), BACKEND_PORT)]),
            |row| row.flags |= FRONTEND_DSR,
        )
        .sends(Site::FromNet, case.request(SYN))
        .check(Check::Source(at::node(case.family), CLIENT))
        .check(Check::Length(length(case, false)))
        .check(Check::Translations(2)),
        direct(case, "a router's error about an answer is told to the backend", Mode::Balancer)
            .sends(Site::FromNet, case.request(SYN))
            .sends(Site::FromNet, move |_: &[Parsed]| {
                let about = case.packet((frontend, PORT), (client, CLIENT), ACK).bytes();
                unreachable(at::gateway(case.family), frontend, &about)
            })
            .check(Check::Source(at::gateway(case.family), 0))
            .check(Check::Destination(backend, 0))
            .check(Check::Inside(case.ends((backend, BACKEND_PORT), (client, CLIENT)))),
    ]);
    if case.is_tcp {
        let node = constants(Mode::Balancer);
        all.extend([
            direct(case, "a connection of which one side is seen lives on", Mode::Balancer)
                .sends(Site::FromNet, case.request(SYN))
                .check(Check::Lives(node.ct_syn))
                .sends(Site::FromNet, case.request(ACK))
                .check(Check::Lives(node.ct_tcp))
                .sends(Site::FromNet, case.request(ACK))
                .check(Check::Lives(node.ct_tcp)),
            direct(case, "and ends with that side", Mode::Balancer)
                .sends(Site::FromNet, case.request(SYN))
                .sends(Site::FromNet, case.request(ACK))
                .sends(Site::FromNet, case.request(FIN | ACK))
                .check(Check::Lives(node.ct_fin)),
            direct(case, "or with a reset", Mode::Balancer)
                .sends(Site::FromNet, case.request(SYN))
                .sends(Site::FromNet, case.request(RST))
                .check(Check::Lives(node.ct_fin)),
            // A SYN that is a FIN too ends its own side: whether that is all depends on how it is answered.
            case.serving(
                "asked anew through this node, it is not over with one side",
                &[(backend, BACKEND_PORT)],
            )
            .mode(Mode::Balancer)
            .entry(ends, open(&ends, CT_ONE_WAY), 500)
            .sends(Site::FromNet, case.request(SYN | FIN))
            .check(Check::Translations(2)),
            direct(case, "asked anew with direct answers, it is", Mode::Balancer)
                .entry(ends, open(&ends, 0), 500)
                .sends(Site::FromNet, case.request(SYN | FIN))
                .check(Check::Translations(0))
                .check(Check::Lives(node.ct_fin)),
            direct(case, "a connection that is over opens anew", Mode::Balancer)
                .entry(ends, open(&ends, CT_ONE_WAY | CT_CLOSING_FORWARD), 5)
                .sends(Site::FromNet, case.request(SYN))
                .check(Check::Lives(node.ct_syn))
                .sends(Site::FromNet, case.request(ACK))
                .check(Check::Lives(node.ct_tcp)),
        ]);
    }
    all
}

/// A node with the backend: a NodePort of the other node's, and a balancer's address, lead to it.
fn answering(case: Case, text: &str, mode: Mode) -> Fixture {
    let family = case.family;
    case.serving_b(text).mode(mode).world(move |world| {
        let row = FrontendRow {
            list: LIST,
            rev_nat: REV_NAT,
            flags: FRONTEND_NODE_PORT | FRONTEND_EXTERNAL | FRONTEND_DSR,
            ..FrontendRow::default()
        };
        let every = if family == Family::V4 { Address::v4(0) } else { Address::NONE };
        for addr in [every, at::balancer(family)] {
            let place = FrontendKey { addr, ..case.place(SCOPE_EXTERNAL) };
            serve(world, place, row, &[(B.ip(family), BACKEND_PORT)]);
        }
    })
}

/// At the node of the backend.
fn answered(case: Case) -> Vec<Fixture> {
    let family = case.family;
    let client = case.client;
    let (b, far) = (B.ip(family), (at::remote_node(family), PORT));
    let balancer = (at::balancer(family), PORT);
    let plain = move |flags: u8| case.packet((client, CLIENT), (b, BACKEND_PORT), flags);
    let naming = move |frontend: (Address, u16), flags: u8| plain(flags).naming(frontend.0, frontend.1);
    let world = if family == Family::V4 { identity::WORLD_IPV4 } else { identity::WORLD_IPV6 };
    let mut all = Vec::new();
    for (mode, site) in [(Mode::Balancer, Site::FromNet), (Mode::BalancerTunnel, Site::FromTunnel(world))] {
        let text = |what: &str| format!("{mode:?}: {what}");
        for (what, frontend) in [("another node's NodePort", far), ("a balancer's address", balancer)] {
            all.push(
                answering(case, &text(what), mode)
                    .sends(site, naming(frontend, SYN))
                    .check(Check::Length(length(case, false)))
                    .check(Check::Source(client, CLIENT))
                    .check(Check::Destination(b, BACKEND_PORT))
                    .check(Check::Macs(B.mac(), B.node_mac()))
                    .check(Check::Translations(1))
                    .sends(Site::From(B), case.answer(SYN | ACK))
                    .check(Check::Source(frontend.0, frontend.1))
                    .check(Check::Destination(client, CLIENT))
                    .check(Check::Macs(GATEWAY_MAC, ETH0_MAC))
                    .check(Check::Mark(mark::SNAT_DONE)),
            );
        }
        let denied = |text: &str| {
            answering(case, text, mode).world(|world| {
                world.close(B, false);
            })
        };
        all.extend([
            denied(&text("policy is asked about the client"))
                .drops(site, naming(far, SYN), drop::POLICY_DENIED)
                .check(Check::Identities(OUTSIDE_ID, B.identity))
                .check(Check::Translations(0)),
            denied(&text("policy that allows the client"))
                .world(move |world| {
                    world.rule(Rule::any(B, false).peer(OUTSIDE_ID).port(case.proto(), BACKEND_PORT));
                })
                .sends(site, naming(far, SYN)),
            answering(case, &text("what is no frontend"), mode)
                .drops(site, naming((at::stranger(family), PORT), SYN), drop::NO_SERVICE_BACKEND)
                .check(Check::Known(case.with(b, BACKEND_PORT), false)),
            answering(case, &text("a node's port that is no frontend"), mode).drops(
                site,
                naming((far.0, PORT + 1), SYN),
                drop::NO_SERVICE_BACKEND,
            ),
            answering(case, &text("the frontend changes, and is none in the end"), mode)
                .sends(site, naming(far, SYN))
                .sends(Site::From(B), case.answer(SYN | ACK))
                .check(Check::Source(far.0, far.1))
                .sends(site, naming(balancer, SYN))
                .sends(Site::From(B), case.answer(SYN | ACK))
                .check(Check::Source(balancer.0, balancer.1))
                .sends(site, plain(SYN))
                .sends(Site::From(B), case.answer(SYN | ACK)),
            answering(case, &text("a pod's error about a request is about the frontend"), mode)
                .sends(site, naming(far, SYN))
                .sends(Site::From(B), move |_: &[Parsed]| unreachable(b, client, &plain(SYN).bytes()).from(B))
                .check(Check::Source(b, 0))
                .check(Check::Inside(case.ends((client, CLIENT), far))),
        ]);
    }
    all.extend([
        answering(case, "an option of a pod elsewhere counts for nothing", Mode::BalancerTunnel)
            .sends(Site::FromTunnel(2001), {
                let pod = at::remote_pod(family);
                case.packet((pod, CLIENT), (b, BACKEND_PORT), SYN).naming(far.0, far.1)
            })
            .check(Check::Length(length(case, true)))
            .check(Check::Translations(0))
            .sends(Site::From(B), case.answer(SYN | ACK))
            .check(Check::Source(b, BACKEND_PORT)),
        answering(case, "nor does one of an address of the cluster", Mode::Balancer)
            .sends(Site::FromNet, {
                let pod = at::remote_pod(family);
                case.packet((pod, CLIENT), (b, BACKEND_PORT), SYN).naming(far.0, far.1)
            })
            .check(Check::Length(length(case, true)))
            .check(Check::Translations(0)),
        answering(case, "who serves nobody outside takes nothing off", Mode::Native)
            .sends(Site::FromNet, naming(far, SYN))
            .check(Check::Length(length(case, true))),
        answering(case, "a process of the node", Mode::Balancer)
            .passes(Site::FromNet, to_node(case, SYN).naming(far.0, far.1))
            .check(Check::Length(length(case, false)))
            .check(Check::Translations(1))
            .passes(Site::ToNet, from_node(case, SYN | ACK))
            .check(Check::Source(far.0, far.1))
            .passes(Site::FromNet, to_node(case, SYN))
            .passes(Site::ToNet, from_node(case, SYN | ACK))
            .check(Check::Source(at::node(family), 9000)),
    ]);
    all
}

fn node_ends(case: Case) -> Ends {
    case.with(at::node(case.family), 9000)
}

/// The client's packet to a process of this node.
fn to_node(case: Case, flags: u8) -> Build {
    let Ends { src, dst, sport, dport, .. } = node_ends(case);
    if case.is_tcp { tcp(src, dst, (sport, dport), flags) } else { udp(src, dst, (sport, dport)) }
}

/// And its answer.
fn from_node(case: Case, flags: u8) -> Build {
    let Ends { src, dst, sport, dport, .. } = node_ends(case);
    if case.is_tcp { tcp(dst, src, (dport, sport), flags) } else { udp(dst, src, (dport, sport)) }
}

#[test]
fn the_node_that_is_asked_tells_the_frontend() {
    super::run(Case::all().flat_map(asked).collect());
}

#[test]
fn the_backends_node_answers_for_it() {
    super::run(Case::all().flat_map(answered).collect());
}
