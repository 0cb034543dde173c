//! Ways that run against each other: every round has one slice of each, in random order; what is decided drops out.

use crate::figure::{Figure, Goal, Verdict, short};
use crate::stats::{Chance, Interval, bootstrap, median};
use crate::traffic::{Path, Work};
use anyhow::Result;

/// Rounds to begin with.
const ROUNDS: usize = 20;
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

    /// Runs until every goal is decided and the control (two that are the same) steady, or there are `most` rounds.
    /// Rounds double; after the first ones only those ways go on that an open goal is about.
    ///
    /// # Errors
    /// A way failed: the race tells nothing.
    pub(crate) fn decide(
        &mut self,
        goals: &[((usize, usize), Goal)],
        (again, ours): (usize, usize),
        most: usize,
    ) -> Result<()> {
        let mut among: Vec<usize> = (0..self.ways.len()).collect();
        let mut until = ROUNDS;
        loop {
            self.run(until, &among)?;
            let is_steady = self.is_steady(again, ours);
            let is_open = |(way, to): (usize, usize), goal: Goal| {
                goal.judge(self.ratio(way, to)) == Verdict::Inconclusive
            };
            let open = goals.iter().filter(|(ways, goal)| !is_steady || is_open(*ways, *goal));
            among = open.flat_map(|((way, to), _)| [*way, *to]).collect();
            if until >= most || among.is_empty() {
                return Ok(());
            }
            among.extend([again, ours]);
            among.sort_unstable();
            among.dedup();
            until *= 2;
        }
    }

    /// Runs some of the ways until there are so many rounds.
    fn run(&mut self, until: usize, among: &[usize]) -> Result<()> {
        while self.rounds.len() < until {
            let mut order = among.to_vec();
            self.chance.shuffle(&mut order);
            let mut round = vec![f64::NAN; self.ways.len()];
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

    /// Of what a round gives, where it has all of it.
    fn each(&self, of: impl Fn(&[f64]) -> f64) -> Vec<f64> {
        self.rounds.iter().map(|round| of(round)).filter(|number| number.is_finite()).collect()
    }

    /// Of a way's slices to another's of the same round.
    pub(crate) fn ratio(&self, way: usize, to: usize) -> Interval {
        bootstrap(&self.each(|round| round[way] / round[to]))
    }

    /// Whether two that are the same are found to be.
    pub(crate) fn is_steady(&self, again: usize, ours: usize) -> bool {
        (self.ratio(again, ours).mid - 1.0).abs() <= CONTROL
    }

    /// A way's median over all rounds, with its unit.
    pub(crate) fn value(&self, way: usize) -> String {
        let middle = median(&self.each(|round| round[way]));
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

    /// What a way takes beyond another, beside what a third does beyond a fourth, for comparison.
    pub(crate) fn beyond(
        &self,
        id: &'static str,
        name: String,
        (way, without): (usize, usize),
        (to, base): (usize, usize),
    ) -> Figure {
        let added =
            |more: usize, less: usize| short(median(&self.each(|round| round[more] - round[less])) / 1e3);
        Figure {
            id,
            name,
            value: format!("{} µs", added(way, without)),
            reference: format!(
                "{} beyond {}: {} µs",
                self.ways[to].name,
                self.ways[base].name,
                added(to, base)
            ),
            number: bootstrap(&self.each(|round| (round[way] - round[without]) / (round[to] - round[base]))),
            goal: None,
            verdict: Verdict::None,
        }
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
    let number = Interval::exact(f64::NAN);
    let mut figure = Figure::ratio(id, "-".into(), "-".into(), number, goal);
    figure.verdict = Verdict::Void(why);
    figure
}
