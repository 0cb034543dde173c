//! Clients outside whose backend is elsewhere: there with an address of this node, and back.

use super::case::{BOTH, CLIENT, Case, PORT, REV_NAT, opened};
use cilium_abi::{
    Address, Be16,
    ct::{CtRow, KIND_SERVICE},
    drop, identity,
    ipcache::{FLAG_IN_CLUSTER, IpcacheRow},
    node::mark,
    snat::{IN, OUT, SNAT_HOST, SnatKey},
};
use cilium_tests_kernel::l1::{
    compare::coarse_seconds,
    model::{Ends, Parsed, key},
    packet::{ACK, Build, FIN, SYN, icmp, tcp, unreachable},
    script::{Check, Fixture, Site, fixture},
    world::{
        A, BACKEND_PORT, ETH0_MAC, Family, GATEWAY_MAC, Mode, REMOTE_POD_ID, Rule, SERVER_MAC, SIDE_MAC, at,
    },
};

/// A way to a backend elsewhere, and back.
#[derive(Clone, Copy)]
struct Far {
    case: Case,
    mode: Mode,
    backend: Address,
    /// The address lent to the client.
    own: Address,
    /// Where answers arrive.
    back: Site,
    text: &'static str,
}

impl Far {
    /// Every family, protocol and way.
    fn all() -> impl Iterator<Item = Self> {
        Case::all().flat_map(|case| {
            let family = case.family;
            // Not one of the backends.
            let case = Case { client: at::world(family), ..case };
            let far = |text, mode, backend, own, back| Self { case, mode, backend, own, back, text };
            let (node, router) = (at::node(family), at::router(family));
            [
                far("native", Mode::Balancer, at::remote_pod(family), node, Site::FromNet),
                far(
                    "by another device",
                    Mode::Balancer,
                    at::side(family),
                    at::side_node(family),
                    Site::FromSide,
                ),
                far("beside the tunnel", Mode::BalancerTunnel, at::outside(family), node, Site::FromNet),
                far(
                    "through the tunnel",
                    Mode::BalancerTunnel,
                    at::remote_pod(family),
                    router,
                    Site::FromTunnel(REMOTE_POD_ID),
                ),
            ]
        })
    }

    fn is_tunnelled(self) -> bool {
        matches!(self.back, Site::FromTunnel(_))
    }

    fn serving(self, text: &str) -> Fixture {
        let text = format!("{}: {text}", self.text);
        self.case.serving(&text, &[(self.backend, BACKEND_PORT)]).mode(self.mode)
    }

    /// Packets from some client.
    fn from(self, client: (Address, u16), flags: u8) -> Build {
        self.case.packet(client, (self.case.frontend, PORT), flags)
    }

    /// A packet of the backend to the lent port.
    fn answer_at(self, port: u16, flags: u8) -> Build {
        self.case.packet((self.backend, BACKEND_PORT), (self.own, port), flags)
    }

    /// The connection with the backend.
    fn ends(self) -> Ends {
        self.case.with(self.backend, BACKEND_PORT)
    }

    /// The row of what comes back to a lent port.
    fn row_in(self, port: u16) -> SnatKey {
        SnatKey {
            src: self.backend,
            dst: self.own,
            src_port: Be16::new(BACKEND_PORT),
            dst_port: Be16::new(port),
            proto: self.case.proto(),
            dir: IN,
            reserved: 0,
        }
    }

    /// The row of what the client sends.
    fn row_out(self) -> SnatKey {
        SnatKey {
            src: self.case.client,
            dst: self.backend,
            src_port: Be16::new(CLIENT),
            dst_port: Be16::new(BACKEND_PORT),
            proto: self.case.proto(),
            dir: OUT,
            reserved: 0,
        }
    }

    fn client(self) -> (Address, u16) {
        (self.case.client, CLIENT)
    }

    /// The connection is known, as `opener` opened it.
    fn known(self, fixture: Fixture, opener: Ends) -> Fixture {
        fixture.entry(opener, CtRow { flags: opened(&opener), rev_nat: REV_NAT, ..CtRow::default() }, 500)
    }

