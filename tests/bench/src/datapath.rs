//! D1, D2, D4, D13: real traffic against the kernel's own forwarding, slice by slice in the same round.

use crate::figure::{Figure, Goal, Verdict, short};
use crate::stats::{Chance, Interval, bootstrap, median};
use crate::topology::{self, Ours, Pair, Reference};
use crate::traffic::{Path, Work};
use anyhow::Result;

/// Rounds to begin with.
const ROUNDS: usize = 20;
/// How far the A/A control may lie from 1.
const CONTROL: f64 = 0.02;

/// One goal measured by traffic.
pub(crate) struct Subject {
    /// Number and name.
    pub id: (&'static str, &'static str),
    /// What a slice does.
    pub work: Work,
    /// The goal, as a ratio to the reference.
    pub goal: Goal,
}

/// Slices of a subject over ways; the first is the reference, then ours, ours again, and others.
struct Race<'a> {
    ways: Vec<Path<'a>>,
    work: Work,
    chance: Chance,
    rounds: Vec<Vec<f64>>,
}

impl Race<'_> {
    fn run(&mut self, until: usize) -> Result<()> {
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

    fn ratio(&self, way: usize, to: usize) -> Interval {
        bootstrap(&self.rounds.iter().map(|round| round[way] / round[to]).collect::<Vec<_>>())
    }

    fn middle(&self, way: usize) -> f64 {
        median(&self.rounds.iter().map(|round| round[way]).collect::<Vec<_>>())
    }

    fn value(&self, way: usize) -> String {
        match self.work {
            Work::RoundTrips | Work::Connections => format!("{} µs", short(self.middle(way) / 1e3)),
            Work::Stream => format!("{} Gb/cpu-s", short(self.middle(way))),
        }
    }
}

fn is_steady(control: Interval) -> bool {
    (control.mid - 1.0).abs() <= CONTROL
}

/// Measures one subject: a figure, and lines for the A/A control and for other ways. Rounds double, up
/// to `most`, as long as the verdict is open or the control unsteady.
pub(crate) fn measure(
    subject: &Subject,
    reference: (&'static str, &Reference),
    ours: &[Pair; 2],
    others: &[(&'static str, &Reference)],
    most: usize,
) -> Vec<Figure> {
    let mut ways = vec![Path { name: reference.0, client: &reference.1.client, server: &reference.1.server }];
    for (pair, name) in ours.iter().zip(["ours", "ours again"]) {
        ways.push(Path { name, client: &pair.client.netns, server: &pair.server });
    }
    ways.extend(others.iter().map(|(name, other)| Path {
        name,
        client: &other.client,
        server: &other.server,
    }));
    let mut race =
        Race { ways, work: subject.work, chance: Chance::new(subject.id.0.len() as u64), rounds: Vec::new() };
    eprintln!("bench: {}", subject.id.1);
    let mut until = ROUNDS;
    loop {
        if let Err(e) = race.run(until) {
            return vec![void(subject, format!("{e:#}"))];
        }
        let open = subject.goal.judge(race.ratio(1, 0)) == Verdict::Inconclusive;
        if until >= most || (!open && is_steady(race.ratio(2, 1))) {
            break;
        }
        until *= 2;
    }
    let (number, control) = (race.ratio(1, 0), race.ratio(2, 1));
    let against = format!("{} {}", reference.0, race.value(0));
    let mut figure = Figure::ratio(subject.id, race.value(1), against, number, subject.goal);
    if !is_steady(control) {
        figure.verdict = Verdict::Void(format!("A/A control {}", short(control.mid)));
    }
    let line = |name: String, way: usize, to: usize| Figure {
        id: subject.id.0,
        name,
        value: race.value(way),
        reference: format!("{} {}", race.ways[to].name, race.value(to)),
        number: race.ratio(way, to),
        goal: None,
        verdict: Verdict::None,
    };
    let mut out = vec![figure, line(format!("  A/A control, {} rounds", race.rounds.len()), 2, 1)];
    out.extend((3..race.ways.len()).map(|way| line(format!("  {}", race.ways[way].name), way, 0)));
    out
}

fn void(subject: &Subject, why: String) -> Figure {
    let number = Interval { low: f64::NAN, mid: f64::NAN, high: f64::NAN };
    let mut figure = Figure::ratio(subject.id, "-".into(), "-".into(), number, subject.goal);
    figure.verdict = Verdict::Void(why);
    figure
}

/// The goals measured by traffic that are wanted, within a node and across.
pub(crate) fn run(ours: &Ours, wanted: &dyn Fn(&str) -> bool, most: usize) -> Result<Vec<Figure>> {
    let within = [
        Subject {
            id: ("D1", "pod to pod, round trip, p50"),
            work: Work::RoundTrips,
            goal: Goal::at_most(1.0, 0.95),
        },
        Subject {
            id: ("D2", "pod to pod, connection, p50"),
            work: Work::Connections,
            goal: Goal::at_most(1.05, 0.99),
        },
        Subject { id: ("D4", "pod to pod, stream"), work: Work::Stream, goal: Goal::at_least(0.93, 0.98) },
    ];
    let across = [
        Subject {
            id: ("D13", "VXLAN, round trip, p50"),
            work: Work::RoundTrips,
            goal: Goal::at_most(1.05, 0.97),
        },
        Subject {
            id: ("D13", "VXLAN, connection, p50"),
            work: Work::Connections,
            goal: Goal::at_most(1.05, 0.97),
        },
    ];
    let mut out = Vec::new();
    if within.iter().any(|subject| wanted(subject.id.0)) {
        let rt = topology::route()?;
        let tracked = topology::tracked();
        if let Err(e) = &tracked {
            eprintln!("bench: no figures with nf_conntrack: {e:#}");
        }
        let others: Vec<(&str, &Reference)> =
            tracked.iter().map(|other| ("rt with nf_conntrack", other)).collect();
        for subject in within.iter().filter(|subject| wanted(subject.id.0)) {
            out.extend(measure(subject, ("rt", &rt), &ours.within, &others, most));
        }
    }
    if across.iter().any(|subject| wanted(subject.id.0)) {
        let vxlan = topology::vxlan()?;
        for subject in across.iter().filter(|subject| wanted(subject.id.0)) {
            out.extend(measure(subject, ("vxlan+route", &vxlan), &ours.across, &[], most));
        }
    }
    Ok(out)
}
