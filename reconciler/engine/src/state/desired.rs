//! The two sides of a comparison: what is wanted, and what was seen of it in this pass.
//!
//! Neither side is ever remembered as "what we wrote last": [`ObservedState`] holds only rows read in
//! this pass, and says for every kind how far the reading went.

use super::{Resource, SourceSet, State};
use crate::driver::{DriverError, Scope};
use std::collections::BTreeSet;

/// All rows wanted, and which sources have spoken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DesiredState {
    /// The rows, and why each is wanted.
    pub state: State,
    /// Sources that have synced: only rows whose every source is in here may be removed.
    pub synced: SourceSet,
}

/// All rows seen in this pass.
#[derive(Clone, Debug, Default)]
pub struct ObservedState {
    /// The rows.
    pub state: State,
    /// What was looked at, by kind.
    pub coverage: Coverage,
}

impl ObservedState {
    /// A state of which everything was read.
    pub fn whole(state: State) -> Self {
        Self { state, coverage: Coverage::all() }
    }
}

/// How far the rows of one kind were read.
#[derive(Clone, Debug)]
pub enum Covered<R: Resource> {
    /// Every row of ours: a row not seen is not there.
    All,
    /// These keys: of them, a row not seen is not there; of the others nothing is known.
    Keys(BTreeSet<R::Key>),
    /// Nothing: the kind gets no steps.
    Unread(DriverError),
}

impl<R: Resource> Covered<R> {
    /// Whether it is known if there is a row with this key.
    pub fn knows(&self, key: &R::Key) -> bool {
        match self {
            Self::All => true,
            Self::Keys(keys) => keys.contains(key),
            Self::Unread(_) => false,
        }
    }

    /// Whether nothing is known.
    pub fn is_unread(&self) -> bool {
        matches!(self, Self::Unread(_))
    }

    /// What is covered when this scope was read without error.
    pub fn of(scope: Scope<R::Key>) -> Self {
        match scope {
            Scope::All => Self::All,
            Scope::Keys(keys) => Self::Keys(keys),
        }
    }
}

impl<R: Resource> Default for Covered<R> {
    /// Nobody has looked yet.
    fn default() -> Self {
        Self::Unread(DriverError::new("not read in this pass"))
    }
}

macro_rules! coverage {
    ($(($field:ident, $resource:ident)),* $(,)?) => {
        /// What was looked at, by kind.
        #[derive(Clone, Debug, Default)]
        pub struct Coverage {
            $(#[doc = concat!("Of [`super::", stringify!($resource), "`].")] pub $field: Covered<super::$resource>,)*
        }

        $(impl CoverageOf<super::$resource> for Coverage {
            fn covered(&self) -> &Covered<super::$resource> { &self.$field }
            fn covered_mut(&mut self) -> &mut Covered<super::$resource> { &mut self.$field }
        })*

        impl Coverage {
            /// Everything.
            pub fn all() -> Self {
                Self { $($field: Covered::All,)* }
            }

            /// The kinds that could not be read, and why.
            pub fn unread(&self) -> Vec<(super::Kind, &DriverError)> {
                let mut out = Vec::new();
                $(if let Covered::Unread(why) = &self.$field {
                    out.push((super::Kind::$resource, why));
                })*
                out
            }
        }
    };
}
crate::for_each_resource!(coverage);

/// The part of a [`Coverage`] that is about one resource.
pub trait CoverageOf<R: Resource> {
    /// How far it was read.
    fn covered(&self) -> &Covered<R>;
    /// The same, to be set.
    fn covered_mut(&mut self) -> &mut Covered<R>;
}
