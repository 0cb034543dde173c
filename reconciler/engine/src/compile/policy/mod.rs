//! Policy rows: one content per set of rules that select some endpoint, shared by all endpoints so
//! selected.
//!
//! ```text
//! endpoint ── rules selecting its labels, ways (closed, open …) ──▶ content ──digest──▶ PolicyId
//! content × identities ── clauses about each peer ──▶ ladders ──▶ rows
//! ```
//! A number names one content: a digest over rules, never over who they mean. Identities that come and
//! go change rows in place; any other change is another content with another number.
//!
//! Kept by content and peer: all rows of a content that is new or has other rules are made, and of the
//! others those about identities that are others than before.

mod content;
mod ladder;
mod named;
mod portprefix;
mod rules;
mod select;
mod write;

pub(super) use content::Enforced;
pub(super) use rules::clause_origin;

use super::Pass;
use super::book::IdBook;
use super::identity::Identities;
use super::number::{NUMBERS, probe};
use super::rows::{Edits, because, error};
use super::view::{PolicyView, RuleView};
use crate::config::Config;
use crate::map::Map;
use crate::problem::Problem;
use crate::shared::Shared;
use crate::state::{
    Cookie, Digest, Direction, IdentityId, Policy, PolicyDigest, PolicyId, PolicyKey, PolicyRow, Protocol,
    State, Why,
};
use crate::world::{EndpointRecord, Labels, PodPort};
use content::{Content, Way};
use rules::Rules;
use select::{Catalogue, Chooser};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use write::{Batch, Writer};

/// What the stage tells the others.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// By endpoint number.
    pub(super) enforced: BTreeMap<u16, Enforced>,
    /// Rules by the number their rows carry.
    pub(super) rules: Map<Cookie, Shared<RuleView>>,
    /// Policies in use.
    pub(super) policies: Map<PolicyId, Shared<PolicyView>>,
}

/// A content with a number, as it was last written.
#[derive(Debug)]
struct Block {
    content: Arc<Content>,
    /// The first of its endpoints.
    why: Why,
    /// How many rows it needs.
    rows: usize,
    /// They are wanted: there is room.
    fits: bool,
    problems: Vec<Shared<Problem>>,
}

/// Policies, as they follow the world.
#[derive(Debug, Default)]
pub(super) struct Stage {
    begun: bool,
    rules: Rules,
    catalogue: Catalogue,
    records: Map<u16, Shared<EndpointRecord>>,
    endpoints: BTreeMap<u16, (IdentityId, Shared<Labels>)>,
    contents: BTreeMap<Subject, Arc<Content>>,
    named: named::Ports,
    blocks: BTreeMap<PolicyId, Block>,
    outcome: Outcome,
}

/// What a content depends on besides rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Subject {
    identity: IdentityId,
    labels: Shared<Labels>,
    /// Its named ports, where some rule on ingress names one.
    ports: Vec<PodPort>,
}

/// Endpoints by their content.
type Subjects = BTreeMap<Digest, (Arc<Content>, Vec<u16>)>;

impl Stage {
    /// What is in force for whom.
    pub(super) fn update(&mut self, pass: &Pass<'_>, identities: &Identities, edits: &mut Edits) -> &Outcome {
        let Pass { world, rules, config, book, site, moved, .. } = *pass;
        let rules_changed = self.rules.update(rules);
        if rules_changed || moved {
            self.rules.warn(!site.apiservers.is_empty(), edits);
        }
        let mut stale = self.catalogue.learn(&identities.known);
        let others = self.named.update(world, identities, self.rules.names);
        let ports_changed = !others.is_empty();
        stale.extend(others);
        stale.sort_unstable();
        stale.dedup();
        let first = !std::mem::replace(&mut self.begun, true);
        // Rows are explained by an endpoint's record.
        let same = self.records == world.endpoints && self.endpoints == identities.endpoints;
        if !first && !rules_changed && stale.is_empty() && !ports_changed && same {
            return &self.outcome;
        }
        self.records = world.endpoints.clone();
        self.endpoints.clone_from(&identities.endpoints);
        if rules_changed {
            self.contents.clear();
        }
        let subjects = self.subjects(config);
        let numbers = number_contents(subjects.values().map(|(content, _)| content), book);
        self.write(pass, &subjects, &numbers, &stale, edits);
        self.tell(&subjects, &numbers);
        &self.outcome
    }

