//! Against the standard map, over any sequence of acts; and that older versions stay as they were.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Act {
    Insert(u16, u8),
    Remove(u16),
    Append(u8),
    Edit(Vec<(u16, Option<u8>)>),
    RemoveRange(u16, u16),
    Keep,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0..600u16, any::<u8>()).prop_map(|(k, v)| Act::Insert(k, v)),
        6 => (0..600u16).prop_map(Act::Remove),
        2 => any::<u8>().prop_map(Act::Append),
        1 => prop::collection::vec((0..600u16, prop::option::of(any::<u8>())), 0..400).prop_map(Act::Edit),
        1 => (0..600u16, 0..300u16).prop_map(|(from, n)| Act::RemoveRange(from, n)),
        1 => Just(Act::Keep),
    ]
}

fn same(map: &Map<u16, u8>, model: &BTreeMap<u16, u8>) -> Result<(), TestCaseError> {
    prop_assert_eq!(map.len(), model.len());
    prop_assert!(map.iter().eq(model.iter()));
    prop_assert!(map.iter().rev().eq(model.iter().rev()));
    for leaf in map.branches().iter().flat_map(|b| b.iter()) {
        prop_assert!(!leaf.is_empty() && leaf.len() <= LEAF);
    }
    prop_assert!(map.branches().iter().all(|b| !b.is_empty() && b.len() <= BRANCH));
    Ok(())
}

proptest! {
    #[test]
    fn it_is_a_map_and_versions_stay_as_they_were(acts in prop::collection::vec(act(), 0..300)) {
        let (mut map, mut model) = (Map::<u16, u8>::default(), BTreeMap::new());
        let mut kept = Vec::new();
        for act in acts {
            match act {
                Act::Insert(k, v) => prop_assert_eq!(map.insert(k, v), model.insert(k, v)),
                Act::Remove(k) => prop_assert_eq!(map.remove(&k), model.remove(&k)),
                Act::Append(v) => {
                    let next = model.last_key_value().map_or(0, |(k, _)| k + 1);
                    map.insert(next, v);
                    model.insert(next, v);
                }
                Act::Edit(edits) => {
                    let edits: BTreeMap<_, _> = edits.into_iter().collect();
                    for (k, v) in &edits {
                        match v {
                            Some(v) => model.insert(*k, *v),
                            None => model.remove(k),
                        };
                    }
                    map.edit(edits.into_iter().collect());
                }
                Act::RemoveRange(from, n) => {
                    map.retain(|k, _| !(from..from + n).contains(k));
                    model.retain(|k, _| !(from..from + n).contains(k));
                }
                Act::Keep => kept.push((map.clone(), model.clone())),
            }
        }
        same(&map, &model)?;
        for k in (0..600).step_by(7) {
            prop_assert_eq!(map.get(&k), model.get(&k));
            prop_assert!(map.range(k..k + 50).eq(model.range(k..k + 50)));
            prop_assert!(map.range(k..=k).rev().eq(model.range(k..=k).rev()));
        }
        for (old, old_model) in &kept {
            same(old, old_model)?;
            let seen: Vec<_> = old.differences(&map).into_iter().map(|(k, b, n)| (*k, b.copied(), n.copied())).collect();
            let keys: std::collections::BTreeSet<u16> = old_model.keys().chain(model.keys()).copied().collect();
            let want: Vec<_> = keys
                .into_iter()
                .map(|k| (k, old_model.get(&k).copied(), model.get(&k).copied()))
                .filter(|(_, b, n)| b != n)
                .collect();
            prop_assert_eq!(seen, want);
        }
    }
}

#[test]
fn what_two_versions_share_is_not_looked_at() {
    let before: Map<u32, u32> = (0..100_000).map(|n| (n, n)).collect();
    let mut now = before.clone();
    now.insert(500u32, 0u32);
    now.remove(&70_000);
    now.insert(200_000u32, 0u32);
    let mut looked = 0;
    before.changes(&now, |_, _, _| looked += 1);
    assert!(looked <= 5 * LEAF, "{looked}");
    assert_eq!(before.differences(&now).len(), 3);
}

#[test]
fn a_list_of_mostly_none_is_a_list() {
    assert_eq!(size_of::<Rarely<[usize; 3]>>(), size_of::<usize>());
    for count in 0..4u8 {
        let items: Vec<u8> = (0..count).collect();
        let rarely = Rarely::from(items.clone());
        assert_eq!((&*rarely, rarely.len()), (items.as_slice(), items.len()));
        let text = serde_json::to_string(&items).unwrap();
        assert_eq!(serde_json::to_string(&rarely).unwrap(), text);
        assert_eq!(serde_json::from_str::<Rarely<u8>>(&text).unwrap(), rarely);
        assert_ne!(rarely, (0..=count).collect());
    }
}

#[test]
fn a_list_of_mostly_one_is_a_list() {
    assert!(size_of::<Mostly<[usize; 3]>>() <= size_of::<[usize; 4]>());
    for count in 0..4u8 {
        let items: Vec<u8> = (0..count).collect();
        let mut mostly = Mostly::from(items.clone());
        assert_eq!(matches!(mostly, Mostly::One(_)), count == 1);
        assert_eq!((&*mostly, mostly.len()), (items.as_slice(), items.len()));
        let text = serde_json::to_string(&items).unwrap();
        assert_eq!(serde_json::to_string(&mostly).unwrap(), text);
        assert_eq!(serde_json::from_str::<Mostly<u8>>(&text).unwrap(), mostly);
        mostly.iter_mut().for_each(|item| *item += 1);
        assert!(mostly.iter().copied().eq(1..=count));
        assert_ne!(mostly, (0..=count).collect());
    }
}
