//! The form of a scenario file.
//!
//! ```text
//! What it shows, in a sentence or two.
//!
//! -- config.toml --                  inputs from here on; an empty section takes a manifest away
//! -- host.toml --
//! -- endpoints.toml --
//! -- manifests/cart.yaml --
//! == title of a step ==              inputs that change, then what must come of it
//! -- manifests/cart.yaml --
//! -- unsynced --                     sources that have not synced (in this step), by name
//! -- drift --                        `- KIND KEY` goes, `~ KIND KEY as KIND KEY` gets the other's row
//! -- failing --                      `KIND KEY`: cannot be written (in this step)
//! -- plan --                         the whole plan; or `-- plan: frontend slot --`, these kinds of it
//! -- report --                       what was not done
//! -- problems --                     what is wrong with the objects
//! ```

use std::fmt;

/// A scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// What it shows.
    pub about: String,
    /// Inputs to begin with.
    pub setup: Vec<Section>,
    /// The steps.
    pub steps: Vec<Step>,
}

/// Inputs that change, and what must come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its title.
    pub title: String,
    /// Its sections in order.
    pub sections: Vec<Section>,
}

/// A named piece of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The name, as `manifests/cart.yaml`.
    pub name: String,
    /// The text, lines ended.
    pub text: String,
}

impl Step {
    /// The text of a section; empty if there is none.
    pub fn text(&self, name: &str) -> &str {
        self.sections.iter().find(|s| s.name == name).map_or("", |s| s.text.as_str())
    }
}

fn between<'a>(line: &'a str, mark: &str) -> Option<&'a str> {
    Some(line.strip_prefix(mark)?.strip_prefix(' ')?.strip_suffix(mark)?.trim_end())
}

/// Reads a scenario.
pub fn parse(text: &str) -> Scenario {
    let mut scenario = Scenario { about: String::new(), setup: Vec::new(), steps: Vec::new() };
    for line in text.lines() {
        if let Some(title) = between(line, "==") {
            scenario.steps.push(Step { title: title.to_owned(), sections: Vec::new() });
            continue;
        }
        let sections = match scenario.steps.last_mut() {
            Some(step) => &mut step.sections,
            None => &mut scenario.setup,
        };
        if let Some(name) = between(line, "--") {
            sections.push(Section { name: name.to_owned(), text: String::new() });
            continue;
        }
        let into = match sections.last_mut() {
            Some(section) => &mut section.text,
            None => &mut scenario.about,
        };
        into.push_str(line);
        into.push('\n');
    }
    // Blank lines around sections are for the eye.
    let all = scenario.setup.iter_mut().chain(scenario.steps.iter_mut().flat_map(|s| &mut s.sections));
    for section in all {
        let trimmed = section.text.trim_end();
        section.text = if trimmed.is_empty() { String::new() } else { format!("{trimmed}\n") };
    }
    scenario.about = scenario.about.trim_end().to_owned();
    scenario
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.about)?;
        for section in &self.setup {
            write!(f, "-- {} --\n{}", section.name, section.text)?;
        }
        for step in &self.steps {
            writeln!(f, "\n== {} ==", step.title)?;
            for section in &step.sections {
                write!(f, "-- {} --\n{}", section.name, section.text)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let text = "About.\n\n-- a --\nx: 1\n-- b --\n\n== first ==\n-- plan: slot --\n+ slot 1[0]: 2\n";
        let scenario = parse(text);
        assert_eq!((scenario.setup.len(), scenario.steps.len()), (2, 1));
        assert_eq!(scenario.setup[1].text, "");
        assert_eq!(scenario.steps[0].text("plan: slot"), "+ slot 1[0]: 2\n");
        assert_eq!(scenario.to_string(), text);
        assert_eq!(parse(&scenario.to_string()), scenario);
    }
}
