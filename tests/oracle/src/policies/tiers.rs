//! The policies of cluster administrators: ClusterNetworkPolicy of policy.networking.k8s.io/v1alpha2, and
//! what it came from, AdminNetworkPolicy and BaselineAdminNetworkPolicy of v1alpha1.
//!
//! Their rules are ordered: by tier, by priority, by place; the first that matches decides. They put nobody
//! in default deny. Source: the comments of the API's types.

use crate::config::Config;
use crate::policies::tier_peers;
use crate::read::{At, Findings};
use crate::rule::{Action, Defects, Direction, Namespaces, Rank, Read, Rule, RuleId, Subject, Tier};
use crate::selector::{self, Keys, Selector};

/// Which of the APIs an object is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    Cluster,
    Admin,
    Baseline,
}

impl Api {
    fn most_rules(self) -> usize {
        match self {
            Api::Cluster => 25,
            Api::Admin | Api::Baseline => 100,
        }
    }

    /// The most peers of a rule, and the most ports.
    pub(super) fn most_items(self) -> usize {
        self.most_rules()
    }

    fn action(self, name: &str) -> Option<Action> {
        match (self, name) {
            (Api::Cluster, "Accept") | (Api::Admin | Api::Baseline, "Allow") => Some(Action::Accept),
            (_, "Deny") => Some(Action::Deny),
            (Api::Cluster | Api::Admin, "Pass") => Some(Action::Pass),
            _ => None,
        }
    }
}

/// The one BaselineAdminNetworkPolicy has no priority: it comes after every Baseline policy that has one.
const AFTER_ALL: i64 = 1001;

pub(super) fn read(root: &At<'_>, id: &RuleId, api: Api, config: &Config) -> Read {
    let mut read = Read::default();
    root.only(&["apiVersion", "kind", "metadata", "spec", "status"], &mut read.findings);
    let Some(spec) = root.member("spec") else {
        read.findings.invalid("spec", "is required");
        return read;
    };
    let findings = &mut read.findings;
    let members: &[&str] = match api {
        Api::Cluster => &["tier", "priority", "subject", "ingress", "egress"],
        Api::Admin => &["priority", "subject", "ingress", "egress"],
        Api::Baseline => &["subject", "ingress", "egress"],
    };
    spec.only(members, findings);
    if api == Api::Baseline && id.name != "default" {
        findings.invalid("metadata.name", "must be default");
    }
    let rank = read_rank(&spec, api, findings);
    let subject = read_subject(&spec, findings);
    for (name, direction) in [("ingress", Direction::Ingress), ("egress", Direction::Egress)] {
        for element in spec.bounded(name, 0..api.most_rules() + 1, findings).unwrap_or_default() {
            let place = read.rules.len();
            let rule = read_rule(&element, api, direction, config, findings);
            let (Some((action, peers, ports, defects)), Some(rank)) = (rule, rank) else { continue };
            let (id, subject) = (id.at(&element.path), subject.clone());
            read.rules.push((Rule { id, rank, place, direction, subject, action, peers, ports }, defects));
        }
    }
    read
}

fn read_rank(spec: &At<'_>, api: Api, findings: &mut Findings) -> Option<Rank> {
    let tier = match api {
        Api::Admin => Some(Tier::Admin),
        Api::Baseline => return Some(Rank { tier: Tier::Baseline, priority: AFTER_ALL }),
        Api::Cluster => match spec.member("tier").map(|at| at.value.as_str()) {
            Some(Some("Admin")) => Some(Tier::Admin),
            Some(Some("Baseline")) => Some(Tier::Baseline),
            _ => {
                findings.invalid(&spec.below("tier"), "is neither Admin nor Baseline");
                None
            }
        },
    };
    let priority = match spec.member("priority") {
        Some(priority) => priority.integer(0, 1000, findings),
        None => {
            findings.invalid(&spec.below("priority"), "is required");
            None
        }
    };
    Some(Rank { tier: tier?, priority: priority? })
}

fn read_subject(spec: &At<'_>, findings: &mut Findings) -> Subject {
    let Some(at) = spec.member("subject") else {
        findings.invalid(&spec.below("subject"), "is required");
        return Subject::Nobody;
    };
    let mark = findings.mark();
    at.only(&["namespaces", "pods"], findings);
    at.exactly_one(&["namespaces", "pods"], findings);
    let read = read_pods(&at, findings);
    match read {
        Some((namespaces, pods)) if !findings.any_since(mark) => Subject::Pods { namespaces, pods },
        _ => Subject::Nobody,
    }
}

/// `namespaces`, all pods of the namespaces it selects, or `pods`, a selector of each.
pub(super) fn read_pods(at: &At<'_>, findings: &mut Findings) -> Option<(Namespaces, Selector)> {
    if let Some(namespaces) = at.member("namespaces") {
        let selector = selector::read(&namespaces, Keys::Namespace, findings);
        return Some((Namespaces::Labelled(selector), Selector::default()));
    }
    let both = at.member("pods")?;
    both.only(&["namespaceSelector", "podSelector"], findings);
    for name in ["namespaceSelector", "podSelector"] {
        if both.member(name).is_none() {
            findings.invalid(&both.below(name), "is required");
        }
    }
    let namespaces = selector::read(&both.member("namespaceSelector")?, Keys::Namespace, findings);
    let pods = selector::read(&both.member("podSelector")?, Keys::Pod, findings);
    Some((Namespaces::Labelled(namespaces), pods))
}

type Parts = (Action, crate::rule::Peers, crate::ports::Ports, Defects);

fn read_rule(
    at: &At<'_>,
    api: Api,
    direction: Direction,
    config: &Config,
    findings: &mut Findings,
) -> Option<Parts> {
    let mut defects = Defects::default();
    let (peers, ports) = match (api, direction) {
        (Api::Cluster, Direction::Ingress) => ("from", "protocols"),
        (Api::Cluster, Direction::Egress) => ("to", "protocols"),
        (_, Direction::Ingress) => ("from", "ports"),
        (_, Direction::Egress) => ("to", "ports"),
    };
    let mark = findings.mark();
    at.only(&["name", "action", peers, ports], findings);
    if at.member("name").and_then(|name| name.text(findings)).is_some_and(|name| name.len() > 100) {
        findings.invalid(&at.below("name"), "is longer than 100 characters");
    }
    defects.other |= findings.any_since(mark);
    let action = at.member("action").and_then(|action| api.action(action.value.as_str()?));
    if action.is_none() {
        findings.invalid(&at.below("action"), "is not an action of this kind of policy");
    }
    let action = action?;
    let peers = tier_peers::read_peers(at, peers, api, action, config, &mut defects, findings);
    let ports = tier_peers::read_ports(at, ports, api, &mut defects, findings);
    if tier_peers::has_name(&ports) && tier_peers::beyond_pods(at) {
        findings.invalid(&at.path, "named ports are only for peers that are pods");
        defects.ports = true;
    }
    Some((action, peers, ports, defects))
}
