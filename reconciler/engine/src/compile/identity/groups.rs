//! CiliumCIDRGroups that rules select by label: whoever is within a group's prefixes carries its labels.

use super::asked;
use crate::map::{Map, Rarely, Set};
use crate::shared::{Shared, Text};
use crate::state::Origin;
use crate::world::{CidrGroup, Label, PolicyRule};
use ipnet::IpNet;

/// Source of the labels of groups.
const SOURCE: &str = "cidrgroup";
/// What a group's name is behind, in the key of a label.
const NAME: &str = "io.cilium.policy.cidrgroupname";

/// The groups whose labels some rule asks for.
#[derive(Debug, Default)]
pub(super) struct Groups {
    asked: Vec<(Origin, Vec<IpNet>, Vec<(Label, Text)>)>,
}

impl Groups {
    pub(super) fn asked(rules: &Set<Shared<PolicyRule>>, groups: &Map<String, Shared<CidrGroup>>) -> Self {
        if groups.is_empty() {
            return Self::default();
        }
        let keys = asked::keys(rules, SOURCE);
        let mut asked = Vec::new();
        for (name, group) in groups {
            let own = (Label::new(SOURCE, &format!("{NAME}/{name}")), Text::default());
            let labels = group.labels.0.iter().map(|(label, value)| (label.clone(), value.clone()));
            let labels: Vec<(Label, Text)> = std::iter::once(own).chain(labels).collect();
            if labels.iter().any(|(label, _)| keys.contains(&*label.key)) {
                let (object, place) = (format!("CiliumCIDRGroup {name}"), group.place.to_string());
                asked.push((Origin { object, place, rule: String::new() }, group.prefixes.clone(), labels));
            }
        }
        Self { asked }
    }

    /// Their prefixes, with what says so.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = (IpNet, &Origin)> {
        self.asked
            .iter()
            .flat_map(|(origin, prefixes, _)| prefixes.iter().map(move |net| (net.trunc(), origin)))
    }

    /// What everybody within a prefix carries. Of two groups with one label both values.
    pub(super) fn labels_of(&self, net: &IpNet) -> Rarely<(Label, Text)> {
        let around =
            self.asked.iter().filter(|(_, prefixes, _)| prefixes.iter().any(|outer| outer.contains(net)));
        around.flat_map(|(.., labels)| labels.iter().cloned()).collect()
    }
}
