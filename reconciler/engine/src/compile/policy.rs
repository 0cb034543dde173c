//! Policy rows: one content per set of rules that select some endpoint, shared by all endpoints so
//! selected.
//!
//! ```text
//! endpoint ── rules selecting its labels, ways (closed, open …) ──▶ content ──digest──▶ PolicyId
//! content × identities ── clauses about each peer ──▶ ladders ──▶ rows
//! ```
//! A number names one content: a digest over rules, never over who they mean. Identities that come and
//! go change rows in place; any other change is another content with another number.

use super::book::IdBook;
use super::identity::Identities;
use super::ladder::{Ladder, Rung};
use super::number::{ContentHash, probe};
use super::rows::{Rows, config_origin};
use super::select::{Chooser, Peers};
use super::site::Site;
use super::view::{PolicyView, RuleView, ViewWay};
use crate::config::{Config, Enforcement};
use crate::state::{
    Cookie, Digest, Direction, IdentityId, Origin, OriginId, Policy, PolicyDigest, PolicyId, PolicyKey,
    PolicyRow,
};
use crate::world::{Clause, Entity, Labels, Peer, PeerSet, PolicyRule, PortSet, RuleVerdict, Subject, World};
use cilium_abi::endpoint::{CONFIG_OPEN_EGRESS, CONFIG_OPEN_INGRESS};
use cilium_abi::identity as number;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// How one direction of an endpoint is subject to policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// Not at all.
    Open,
    /// What no rule denies is allowed.
    Denied,
    /// What no rule allows is denied.
    Closed,
}

/// What is in force for an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Enforced {
    /// Whose rows apply; `None`: none, closed where not open.
    pub(super) policy: Option<PolicyId>,
    ingress: Way,
    egress: Way,
}

impl Enforced {
    /// The `CONFIG_` flags that say it.
    pub(super) fn flags(&self) -> u16 {
        let open = |way, flag| if way == Way::Open { flag } else { 0 };
        open(self.ingress, CONFIG_OPEN_INGRESS) | open(self.egress, CONFIG_OPEN_EGRESS)
    }

    /// For display.
    pub(super) fn way(&self, direction: Direction) -> ViewWay {
        let way = match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        };
        match way {
            Way::Open => ViewWay::Open,
            Way::Denied => ViewWay::DenyRulesOnly,
            Way::Closed => ViewWay::DefaultDeny,
        }
    }
}

/// What the stage tells the others.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// By endpoint number.
    pub(super) enforced: BTreeMap<u16, Enforced>,
    /// Rules by the number their rows carry.
    pub(super) rules: BTreeMap<Cookie, RuleView>,
    /// Policies in use.
    pub(super) policies: BTreeMap<PolicyId, PolicyView>,
}

/// A rule with its clauses' numbers, and its content's hash.
struct Numbered<'w> {
    rule: &'w PolicyRule,
    cookies: Vec<Cookie>,
    hash: ContentHash,
}

/// Rules that select an endpoint, and what they make of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Content {
    ingress: Way,
    egress: Way,
    rules: Vec<usize>,
}

