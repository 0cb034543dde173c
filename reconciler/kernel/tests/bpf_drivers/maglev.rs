//! Maglev tables in their map: where each begins and ends, what drift looks like, and larger maps.

use crate::bench::{Dir, must, shape};
use cilium_abi::maps;
use cilium_engine::driver::{Driver, Scope, Step};
use cilium_engine::state::*;
use cilium_kernel::AttachMode;
use cilium_kernel::bpf::Bpf;

/// From one table to the next, as tables of 251 places have it.
const STRIDE: u32 = 252;

fn bpf(dir: &Dir, tables: u32) -> Bpf {
    let mut bpf = dir.bpf(AttachMode::Auto);
    let (key, row) = shape(&maps::MAGLEV, tables * STRIDE);
    must(&mut bpf, &[Step::<BpfMap>::Create { key, row }]);
    bpf
}

fn row(ids: impl IntoIterator<Item = u32>) -> MaglevRow {
    MaglevRow(ids.into_iter().map(BackendId).collect::<Vec<_>>().into())
}

/// A table of 251 places, with three backends from `first` on.
fn whole(first: u32) -> MaglevRow {
    row((0..251).map(|place| first + place % 3))
}

fn create(at: u32, row: &MaglevRow) -> Step<MaglevTable> {
    Step::Create { key: TableId(at), row: row.clone() }
}

fn all(bpf: &mut Bpf) -> Vec<(u32, MaglevRow)> {
    let seen = Driver::<MaglevTable>::observe(bpf, &Scope::All).unwrap();
    seen.into_iter().map(|(key, row)| (key.0, row)).collect()
}

/// Writes words as somebody else would.
fn meddle(dir: &Dir, at: u32, id: u32) {
    let map = aya::maps::MapData::from_pin(dir.map("cilium_maglev_v1")).unwrap();
    let mut map = aya::maps::Array::<_, u32>::try_from(aya::maps::Map::Array(map)).unwrap();
    map.set(at, id, 0).unwrap();
}

#[test]
fn tables_are_told_apart() {
    crate::root_or_skip!();
    let dir = Dir::new();
    let mut bpf = bpf(&dir, 4);
    assert_eq!(all(&mut bpf), []);
    let wanted = [(0, whole(10)), (STRIDE, whole(20)), (3 * STRIDE, whole(30))];
    let steps: Vec<_> = wanted.iter().map(|(at, row)| create(*at, row)).collect();
    for _ in 0..2 {
        must(&mut bpf, &steps);
        assert_eq!(all(&mut bpf), wanted);
    }
    let some = Scope::Keys([TableId(STRIDE), TableId(2 * STRIDE), TableId(1), TableId(9999)].into());
    let seen = Driver::<MaglevTable>::observe(&mut bpf, &some).unwrap();
    assert_eq!(seen, [(TableId(STRIDE), whole(20))], "the middle of a table is none, nor is free room");
    for _ in 0..2 {
        must(&mut bpf, &[Step::<MaglevTable>::Remove { key: TableId(STRIDE), seen: whole(20) }]);
        assert_eq!(all(&mut bpf), [wanted[0].clone(), wanted[2].clone()]);
    }
    let beyond =
        Driver::<MaglevTable>::apply(&mut bpf, &[create(4 * STRIDE, &whole(1)), create(STRIDE, &whole(2))]);
    assert!(
        beyond[0].as_ref().unwrap_err().message.contains("ends at place 1259, and the map has 1008"),
        "{beyond:?}"
    );
    assert_eq!(beyond[1], Ok(()));
}

