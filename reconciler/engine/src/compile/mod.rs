//! From what is known to what is wanted: pure, and the same for the same input.
//!
//! ```text
//! World, Config ─▶ site, meaning ─▶ identity ─▶ ipcache
//!                    │         ├─────▶ policy ──▶ endpoints, publish
//!                    ├─▶ host, programs
//!                    └─▶ loadbalancer
//! ```
//! Compilation never fails: what is wrong with an object becomes a [`Problem`](crate::problem::Problem), and
//! the rest stands. Sources that have not synced are no concern here: rows say by what they are settled, and
//! `diff` waits. Numbers come from content ([`IdBook`] breaks ties), so neither a restart nor another node
//! gives other ones.
//!
//! Every stage is kept by keys. It holds what it last read, asks what is other now, and makes the rows of
//! those keys anew, whole; it never mends rows. A compilation from nothing is the same code after nothing.

mod book;
mod endpoints;
mod host;
mod identity;
mod ipcache;
mod labels;
mod loadbalancer;
mod meaning;
mod number;
mod policy;
mod programs;
mod publish;
mod rows;
mod site;
mod sockets;
#[cfg(test)]
mod tests;
mod view;

pub use book::IdBook;
pub use identity::{Identity, Sort};
pub use publish::published_prefix;
pub use site::{pod_cidrs, router_addresses};
pub use view::{
    BackendView, EndpointView, HealthCheckView, NodeView, PolicyView, RuleView, ServiceView, View, ViewWay,
};

use crate::config::Config;
use crate::map::Set;
use crate::problem::Problems;
use crate::shared::Shared;
use crate::state::{DesiredState, Direction, EndpointId, LinkName, SetId, State};
use crate::world::{PolicyRule, World};
use rows::{Edits, Rows};
use site::Site;

/// What a compilation comes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compiled {
    /// The rows wanted.
    pub desired: DesiredState,
    /// What is not in force as written.
    pub problems: Problems,
    /// The numbers now in use.
    pub book: IdBook,
    /// The same by name.
    pub view: View,
}

/// Compiles everything. `adopted` are the numbers that the kernel holds.
pub fn compile(world: &World, config: &Config, adopted: &IdBook) -> Compiled {
    Compiler::default().compile(world, config, adopted)
}

/// What stages read besides each other.
struct Pass<'a> {
    world: &'a World,
    /// What its rules mean.
    rules: &'a Set<Shared<PolicyRule>>,
    config: &'a Config,
    site: &'a Site,
    /// The place is another than before.
    moved: bool,
    book: &'a IdBook,
    /// What was wanted before.
    before: &'a State,
}

/// Compiles again and again, at the cost of what has changed. The result is always that of [`compile`]; a
/// new compiler differs from an old one only in speed.
#[derive(Debug, Default)]
pub struct Compiler {
    /// Of the last time; none: there was none.
    config: Option<Config>,
    state: State,
    problems: Problems,
    /// Problems of the sources among them.
    told: Problems,
    site: site::Stage,
    set: SetId,
    node: Rows,
    rules: meaning::Stage,
    identities: identity::Stage,
    policies: policy::Stage,
    addresses: ipcache::Stage,
    endpoints: endpoints::Stage,
    services: loadbalancer::Stage,
    claims: publish::Claims,
    view: View,
}

