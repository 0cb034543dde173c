//! Selectors as one text, as `kubectl get -l` takes them: `a=b,c!=d,e in (f,g),h notin (i),j,!k`.

use crate::lower::cursor::{Cursor, Notes};
use crate::schema::quoted;
use cilium_engine::world::{Label, Operator, Requirement, Selector};
use std::collections::BTreeSet;

/// Most conditions.
const MAX: usize = 100;

/// The selector over labels of nodes. One that cannot be read is told and invalid.
pub(super) fn read(at: &Cursor<'_>, text: &str, notes: &mut Notes) -> Option<Selector> {
    let parts = split(text);
    if parts.len() > MAX {
        notes.invalid(at, format!("has {} conditions, more than the {MAX} possible", parts.len()), "");
        return None;
    }
    let mut requirements = Vec::new();
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        let Some((key, operator)) = condition(part) else {
            let hint =
                "conditions are `key=value`, `key!=value`, `key in (a,b)`, `key notin (a,b)`, `key`, `!key`";
            notes.invalid(at, format!("{} is no condition on labels", quoted(part)), hint);
            return None;
        };
        requirements.push(Requirement { label: Label::new("k8s", key), operator });
    }
    requirements.sort();
    requirements.dedup();
    Some(Selector { requirements })
}

/// At the commas outside of parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut within = false;
    let at_comma = |c: char| {
        match c {
            '(' => within = true,
            ')' => within = false,
            _ => {}
        }
        c == ',' && !within
    };
    text.split(at_comma).map(str::trim).collect()
}

fn condition(text: &str) -> Option<(&str, Operator)> {
    if let Some(key) = text.strip_prefix('!') {
        return Some((self::key(key.trim())?, Operator::DoesNotExist));
    }
    // Longer signs first: `==` and `!=` hold a `=`.
    let compared = [("!=", false), ("==", true), ("=", true)];
    if let Some((sign, equal)) = compared.into_iter().find(|(sign, _)| text.contains(sign)) {
        let (key, value) = text.split_once(sign)?;
        let values: BTreeSet<String> = [self::value(value.trim())?.to_owned()].into();
        let operator = if equal { Operator::In(values) } else { Operator::NotIn(values) };
        return Some((self::key(key.trim())?, operator));
    }
    let Some((left, list)) = text.split_once('(') else {
        return Some((key(text)?, Operator::Exists));
    };
    let values: Option<BTreeSet<String>> =
        list.trim_end().strip_suffix(')')?.split(',').map(|v| value(v.trim()).map(str::to_owned)).collect();
    let (key, word) = left.trim().rsplit_once(char::is_whitespace)?;
    match word {
        "in" => Some((self::key(key.trim())?, Operator::In(values?))),
        "notin" => Some((self::key(key.trim())?, Operator::NotIn(values?))),
        _ => None,
    }
}

fn name(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.chars().next())
        && edge(text.chars().last())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// `[prefix/]name`.
fn key(text: &str) -> Option<&str> {
    let good = match text.split_once('/') {
        Some((prefix, rest)) => {
            let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
            (1..=253).contains(&prefix.len()) && prefix.chars().all(inside) && name(rest)
        }
        None => name(text),
    };
    good.then_some(text)
}

fn value(text: &str) -> Option<&str> {
    (text.is_empty() || name(text)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::{condition, split};

    fn shown(text: &str) -> Vec<String> {
        split(text)
            .into_iter()
            .map(|part| condition(part).map_or("?".into(), |(key, operator)| format!("{key} {operator:?}")))
            .collect()
    }

    #[test]
    fn every_form_is_read() {
        assert_eq!(
            shown("a=b, c != d,e in (f, g),x.io/h notin (i,),j,!k,l==m,n="),
            [
                r#"a In({"b"})"#,
                r#"c NotIn({"d"})"#,
                r#"e In({"f", "g"})"#,
                r#"x.io/h NotIn({"", "i"})"#,
                "j Exists",
                "k DoesNotExist",
                r#"l In({"m"})"#,
                r#"n In({""})"#,
            ]
        );
    }

    #[test]
    fn anything_else_is_not() {
        for text in [
            "a>1",
            "a in b",
            "a in (b",
            "in (a)",
            "a (b)",
            "a=b=c",
            "=b",
            "!",
            "a b",
            "-a",
            "a/b/c",
            "a nota (b)",
            "ä",
        ] {
            assert_eq!(shown(text), ["?"], "{text}");
        }
    }
}
