//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy: `spec`, `specs`, and the four lists of rules.
//!
//! Source: Cilium's "Rule Basics", "Policy Enforcement Modes", "Deny Policies", "Host Policies", and the
//! comments of the API's types.

use crate::config::Config;
use crate::labels::POD_NAMESPACE;
use crate::policies::{cilium_peers, cilium_ports};
use crate::read::{At, Findings};
use crate::rule::{Action, Defects, Direction, Isolation, Peers, Rank, Read, Rule, RuleId, Subject, Tier};
use crate::selector::{self, Keys};

/// Where a policy's endpoints are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Namespace,
    Cluster,
}

/// What the elements of one `spec` have in common.
pub(super) struct Context<'c> {
    /// The policy's namespace; `None` for a cluster-wide one.
    pub(super) namespace: Option<&'c str>,
    pub(super) config: &'c Config,
    /// The subject is `reserved:init`, whose peers may have no namespace.
    pub(super) for_init: bool,
    /// The subject is a node.
    pub(super) host: bool,
}

const LISTS: [(&str, Direction, Action); 4] = [
    ("ingress", Direction::Ingress, Action::Accept),
    ("ingressDeny", Direction::Ingress, Action::Deny),
    ("egress", Direction::Egress, Action::Accept),
    ("egressDeny", Direction::Egress, Action::Deny),
];

pub(super) fn read(root: &At<'_>, id: &RuleId, scope: Scope, config: &Config) -> Read {
    let mut read = Read::default();
    root.only(&["apiVersion", "kind", "metadata", "spec", "specs", "status"], &mut read.findings);
    let mut specs: Vec<At<'_>> = root.member("spec").into_iter().collect();
    specs.extend(root.list("specs", &mut read.findings).unwrap_or_default());
    if specs.is_empty() {
        read.findings.invalid("spec", "spec or specs is required");
    }
    for spec in specs {
        read_spec(&spec, id, scope, config, &mut read);
    }
    read
}

fn read_spec(spec: &At<'_>, id: &RuleId, scope: Scope, config: &Config, read: &mut Read) {
    let findings = &mut read.findings;
    let members = ["endpointSelector", "nodeSelector", "enableDefaultDeny", "labels", "description", "log"];
    spec.only(&[&members[..], &LISTS.map(|(name, ..)| name)].concat(), findings);
    read_the_rest(spec, findings);

    let namespace = (scope == Scope::Namespace).then_some(id.namespace.as_str());
    let (subject, for_init) = read_subject(spec, namespace, findings);
    let host = matches!(subject, Subject::Node(_));
    let context = Context { namespace, config, for_init, host };

    let mut named = Vec::new();
    for (name, direction, action) in LISTS {
        let Some(elements) = spec.list(name, findings) else { continue };
        let unreadable = spec.member(name).is_some_and(|list| !list.value.is_array());
        if !elements.is_empty() || unreadable {
            named.push(direction);
        }
        for element in elements {
            let (peers, ports, defects) = read_element(&element, direction, action, &context, findings);
            let rule = Rule {
                id: id.at(&element.path),
                rank: Rank { tier: Tier::Normal, priority: 0 },
                place: read.rules.len(),
                direction,
                subject: subject.clone(),
                action,
                peers,
                ports,
            };
            read.rules.push((rule, defects));
        }
    }
    if named.is_empty() {
        findings.invalid(&spec.path, "must have one of ingress, ingressDeny, egress, egressDeny");
    }
    for (direction, name) in [(Direction::Ingress, "ingress"), (Direction::Egress, "egress")] {
        let asked = spec.member("enableDefaultDeny").and_then(|at| at.member(name));
        let asked = asked.and_then(|at| at.value.as_bool());
        if asked.unwrap_or_else(|| named.contains(&direction)) {
            read.isolations.push(Isolation { id: id.at(&spec.path), direction, subject: subject.clone() });
        }
    }
}

