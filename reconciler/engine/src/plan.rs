//! A plan: steps in the order they are to be carried out. A value; it decides nothing and does nothing.
//!
//! ```text
//! Plan ── phases, in order ── Steps of one kind: parallel vectors of steps and reasons
//!   ├─ withheld: rows that differ, but must wait (unread, unsynced, still required)
//!   └─ unread: kinds nothing is known of
//! ```
//! How plans are read by people and machines: [`crate::lines`].

use crate::driver::{DriverError, Step};
use crate::order::{Gate, Pass, Stage};
use crate::state::{BackendId, BackendRow, FrontendKey, Kind, Resource, RowId, State, Why};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a step does to its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Makes it.
    Create,
    /// Makes it right.
    Update,
    /// Takes it away.
    Remove,
}

impl Verb {
    /// The sign in plans.
    pub const fn sign(self) -> char {
        match self {
            Self::Create => '+',
            Self::Update => '~',
            Self::Remove => '-',
        }
    }
}

impl<R: Resource> Step<R> {
    /// What it does.
    pub fn verb(&self) -> Verb {
        match self {
            Self::Create { .. } => Verb::Create,
            Self::Update { .. } => Verb::Update,
            Self::Remove { .. } => Verb::Remove,
        }
    }

    /// The row wanted; none if it is to go.
    pub fn want(&self) -> Option<&R::Row> {
        match self {
            Self::Create { row, .. } | Self::Update { row, .. } => Some(row),
            Self::Remove { .. } => None,
        }
    }

    /// The row seen; none if there is none yet.
    pub fn seen(&self) -> Option<&R::Row> {
        match self {
            Self::Create { .. } => None,
            Self::Update { seen, .. } | Self::Remove { seen, .. } => Some(seen),
        }
    }
}

/// Steps of one resource, to be handed to its driver as they stand.
#[derive(Clone, Debug)]
pub struct StepList<R: Resource> {
    /// The steps.
    pub steps: Vec<Step<R>>,
    /// Why, one for each step; of removals, why the row was wanted, if that is known.
    pub whys: Vec<Why>,
}

impl<R: Resource> Default for StepList<R> {
    fn default() -> Self {
        Self { steps: Vec::new(), whys: Vec::new() }
    }
}

impl<R: Resource> StepList<R> {
    /// One more.
    pub fn push(&mut self, step: Step<R>, why: Why) {
        self.steps.push(step);
        self.whys.push(why);
    }

    /// Steps with why they are wanted.
    pub fn iter(&self) -> impl Iterator<Item = (&Step<R>, &Why)> {
        self.steps.iter().zip(&self.whys)
    }
}

macro_rules! steps {
    ($(($field:ident, $resource:ident)),* $(,)?) => {
        /// Steps of one kind.
        #[derive(Clone, Debug)]
        pub enum Steps {
            $(#[doc = concat!("Of [`crate::state::", stringify!($resource), "`].")]
            $resource(StepList<crate::state::$resource>),)*
        }

        $(impl From<StepList<crate::state::$resource>> for Steps {
            fn from(list: StepList<crate::state::$resource>) -> Self { Self::$resource(list) }
        })*

        impl Steps {
            /// Their kind.
            pub fn kind(&self) -> Kind {
                match self { $(Self::$resource(_) => Kind::$resource,)* }
            }
            /// How many.
            pub fn len(&self) -> usize {
                match self { $(Self::$resource(list) => list.steps.len(),)* }
            }
            /// How many of this verb.
            pub fn count(&self, verb: Verb) -> usize {
                match self {
                    $(Self::$resource(list) => list.steps.iter().filter(|s| s.verb() == verb).count(),)*
                }
            }
            /// Says of what goes why it was wanted, as far as that is known.
            fn remember(&mut self, before: &State) {
                match self {
                    $(Self::$resource(list) => {
                        for (step, why) in list.steps.iter().zip(&mut list.whys) {
                            if let (Step::Remove { key, .. }, None) = (step, &why) {
                                *why = before.$field.entry(key).and_then(|entry| entry.why.clone());
                            }
                        }
                    })*
                }
            }
            /// The rows they are about, in the order of the steps.
            pub fn ids(&self) -> Vec<RowId> {
                match self {
                    $(Self::$resource(list) => {
                        list.steps.iter().map(|s| <crate::state::$resource as Resource>::id(s.key())).collect()
                    })*
                }
            }
        }
    };
}
crate::for_each_resource!(steps);
impl Steps {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Steps that may be carried out at once: none depends on another of the same phase.
#[derive(Clone, Debug)]
pub struct Phase {
    /// Its place in the order.
    pub stage: Stage,
    /// Which failures keep its steps back.
    pub gate: Gate,
    /// The steps.
    pub steps: Steps,
}

impl Phase {
    /// The kind of its rows.
    pub fn kind(&self) -> Kind {
        self.steps.kind()
    }