    /// The last step went to the backend, from some port.
    fn went(self, fixture: Fixture) -> Fixture {
        let fixture = fixture.check(Check::Destination(self.backend, BACKEND_PORT)).check(Check::Ttl(63));
        if self.is_tunnelled() {
            return fixture.check(Check::Mark(0));
        }
        let (dst, src) = if matches!(self.back, Site::FromSide) {
            (SERVER_MAC, SIDE_MAC)
        } else {
            (GATEWAY_MAC, ETH0_MAC)
        };
        fixture.check(Check::Mark(mark::SNAT_DONE)).check(Check::Macs(dst, src))
    }

    /// The last step came back to the client.
    fn came(self, fixture: Fixture, client: (Address, u16)) -> Fixture {
        fixture
            .check(Check::Source(self.case.frontend, PORT))
            .check(Check::Destination(client.0, client.1))
            .check(Check::Ttl(63))
            .check(Check::Mark(mark::SNAT_DONE))
            .check(Check::Macs(GATEWAY_MAC, ETH0_MAC))
    }

    /// The ports lent where the client's is taken.
    const fn lent(self) -> Check {
        match self.mode {
            Mode::BalancerTunnel => Check::SourcePort(40_000, 40_007),
            _ => Check::SourcePort(32_768, 65_535),
        }
    }
}

fn conversations(far: Far) -> Vec<Fixture> {
    let case = far.case;
    let syn = || case.request(SYN);
    let there = |text: &str| far.went(far.serving(text).sends(Site::FromNet, syn()));
    let second = (at::gateway(case.family), CLIENT);
    let (back, own) = (far.back, far.own);
    let mut table = vec![
        there("there with an address of this node")
            .check(Check::Source(own, CLIENT))
            .check(Check::Known(far.ends(), true)),
        far.came(there("and back").sends(back, case.answer(SYN | ACK)), far.client()),
        {
            let fixture = there("a whole conversation").sends(back, case.answer(SYN | ACK));
            let fixture = far.came(fixture, far.client());
            let fixture = far.went(fixture.sends(Site::FromNet, case.request(ACK)));
            let fixture = far.came(fixture.sends(back, case.answer(ACK)), far.client());
            let fixture = far.went(fixture.sends(Site::FromNet, case.request(FIN | ACK)));
            far.came(fixture.sends(back, case.answer(FIN | ACK)), far.client())
        },
        {
            let fixture = there("two clients with one port").sends(Site::FromNet, far.from(second, SYN));
            let fixture = far.went(fixture).check(far.lent());
            let fixture = far.came(fixture.sends(back, case.answer_to(1, SYN | ACK)), second);
            far.came(fixture.sends(back, case.answer_to(0, SYN | ACK)), far.client())
        },
        there("the same flow keeps its port")
            .sends(Site::FromNet, far.from(second, SYN))
            .sends(Site::FromNet, case.request(ACK))
            .check(Check::Source(own, CLIENT)),
        {
            let client = (case.client, PORT);
            let fixture = far
                .serving("the port of a frontend is not lent")
                .world(move |world| {
                    // A frontend at each address that may be lent.
                    let row = world.frontends[&case.place(0)];
                    world.frontends.insert(cilium_abi::lb::FrontendKey { addr: own, ..case.place(0) }, row);
                })
                .sends(Site::FromNet, far.from(client, SYN));
            let fixture = far.went(fixture).check(far.lent());
            far.came(fixture.sends(back, case.answer(SYN | ACK)), client)
        },
        far.serving("what goes on opens nothing to a pod here with the client's address")
            .world(|world| {
                world.close(A, false);
            })
            .sends(Site::FromNet, syn())
            .drops(
                Site::FromNet,
                case.packet(far.client(), (A.ip(case.family), BACKEND_PORT), ACK),
                drop::POLICY_DENIED,
            ),
        far.serving("TTL 1").drops(Site::FromNet, syn().ttl(1), drop::TTL_EXCEEDED),
        far.came(
            far.serving("TTL 2, back").sends(Site::FromNet, syn()).sends(back, case.answer(SYN | ACK)),
            far.client(),
        )
        .drops(back, move |outputs: &[Parsed]| case.answer(ACK)(outputs).ttl(1), drop::TTL_EXCEEDED),
        there("an answer of a frontend that is gone keeps its source")
            .world(|world| {
                world.revnats.remove(&u32::from(REV_NAT));
            })
            .sends(back, case.answer(SYN | ACK))
            .check(Check::Source(far.backend, BACKEND_PORT))
            .check(Check::Destination(case.client, CLIENT)),
    ];
    if case.family == Family::V6 {
        // The kernel knows no way on for what such a client sends under its own address.
        let neighbour = Address::v6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x99]);
        let fixture = far.serving("a client of the link");
        let fixture = far.went(fixture.sends(Site::FromNet, far.from((neighbour, CLIENT), SYN)));
        table.push(fixture.check(Check::Source(own, CLIENT)));
    }
    if far.mode == Mode::BalancerTunnel {
        let full = |text: &str, count: u16| {
            let held = [CLIENT].into_iter().chain((40_000..).take(count.into()));
            held.fold(far.serving(text), |fixture, port| {
                fixture.translation(far.row_in(port), (at::gateway(case.family), port), 0, 5)
            })
        };
        table.push(full("all ports lent", 8).drops(Site::FromNet, syn(), drop::SNAT_NO_MAPPING));
        table.push(
            far.known(full("all ports lent, a flow that has one goes on", 8), far.ends())
                .translation(far.row_out(), (own, 40_003), 0, 5)
                .sends(Site::FromNet, case.request(ACK))
                .check(Check::Source(own, 40_003)),
        );
        if !case.is_tcp {
            let fixture = far
                .serving("the overlay's port is not lent")
                .sends(Site::FromNet, far.from((case.client, 8472), SYN));
            table.push(far.went(fixture).check(far.lent()));
        }
    }
    table
}