#[test]
fn what_others_changed_is_mended_without_harm_to_neighbours() {
    crate::root_or_skip!();
    let dir = Dir::new();
    let mut bpf = bpf(&dir, 3);
    let wanted = [(0, whole(10)), (STRIDE, whole(20))];
    must(&mut bpf, &wanted.each_ref().map(|(at, row)| create(*at, row)));
    // What a pass does: writes, then removals of rows nobody wants.
    let mend = |bpf: &mut Bpf| {
        let seen = all(bpf);
        let (mut writes, mut removals) = (Vec::new(), Vec::new());
        for (at, row) in &wanted {
            match seen.iter().find(|(seen, _)| seen == at) {
                Some((_, is)) if is == row => {}
                Some((_, is)) => {
                    writes.push(Step::Update { key: TableId(*at), row: row.clone(), seen: is.clone() });
                }
                None => writes.push(create(*at, row)),
            }
        }
        for (at, is) in seen.iter().filter(|(at, _)| wanted.iter().all(|(other, _)| other != at)) {
            removals.push(Step::<MaglevTable>::Remove { key: TableId(*at), seen: is.clone() });
        }
        assert!(!writes.is_empty() || !removals.is_empty(), "it is seen");
        must(bpf, &writes);
        must(bpf, &removals);
        assert_eq!(all(bpf), wanted);
    };
    // A hole, at the beginning and within; another backend; two tables run into one; something in free room.
    for (at, id) in [(0, 0), (100, 0), (100, 77), (250, 0), (251, 5), (STRIDE, 0), (2 * STRIDE + 9, 3)] {
        meddle(&dir, at, id);
        mend(&mut bpf);
    }
}

#[test]
fn a_larger_map_keeps_its_tables() {
    crate::root_or_skip!();
    let dir = Dir::new();
    let mut bpf = bpf(&dir, 2);
    must(&mut bpf, &[create(STRIDE, &whole(10))]);
    let resize = |bpf: &mut Bpf, from: u32, to: u32| {
        let ((key, row), (_, seen)) = (shape(&maps::MAGLEV, to), shape(&maps::MAGLEV, from));
        must(bpf, &[Step::<BpfMap>::Update { key, row, seen }]);
    };
    resize(&mut bpf, 2 * STRIDE, 64 * STRIDE);
    assert_eq!(all(&mut bpf), [(STRIDE, whole(10))]);
    // In a smaller one part of a table is left; it is removed as any other.
    resize(&mut bpf, 64 * STRIDE, STRIDE + 9);
    let part = row((0..9).map(|place| 10 + place % 3));
    assert_eq!(all(&mut bpf), [(STRIDE, part.clone())]);
    let gone = [Step::<MaglevTable>::Remove { key: TableId(STRIDE), seen: whole(10) }];
    must(&mut bpf, &gone);
    assert_eq!(all(&mut bpf), []);
    // One that cannot be mapped has no tables, and is no error: it is about to be replaced.
    let (key, row) = shape(&maps::MAGLEV, 64);
    let old = MapRow { flags: 0, ..row };
    must(&mut bpf, &[Step::<BpfMap>::Create { key, row: old }]);
    assert_eq!(all(&mut bpf), []);
    assert!(Driver::<MaglevTable>::apply(&mut bpf, &[create(0, &whole(1))])[0].is_err());
}

/// Full reads and writes at the default size.
#[test]
fn as_many_tables_as_there_is_room_for() {
    crate::root_or_skip!();
    let dir = Dir::new();
    let mut bpf = dir.bpf(AttachMode::Auto);
    let (key, shape) = shape(&maps::MAGLEV, 128 * 16_382);
    must(&mut bpf, &[Step::<BpfMap>::Create { key, row: shape }]);
    let table = row((0..16_381).map(|place| 1 + place % 100));
    let steps: Vec<_> = (0..128).map(|n| create(n * 16_382, &table)).collect();
    let begun = std::time::Instant::now();
    must(&mut bpf, &steps);
    let written = begun.elapsed();
    let begun = std::time::Instant::now();
    assert_eq!(all(&mut bpf).len(), 128);
    println!("128 tables of 16381 places: written in {written:?}, read in {:?}", begun.elapsed());
}
