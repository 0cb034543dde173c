//! Which backend a new connection gets: what its client keeps, what the table says, or any.

use super::case::{CLIENT, Case, LIST, REV_NAT, number};
use cilium_abi::{
    Address,
    ct::{CT_CLOSING_FORWARD, CtRow, KIND_SERVICE},
    drop,
    lb::{
        AffinityKey, BACKEND_TERMINATING, FRONTEND_MAGLEV_BITS, FRONTEND_TWO_SCOPES, FrontendRow,
        SCOPE_INTERNAL, maglev_flags,
    },
};
use cilium_tests_kernel::l1::{
    compare::{Trial, coarse_seconds, settle},
    frontends::{MAGLEV_ROWS, MAGLEV_SIZE},
    model::key,
    packet::{ACK, Build, SYN},
    script::{Check, Fixture, Site},
    world::{A, B, BACKEND_PORT, C, World, at},
};
use std::time::Duration;

/// Seconds for which clients keep their backend.
const SECONDS: u32 = 20;

/// A client on either side, and three backends: the first is in the list, the others are not.
#[derive(Clone, Copy)]
struct Choice {
    case: Case,
    site: Site,
    /// [`B`], [`C`], and a pod of another node.
    backends: [Address; 3],
}

impl Choice {
    fn all() -> impl Iterator<Item = Self> {
        Case::all().flat_map(|case| {
            let family = case.family;
            let backends = [B.ip(family), C.ip(family), at::remote_pod(family)];
            // An address that leads nowhere but to the frontend.
            let case = Case { frontend: at::external(family), ..case };
            let inside = Case { client: A.ip(family), ..case };
            [
                Self { case, site: Site::FromNet, backends },
                Self { case: inside, site: Site::From(A), backends },
            ]
        })
    }

    fn request(self, flags: u8) -> Build {
        let build = self.case.request(flags);
        if matches!(self.site, Site::From(_)) { build.from(A) } else { build }
    }

    fn serving(self, text: &str, edit: impl Fn(&mut FrontendRow) + 'static) -> Fixture {
        let side = if matches!(self.site, Site::From(_)) { "inside" } else { "outside" };
        let ends = self.backends.map(|addr| (addr, BACKEND_PORT));
        let fixture = self.case.serving(&format!("{side}: {text}"), &ends);
        self.case.row(fixture, move |row| {
            row.count = 1;
            edit(row);
        })
    }

    /// Clients keep their backend.
    fn keeping(self, text: &str) -> Fixture {
        self.serving(text, |row| row.affinity = SECONDS)
    }

    /// With all three in the list.
    fn listed(self, fixture: Fixture) -> Fixture {
        self.case.row(fixture, |row| row.count = 3)
    }

    /// A table that names the backend of a slot everywhere; `first` is where it starts.
    fn table(self, text: &str, first: u32, slot: u32) -> Fixture {
        let fixture = self.serving(text, move |row| {
            row.flags |= maglev_flags(MAGLEV_SIZE);
            row.maglev = first;
        });
        fixture.world(move |world| fill(world, first, number(slot)))
    }

    /// A new connection gets the backend of this slot.
    fn gets(self, fixture: Fixture, slot: usize) -> Fixture {
        fixture
            .sends(self.site, self.request(SYN))
            .check(Check::Destination(self.backends[slot], BACKEND_PORT))
    }

    /// The connection is known to have the backend of this slot.
    fn knows(self, fixture: Fixture, slot: u32, flags: u16) -> Fixture {
        let asked = self.case.asked();
        fixture.prepare(move |trial| {
            let (key, _) = key(&asked, KIND_SERVICE);
            let row =
                CtRow { expires: coarse_seconds() + 500, backend: number(slot), flags, ..CtRow::default() };
            trial.lab.put_connection(&key, &row);
            trial.model.connections.insert(key, row);
        })
    }
}

fn fill(world: &mut World, first: u32, number: u32) {
    for place in first..(first + MAGLEV_SIZE).min(MAGLEV_ROWS) {
        world.maglev.insert(place, number);
    }
}

