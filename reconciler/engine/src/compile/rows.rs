//! What the stages write into: rows with their origins, and problems. Nothing is decided here.

use crate::problem::{Problem, Severity};
use crate::state::{Origin, OriginId, Origins, Resource, State, TableOf};

/// Rows and problems found so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    /// The rows.
    pub(super) state: State,
    /// Why they are wanted.
    pub(super) origins: Origins,
    /// What is wrong.
    pub(super) problems: Vec<Problem>,
}

impl Rows {
    /// The number of an origin, for [`Self::put`].
    pub(super) fn why(&mut self, origin: &Origin) -> OriginId {
        self.origins.add_ref(origin)
    }

    /// An empty set of rows whose origins are numbered by themselves.
    pub(super) fn of_part(part: u8) -> Self {
        Self { origins: Origins::of_part(part), ..Self::default() }
    }

    /// Takes over the rows of a part, which may go on being shared.
    pub(super) fn absorb(&mut self, part: Self) {
        self.state.absorb(part.state);
        self.origins.absorb(&part.origins);
        self.problems.extend(part.problems);
    }

    /// Sets a row; a row already there is replaced.
    pub(super) fn put<R: Resource>(&mut self, key: R::Key, row: R::Row, why: OriginId)
    where
        State: TableOf<R>,
    {
        self.state.table_mut().insert(key, row, why);
    }

    /// Something is not in force as written.
    pub(super) fn error(&mut self, origin: &Origin, message: String, hint: &str) {
        self.report(Severity::Error, origin, message, hint);
    }

    /// Something is worth a look.
    pub(super) fn warning(&mut self, origin: &Origin, message: String, hint: &str) {
        self.report(Severity::Warning, origin, message, hint);
    }

    fn report(&mut self, severity: Severity, origin: &Origin, message: String, hint: &str) {
        self.problems.push(Problem { severity, origin: origin.clone(), message, hint: hint.to_owned() });
    }
}

/// The origin of rows that come from a table of the configuration.
pub(super) fn config_origin(table: &str) -> Origin {
    Origin { object: "config".to_owned(), place: String::new(), rule: table.to_owned() }
}
