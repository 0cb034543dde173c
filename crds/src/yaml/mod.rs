//! YAML (and JSON, which is YAML) into documents of [`Node`]s, within bounds: size of the file, depth, and
//! number of values after aliases were followed. Never panics, never recurses deeper than [`MAX_DEPTH`].
//!
//! Plain scalars mean what they mean to `kubectl` (YAML 1.2 core types and the booleans `yes`, `no`, `on`,
//! `off`), so that a file is read alike by both.

mod node;
mod scalar;

pub use node::{Entry, Node, Position, Value};

use crate::finding::{Class, Finding};
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};
use std::collections::BTreeMap;

/// Largest file read, in bytes.
pub const MAX_BYTES: usize = 8 << 20;
/// Deepest nesting.
pub const MAX_DEPTH: usize = 64;
/// Most values in a file, aliases followed.
pub const MAX_NODES: usize = 2_000_000;

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// Documents that could be read, empty ones left out.
    pub documents: Vec<Document>,
    /// Why the rest could not be read, if so.
    pub broken: Option<Finding>,
}

/// One document of a file.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its content.
    pub root: Node,
    /// What is wrong with its writing (keys written twice, keys that are no text).
    pub findings: Vec<Finding>,
}

/// Reads all documents of a file. Documents before a syntax error are there, and the error is told.
pub fn parse(bytes: &[u8]) -> Stream {
    let mut stream = Stream::default();
    if bytes.len() > MAX_BYTES {
        stream.broken = Some(Finding::at(
            Position { line: 1, column: 1 },
            format!("has {} bytes, more than the {} that are read", bytes.len(), MAX_BYTES),
            "split it into several files",
        ));
        return stream;
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let good = &bytes[..error.valid_up_to()];
            let line = 1 + good.iter().filter(|b| **b == b'\n').count();
            let column = 1 + good.iter().rev().take_while(|b| **b != b'\n').count();
            stream.broken = Some(Finding::at(
                position(line, column),
                "is not UTF-8 text".into(),
                "save it as UTF-8; only .yaml, .yml and .json files are read",
            ));
            return stream;
        }
    };
    if let Some(at) = text.find('\0') {
        let line = 1 + text[..at].matches('\n').count();
        stream.broken = Some(Finding::at(
            position(line, 1),
            "holds a NUL byte".into(),
            "a file cut short by a crash looks so",
        ));
        return stream;
    }
    let mut reader = Reader {
        parser: Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text)),
        anchors: BTreeMap::new(),
        budget: MAX_NODES,
        findings: Vec::new(),
    };
    if let Err(finding) = reader.stream(&mut stream.documents) {
        stream.broken = Some(finding);
    }
    stream
}

/// Reads one document that is known to stand alone (last good versions).
pub fn parse_one(bytes: &[u8]) -> Result<Document, Finding> {
    let stream = parse(bytes);
    match (stream.broken, stream.documents.into_iter().next()) {
        (None, Some(document)) => Ok(document),
        (Some(finding), _) => Err(finding),
        (None, None) => Err(Finding::at(position(1, 1), "is empty".into(), "")),
    }
}

fn position(line: usize, column: usize) -> Position {
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Position { line: small(line), column: small(column) }
}

fn start(span: Span) -> Position {
    position(span.start.line(), span.start.col() + 1)
}