/// Writes the rows.
pub(super) fn compile(
    world: &World,
    config: &Config,
    site: &Site,
    identities: &Identities,
    book: &IdBook,
    rows: &mut Rows,
) -> Outcome {
    let mut outcome = Outcome::default();
    let rules = number_rules(world, &mut outcome.rules, rows);
    let mut contents: BTreeMap<IdentityId, Content> = BTreeMap::new();
    let mut subjects: BTreeMap<Content, Vec<u16>> = BTreeMap::new();
    for (id, (identity, labels)) in &identities.endpoints {
        let content = contents.entry(*identity).or_insert_with(|| content(&rules, *identity, labels, config));
        subjects.entry(content.clone()).or_default().push(*id);
    }
    let numbers = number_contents(subjects.keys(), &rules, book);
    let mut writer = Writer {
        rules: &rules,
        chooser: Chooser::new(&identities.known, site),
        resolved: HashMap::new(),
        limit: config.bpf.policy_max as usize,
        written: 0,
    };
    // In the order of the first endpoint of each, so that who is closed for want of room is certain.
    let mut order: Vec<(&Content, &Vec<u16>)> = subjects.iter().collect();
    order.sort_by_key(|(_, endpoints)| endpoints.first().copied());
    for (content, endpoints) in order {
        let Content { ingress, egress, .. } = *content;
        let origin = world.endpoints[&endpoints[0]].origin();
        let numbered =
            numbers.get(content).filter(|(id, digest)| writer.write(content, *id, *digest, &origin, rows));
        let policy = numbered.map(|(id, _)| *id);
        if let Some((id, digest)) = numbered {
            let used = content.rules.iter().flat_map(|rule| &rules[*rule].cookies);
            let view =
                PolicyView { digest: *digest, rules: used.copied().collect(), endpoints: endpoints.clone() };
            outcome.policies.insert(*id, view);
        }
        outcome.enforced.extend(endpoints.iter().map(|id| (*id, Enforced { policy, ingress, egress })));
    }
    outcome
}

/// Rules in an order of their own, whatever order they came in, each clause with a number made of its
/// name: it stays when other rules come and go.
fn number_rules<'w>(
    world: &'w World,
    views: &mut BTreeMap<Cookie, RuleView>,
    rows: &mut Rows,
) -> Vec<Numbered<'w>> {
    let mut sorted: Vec<&PolicyRule> = world.rules.iter().collect();
    sorted.sort();
    let mut numbered = Vec::new();
    for rule in sorted {
        let mut cookies = Vec::new();
        for clause in &rule.clauses {
            let Origin { object, rule: name, .. } = &rule.origin;
            let hash = ContentHash::of([object, name, &clause.path]);
            let free = |n: u32| !views.contains_key(&Cookie(n));
            let cookie =
                Cookie(probe(&hash, 1, u32::MAX, free).expect("fewer clauses than 2^32 - 1 fit in memory"));
            views.insert(cookie, RuleView::of(rule, clause));
            if names_apiserver(clause) {
                rows.warning(
                    &clause_origin(rule, clause),
                    "entity kube-apiserver means nobody: no address is known to be one".to_owned(),
                    "name its addresses by a CIDR, or its nodes by the entities host and remote-node",
                );
            }
            cookies.push(cookie);
        }
        // The Debug text is the content: another text after an upgrade costs one switch of numbers.
        let text = format!("{:?} {:?}", rule.default_deny, rule.clauses);
        let names: String = cookies.iter().map(|c| format!(" {c}")).collect();
        numbered.push(Numbered { rule, hash: ContentHash::of([text, names]), cookies });
    }
    numbered
}