/// Halves that an LRU map lost.
fn halves(far: Far) -> Vec<Fixture> {
    let case = far.case;
    let (back, own, client) = (far.back, far.own, far.client());
    let gateway = at::gateway(case.family);
    let untouched = |fixture: Fixture| {
        let fixture = fixture.passes(back, far.answer_at(CLIENT, ACK)).check(Check::Untouched);
        // What the tunnel brings for the node carries its sender to the stack.
        fixture.check(Check::Mark(if far.is_tunnelled() { mark::IDENTITY | REMOTE_POD_ID << 16 } else { 0 }))
    };
    let refused = |fixture: Fixture| fixture.drops(back, far.answer_at(CLIENT, ACK), drop::UNKNOWN_CT);
    let translated = |fixture: Fixture| {
        fixture
            .passes(back, far.answer_at(CLIENT, ACK))
            .check(Check::Source(far.backend, BACKEND_PORT))
            .check(Check::Destination(client.0, client.1))
            .check(Check::Mark(0))
    };
    let with_in = |text: &str| far.serving(text).translation(far.row_in(CLIENT), client, 0, 5);
    let other_way = case.ends((far.backend, BACKEND_PORT), client);
    let mut table = vec![
        with_in("the way there was lost: the same port again")
            .sends(Site::FromNet, case.request(ACK))
            .check(Check::Source(own, CLIENT)),
        {
            let fixture = far
                .serving("the way back was lost: made again")
                .translation(far.row_out(), (own, 40_001), 0, 5)
                .sends(Site::FromNet, case.request(ACK))
                .check(Check::Source(own, 40_001));
            far.came(fixture.sends(back, case.answer(ACK)), client)
        },
        {
            let fixture = far.known(with_in("the way there was lost: made again by an answer"), far.ends());
            let fixture = far.came(fixture.sends(back, far.answer_at(CLIENT, ACK)), client);
            fixture.sends(Site::FromNet, case.request(ACK)).check(Check::Source(own, CLIENT))
        },
        far.serving("another client's port")
            .translation(far.row_in(CLIENT), (gateway, CLIENT), 0, 5)
            .sends(Site::FromNet, case.request(SYN))
            .check(far.lent()),
        far.serving("a port that the node itself holds")
            .translation(far.row_in(CLIENT), (own, CLIENT), SNAT_HOST, 5)
            .sends(Site::FromNet, case.request(SYN))
            .check(far.lent()),
        refused(with_in("an answer of no connection goes no further")),
        refused(far.known(with_in("what the backend opened is no answer"), other_way)),
        untouched(far.serving("to no lent port")),
        untouched(far.known(far.serving("to no lent port, on a connection"), far.ends())),
        untouched(far.known(
            far.serving("to a port that the node itself holds").translation(
                far.row_in(CLIENT),
                (own, CLIENT),
                SNAT_HOST,
                5,
            ),
            far.ends(),
        )),
        {
            let asked = case.asked();
            // The connection is forgotten, the choice and the port are not.
            let fixture = with_in("a connection that was forgotten goes on")
                .translation(far.row_out(), (own, CLIENT), 0, 5)
                .prepare(move |trial| {
                    let (key, _) = key(&asked, KIND_SERVICE);
                    let row = CtRow {
                        expires: coarse_seconds() + 500,
                        backend: super::case::number(0),
                        ..CtRow::default()
                    };
                    trial.lab.put_connection(&key, &row);
                    trial.model.connections.insert(key, row);
                })
                .sends(Site::FromNet, case.request(ACK))
                .check(Check::Source(own, CLIENT))
                .check(Check::Known(far.ends(), true));
            far.came(fixture.sends(back, case.answer(ACK)), client)
        },
    ];
    let off = if far.mode == Mode::Balancer { Mode::Native } else { Mode::Tunnel };
    let fixture = far.known(with_in("where devices serve nobody").mode(off), far.ends());
    table.push(if far.is_tunnelled() {
        untouched(fixture)
    } else {
        // Masquerading alone: whoever has the port gets the packet, and the stack the rest.
        translated(fixture)
    });
    if !far.is_tunnelled() {
        let own_pod = |text: &str| {
            far.serving(text).translation(far.row_in(CLIENT), (A.ip(case.family), CLIENT), 0, 5).world(
                |world| {
                    world.close(A, false);
                },
            )
        };
        let pod_opened = case.ends((A.ip(case.family), CLIENT), (far.backend, BACKEND_PORT));
        table.push(
            far.known(own_pod("a masqueraded pod's answer is the pod's"), pod_opened)
                .sends(back, far.answer_at(CLIENT, ACK))
                .check(Check::Destination(A.ip(case.family), CLIENT))
                .check(Check::Macs(A.mac(), A.node_mac())),
        );
        table.push(own_pod("to a masqueraded pod, of no connection").drops(
            back,
            far.answer_at(CLIENT, ACK),
            drop::POLICY_DENIED,
        ));
    }
    table
}

