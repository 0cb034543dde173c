//! Every scenario file, as written and unlucky. `UPDATE_SCENARIOS=1` writes down what came instead.

use cilium_tests_scenarios::{expand, file, run};
use std::path::PathBuf;

fn scenarios() -> Vec<(PathBuf, file::Scenario)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/data");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder is part of the crate")
        .map(|e| e.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 8, "only {} scenarios", paths.len());
    paths
        .into_iter()
        .map(|path| (path.clone(), file::parse(&std::fs::read_to_string(path).unwrap())))
        .collect()
}

fn each(what: fn(&file::Scenario) -> Result<(), String>) {
    let mut wrong = Vec::new();
    for (path, scenario) in scenarios() {
        if let Err(message) = what(&scenario) {
            wrong.push(format!("{}: {message}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn plans_are_as_written() {
    let mut wrong = Vec::new();
    for (path, scenario) in scenarios() {
        match run::walk(&scenario) {
            Err(message) => wrong.push(format!("{}: {message}", path.display())),
            Ok(came) if came == scenario => {}
            Ok(came) if std::env::var_os("UPDATE_SCENARIOS").is_some() => {
                std::fs::write(&path, came.to_string()).unwrap();
            }
            Ok(came) => {
                for (want, came) in scenario.steps.iter().zip(&came.steps) {
                    for (want_section, section) in want.sections.iter().zip(&came.sections) {
                        if want_section != section {
                            let at = format!("{}: {:?}, {}", path.display(), want.title, section.name);
                            wrong.push(format!(
                                "{at}\n--- written\n{}+++ came\n{}",
                                want_section.text, section.text
                            ));
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_short() {
    for (path, scenario) in scenarios() {
        let lines = scenario.to_string().lines().count();
        assert!(lines < 200, "{} has {lines} lines", path.display());
    }
}

#[test]
fn with_inputs_reversed() {
    each(expand::reversed);
}

#[test]
fn with_an_empty_kernel_before_each_step() {
    each(expand::emptied);
}

#[test]
fn with_steps_squashed() {
    each(expand::squashed);
}

#[test]
fn killed_at_each_write() {
    each(expand::killed);
}

#[test]
fn with_each_row_failing_once() {
    each(expand::failing);
}

#[test]
fn with_each_row_tampered_with() {
    each(expand::drifted);
}

#[test]
fn with_a_memory_and_without() {
    each(expand::remembering);
}
