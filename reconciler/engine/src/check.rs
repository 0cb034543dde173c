//! What must hold of the host's rows at every moment, also between two steps of an apply; and what must
//! hold of a state that is wanted. Neither mends anything.

use crate::state::{
    AttachmentRow, EndpointRow, Hook, IdentityId, Kind, POD_LINK_PREFIX, Policy, PolicyKey, Protocol,
    Resource, RowId, State, Table,
};
use cilium_abi::policy::{ALLOW, DENY, NONE, port_prefix};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::fmt;

/// A row that may not be as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Violation {
    /// The row.
    pub id: RowId,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.message)
    }
}

macro_rules! check {
    ($(($field:ident, $resource:ident)),* $(,)?) => {
        /// What is wrong at this moment: rows that lead to rows which are not there (a frontend to a slot,
        /// a slot to a backend, an open pod to a policy that is not whole), and pods' links that are up
        /// without our programs.
        pub fn check(state: &State) -> Vec<Violation> {
            let mut names = HashSet::new();
            let needed: HashSet<Kind> = [$(crate::state::$resource::NEEDS),*].into_iter().flatten().copied().collect();
            $(if needed.contains(&Kind::$resource) {
                names.extend(state.$field.keys().map(crate::state::$resource::id));
            })*
            let mut out = Vec::new();
            $(missing(&state.$field, &names, &mut out);)*
            unfiltered(state, &mut out);
            out
        }
    };
}
crate::for_each_resource!(check);

fn missing<R: Resource>(table: &Table<R>, names: &HashSet<RowId>, out: &mut Vec<Violation>) {
    if R::NEEDS.is_empty() {
        return;
    }
    for (key, entry) in table.iter() {
        for need in R::requires(key, &entry.row) {
            if !names.contains(&need) && !is_group(&need) {
                out.push(Violation { id: R::id(key), message: format!("{need} is missing") });
            }
        }
    }
}

/// Whether a name is that of a group, which may have no members.
fn is_group(id: &RowId) -> bool {
    // The only kinds with groups; their rows' own names are never required.
    matches!(id.kind, Kind::Policy | Kind::SourceRange)
}

/// What a pod's link must carry before it is up.
const FROM_CONTAINER: &str = "cil_from_container";

/// Pods' links that are up although their hook does not have our program: the kernel would route their
/// packets unfiltered.
fn unfiltered(state: &State, out: &mut Vec<Violation>) {
    for link in state.link_ups.keys().filter(|link| link.0.starts_with(POD_LINK_PREFIX)) {
        let key = crate::state::AttachmentKey { link: link.clone(), hook: Hook::Ingress };
        let found: Option<&AttachmentRow> = state.attachments.find(&key);
        if found.is_some_and(|row| row.program != FROM_CONTAINER) {
            let message = format!("up with another program than {FROM_CONTAINER} at {key}");
            out.push(Violation { id: crate::state::LinkUp::id(link), message });
        }
    }
}

/// What is wrong with a state as a whole, as it is wanted: all of [`check`], and also that the rows agree
/// with each other. While an apply is under way they may not.
pub fn lint(state: &State) -> Vec<Violation> {
    let mut out = check(state);
    policies(state, &mut out);
    identities(state, &mut out);
    out
}

/// Policy rows nobody can ever see, and rows that cannot be.
fn policies(state: &State, out: &mut Vec<Violation>) {
    for (key, entry) in state.policies.iter() {
        let mut say = |message: String| out.push(Violation { id: Policy::id(key), message });
        if ![NONE, ALLOW, DENY].contains(&entry.row.verdict) {
            say(format!("verdict {} does not exist", entry.row.verdict));
        }
        if key.policy.0 == 0 {
            say("policy 0 has no rows: it is the closed one".to_owned());
        }
        if state.policy_digests.find(&key.policy).is_none() {
            say("its policy has no digest".to_owned());
        }
        if key.proto.0 == 0 && (key.port, key.port_len) == (0, 0) {
            continue;
        }
        let masked = port_prefix(cilium_abi::Be16::new(key.port), u32::from(key.port_len.min(16))).host();
        if key.proto.0 == 0 || key.port_len > 16 || masked != key.port {
            say(format!("port {}/{} is not a prefix", key.port, key.port_len));
        }
        let l3 = PolicyKey { proto: Protocol(0), port: 0, port_len: 0, ..*key };
        let lengths = state.policies.find(&l3).map_or(0, |row| row.lengths);
        if lengths >> u32::from(key.port_len & 31) & 1 == 0 {
            say(format!("row {l3} does not say that there are rows of port length {}", key.port_len));
        }
    }
}

/// A pod is the same identity in each place that says so.
fn identities(state: &State, out: &mut Vec<Violation>) {
    let mut pods: BTreeMap<&crate::state::LinkName, IdentityId> = BTreeMap::new();
    for (key, entry) in state.endpoints.iter() {
        let (EndpointRow::Host { identity } | EndpointRow::Pod { identity, .. }) = &entry.row;
        if let EndpointRow::Pod { link, identity, .. } = &entry.row {
            pods.insert(link, *identity);
        }
        let exact = state.ipcache.find(&crate::state::IpcacheKey(key.0.into()));
        if let Some(row) = exact.filter(|row| row.identity != *identity) {
            let message = format!("identity {identity} here, {} in the ipcache", row.identity);
            out.push(Violation { id: crate::state::Endpoint::id(key), message });
        }
    }
    for (link, entry) in state.endpoint_configs.iter() {
        if let Some(identity) = pods.get(link).filter(|identity| **identity != entry.row.identity) {
            let message = format!("identity {} here, {identity} by its address", entry.row.identity);
            out.push(Violation { id: crate::state::EndpointConfig::id(link), message });
        }
    }
}