    fn subjects(&mut self, config: &Config) -> Subjects {
        let mut known = std::mem::take(&mut self.contents);
        let mut subjects = Subjects::new();
        for (id, (identity, labels)) in &self.endpoints {
            let subject = Subject { identity: *identity, labels: labels.clone(), ports: self.named.own(*id) };
            let content = match self.contents.get(&subject) {
                Some(content) => content.clone(),
                None => {
                    let content = known.remove(&subject).unwrap_or_else(|| {
                        Arc::new(Content::of(&self.rules.list, *identity, labels, &subject.ports, config))
                    });
                    self.contents.insert(subject, content.clone());
                    content
                }
            };
            subjects.entry(content.hash.digest()).or_insert_with(|| (content, Vec::new())).1.push(*id);
        }
        subjects
    }

    fn write(
        &mut self,
        pass: &Pass<'_>,
        subjects: &Subjects,
        numbers: &BTreeMap<Digest, PolicyId>,
        stale: &[IdentityId],
        edits: &mut Edits,
    ) {
        let Pass { world, config, site, before, .. } = *pass;
        let used: BTreeSet<PolicyId> = numbers.values().copied().collect();
        let gone: Vec<PolicyId> = self.blocks.keys().filter(|id| !used.contains(id)).copied().collect();
        for id in gone {
            if let Some(mut block) = self.blocks.remove(&id) {
                edits.tell(&mut block.problems, Vec::new());
                clear(id, before, edits);
            }
        }
        let mut writer = Writer::new(Chooser::new(&self.catalogue, site, config, &self.named.of_peers));
        let (limit, mut written) = (config.bpf.policy_max as usize, 0);
        // In the order of the first endpoint of each, so that who is closed for want of room is certain.
        let mut order: Vec<&(Arc<Content>, Vec<u16>)> = subjects.values().collect();
        order.sort_by_key(|(_, endpoints)| endpoints.first().copied());
        for (content, endpoints) in order {
            let Some(id) = numbers.get(&content.hash.digest()).copied() else { continue };
            let origin = world.endpoints[&endpoints[0]].origin();
            let same = |b: &Block| b.fits && b.content.is(content) && b.why == because(&origin);
            let known = self.blocks.get(&id).filter(|block| same(block));
            let (batch, gone, rows, why) = match known {
                Some(block) => {
                    let gone: Vec<PolicyKey> =
                        stale.iter().flat_map(|peer| about(content, id, *peer, before)).collect();
                    let batch = writer.about(content, id, stale);
                    let rows = block.rows + batch.len() - gone.len();
                    (batch, Some(gone), rows, block.why.clone())
                }
                None => {
                    let batch = writer.all(content, id);
                    let rows = batch.len();
                    (batch, None, rows, because(&origin))
                }
            };
            // Half the map: the next content must fit beside this one until the endpoints have switched.
            let fits = rows <= limit / 2 && written + rows <= limit;
            let mut problems = Vec::new();
            if fits {
                match gone {
                    Some(gone) => gone.into_iter().for_each(|key| edits.unset::<Policy>(key)),
                    None => clear(id, before, edits),
                }
                put(content, id, &why, batch, edits);
                written += rows;
            } else {
                clear(id, before, edits);
                problems.push(error(
                    &origin,
                    format!(
                        "its policies need {rows} rows, and {written} of {limit} are taken: the endpoint is \
                         closed in the directions they are about"
                    ),
                    "raise `bpf.policy_max` to twice the rows needed or more, or let fewer rules select so much",
                ));
            }
            let block = Block { content: content.clone(), why, rows, fits, problems: Vec::new() };
            let mut told = self.blocks.insert(id, block).map(|block| block.problems).unwrap_or_default();
            edits.tell(&mut told, problems);
            self.blocks.entry(id).and_modify(|block| block.problems = told);
        }
    }

