//! A table of rows with their origins, and the sources rows come from.

use super::Resource;
use crate::map::{self, Map};
use crate::shared::Shared;
use crate::world::{Name, RemoteEndpoint, Service};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeSet;

/// Why a row is wanted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

/// What a row comes from. Origins of what there are very many of are put into words when somebody asks.
#[derive(Clone, Debug)]
pub enum Reason {
    /// In words.
    Origin(Shared<Origin>),
    /// An endpoint elsewhere.
    Endpoint(Name, Shared<RemoteEndpoint>),
    /// A Service.
    Service(Name, Shared<Service>),
}

impl Reason {
    /// In words.
    pub fn origin(&self) -> Origin {
        match self {
            Self::Origin(origin) => Origin::clone(origin),
            Self::Endpoint(name, endpoint) => endpoint.origin(name),
            Self::Service(name, service) => service.origin(name),
        }
    }
}

impl PartialEq for Reason {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Origin(one), Self::Origin(other)) => one == other,
            (Self::Endpoint(one, a), Self::Endpoint(other, b)) => one == other && a.place == b.place,
            (Self::Service(one, a), Self::Service(other, b)) => one == other && a.place == b.place,
            (Self::Origin(_) | Self::Endpoint(..) | Self::Service(..), _) => self.origin() == other.origin(),
        }
    }
}

impl Eq for Reason {}

impl PartialOrd for Reason {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Reason {
    /// That of their words.
    fn cmp(&self, other: &Self) -> Ordering {
        if self == other { Ordering::Equal } else { self.origin().cmp(&other.origin()) }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.origin().fmt(f)
    }
}

impl From<Origin> for Reason {
    fn from(origin: Origin) -> Self {
        Self::Origin(origin.into())
    }
}

impl From<Shared<Origin>> for Reason {
    fn from(origin: Shared<Origin>) -> Self {
        Self::Origin(origin)
    }
}

/// Why a row is wanted; none for rows that were read.
pub type Why = Option<Reason>;

/// A row and why it is there.
#[derive(Clone, Debug)]
pub struct Entry<R: Resource> {
    /// The row.
    pub row: R::Row,
    /// Why it is wanted.
    pub why: Why,
}

impl<R: Resource> PartialEq for Entry<R> {
    /// Equality of rows: why they are there does not count.
    fn eq(&self, other: &Self) -> bool {
        self.row == other.row
    }
}

/// Rows of one kind by key. A clone shares the rows; so does what is changed since, all but the change.
#[derive(Clone, Debug)]
pub struct Table<R: Resource> {
    rows: Map<R::Key, Entry<R>>,
}

/// A row to be set, or removed.
pub type Edit<R> = (<R as Resource>::Key, Option<Entry<R>>);

impl<R: Resource> Default for Table<R> {
    fn default() -> Self {
        Self { rows: Map::default() }
    }
}

impl<R: Resource> PartialEq for Table<R> {
    fn eq(&self, other: &Self) -> bool {
        self.rows == other.rows
    }
}

impl<R: Resource> Table<R> {
    /// Sets a row; the old one is returned.
    pub fn insert(&mut self, key: R::Key, row: R::Row, why: Why) -> Option<R::Row> {
        self.rows.insert(key, Entry { row, why }).map(|e| e.row)
    }
    /// Removes a row.
    pub fn remove(&mut self, key: &R::Key) -> Option<Entry<R>> {
        self.rows.remove(key)
    }
    /// Whether both are the same rows in memory: equal without looking.
    pub fn shares(&self, other: &Self) -> bool {
        self.rows.shares(&other.rows)
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
    pub fn iter(&self) -> map::Iter<'_, R::Key, Entry<R>> {
        self.rows.iter()
    }
    /// Rows whose keys are within the range.
    pub fn range(&self, range: impl std::ops::RangeBounds<R::Key>) -> map::Iter<'_, R::Key, Entry<R>> {
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
    /// The keys whose rows differ, at the cost of what is not shared.
    pub fn changed(&self, now: &Self) -> BTreeSet<R::Key> {
        self.rows.differences(&now.rows).into_iter().map(|(key, ..)| key.clone()).collect()
    }
    /// Carries out edits; of several for one key, the last that sets it counts. What is as it should be,
    /// goes on being shared.
    pub fn edit(&mut self, mut edits: Vec<Edit<R>>) {
        edits.sort_by(|(a, x), (b, y)| a.cmp(b).then(x.is_some().cmp(&y.is_some())));
        // The last of a run of equal keys is kept, in place of the first.
        edits.dedup_by(|later, first| {
            later.0 == first.0 && {
                std::mem::swap(later, first);
                true
            }
        });
        edits.retain(|(key, entry)| match (self.rows.get(key), entry) {
            (None, None) => false,
            (Some(now), Some(entry)) => now.row != entry.row || now.why != entry.why,
            (Some(_), None) | (None, Some(_)) => true,
        });
        self.rows.edit(edits);
    }
}

impl<'a, R: Resource> IntoIterator for &'a Table<R> {
    type Item = (&'a R::Key, &'a Entry<R>);
    type IntoIter = map::Iter<'a, R::Key, Entry<R>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<R: Resource> FromIterator<(R::Key, R::Row)> for Table<R> {
    fn from_iter<T: IntoIterator<Item = (R::Key, R::Row)>>(iter: T) -> Self {
        Self { rows: iter.into_iter().map(|(key, row)| (key, Entry { row, why: None })).collect() }
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
