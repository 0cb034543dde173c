//! A table of rows with their origins, and the sources rows come from.

use super::Resource;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Index into [`Origins`]; 0 is "none", as for rows that were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OriginId(pub u32);

/// Why a row is wanted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    /// The object, as `Service shop/cart`, or `config`.
    pub object: String,
    /// Where it is written, as `cart.yaml:12`, or empty.
    pub place: String,
    /// The rule within it, or empty.
    pub rule: String,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.object)?;
        if !self.rule.is_empty() {
            write!(f, " {}", self.rule)?;
        }
        if !self.place.is_empty() {
            write!(f, " ({})", self.place)?;
        }
        Ok(())
    }
}

/// All origins of one compiled state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Origins {
    list: Vec<Origin>,
    index: BTreeMap<Origin, OriginId>,
}

impl Origins {
    /// The number of this origin, new or known.
    pub fn add(&mut self, origin: Origin) -> OriginId {
        if let Some(id) = self.index.get(&origin) {
            return *id;
        }
        self.list.push(origin.clone());
        let id = OriginId(u32::try_from(self.list.len()).expect("fewer than 2^32 objects fit in memory"));
        self.index.insert(origin, id);
        id
    }

    /// The origin with this number.
    pub fn find(&self, id: OriginId) -> Option<&Origin> {
        self.list.get((id.0 as usize).checked_sub(1)?)
    }

    /// All origins with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (OriginId, &Origin)> {
        self.list.iter().zip(1u32..).map(|(origin, n)| (OriginId(n), origin))
    }
}

/// A row and why it is there.
#[derive(Clone, Debug)]
pub struct Entry<R: Resource> {
    /// The row.
    pub row: R::Row,
    /// Why it is wanted; none for rows that were read.
    pub origin: OriginId,
}

/// Rows of one kind by key.
#[derive(Clone, Debug)]
pub struct Table<R: Resource> {
    rows: BTreeMap<R::Key, Entry<R>>,
}

impl<R: Resource> Default for Table<R> {
    fn default() -> Self {
        Self { rows: BTreeMap::new() }
    }
}

impl<R: Resource> PartialEq for Table<R> {
    /// Equality of keys and rows; origins do not count.
    fn eq(&self, other: &Self) -> bool {
        self.rows.len() == other.rows.len()
            && self.rows.iter().zip(&other.rows).all(|((k, a), (l, b))| k == l && a.row == b.row)
    }
}

impl<R: Resource> Table<R> {
    /// Sets a row; the old one is returned.
    pub fn insert(&mut self, key: R::Key, row: R::Row, origin: OriginId) -> Option<R::Row> {
        self.rows.insert(key, Entry { row, origin }).map(|e| e.row)
    }
    /// Removes a row.
    pub fn remove(&mut self, key: &R::Key) -> Option<Entry<R>> {
        self.rows.remove(key)
    }
    /// A row by key.
    pub fn find(&self, key: &R::Key) -> Option<&R::Row> {
        self.rows.get(key).map(|e| &e.row)
    }
    /// A row with its origin.
    pub fn entry(&self, key: &R::Key) -> Option<&Entry<R>> {
        self.rows.get(key)
    }
    /// All rows in the order of their keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&R::Key, &Entry<R>)> + Clone {
        self.rows.iter()
    }
    /// Rows whose keys are within the range.
    pub fn range(
        &self,
        range: impl std::ops::RangeBounds<R::Key>,
    ) -> impl Iterator<Item = (&R::Key, &Entry<R>)> {
        self.rows.range(range)
    }
    /// All keys in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &R::Key> + Clone {
        self.rows.keys()
    }
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
    /// Adds all rows of another table; where both have a key, the other's row counts.
    pub fn extend(&mut self, other: Self) {
        self.rows.extend(other.rows);
    }
}

impl<R: Resource> FromIterator<(R::Key, R::Row)> for Table<R> {
    fn from_iter<T: IntoIterator<Item = (R::Key, R::Row)>>(iter: T) -> Self {
        Self {
            rows: iter.into_iter().map(|(k, row)| (k, Entry { row, origin: OriginId::default() })).collect(),
        }
    }
}

/// Where desired rows come from. A row may be removed only when its sources have synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Source {
    /// `cilium.toml` and the devices of the host: always synced.
    Config = 0,
    /// Records of this node's CNI attachments.
    Endpoints = 1,
    /// Node and CiliumNode objects.
    Nodes = 2,
    /// Service, EndpointSlice and Pod objects.
    Services = 3,
    /// Policies, and what they select (namespaces, pods).
    Policies = 4,
    /// CiliumEndpoint and CiliumIdentity objects, pods of other nodes.
    Identities = 5,
}

impl Source {
    /// All of them.
    pub const LIST: &[Self] =
        &[Self::Config, Self::Endpoints, Self::Nodes, Self::Services, Self::Policies, Self::Identities];

    /// The name for operators.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Endpoints => "endpoint records",
            Self::Nodes => "nodes",
            Self::Services => "services",
            Self::Policies => "policies",
            Self::Identities => "identities",
        }
    }
}

/// A set of [`Source`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceSet(pub u8);

impl SourceSet {
    /// Every source.
    pub const ALL: Self = Self(0b11_1111);

    /// The set of these.
    pub const fn of(sources: &[Source]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < sources.len() {
            bits |= 1 << sources[i] as u8;
            i += 1;
        }
        Self(bits)
    }
    /// Whether every one of `other` is here.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// Those of `other` that are not here.
    pub fn lacking(self, other: Self) -> Vec<Source> {
        if self.contains(other) {
            return Vec::new();
        }
        Source::LIST.iter().copied().filter(|s| other.0 & !self.0 & (1 << *s as u8) != 0).collect()
    }
    /// This set and one more.
    pub const fn with(self, source: Source) -> Self {
        Self(self.0 | 1 << source as u8)
    }
}
