//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy → rules.
//!
//! Not enforced yet, told and failing closed: names in DNS, groups of clouds,
//! layer 7, TLS, listeners, authentication.

use super::clause::{Parts, clause, excepted, exceptions, meant, prefix};
use super::cursor::{Cursor, Notes};
use super::ports::{Bad, Gathered, icmp, port_protocol};
use super::selector::{
    Keys, in_any_namespace, in_namespace, names_namespace, names_namespace_labels, names_reserved, selector,
    with,
};
use super::{Facts, Header};
use crate::api::l7::L7Rules;
use crate::api::policy::CidrRule;
use cilium_engine::state::{Direction, Origin};
use cilium_engine::world::{
    Clause, DefaultDeny, Entity, GroupRef, Label, Peer, PeerSet, PolicyRule, PortSet, Rank, RuleVerdict,
    Selector, ServiceNames, ServiceRef, Subject,
};

const RULE_FIELDS: &[&str] = &[
    "endpointSelector",
    "nodeSelector",
    "ingress",
    "ingressDeny",
    "egress",
    "egressDeny",
    "labels",
    "enableDefaultDeny",
    "description",
    "log",
];

/// Sections of a rule.
const SECTIONS: [(&str, Direction, RuleVerdict); 4] = [
    ("ingress", Direction::Ingress, RuleVerdict::Allow),
    ("ingressDeny", Direction::Ingress, RuleVerdict::Deny),
    ("egress", Direction::Egress, RuleVerdict::Allow),
    ("egressDeny", Direction::Egress, RuleVerdict::Deny),
];

/// Rules of a policy.
pub(super) fn lower(header: &Header, root: &Cursor<'_>, notes: &mut Notes) -> Facts {
    let mut rules: Vec<Cursor<'_>> = root.key("spec").into_iter().collect();
    rules.extend(root.key("specs").map(|c| c.items()).unwrap_or_default());
    if rules.is_empty() {
        notes.invalid(root, "has no rule: `spec` (or `specs`) is missing", "");
    }
    let rules: Vec<_> = rules.iter().map(|cursor| rule(header, cursor, notes).into()).collect();
    Facts::Policy(rules.into())
}

fn rule(header: &Header, cursor: &Cursor<'_>, notes: &mut Notes) -> PolicyRule {
    let subject = subject(header, cursor, notes);
    let meant = meant(cursor, RULE_FIELDS);
    let about_init = match &subject {
        Subject::Endpoints(s) => s.requirements.iter().any(|r| r.label == Label::new("reserved", "init")),
        Subject::Unreadable => false,
    };
    let scope = Scope { namespace: &header.name.namespace, about_init };
    let mut clauses = Vec::new();
    let mut named = meant.directions;
    for (section, direction, verdict) in SECTIONS {
        let Some(list) = cursor.key(section) else {
            if cursor.keys().any(|key| key == section) {
                name(&mut named, direction);
            }
            continue;
        };
        let entries = list.items();
        if notes.broken_here(&list) || !entries.is_empty() {
            name(&mut named, direction);
        } else {
            let hint = "write `[{}]` to deny by default, or remove it";
            notes.warning(&list, "an empty list says nothing", hint);
        }
        // The list is not one: what it denies cannot be told.
        if list.node.list().is_none() && verdict == RuleVerdict::Deny {
            clauses.push(Clause {
                direction,
                verdict,
                peers: PeerSet::Any,
                ports: PortSet::Any,
                path: section.into(),
            });
        }
        for (i, entry) in entries.iter().enumerate() {
            let parts = parts(entry, direction, verdict, &scope, notes);
            let Some(parts) = parts else { continue };
            if let Some(clause) = clause(direction, verdict, parts, &format!("{section}[{i}]")) {
                clauses.push(clause);
            }
        }
    }
    if meant.unsure || notes.broken_here(cursor) {
        clauses.retain(|clause| clause.verdict == RuleVerdict::Deny);
    }
    for (direction, deny) in
        [(Direction::Ingress, meant.deny.ingress), (Direction::Egress, meant.deny.egress)]
    {
        if deny {
            let path = format!("{direction}Deny");
            let (peers, ports) = (PeerSet::Any, PortSet::Any);
            clauses.push(Clause { direction, verdict: RuleVerdict::Deny, peers, ports, path });
        }
    }
    if let Some(log) = cursor.key("log") {
        notes.warning(&log, "`log` is not shown in flows yet; the rule is in force", "");
    }
    PolicyRule {
        origin: Origin { object: header.title(), place: header.place.to_string(), rule: cursor.path.clone() },
        subject,
        rank: Rank::default(),
        default_deny: default_deny(cursor, named, notes),
        clauses,
    }
}

