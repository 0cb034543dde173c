//! Damage to objects: one member taken away, renamed, doubled, or made something else.

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

/// What happens to one value of an object's `spec`.
#[derive(Debug, Clone)]
pub struct Damage {
    at: Index,
    how: How,
}

#[derive(Debug, Clone)]
enum How {
    Remove,
    Rename(&'static str),
    Replace(Value),
    Double,
}

impl Damage {
    /// Does it to the object; an object without a spec stays as it is.
    pub fn apply(&self, object: &mut Value) {
        let member = if object["specs"].is_null() { "spec" } else { "specs" };
        let Some(spec) = object.get_mut(member) else { return };
        let count = members(spec);
        if count > 0 {
            let mut left = self.at.index(count);
            walk(spec, &mut left, &self.how);
        }
    }
}

/// Some damage.
pub fn damage() -> impl Strategy<Value = Damage> {
    let names = select(vec!["fromRequires", "podSelectors", "ports", "matchLabels", "ipBlock"]);
    let values = select(vec![
        Value::Null,
        json!(true),
        json!(-1),
        json!(65536),
        json!(""),
        json!("no such thing"),
        json!("10.0.0.0/99"),
        json!([]),
        json!({}),
        json!([null]),
        json!([{}]),
        json!({"a": "b"}),
    ]);
    let how = prop_oneof![
        Just(How::Remove),
        names.prop_map(How::Rename),
        values.prop_map(How::Replace),
        Just(How::Double),
    ];
    (any::<Index>(), how).prop_map(|(at, how)| Damage { at, how })
}

/// How many values are below this one.
fn members(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(|item| 1 + members(item)).sum(),
        Value::Object(map) => map.values().map(|item| 1 + members(item)).sum(),
        _ => 0,
    }
}

/// Damages the `left`-th value below this one; true when done.
fn walk(value: &mut Value, left: &mut usize, how: &How) -> bool {
    match value {
        Value::Array(items) => {
            for n in 0..items.len() {
                if *left == 0 {
                    match how {
                        How::Remove => drop(items.remove(n)),
                        How::Rename(_) => items[n] = Value::Null,
                        How::Replace(with) => items[n] = with.clone(),
                        How::Double => items.insert(n, items[n].clone()),
                    }
                    return true;
                }
                *left -= 1;
                if walk(&mut items[n], left, how) {
                    return true;
                }
            }
        }
        Value::Object(map) => {
            let names: Vec<String> = map.keys().cloned().collect();
            for name in names {
                if *left == 0 {
                    let old = map.remove(&name).unwrap_or_default();
                    match how {
                        How::Remove => {}
                        How::Rename(to) => drop(map.insert((*to).to_owned(), old)),
                        How::Replace(with) => drop(map.insert(name, with.clone())),
                        How::Double => drop(map.insert(name, json!([old, old]))),
                    }
                    return true;
                }
                *left -= 1;
                if map.get_mut(&name).is_some_and(|below| walk(below, left, how)) {
                    return true;
                }
            }
        }
        _ => {}
    }
    false
}
