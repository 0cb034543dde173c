//! The only seam to the outside: how rows of one kind are read and written.
//!
//! Drivers live in `cilium-kernel`; the property tests use a fake. A driver never decides: it reads the
//! rows that are recognisably ours, and carries out steps, each of which may run twice.

use crate::state::Resource;
use std::collections::BTreeSet;
use std::fmt;

/// Which rows to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope<K> {
    /// All that are ours.
    All,
    /// Only these keys; a key without a row is simply not returned.
    Keys(BTreeSet<K>),
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<R: Resource> {
    /// There is no such row yet.
    Create {
        /// The key.
        key: R::Key,
        /// The row wanted.
        row: R::Row,
    },
    /// There is a row, and it is not good enough.
    Update {
        /// The key.
        key: R::Key,
        /// The row wanted.
        row: R::Row,
        /// The row seen.
        seen: R::Row,
    },
    /// The row must go. Gone already is success.
    Remove {
        /// The key.
        key: R::Key,
        /// The row seen.
        seen: R::Row,
    },
}

impl<R: Resource> Step<R> {
    /// The key it is about.
    pub fn key(&self) -> &R::Key {
        match self {
            Self::Create { key, .. } | Self::Update { key, .. } | Self::Remove { key, .. } => key,
        }
    }
}

/// Why rows could not be read, or a step not carried out.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DriverError {
    /// Operation and reason, lower case: `create veth lxc12: permission denied (EPERM)`.
    pub message: String,
    /// What the operator can do; empty if nothing.
    pub hint: String,
}

impl DriverError {
    /// Without a hint.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: String::new() }
    }
    /// With a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, " (hint: {})", self.hint) }
    }
}

impl std::error::Error for DriverError {}

/// Rows with their keys.
pub type Rows<R> = Vec<(<R as Resource>::Key, <R as Resource>::Row)>;

/// Reads and writes rows of one kind.
pub trait Driver<R: Resource> {
    /// The rows that are ours within the scope. An error leaves the kind unread: it gets no steps.
    fn observe(&mut self, scope: &Scope<R::Key>) -> Result<Rows<R>, DriverError>;

    /// Carries out the steps in order, as many at once as the kernel can take; one result per step.
    fn apply(&mut self, steps: &[Step<R>]) -> Vec<Result<(), DriverError>>;
}

macro_rules! host {
    ($(($field:ident, $resource:ident)),* $(,)?) => {
        /// A driver for every kind.
        pub trait Host: $(Driver<crate::state::$resource> +)* {}
        impl<T: $(Driver<crate::state::$resource> +)*> Host for T {}
    };
}
crate::for_each_resource!(host);