fn name(directions: &mut DefaultDeny, direction: Direction) {
    match direction {
        Direction::Ingress => directions.ingress = true,
        Direction::Egress => directions.egress = true,
    }
}

/// As switched; else in each direction that has entries.
fn default_deny(rule: &Cursor<'_>, named: DefaultDeny, notes: &mut Notes) -> DefaultDeny {
    let Some(cursor) = rule.key("enableDefaultDeny") else { return named };
    // Unreadable switches open nothing.
    let Some(api) = notes.read::<crate::api::policy::DefaultDeny>(&cursor) else { return named };
    DefaultDeny { ingress: api.ingress.unwrap_or(named.ingress), egress: api.egress.unwrap_or(named.egress) }
}

fn subject(header: &Header, rule: &Cursor<'_>, notes: &mut Notes) -> Subject {
    match (rule.key("endpointSelector"), rule.key("nodeSelector")) {
        (Some(_), Some(node)) => {
            let hint = "write two rules, in `specs`";
            notes.invalid(&node, "a rule has either `endpointSelector` or `nodeSelector`, not both", hint);
            Subject::Unreadable
        }
        (None, Some(node)) if header.name.namespace.is_empty() => {
            notes.unsupported(
                &node,
                "rules for nodes (host firewall) are not enforced yet: it selects nothing",
                "",
            );
            Subject::Unreadable
        }
        (None, Some(node)) => {
            let hint = "rules for nodes are clusterwide: use kind CiliumClusterwideNetworkPolicy";
            notes.invalid(&node, "a namespaced policy cannot select nodes", hint);
            Subject::Unreadable
        }
        (None, None) => {
            let hint = "`endpointSelector: {}` selects all";
            notes.invalid(rule, "`endpointSelector` is missing: the rule selects nothing", hint);
            Subject::Unreadable
        }
        (Some(cursor), None) => match selector(&cursor, Keys::Cilium, notes) {
            None => Subject::Unreadable,
            Some(own) if header.name.namespace.is_empty() => Subject::Endpoints(own),
            Some(own) => {
                let namespace = in_namespace(&header.name.namespace);
                if names_namespace(&own) && !own.requirements.contains(&namespace) {
                    let hint = "its own namespace is implied; a clusterwide policy can name others";
                    notes.warning(
                        &cursor,
                        "a namespaced policy selects endpoints of its own namespace only",
                        hint,
                    );
                }
                Subject::Endpoints(with(own, namespace))
            }
        },
    }
}

/// Where selectors of peers look.
struct Scope<'a> {
    /// The policy's namespace; empty: clusterwide.
    namespace: &'a str,
    /// The subject is `reserved:init`, whose peers need no namespace.
    about_init: bool,
}

impl Scope<'_> {
    /// A selector of peers with the namespace that is implied.
    fn peers(&self, own: Selector) -> Selector {
        if names_reserved(&own) || names_namespace(&own) {
            return own;
        }
        match (self.namespace.is_empty(), self.about_init) {
            (true, true) => own,
            (true, false) => with(own, in_any_namespace()),
            (false, _) if names_namespace_labels(&own) => own,
            (false, _) => with(own, in_namespace(self.namespace)),
        }
    }
}

/// Peers and ports of an entry; `None` if it has none of either (`{}` is there for default deny alone).
fn parts(
    entry: &Cursor<'_>,
    direction: Direction,
    verdict: RuleVerdict,
    scope: &Scope<'_>,
    notes: &mut Notes,
) -> Option<Parts> {
    if notes.broken_here(entry) {
        // An unknown field may have been peers or ports. The rest is walked for its findings.
        let _ = (peers(entry, direction, scope, notes), ports(entry, notes));
        return Some(Parts { peers: Err(Bad), ports: Err(Bad) });
    }
    let mut peers = peers(entry, direction, scope, notes);
    let ports = ports(entry, notes);
    if let (RuleVerdict::Allow, Some(cursor)) = (verdict, entry.key("authentication"))
        && cursor.key("mode").and_then(|c| c.node.text()) != Some("disabled")
    {
        if !notes.broken(&cursor) {
            notes.unsupported(
                &cursor,
                "mutual authentication is not enforced yet: the entry allows nothing",
                "",
            );
        }
        peers = Some(Err(Bad));
    }
    if peers.is_none() && ports.is_none() {
        return None;
    }
    Some(Parts { peers: peers.unwrap_or(Ok(PeerSet::Any)), ports: ports.unwrap_or(Ok(PortSet::Any)) })
}

