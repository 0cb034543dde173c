//! A figure, its goal and verdict; the table and the JSON of a run. Pure.

use crate::stats::Interval;
use serde_json::{Value, json};

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    /// Small numbers.
    Less,
    /// Large numbers.
    More,
}

/// What is to be reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    /// Which way is good.
    pub better: Better,
    /// Must be reached.
    pub must: f64,
    /// Is hoped for.
    pub stretch: Option<f64>,
}

impl Goal {
    /// At most `must`, and better `stretch`.
    pub(crate) const fn at_most(must: f64, stretch: f64) -> Self {
        Self { better: Better::Less, must, stretch: Some(stretch) }
    }

    /// At most `must`.
    pub(crate) const fn limit(must: f64) -> Self {
        Self { better: Better::Less, must, stretch: None }
    }

    /// At least `must`, and better `stretch`.
    pub(crate) const fn at_least(must: f64, stretch: f64) -> Self {
        Self { better: Better::More, must, stretch: Some(stretch) }
    }

    fn reached(self, bound: f64, interval: Interval) -> bool {
        match self.better {
            Better::Less => interval.high <= bound,
            Better::More => interval.low >= bound,
        }
    }

    fn missed(self, interval: Interval) -> bool {
        match self.better {
            Better::Less => interval.low > self.must,
            Better::More => interval.high < self.must,
        }
    }

    /// What an interval means.
    pub(crate) fn judge(self, interval: Interval) -> Verdict {
        if self.reached(self.must, interval) {
            match self.stretch {
                Some(stretch) if self.reached(stretch, interval) => Verdict::Stretch,
                _ => Verdict::Pass,
            }
        } else if self.missed(interval) {
            Verdict::Fail
        } else {
            Verdict::Inconclusive
        }
    }

    fn text(self) -> String {
        let sign = match self.better {
            Better::Less => '≤',
            Better::More => '≥',
        };
        let plain = |number: f64| format!("{}", (number * 1000.0).round() / 1000.0);
        let stretch = self.stretch.map_or_else(String::new, |stretch| format!(" ({})", plain(stretch)));
        format!("{sign} {}{stretch}", plain(self.must))
    }
}

/// What a figure means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The hope is reached too.
    Stretch,
    /// The goal is reached.
    Pass,
    /// It is not.
    Fail,
    /// The interval lies on both sides of the goal.
    Inconclusive,
    /// The run tells nothing, and why.
    Void(String),
    /// Shown for comparison.
    None,
}

impl Verdict {
    fn text(&self) -> String {
        match self {
            Self::Stretch => "pass (stretch)".into(),
            Self::Pass => "pass".into(),
            Self::Fail => "FAIL".into(),
            Self::Inconclusive => "inconclusive".into(),
            Self::Void(why) => format!("VOID: {why}"),
            Self::None => "-".into(),
        }
    }

    /// Whether a goal was missed, or an error met.
    pub(crate) const fn is_bad(&self) -> bool {
        matches!(self, Self::Fail | Self::Void(_))
    }
}

/// One line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// Number in the list of goals, as `D1`.
    pub id: &'static str,
    /// What was measured.
    pub name: String,
    /// The value, with its unit.
    pub value: String,
    /// What it is compared with, with its value.
    pub reference: String,
    /// The number the goal is about: the ratio, or the value where there is no reference.
    pub number: Interval,
    /// The goal.
    pub goal: Option<Goal>,
    /// The verdict.
    pub verdict: Verdict,
}

