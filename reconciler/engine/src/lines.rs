//! Plans as people and machines read them: one row a line, sorted by the order of writes and then by
//! key, totals last.
//!
//! ```text
//! + backend 7: 10.0.0.1:80/TCP, because Service shop/cart (cart.yaml:12)
//! ~ frontend 10.96.0.10:80/TCP: list 4 of 2 …, was list 3 of 1 …, because Service shop/cart (cart.yaml:12)
//! - slot 3[0]: 6
//! … ipcache 10.0.0.9/32: remove waits: not yet synced: nodes
//! ? route: not read: permission denied
//! 1 to create, 1 to update, 1 to remove, 1 waiting, 1 kind not read
//! ```

use crate::driver::Step;
use crate::plan::{Plan, Steps, Verb, Withheld};
use crate::realise::{Outcome, Report};
use crate::state::{Kind, Origin, Resource, RowId};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;

/// One step in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// What is done.
    pub verb: Verb,
    /// To which kind of row.
    pub kind: Kind,
    /// To which row.
    pub key: String,
    /// The row wanted; empty if it is to go.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub row: String,
    /// The row seen; empty if there is none yet.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub seen: String,
    /// Why it is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<Origin>,
}

impl Line {
    fn of<R: Resource>(step: &Step<R>, because: Option<Origin>) -> Self {
        Self {
            verb: step.verb(),
            kind: R::KIND,
            key: step.key().to_string(),
            row: step.want().map(R::Row::to_string).unwrap_or_default(),
            seen: step.seen().map(R::Row::to_string).unwrap_or_default(),
            because,
        }
    }

    /// The row's name.
    pub fn id(&self) -> RowId {
        RowId { kind: self.kind, key: self.key.clone() }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}: ", self.verb.sign(), self.kind, self.key)?;
        match self.verb {
            Verb::Create => f.write_str(&self.row)?,
            Verb::Update => write!(f, "{}, was {}", self.row, self.seen)?,
            Verb::Remove => f.write_str(&self.seen)?,
        }
        match &self.because {
            Some(origin) => write!(f, ", because {origin}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.verb {
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Remove => "remove",
        };
        write!(f, "… {}: {verb} waits: {}", self.id, self.because)
    }
}

macro_rules! lines {
    ($(($field:ident, $resource:ident)),* $(,)?) => {
        impl Plan {
            /// Every step in words, sorted by the order of writes and then by key.
            pub fn lines(&self) -> Vec<Line> {
                let mut out = Vec::with_capacity(self.len());
                $({
                    let mut steps = Vec::new();
                    for phase in &self.phases {
                        if let Steps::$resource(list) = &phase.steps {
                            steps.extend(list.iter());
                        }
                    }
                    steps.sort_by(|(a, _), (b, _)| a.key().cmp(b.key()));
                    out.extend(
                        steps.into_iter().map(|(step, why)| Line::of(step, why.as_deref().cloned())),
                    );
                })*
                out
            }
        }
    };
}
crate::for_each_resource!(lines);

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.lines() {
            writeln!(f, "{line}")?;
        }
        for row in &self.withheld {
            writeln!(f, "{row}")?;
        }
        for (kind, why) in &self.unread {
            writeln!(f, "? {kind}: not read: {why}")?;
        }
        if self.is_settled() {
            return writeln!(f, "nothing to do");
        }
        let totals = self.totals();
        write!(f, "{} to create, {} to update, {} to remove", totals.create, totals.update, totals.remove)?;
        if !self.withheld.is_empty() {
            write!(f, ", {} waiting", self.withheld.len())?;
        }
        match self.unread.len() {
            0 => writeln!(f),
            1 => writeln!(f, ", 1 kind not read"),
            n => writeln!(f, ", {n} kinds not read"),
        }
    }
}

impl Serialize for Plan {
    /// As `steps`, `withheld`, `unread` and `totals`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Unread<'a> {
            kind: Kind,
            because: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            hint: &'a str,
        }
        #[derive(Serialize)]
        struct Document<'a> {
            steps: Vec<Line>,
            withheld: &'a [Withheld],
            unread: Vec<Unread<'a>>,
            totals: crate::plan::Totals,
        }
        let unread = self.unread.iter().map(|(kind, why)| Unread {
            kind: *kind,
            because: &why.message,
            hint: &why.hint,
        });
        Document {
            steps: self.lines(),
            withheld: &self.withheld,
            unread: unread.collect(),
            totals: self.totals(),
        }
        .serialize(serializer)
    }
}

impl fmt::Display for Report {
    /// What was not done, one row a line, then totals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, outcome) in &self.outcomes {
            match outcome {
                Outcome::Done => {}
                Outcome::Failed(error) => writeln!(f, "! {id}: {error}")?,
                Outcome::Skipped { because } => writeln!(f, "… {id}: {because}")?,
            }
        }
        writeln!(f, "{} done, {} failed, {} skipped", self.done(), self.failed(), self.skipped())
    }
}

#[cfg(test)]
mod tests {
    use crate::diff::diff;
    use crate::state::{
        Covered, DesiredState, MapKey, MapRow, ObservedState, Origin, Source, SourceSet, SysctlKey,
    };
    use cilium_abi::maps::MapType;

    /// One row to make, one to put right, one to take away, one that waits, one kind unread.
    fn plan() -> crate::plan::Plan {
        let sysctl = |name: &str| SysctlKey(name.to_owned());
        let map = MapRow { kind: MapType::Hash, key_size: 4, value_size: 8, max_entries: 16, flags: 0 };
        let synced = SourceSet::of(&[Source::Config]);
        let mut desired = DesiredState { synced, ..DesiredState::default() };
        let origin = Origin { object: "config".into(), place: "cilium.toml:3".into(), rule: "ipv4".into() };
        let why = Some(origin.into());
        desired.state.maps.insert(MapKey("m".into()), map, Option::clone(&why));
        desired.state.sysctls.insert(sysctl("b"), "1".into(), why);
        let mut observed = ObservedState::whole(Default::default());
        observed.state.sysctls.insert(sysctl("b"), "0".into(), None);
        observed.state.sysctls.insert(sysctl("a"), "0".into(), None);
        observed.state.link_ups.insert("lxc1".into(), crate::state::Present, None);
        observed.coverage.routes = Covered::default();
        diff(&desired, &observed)
    }

    #[test]
    fn people_read_rows_by_order_and_key_with_totals_last() {
        let want = "\
- sysctl a: 0
~ sysctl b: 1, was 0, because config ipv4 (cilium.toml:3)
+ map m: Hash key 4 row 8 max 16, because config ipv4 (cilium.toml:3)
… link-up lxc1: remove waits: not yet synced: endpoint records
? route: not read: not read in this pass
1 to create, 1 to update, 1 to remove, 1 waiting, 1 kind not read
";
        assert_eq!(plan().to_string(), want);
    }

    #[test]
    fn machines_read_the_same() {
        let json = serde_json::to_value(plan()).expect("plain structs serialise");
        assert_eq!(json["totals"]["update"], 1);
        assert_eq!(json["steps"][1]["verb"], "update");
        assert_eq!(json["steps"][1]["seen"], "0");
        assert_eq!(json["steps"][1]["because"]["place"], "cilium.toml:3");
        assert_eq!(json["withheld"][0]["id"]["kind"], "link-up");
        assert_eq!(json["unread"][0]["kind"], "route");
    }
}