impl Compiler {
    /// As [`compile`]. What is remembered is of use only while the numbers adopted are those of the last
    /// result, and the configuration is the same.
    pub fn compile(&mut self, world: &World, config: &Config, adopted: &IdBook) -> Compiled {
        if self.config.as_ref() != Some(config) || *adopted != IdBook::adopt(&self.state) {
            *self = Self { config: Some(config.clone()), ..Self::default() };
        }
        let mut edits = Edits::after(std::mem::take(&mut self.problems));
        edits.follow(&self.told, &world.problems);
        self.told = world.problems.clone();
        let before = self.state.clone();
        let (site, moved) = self.site.update(world, config, &mut edits);
        if moved {
            self.node(world, config, &site, &mut edits);
        }
        let rules = self.rules.update(world);
        let pass = Pass { world, rules, config, site: &site, moved, book: adopted, before: &before };
        let identities = self.identities.update(&pass, &mut edits);
        let policies = self.policies.update(&pass, identities, &mut edits);
        self.addresses.update(&pass, identities, &mut edits);
        self.endpoints.update(&pass, &self.set, identities, policies, &mut edits);
        self.claims.update(&pass, identities, &mut edits);
        self.services.update(&pass, &mut edits);
        show(&mut self.view, &pass, identities, policies);
        self.view.leaving = world.nodes.get(&config.node.name).is_some_and(|node| node.leaving);
        self.view.services = self.services.views.clone();
        self.view.health_checks = self.services.health_checks.clone();
        self.problems = edits.carry_out(&mut self.state);
        self.view.addresses = self.state.ipcache.clone();
        Compiled {
            desired: DesiredState { state: self.state.clone(), synced: world.synced },
            problems: self.problems.clone(),
            book: IdBook::adopt(&self.state),
            view: self.view.clone(),
        }
    }

    /// Rows of the node itself.
    fn node(&mut self, world: &World, config: &Config, site: &Site, edits: &mut Edits) {
        let mut rows = Rows::default();
        let constants = programs::constants(world, site, config);
        self.set = programs::set_id(world, &constants, config);
        programs::maps(config, &mut rows);
        programs::compile(site, &self.set, constants, config.load_balancer.at_drivers(), &mut rows);
        sockets::compile(&world.host, config, &self.set, &mut rows);
        host::compile(site, config, &mut rows);
        publish::node(config, site, &mut rows);
        edits.replace(&mut self.node, rows);
    }
}

/// Brings the view up to date, but for the addresses.
fn show(view: &mut View, pass: &Pass<'_>, identities: &identity::Identities, policies: &policy::Outcome) {
    let Pass { world, site, moved, .. } = *pass;
    if moved {
        let this = NodeView {
            name: site.name.clone(),
            addresses: site.addresses.clone(),
            routers: site.routers().collect(),
            pod_cidrs: site.pod_cidrs.clone(),
        };
        let others = site.neighbours.iter().map(|node| NodeView {
            name: node.name.clone(),
            addresses: node.addresses.clone(),
            routers: node.routers.iter().copied().collect(),
            pod_cidrs: node.pod_cidrs.clone(),
        });
        view.node.clone_from(&site.name);
        view.nodes = std::iter::once(this).chain(others).collect::<Vec<_>>().into();
    }
    view.endpoints.retain(|id, _| world.endpoints.contains_key(id));
    for (id, record) in &world.endpoints {
        let (identity, labels) = &identities.endpoints[id];
        let enforced = &policies.enforced[id];
        let known = view.endpoints.get(id).filter(|shown| {
            shown.is_of(record)
                && shown.identity == *identity
                && shown.labels == *labels
                && shown.policy == enforced.policy
                && shown.ingress == enforced.way(Direction::Ingress)
                && shown.egress == enforced.way(Direction::Egress)
        });
        if known.is_some() {
            continue;
        }
        let shown = EndpointView {
            id: EndpointId(*id),
            pod: record.pod.clone(),
            container_id: record.container_id.clone(),
            identity: *identity,
            labels: labels.clone(),
            link: LinkName(record.link.clone()),
            ipv4: record.ipv4,
            ipv6: record.ipv6,
            policy: enforced.policy,
            ingress: enforced.way(Direction::Ingress),
            egress: enforced.way(Direction::Egress),
        };
        view.endpoints.insert(*id, shown);
    }
    view.rules = policies.rules.clone();
    view.policies = policies.policies.clone();
    view.clashed = identities.clashed.iter().copied().collect();
    view.identities = identities.known.clone();
}