impl Figure {
    /// Judges a ratio to a reference.
    pub(crate) fn ratio(
        (id, name): (&'static str, impl Into<String>),
        value: String,
        reference: String,
        number: Interval,
        goal: Goal,
    ) -> Self {
        let verdict = goal.judge(number);
        Self { id, name: name.into(), value, reference, number, goal: Some(goal), verdict }
    }

    /// Judges a value on its own.
    pub(crate) fn value(
        (id, name): (&'static str, impl Into<String>),
        unit: &str,
        number: Interval,
        goal: Goal,
    ) -> Self {
        let value = format!("{} {unit}", short(number.mid));
        let verdict = goal.judge(number);
        Self { id, name: name.into(), value, reference: "-".into(), number, goal: Some(goal), verdict }
    }

    /// For comparison only.
    pub(crate) fn without_goal(self) -> Self {
        Self { goal: None, verdict: Verdict::None, ..self }
    }

    fn cells(&self) -> [String; 7] {
        let Interval { low, mid, high } = self.number;
        [
            self.id.to_owned(),
            self.name.clone(),
            self.value.clone(),
            self.reference.clone(),
            format!("{} [{}, {}]", short(mid), short(low), short(high)),
            self.goal.map_or_else(|| "-".into(), Goal::text),
            self.verdict.text(),
        ]
    }

    fn json(&self) -> Value {
        let goal = self.goal.map(|goal| json!({ "must": goal.must, "stretch": goal.stretch, "better": format!("{:?}", goal.better).to_lowercase() }));
        json!({
            "id": self.id, "name": self.name, "value": self.value, "reference": self.reference,
            "number": self.number.mid, "low": self.number.low, "high": self.number.high,
            "goal": goal, "verdict": self.verdict.text(),
        })
    }
}

/// A number with three significant digits or so.
pub(crate) fn short(number: f64) -> String {
    match number.abs() {
        n if n >= 100.0 => format!("{number:.0}"),
        n if n >= 10.0 => format!("{number:.1}"),
        n if n >= 1.0 => format!("{number:.3}"),
        0.0 => "0".into(),
        _ => format!("{number:.3}"),
    }
}

/// The table.
pub(crate) fn table(figures: &[Figure]) -> String {
    let head = ["#", "figure", "value", "reference", "ratio or value [95 %]", "goal (stretch)", "verdict"]
        .map(String::from);
    let rows: Vec<[String; 7]> = std::iter::once(head).chain(figures.iter().map(Figure::cells)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut out = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(widths) {
            out.push_str(cell);
            out.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out
}

/// The same for machines, with what the machine is.
pub(crate) fn json(figures: &[Figure]) -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let model = read("/proc/cpuinfo");
    let model = model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    json!({
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "cpu": model.trim_start_matches([' ', '\t', ':']),
        "cpus": cpus,
        "load": read("/proc/loadavg").trim(),
        "figures": figures.iter().map(Figure::json).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(low: f64, high: f64) -> Interval {
        Interval { low, mid: f64::midpoint(low, high), high }
    }

    #[test]
    fn a_verdict_needs_the_whole_interval() {
        let goal = Goal::at_most(1.0, 0.95);
        assert_eq!(goal.judge(at(0.90, 0.94)), Verdict::Stretch);
        assert_eq!(goal.judge(at(0.94, 0.99)), Verdict::Pass);
        assert_eq!(goal.judge(at(0.99, 1.01)), Verdict::Inconclusive);
        assert_eq!(goal.judge(at(1.01, 1.02)), Verdict::Fail);
        let goal = Goal::at_least(0.93, 0.98);
        assert_eq!(goal.judge(at(0.99, 1.2)), Verdict::Stretch);
        assert_eq!(goal.judge(at(0.80, 0.92)), Verdict::Fail);
        assert_eq!(goal.judge(at(0.92, 0.94)), Verdict::Inconclusive);
    }

    #[test]
    fn a_row_is_one_line_and_aligned() {
        let figure =
            |name: &str| Figure::value(("C12", name), "MiB", at(10.0, 10.0), Goal::at_most(24.0, 12.0));
        let text = table(&[figure("short"), figure("µ a longer name")]);
        let places: Vec<usize> =
            text.lines().skip(1).map(|line| line.chars().take_while(|c| *c != '≤').count()).collect();
        assert_eq!(places.len(), 2);
        assert_eq!(places[0], places[1]);
    }
}
