//! Plans as people and machines read them: one row a line, sorted by the order of writes and then by
//! key, totals last. What goes with a frontend is one group for people (`gone`).
//!
//! ```text
//! + backend 7: 10.0.0.1:80/TCP, because Service shop/cart (cart.yaml:12)
//! ~ frontend 10.96.0.10:80/TCP: list 4 of 2 …, was list 3 of 1 …, because Service shop/cart (cart.yaml:12)
//! - slot 3[0]: 6, of 10.96.0.10:80/TCP to 10.0.0.9:80/TCP
//! … ipcache 10.0.0.9/32: remove waits: not yet synced: nodes
//! ? route: not read: permission denied
//! 1 to create, 1 to update, 1 to remove, 1 waiting, 1 kind not read
//! ```

mod gone;

use crate::driver::Step;
use crate::plan::{Plan, Steps, Verb, Withheld};
use crate::realise::{Outcome, Report};
use crate::state::{Kind, Origin, Resource, RowId};
use serde::{Deserialize, Serialize, Serializer};
use std::collections::HashSet;
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
    /// What a row that goes belongs to, where numbers do not tell.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub belongs: String,
    /// Why it is wanted; of one that goes, why it was, if that is known.
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
            belongs: String::new(),
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
        if !self.belongs.is_empty() {
            write!(f, ", {}", self.belongs)?;
        }
        match (&self.because, self.verb) {
            (Some(origin), Verb::Remove) => write!(f, ", was for {origin}"),
            (Some(origin), Verb::Create | Verb::Update) => write!(f, ", because {origin}"),
            (None, _) => Ok(()),
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
                        steps.into_iter().map(|(step, why)| Line::of(step, why.as_ref().map(crate::state::Reason::origin))),
                    );
                })*
                let mut belongs = gone::belongings(self);
                if !belongs.is_empty() {
                    for line in out.iter_mut().filter(|line| line.verb == Verb::Remove) {
                        line.belongs = belongs.remove(&line.id()).unwrap_or_default();
                    }
                }
                out
            }
        }
    };
}
crate::for_each_resource!(lines);

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups = gone::groups(self);
        let grouped: HashSet<&RowId> = groups.iter().flat_map(|group| &group.rows).collect();
        for line in self.lines() {
            if line.verb != Verb::Remove || !grouped.contains(&line.id()) {
                writeln!(f, "{line}")?;
            }
        }
        for group in &groups {
            write!(f, "{group}")?;
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
        BackendId, BackendRow, Covered, DesiredState, FrontendKey, FrontendRow, Kind, ListId, MapKey, MapRow,
        ObservedState, Origin, Present, Protocol, RevNatId, RevNatRow, SlotKey, Source, SourceRangeKey,
        SourceSet, State, SysctlKey, TableId,
    };
    use cilium_abi::lb::{FRONTEND_CLUSTER_IP, FRONTEND_SOURCE_RANGES, SCOPE_EXTERNAL};
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

    /// Two frontends of one list each, with a backend of their own and one that stays.
    fn removal() -> crate::plan::Plan {
        let backend =
            |n: u8| BackendRow { addr: [10, 0, 0, n].into(), port: 80, proto: Protocol::TCP, flags: 0 };
        let mut observed = ObservedState::whole(Default::default());
        let state = &mut observed.state;
        let front = |n: u8| FrontendKey {
            addr: [10, 96, 0, n].into(),
            port: 80,
            proto: Protocol::TCP,
            scope: SCOPE_EXTERNAL,
        };
        for n in [7, 8] {
            state.backends.insert(BackendId(n.into()), backend(n), None);
        }
        for (n, to) in [(1, vec![7, 8]), (2, vec![8])] {
            let (list, rev_nat) = (ListId(n.into()), RevNatId(n.into()));
            for (slot, id) in (0..).zip(&to) {
                state.slots.insert(SlotKey { list, slot }, BackendId(*id), None);
            }
            let flags = FRONTEND_CLUSTER_IP | FRONTEND_SOURCE_RANGES;
            let count = u16::try_from(to.len()).expect("few");
            let row = FrontendRow { list, count, rev_nat, flags, maglev: TableId(0), affinity: 0 };
            state.frontends.insert(front(n), row, None);
            state.rev_nats.insert(rev_nat, RevNatRow { addr: front(n).addr, port: 80 }, None);
            let net = "192.0.2.0/24".parse().expect("a prefix");
            state.source_ranges.insert(SourceRangeKey { rev_nat, net }, Present, None);
        }
        let all = [Source::Config, Source::Services, Source::Endpoints, Source::Identities, Source::Nodes];
        let mut desired = DesiredState { synced: SourceSet::of(&all), ..DesiredState::default() };
        desired.state.backends.insert(BackendId(8), backend(8), None);
        // A list that is replaced: its frontend stays.
        let lists = [ListId(3), ListId(4)];
        for (state, list) in [&mut observed.state, &mut desired.state].into_iter().zip(lists) {
            let row = FrontendRow {
                list,
                count: 1,
                rev_nat: RevNatId(3),
                flags: FRONTEND_CLUSTER_IP,
                maglev: TableId(0),
                affinity: 0,
            };
            state.frontends.insert(front(3), row, None);
            state.rev_nats.insert(RevNatId(3), RevNatRow { addr: front(3).addr, port: 80 }, None);
            state.slots.insert(SlotKey { list, slot: 0 }, BackendId(8), None);
        }
        diff(&desired, &observed)
    }

    #[test]
    fn what_goes_with_a_service_is_one_thing() {
        let want = "\
- slot 3[0]: 8, of 10.96.0.3:80/TCP to 10.0.0.8:80/TCP
+ slot 4[0]: 8
~ frontend 10.96.0.3:80/TCP: list 4 of 1 revnat 3 [ClusterIP, non-routable], was list 3 of 1 revnat 3 [ClusterIP, non-routable]
- no longer wanted: 2 frontends, 1 backend, 10 rows in all
-   10.96.0.1:80/TCP [ClusterIP, check source-range, non-routable] to 10.0.0.7:80/TCP, 10.0.0.8:80/TCP
-   10.96.0.2:80/TCP [ClusterIP, check source-range, non-routable] to 10.0.0.8:80/TCP
-   backend 10.0.0.7:80/TCP
1 to create, 1 to update, 11 to remove
";
        assert_eq!(removal().to_string(), want);

        // Whoever remembers what was wanted before says whose it was.
        let mut plan = removal();
        let mut before = State::default();
        for frontend in plan.lines().iter().filter(|line| line.kind == Kind::Frontend) {
            assert!(frontend.because.is_none());
        }
        let key = FrontendKey {
            addr: [10, 96, 0, 2].into(),
            port: 80,
            proto: Protocol::TCP,
            scope: SCOPE_EXTERNAL,
        };
        let row = FrontendRow {
            list: ListId(2),
            count: 1,
            rev_nat: RevNatId(2),
            flags: 0,
            maglev: TableId(0),
            affinity: 0,
        };
        let object = "Service shop/cart".to_owned();
        let origin = Origin { object, place: "cart.yaml:1".into(), rule: String::new() };
        before.frontends.insert(key, row, Some(origin.into()));
        plan.remember(&before);
        let text = plan.to_string();
        let cart =
            "- Service shop/cart (cart.yaml:1): 1 frontend, 0 backends, 4 rows in all\n-   10.96.0.2:80/TCP";
        assert!(text.contains(cart), "{text}");
        assert!(text.contains("- no longer wanted: 1 frontend, 1 backend, 6 rows in all\n"), "{text}");

        // Machines read every row, with what its numbers stand for.
        let line = |kind: Kind, key: &str| {
            let lines = plan.lines();
            let found = lines.iter().find(|line| line.kind == kind && line.key == key);
            found.map(ToString::to_string).unwrap_or_default()
        };
        assert_eq!(line(Kind::Slot, "1[1]"), "- slot 1[1]: 8, of 10.96.0.1:80/TCP to 10.0.0.8:80/TCP");
        assert_eq!(line(Kind::Backend, "7"), "- backend 7: 10.0.0.7:80/TCP, of 10.96.0.1:80/TCP");
        assert_eq!(line(Kind::RevNat, "2"), "- revnat 2: 10.96.0.2:80, of 10.96.0.2:80/TCP");
        assert!(line(Kind::SourceRange, "1 192.0.2.0/24").ends_with(", of 10.96.0.1:80/TCP"));
        assert!(
            line(Kind::Frontend, "10.96.0.2:80/TCP").ends_with(", was for Service shop/cart (cart.yaml:1)")
        );
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