fn content(rules: &[Numbered<'_>], identity: IdentityId, labels: &Labels, config: &Config) -> Content {
    if config.policy.enforcement == Enforcement::Never {
        return Content { ingress: Way::Open, egress: Way::Open, rules: Vec::new() };
    }
    let selects = |rule: &PolicyRule| match &rule.subject {
        Subject::Endpoints(selector) => selector.matches(labels),
        Subject::Unreadable => false,
    };
    let rules_of: Vec<usize> = (0..rules.len()).filter(|i| selects(rules[*i].rule)).collect();
    // As upstream: an endpoint whose labels are not known yet is closed.
    let always = config.policy.enforcement == Enforcement::Always || identity.0 == number::INIT;
    let way = |direction: Direction| {
        let selecting = || rules_of.iter().map(|i| rules[*i].rule);
        let denies = |rule: &PolicyRule| match direction {
            Direction::Ingress => rule.default_deny.ingress,
            Direction::Egress => rule.default_deny.egress,
        };
        if always || selecting().any(denies) {
            return Way::Closed;
        }
        let deny = |c: &Clause| c.direction == direction && c.verdict == RuleVerdict::Deny;
        if selecting().flat_map(|rule| &rule.clauses).any(deny) { Way::Denied } else { Way::Open }
    };
    let (ingress, egress) = (way(Direction::Ingress), way(Direction::Egress));
    Content { ingress, egress, rules: rules_of }
}

/// Numbers of contents that have rows: those in use stay.
fn number_contents<'c>(
    contents: impl Iterator<Item = &'c Content>,
    rules: &[Numbered<'_>],
    book: &IdBook,
) -> BTreeMap<Content, (PolicyId, Digest)> {
    let mut kept: BTreeMap<Digest, PolicyId> = BTreeMap::new();
    for (id, digest) in &book.policies {
        kept.entry(*digest).or_insert(*id);
    }
    let mut numbers = BTreeMap::new();
    let mut taken: BTreeMap<PolicyId, Digest> = BTreeMap::new();
    let mut fresh = Vec::new();
    for content in contents.filter(|c| c.ingress != Way::Open || c.egress != Way::Open) {
        let ways = format!("{:?} {:?}", content.ingress, content.egress);
        let hashes = content.rules.iter().map(|i| rules[*i].hash.digest().to_string());
        let hash = ContentHash::of(std::iter::once(ways).chain(hashes));
        match kept.get(&hash.digest()) {
            Some(id) => {
                taken.insert(*id, hash.digest());
                numbers.insert(content.clone(), (*id, hash.digest()));
            }
            None => fresh.push((hash, content)),
        }
    }
    fresh.sort();
    for (hash, content) in fresh {
        let digest = hash.digest();
        let free = |n: u32| {
            let id = PolicyId(n);
            !book.policies.contains_key(&id) && taken.get(&id).is_none_or(|other| *other == digest)
        };
        let id =
            PolicyId(probe(&hash, 1, u32::MAX, free).expect("fewer policies than 2^32 - 1 fit in memory"));
        taken.insert(id, digest);
        numbers.insert(content.clone(), (id, digest));
    }
    numbers
}

/// Turns contents into rows, within the map's room.
struct Writer<'r, 'w> {
    rules: &'r [Numbered<'w>],
    chooser: Chooser<'w>,
    resolved: HashMap<(usize, usize), Peers>,
    limit: usize,
    written: usize,
}

/// Rows of one content.
type Batch = Vec<(PolicyKey, PolicyRow)>;

impl Writer<'_, '_> {
    /// Writes a content's rows; `false`: there is no room, and its endpoints are closed.
    fn write(
        &mut self,
        content: &Content,
        id: PolicyId,
        digest: Digest,
        origin: &Origin,
        rows: &mut Rows,
    ) -> bool {
        let mut batch = Batch::new();
        for (direction, way) in [(Direction::Ingress, content.ingress), (Direction::Egress, content.egress)] {
            if way != Way::Open {
                self.direction(content, id, direction, way, &mut batch);
            }
        }
        // Half the map: the next content must fit beside this one until the endpoints have switched.
        if batch.len() > self.limit / 2 || self.written + batch.len() > self.limit {
            rows.error(
                origin,
                format!(
                    "its policies need {} rows, and {} of {} are taken: the endpoint is closed in the directions \
                     they are about",
                    batch.len(),
                    self.written,
                    self.limit
                ),
                "raise `bpf.policy_max` to twice the rows needed or more, or let fewer rules select so much",
            );
            return false;
        }
        self.written += batch.len();
        let why = rows.why(origin);
        rows.put::<PolicyDigest>(id, digest, why);
        let whys = self.origins(content, rows);
        for (key, row) in batch {
            rows.put::<Policy>(key, row, whys.get(&row.cookie).copied().unwrap_or(why));
        }
        true
    }