fn syntax(error: &ScanError) -> Finding {
    Finding::at(
        position(error.marker().line(), error.marker().col() + 1),
        format!("is not YAML: {}", error.info()),
        "check the indentation, quotes and brackets there",
    )
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: BTreeMap<usize, (Node, usize)>,
    budget: usize,
    findings: Vec<Finding>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Finding> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(syntax(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn stream(&mut self, documents: &mut Vec<Document>) -> Result<(), Finding> {
        loop {
            match self.next()?.0 {
                Event::StreamEnd => return Ok(()),
                Event::DocumentStart(_) => {
                    self.anchors.clear();
                    let (event, span) = self.next()?;
                    let (root, _) = self.node(event, span, 0)?;
                    // Not counted before its end was seen: a document cut short is a broken one.
                    let (end, at) = self.next()?;
                    if end != Event::DocumentEnd {
                        return Err(Finding::at(
                            start(at),
                            "is not YAML: the document does not end here".into(),
                            "",
                        ));
                    }
                    let findings = std::mem::take(&mut self.findings);
                    if root.value != Value::Null {
                        documents.push(Document { root, findings });
                    }
                }
                _ => {}
            }
        }
    }

    /// The value that this event begins, and how many values it is made of.
    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<(Node, usize), Finding> {
        let at = start(span);
        if depth > MAX_DEPTH {
            return Err(Finding::at(at, format!("is nested deeper than {MAX_DEPTH} levels"), ""));
        }
        self.spend(1, at)?;
        let (value, anchor, size) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let tag = tag.as_deref().filter(|t| t.is_yaml_core_schema()).map(|t| t.suffix.as_str());
                (scalar::resolve(&text, plain, tag), anchor, 1)
            }
            Event::SequenceStart(anchor, _) => {
                let mut list = Vec::new();
                let mut size = 1;
                loop {
                    let (event, span) = self.next()?;
                    if event == Event::SequenceEnd {
                        break;
                    }
                    let (node, n) = self.node(event, span, depth + 1)?;
                    size += n;
                    list.push(node);
                }
                (Value::List(list), anchor, size)
            }
            Event::MappingStart(anchor, _) => {
                let (entries, size) = self.mapping(depth)?;
                (Value::Map(entries), anchor, size)
            }
            Event::Alias(id) => {
                // An anchor that is still open refers to itself: it is not in the table yet.
                let Some((node, size)) = self.anchors.get(&id).map(|(n, s)| (n, *s)) else {
                    return Err(Finding::at(at, "an alias refers to an anchor that holds it".into(), ""));
                };
                if depth + depth_of(node) > MAX_DEPTH {
                    return Err(Finding::at(at, format!("is nested deeper than {MAX_DEPTH} levels"), ""));
                }
                let node = node.clone();
                self.spend(size, at)?;
                return Ok((Node { at, value: node.value }, size));
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => {
                return Err(Finding::at(at, "is not YAML: a value is missing here".into(), ""));
            }
        };
        let node = Node { at, value };
        if anchor > 0 {
            self.spend(size, at)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok((node, size))
    }

    fn mapping(&mut self, depth: usize) -> Result<(Vec<Entry>, usize), Finding> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut places: BTreeMap<String, Position> = BTreeMap::new();
        let mut merged: Vec<Node> = Vec::new();
        let mut size = 1;
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, _) if text == "<<");
            let (key, n) = self.node(event, span, depth + 1)?;
            let (event, span) = self.next()?;
            let (value, m) = self.node(event, span, depth + 1)?;
            size += n + m;
            if merge {
                merged.push(value);
                continue;
            }
            let text = match key.value {
                Value::Text(text) | Value::Int(_, text) | Value::Float(_, text) | Value::Bool(_, text) => {
                    text
                }
                Value::Null | Value::List(_) | Value::Map(_) => {
                    let message = format!("a key is {}, not a text", key.value.type_name());
                    self.findings.push(Finding::at(key.at, message, "put the key in quotes"));
                    continue;
                }
            };
            if let Some(first) = places.get(&text) {
                self.findings.push(Finding::at(
                    key.at,
                    format!("the key `{text}` is written twice, first on line {}", first.line),
                    "merge both, or remove one",
                ));
                // The document is invalid; of two lists both are kept, so that no denial is lost.
                if let Some(Entry { value: Node { value: Value::List(list), .. }, .. }) =
                    entries.iter_mut().find(|e| e.key == text)
                    && let Value::List(more) = value.value
                {
                    list.extend(more);
                }
                continue;
            }
            places.insert(text.clone(), key.at);
            entries.push(Entry { key: text, at: key.at, value });
        }
        for node in merged {
            self.merge(node, &mut entries, &mut places);
        }
        Ok((entries, size))
    }

    /// `<<`: keys of the mapping, or of each in a list, that are not there yet.
    fn merge(&mut self, node: Node, entries: &mut Vec<Entry>, places: &mut BTreeMap<String, Position>) {
        let sources = match node.value {
            Value::List(list) => list,
            Value::Map(_) => vec![node],
            Value::Null | Value::Bool(..) | Value::Int(..) | Value::Float(..) | Value::Text(_) => {
                self.findings.push(Finding::at(node.at, "`<<` merges mappings only".into(), ""));
                return;
            }
        };
        for source in sources {
            let Value::Map(list) = source.value else {
                self.findings.push(Finding::at(source.at, "`<<` merges mappings only".into(), ""));
                continue;
            };
            for entry in list {
                if !places.contains_key(&entry.key) {
                    places.insert(entry.key.clone(), entry.at);
                    entries.push(entry);
                }
            }
        }
    }

    fn spend(&mut self, nodes: usize, at: Position) -> Result<(), Finding> {
        match self.budget.checked_sub(nodes) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => Err(Finding {
                class: Class::Invalid,
                ..Finding::at(
                    at,
                    format!("holds more than {MAX_NODES} values"),
                    "write fewer aliases, or split the file",
                )
            }),
        }
    }
}

fn depth_of(node: &Node) -> usize {
    match &node.value {
        Value::List(list) => 1 + list.iter().map(depth_of).max().unwrap_or(0),
        Value::Map(entries) => 1 + entries.iter().map(|e| depth_of(&e.value)).max().unwrap_or(0),
        Value::Null | Value::Bool(..) | Value::Int(..) | Value::Float(..) | Value::Text(_) => 0,
    }
}
