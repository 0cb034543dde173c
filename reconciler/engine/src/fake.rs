//! A kernel for tests: a [`State`] with faults. It keeps rows as they are given and knows nothing of what
//! they mean, so whatever order it is given is the order it shows.

use crate::driver::{Driver, DriverError, Rows, Scope, Step};
use crate::plan::Verb;
use crate::state::{Kind, Resource, RowId, State, TableOf};
use std::collections::{BTreeMap, BTreeSet};

/// What is called with the rows after every write.
pub type Witness<'a> = Box<dyn FnMut(&State, &RowId) + 'a>;

/// Rows, and what goes wrong with them.
#[derive(Default)]
pub struct FakeKernel<'a> {
    /// Rows that are recognisably ours.
    pub ours: State,
    /// Rows of others: never shown, never to be touched.
    pub others: State,
    /// Kinds that cannot be read.
    pub unreadable: BTreeSet<Kind>,
    /// Rows that cannot be written: how many times from now.
    pub failing: BTreeMap<RowId, usize>,
    /// After so many more writes it does nothing any more, as if the agent had been killed.
    pub killed_after: Option<usize>,
    /// Changes and removals of others' rows that were asked for (and refused).
    pub trespasses: Vec<RowId>,
    /// All writes carried out, in order.
    pub log: Vec<(Verb, RowId)>,
    /// Number of rows read.
    pub rows_read: usize,
    /// Looks at every state on the way.
    pub witness: Option<Witness<'a>>,
}

impl FakeKernel<'_> {
    /// With these rows of ours, and no faults.
    pub fn with(ours: State) -> Self {
        Self { ours, ..Self::default() }
    }

    /// Whether the agent has been killed.
    pub fn is_dead(&self) -> bool {
        self.killed_after == Some(0)
    }
}

impl<R: Resource> Driver<R> for FakeKernel<'_>
where
    State: TableOf<R>,
{
    fn observe(&mut self, scope: &Scope<R::Key>) -> Result<Rows<R>, DriverError> {
        if self.unreadable.contains(&R::KIND) {
            return Err(DriverError::new(format!("{} cannot be read", R::KIND)));
        }
        let table = TableOf::<R>::table(&self.ours);
        let rows: Vec<_> = match scope {
            Scope::All => table.iter().map(|(k, e)| (k.clone(), e.row.clone())).collect(),
            Scope::Keys(keys) => {
                keys.iter().filter_map(|k| Some((k.clone(), table.find(k)?.clone()))).collect()
            }
        };
        self.rows_read += rows.len();
        Ok(rows)
    }

    fn apply(&mut self, steps: &[Step<R>]) -> Vec<Result<(), DriverError>> {
        steps.iter().map(|step| self.write(step)).collect()
    }
}

impl FakeKernel<'_> {
    fn write<R: Resource>(&mut self, step: &Step<R>) -> Result<(), DriverError>
    where
        State: TableOf<R>,
    {
        let id = R::id(step.key());
        match &mut self.killed_after {
            Some(0) => return Err(DriverError::new("killed")),
            Some(n) => *n -= 1,
            None => {}
        }
        if let Some(times) = self.failing.get_mut(&id).filter(|times| **times > 0) {
            *times -= 1;
            return Err(DriverError::new(format!("{id} cannot be written")));
        }
        if TableOf::<R>::table(&self.others).find(step.key()).is_some() {
            if step.verb() != Verb::Create {
                self.trespasses.push(id.clone());
            }
            return Err(DriverError::new(format!("{id} is another's")));
        }
        let table = TableOf::<R>::table_mut(&mut self.ours);
        match step {
            Step::Create { key, row } | Step::Update { key, row, .. } => {
                table.insert(key.clone(), row.clone(), None);
            }
            Step::Remove { key, .. } => {
                table.remove(key);
            }
        }
        if let Some(witness) = &mut self.witness {
            witness(&self.ours, &id);
        }
        self.log.push((step.verb(), id));
        Ok(())
    }
}
