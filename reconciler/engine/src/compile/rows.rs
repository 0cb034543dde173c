//! What the stages write into. Nothing is decided here.
//!
//! ```text
//! a stage ─ makes ─▶ Rows (one key's, whole) ─ replaces those before ─▶ Edits ─▶ State
//! ```

use crate::problem::{Problem, Problems, Severity};
use crate::shared::Shared;
use crate::state::{Edit, Entry, Origin, Resource, State, TableOf, Why};

/// The rows of one key of a stage, and what is wrong with it.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    /// The rows.
    state: State,
    /// What is wrong.
    problems: Vec<Shared<Problem>>,
}

impl Rows {
    /// Sets a row; a row already there is replaced.
    pub(super) fn put<R: Resource>(&mut self, key: R::Key, row: R::Row, why: &Why)
    where
        State: TableOf<R>,
    {
        self.state.table_mut().insert(key, row, why.clone());
    }

    /// Something is not in force as written.
    pub(super) fn error(&mut self, origin: &Origin, message: String, hint: &str) {
        self.problems.push(error(origin, message, hint));
    }

    /// Something is worth a look.
    pub(super) fn warning(&mut self, origin: &Origin, message: String, hint: &str) {
        self.problems.push(warning(origin, message, hint));
    }
}

/// Something is not in force as written.
pub(super) fn error(origin: &Origin, message: String, hint: &str) -> Shared<Problem> {
    let (severity, origin, hint) = (Severity::Error, origin.clone(), hint.to_owned());
    Problem { severity, origin, message, hint }.into()
}

/// Something is worth a look.
pub(super) fn warning(origin: &Origin, message: String, hint: &str) -> Shared<Problem> {
    let (severity, origin, hint) = (Severity::Warning, origin.clone(), hint.to_owned());
    Problem { severity, origin, message, hint }.into()
}

/// Why, as rows hold it.
pub(super) fn because(origin: &Origin) -> Why {
    Some(origin.clone().into())
}

/// The origin of rows that come from a table of the configuration.
pub(super) fn config_origin(table: &str) -> Origin {
    Origin { object: "config".to_owned(), place: String::new(), rule: table.to_owned() }
}

/// The edits of one resource within [`Edits`].
pub(super) trait EditsOf<R: Resource> {
    fn edits(&mut self) -> &mut Vec<Edit<R>>;
}

macro_rules! edits {
    ($(($field:ident, $resource:ident)),* $(,)?) => {
        /// What makes of the state before the state that is wanted now.
        #[derive(Debug, Default)]
        pub(super) struct Edits {
            $($field: Vec<Edit<crate::state::$resource>>,)*
            problems: Problems,
        }

        $(impl EditsOf<crate::state::$resource> for Edits {
            fn edits(&mut self) -> &mut Vec<Edit<crate::state::$resource>> { &mut self.$field }
        })*

        impl Edits {
            /// Puts a key's rows in the place of those it had. Another key may take over a row: who sets it
            /// counts, not who removes it.
            pub(super) fn replace(&mut self, before: &mut Rows, now: Rows) {
                $(
                    self.$field.extend(before.state.$field.keys().map(|key| (key.clone(), None)));
                    self.$field.extend(
                        now.state.$field.iter().map(|(key, entry)| (key.clone(), Some(entry.clone()))),
                    );
                )*
                self.tell(&mut before.problems, now.problems);
                before.state = now.state;
            }

            /// Carries the edits out.
            pub(super) fn carry_out(self, state: &mut State) -> Problems {
                $(state.$field.edit(self.$field);)*
                self.problems
            }
        }
    };
}
crate::for_each_resource!(edits);

impl Edits {
    /// Nothing yet; these problems have been told so far.
    pub(super) fn after(problems: Problems) -> Self {
        Self { problems, ..Self::default() }
    }

    /// Sets a row.
    pub(super) fn set<R: Resource>(&mut self, key: R::Key, row: R::Row, why: &Why)
    where
        Self: EditsOf<R>,
    {
        self.edits().push((key, Some(Entry { row, why: why.clone() })));
    }

    /// Removes a row, unless it is set as well.
    pub(super) fn unset<R: Resource>(&mut self, key: R::Key)
    where
        Self: EditsOf<R>,
    {
        self.edits().push((key, None));
    }

    /// Tells problems in the place of others.
    pub(super) fn tell(&mut self, before: &mut Vec<Shared<Problem>>, now: Vec<Shared<Problem>>) {
        now.iter().for_each(|problem| self.problems.add(problem.clone()));
        before.iter().for_each(|problem| self.problems.remove(problem));
        *before = now;
    }

    /// What the sources found wrong.
    pub(super) fn follow(&mut self, before: &Problems, now: &Problems) {
        self.problems.follow(before, now);
    }
}
