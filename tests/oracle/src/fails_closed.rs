//! What a policy object that is not valid does: this project's decision, not the API's. The only place
//! that knows of it.
//!
//! * An allow (or Pass) rule with a part that could not be read or is not evaluated grants nothing. Under
//!   [`Invalid::IsolateObject`] no allow rule of an invalid object grants anything.
//! * A deny rule holds, in its widest reading: peers that cannot be read are everyone, ports that cannot
//!   be read are all ports.
//! * The subjects enter default deny in the directions the object names; never the host; never by a
//!   selector that cannot itself be read (reading leaves such a subject as [`Subject::Nobody`]).
//! * Of ClusterNetworkPolicy and its predecessors the API itself says it: an Accept that cannot be read
//!   matches nothing, a Deny or Pass denies everything.

use crate::config::Invalid;
use crate::ports::Ports;
use crate::read::{Finding, Kind};
use crate::rule::{Action, Defects, Isolation, Peers, Read, Rule, Subject, Tier};

/// What is in force of an object.
pub(crate) fn in_force(read: Read, mode: Invalid) -> (Vec<Rule>, Vec<Isolation>, Vec<Finding>) {
    let invalid = read.findings.0.iter().any(|finding| finding.kind == Kind::Invalid);
    let findings = read.findings.0;
    if invalid && mode == Invalid::Ignore {
        return (Vec::new(), Vec::new(), findings);
    }
    let closed = invalid && mode == Invalid::IsolateObject;
    let grants = |defects: Defects| !closed && !defects.any();
    let rules = read.rules.into_iter().filter_map(|(rule, defects)| match rule.action {
        Action::Accept => grants(defects).then_some(rule),
        // A Pass grants too: what a later rule of its tier would deny.
        Action::Pass if !defects.any() => grants(defects).then_some(rule),
        Action::Deny if !defects.any() => Some(rule),
        Action::Deny | Action::Pass => Some(widest(rule, defects)),
    });
    let rules = rules.collect();
    let isolates = |isolation: &Isolation| !(invalid && matches!(isolation.subject, Subject::Node(_)));
    (rules, read.isolations.into_iter().filter(isolates).collect(), findings)
}

/// What is sound of it stays as it is; of the tiers' API one part that cannot be read spoils the whole.
fn widest(rule: Rule, defects: Defects) -> Rule {
    let spoilt = defects.peers || defects.ports;
    let whole = spoilt && rule.rank.tier != Tier::Normal;
    let action = if whole { Action::Deny } else { rule.action };
    let peers = if whole || defects.peers { Peers::Everyone } else { rule.peers };
    let ports = if whole || defects.ports { Ports::All } else { rule.ports };
    Rule { action, peers, ports, ..rule }
}