fn errors(far: Far) -> Vec<Fixture> {
    let (case, back, own) = (far.case, far.back, far.own);
    let client = far.client();
    // About what left here: from the lent port to the backend.
    let error = |teller: Address, port: u16| {
        move |_: &[Parsed]| {
            let about = case.packet((own, port), (far.backend, BACKEND_PORT), SYN).bytes();
            unreachable(teller, own, &about)
        }
    };
    let told = |fixture: Fixture, teller: Address| {
        fixture
            .check(Check::Source(teller, 0))
            .check(Check::Destination(client.0, 0))
            .check(Check::Inside(case.asked()))
            .check(Check::Mark(mark::SNAT_DONE))
            .check(Check::Ttl(63))
    };
    let sent = |text: &str| far.serving(text).sends(Site::FromNet, case.request(SYN));
    let gateway = at::gateway(case.family);
    vec![
        told(
            sent("the backend's error reaches the client").sends(back, error(far.backend, CLIENT)),
            far.backend,
        ),
        told(sent("a router's error reaches the client").sends(back, error(gateway, CLIENT)), gateway),
        {
            // The client's port was taken, so the inner ports change as well.
            let fixture = far
                .serving("an error about another port than the client's")
                .translation(far.row_in(CLIENT), (gateway, CLIENT), 0, 5)
                .sends(Site::FromNet, case.request(SYN));
            let about = move |outputs: &[Parsed]| {
                let ends = outputs[0].ends;
                let about = case.packet((ends.src, ends.sport), (ends.dst, ends.dport), SYN).bytes();
                unreachable(far.backend, own, &about)
            };
            told(fixture.sends(back, about), far.backend)
        },
        far.serving("an error about what nobody sent")
            .passes(back, error(far.backend, CLIENT))
            .check(Check::Untouched),
        far.serving("an error about what the node itself sent")
            .translation(far.row_in(CLIENT), (own, CLIENT), SNAT_HOST, 5)
            .passes(back, error(far.backend, CLIENT))
            .check(Check::Untouched),
        far.serving("an error about no connection goes no further")
            .translation(far.row_in(CLIENT), client, 0, 5)
            .drops(back, error(far.backend, CLIENT), drop::UNKNOWN_CT),
        sent("an error without a packet in it is the stack's")
            .passes(back, icmp(gateway, own, if case.family == Family::V4 { 3 } else { 1 }, 0, &[0; 12]))
            .check(Check::Untouched),
    ]
}

