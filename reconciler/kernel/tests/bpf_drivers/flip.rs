//! The flip of a frontend from one set of backends to another is one write: who reads the frontend's row and
//! then follows it meets all of one set, never some of both.
//!
//! `CILIUM_TEST_LONG=1`: 100 000 flips instead of 10 000.

use crate::bench::{Dir, must, shape};
use aya::maps::{Array, HashMap, Map, MapData};
use cilium_abi::lb::{self, FRONTEND_EXTERNAL, maglev_flags};
use cilium_abi::maps;
use cilium_engine::driver::Step;
use cilium_engine::state::*;
use cilium_kernel::AttachMode;
use std::sync::atomic::{AtomicBool, Ordering};
use zerocopy::{FromBytes, IntoBytes};

/// Places of a table.
const PLACES: u32 = 251;
/// Places that a reader looks at.
const LOOKS: [u32; 6] = [0, 1, 50, 125, 249, 250];

type Bytes<const N: usize> = [u8; N];
const KEY: usize = size_of::<lb::FrontendKey>();
const ROW: usize = size_of::<lb::FrontendRow>();
const SLOT: usize = size_of::<lb::SlotKey>();

fn flips() -> u32 {
    let long = std::env::var_os("CILIUM_TEST_LONG").is_some_and(|value| !value.is_empty() && value != "0");
    if long { 100_000 } else { 10_000 }
}

/// What a set of backends is: all that a reader meets says which one it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Set(u32);

impl Set {
    /// Two to five backends.
    fn count(self) -> u32 {
        2 + self.0 % 4
    }
    fn backend(self, n: u32) -> BackendId {
        BackendId(self.0 * 16 + 1 + n)
    }
    fn of_backend(id: u32) -> Self {
        Self((id - 1) / 16)
    }
    fn list(self) -> ListId {
        ListId(self.0 + 1)
    }
    /// One of three places, in turn.
    fn table(self) -> TableId {
        TableId(self.0 % 3 * (PLACES + 1))
    }
    fn row(self) -> FrontendRow {
        FrontendRow {
            list: self.list(),
            count: u16::try_from(self.count()).unwrap(),
            rev_nat: RevNatId(7),
            flags: FRONTEND_EXTERNAL | maglev_flags(PLACES),
            maglev: self.table(),
            affinity: self.0,
        }
    }
    fn slots(self) -> impl Iterator<Item = (SlotKey, BackendId)> {
        (0..self.count()).map(move |slot| (SlotKey { list: self.list(), slot }, self.backend(slot)))
    }
    fn places(self) -> MaglevRow {
        MaglevRow((0..PLACES).map(|place| self.backend(place % self.count())).collect::<Vec<_>>().into())
    }
}

fn key() -> FrontendKey {
    FrontendKey { addr: [203, 0, 113, 1].into(), port: 80, proto: Protocol::TCP, scope: 0 }
}

struct Reader {
    frontends: HashMap<MapData, Bytes<KEY>, Bytes<ROW>>,
    slots: HashMap<MapData, Bytes<SLOT>, u32>,
    places: Array<MapData, u32>,
}

/// What reading comes to.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Sets met whole.
    whole: u64,
    /// The frontend had gone on meanwhile.
    late: u64,
    /// How often another set was met than before.
    turns: u64,
    /// The one met last.
    last: u32,
}

impl Reader {
    fn new(dir: &Dir) -> Self {
        let open = |name: &str| MapData::from_pin(dir.map(name)).unwrap();
        Self {
            frontends: Map::HashMap(open("cilium_frontend_v2")).try_into().unwrap(),
            slots: Map::HashMap(open("cilium_slot_v1")).try_into().unwrap(),
            places: Map::Array(open("cilium_maglev_v1")).try_into().unwrap(),
        }
    }

    fn frontend(&self) -> lb::FrontendRow {
        let FrontendKey { addr, port, proto, scope } = key();
        let key =
            lb::FrontendKey { addr: addr.into(), port: cilium_abi::Be16::new(port), proto: proto.0, scope };
        let key: Bytes<KEY> = key.as_bytes().try_into().unwrap();
        let row = self.frontends.get(&key, 0).expect("the frontend is always there");
        lb::FrontendRow::read_from_bytes(&row).unwrap()
    }

    fn slot(&self, list: u32, slot: u32) -> Option<u32> {
        let key: Bytes<SLOT> = lb::SlotKey { list, slot }.as_bytes().try_into().unwrap();
        self.slots.get(&key, 0).ok()
    }