    /// Which half of the pass.
    pub fn pass(&self) -> Pass {
        self.stage.pass
    }
}

/// Why a row that differs is left alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Withheld {
    /// The row.
    pub id: RowId,
    /// What would be done.
    pub verb: Verb,
    /// Why not yet.
    pub because: String,
}

/// What a pass is to do. Empty is the goal.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// In the order they are to be carried out.
    pub phases: Vec<Phase>,
    /// Rows that must wait, in the order of writes.
    pub withheld: Vec<Withheld>,
    /// Kinds nothing is known of, and why.
    pub unread: Vec<(Kind, DriverError)>,
    /// Where slots that go lead to.
    pub backends: BTreeMap<BackendId, BackendRow>,
}

impl Plan {
    /// Whether there is nothing to do. (Rows may still be waiting: see [`Plan::is_settled`].)
    pub fn is_empty(&self) -> bool {
        self.phases.iter().all(|p| p.steps.is_empty())
    }

    /// Whether there is nothing to do, nothing waits, and everything was read.
    pub fn is_settled(&self) -> bool {
        self.is_empty() && self.withheld.is_empty() && self.unread.is_empty()
    }

    /// Number of steps.
    pub fn len(&self) -> usize {
        self.phases.iter().map(|p| p.steps.len()).sum()
    }

    /// Says of rows that go why they were wanted before.
    pub fn remember(&mut self, before: &State) {
        self.phases.iter_mut().for_each(|phase| phase.steps.remember(before));
    }

    /// Frontends that go, and nobody is known who wanted them.
    pub fn orphans(&mut self) -> impl Iterator<Item = (&FrontendKey, &mut Why)> {
        let lists = self.phases.iter_mut().filter_map(|phase| match &mut phase.steps {
            Steps::Frontend(list) => Some(list),
            _ => None,
        });
        lists.flat_map(|list| list.steps.iter().zip(&mut list.whys)).filter_map(|(step, why)| match step {
            Step::Remove { key, .. } if why.is_none() => Some((key, why)),
            Step::Create { .. } | Step::Update { .. } | Step::Remove { .. } => None,
        })
    }

    /// Number of steps by kind and verb; absent: none.
    pub fn counts(&self) -> BTreeMap<(Kind, Verb), usize> {
        let mut counts = BTreeMap::new();
        for phase in &self.phases {
            for verb in [Verb::Create, Verb::Update, Verb::Remove] {
                let n = phase.steps.count(verb);
                if n > 0 {
                    *counts.entry((phase.kind(), verb)).or_default() += n;
                }
            }
        }
        counts
    }

    /// Number of steps by verb.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for ((_, verb), n) in self.counts() {
            match verb {
                Verb::Create => totals.create += n,
                Verb::Update => totals.update += n,
                Verb::Remove => totals.remove += n,
            }
        }
        totals
    }
}

/// Number of steps by verb.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Rows made.
    pub create: usize,
    /// Rows made right.
    pub update: usize,
    /// Rows taken away.
    pub remove: usize,
}
