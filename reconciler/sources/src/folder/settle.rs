//! Which version of each object counts: of several the path that sorts first, of a broken one the last good.

use super::lastgood::LastGood;
use super::walk::Found;
use super::{CachedFile, Identity, Member, Snapshot};
use cilium_crds::object::Object;
use cilium_engine::problem::{Problem, Severity};
use cilium_engine::state::Origin;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) fn settle(
    files: &mut BTreeMap<String, CachedFile>,
    store: &mut LastGood,
    found: &Found,
    out: &mut Snapshot,
) {
    let mut chosen: BTreeMap<Identity, Arc<Object>> = BTreeMap::new();
    let mut keep: BTreeSet<Identity> = BTreeSet::new();
    // Files are in the order of their paths, documents in that of their lines: the first one counts.
    for file in files.values_mut() {
        out.problems.extend(file.problems.iter().cloned());
        for member in &mut file.members {
            if let Some(first) = chosen.get(&member.identity) {
                out.problems.extend(twice(first, &member.object));
                continue;
            }
            keep.insert(member.identity.clone());
            chosen.insert(member.identity.clone(), version(member, store));
        }
    }
    for (identity, kept) in store.iter() {
        if keep.contains(identity) {
            continue;
        }
        let unsure = files.get(&kept.file).is_some_and(|f| f.unsure) || found.may_hold(&kept.file);
        if unsure {
            keep.insert(identity.clone());
            let mut object = Object::clone(&kept.object);
            object.problems = vec![unread(&object)];
            chosen.insert(identity.clone(), Arc::new(object));
        }
    }
    store.retain(&keep);
    out.objects = chosen.into_values().collect();
}

/// The object as it is written, if it is valid; else its last good version; else what of it counts.
fn version(member: &mut Member, store: &mut LastGood) -> Arc<Object> {
    if member.object.valid {
        store.put(&member.identity, &member.object, member.digest, member.document.as_deref());
        member.document = None;
        return Arc::clone(&member.object);
    }
    match store.find(&member.identity) {
        None => Arc::clone(&member.object),
        Some(kept) => {
            let mut object = Object::clone(&kept.object);
            object.header.place = member.object.header.place.clone();
            object.problems = member.object.problems.clone();
            object.problems.push(told(
                &member.object,
                Severity::Warning,
                "its last good version stays in force".into(),
                "mend it, or remove it",
            ));
            Arc::new(object)
        }
    }
}

fn told(object: &Object, severity: Severity, message: String, hint: &str) -> Problem {
    Problem {
        severity,
        origin: Origin {
            object: object.header.title(),
            place: object.header.place.to_string(),
            rule: String::new(),
        },
        message,
        hint: hint.to_owned(),
    }
}

fn unread(object: &Object) -> Problem {
    let message = "its file cannot be read as a whole: its last good version stays in force".into();
    told(object, Severity::Warning, message, "mend the file; an object that is not in it then is removed")
}

fn twice(first: &Object, second: &Object) -> [Problem; 2] {
    let hint = "remove one, or rename it";
    let also = format!("it is written again in {}, which does not count", second.header.place);
    let not = format!("does not count: {} has it, and sorts first", first.header.place);
    [told(first, Severity::Warning, also, hint), told(second, Severity::Error, not, hint)]
}