fn affinity(choice: Choice) -> Vec<Fixture> {
    let keeps = choice.case.keeps();
    let kept =
        |text: &str, slot: u32, seconds: u32| choice.keeping(text).affinity(keeps, number(slot), seconds);
    let notes = |fixture: Fixture, slot: u32| fixture.check(Check::Keeps(keeps, Some(number(slot))));
    let other = |text: &str, key: AffinityKey| choice.keeping(text).affinity(key, number(1), 5);
    vec![
        notes(choice.gets(choice.keeping("a new client is noted"), 0), 0),
        notes(choice.gets(choice.listed(kept("a client keeps its backend", 1, 10)), 1), 1),
        notes(
            choice.gets(choice.listed(kept("a client keeps its backend to the end", 1, SECONDS - 2)), 1),
            1,
        ),
        notes(choice.gets(kept("a client does not keep a backend that left the list", 1, 10), 0), 0),
        notes(choice.gets(kept("but not beyond", 1, SECONDS + 2), 0), 0),
        notes(
            choice.gets(
                kept("a client does not keep a backend that leaves", 1, 5).world(|world| {
                    world.backends.get_mut(&number(1)).expect("it is there").flags |= BACKEND_TERMINATING;
                }),
                0,
            ),
            0,
        ),
        notes(
            choice.gets(
                kept("a client does not keep a backend that is gone", 1, 5).world(|world| {
                    world.backends.remove(&number(1));
                }),
                0,
            ),
            0,
        ),
        choice
            .gets(choice.serving("a frontend without affinity notes nobody", |_| {}), 0)
            .check(Check::Keeps(keeps, None)),
        notes(choice.gets(choice.serving("nor reads a note", |_| {}).affinity(keeps, number(1), 5), 0), 1),
        choice.gets(
            other("another client's backend", AffinityKey { client: at::world(choice.case.family), ..keeps }),
            0,
        ),
        choice.gets(other("another frontend's backend", AffinityKey { rev_nat: REV_NAT + 1, ..keeps }), 0),
        choice.gets(other("a socket's backend", AffinityKey { is_cookie: 1, ..keeps }), 0),
        kept("without a slot a client keeps nothing", 1, 5)
            .world(move |world| {
                for row in world.frontends.values_mut().filter(|row| row.list == LIST) {
                    row.count = 0;
                }
            })
            .drops(choice.site, choice.request(SYN), drop::NO_SERVICE_BACKEND)
            .check(Check::Keeps(keeps, Some(number(1)))),
        // The same client from another port: another connection, the same backend.
        choice
            .gets(choice.listed(kept("every connection of a client", 2, 5)), 2)
            .sends(choice.site, {
                let place = (choice.case.frontend, super::case::PORT);
                let build = choice.case.packet((choice.case.client, CLIENT + 1), place, SYN);
                if matches!(choice.site, Site::From(_)) { build.from(A) } else { build }
            })
            .check(Check::Destination(choice.backends[2], BACKEND_PORT)),
    ]
}

/// The last second in which a client keeps its backend, and the first in which it does not.
fn to_the_second(choice: Choice) -> Vec<Fixture> {
    let kept = |text: &str, seconds: u32| {
        let early = |_: &mut Trial<'_>| settle(Duration::from_millis(600));
        choice.keeping(text).prepare(early).affinity(choice.case.keeps(), number(1), seconds)
    };
    vec![
        choice.gets(choice.listed(kept("the last second of what a client keeps", SECONDS)), 1),
        choice.gets(kept("the second after it", SECONDS + 1), 0),
    ]
}

fn tables(choice: Choice) -> Vec<Fixture> {
    let table = |text: &str, slot: u32| choice.table(text, 0, slot);
    vec![
        choice.gets(table("the table names the backend", 1), 1),
        choice.gets(
            choice.table("each frontend has its own place", MAGLEV_SIZE, 1).world(|world| {
                fill(world, 0, number(0));
                fill(world, MAGLEV_SIZE * 2, number(0));
            }),
            1,
        ),
        choice.gets(
            choice
                .serving("a frontend that does not ask the table", |row| row.maglev = 0)
                .world(|world| fill(world, 0, number(1))),
            0,
        ),
        choice.gets(
            choice.case.row(table("a table of another size", 1), |row| {
                row.flags ^= maglev_flags(MAGLEV_SIZE) ^ maglev_flags(2 * MAGLEV_SIZE);
            }),
            0,
        ),
        choice.gets(
            choice.case.row(table("a table of no size", 1), |row| {
                row.flags &= (1 << FRONTEND_MAGLEV_BITS) - 1;
            }),
            0,
        ),
        choice.gets(table("a table without backends", 1).world(|world| fill(world, 0, 0)), 0),
        choice.gets(
            table("a table of backends that are gone", 1).world(|world| {
                world.backends.remove(&number(1));
            }),
            0,
        ),
        choice.gets(choice.table("a table beyond the map", MAGLEV_ROWS, 1), 0),
        choice.gets(
            choice
                .case
                .row(table("what the client keeps comes before the table", 1), |row| {
                    row.affinity = SECONDS;
                    row.count = 3;
                })
                .affinity(choice.case.keeps(), number(2), 5),
            2,
        ),
        choice
            .gets(choice.case.row(table("what the table said is noted", 1), |row| row.affinity = SECONDS), 1)
            .check(Check::Keeps(choice.case.keeps(), Some(number(1)))),
        table("without a slot the table is not asked", 1)
            .world(move |world| {
                for row in world.frontends.values_mut().filter(|row| row.list == LIST) {
                    row.count = 0;
                }
            })
            .drops(choice.site, choice.request(SYN), drop::NO_SERVICE_BACKEND),
    ]
}

