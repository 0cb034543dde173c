//! Rules with their numbers: each clause has one made of its name, so that it stays when others come and go.

use crate::compile::number::{ContentHash, probe};
use crate::compile::rows::{Edits, because, warning};
use crate::compile::view::RuleView;
use crate::map::{Map, Set};
use crate::problem::Problem;
use crate::shared::Shared;
use crate::state::{Cookie, Direction, Origin, Why};
use crate::world::{Clause, Entity, Peer, PeerSet, PolicyRule};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// A rule with its clauses' numbers, and its content's hash.
#[derive(Debug)]
pub(super) struct Numbered {
    pub(super) rule: Shared<PolicyRule>,
    pub(super) cookies: Vec<Cookie>,
    /// Why rows of each clause are wanted.
    pub(super) whys: Vec<Why>,
    pub(super) hash: ContentHash,
    /// Where each clause's number is looked for.
    places: Vec<ContentHash>,
    views: Vec<Shared<RuleView>>,
}

/// Whose named ports have to be known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// Those of subjects.
    pub(super) own: bool,
    /// Those of peers.
    pub(super) peers: bool,
}

/// All rules, in the order of their values.
#[derive(Debug, Default)]
pub(super) struct Rules {
    seen: Set<Shared<PolicyRule>>,
    pub(super) list: Vec<Arc<Numbered>>,
    /// Whose ports some clause names.
    pub(super) names: Names,
    /// By the numbers their rows carry.
    pub(super) views: Map<Cookie, Shared<RuleView>>,
    problems: Vec<Shared<Problem>>,
}

impl Rules {
    /// Takes over the rules there are now; whether they are others than before.
    pub(super) fn update(&mut self, rules: &Set<Shared<PolicyRule>>) -> bool {
        if self.seen == *rules {
            return false;
        }
        self.seen = rules.clone();
        let mut before: BTreeMap<Shared<PolicyRule>, Arc<Numbered>> =
            self.list.drain(..).map(|numbered| (numbered.rule.clone(), numbered)).collect();
        let mut taken = HashSet::new();
        let mut views = Vec::new();
        for rule in rules.keys() {
            let known = before.remove(rule);
            let places = match &known {
                Some(known) => known.places.clone(),
                None => rule.clauses.iter().map(|clause| place(rule, clause)).collect(),
            };
            let mut number = |place: &ContentHash| {
                let cookie = Cookie(
                    probe(place, 1, u32::MAX, |n| !taken.contains(&Cookie(n)))
                        .expect("fewer clauses than 2^32 - 1 fit in memory"),
                );
                taken.insert(cookie);
                cookie
            };
            let cookies: Vec<Cookie> = places.iter().map(&mut number).collect();
            let numbered = match known.filter(|known| known.cookies == cookies) {
                Some(known) => known,
                None => Arc::new(numbered(rule, places, cookies)),
            };
            views.extend(numbered.cookies.iter().copied().zip(numbered.views.iter().cloned()));
            self.list.push(numbered);
        }
        self.views = views.into_iter().collect();
        let named = |direction: Direction| {
            let mut clauses = rules.keys().flat_map(|rule| &rule.clauses);
            clauses.any(|c| c.direction == direction && !c.ports.names().is_empty())
        };
        self.names = Names { own: named(Direction::Ingress), peers: named(Direction::Egress) };
        true
    }

    /// Tells of rules about API servers while none is known.
    pub(super) fn warn(&mut self, knows_apiservers: bool, edits: &mut Edits) {
        let clauses = |rule: &PolicyRule| -> Vec<Shared<Problem>> {
            let misled = rule.clauses.iter().filter(|clause| names_apiserver(clause)).map(|clause| {
                warning(
                    &clause_origin(rule, clause),
                    "entity kube-apiserver means nobody: no address is known to be one".to_owned(),
                    "API servers are the endpoints of the Service default/kubernetes: give its EndpointSlice",
                )
            });
            misled.collect()
        };
        let misled =
            if knows_apiservers { Vec::new() } else { self.seen.keys().flat_map(|r| clauses(r)).collect() };
        edits.tell(&mut self.problems, misled);
    }
}

fn place(rule: &PolicyRule, clause: &Clause) -> ContentHash {
    let Origin { object, rule: name, .. } = &rule.origin;
    ContentHash::of([object, name, &clause.path])
}

fn numbered(rule: &Shared<PolicyRule>, places: Vec<ContentHash>, cookies: Vec<Cookie>) -> Numbered {
    // The Debug text is the content: another text after an upgrade costs one switch of numbers.
    let text = format!("{:?} {:?} {:?}", rule.rank, rule.default_deny, rule.clauses);
    let names: String = cookies.iter().map(|c| format!(" {c}")).collect();
    let origins = rule.clauses.iter().map(|clause| clause_origin(rule, clause));
    Numbered {
        whys: origins.map(|origin| because(&origin)).collect(),
        views: rule.clauses.iter().map(|clause| RuleView::of(rule, clause).into()).collect(),
        rule: rule.clone(),
        hash: ContentHash::of([text, names]),
        places,
        cookies,
    }
}

/// How a clause explains itself.
pub(in crate::compile) fn clause_origin(rule: &PolicyRule, clause: &Clause) -> Origin {
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
