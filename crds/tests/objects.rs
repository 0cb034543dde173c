//! Golden tests: each `objects/*.yaml` is read and lowered; what comes out stands in the `.out` beside it.
//! `CILIUM_BLESS=1` writes the `.out` files anew.

use cilium_crds::lower::Facts;
use cilium_crds::object::Reading;
use cilium_crds::read_file;
use cilium_engine::world::{
    Clause, NamedPort, Peer, PeerSet, PolicyRule, PortMatch, PortSet, Service, Subject,
};
use std::fmt::Write as _;
use std::path::Path;

#[test]
fn objects_read_as_written_down() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/objects");
    let mut seen = 0;
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(&folder).expect("the folder is part of the crate") {
        let path = entry.expect("a readable entry").path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        seen += 1;
        let name = path.file_name().and_then(|n| n.to_str()).expect("a name in UTF-8").to_owned();
        let out = report(&std::fs::read(&path).expect("a readable file"), &name);
        let golden = path.with_extension("out");
        if std::env::var_os("CILIUM_BLESS").is_some() {
            std::fs::write(&golden, &out).expect("the golden file can be written");
        } else if std::fs::read_to_string(&golden).unwrap_or_default() != out {
            wrong.push(format!("{name} now reads:\n{out}"));
        }
    }
    assert!(seen >= 6, "only {seen} fixtures found");
    assert!(wrong.is_empty(), "{}\nCILIUM_BLESS=1 accepts this", wrong.join("\n"));
}

fn report(bytes: &[u8], name: &str) -> String {
    let file = read_file(bytes, name);
    let mut out = String::new();
    for reading in &file.readings {
        match reading {
            Reading::Object(object, _) => {
                let state = if object.valid { "valid" } else { "INVALID" };
                writeln!(out, "{} line {} {state}", object.header.title(), object.header.place.line).unwrap();
                match &object.facts {
                    Facts::Policy(rules) => rules.iter().for_each(|r| rule(&mut out, r)),
                    Facts::Service(facts) => service(&mut out, facts),
                    facts => writeln!(out, "  {facts:?}").unwrap(),
                }
                object.problems.iter().for_each(|p| writeln!(out, "  {p}").unwrap());
            }
            Reading::Nameless(problem) => writeln!(out, "nameless\n  {problem}").unwrap(),
            Reading::Other(None) => writeln!(out, "not read").unwrap(),
            Reading::Other(Some(problem)) => writeln!(out, "not read\n  {problem}").unwrap(),
        }
    }
    if let Some(problem) = file.broken {
        writeln!(out, "broken\n  {problem}").unwrap();
    }
    out
}

/// The fields that say something: those that differ from a Service of which nothing is known.
fn service(out: &mut String, service: &Service) {
    let fields = |service: &Service| {
        let text = format!("{service:#?}");
        let mut fields: Vec<String> = Vec::new();
        for line in text.lines().skip(1) {
            match (line.strip_prefix("    "), fields.last_mut()) {
                // A line further in belongs to the field before it.
                (Some(inner), Some(field)) if inner.starts_with([' ', ']', '}', ')']) => {
                    field.push_str(inner.trim())
                }
                (Some(first), _) => fields.push(first.to_owned()),
                (None, _) => {}
            }
        }
        fields
    };
    let nothing = fields(&Service::default());
    let place = |field: &String| field.starts_with("place:");
    for field in fields(service).iter().filter(|field| !nothing.contains(field) && !place(field)) {
        let field = field.replace(",]", "]").replace(",}", "}").replace(",)", ")");
        writeln!(out, "  {}", field.trim_end_matches(',')).unwrap();
    }
}

fn rule(out: &mut String, rule: &PolicyRule) {
    let subject = match &rule.subject {
        Subject::Endpoints(selector) => selector.to_string(),
        Subject::Unreadable => "NOTHING (unreadable)".to_owned(),
    };
    let deny = match (rule.default_deny.ingress, rule.default_deny.egress) {
        (true, true) => "both",
        (true, false) => "ingress",
        (false, true) => "egress",
        (false, false) => "none",
    };
    writeln!(out, "  {}: selects {subject}; default deny {deny}", rule.origin.rule).unwrap();
    for clause in &rule.clauses {
        writeln!(out, "    {}", show(clause)).unwrap();
    }
}

fn show(clause: &Clause) -> String {
    let peers = match &clause.peers {
        PeerSet::Any => "any peer".to_owned(),
        PeerSet::Of(list) if list.is_empty() => "nobody".to_owned(),
        PeerSet::Of(list) => list
            .iter()
            .map(|peer| match peer {
                Peer::Endpoints(selector) => format!("{{{selector}}}"),
                Peer::Nodes { selector, here } => {
                    format!("nodes {{{selector}}}{}", if *here { "" } else { " but this" })
                }
                Peer::Entity(entity) => format!("{entity:?}"),
                Peer::Cidr { net, except } if except.is_empty() => net.to_string(),
                Peer::Cidr { net, except } => format!("{net} but {except:?}"),
                Peer::Groups { groups, except } => format!("{groups:?} but {except:?}"),
                Peer::Services(services) => format!("{services:?}"),
            })
            .collect::<Vec<_>>()
            .join(" or "),
    };
    let numbers = |list: &[PortMatch]| {
        let texts = list.iter().map(|p| match (p.first, p.last) {
            (0, u16::MAX) => p.proto.to_string(),
            (first, last) if first == last => format!("{}/{first}", p.proto),
            (first, last) => format!("{}/{first}-{last}", p.proto),
        });
        texts.collect::<Vec<_>>()
    };
    let ports = match &clause.ports {
        PortSet::Any => "any port".to_owned(),
        PortSet::Of(list) => numbers(list).join(" "),
        PortSet::Named(list, names) => {
            let named = |name: &NamedPort| match name.proto {
                Some(proto) => format!("{proto}/{}", name.name),
                None => name.name.clone(),
            };
            numbers(list).into_iter().chain(names.iter().map(named)).collect::<Vec<_>>().join(" ")
        }
    };
    format!("{} {:?} {}: {peers}; {ports}", clause.path, clause.verdict, clause.direction)
}
