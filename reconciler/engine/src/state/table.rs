//! A table of rows with their origins, and the sources rows come from.

use super::Resource;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Index into [`Origins`]; 0 is "none", as for rows that were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OriginId(pub u32);

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

/// Bits of an [`OriginId`] that count within one part.
const PART_BITS: u32 = 28;

/// Origins in the order they were added; the number of each counts from 1.
#[derive(Clone, Debug, Default)]
struct Section {
    list: Vec<Arc<Origin>>,
    index: HashMap<Arc<Origin>, OriginId>,
}

impl PartialEq for Section {
    /// The index follows from the list.
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

/// All origins of one compiled state, in parts: a part is numbered by itself, so that rows of one part
/// keep their numbers whatever the others hold. An origin in two parts has two numbers.
///
/// ```text
/// OriginId: part (4 bits) | place in the part, from 1 (28 bits)
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Origins {
    part: u32,
    own: Arc<Section>,
    others: BTreeMap<u32, Arc<Section>>,
}

impl Origins {
    /// Origins of this part, below 16; that of everything else is 0.
    pub fn of_part(part: u8) -> Self {
        Self { part: u32::from(part & 0xf), ..Self::default() }
    }

    /// The number of this origin, new or known.
    pub fn add(&mut self, origin: Origin) -> OriginId {
        match self.own.index.get(&origin) {
            Some(id) => *id,
            None => self.push(origin),
        }
    }

    /// The same without giving the origin away.
    pub fn add_ref(&mut self, origin: &Origin) -> OriginId {
        match self.own.index.get(origin) {
            Some(id) => *id,
            None => self.push(origin.clone()),
        }
    }

    fn push(&mut self, origin: Origin) -> OriginId {
        let section = Arc::make_mut(&mut self.own);
        let origin = Arc::new(origin);
        section.list.push(origin.clone());
        let place = u32::try_from(section.list.len()).ok().filter(|n| n >> PART_BITS == 0);
        let id = OriginId(self.part << PART_BITS | place.expect("fewer than 2^28 objects fit in memory"));
        section.index.insert(origin, id);
        id
    }

    /// Takes over another part, shared with whoever holds it.
    pub fn absorb(&mut self, other: &Self) {
        self.others.insert(other.part, other.own.clone());
    }

    /// The origin with this number.
    pub fn find(&self, id: OriginId) -> Option<&Origin> {
        self.shared(id).map(Arc::as_ref)
    }

    /// The same, to be kept.
    pub fn shared(&self, id: OriginId) -> Option<&Arc<Origin>> {
        let part = id.0 >> PART_BITS;
        let section = if part == self.part { Some(&self.own) } else { self.others.get(&part) };
        section?.list.get(((id.0 & !(u32::MAX << PART_BITS)) as usize).checked_sub(1)?)
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

/// Rows of one kind by key. A clone shares the rows until one of the two is changed.
#[derive(Clone, Debug)]
pub struct Table<R: Resource> {
    rows: Arc<BTreeMap<R::Key, Entry<R>>>,
}

impl<R: Resource> Default for Table<R> {
    fn default() -> Self {
        Self { rows: Arc::default() }
    }
}

impl<R: Resource> PartialEq for Table<R> {
    /// Equality of keys and rows; origins do not count.
    fn eq(&self, other: &Self) -> bool {
        self.shares(other)
            || self.rows.len() == other.rows.len()
                && self.rows.iter().zip(other.rows.iter()).all(|((k, a), (l, b))| k == l && a.row == b.row)
    }
}

impl<R: Resource> Table<R> {
    /// Sets a row; the old one is returned.
    pub fn insert(&mut self, key: R::Key, row: R::Row, origin: OriginId) -> Option<R::Row> {
        Arc::make_mut(&mut self.rows).insert(key, Entry { row, origin }).map(|e| e.row)
    }
    /// Removes a row.
    pub fn remove(&mut self, key: &R::Key) -> Option<Entry<R>> {
        Arc::make_mut(&mut self.rows).remove(key)
    }
    /// Whether both are the same rows in memory: equal without looking.
    pub fn shares(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.rows, &other.rows)
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
        if self.rows.is_empty() {
            *self = other;
        } else if !other.rows.is_empty() {
            Arc::make_mut(&mut self.rows).extend(Arc::unwrap_or_clone(other.rows));
        }
    }
}

impl<R: Resource> FromIterator<(R::Key, R::Row)> for Table<R> {
    fn from_iter<T: IntoIterator<Item = (R::Key, R::Row)>>(iter: T) -> Self {
        let entries = iter.into_iter().map(|(key, row)| (key, Entry { row, origin: OriginId::default() }));
        Self { rows: Arc::new(entries.collect()) }
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
