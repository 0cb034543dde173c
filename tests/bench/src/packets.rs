//! D10: nanoseconds of the production programs for one packet, against the floors of the maps it touches.
//!
//! The packets and floors are those of the tests' budgets (`cilium_tests_kernel::l1::cost`); here they
//! are measured several times over, and each goal is about the dearest packet of its kind.

use crate::figure::{Figure, Goal, short};
use crate::stats::{bootstrap, median};
use anyhow::{Context, Result};
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

/// One line for each packet: its time against its limit, and its ratio to the floors.
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