/// Connections that have their backend.
fn known(choice: Choice) -> Vec<Fixture> {
    let everything = |text: &str| {
        choice.case.row(choice.table(text, 0, 1), |row| row.affinity = SECONDS).affinity(
            choice.case.keeps(),
            number(1),
            5,
        )
    };
    let noted = Check::Keeps(choice.case.keeps(), Some(number(1)));
    let goes = |fixture: Fixture, flags: u8, slot: usize| {
        fixture
            .sends(choice.site, choice.request(flags))
            .check(Check::Destination(choice.backends[slot], BACKEND_PORT))
            .check(noted.clone())
    };
    let mut table = vec![
        goes(choice.knows(everything("a connection keeps its backend"), 2, 0), ACK, 2),
        goes(choice.knows(everything("and when it is opened once more"), 2, 0), SYN, 2),
        goes(
            choice.knows(everything("a connection keeps a backend that leaves"), 2, 0).world(|world| {
                world.backends.get_mut(&number(2)).expect("it is there").flags |= BACKEND_TERMINATING;
            }),
            ACK,
            2,
        ),
        goes(
            choice.knows(everything("a connection whose backend is gone chooses"), 2, 0).world(|world| {
                world.backends.remove(&number(2));
            }),
            ACK,
            1,
        ),
        choice
            .knows(everything("a connection needs no slot"), 2, 0)
            .world(move |world| {
                for row in world.frontends.values_mut().filter(|row| row.list == LIST) {
                    row.count = 0;
                }
            })
            .sends(choice.site, choice.request(ACK))
            .check(Check::Destination(choice.backends[2], BACKEND_PORT)),
    ];
    if choice.case.is_tcp {
        table.push(goes(choice.knows(everything("a SYN after FIN chooses"), 2, CT_CLOSING_FORWARD), SYN, 1));
        table.push(goes(
            choice.knows(everything("a SYN to a backend that leaves chooses"), 2, 0).world(|world| {
                world.backends.get_mut(&number(2)).expect("it is there").flags |= BACKEND_TERMINATING;
            }),
            SYN,
            1,
        ));
    }
    table
}

/// Both scopes have their own affinity and table, under one number.
fn inside(case: Case) -> Vec<Fixture> {
    let family = case.family;
    let case = Case { frontend: at::external(family), ..case };
    let choice = Choice {
        case: Case { client: A.ip(family), ..case },
        site: Site::From(A),
        backends: [B.ip(family), C.ip(family), at::remote_pod(family)],
    };
    let two = |text: &str, outer: fn(&mut FrontendRow), inner: fn(&mut FrontendRow)| {
        let fixture = choice.serving(text, move |row| {
            row.flags |= FRONTEND_TWO_SCOPES;
            outer(row);
        });
        fixture.world(move |world| {
            let mut row = world.frontends[&case.place(0)];
            (row.flags, row.affinity) = (0, 0);
            inner(&mut row);
            world.frontends.insert(case.place(SCOPE_INTERNAL), row);
            fill(world, 0, number(1));
        })
    };
    let keep: fn(&mut FrontendRow) = |row| row.affinity = SECONDS;
    let ask: fn(&mut FrontendRow) = |row| row.flags |= maglev_flags(MAGLEV_SIZE);
    vec![
        choice.gets(two("two scopes: the table is the inner row's", |_| {}, ask), 1),
        choice.gets(two("two scopes: the outer row's table is not asked", ask, |_| {}), 0),
        choice
            .gets(two("two scopes: the inner row notes", |_| {}, keep), 0)
            .check(Check::Keeps(choice.case.keeps(), Some(number(0)))),
        choice
            .gets(two("two scopes: the outer row does not", keep, |_| {}), 0)
            .check(Check::Keeps(choice.case.keeps(), None)),
    ]
}

#[test]
fn l1_clients_keep_their_backend() {
    super::run(Choice::all().flat_map(affinity).collect());
    // They wait for the clock: one client on either side is enough.
    super::run(Choice::all().take(2).flat_map(to_the_second).collect());
}

#[test]
fn l1_tables_name_backends() {
    super::run(Choice::all().flat_map(tables).collect());
    super::run(Case::all().flat_map(inside).collect());
}

#[test]
fn l1_known_connections_choose_nothing() {
    super::run(Choice::all().flat_map(known).collect());
}
