//! From what is known to what is wanted: pure, whole, and the same for the same input.
//!
//! ```text
//! World, Config ─▶ site ─▶ identity ─▶ ipcache
//!                    │         ├─────▶ policy ──▶ endpoints
//!                    ├─▶ host, programs           │
//!                    └─▶ loadbalancer             └─▶ publish
//! ```
//! Compilation never fails: what is wrong with an object becomes a [`Problem`], and the rest stands.
//! Sources that have not synced are no concern here: rows say by what they are settled, and `diff` waits.
//! Numbers come from content ([`IdBook`] breaks ties), so neither a
//! restart nor another node gives other ones.

mod backends;
mod book;
mod endpoints;
mod host;
mod identity;
mod ipcache;
mod labels;
mod ladder;
mod loadbalancer;
mod memo;
mod number;
mod policy;
mod portprefix;
mod programs;
mod publish;
mod rows;
mod select;
mod shared;
mod site;
#[cfg(test)]
mod tests;
mod view;

pub use book::IdBook;
pub use identity::{Identity, Sort};
pub use shared::Shared;
pub use site::{pod_cidrs, router_addresses};
pub use view::{
    AddressView, BackendView, EndpointView, NodeView, PolicyView, RuleView, ServiceView, View, ViewWay,
};

use crate::config::Config;
use crate::problem::Problem;
use crate::state::{DesiredState, Direction, EndpointId, IdentityDigest, LinkName};
use crate::world::World;
use memo::Memo;
use rows::Rows;

/// What a compilation comes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compiled {
    /// The rows wanted.
    pub desired: DesiredState,
    /// What is not in force as written.
    pub problems: Vec<Problem>,
    /// The numbers now in use.
    pub book: IdBook,
    /// The same by name.
    pub view: View,
}

/// Compiles everything. `adopted` are the numbers that the kernel holds.
pub fn compile(world: &World, config: &Config, adopted: &IdBook) -> Compiled {
    build(world, config, adopted, None)
}

/// Compiles again and again: stages whose inputs are those of the last time give what they gave then.
/// The result is always that of [`compile`]; a new compiler differs from an old one only in speed.
#[derive(Debug, Default)]
pub struct Compiler {
    memo: Memo,
}

impl Compiler {
    /// As [`compile`].
    pub fn compile(&mut self, world: &World, config: &Config, adopted: &IdBook) -> Compiled {
        build(world, config, adopted, Some(&mut self.memo))
    }
}

fn build(world: &World, config: &Config, adopted: &IdBook, mut memo: Option<&mut Memo>) -> Compiled {
    let mut rows = Rows { problems: world.problems.clone(), ..Rows::default() };
    let site = site::locate(world, config, &mut rows);
    let identities = identity::assign(world, config, &site, adopted, memo.as_deref_mut(), &mut rows);
    for (id, (digest, origin)) in &identities.own {
        let why = rows.why(origin);
        rows.put::<IdentityDigest>(*id, *digest, why);
    }
    let constants = programs::constants(&site, config);
    let set = programs::set_id(world, &constants, config);
    programs::maps(config, &mut rows);
    programs::compile(&site, &set, constants, &mut rows);
    host::compile(&site, config, &mut rows);
    policy::unbuilt(config, &mut rows);
    let outcome = policy::compile(world, config, &site, &identities, adopted, &mut rows);
    let addresses = ipcache::compile(world, &site, &identities, memo.as_deref_mut(), &mut rows);
    endpoints::compile(world, &site, &set, &identities, &outcome.enforced, &mut rows);
    let services = if config.load_balancer.kube_proxy_replacement {
        loadbalancer::compile(world, config, &site, adopted, memo, &mut rows)
    } else {
        loadbalancer::Served::default()
    };
    publish::compile(world, config, &site, &identities, &mut rows);
    rows.problems.sort();
    rows.problems.dedup();
    let view = view(world, &site, identities, outcome, services, addresses);
    let book = IdBook::adopt(&rows.state);
    let desired = DesiredState { state: rows.state, origins: rows.origins, synced: world.synced };
    Compiled { desired, problems: rows.problems, book, view }
}

fn view(
    world: &World,
    site: &site::Site,
    identities: identity::Identities,
    outcome: policy::Outcome,
    services: loadbalancer::Served,
    addresses: ipcache::Entries,
) -> View {
    let endpoints = world.endpoints.iter().filter_map(|(id, record)| {
        let (identity, labels) = identities.endpoints.get(id)?;
        let enforced = outcome.enforced.get(id)?;
        let view = EndpointView {
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
        Some((*id, view))
    });
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
    View {
        node: site.name.clone(),
        endpoints: endpoints.collect(),
        addresses,
        nodes: std::iter::once(this).chain(others).collect(),
        services,
        rules: outcome.rules,
        policies: outcome.policies,
        clashed: identities.clashed.into_iter().collect(),
        identities: identities.known,
    }
}
