//! Looking again: the rows a plan was about, and those of them that nobody's wish explains.

use crate::driver::Scope;
use crate::plan::{Plan, Steps};
use crate::scope::Scopes;
use crate::state::{Resource, RowId};

fn names<K: Ord>(scope: &Scope<K>, key: &K) -> bool {
    match scope {
        Scope::All => true,
        Scope::Keys(keys) => keys.contains(key),
    }
}

macro_rules! again {
    ($(($field:ident, $resource:ident)),* $(,)?) => {
        impl Plan {
            /// The rows its steps are about: what to read to see whether they are as wanted now.
            pub fn scopes(&self) -> Scopes {
                let mut scopes = Scopes::none();
                for phase in &self.phases {
                    match &phase.steps {
                        $(Steps::$resource(list) => if let Scope::Keys(keys) = &mut scopes.$field {
                            keys.extend(list.steps.iter().map(|step| step.key().clone()));
                        },)*
                    }
                }
                scopes
            }

            /// Rows in the plan whose wish is not among the `changed`: somebody else changed the row.
            pub fn changed_by_others(&self, changed: &Scopes) -> Vec<RowId> {
                let mut rows = Vec::new();
                for phase in &self.phases {
                    match &phase.steps {
                        $(Steps::$resource(list) => {
                            let keys = list.steps.iter().map(|step| step.key());
                            rows.extend(
                                keys.filter(|key| !names(&changed.$field, key))
                                    .map(<crate::state::$resource as Resource>::id),
                            );
                        })*
                    }
                }
                rows
            }
        }
    };
}
crate::for_each_resource!(again);

#[cfg(test)]
mod tests {
    use crate::diff::diff;
    use crate::driver::Scope;
    use crate::scope::Scopes;
    use crate::state::{BackendId, BackendRow, DesiredState, ObservedState, Protocol, State};

    #[test]
    fn a_row_nobody_wished_to_change_was_changed_by_others() {
        let row = |port| BackendRow { addr: [10, 0, 0, 1].into(), port, proto: Protocol::TCP, flags: 0 };
        let mut before = State::default();
        before.backends.insert(BackendId(1), row(80), None);
        before.backends.insert(BackendId(2), row(81), None);
        let mut desired = DesiredState { state: before.clone(), ..DesiredState::default() };
        desired.state.backends.insert(BackendId(2), row(82), None);
        let mut seen = before.clone();
        seen.backends.remove(&BackendId(1));
        let plan = diff(&desired, &ObservedState::whole(seen));
        let others = plan.changed_by_others(&Scopes::between(&before, &desired.state));
        assert_eq!(others.iter().map(|id| id.key.as_str()).collect::<Vec<_>>(), ["1"]);
        assert_eq!(plan.scopes().backends, Scope::Keys([BackendId(1), BackendId(2)].into()));
    }
}
