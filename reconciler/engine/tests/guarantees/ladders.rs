//! Edits of a policy in force, one row at a time, against the lookup the programs use.

use crate::consistent::{Catalog, catalog};
use crate::engines::{Engine, Real};
use crate::generate::{Generate, IDENTITIES, as_good};
use crate::traffic::{Probe, Watch};
use cilium_engine::fake::FakeKernel;
use cilium_engine::state::*;
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeSet;

const POLICY: PolicyId = PolicyId(1);

fn state(rows: impl IntoIterator<Item = (PolicyKey, PolicyRow)>, in_force: Option<u8>) -> State {
    let policies = rows.into_iter().filter(|(key, _)| key.policy == POLICY).collect();
    let mut state = State { policies, ..State::default() };
    if let Some(digest) = in_force {
        state.policy_digests.insert(POLICY, Digest([digest; 16]), None);
    }
    state
}

/// Edits one into the other; the first packet that passes though it may not.
fn breach(before: State, after: &State) -> Option<(RowId, Probe)> {
    let found = RefCell::new(None);
    let watch = Watch::between(&before, after).only(|probe| matches!(probe, Probe::Lookup { .. }));
    let desired = DesiredState { state: after.clone(), synced: SourceSet::ALL };
    let mut kernel = FakeKernel::with(before);
    kernel.witness = Some(Box::new(|state, id| {
        let mut found = found.borrow_mut();
        if found.is_none() {
            *found = watch.breach(state).map(|probe| (id.clone(), probe));
        }
    }));
    Real.pass(&desired, &mut kernel);
    assert_eq!(as_good(after, &kernel.ours), Ok(()));
    drop(kernel);
    found.into_inner()
}

fn peers() -> BoxedStrategy<BTreeSet<IdentityId>> {
    prop::sample::subsequence(&IDENTITIES[1..], 0..IDENTITIES.len())
        .prop_map(|ids| ids.into_iter().chain([0]).map(IdentityId).collect())
        .boxed()
}

fn any_rows() -> BoxedStrategy<Vec<(PolicyKey, PolicyRow)>> {
    prop::collection::vec((Policy::keys(), Policy::rows()), 0..24).boxed()
}

/// Rows of one of the two for peers, of the other for everybody.
fn mixed(peers: &[(PolicyKey, PolicyRow)], any: &[(PolicyKey, PolicyRow)]) -> Vec<(PolicyKey, PolicyRow)> {
    let peers = peers.iter().filter(|(key, _)| key.identity.0 != 0);
    peers.chain(any.iter().filter(|(key, _)| key.identity.0 == 0)).copied().collect()
}

proptest! {
    #![proptest_config(crate::config(512))]

    #[test]
    fn peers_join_and_leave_without_opening(catalog in catalog(), before in peers(), after in peers()) {
        let rows = |catalog: &Catalog, peers| state(catalog.rows(POLICY, peers), Some(1));
        prop_assert_eq!(breach(rows(&catalog, &before), &rows(&catalog, &after)), None);
    }

    #[test]
    fn rows_of_peers_are_mended_without_opening(catalog in catalog(), peers in peers(), drifted in any_rows()) {
        let wanted = catalog.rows(POLICY, &peers);
        let before = state(mixed(&drifted, &wanted), Some(1));
        prop_assert_eq!(breach(before, &state(wanted, Some(1))), None);
    }

    #[test]
    fn rows_for_everybody_are_mended_without_opening(catalog in catalog(), peers in peers(), drifted in any_rows()) {
        let wanted = catalog.rows(POLICY, &peers);
        let before = state(mixed(&wanted, &drifted), Some(1));
        prop_assert_eq!(breach(before, &state(wanted, Some(1))), None);
    }

    #[test]
    fn a_policy_is_clean_before_its_digest_stands(catalog in catalog(), peers in peers(), stale in any_rows()) {
        let wanted = state(catalog.rows(POLICY, &peers), Some(1));
        let desired = DesiredState { state: wanted.clone(), synced: SourceSet::ALL };
        let dirty = RefCell::new(None);
        let mut kernel = FakeKernel::with(state(stale, None));
        kernel.witness = Some(Box::new(|state, id| {
            if id.kind == Kind::PolicyDigest {
                let probes = Probe::fair(&wanted, &wanted);
                *dirty.borrow_mut() = probes.into_iter().find(|p| p.passes(state) != p.passes(&wanted));
            }
        }));
        Real.pass(&desired, &mut kernel);
        drop(kernel);
        prop_assert_eq!(dirty.into_inner(), None);
    }
}