/// What says nothing about which packets pass.
fn read_the_rest(spec: &At<'_>, findings: &mut Findings) {
    if let Some(deny) = spec.member("enableDefaultDeny") {
        deny.only(&["ingress", "egress"], findings);
        for direction in ["ingress", "egress"] {
            deny.member(direction).map(|at| at.boolean(findings));
        }
    }
    spec.member("description").map(|at| at.text(findings));
    spec.list("labels", findings);
    if let Some(log) = spec.member("log") {
        log.only(&["value"], findings);
        log.member("value").map(|at| at.text(findings));
    }
}

/// The subject, and whether it is `reserved:init`.
fn read_subject(spec: &At<'_>, namespace: Option<&str>, findings: &mut Findings) -> (Subject, bool) {
    let mark = findings.mark();
    spec.exactly_one(&["endpointSelector", "nodeSelector"], findings);
    let both_or_none = findings.any_since(mark);
    if let Some(at) = spec.member("endpointSelector") {
        let mark = findings.mark();
        let mut selector = selector::read(&at, Keys::Identity, findings);
        if findings.any_since(mark) {
            return (Subject::Nobody, false);
        }
        let for_init = selector.names_reserved("init");
        if namespace.is_some() {
            // The policy's namespace takes the place of one named here.
            let place =
                at.member("matchLabels").and_then(|labels| labels.value.get(format!("k8s:{POD_NAMESPACE}")));
            if place.is_some() {
                let is = |key: &selector::Key| key.name == POD_NAMESPACE && key.source.is_some();
                let first = selector.requirements.iter().position(|requirement| is(&requirement.key));
                first.map(|first| selector.requirements.remove(first));
            }
        }
        return (Subject::Endpoints { namespace: namespace.map(str::to_owned), selector }, for_init);
    }
    let Some(at) = spec.member("nodeSelector").filter(|_| !both_or_none) else {
        return (Subject::Nobody, false);
    };
    if namespace.is_some() {
        findings.invalid(&at.path, "is only for CiliumClusterwideNetworkPolicy");
        return (Subject::Nobody, false);
    }
    let mark = findings.mark();
    let selector = selector::read(&at, Keys::Node, findings);
    (if findings.any_since(mark) { Subject::Nobody } else { Subject::Node(selector) }, false)
}

/// One element of one of the lists. What it does not say holds for all; what says nothing at all (`{}`)
/// is a rule that nothing matches: it only makes its list not empty.
fn read_element(
    at: &At<'_>,
    direction: Direction,
    action: Action,
    context: &Context<'_>,
    findings: &mut Findings,
) -> (Peers, crate::ports::Ports, Defects) {
    let mut defects = Defects::default();
    let mark = findings.mark();
    let peer_members = cilium_peers::members(direction, action);
    let mut known = [&peer_members[..], &["toPorts", "icmps"]].concat();
    if action == Action::Accept {
        known.push("authentication");
    }
    at.only(&known, findings);
    // What is not in the API could be anybody.
    defects.peers |= findings.any_since(mark);

    let mark = findings.mark();
    if let Some(authentication) = at.member("authentication") {
        authentication.only(&["mode"], findings);
        match authentication.member("mode").and_then(|mode| mode.value.as_str()) {
            Some("disabled") => {}
            Some("required" | "test-always-fail") => {
                findings.unsupported(&authentication.path, "authentication is not evaluated");
            }
            _ => findings
                .invalid(&authentication.below("mode"), "is none of disabled, required, test-always-fail"),
        }
    }
    defects.other |= findings.any_since(mark);

    let peers = cilium_peers::read(at, direction, action, context, &mut defects, findings);
    let ports = cilium_ports::read(at, direction, action, context, &mut defects, findings);
    match (peers, ports) {
        (None, None) => (Peers::OneOf(Vec::new()), crate::ports::Ports::All, defects),
        (None, Some(ports)) => (Peers::Everyone, ports, defects),
        (Some(peers), ports) => (Peers::OneOf(peers), ports.unwrap_or(crate::ports::Ports::All), defects),
    }
}