/// Errors on the client's side, such as "too long for the way", about what the backend answered.
fn errors_of_clients(far: Far) -> Vec<Fixture> {
    let (case, own) = (far.case, far.own);
    let gateway = at::gateway(case.family);
    let about = move |teller: Address| {
        let answer = case.packet((case.frontend, PORT), far.client(), ACK).bytes();
        unreachable(teller, case.frontend, &answer)
    };
    let told = |fixture: Fixture, port: u16| {
        fixture
            .check(Check::Source(own, 0))
            .check(Check::Destination(far.backend, 0))
            .check(Check::Inside(case.ends((far.backend, BACKEND_PORT), (own, port))))
            .check(Check::Ttl(63))
    };
    let talking = |text: &str| {
        far.serving(text).sends(Site::FromNet, case.request(SYN)).sends(far.back, case.answer(SYN | ACK))
    };
    let unheard = |fixture: Fixture| fixture.passes(Site::FromNet, about(gateway)).check(Check::Untouched);
    vec![
        told(talking("a router's error reaches the backend").sends(Site::FromNet, about(gateway)), CLIENT),
        told(
            talking("the client's error reaches the backend").sends(Site::FromNet, about(case.client)),
            CLIENT,
        ),
        {
            // Known from the rows alone: the port is another than the client's.
            let fixture = far.serving("an error about another port than the client's");
            let fixture = fixture
                .translation(far.row_out(), (own, 40_005), 0, 5)
                .sends(Site::FromNet, case.request(SYN));
            told(fixture.sends(Site::FromNet, about(gateway)), 40_005)
        },
        unheard(far.serving("an error about an answer that nobody gave")),
        unheard(far.known(far.serving("an error about a connection of no frontend"), far.ends())),
        far.serving("an error told by a pod of this node").sends(Site::FromNet, case.request(SYN)).drops(
            Site::FromNet,
            about(A.ip(case.family)),
            drop::INVALID_SOURCE_IP,
        ),
        talking("an error that has lived too long").sends(Site::FromNet, about(gateway).ttl(2)).drops(
            Site::FromNet,
            about(gateway).ttl(1),
            drop::TTL_EXCEEDED,
        ),
    ]
}

