//! What is wrong with an object or a row, for operators.

use crate::map::Map;
use crate::shared::Shared;
use crate::state::Origin;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// In force as written; worth a look.
    Warning,
    /// Not in force as written.
    Error,
}

/// A finding on an object. Compilation never fails: it reports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// How much it matters.
    pub severity: Severity,
    /// The object, where it is written, and the part of it.
    pub origin: Origin,
    /// What is wrong and what it means, lower case.
    pub message: String,
    /// What to do; empty if nothing is to be said.
    pub hint: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{severity}: {}: {}", self.origin, self.message)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, " (hint: {})", self.hint) }
    }
}

/// All that is wrong: each problem once, in order. A clone costs nothing.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    /// How often each was told: it is settled when nobody tells it any more.
    told: Map<Shared<Problem>, usize>,
}

impl Problems {
    /// Tells a problem.
    pub fn add(&mut self, problem: impl Into<Shared<Problem>>) {
        *self.told.get_or_default(problem) += 1;
    }

    /// Takes back what was told once.
    pub fn remove(&mut self, problem: &Problem) {
        match self.told.get_mut(problem) {
            Some(times) if *times > 1 => *times -= 1,
            Some(_) => drop(self.told.remove(problem)),
            None => {}
        }
    }

    /// Takes back what was told and is not told now, and tells what is new.
    pub fn follow(&mut self, before: &Self, now: &Self) {
        for (problem, before, now) in before.told.differences(&now.told) {
            match (before, now) {
                (None, Some(_)) => self.add(problem.clone()),
                (Some(_), None) => self.remove(problem),
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
    }

    /// The problems, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Problem> + Clone {
        self.told.keys().map(|problem| &**problem)
    }

    /// Those that are not in `before`.
    pub fn since<'a>(&'a self, before: &'a Self) -> Vec<&'a Problem> {
        let fresh = before.told.differences(&self.told).into_iter().filter(|(_, before, _)| before.is_none());
        fresh.map(|(problem, ..)| &**problem).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.told.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// Whether this is one of them.
    pub fn contains(&self, problem: &Problem) -> bool {
        self.told.contains_key(problem)
    }
}

impl PartialEq for Problems {
    /// The same problems, however often told.
    fn eq(&self, other: &Self) -> bool {
        self.told.shares(&other.told) || self.told.keys().eq(other.told.keys())
    }
}

impl<P: Into<Shared<Problem>>> FromIterator<P> for Problems {
    fn from_iter<I: IntoIterator<Item = P>>(problems: I) -> Self {
        let mut out = Self::default();
        out.extend(problems);
        out
    }
}

impl<P: Into<Shared<Problem>>> Extend<P> for Problems {
    fn extend<I: IntoIterator<Item = P>>(&mut self, problems: I) {
        problems.into_iter().for_each(|problem| self.add(problem));
    }
}

impl Serialize for Problems {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Problems {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Problem>::deserialize(deserializer)?.into_iter().collect())
    }
}