/// Peers; `None` if the entry says nothing on them.
fn peers(
    entry: &Cursor<'_>,
    direction: Direction,
    scope: &Scope<'_>,
    notes: &mut Notes,
) -> Option<Result<PeerSet, Bad>> {
    let way = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let members = ["Endpoints", "Entities", "CIDR", "CIDRSet", "Nodes", "Groups", "Services", "FQDNs"];
    let present: Vec<(&str, Cursor<'_>)> =
        members.iter().filter_map(|m| entry.key(&format!("{way}{m}")).map(|c| (*m, c))).collect();
    if present.is_empty() {
        return None;
    }
    let filled = present.iter().filter(|(_, c)| !c.items().is_empty());
    let mut good = true;
    if filled.clone().count() > 1 {
        let names: Vec<String> = filled.map(|(m, _)| format!("`{way}{m}`")).collect();
        let hint = "write one entry for each; entries are alternatives";
        notes.invalid(entry, format!("{} cannot stand in one entry", names.join(" and ")), hint);
        good = false;
    }
    let mut list = Vec::new();
    for (member, cursor) in &present {
        if cursor.node.list().is_none() {
            good = false;
        }
        for item in cursor.items() {
            match peer(member, &item, scope, notes) {
                Ok(peer) => list.push(peer),
                Err(Bad) => good = false,
            }
        }
        if matches!(*member, "Endpoints" | "Entities" | "CIDR" | "CIDRSet" | "Nodes" | "Services")
            || cursor.items().is_empty()
        {
            continue;
        }
        if !notes.broken(cursor) {
            let hint = match *member {
                "FQDNs" => "until then: `toCIDR`, or `toEntities: [world]`",
                _ => "",
            };
            notes.unsupported(cursor, format!("`{way}{member}` is not enforced yet"), hint);
        }
    }
    Some(if good { Ok(PeerSet::Of(list)) } else { Err(Bad) })
}

fn peer(member: &str, item: &Cursor<'_>, scope: &Scope<'_>, notes: &mut Notes) -> Result<Peer, Bad> {
    match member {
        "Endpoints" => {
            let own = selector(item, Keys::Cilium, notes).ok_or(Bad)?;
            Ok(Peer::Endpoints(scope.peers(own)))
        }
        "Nodes" => {
            let selector = selector(item, Keys::Node, notes).ok_or(Bad)?;
            Ok(Peer::Nodes { selector, here: false })
        }
        "Entities" => {
            let name: String = notes.read(item).ok_or(Bad)?;
            match entity(&name) {
                Some(entity) => Ok(Peer::Entity(entity)),
                None => {
                    notes.unsupported(item, format!("entity `{name}` is not enforced yet"), "");
                    Err(Bad)
                }
            }
        }
        "CIDR" => {
            let text: String = notes.read(item).ok_or(Bad)?;
            Ok(Peer::Cidr { net: prefix(item, &text, notes)?, except: Vec::new() })
        }
        "CIDRSet" => {
            let api: CidrRule = notes.read(item).ok_or(Bad)?;
            let except = api.except.unwrap_or_default();
            match (&api.cidr, api.cidr_group_ref, api.cidr_group_selector.is_some()) {
                (Some(text), None, false) => {
                    let (net, except) = excepted(item, text, &except, notes)?;
                    Ok(Peer::Cidr { net, except })
                }
                (None, Some(name), false) => Ok(Peer::Groups {
                    groups: GroupRef::Named(name),
                    except: exceptions(item, &except, None, notes)?,
                }),
                (None, None, true) => {
                    let groups = selector(&item.at("cidrGroupSelector"), Keys::Group, notes).ok_or(Bad)?;
                    let except = exceptions(item, &except, None, notes)?;
                    Ok(Peer::Groups { groups: GroupRef::Labelled(groups), except })
                }
                (Some(_), ..) | (None, Some(_), true) | (None, None, false) => {
                    let message = "needs exactly one of `cidr`, `cidrGroupRef`, `cidrGroupSelector`";
                    notes.invalid(item, message, "");
                    Err(Bad)
                }
            }
        }
        "Services" => service(item, notes).map(Peer::Services),
        // The list as a whole was told.
        _ => Err(Bad),
    }
}

/// Services by name, or by labels: an item that says both means either, so it is two peers, and refused here.
fn service(item: &Cursor<'_>, notes: &mut Notes) -> Result<ServiceRef, Bad> {
    let api: crate::api::policy::ServiceRef = notes.read(item).ok_or(Bad)?;
    let said = |namespace: Option<String>| namespace.filter(|namespace| !namespace.is_empty());
    match (api.k8s_service, api.k8s_service_selector) {
        (Some(named), None) => match named.service_name {
            Some(name) => {
                Ok(ServiceRef { namespace: said(named.namespace), which: ServiceNames::Named(name) })
            }
            None => {
                notes.invalid(&item.at("k8sService"), "`serviceName` is missing", "");
                Err(Bad)
            }
        },
        (None, Some(selected)) => {
            let at = item.at("k8sServiceSelector").at("selector");
            let labels = selector(&at, Keys::Service, notes).ok_or(Bad)?;
            Ok(ServiceRef { namespace: said(selected.namespace), which: ServiceNames::Labelled(labels) })
        }
        (Some(_), Some(_)) => {
            let hint = "write two entries of the list; they are alternatives";
            notes.invalid(item, "`k8sService` cannot stand beside `k8sServiceSelector`", hint);
            Err(Bad)
        }
        (None, None) => {
            notes.invalid(item, "needs `k8sService` or `k8sServiceSelector`", "");
            Err(Bad)
        }
    }
}

fn entity(name: &str) -> Option<Entity> {
    Some(match name {
        "all" => Entity::All,
        "world" => Entity::World,
        "world-ipv4" => Entity::WorldIpv4,
        "world-ipv6" => Entity::WorldIpv6,
        "cluster" => Entity::Cluster,
        "cluster-mesh" => Entity::ClusterMesh,
        "host" => Entity::Host,
        "remote-node" => Entity::RemoteNode,
        "init" => Entity::Init,
        "ingress" => Entity::Ingress,
        "unmanaged" => Entity::Unmanaged,
        "health" => Entity::Health,
        "kube-apiserver" => Entity::KubeApiserver,
        "none" => Entity::None,
        _ => return None,
    })
}

/// Ports and ICMP types; `None` if the entry says nothing on them.
fn ports(entry: &Cursor<'_>, notes: &mut Notes) -> Option<Result<PortSet, Bad>> {
    let ports = entry.key("toPorts").filter(|c| c.node.list().is_none_or(|l| !l.is_empty()));
    let icmps = entry.key("icmps").filter(|c| c.node.list().is_none_or(|l| !l.is_empty()));
    let mut good = true;
    let mut list = Gathered::default();
    match (&ports, &icmps) {
        (None, None) => return None,
        (Some(_), Some(icmps)) => {
            let hint = "write one entry for each; entries are alternatives";
            notes.invalid(icmps, "`icmps` cannot stand beside `toPorts`", hint);
            good = false;
        }
        (Some(_), None) | (None, Some(_)) => {}
    }
    for cursor in ports.iter().chain(&icmps) {
        good &= cursor.node.list().is_some() && !notes.broken_here(cursor);
    }
    for rule in ports.map(|c| c.items()).unwrap_or_default() {
        good &= !notes.broken_here(&rule);
        good &= beyond_ports(&rule, notes);
        let items = rule.key("ports").map(|c| c.items()).unwrap_or_default();
        if items.is_empty() && !notes.broken(&rule) {
            let hint = "all ports are `ports: [{port: \"0\"}]`";
            notes.invalid(&rule, "`ports` is missing or empty", hint);
        }
        good &= !items.is_empty() && !notes.broken_here(&rule.at("ports"));
        for item in &items {
            good &= port_protocol(item, notes, &mut list).is_ok();
        }
    }
    for rule in icmps.map(|c| c.items()).unwrap_or_default() {
        let items = rule.key("fields").map(|c| c.items()).unwrap_or_default();
        if items.is_empty() && !notes.broken(&rule) {
            notes.invalid(&rule, "`fields` is missing or empty", "write `fields: [{family: IPv4, type: 8}]`");
        }
        good &= !items.is_empty() && !notes.broken_here(&rule) && !notes.broken_here(&rule.at("fields"));
        for item in &items {
            match icmp(item, notes) {
                Ok(found) => list.matches.push(found),
                Err(Bad) => good = false,
            }
        }
    }
    Some(if good { Ok(list.set()) } else { Err(Bad) })
}

/// Whether an entry of `toPorts` says nothing beyond ports; what it says is told.
fn beyond_ports(rule: &Cursor<'_>, notes: &mut Notes) -> bool {
    let mut good = true;
    for (field, what) in [
        ("terminatingTLS", "ending TLS"),
        ("originatingTLS", "beginning TLS"),
        ("serverNames", "matching names of TLS servers"),
        ("listener", "redirecting to a listener"),
    ] {
        let Some(cursor) = rule.key(field) else { continue };
        if cursor.node.list().is_some_and(<[_]>::is_empty) {
            continue;
        }
        good = false;
        if !notes.broken(&cursor) {
            notes.unsupported(&cursor, format!("{what} is not enforced yet: the entry allows nothing"), "");
        }
    }
    if let Some(cursor) = rule.key("rules") {
        match notes.read::<L7Rules>(&cursor) {
            Some(api) if api == L7Rules::default() => {}
            Some(_) => {
                let hint = "until then: allow the ports without `rules`";
                notes.unsupported(
                    &cursor,
                    "layer 7 rules are not enforced yet: the entry allows nothing",
                    hint,
                );
                good = false;
            }
            None => good = false,
        }
    }
    good
}
