//! What differs between two configurations, and what applying the difference costs.

use super::{Config, document, keys};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What traffic notices when a key changes and the agent is restarted with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Impact {
    /// Nothing: rows or the agent's own behaviour change.
    Hitless,
    /// Nothing is lost, but programs are loaded anew or maps filled anew and swapped.
    Reload,
    /// Connections, addresses or identities of running pods are affected.
    Disruptive,
}

impl fmt::Display for Impact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hitless => "hitless",
            Self::Reload => "reload",
            Self::Disruptive => "disruptive",
        })
    }
}

/// One key with two different values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The key, dotted.
    pub key: String,
    /// The value that was, as TOML.
    pub old: String,
    /// The value that will be, as TOML.
    pub new: String,
    /// What it costs.
    pub impact: Impact,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {} ({})", self.key, self.old, self.new, self.impact)
    }
}

/// Keys whose values differ, in the order of the document.
pub fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let (old, new) = (old.to_value(), new.to_value());
    let mut found = Vec::new();
    for key in keys::all() {
        let pointer = key.pointer();
        let (Some(was), Some(will)) = (old.pointer(&pointer), new.pointer(&pointer)) else { continue };
        if was != will {
            found.push(Change {
                key: key.path.clone(),
                old: document::toml_text(was),
                new: document::toml_text(will),
                impact: key.impact,
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::RoutingMode;
    use super::*;

    #[test]
    fn equal_configurations_have_no_changes() {
        assert_eq!(changes(&Config::default(), &Config::default()), []);
    }

    #[test]
    fn a_change_names_key_values_and_impact() {
        let mut new = Config::default();
        new.routing.mode = RoutingMode::Native;
        new.bpf.ct_tcp_max = 2_048;
        new.paths.cni_bin_dir = None;
        let shown: Vec<String> = changes(&Config::default(), &new).iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                r#"paths.cni_bin_dir: "/opt/cni/bin" -> "" (hitless)"#,
                r#"routing.mode: "tunnel" -> "native" (disruptive)"#,
                "bpf.ct_tcp_max: 524288 -> 2048 (disruptive)",
            ]
        );
    }
}