    /// Follows the frontend once, as `follow` does; what is wrong with what it meets.
    fn look(&self, follow: Follow, tally: &mut Tally) -> Result<(), String> {
        let row = self.frontend();
        let set = Set(row.affinity);
        let want = set.row();
        // The row itself is of one set.
        if (row.list, row.count, row.maglev) != (want.list.0, want.count, want.maglev.0) {
            return Err(format!("a mixed row: {row:?}"));
        }
        let met = follow(self, &row);
        if self.frontend() != row {
            // What it led to may be gone by now; a program that began before has long ended.
            tally.late += 1;
            return Ok(());
        }
        for id in met {
            let id = id.filter(|id| *id != 0).ok_or_else(|| format!("{set:?} is not whole"))?;
            if Set::of_backend(id) != set {
                return Err(format!("a mixture: backend {id} in {set:?}"));
            }
        }
        tally.whole += 1;
        tally.turns += u64::from(tally.last != set.0);
        tally.last = set.0;
        Ok(())
    }
}

/// Backends met behind a row.
type Follow = fn(&Reader, &lb::FrontendRow) -> Vec<Option<u32>>;

fn by_list(reader: &Reader, row: &lb::FrontendRow) -> Vec<Option<u32>> {
    (0..u32::from(row.count)).map(|slot| reader.slot(row.list, slot)).collect()
}

fn by_table(reader: &Reader, row: &lb::FrontendRow) -> Vec<Option<u32>> {
    LOOKS.iter().map(|place| reader.places.get(&(row.maglev + place), 0).ok()).collect()
}

#[test]
fn a_reader_never_meets_a_mixture() {
    crate::root_or_skip!();
    let dir = Dir::new();
    let mut bpf = dir.bpf(AttachMode::Auto);
    for (spec, room) in [(&maps::FRONTEND, 64), (&maps::SLOT, 64), (&maps::MAGLEV, 3 * (PLACES + 1))] {
        let (key, row) = shape(spec, room);
        must(&mut bpf, &[Step::<BpfMap>::Create { key, row }]);
    }
    let lists =
        |set: Set| -> Vec<Step<Slot>> { set.slots().map(|(key, row)| Step::Create { key, row }).collect() };
    must(&mut bpf, &lists(Set(0)));
    must(&mut bpf, &[Step::<MaglevTable>::Create { key: Set(0).table(), row: Set(0).places() }]);
    must(&mut bpf, &[Step::<Frontend>::Create { key: key(), row: Set(0).row() }]);
    let done = AtomicBool::new(false);
    let read = |follow: Follow| {
        let (reader, mut tally) = (Reader::new(&dir), Tally::default());
        while !done.load(Ordering::Relaxed) {
            reader.look(follow, &mut tally)?;
        }
        Ok::<_, String>(tally)
    };
    let tallies = std::thread::scope(|scope| {
        let follows: [Follow; 2] = [by_list, by_table];
        let readers = follows.map(|follow| scope.spawn(move || read(follow)));
        for n in 1..=flips() {
            let (old, new) = (Set(n - 1), Set(n));
            if readers.iter().any(|reader| reader.is_finished()) {
                break;
            }
            must(&mut bpf, &lists(new));
            must(&mut bpf, &[Step::<MaglevTable>::Create { key: new.table(), row: new.places() }]);
            must(&mut bpf, &[Step::<Frontend>::Update { key: key(), row: new.row(), seen: old.row() }]);
            let gone: Vec<Step<Slot>> = old.slots().map(|(key, seen)| Step::Remove { key, seen }).collect();
            must(&mut bpf, &[Step::<MaglevTable>::Remove { key: old.table(), seen: old.places() }]);
            must(&mut bpf, &gone);
        }
        done.store(true, Ordering::Relaxed);
        readers.map(|reader| reader.join().expect("it does not panic"))
    });
    println!("{} flips; readers of lists and of tables: {tallies:?}", flips());
    for tally in tallies {
        let tally = tally.expect("each set is met whole");
        assert!(tally.turns > 100, "it met too few sets to tell: {tally:?}");
    }
}

/// The test's own test: what a writer that changes lists where they are would leave is seen.
#[test]
fn a_list_changed_where_it_is_would_be_seen() {
    crate::root_or_skip!();
    let dir = Dir::new();
    let mut bpf = dir.bpf(AttachMode::Auto);
    for (spec, room) in [(&maps::FRONTEND, 64), (&maps::SLOT, 64), (&maps::MAGLEV, 3 * (PLACES + 1))] {
        let (key, row) = shape(spec, room);
        must(&mut bpf, &[Step::<BpfMap>::Create { key, row }]);
    }
    let other = |(key, row): (SlotKey, BackendId)| Step::<Slot>::Create {
        key,
        row: if key.slot == 1 { Set(6).backend(1) } else { row },
    };
    must(&mut bpf, &Set(5).slots().map(other).collect::<Vec<_>>());
    must(&mut bpf, &[Step::<Frontend>::Create { key: key(), row: Set(5).row() }]);
    let reader = Reader::new(&dir);
    let mixed = reader.look(by_list, &mut Tally::default()).unwrap_err();
    assert!(mixed.contains("a mixture"), "{mixed}");
    let empty = reader.look(by_table, &mut Tally::default()).unwrap_err();
    assert!(empty.contains("not whole"), "{empty}");
}