    fn tell(&mut self, subjects: &Subjects, numbers: &BTreeMap<Digest, PolicyId>) {
        self.outcome.rules = self.rules.views.clone();
        self.outcome.enforced.clear();
        let mut policies = BTreeMap::new();
        for (digest, (content, endpoints)) in subjects {
            let fits = |id: &&PolicyId| self.blocks.get(id).is_some_and(|block| block.fits);
            let policy = numbers.get(digest).filter(fits).copied();
            if let Some(id) = policy {
                let used = content.rules.iter().flat_map(|numbered| numbered.cookies.iter().copied());
                let endpoints = endpoints.clone();
                let view = PolicyView { digest: *digest, rules: used.collect(), endpoints };
                policies.insert(id, Shared::from(view));
            }
            let Content { ingress, egress, .. } = **content;
            let hints = if policy.is_some() { content.hints() } else { 0 };
            let enforced = Enforced { policy, ingress, egress, hints };
            self.outcome.enforced.extend(endpoints.iter().map(|id| (*id, enforced)));
        }
        self.outcome.policies = policies.into_iter().collect();
    }
}

/// Keys of a policy's rows about a peer, as they were wanted before.
fn about(content: &Content, policy: PolicyId, peer: IdentityId, before: &State) -> Vec<PolicyKey> {
    let ladder = |(direction, _): (Direction, Way)| {
        let first = PolicyKey { policy, direction, identity: peer, proto: Protocol(0), port: 0, port_len: 0 };
        let last = PolicyKey { proto: Protocol(u8::MAX), port: u16::MAX, port_len: u8::MAX, ..first };
        before.policies.range(first..=last).map(|(key, _)| *key)
    };
    content.ways().flat_map(ladder).collect()
}

/// Removes what was wanted before of a policy.
fn clear(policy: PolicyId, before: &State, edits: &mut Edits) {
    let first = PolicyKey {
        policy,
        direction: Direction::Ingress,
        identity: IdentityId(0),
        proto: Protocol(0),
        port: 0,
        port_len: 0,
    };
    for (key, _) in before.policies.range(first..).take_while(|(key, _)| key.policy == policy) {
        edits.unset::<Policy>(*key);
    }
    edits.unset::<PolicyDigest>(policy);
}

fn put(content: &Content, id: PolicyId, why: &Why, batch: Batch, edits: &mut Edits) {
    edits.set::<PolicyDigest>(id, content.hash.digest(), why);
    let clauses = content.rules.iter().flat_map(|numbered| numbered.cookies.iter().zip(&numbered.whys));
    let whys: HashMap<&Cookie, &Why> = clauses.collect();
    let explain = |row: &PolicyRow| whys.get(&row.cookie).copied().unwrap_or(why);
    for (key, row) in batch {
        edits.set::<Policy>(key, row, explain(&row));
    }
}

/// Numbers of contents that have rows: those in use stay.
fn number_contents<'c>(
    contents: impl Iterator<Item = &'c Arc<Content>>,
    book: &IdBook,
) -> BTreeMap<Digest, PolicyId> {
    let mut kept: BTreeMap<Digest, PolicyId> = BTreeMap::new();
    for (id, entry) in book.policies.iter().filter(|(id, _)| id.0 != 0) {
        kept.entry(entry.row).or_insert(*id);
    }
    let mut numbers = BTreeMap::new();
    let mut taken: BTreeSet<PolicyId> = BTreeSet::new();
    let mut fresh = Vec::new();
    for content in contents.filter(|c| c.ways().next().is_some()) {
        match kept.get(&content.hash.digest()) {
            Some(id) => {
                taken.insert(*id);
                numbers.insert(content.hash.digest(), *id);
            }
            None => fresh.push(content.hash),
        }
    }
    fresh.sort();
    for hash in fresh {
        let free = |n: u32| {
            let id = PolicyId(n);
            book.policies.find(&id).is_none() && !taken.contains(&id)
        };
        let id =
            PolicyId(probe(&hash, 1, NUMBERS, free).expect("fewer policies than 2^32 - 1 fit in memory"));
        taken.insert(id);
        numbers.insert(hash.digest(), id);
    }
    numbers
}
