//! The answer: for each end of a packet, what its policies say.
//!
//! ```text
//! Admin rules, in order ─▶ Normal: a deny, else an allow, else default deny ─▶ Baseline, in order ─▶ let through
//!      └ Pass ──────────────▶                                        └ Pass ─────────────────▶
//! ```

use crate::config::{AllowLocalhost, Enforcement};
use crate::packet::{Packet, Party, Reserved};
use crate::rule::{Action, Direction, Rule, RuleId, Tier};
use crate::seen::{Kind, Seen};
use crate::world::World;

/// What both ends' policies say about a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// At the sender.
    pub egress: Decision,
    /// At the receiver; said whatever the sender's is.
    pub ingress: Decision,
    /// Every rule in force that is for one of the ends and matches, whether or not it decides; in the
    /// order rules are asked.
    pub matched: Vec<Matched>,
    /// Whether what is dropped is forwarded after all, and told of.
    pub audited: bool,
}

/// A rule that matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched {
    /// At which end.
    pub direction: Direction,
    /// Which.
    pub rule: RuleId,
    /// What it would do.
    pub action: Action,
}

/// What one end's policies say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: no policy, or none that speaks of the packet and no default deny. Let through.
    NotEnforced,
    /// Let through.
    Allowed {
        /// The rule that allows it; of several, the first by name.
        rule: RuleId,
    },
    /// Dropped since nothing allows it (drop reason 133).
    DefaultDenied {
        /// The policy that put the end in default deny; of several, the first by name.
        by: RuleId,
    },
    /// Dropped by a rule (drop reason 181).
    Denied {
        /// The rule; of several, the first by name.
        rule: RuleId,
    },
}

impl Decision {
    /// Whether the packet passes this end.
    pub fn passes(&self) -> bool {
        match self {
            Decision::NotEnforced | Decision::Allowed { .. } => true,
            Decision::DefaultDenied { .. } | Decision::Denied { .. } => false,
        }
    }

    /// The drop reason's number, as in Cilium's drop notifications; `None` if the packet passes.
    pub fn drop_reason(&self) -> Option<u8> {
        match self {
            Decision::NotEnforced | Decision::Allowed { .. } => None,
            Decision::DefaultDenied { .. } => Some(133),
            Decision::Denied { .. } => Some(181),
        }
    }
}

impl Verdict {
    /// Whether policy lets the packet through at both ends (audit mode aside).
    pub fn allowed(&self) -> bool {
        self.egress.passes() && self.ingress.passes()
    }

    /// Whether the packet arrives.
    pub fn forwarded(&self) -> bool {
        self.audited || self.allowed()
    }
}

/// What policies say about a packet.
///
/// Each end looks from its own node; a pod in another cluster, the world and other nodes have no policies
/// here. What a party sends to itself never meets one.
pub fn verdict(world: &World, packet: &Packet) -> Verdict {
    let mut matched = Vec::new();
    let egress = end(world, packet, Direction::Egress, &mut matched);
    let ingress = end(world, packet, Direction::Ingress, &mut matched);
    Verdict { egress, ingress, matched, audited: world.config.audit }
}

fn end(world: &World, packet: &Packet, direction: Direction, matched: &mut Vec<Matched>) -> Decision {
    let (subject, peer): (&Party, &Party) = match direction {
        Direction::Egress => (&packet.from, &packet.to),
        Direction::Ingress => (&packet.to, &packet.from),
    };
    let node = world.viewpoint(subject);
    let seen = world.see(subject, packet.family, node);
    let other = world.see(peer, packet.family, node);
    if world.config.enforcement == Enforcement::Never || !has_policies(world, &seen) || is_same(&seen, &other)
    {
        return Decision::NotEnforced;
    }
    let to = match direction {
        Direction::Egress => other.pod,
        Direction::Ingress => seen.pod,
    };
    let matches = |rule: &&Rule| {
        rule.direction == direction
            && rule.ports.matches(packet, to)
            && world.is_subject(&rule.subject, &seen)
            && world.is_one_of(&rule.peers, &other)
    };
    let rules: Vec<&Rule> = world.rules.iter().filter(matches).collect();
    matched.extend(rules.iter().map(|rule| Matched {
        direction,
        rule: rule.id.clone(),
        action: rule.action,
    }));
    let first = |tier: Tier, actions: &[Action]| {
        rules
            .iter()
            .find(|rule| rule.rank.tier == tier && actions.contains(&rule.action))
            .map(|rule| rule.id.clone())
    };
    let ordered = |tier: Tier| {
        let rule = rules.iter().find(|rule| rule.rank.tier == tier)?;
        match rule.action {
            Action::Accept => Some(Decision::Allowed { rule: rule.id.clone() }),
            Action::Deny => Some(Decision::Denied { rule: rule.id.clone() }),
            Action::Pass => None,
        }
    };

    if let Some(decision) = ordered(Tier::Admin) {
        return decision;
    }
    if let Some(rule) = first(Tier::Normal, &[Action::Deny]) {
        return Decision::Denied { rule };
    }
    if let Some(rule) = first(Tier::Normal, &[Action::Accept]) {
        return Decision::Allowed { rule };
    }
    let from_own_host =
        direction == Direction::Ingress && seen.kind != Kind::Host && other.kind == Kind::Host;
    let localhost = from_own_host && world.config.allow_localhost != AllowLocalhost::Policy;
    let default_deny = |by: RuleId| match localhost {
        true => Decision::Allowed { rule: RuleId::implicit("allow-localhost") },
        false => Decision::DefaultDenied { by },
    };
    let mut isolations = world.isolations.iter().filter(|isolation| isolation.direction == direction);
    if let Some(isolation) = isolations.find(|isolation| world.is_subject(&isolation.subject, &seen)) {
        return default_deny(isolation.id.clone());
    }
    if let Some(decision) = ordered(Tier::Baseline) {
        return decision;
    }
    if world.config.enforcement == Enforcement::Always {
        return default_deny(RuleId::implicit("enforcement-always"));
    }
    if seen.kind == Kind::Reserved(Reserved::Init) {
        return default_deny(RuleId::implicit("init"));
    }
    Decision::NotEnforced
}

fn has_policies(world: &World, seen: &Seen<'_>) -> bool {
    match seen.kind {
        Kind::Pod => seen.pod.is_some_and(|pod| pod.cluster == world.config.cluster),
        Kind::Host => {
            world.config.host_firewall && seen.node.is_none_or(|node| node.cluster == world.config.cluster)
        }
        Kind::Reserved(reserved) => reserved != Reserved::Unmanaged,
        Kind::RemoteNode | Kind::Outside => false,
    }
}

/// Whether both ends are one pod or one node.
fn is_same(seen: &Seen<'_>, other: &Seen<'_>) -> bool {
    match (seen.pod, other.pod) {
        (Some(a), Some(b)) => (&a.cluster, &a.namespace, &a.name) == (&b.cluster, &b.namespace, &b.name),
        (None, None) => seen.kind == Kind::Host && other.kind == Kind::Host,
        _ => false,
    }
}
