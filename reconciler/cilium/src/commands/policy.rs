//! `policy validate`: what is wrong with objects, before anybody has them. Needs no root, no kernel, no configuration.

use crate::cli::{PolicyCommand, Report, ValidateArgs};
use anyhow::{Context, Result};
use cilium_crds::object::Reading;
use cilium_engine::problem::{Problem, Severity};
use cilium_sources::folder::{is_ignored, is_manifest};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Longest file that is read: an API server takes no object near it.
const LONGEST: u64 = 64 << 20;
/// How deep folders are looked into.
const DEPTH: usize = 32;

/// What was found.
#[derive(Debug, Default, Serialize)]
struct Findings {
    /// Files read.
    files: usize,
    /// Policies in them.
    policies: usize,
    /// Other objects of kinds that are read.
    others: usize,
    /// What is wrong.
    problems: Vec<Problem>,
}

/// Runs it.
pub(super) fn run(command: &PolicyCommand) -> Result<ExitCode> {
    let PolicyCommand::Validate(args) = command;
    let findings = validate(args)?;
    let text = match args.output {
        Report::Text => findings.text(),
        Report::Json => serde_json::to_string_pretty(&findings)? + "\n",
        Report::Sarif => serde_json::to_string_pretty(&findings.sarif())? + "\n",
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // The reader went away (`| head`): the exit code still says what was found.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => return Err(e.into()),
        _ => {}
    }
    let least = if args.strict { Severity::Warning } else { Severity::Error };
    let wrong = findings.problems.iter().any(|problem| problem.severity >= least);
    Ok(if wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn validate(args: &ValidateArgs) -> Result<Findings> {
    let mut findings = Findings::default();
    for path in &args.paths {
        if path.as_os_str() == "-" {
            let mut bytes = Vec::new();
            std::io::stdin()
                .take(LONGEST)
                .read_to_end(&mut bytes)
                .context("standard input cannot be read")?;
            findings.file(&bytes, "-");
            continue;
        }
        let mut files = Vec::new();
        collect(path, 0, &mut files)?;
        for file in files {
            let named = || format!("{} cannot be read", file.display());
            let mut bytes = Vec::new();
            let opened = std::fs::File::open(&file).with_context(named)?;
            opened.take(LONGEST).read_to_end(&mut bytes).with_context(named)?;
            findings.file(&bytes, &file.display().to_string());
        }
    }
    anyhow::ensure!(findings.files > 0, "there is no manifest: names end in `.yaml`, `.yml` or `.json`");
    Ok(findings)
}

/// The manifests at a path; a file that is named counts whatever its name.
fn collect(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let named = || format!("{} cannot be read", path.display());
    if !std::fs::metadata(path).with_context(named)?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    anyhow::ensure!(depth < DEPTH, "{}: folders are more than {DEPTH} deep", path.display());
    let mut entries =
        std::fs::read_dir(path).with_context(named)?.collect::<Result<Vec<_>, _>>().with_context(named)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_folder = entry.path().is_dir();
        if !is_ignored(&name) && (is_folder || is_manifest(&name)) {
            collect(&entry.path(), depth + 1, files)?;
        }
    }
    Ok(())
}

impl Findings {
    fn file(&mut self, bytes: &[u8], name: &str) {
        self.files += 1;
        let file = cilium_crds::read_file(bytes, name);
        for reading in file.readings {
            match reading {
                Reading::Object(object, _) => {
                    if object.header.kind.is_policy() {
                        self.policies += 1;
                    } else {
                        self.others += 1;
                    }
                    self.problems.extend(object.problems.iter().cloned());
                }
                Reading::Nameless(problem) => self.problems.push(problem),
                Reading::Other(problem) => self.problems.extend(problem),
            }
        }
        self.problems.extend(file.broken);
    }

    fn count(&self, severity: Severity) -> usize {
        self.problems.iter().filter(|problem| problem.severity == severity).count()
    }

    fn text(&self) -> String {
        let mut text: String = self.problems.iter().map(|problem| format!("{problem}\n")).collect();
        let (errors, warnings) = (self.count(Severity::Error), self.count(Severity::Warning));
        text.push_str(&format!(
            "{} policies and {} other objects in {} files: {errors} errors, {warnings} warnings\n",
            self.policies, self.others, self.files
        ));
        text
    }

    /// SARIF 2.1.0 (<https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html>).
    fn sarif(&self) -> Value {
        let results: Vec<Value> = self.problems.iter().map(result).collect();
        json!({
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [{
                "tool": {"driver": {
                    "name": "cilium",
                    "version": env!("CARGO_PKG_VERSION"),
                    "rules": [
                        {"id": ERROR, "shortDescription": {"text": "not in force as written"}},
                        {"id": WARNING, "shortDescription": {"text": "in force as written; worth a look"}},
                    ],
                }},
                "results": results,
            }],
        })
    }
}

const ERROR: &str = "object-error";
const WARNING: &str = "object-warning";

fn result(problem: &Problem) -> Value {
    let (rule, level) = match problem.severity {
        Severity::Error => (ERROR, "error"),
        Severity::Warning => (WARNING, "warning"),
    };
    let message = match problem.hint.as_str() {
        "" => problem.message.clone(),
        hint => format!("{} ({hint})", problem.message),
    };
    let (file, line, column) = position(&problem.origin.place);
    let mut place = json!({"artifactLocation": {"uri": file}});
    if let Some(line) = line {
        place["region"] = json!({"startLine": line});
        if let Some(column) = column {
            place["region"]["startColumn"] = json!(column);
        }
    }
    let name = format!("{} {}", problem.origin.object, problem.origin.rule);
    json!({
        "ruleId": rule,
        "level": level,
        "message": {"text": message},
        "locations": [{
            "physicalLocation": place,
            "logicalLocations": [{"fullyQualifiedName": name.trim_end()}],
        }],
    })
}

/// File, line and column of `file:line:column`, as far as they are said.
fn position(place: &str) -> (&str, Option<u32>, Option<u32>) {
    let last = |text: &'_ str| -> Option<(usize, u32)> {
        let (before, number) = text.rsplit_once(':')?;
        Some((before.len(), number.parse().ok()?))
    };
    match last(place) {
        None => (place, None, None),
        Some((end, number)) => match last(&place[..end]) {
            Some((before, line)) => (&place[..before], Some(line), Some(number)),
            None => (&place[..end], Some(number), None),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a, namespace: b}\nspec:\n  \
                       endpointSelector: {}\n  ingress:\n  - toPorts: [{ports: [{port: \"99999\"}]}]\n";

    fn of(text: &str) -> Findings {
        let mut findings = Findings::default();
        findings.file(text.as_bytes(), "dir/p.yaml");
        findings
    }

    #[test]
    fn a_finding_says_where_it_is() {
        let findings = of(BAD);
        assert_eq!((findings.policies, findings.count(Severity::Error)), (1, 1));
        assert!(findings.text().contains("dir/p.yaml:7:"), "{}", findings.text());
        let sarif = findings.sarif();
        let result = &sarif["runs"][0]["results"][0];
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "dir/p.yaml");
        assert_eq!(place["region"]["startLine"], 7);
        assert_eq!(result["level"], "error");
        let name = result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"].as_str().unwrap();
        assert_eq!(name, "CiliumNetworkPolicy b/a spec.ingress[0].toPorts[0].ports[0].port");
    }

    #[test]
    fn what_is_right_gives_nothing() {
        let findings = of(&BAD.replace("99999", "443"));
        assert!(findings.problems.is_empty(), "{}", findings.text());
        assert_eq!(findings.sarif()["runs"][0]["results"], json!([]));
    }

    #[test]
    fn places_are_taken_apart_from_their_end() {
        assert_eq!(position("a:b/c.yaml:3:4"), ("a:b/c.yaml", Some(3), Some(4)));
        assert_eq!(position("c.yaml:3"), ("c.yaml", Some(3), None));
        assert_eq!(position("c.yaml"), ("c.yaml", None, None));
    }
}
