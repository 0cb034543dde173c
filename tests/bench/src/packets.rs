//! D10, D12: nanoseconds of the production programs for one packet, against the floors of the maps it touches; of the
//! driver's program against the least that does the same in a driver.
//!
//! The packets and what they are compared with are those of the tests' budgets (`cilium_tests_kernel::l1::cost`);
//! here they are measured several times over, and each goal is about the dearest packet of its kind.

use crate::figure::{Figure, Goal, short};
use crate::stats::{bootstrap, median};
use anyhow::{Context, Result};
use cilium_tests_kernel::l1::cost::driver::{self, Driver, Frame, Ours};
use cilium_tests_kernel::l1::cost::{self, Cost, Sort};
use std::collections::BTreeMap;

/// Times everything is measured.
const ROUNDS: usize = 5;
/// How many times its floors a packet may take, and hopefully does.
const RATIO: (f64, f64) = (1.5, 1.15);
/// Nanoseconds of an empty program where the limits in nanoseconds were set.
const EMPTY: f64 = 19.0;
/// Nanoseconds that are hoped for of a packet of a known connection.
const ESTABLISHED: f64 = 80.0;

/// D10: one line for each packet, its time against its limit, and its ratio to the floors.
pub(crate) fn run() -> Result<Vec<Figure>> {
    let mut rounds: BTreeMap<(Sort, String), Vec<Cost>> = BTreeMap::new();
    let mut empties = Vec::new();
    for _ in 0..ROUNDS {
        // A namespace is entered for good: a thread of its own for each round.
        let measured = std::thread::spawn(cost::measure).join();
        let (floors, costs) = measured.ok().context("measuring packets panicked")?;
        empties.push(floors.empty);
        for cost in costs {
            rounds.entry((cost.sort, cost.name.clone())).or_default().push(cost);
        }
    }
    let slow = (median(&empties) / EMPTY).max(1.0);
    Ok(rounds.into_iter().map(|((sort, name), costs)| figure(sort, &name, &costs, slow)).collect())
}

/// A packet passes that is within its nanoseconds and within so many times its floors: whichever is less.
/// The limits in nanoseconds were set on a machine where an empty program took [`EMPTY`]; here it takes
/// `slow` times as long.
fn figure(sort: Sort, name: &str, costs: &[Cost], slow: f64) -> Figure {
    let all = |of: fn(&Cost) -> f64| costs.iter().map(of).collect::<Vec<_>>();
    let (net, floors) = (median(&all(|cost| cost.net)), median(&all(|cost| cost.floors)));
    let limit = sort.limit() * slow;
    let most = RATIO.0.min(limit / floors);
    let hope = match sort {
        Sort::Established => RATIO.1.min(ESTABLISHED * slow / floors),
        _ => RATIO.1,
    };
    let goal = Goal::at_most(most, hope.min(most));
    Figure::ratio(
        ("D10", name),
        format!("{} ns", short(net)),
        format!("floors {} ns, limit {} ns", short(floors), short(limit)),
        bootstrap(&all(|cost| cost.net / cost.floors)),
        goal,
    )
}

/// D12: the goal is about a packet of a known connection on its way to a backend elsewhere, beside the least that does the
/// same with one of its family. The others are shown beside that, and IPv4 beside the least that balances at all.
pub(crate) fn drivers() -> Result<Vec<Figure>> {
    let measured = std::thread::spawn(|| driver::measure(ROUNDS)).join();
    let rounds: Vec<Driver> = measured.ok().context("measuring drivers panicked")?;
    let names = rounds.first().map_or(0, |round| round.ours.len());
    let mut out = Vec::new();
    for place in 0..names {
        let line = |name: &str, least: &str, of: fn(&Driver, usize) -> f64| {
            let both = |pick: &dyn Fn(&Driver) -> f64| rounds.iter().map(pick).collect::<Vec<_>>();
            let net = median(&both(&|round| round.ours[place].net));
            Figure::ratio(
                ("D12", name),
                format!("{} ns", short(net)),
                format!("{least} {} ns", short(median(&both(&|round| of(round, place))))),
                bootstrap(&both(&|round| round.ours[place].net / of(round, place))),
                Goal::at_most(2.0, 1.3),
            )
        };
        let same = |name: &str| line(name, "least that does it", |round, place| round.ours[place].lending);
        let Ours { name, frame, .. } = &rounds[0].ours[place];
        if *frame == Frame::There {
            out.push(same(&format!("XDP, {name}")));
        } else {
            out.push(same(&format!("  {name}")).without_goal());
        }
        if place == 0 {
            let least = line("  beside the least without state", "it", |round, _| round.stateless);
            out.push(least.without_goal());
        }
    }
    Ok(out)
}
