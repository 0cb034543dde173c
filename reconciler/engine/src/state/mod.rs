//! Rows of the host's state: what is wanted, and what was seen. Values only.
//!
//! [`crate::for_each_resource`] is the one list of resources, in the order of writes: ensure walks it down,
//! remove walks it up. A resource names its interfaces by name, never by ifindex: numbers belong to
//! the kernel, and the drivers translate on the way in and out.

mod desired;
mod endpoint;
mod host;
mod kind;
mod lb;
mod number;
mod policy;
mod program;
mod socket;
mod table;

pub use desired::{Coverage, CoverageOf, Covered, DesiredState, ObservedState};
pub use endpoint::*;
pub use host::*;
pub use kind::{Kind, RowId};
pub use lb::*;
pub use number::*;
pub use policy::*;
pub use program::*;
pub use socket::*;
pub use table::{Edit, Entry, Origin, Reason, Source, SourceSet, Table, Why};

use std::fmt::{Debug, Display};

/// One sort of thing the kernel holds for us: how to name, compare and order its rows.
pub trait Resource: Sized + Clone + Debug + 'static {
    /// Which kind it is.
    const KIND: Kind;
    /// What makes it *that* row.
    type Key: Ord + Clone + Debug + Display + Send + Sync;
    /// Everything else.
    type Row: Eq + Clone + Debug + Display + Send + Sync;

    /// Whether what was seen is as good as what is wanted.
    fn satisfied(want: &Self::Row, seen: &Self::Row) -> bool {
        want == seen
    }

    /// Kinds that [`Resource::requires`] may name; all of them come earlier in the order of writes.
    const NEEDS: &'static [Kind] = &[];

    /// Rows that must exist before this one is written, and may not go while it stands. A name may also
    /// be that of a group ([`Resource::groups`]): then every row of the group counts.
    fn requires(_key: &Self::Key, _row: &Self::Row) -> Vec<RowId> {
        Vec::new()
    }

    /// Groups this row is a member of, narrowest first.
    fn groups(_key: &Self::Key) -> Vec<RowId> {
        Vec::new()
    }

    /// Whether a row seen, though not what is wanted, still serves the rows that require it: they are
    /// then written even if updating it failed.
    fn serves(_want: &Self::Row, _seen: &Self::Row) -> bool {
        false
    }

    /// Sources that must have synced before this row is created or changed: a wish made from half the
    /// inputs must not open a pod, nor empty a frontend.
    fn settled_by(_key: &Self::Key, _row: &Self::Row) -> SourceSet {
        SourceSet::default()
    }

    /// The sources this row can come from: it is removed only when all of them have synced.
    fn sources(_key: &Self::Key, _row: &Self::Row) -> SourceSet;

    /// Whether a row seen may be removed at all: a driver shows strangers only where they stand in the way
    /// of a row that is wanted.
    fn is_ours(_seen: &Self::Row) -> bool {
        true
    }

    /// The name of a row across kinds.
    fn id(key: &Self::Key) -> RowId {
        RowId { kind: Self::KIND, key: key.to_string() }
    }
}

/// Calls `$callback!` with every resource: `(field, Type)`, in the order of writes.
#[macro_export]
macro_rules! for_each_resource {
    ($callback:ident) => {
        $callback! {
            (sysctls, Sysctl),
            (maps, BpfMap),
            (links, Link),
            (program_sets, ProgramSet),
            (runtimes, Runtime),
            (devices, Device),
            (attachments, Attachment),
            (pod_interfaces, PodInterface),
            (addresses, Address),
            (backends, Backend),
            (rev_nats, RevNat),
            (slots, Slot),
            (source_ranges, SourceRange),
            (maglev_tables, MaglevTable),
            (frontends, Frontend),
            (socket_programs, SocketProgram),
            (identity_digests, IdentityDigest),
            (policies, Policy),
            (policy_digests, PolicyDigest),
            (ipcache, Ipcache),
            (endpoints, Endpoint),
            (endpoint_configs, EndpointConfig),
            (link_ups, LinkUp),
            (routes, Route),
            (files, File),
        }
    };
}

macro_rules! state {
    ($(($field:ident, $resource:ident)),* $(,)?) => {
        /// All rows of one side, wanted or seen.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct State {
            $(#[doc = concat!("Rows of [`", stringify!($resource), "`].")] pub $field: Table<$resource>,)*
        }

        $(impl TableOf<$resource> for State {
            fn table(&self) -> &Table<$resource> { &self.$field }
            fn table_mut(&mut self) -> &mut Table<$resource> { &mut self.$field }
        })*

        impl State {
            /// Number of rows of a kind.
            pub fn count(&self, kind: Kind) -> usize {
                match kind { $(Kind::$resource => self.$field.len(),)* }
            }
            /// Number of rows of all kinds.
            pub fn len(&self) -> usize { 0 $(+ self.$field.len())* }
            /// Whether there is no row at all.
            pub fn is_empty(&self) -> bool { self.len() == 0 }
            /// Every row as `(id, row)` in the order of writes, for dumps and comparisons.
            pub fn lines(&self) -> Vec<(RowId, String)> {
                let mut out = Vec::new();
                $(for (key, entry) in self.$field.iter() {
                    out.push(($resource::id(key), entry.row.to_string()));
                })*
                out
            }
        }
    };
}
for_each_resource!(state);

/// The table of one resource within a [`State`].
pub trait TableOf<R: Resource> {
    /// Its rows.
    fn table(&self) -> &Table<R>;
    /// Its rows, to be changed.
    fn table_mut(&mut self) -> &mut Table<R>;
}