/// What another node sends on behalf of clients outside, and what it sends itself.
fn senders(family: Family) -> Vec<Fixture> {
    let (a, router) = (A.ip(family), at::remote_router(family));
    let (world_id, other_world) = match family {
        Family::V4 => (identity::WORLD_IPV4, identity::WORLD_IPV6),
        Family::V6 => (identity::WORLD_IPV6, identity::WORLD_IPV4),
    };
    let syn = move |src| tcp(src, a, (CLIENT, 80), SYN);
    let closed = |text: &str| {
        fixture(format!("{family:?} {text}")).mode(Mode::BalancerTunnel).world(|world| {
            world.close(A, false);
        })
    };
    let is = |text: &str, wire: u32, src: Address, number: u32| {
        closed(text)
            .drops(Site::FromTunnel(wire), syn(src), drop::POLICY_DENIED)
            .check(Check::Identities(number, A.identity))
    };
    let says = |fixture: Fixture, number: u32| {
        fixture.world(move |world| {
            let tunnel = at::remote_node(Family::V4);
            world.ipcache.insert(router, IpcacheRow { identity: number, flags: FLAG_IN_CLUSTER, tunnel });
        })
    };
    let allowed = |text: &str, number: u32| {
        closed(text).world(move |world| {
            world.rule(Rule::any(A, false).peer(number));
        })
    };
    let ack = move || tcp(router, a, (CLIENT, 80), ACK);
    let local_node = identity::REMOTE_NODE_SCOPE | 5;
    vec![
        is("a node that says world", world_id, router, world_id),
        is("a node that says nothing", identity::UNKNOWN, router, world_id),
        is("a node that says node", identity::REMOTE_NODE, router, identity::REMOTE_NODE),
        is("a node that says host", identity::HOST, router, identity::REMOTE_NODE),
        is("a node that says a pod", REMOTE_POD_ID, router, identity::REMOTE_NODE),
        is("a node that says the other family's world", other_world, router, identity::REMOTE_NODE),
        says(
            is("an API server's node that says world", world_id, router, world_id),
            identity::KUBE_APISERVER,
        ),
        says(is("a node of its own number that says world", world_id, router, world_id), local_node),
        says(is("a node of its own number that says node", identity::HOST, router, local_node), local_node),
        is("a pod that says world", world_id, at::remote_pod(family), REMOTE_POD_ID),
        allowed("the world is let in through a node", world_id)
            .sends(Site::FromTunnel(world_id), syn(router)),
        allowed("but not the node", world_id).drops(
            Site::FromTunnel(identity::HOST),
            syn(router),
            drop::POLICY_DENIED,
        ),
        allowed("a node is let in, the world through it is not", identity::REMOTE_NODE).drops(
            Site::FromTunnel(world_id),
            syn(router),
            drop::POLICY_DENIED,
        ),
        allowed("the world's verdict is not remembered for the node", world_id)
            .sends(Site::FromTunnel(world_id), syn(router))
            .drops(Site::FromTunnel(identity::HOST), ack(), drop::POLICY_DENIED)
            .sends(Site::FromTunnel(world_id), ack()),
        allowed("nor the node's for the world", identity::REMOTE_NODE)
            .sends(Site::FromTunnel(identity::HOST), syn(router))
            .drops(Site::FromTunnel(world_id), ack(), drop::POLICY_DENIED)
            .sends(Site::FromTunnel(identity::HOST), ack()),
        closed("a pod answers a client through the node that lent its address")
            .world(move |world| {
                world.close(A, true).rule(Rule::any(A, false).peer(world_id));
            })
            .sends(Site::FromTunnel(world_id), syn(router))
            .sends(Site::From(A), tcp(a, router, (80, CLIENT), SYN | ACK).from(A))
            .check(Check::Destination(router, CLIENT))
            .check(Check::Ttl(64)),
    ]
}

#[test]
fn l1_clients_reach_backends_elsewhere_and_hear_from_them() {
    let driven = super::run(Far::all().flat_map(conversations).collect());
    assert!(driven > 0, "drivers serve clients of backends elsewhere");
}

#[test]
fn l1_lent_ports_survive_lost_halves() {
    super::run(Far::all().flat_map(halves).collect());
}

#[test]
fn l1_errors_find_the_client() {
    super::run(Far::all().flat_map(errors).collect());
}

#[test]
fn l1_errors_of_clients_find_the_backend() {
    super::run(Far::all().flat_map(errors_of_clients).collect());
}

#[test]
fn l1_nodes_speak_for_clients_outside() {
    super::run(BOTH.into_iter().flat_map(senders).collect());
}