    fn origins(&self, content: &Content, rows: &mut Rows) -> HashMap<Cookie, OriginId> {
        let mut whys = HashMap::new();
        for index in &content.rules {
            let Numbered { rule, cookies, .. } = &self.rules[*index];
            for (clause, cookie) in rule.clauses.iter().zip(cookies) {
                whys.insert(*cookie, rows.why(&clause_origin(rule, clause)));
            }
        }
        whys
    }

    fn direction(
        &mut self,
        content: &Content,
        policy: PolicyId,
        direction: Direction,
        way: Way,
        batch: &mut Batch,
    ) {
        let mut any = Vec::new();
        let mut rungs: Vec<Rung<'_>> = Vec::new();
        let mut about: BTreeMap<IdentityId, Vec<u32>> = BTreeMap::new();
        for index in &content.rules {
            let Numbered { rule, cookies, .. } = &self.rules[*index];
            let clauses = rule.clauses.iter().zip(cookies).enumerate();
            for (nth, (clause, cookie)) in clauses.filter(|(_, (clause, _))| clause.direction == direction) {
                let rung = Rung { verdict: clause.verdict, ports: &clause.ports, cookie: *cookie };
                let peers = self
                    .resolved
                    .entry((*index, nth))
                    .or_insert_with(|| self.chooser.peers(&clause.peers))
                    .clone();
                match peers {
                    Peers::Any => any.push(rung),
                    Peers::Of(ids) => {
                        let number =
                            u32::try_from(rungs.len()).expect("fewer than 2^32 clauses fit in memory");
                        rungs.push(rung);
                        for id in ids.iter() {
                            about.entry(*id).or_default().push(number);
                        }
                    }
                }
            }
        }
        if way == Way::Denied {
            any.push(Rung { verdict: RuleVerdict::Allow, ports: &PortSet::Any, cookie: Cookie(0) });
        }
        let anyone = Ladder::build(&any, None);
        let mut put = |identity: IdentityId, ladder: &[super::ladder::LadderRow]| {
            batch.extend(ladder.iter().map(|row| {
                let key = PolicyKey {
                    policy,
                    direction,
                    identity,
                    proto: row.proto,
                    port: row.prefix.port,
                    port_len: row.prefix.len,
                };
                let row = PolicyRow {
                    verdict: row.verdict,
                    listener: 0,
                    lengths: row.lengths,
                    precedence: 0,
                    cookie: row.cookie,
                };
                (key, row)
            }));
        };
        put(IdentityId(0), &anyone.rows());
        // Most peers have the same clauses as many others: each distinct set is settled once.
        let mut settled: HashMap<Vec<u32>, Arc<[super::ladder::LadderRow]>> = HashMap::new();
        for (identity, numbers) in about {
            let ladder = settled
                .entry(numbers)
                .or_insert_with_key(|numbers| {
                    let chosen: Vec<Rung<'_>> = numbers.iter().map(|n| rungs[*n as usize]).collect();
                    Ladder::build(&chosen, Some(&anyone)).rows().into()
                })
                .clone();
            put(identity, &ladder);
        }
    }
}

/// How a clause explains itself.
pub(super) fn clause_origin(rule: &PolicyRule, clause: &Clause) -> Origin {
    let mut origin = rule.origin.clone();
    if !origin.rule.is_empty() && !clause.path.is_empty() {
        origin.rule.push('.');
    }
    origin.rule.push_str(&clause.path);
    origin
}

fn names_apiserver(clause: &Clause) -> bool {
    matches!(&clause.peers, PeerSet::Of(peers) if peers.contains(&Peer::Entity(Entity::KubeApiserver)))
}

/// Configuration that reads well, but that nothing acts on.
pub(super) fn unbuilt(config: &Config, rows: &mut Rows) {
    let unbuilt: BTreeSet<_> = config.policy.cidr_match_mode.iter().collect();
    if !unbuilt.is_empty() {
        rows.error(
            &config_origin("policy.cidr_match_mode"),
            format!(
                "not in force: CIDR rules match only addresses outside the cluster ({unbuilt:?} ignored)"
            ),
            "leave it empty",
        );
    }
}
