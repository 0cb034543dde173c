//! Whatever stands in a file: no panic, no time without end, and nothing is granted that was not written.

use cilium_crds::lower::Facts;
use cilium_crds::object::Reading;
use cilium_crds::read_file;
use cilium_crds::yaml::{self, MAX_BYTES};
use cilium_engine::world::{PeerSet, PortSet, RuleVerdict};
use proptest::prelude::*;
use std::time::{Duration, Instant};

const GOOD: &str = include_str!("objects/cnp-good.yaml");
const NP: &str = include_str!("objects/np-basic.yaml");
const CLUSTER: &str = include_str!("objects/cluster.yaml");

fn quick(bytes: &[u8]) -> yaml::Stream {
    let begin = Instant::now();
    let stream = yaml::parse(bytes);
    assert!(begin.elapsed() < Duration::from_secs(20), "took {:?}", begin.elapsed());
    stream
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let refs = vec![format!("*a{}", i - 1); 10].join(", ");
        text.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
    }
    let stream = quick(text.as_bytes());
    assert!(stream.broken.is_some_and(|f| f.message.contains("values")));
}

#[test]
fn an_alias_to_itself_is_refused() {
    for text in ["a: &a [*a]", "&a {b: *a}", "a: *nowhere"] {
        assert!(quick(text.as_bytes()).broken.is_some(), "{text}");
    }
}

#[test]
fn depth_is_bounded_also_through_aliases() {
    for (open, close) in [("[", "]"), ("{a: ", "}")] {
        let text = format!("{}x{}", open.repeat(100_000), close.repeat(100_000));
        assert!(quick(text.as_bytes()).broken.is_some());
    }
    let mut text = String::from("a0: &a0 [x]\n");
    for i in 1..200 {
        text.push_str(&format!("a{i}: &a{i} [*a{}]\n", i - 1));
    }
    assert!(quick(text.as_bytes()).broken.is_some_and(|f| f.message.contains("deeper")));
    let block: String = (0..2000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    assert!(quick(block.as_bytes()).broken.is_some());
}

#[test]
fn size_is_bounded_and_large_files_within_it_are_read() {
    assert!(quick(&vec![b'a'; MAX_BYTES + 1]).broken.is_some_and(|f| f.message.contains("bytes")));
    quick(&vec![b'-'; 1 << 20]);
    quick(&vec![b'['; 1 << 20]);
    quick("? ".repeat(1 << 18).as_bytes());
    quick("- ".repeat(1 << 18).as_bytes());
    quick("a: b\n".repeat(1 << 18).as_bytes());
    quick("\"a\\x41\": '".repeat(1 << 16).as_bytes());
    let pods: String = (0..10_000)
        .map(|i| format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{i}, labels: {{app: web}}}}\n"))
        .collect();
    let file = read_file(pods.as_bytes(), "pods.yaml");
    assert_eq!(file.readings.len(), 10_000);
    assert!(file.broken.is_none());
}

#[test]
fn bytes_that_are_no_text_are_told_with_their_place() {
    let told = |bytes: &[u8]| quick(bytes).broken.map(|f| (f.at.line, f.message));
    assert_eq!(told(b"a: b\nc: \xff"), Some((2, "is not UTF-8 text".into())));
    assert_eq!(told(b"a: b\n\0\0\0"), Some((2, "holds a NUL byte".into())));
    assert!(quick(b"\xef\xbb\xbfkind: Pod\n").broken.is_none());
}

#[test]
fn json_is_read_also_with_tabs_and_escapes() {
    let text = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Pod\",\n\t\"metadata\": {\"name\": \"p\", \"annotations\": {\"a\": \"\\u00e9\\/\\n\\\"\"}}\n}\n";
    let file = read_file(text.as_bytes(), "p.json");
    assert!(file.broken.is_none(), "{:?}", file.broken);
    assert!(matches!(&file.readings[..], [Reading::Object(object, _)] if object.valid));
}

/// Everything a policy allows must be written in it: an entry that is not what it was grants nothing more.
fn grants(bytes: &[u8]) -> Vec<(String, bool)> {
    let mut out = Vec::new();
    for reading in read_file(bytes, "f.yaml").readings {
        let Reading::Object(object, _) = reading else { continue };
        let Facts::Policy(rules) = &object.facts else { continue };
        for clause in rules.iter().flat_map(|r| &r.clauses).filter(|c| c.verdict == RuleVerdict::Allow) {
            out.push((clause.path.clone(), clause.peers == PeerSet::Any && clause.ports == PortSet::Any));
        }
    }
    out
}

#[test]
fn a_misspelt_field_never_opens_anything() {
    // Each name of a field in the good policies is misspelt once, in all its places.
    let fields = [
        "endpointSelector",
        "matchLabels",
        "matchExpressions",
        "operator",
        "values",
        "fromEndpoints",
        "fromEntities",
        "fromCIDR",
        "fromCIDRSet",
        "cidr",
        "except",
        "toPorts",
        "ports",
        "port",
        "endPort",
        "protocol",
        "icmps",
        "fields",
        "type",
        "family",
        "ingress",
        "egress",
        "enableDefaultDeny",
        "spec",
        "specs",
        "key",
    ];
    for field in fields {
        let text = GOOD.replace(&format!("{field}:"), &format!("{field}x:"));
        assert_ne!(text, GOOD, "{field} is not in the example");
        let wide = grants(text.as_bytes()).into_iter().filter(|(_, any)| *any).collect::<Vec<_>>();
        assert!(wide.is_empty(), "{field}: {wide:?}");
        let invalid = read_file(text.as_bytes(), "f").readings.iter().any(|r| match r {
            Reading::Object(object, _) => !object.valid,
            Reading::Nameless(_) | Reading::Other(_) => true,
        });
        assert!(invalid, "{field}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        read_file(&bytes, "f");
    }

    #[test]
    fn any_yaml_like_text_is_read_without_panic(text in "([a-z]{0,3}[:\\-\\[\\]{},&*!|>'\"#%@`?~ \n\t]{0,4}){0,200}") {
        read_file(text.as_bytes(), "f");
    }

    #[test]
    fn mutations_of_good_files_are_read_without_panic(
        which in 0usize..3,
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0u8..4, "[ -~\n]{0,8}"), 1..8),
    ) {
        let mut text: Vec<u8> = [GOOD, NP, CLUSTER][which].into();
        for (at, what, with) in edits {
            let at = at.index(text.len().max(1)).min(text.len());
            match what {
                0 => drop(text.splice(at..at, with.bytes())),
                1 => text.truncate(at),
                2 => drop(text.drain(at..(at + with.len()).min(text.len()))),
                _ => {
                    let end = (at + with.len()).min(text.len());
                    drop(text.splice(at..end, with.bytes()));
                }
            }
        }
        read_file(&text, "f");
    }

    /// A file cut anywhere: the documents before the cut are there as they were, and what is cut grants
    /// nothing it did not grant whole.
    #[test]
    fn a_file_cut_short_grants_no_more(at in any::<prop::sample::Index>()) {
        let whole = grants(GOOD.as_bytes());
        let at = at.index(GOOD.len());
        let cut = grants(&GOOD.as_bytes()[..at]);
        prop_assert!(cut.len() <= whole.len());
    }
}
