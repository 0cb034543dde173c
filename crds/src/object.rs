//! A document becomes an object: who it is, whether it is valid, what it says.

use crate::api::meta::PUBLISHED_BY;
use crate::finding::{Class, Finding};
use crate::kind::{ObjectKind, Scope};
use crate::lower::{self, Facts, Header};
use crate::schema::{self, nearest, quoted};
use crate::yaml::{Document, Node, Value};
use cilium_engine::map::Rarely;
use cilium_engine::problem::Problem;
use cilium_engine::shared::Text;
use cilium_engine::world::{ObjectName, Place};
use serde::{Deserialize, Serialize};

/// An object as it was read. What it says is independent of configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// Who it is.
    pub header: Header,
    /// Whether it is as the API wants it (it may still hold what is not enforced yet).
    pub valid: bool,
    /// What it says. Of an invalid policy: what of it counts, failing closed; of other invalid objects: nothing.
    pub facts: Facts,
    /// What is wrong with it.
    pub problems: Rarely<Problem>,
}

/// What a document turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// An object of a kind that is read, with its document.
    Object(Box<Object>, Node),
    /// It cannot be told which object it is: it may be any of the file.
    Nameless(Problem),
    /// An object of a kind that is not read, and why that matters, if it does.
    Other(Option<Problem>),
}

/// Reads a document of this file; a `List` holds several objects.
pub fn read(document: Document, file: &str) -> Vec<Reading> {
    let Document { root, findings } = document;
    let kind = root.find("kind").and_then(Node::text);
    if kind.is_some_and(|k| k.ends_with("List"))
        && let Value::Map(entries) = root.value
    {
        let items = entries.into_iter().find(|e| e.key == "items").map(|e| e.value.value);
        let Some(Value::List(items)) = items else { return Vec::new() };
        // What is wrong with the writing of a list is told with its first object.
        let mut findings = Some(findings);
        return items.into_iter().map(|item| one(item, findings.take().unwrap_or_default(), file)).collect();
    }
    vec![one(root, findings, file)]
}

fn one(root: Node, mut findings: Vec<Finding>, file: &str) -> Reading {
    let kind = match kind_of(&root) {
        Ok(Some(kind)) => kind,
        Ok(None) => return Reading::Other(None),
        Err((finding, true)) => return Reading::Other(Some(finding.problem("document", file))),
        Err((finding, false)) => return Reading::Nameless(finding.problem("document", file)),
    };
    let header = match header(kind, &root, file) {
        Ok(header) => header,
        Err(finding) => return Reading::Nameless(finding.problem(kind.name(), file)),
    };
    findings.extend(schema::check(schema::of(kind), &root));
    if let Some(version) = root.find("apiVersion").and_then(Node::text)
        && version != kind.api_version()
        && !kind.former_versions().contains(&version)
    {
        let message = format!("{kind} has no version {}", quoted(version));
        let mut finding =
            Finding::at(root.at, message, &format!("write `apiVersion: {}`", kind.api_version()));
        finding.path = "apiVersion".into();
        findings.push(finding);
    }
    if kind.scope() == Scope::Cluster
        && let Some(namespace) = root.find("metadata").and_then(|m| m.find("namespace"))
    {
        let hint = match kind {
            ObjectKind::CiliumClusterwideNetworkPolicy => "the namespaced kind is CiliumNetworkPolicy",
            _ => "remove it",
        };
        let mut finding = Finding::at(namespace.at, format!("a {kind} has no namespace"), hint);
        finding.path = "metadata.namespace".into();
        findings.push(finding);
    }
    let facts = lower::lower(&header, &root, &mut findings);
    findings.sort();
    findings.dedup();
    let valid = findings.iter().all(|f| f.class < Class::Invalid);
    let title = header.title();
    let problems = findings.iter().map(|f| f.problem(&title, file)).collect();
    Reading::Object(Box::new(Object { header, valid, facts, problems }), root)
}

/// The kind, if it is read. `Err(_, true)`: it is another kind, which matters; `Err(_, false)`: no telling.
fn kind_of(root: &Node) -> Result<Option<ObjectKind>, (Finding, bool)> {
    if !matches!(root.value, Value::Map(_)) {
        let message = format!("an object is a mapping, this is {}", root.value.type_name());
        return Err((Finding::at(root.at, message, "begin it with `apiVersion:` and `kind:`"), false));
    }
    let Some(name) = root.find("kind").and_then(Node::text) else {
        let hint = "every object has `apiVersion`, `kind` and `metadata`";
        return Err((Finding::at(root.at, "`kind` is missing".into(), hint), false));
    };
    let version = root.find("apiVersion").and_then(Node::text).unwrap_or_default();
    let at = root.find("kind").map_or(root.at, |n| n.at);
    if let Some(kind) = ObjectKind::named(name) {
        // Kinds of other groups may share a name.
        let group =
            |version: &str| version.rsplit_once('/').map_or(String::new(), |(group, _)| group.to_owned());
        if version.is_empty() || group(version) == group(kind.api_version()) || known_group(version) {
            return Ok(Some(kind));
        }
        return Ok(None);
    }
    let ours = version.starts_with("cilium.io/");
    if let Some(near) = nearest(name, ObjectKind::ALL.iter().map(|k| k.name()))
        && (ours || known_group(version) || version.is_empty())
        && !OTHERS.contains(&name)
    {
        let message = format!("there is no kind {}", quoted(name));
        return Err((Finding::at(at, message, &format!("did you mean `{near}`?")), false));
    }
    if ours {
        let message = format!("the kind {} is not read yet: it does nothing", quoted(name));
        let finding = Finding { class: Class::Unsupported, ..Finding::at(at, message, "") };
        return Err((finding, true));
    }
    Ok(None)
}

fn known_group(version: &str) -> bool {
    ObjectKind::ALL.iter().any(|k| k.api_version() == version)
}

/// Kinds near to ours in name, which are nevertheless meant.
const OTHERS: &[&str] =
    &["CiliumNodeConfig", "CiliumEndpointSlice", "Endpoints", "Secret", "Role", "PodTemplate"];

fn header(kind: ObjectKind, root: &Node, file: &str) -> Result<Header, Finding> {
    let metadata = root.find("metadata");
    let field = |name: &str| metadata.and_then(|m| m.find(name)).and_then(Node::text);
    let at = metadata.map_or(root.at, |m| m.at);
    let Some(name) = field("name") else {
        let hint = "every object has `metadata: {name: …}`; a number needs quotes";
        return Err(Finding::at(at, "`metadata.name` is missing, or no text".into(), hint));
    };
    let namespace = match kind.scope() {
        Scope::Cluster => "",
        Scope::Namespaced => field("namespace").filter(|n| !n.is_empty()).unwrap_or("default"),
    };
    let good = |text: &str| {
        (1..=253).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
            && !text.starts_with(['-', '.'])
            && !text.ends_with(['-', '.'])
    };
    for text in [Some(name), (!namespace.is_empty()).then_some(namespace)].into_iter().flatten() {
        if !good(text) {
            let hint =
                "names are lower-case letters, digits, `-` and `.`, and begin and end with a letter or digit";
            return Err(Finding::at(at, format!("{} is no name", quoted(text)), hint));
        }
    }
    let published = metadata.and_then(|m| m.find("annotations")).and_then(|a| a.find(PUBLISHED_BY));
    Ok(Header {
        kind,
        name: ObjectName::new(namespace, name).into(),
        published_by: published.and_then(Node::text).map(Text::from),
        place: Place { file: file.into(), line: root.at.line },
    })
}
