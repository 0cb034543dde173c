//! Numbers of the ways back: one per frontend, which its source ranges and the clients it keeps go by too.

use super::{Place, Stage, Stale, place};
use crate::compile::book::IdBook;
use crate::compile::number::{ContentHash, probe};
use crate::compile::rows::Edits;
use crate::state::{FrontendKey, Reason, RevNat, RevNatId, RevNatRow};
use cilium_abi::lb::{SCOPE_EXTERNAL, SCOPE_INTERNAL};
use std::collections::{BTreeMap, BTreeSet, HashSet};

impl Stage {
    /// Numbers and rows of the ways back of these frontends.
    pub(super) fn number_ways_back(
        &self,
        stale: &Stale,
        book: &IdBook,
        edits: &mut Edits,
    ) -> BTreeMap<Place, RevNatId> {
        // Until all frontends were looked at once, the book may hold what no frontend leads to.
        let led: HashSet<RevNatId> = match self.begun {
            true => HashSet::new(),
            false => book.frontends.iter().map(|(_, entry)| entry.row.rev_nat).collect(),
        };
        let stands = |id: RevNatId, at: &Place| {
            book.rev_nats.find(&id).is_some_and(|row| (row.addr, row.port) == (at.0, at.1))
        };
        let mut numbers = BTreeMap::new();
        let mut whys: BTreeMap<Place, Reason> = BTreeMap::new();
        let mut taken: HashSet<RevNatId> = HashSet::new();
        let mut fresh = Vec::new();
        let places: BTreeSet<Place> = stale.keys().map(place).collect();
        for at in places {
            let outside = FrontendKey { addr: at.0, port: at.1, proto: at.2, scope: SCOPE_EXTERNAL };
            let inside = FrontendKey { scope: SCOPE_INTERNAL, ..outside.clone() };
            let keys = [&outside, &inside];
            let known = keys.iter().find_map(|key| self.fronts.get(*key)).map(|front| front.view.rev_nat);
            let Some(wanted) = keys.iter().find_map(|key| stale.get(*key)?.as_ref()) else {
                if let Some(id) = known {
                    edits.unset::<RevNat>(id);
                }
                continue;
            };
            whys.insert(at, wanted.origin.clone());
            let adopted = || {
                let row = keys.iter().find_map(|key| book.frontends.find(key))?;
                (!self.begun && stands(row.rev_nat, &at)).then_some(row.rev_nat)
            };
            match known.or_else(adopted).filter(|id| taken.insert(*id)) {
                Some(id) => drop(numbers.insert(at, id)),
                None => {
                    let parts = [at.0.to_string(), at.1.to_string(), at.2.0.to_string()];
                    fresh.push((ContentHash::of(parts), at));
                }
            }
        }
        fresh.sort_unstable();
        for (hash, at) in fresh {
            let id = |n: u32| u16::try_from(n).map(RevNatId).expect("probing ends at 65 535");
            let free = |n: u32| {
                let id = id(n);
                let unused = || !self.begun && !led.contains(&id) && stands(id, &at);
                !taken.contains(&id) && (book.rev_nats.find(&id).is_none() || unused())
            };
            if let Some(n) = probe(&hash, 1, u32::from(u16::MAX), free) {
                taken.insert(id(n));
                numbers.insert(at, id(n));
            }
        }
        for (at, id) in &numbers {
            edits.set::<RevNat>(*id, RevNatRow { addr: at.0, port: at.1 }, &whys.get(at).cloned());
        }
        numbers
    }
}
