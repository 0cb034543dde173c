//! States that could have come from the compiler: every row has what it requires, and a number always
//! stands for the same content (a list for its backends, a policy for its rules).

use crate::generate::{IDENTITIES, PORTS, any_state};
use cilium_abi::lb::FRONTEND_MAGLEV;
use cilium_abi::policy::NONE;
use cilium_engine::state::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What one policy says of one peer in one direction.
#[derive(Clone, Debug)]
pub(crate) struct LadderSpec {
    pub(crate) l3: u8,
    /// A verdict for each of [`PORTS`]; `NONE`: no row.
    pub(crate) ports: [u8; PORTS.len()],
}

/// What every policy number stands for.
#[derive(Clone, Debug)]
pub(crate) struct Catalog(BTreeMap<(PolicyId, Direction, IdentityId), LadderSpec>);

pub(crate) const POLICIES: std::ops::Range<u32> = 1..4;
pub(crate) const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

impl Catalog {
    /// The rows of a policy in a world of these identities.
    pub(crate) fn rows(&self, policy: PolicyId, known: &BTreeSet<IdentityId>) -> Vec<(PolicyKey, PolicyRow)> {
        let mut out = Vec::new();
        let ladders = self.0.range((policy, Direction::Ingress, IdentityId(0))..);
        for ((_, direction, identity), spec) in ladders.take_while(|((p, ..), _)| *p == policy) {
            if !known.contains(identity) {
                continue;
            }
            let row = |verdict, lengths| PolicyRow {
                verdict,
                listener: 0,
                lengths,
                precedence: 0,
                cookie: Cookie(0),
            };
            let l3 = PolicyKey {
                policy,
                direction: *direction,
                identity: *identity,
                proto: Protocol(0),
                port: 0,
                port_len: 0,
            };
            let mut lengths = 0;
            for ((port, port_len), verdict) in PORTS.into_iter().zip(spec.ports) {
                if verdict != NONE {
                    lengths |= 1 << port_len;
                    out.push((PolicyKey { proto: Protocol::TCP, port, port_len, ..l3 }, row(verdict, 0)));
                }
            }
            if spec.l3 != NONE || lengths != 0 {
                out.push((l3, row(spec.l3, lengths)));
            }
        }
        out
    }
}

pub(crate) fn catalog() -> BoxedStrategy<Catalog> {
    let spec = (0u8..3, prop::array::uniform5(prop_oneof![2 => Just(0u8), 1 => Just(1), 1 => Just(2)]));
    let count = POLICIES.len() * DIRECTIONS.len() * IDENTITIES.len();
    prop::collection::vec(spec, count)
        .prop_map(|specs| {
            let keys = POLICIES.flat_map(|p| {
                DIRECTIONS.into_iter().flat_map(move |d| IDENTITIES.map(|i| (PolicyId(p), d, IdentityId(i))))
            });
            Catalog(keys.zip(specs.into_iter().map(|(l3, ports)| LadderSpec { l3, ports })).collect())
        })
        .boxed()
}

/// The number of slots of a list.
fn length_of(list: ListId) -> u16 {
    u16::try_from(list.0 % 3 + 1).expect("at most 3")
}

fn digest_of(number: u32) -> Digest {
    Digest([u8::try_from(number % 251).expect("below 251"); 16])
}

/// Completes any rows to a state that could be wanted.
pub(crate) fn close(mut state: State, catalog: &Catalog) -> State {
    services(&mut state);
    let mut links: BTreeSet<LinkName> = state.links.keys().cloned().collect();
    for (_, entry) in state.routes.clone().iter().filter(|(_, entry)| entry.row.link.0.starts_with("cilium_"))
    {
        state.link_ups.insert(entry.row.link.clone(), Present, None);
    }
    let ups: Vec<LinkName> =
        state.link_ups.keys().filter(|l| l.0.starts_with(POD_LINK_PREFIX)).cloned().collect();
    let sets: Vec<SetId> = ["aaaa", "bbbb"].map(|s| SetId(s.to_owned())).into();
    let set = state.program_sets.keys().next().cloned().unwrap_or_else(|| sets[0].clone());
    for link in ups {
        let key = AttachmentKey { link: link.clone(), hook: Hook::Ingress };
        let row = AttachmentRow { program: String::new(), set: set.clone(), first: Position::First };
        if state.attachments.find(&key).is_none() {
            state.attachments.insert(key, row, None);
        }
    }
    for (key, entry) in state.attachments.clone().iter() {
        let program = if key.hook == Hook::Ingress { "cil_from_container" } else { "cil_from_host" };
        let row = AttachmentRow { program: program.to_owned(), first: Position::First, ..entry.row.clone() };
        links.insert(key.link.clone());
        state.program_sets.insert(row.set.clone(), ProgramSetRow::Complete, None);
        state.attachments.insert(key.clone(), row, None);
    }
    for (_, entry) in state.socket_programs.clone().iter() {
        state.program_sets.insert(entry.row.set.clone(), ProgramSetRow::Complete, None);
    }
    for key in state.program_sets.keys().cloned().collect::<Vec<_>>() {
        state.program_sets.insert(key, ProgramSetRow::Complete, None);
    }
    links.extend(state.link_ups.keys().cloned());
    links.extend(state.pod_interfaces.keys().cloned());
    links.extend(state.addresses.keys().map(|key| key.link.clone()));
    links.extend(state.routes.iter().map(|(_, entry)| entry.row.link.clone()));
    links.extend(state.endpoint_configs.keys().cloned());
    links.extend(state.endpoints.iter().filter_map(|(_, entry)| match &entry.row {
        EndpointRow::Pod { link, .. } => Some(link.clone()),
        EndpointRow::Host { .. } => None,
    }));
    if !state.runtimes.is_empty() {
        links.extend([HOST_LINK.into(), VXLAN_LINK.into()]);
    }
    for link in links {
        let mtu = state.links.find(&link).map_or(1400, |row| row.mtu);
        let row = LinkRow { kind: LinkKind::PodVeth, mac: None, mtu, alias: format!("{LINK_ALIAS_PREFIX}x") };
        state.links.insert(link, row, None);
    }
    policies(&mut state, catalog);
    state
}

