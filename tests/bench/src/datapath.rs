//! D1, D2, D4, D13: real traffic against the kernel's own forwarding, slice by slice in the same round.

use crate::figure::{Figure, Goal};
use crate::race::{Race, void};
use crate::topology::{self, Ours, Pair, Reference};
use crate::traffic::{Path, Work};
use anyhow::Result;

/// One goal measured by traffic.
pub(crate) struct Subject {
    /// Number and name.
    pub id: (&'static str, &'static str),
    /// What a slice does.
    pub work: Work,
    /// The goal, as a ratio to the reference.
    pub goal: Goal,
}

/// Measures one subject: a figure, and lines for the A/A control and for other ways. There are `most` rounds.
pub(crate) fn measure(
    subject: &Subject,
    reference: (&'static str, &Reference),
    ours: &[Pair; 2],
    others: &[(&'static str, &Reference)],
    most: usize,
) -> Vec<Figure> {
    let mut ways = vec![Path::new(reference.0, &reference.1.client, &reference.1.server)];
    for (pair, name) in ours.iter().zip(["ours", "ours again"]) {
        ways.push(Path::new(name, &pair.client.netns, &pair.server));
    }
    ways.extend(others.iter().map(|(name, other)| Path::new(name, &other.client, &other.server)));
    let named: Vec<&str> = others.iter().map(|(name, _)| *name).collect();
    let mut race = Race::new(ways, subject.work);
    eprintln!("bench: {}", subject.id.1);
    if let Err(e) = race.decide(&[((1, 0), subject.goal)], (2, 1), most) {
        return vec![void(subject.id, subject.goal, format!("{e:#}"))];
    }
    let id = subject.id.0;
    let mut out = vec![
        race.judged(subject.id, (1, 0), subject.goal, (2, 1)),
        race.shown(id, format!("  A/A control, {} rounds", race.rounds()), (2, 1)),
    ];
    out.extend(named.iter().zip(3..).map(|(name, way)| race.shown(id, format!("  {name}"), (way, 0))));
    out
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
        let rt = topology::route(&[])?;
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
