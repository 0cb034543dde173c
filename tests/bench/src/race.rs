//! Ways that run against each other: every round has one slice of each, in random order.

use crate::figure::{Figure, Goal, Verdict, short};
use crate::stats::{Chance, Interval, bootstrap, median};
use crate::traffic::{Path, Work};
use anyhow::Result;

/// Rounds to begin with.
pub(crate) const ROUNDS: usize = 20;
/// How far the A/A control may lie from 1.
const CONTROL: f64 = 0.02;

/// Slices of all ways.
pub(crate) struct Race<'a> {
    ways: Vec<Path<'a>>,
    work: Work,
    chance: Chance,
    rounds: Vec<Vec<f64>>,
}

impl<'a> Race<'a> {
    /// None ran yet.
    pub(crate) fn new(ways: Vec<Path<'a>>, work: Work) -> Self {
        Self { chance: Chance::new(ways.len() as u64), ways, work, rounds: Vec::new() }
    }

    /// Runs until there are so many rounds.
    ///
    /// # Errors
    /// A way failed: the race tells nothing.
    pub(crate) fn run(&mut self, until: usize) -> Result<()> {
        while self.rounds.len() < until {
            let mut order: Vec<usize> = (0..self.ways.len()).collect();
            self.chance.shuffle(&mut order);
            let mut round = vec![0.0; self.ways.len()];
            for way in order {
                round[way] = self.ways[way].slice(self.work)?;
            }
            self.rounds.push(round);
        }
        Ok(())
    }

    /// How many rounds there were.
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.len()
    }

    /// Of a way's slices to another's of the same round.
    pub(crate) fn ratio(&self, way: usize, to: usize) -> Interval {
        bootstrap(&self.rounds.iter().map(|round| round[way] / round[to]).collect::<Vec<_>>())
    }

    /// Whether two that are the same are found to be.
    pub(crate) fn is_steady(&self, again: usize, ours: usize) -> bool {
        (self.ratio(again, ours).mid - 1.0).abs() <= CONTROL
    }

    /// A way's median over all rounds, with its unit.
    pub(crate) fn value(&self, way: usize) -> String {
        let middle = median(&self.rounds.iter().map(|round| round[way]).collect::<Vec<_>>());
        match self.work {
            Work::RoundTrips | Work::Connections => format!("{} µs", short(middle / 1e3)),
            Work::Stream => format!("{} Gb/cpu-s", short(middle)),
        }
    }

    /// A way beside another, judged; `control` is another way's ratio that must be 1.
    pub(crate) fn judged(
        &self,
        id: (&'static str, &str),
        (way, to): (usize, usize),
        goal: Goal,
        control: (usize, usize),
    ) -> Figure {
        let against = format!("{} {}", self.ways[to].name, self.value(to));
        let mut figure = Figure::ratio(id, self.value(way), against, self.ratio(way, to), goal);
        if !self.is_steady(control.0, control.1) {
            let control = self.ratio(control.0, control.1).mid;
            figure.verdict = Verdict::Void(format!("A/A control {}", short(control)));
        }
        figure
    }

    /// A way beside another, for comparison.
    pub(crate) fn shown(&self, id: &'static str, name: String, (way, to): (usize, usize)) -> Figure {
        Figure {
            id,
            name,
            value: self.value(way),
            reference: format!("{} {}", self.ways[to].name, self.value(to)),
            number: self.ratio(way, to),
            goal: None,
            verdict: Verdict::None,
        }
    }
}

/// A figure that could not be measured.
pub(crate) fn void(id: (&'static str, &str), goal: Goal, why: String) -> Figure {
    let number = Interval { low: f64::NAN, mid: f64::NAN, high: f64::NAN };
    let mut figure = Figure::ratio(id, "-".into(), "-".into(), number, goal);
    figure.verdict = Verdict::Void(why);
    figure
}