fn services(state: &mut State) {
    let mut lists: BTreeSet<ListId> = state.slots.keys().map(|key| key.list).collect();
    for (key, entry) in state.frontends.clone().iter() {
        let mut row = entry.row.clone();
        row.count = if row.count == 0 { 0 } else { length_of(row.list) };
        lists.insert(row.list);
        state.rev_nats.insert(
            row.rev_nat,
            RevNatRow { addr: [10, 96, 0, 1].into(), port: row.rev_nat.0 },
            None,
        );
        state.frontends.insert(key.clone(), row, None);
    }
    state.slots = Table::default();
    for list in lists {
        for slot in 0..u32::from(length_of(list)) {
            let backend = BackendId((2 * list.0 + slot) % 5 + 1);
            state.slots.insert(SlotKey { list, slot }, backend, None);
            state.backends.insert(
                backend,
                BackendRow { addr: [10, 1, 0, 1].into(), port: 0, proto: Protocol::TCP, flags: 0 },
                None,
            );
        }
    }
    let led = state.frontends.iter().filter(|(_, entry)| entry.row.flags & FRONTEND_MAGLEV != 0);
    let tables: BTreeSet<TableId> =
        led.map(|(_, entry)| entry.row.maglev).chain(state.maglev_tables.keys().copied()).collect();
    for table in tables {
        let places: Vec<BackendId> = (0..3).map(|place| BackendId((table.0 + place) % 5 + 1)).collect();
        for backend in &places {
            let row = BackendRow { addr: [10, 1, 0, 1].into(), port: 0, proto: Protocol::TCP, flags: 0 };
            state.backends.insert(*backend, row, None);
        }
        state.maglev_tables.insert(table, MaglevRow(places.into()), None);
    }
    for id in state.backends.keys().copied().collect::<Vec<_>>() {
        let port = u16::try_from(id.0).expect("small");
        let row = BackendRow { addr: [10, 1, 0, 1].into(), port, proto: Protocol::TCP, flags: 0 };
        state.backends.insert(id, row, None);
    }
    for id in state.rev_nats.keys().copied().collect::<Vec<_>>() {
        state.rev_nats.insert(id, RevNatRow { addr: [10, 96, 0, 1].into(), port: id.0 }, None);
    }
}

fn policies(state: &mut State, catalog: &Catalog) {
    let mut known: BTreeSet<IdentityId> = state.ipcache.iter().map(|(_, entry)| entry.row.identity).collect();
    known.extend([IdentityId(0), IdentityId(2)]);
    let mut used: BTreeSet<PolicyId> = state.policy_digests.keys().copied().collect();
    used.extend(
        state.endpoint_configs.iter().map(|(_, entry)| entry.row.policy).filter(|policy| policy.0 != 0),
    );
    state.policies = Table::default();
    for policy in used {
        state.policy_digests.insert(policy, digest_of(policy.0), None);
        for (key, row) in catalog.rows(policy, &known) {
            state.policies.insert(key, row, None);
        }
    }
    for id in state.identity_digests.keys().copied().collect::<Vec<_>>() {
        state.identity_digests.insert(id, digest_of(id.0), None);
    }
}

/// A host as it is, as it should be, and any rows besides.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) before: State,
    pub(crate) wanted: State,
    pub(crate) junk: State,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, state) in [("before", &self.before), ("wanted", &self.wanted), ("junk", &self.junk)] {
            writeln!(f, "\n{name}:")?;
            for (id, row) in state.lines() {
                writeln!(f, "  {id}: {row}")?;
            }
        }
        Ok(())
    }
}

impl Case {
    /// Everything synced.
    pub(crate) fn desired(&self) -> DesiredState {
        self.desired_with(SourceSet::ALL)
    }

    /// With only these sources synced.
    pub(crate) fn desired_with(&self, synced: SourceSet) -> DesiredState {
        DesiredState { state: self.wanted.clone(), synced }
    }
}

pub(crate) fn case() -> BoxedStrategy<Case> {
    (catalog(), any_state(), any_state(), any_state())
        .prop_map(|(catalog, before, wanted, junk)| {
            let (before, wanted) = (close(before, &catalog), close(wanted, &catalog));
            Case { before, wanted, junk }
        })
        .boxed()
}
