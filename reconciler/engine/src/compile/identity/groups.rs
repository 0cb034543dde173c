//! Labels of prefixes that rules ask for: whoever is within a CiliumCIDRGroup's prefixes carries its labels, and whoever
//! is within a prefix that a selector names (`cidr:10.0.0.0/8`) carries that name.

use super::asked;
use crate::map::{Map, Rarely, Set};
use crate::shared::{Shared, Text};
use crate::state::Origin;
use crate::world::{CidrGroup, Label, PolicyRule};
use ipnet::IpNet;

/// Source of the labels of groups.
const GROUP: &str = "cidrgroup";
/// Source of the names of prefixes.
const PREFIX: &str = "cidr";
/// What a group's name is behind, in the key of a label.
const NAME: &str = "io.cilium.policy.cidrgroupname";

/// What whoever is within some prefixes carries.
#[derive(Debug)]
struct Asked {
    /// What asks for it.
    origin: Origin,
    prefixes: Vec<IpNet>,
    labels: Vec<(Label, Text)>,
}

/// Prefixes with labels that some rule asks for.
#[derive(Debug, Default)]
pub(super) struct Groups {
    asked: Vec<Asked>,
}

impl Groups {
    pub(super) fn asked(rules: &Set<Shared<PolicyRule>>, groups: &Map<String, Shared<CidrGroup>>) -> Self {
        let mut asked = Vec::new();
        for (key, origin) in asked::keys(rules, PREFIX) {
            if let Some(net) = named(key) {
                let labels = vec![(Label::new(PREFIX, key), Text::default())];
                asked.push(Asked { origin: origin.clone(), prefixes: vec![net], labels });
            }
        }
        if groups.is_empty() {
            return Self { asked };
        }
        let keys = asked::keys(rules, GROUP);
        for (name, group) in groups {
            let own = (Label::new(GROUP, &format!("{NAME}/{name}")), Text::default());
            let labels = group.labels.0.iter().map(|(label, value)| (label.clone(), value.clone()));
            let labels: Vec<(Label, Text)> = std::iter::once(own).chain(labels).collect();
            if labels.iter().any(|(label, _)| keys.contains_key(&*label.key)) {
                let (object, place) = (format!("CiliumCIDRGroup {name}"), group.place.to_string());
                let origin = Origin { object, place, rule: String::new() };
                asked.push(Asked { origin, prefixes: group.prefixes.clone(), labels });
            }
        }
        Self { asked }
    }

    /// These prefixes, with what asks for them.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = (IpNet, &Origin)> {
        self.asked.iter().flat_map(|asked| asked.prefixes.iter().map(|net| (net.trunc(), &asked.origin)))
    }

    /// What everybody within a prefix carries. Of two groups with one label both values.
    pub(super) fn labels_of(&self, net: &IpNet) -> Rarely<(Label, Text)> {
        let around = self.asked.iter().filter(|asked| asked.prefixes.iter().any(|outer| outer.contains(net)));
        around.flat_map(|asked| asked.labels.iter().cloned()).collect()
    }
}

/// The prefix that the key of a label names. In the keys of labels `-` stands for `:`.
fn named(key: &str) -> Option<IpNet> {
    let text = if key.contains('.') { key.to_owned() } else { key.replace('-', ":") };
    Some(text.parse::<IpNet>().ok()?.trunc())
}
