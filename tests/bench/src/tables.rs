//! M1: how even Maglev tables are, and how few slots move when a backend goes. Nothing is timed: the figures are
//! the same everywhere.

use crate::figure::{Figure, Goal};
use crate::stats::Interval;
use cilium_engine::maglev::{Member, Seed, TableSize, table};
use cilium_engine::state::Protocol;
use std::net::Ipv4Addr;

/// Sets of backends looked at for each size.
const SETS: u32 = 10;

fn members(set: u32, count: u32) -> Vec<Member> {
    (0..count)
        .map(|n| Member {
            addr: Ipv4Addr::from_bits(0x0a80_0000 + set * 4096 + n).into(),
            port: 8080,
            proto: Protocol::TCP,
            weight: 1,
        })
        .collect()
}

/// The fullest backend beyond the mean, as a share of it.
fn imbalance(slots: &[u32], count: u32) -> f64 {
    let mut sizes = vec![0u32; count as usize];
    for place in slots {
        sizes[*place as usize] += 1;
    }
    let mean = slots.len() as f64 / f64::from(count);
    f64::from(sizes.iter().copied().max().unwrap_or(0)) / mean - 1.0
}

/// Of the slots that the backend taken away did not have, the share that leads elsewhere without it.
fn moved(before: &[Member], slots: &[u32], gone: usize, size: TableSize, seed: &Seed) -> f64 {
    let mut left = before.to_vec();
    left.remove(gone);
    let after = table(&left, size, seed);
    let kept = slots.iter().zip(&after).filter(|(was, _)| **was as usize != gone);
    let (mut all, mut other) = (0u32, 0u32);
    for (was, now) in kept {
        all += 1;
        other += u32::from(before[*was as usize] != left[*now as usize]);
    }
    f64::from(other) / f64::from(all)
}

/// A hundred backends, of which each goes in turn: the share that moves on average, and at worst, and how uneven the
/// table is.
fn each_in_turn(size: TableSize, seed: &Seed) -> [f64; 3] {
    const COUNT: u32 = 100;
    let backends = members(SETS, COUNT);
    let filled = table(&backends, size, seed);
    let shares: Vec<f64> =
        (0..backends.len()).map(|gone| moved(&backends, &filled, gone, size, seed)).collect();
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    [mean, shares.into_iter().fold(0.0, f64::max), imbalance(&filled, COUNT)]
}

/// All goals; the first two are each about the worst of all sets.
pub(crate) fn run() -> Vec<Figure> {
    let (size, seed) = (TableSize::default(), Seed::default());
    let slots = size.get();
    let counts = [2, 3, 10, 50, slots / 100];
    let (mut uneven, mut needless) = (0.0f64, 0.0f64);
    for count in counts {
        for set in 0..SETS {
            let backends = members(set, count);
            let filled = table(&backends, size, &seed);
            uneven = uneven.max(imbalance(&filled, count));
            let gone = (set * count / SETS) as usize;
            needless = needless.max(moved(&backends, &filled, gone, size, &seed));
        }
    }
    let what = format!("{slots} slots, 2 to {} backends", slots / 100);
    let mut even = Figure::value(
        ("M1", "Maglev: the fullest backend beyond the mean"),
        "%",
        Interval::exact(uneven * 100.0),
        Goal::limit(1.0),
    );
    even.reference.clone_from(&what);
    let mut moves = Figure::value(
        ("M1", "Maglev: flows moved without need, one of N gone"),
        "%",
        Interval::exact(needless * 100.0),
        Goal::limit(2.0),
    );
    moves.reference = what;
    let mut out = vec![even, moves];
    let limits =
        [("moved on average", 1.6), ("moved at worst", 3.0), ("fullest backend beyond the mean", 0.5)];
    for ((name, limit), share) in limits.into_iter().zip(each_in_turn(size, &seed)) {
        let id = ("M1", format!("  100 backends, each gone in turn: {name}"));
        let mut figure = Figure::value(id, "%", Interval::exact(share * 100.0), Goal::limit(limit));
        figure.reference = format!("{slots} slots");
        out.push(figure);
    }
    out
}
