//! A world that changes step by step, one object of any kind or several at once: a compiler that follows it
//! says at every step what one says that begins there.

use super::policy::rule;
use super::*;
use crate::compile::Compiler;
use crate::compile::number::ContentHash;
use crate::config::{Algorithm, Enforcement, RoutingMode};
use crate::maglev::TableSize;
use crate::map::Rarely;
use crate::problem::Problem;
use crate::state::{Direction, IdentityId, Protocol, State, Why};
use crate::world::{
    BackendAddress, CidrGroup, Clause, Created, Distribution, EndpointSlice, Entity, GroupRef, HostPort,
    LbAlgorithm, LoadBalancerAddresses, NamedPort, Peer, PeerSet, PodPort, PortMappings, PortMatch, PortSet,
    RangesPolicy, Rank, RuleVerdict, Service, ServiceKind, ServiceNames, ServicePort, ServiceRef, SlicePort,
    SourceRanges, Subject, TargetPort, Tier, TrafficPolicy,
};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// One object, or what belongs to all: with its place among few, and what it says.
#[derive(Clone, Debug)]
enum Change {
    Namespace(u8, Option<u8>),
    Node(u8, Option<(u8, u8, bool)>),
    Pod(u8, Option<PodSpec>),
    Local(u8, Option<(Option<u8>, u8, u8)>),
    Remote(u8, Option<(u8, u8, u8, u8)>),
    Claim(u8, Option<(u8, bool)>),
    Service(u8, Option<(u8, u8, Option<u8>, u16)>),
    Slice(u8, Option<(u8, Vec<(u8, u8)>)>),
    Rule(u8, Option<RuleSpec>),
    Group(u8, Option<Vec<u8>>),
    /// Addresses of API servers.
    Servers(Option<Vec<u8>>),
    Device(u8),
    Problem(u8, bool),
    Config(u8),
    /// Something without meaning, as a file that moved.
    Line(u8),
    Synced(u8),
}

#[derive(Clone, Debug)]
struct PodSpec {
    app: u8,
    ips: Vec<u8>,
    node: u8,
    host_network: bool,
    port: Option<u8>,
}

#[derive(Clone, Debug)]
struct RuleSpec {
    subject: u8,
    clauses: Vec<(u8, u8, u8)>,
    deny: (bool, bool),
    /// Two bits of the tier, and what is left is a priority.
    rank: u8,
}

fn change() -> impl Strategy<Value = Change> {
    fn maybe<S: Strategy>(strategy: S) -> impl Strategy<Value = Option<S::Value>>
    where
        S::Value: Clone,
    {
        prop::option::weighted(0.75, strategy)
    }
    let pod = (0..4u8, prop::collection::vec(0..12u8, 0..3), 0..4u8, any::<bool>(), prop::option::of(0..2u8))
        .prop_map(|(app, ips, node, host_network, port)| PodSpec { app, ips, node, host_network, port });
    let rank = prop_oneof![2 => Just(0u8), 1 => 0..12u8];
    let rule = (0..6u8, prop::collection::vec((0..8u8, 0..18u8, 0..5u8), 0..4), any::<(bool, bool)>(), rank)
        .prop_map(|(subject, clauses, deny, rank)| RuleSpec { subject, clauses, deny, rank });
    let backends = prop::collection::vec((0..12u8, 0..8u8), 0..5);
    prop_oneof![
        1 => (0..2u8, maybe(0..3u8)).prop_map(|(n, s)| Change::Namespace(n, s)),
        1 => (0..4u8, maybe((0..4u8, 0..4u8, any::<bool>()))).prop_map(|(n, s)| Change::Node(n, s)),
        4 => (0..6u8, maybe(pod)).prop_map(|(n, s)| Change::Pod(n, s)),
        4 => (1..6u8, maybe((prop::option::of(0..6u8), 0..6u8, 0..12u8))).prop_map(|(n, s)| Change::Local(n, s)),
        4 => (0..6u8, maybe((0..8u8, 0..6u8, 0..12u8, 0..4u8))).prop_map(|(n, s)| Change::Remote(n, s)),
        3 => (0..8u8, maybe((0..6u8, any::<bool>()))).prop_map(|(n, s)| Change::Claim(n, s)),
        4 => (0..5u8, maybe((0..4u8, 0..4u8, prop::option::of(0..4u8), any::<u16>()))).prop_map(|(n, s)| Change::Service(n, s)),
        4 => (0..5u8, maybe((0..5u8, backends))).prop_map(|(n, s)| Change::Slice(n, s)),
        4 => (0..5u8, maybe(rule)).prop_map(|(n, s)| Change::Rule(n, s)),
        2 => (0..2u8, maybe(prop::collection::vec(0..4u8, 0..3))).prop_map(|(n, s)| Change::Group(n, s)),
        1 => maybe(prop::collection::vec(0..12u8, 0..3)).prop_map(Change::Servers),
        1 => (0..3u8).prop_map(Change::Device),
        1 => (0..3u8, any::<bool>()).prop_map(|(n, s)| Change::Problem(n, s)),
        1 => (0..14u8).prop_map(Change::Config),
        1 => (0..3u8).prop_map(Change::Line),
        1 => (0..64u8).prop_map(Change::Synced),
    ]
}

/// Addresses that many claim: of nodes, routers, pods here and there, in both families.
fn address(n: u8) -> IpAddr {
    ip([
        "10.1.0.5",
        "10.1.0.6",
        "10.1.0.1",
        "10.2.0.5",
        "10.2.0.6",
        "10.3.0.5",
        "192.168.0.1",
        "192.168.0.2",
        "192.168.0.3",
        "8.8.8.8",
        "fd00:1::5",
        "fd00:2::5",
    ][usize::from(n) % 12])
}

/// Labels of the pods there are, of others, and some that nobody can have.
fn labels_of(n: u8) -> Labels {
    match n {
        4 => Labels::default(),
        5 => Labels::default().with("reserved", "host", ""),
        app => pod_labels(&[("app", &app.to_string())]),
    }
}

/// Numbers that label sets come to by themselves, some besides, and some out of range.
fn number(n: u8) -> IdentityId {
    IdentityId(match n {
        0..4 => {
            let place = ContentHash::of_labels(&labels_of(n)).place();
            256 + u32::try_from(place % 65_280).unwrap()
        }
        4 => 5000,
        5 => 5001,
        6 => 7,
        _ => 1 << 24,
    })
}

fn name(n: u8) -> ObjectName {
    ObjectName::new(if n < 5 { "shop" } else { "other" }, &format!("x{n}"))
}

fn peer(n: u8) -> PeerSet {
    let one = |peer| PeerSet::Of(vec![peer]);
    let cidr = |text: &str, except: &[&str]| Peer::Cidr {
        net: net(text),
        except: except.iter().map(|text| net(text)).collect(),
    };
    match n {
        0 => PeerSet::Any,
        1 => one(Peer::Entity(Entity::All)),
        2 => one(Peer::Entity(Entity::World)),
        3 => one(Peer::Entity(Entity::Cluster)),
        4 => one(cidr("8.0.0.0/8", &["8.8.8.8/32"])),
        5 => one(cidr("0.0.0.0/0", &["10.0.0.0/8"])),
        6 => one(Peer::Endpoints(Selector {
            requirements: vec![Requirement {
                label: Label::new("any", "app"),
                operator: Operator::NotIn(["1".to_owned()].into()),
            }],
        })),
        7 => PeerSet::Of(vec![Peer::Endpoints(having("app", "2")), Peer::Entity(Entity::KubeApiserver)]),
        8 => one(Peer::Nodes { selector: labelled("node", "zone", Some("1")), here: true }),
        9 => {
            one(Peer::Nodes { selector: labelled("node", "topology.kubernetes.io/zone", None), here: false })
        }
        10 => one(Peer::Groups {
            groups: GroupRef::Named("group0".to_owned()),
            except: vec![net("8.8.8.8/32")],
        }),
        11 => one(Peer::Groups {
            groups: GroupRef::Labelled(labelled("cidrgroup", "env", Some("1"))),
            except: Vec::new(),
        }),
        12 => one(Peer::Endpoints(labelled("any", "env", Some("0")))),
        13 => one(Peer::Endpoints(labelled("cidr", "8.0.0.0/8", None))),
        14 => one(Peer::Services(ServiceRef {
            namespace: None,
            which: ServiceNames::Named(name(0).name.to_string()),
        })),
        15 => PeerSet::Of(vec![Peer::Entity(Entity::RemoteNode), Peer::Entity(Entity::ClusterMesh)]),
        16 => one(Peer::Endpoints(labelled("any", "zone", None))),
        _ => one(Peer::Endpoints(having("app", "0"))),
    }
}

/// A label that is there, or has a value.
fn labelled(source: &str, key: &str, value: Option<&str>) -> Selector {
    let operator = value.map_or(Operator::Exists, |value| Operator::In([value.to_owned()].into()));
    Selector { requirements: vec![Requirement { label: Label::new(source, key), operator }] }
}

fn rule_of(n: u8, spec: &RuleSpec) -> crate::world::PolicyRule {
    let clauses = spec.clauses.iter().enumerate().map(|(at, (way, peers, ports))| Clause {
        direction: if way & 1 == 0 { Direction::Ingress } else { Direction::Egress },
        verdict: match way & 6 {
            0 | 4 => RuleVerdict::Allow,
            6 if spec.rank & 3 != 0 => RuleVerdict::Pass,
            _ => RuleVerdict::Deny,
        },
        peers: peer(*peers),
        ports: match ports {
            0 => PortSet::Any,
            4 => PortSet::of(Vec::new(), vec![NamedPort { proto: None, name: "web".to_owned() }]),
            n => PortSet::Of(vec![PortMatch { proto: Protocol::TCP, first: 80, last: 79 + u16::from(*n) }]),
        },
        path: format!("entry[{at}]"),
    });
    let mut rule = rule(&format!("policy {n}"), having("app", &spec.subject.to_string()), clauses.collect());
    let tier = [Tier::Normal, Tier::Admin, Tier::Baseline, Tier::Admin][usize::from(spec.rank & 3)];
    let priority = if tier == Tier::Normal { 0 } else { u16::from(spec.rank >> 2) };
    rule.rank = Rank { tier, priority };
    if tier == Tier::Normal {
        (rule.default_deny.ingress, rule.default_deny.egress) = spec.deny;
    }
    match spec.subject {
        4 => rule.subject = Subject::Endpoints(Selector::default()),
        5 => rule.subject = Subject::Unreadable,
        _ => {}
    }
    rule
}

/// Puts an object in its place, or takes it away.
fn set<K: Ord + Clone, V: Clone>(map: &mut Map<K, Shared<V>>, key: impl Into<K>, value: Option<V>) {
    let key = key.into();
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

fn apply(change: &Change, world: &mut World, config: &mut Config) {
    match change.clone() {
        Change::Namespace(n, spec) => {
            let labels = spec.map(|n| strings(&[("team", &n.to_string())]));
            let name = if n == 0 { "shop" } else { "other" };
            set(
                &mut world.namespaces,
                name,
                labels.map(|labels| Namespace { labels, ..Namespace::default() }),
            );
        }
        Change::Node(n, spec) => {
            let node = spec.map(|(cidr, addr, second)| {
                let cidr = format!("10.{}.0.0/24", if second { cidr + 1 } else { n + 1 });
                let zone = strings(&[("topology.kubernetes.io/zone", if second { "a" } else { "b" })]);
                Node {
                    labels: zone.into_iter().chain(strings(&[("zone", &(addr / 2).to_string())])).collect(),
                    ..node(
                        &[&format!("192.168.0.{}", addr + 1), &format!("fd11::{}", addr + 1)],
                        &[&cidr, "fd00:2::/64"],
                    )
                }
            });
            set(&mut world.nodes, format!("n{}", n + 1), node);
        }
        Change::Pod(n, spec) => {
            let pod = spec.map(|spec| Pod {
                labels: strings(&[("app", &spec.app.to_string()), ("of", "all")]),
                ips: spec.ips.iter().map(|n| address(*n)).collect(),
                node_name: (spec.node > 0).then(|| format!("n{}", spec.node)),
                host_network: spec.host_network,
                host_ports: spec
                    .port
                    .map(|n| HostPort {
                        ip: [None, Some(address(6))][usize::from(spec.app & 1)],
                        port: 30_080 + u16::from(n),
                        proto: Protocol::TCP,
                        target: 80,
                    })
                    .into_iter()
                    .collect(),
                ports: spec
                    .port
                    .map(|n| PodPort { name: "web".into(), port: 8080 + u16::from(n), proto: Protocol::TCP })
                    .into_iter()
                    .collect(),
                ..Pod::default()
            });
            set(&mut world.pods, name(n), pod);
        }
        Change::Local(n, spec) => {
            let endpoint = spec.map(|(pod, link, addr)| {
                let mut record = record(u16::from(n), pod.map(name));
                record.link = if link == 5 { "eth5".into() } else { format!("lxc{link}") };
                // Some ask for ports of the node, that pods' objects and Services want too.
                record.port_mappings = PortMappings {
                    ports: (0..link % 3)
                        .map(|n| HostPort {
                            ip: [None, Some(address(6))][usize::from(addr & 1)],
                            port: 30_080 + u16::from(n),
                            proto: Protocol::TCP,
                            target: 80,
                        })
                        .collect(),
                    since: u64::from(link),
                };
                let addr = address(addr);
                (record.ipv4, record.ipv6) =
                    (Some(addr).filter(IpAddr::is_ipv4), Some(addr).filter(IpAddr::is_ipv6));
                record
            });
            set(&mut world.endpoints, u16::from(n), endpoint);
        }
        Change::Remote(n, spec) => {
            let endpoint = spec.map(|(identity, labels, addr, node)| RemoteEndpoint {
                ips: vec![address(addr), address(addr + 3)].into(),
                identity: number(identity),
                labels: labels_of(labels).into(),
                node_ip: (node != 3).then(|| ip(&format!("192.168.0.{}", node + 1))),
                node_name: (node != 0).then(|| format!("n{node}").into()),
                ports: Rarely::default(),
                place: Default::default(),
            });
            set(&mut world.remote_endpoints, name(n), endpoint);
        }
        Change::Claim(n, spec) => {
            let stale: Vec<_> = world.claims.keys().filter(|c| c.number == number(n)).cloned().collect();
            for claim in stale {
                world.claims.remove(&claim);
            }
            if let Some((labels, published)) = spec {
                world.claims.add(claim(number(n).0, &labels_of(labels), published.then_some("n2")));
                if labels == 3 {
                    world.claims.add(claim(number(n).0, &labels_of(1), Some("n3")));
                }
            }
        }
        Change::Service(n, spec) => {
            let service = spec.map(|(addr, ports, selector, how)| Service {
                kind: [ServiceKind::ClusterIp, ServiceKind::NodePort, ServiceKind::LoadBalancer]
                    [usize::from(how % 3)],
                external_ips: (how & 4 != 0).then(|| ip("8.8.8.8")).into_iter().collect(),
                load_balancer: LoadBalancerAddresses {
                    requested: vec![ip(&format!("172.16.0.{}", how & 1)), ip("10.96.0.1")],
                    ..LoadBalancerAddresses::default()
                },
                external_policy: if how & 8 != 0 { TrafficPolicy::Local } else { TrafficPolicy::Cluster },
                internal_policy: if how & 16 != 0 { TrafficPolicy::Local } else { TrafficPolicy::Cluster },
                affinity: (how & 32 != 0).then_some(10),
                source_ranges: SourceRanges {
                    ranges: [net("10.0.0.0/8"), net("172.0.0.0/8"), net("fd00::/8")]
                        [..usize::from(how >> 6 & 3)]
                        .to_vec(),
                    policy: if how & 256 != 0 { RangesPolicy::Deny } else { RangesPolicy::Allow },
                },
                health_check_node_port: (how & 512 != 0).then_some(32_000),
                distribution: if how & 1024 != 0 { Distribution::SameZone } else { Distribution::AsHinted },
                proxy_name: (how & 0x3800 == 0).then(|| "other".to_owned()),
                created: (how & 0x4000 != 0).then(|| Created(format!("2026-01-0{}T00:00:00Z", how & 7))),
                nodes: (how & 0x8000 != 0).then(|| having("zone", "1")),
                cluster_ips: vec![ip(&format!("10.96.0.{addr}")), ip(&format!("fd96::{addr}"))],
                ports: (0..=ports % 3)
                    .map(|at| ServicePort {
                        name: format!("p{at}"),
                        port: 80 + u16::from(if ports == 3 { 0 } else { at }),
                        proto: if at == 2 { Protocol::UDP } else { Protocol::TCP },
                        target: if at == 1 {
                            TargetPort::Name("web".into())
                        } else {
                            TargetPort::Number(8080)
                        },
                        node_port: (how & 2 != 0).then_some(if at == 1 { 20_000 } else { 30_080 }),
                    })
                    .collect(),
                selector: selector.map(|app| match app {
                    3 => strings(&[("of", "all")]).into(),
                    app => strings(&[("app", &app.to_string()), ("of", "all")]).into(),
                }),
                publish_not_ready: addr == 3,
                algorithm: (addr == 2).then_some(LbAlgorithm::Maglev),
                ..Service::default()
            });
            set(&mut world.services, name(n), service);
        }
        Change::Slice(n, spec) => {
            let slice = spec.map(|(service, backends)| EndpointSlice {
                service: name(service).name.to_string(),
                ports: (0..3)
                    .map(|at| SlicePort {
                        name: format!("p{at}"),
                        port: 8080,
                        proto: if at == 2 { Protocol::UDP } else { Protocol::TCP },
                    })
                    .collect(),
                endpoints: backends
                    .iter()
                    .map(|(addr, state)| BackendAddress {
                        ready: state & 1 == 0,
                        terminating: state & 2 != 0,
                        node: (state & 4 != 0).then(|| "n1".to_owned()),
                        ..BackendAddress::ready(address(*addr))
                    })
                    .collect(),
                weight: (n == 4).then_some(50),
                ..EndpointSlice::default()
            });
            set(&mut world.slices, ObjectName::new("shop", &format!("slice{n}")), slice);
        }
        Change::Rule(n, spec) => {
            let own = format!("policy {n}");
            let stale: Vec<_> = world.rules.keys().filter(|r| r.origin.object == own).cloned().collect();
            for rule in stale {
                world.rules.remove(&rule);
            }
            spec.iter().for_each(|spec| world.rules.add(rule_of(n, spec)));
        }
        Change::Group(n, spec) => {
            let prefixes = ["8.0.0.0/8", "8.8.0.0/16", "0.0.0.0/0", "2001:db8::/32"];
            let group = spec.map(|all| CidrGroup {
                labels: Labels::default().with("cidrgroup", "env", &all.len().to_string()),
                prefixes: all.iter().map(|at| net(prefixes[usize::from(*at)])).collect(),
                ..CidrGroup::default()
            });
            set(&mut world.cidr_groups, format!("group{n}"), group);
        }
        Change::Servers(addresses) => {
            let slice = addresses.map(|all| EndpointSlice {
                service: "kubernetes".to_owned(),
                endpoints: all.iter().map(|addr| BackendAddress::ready(address(*addr))).collect(),
                ..EndpointSlice::default()
            });
            set(&mut world.slices, ObjectName::new("default", "kubernetes"), slice);
        }
        Change::Device(n) => {
            world.host.devices[0].mtu = 1400 + u32::from(n);
            world.host.devices[0].addresses =
                vec![net(["192.168.0.1/24", "192.168.0.2/24", "10.1.0.5/32"][usize::from(n)])];
        }
        Change::Problem(n, there) => {
            let problem = Problem {
                severity: Severity::Warning,
                origin: origin("a file"),
                message: n.to_string(),
                hint: String::new(),
            };
            if there { world.problems.add(problem) } else { world.problems.remove(&problem) }
        }
        Change::Config(n) => match n {
            0 => config.ipv6.enabled ^= true,
            1 => config.load_balancer.kube_proxy_replacement ^= true,
            2 => config.routing.mode = RoutingMode::Native,
            3 => config.routing.mode = RoutingMode::Tunnel,
            4 => config.policy.enforcement = Enforcement::Always,
            5 => config.policy.enforcement = Enforcement::Default,
            6 => config.bpf.policy_max = if config.bpf.policy_max == 40 { 1 << 14 } else { 40 },
            7 => config.bpf.lb_max = if config.bpf.lb_max == 4 { 1 << 14 } else { 4 },
            8 => config.load_balancer.external_cluster_ip ^= true,
            9 => config.load_balancer.source_ranges_all_types ^= true,
            10 => config.load_balancer.node_port_range[0] = 10_000,
            11 => {
                config.load_balancer.algorithm = match config.load_balancer.algorithm {
                    Algorithm::Random => Algorithm::Maglev,
                    Algorithm::Maglev => Algorithm::Random,
                }
            }
            12 => config.bpf.maglev_max = config.bpf.maglev_max % 3 + 1,
            _ => config.source.manifests.publish = Some("/shared/n1".parse().unwrap()),
        },
        Change::Line(n) => {
            each(&mut world.services, |service| service.place.line = n.into());
            each(&mut world.remote_endpoints, |endpoint| endpoint.place.line = n.into());
            let moved = world.rules.keys().cloned().map(|mut rule| {
                rule.origin.place = format!("file:{n}");
                (rule, ())
            });
            world.rules = moved.collect();
        }
        Change::Synced(n) => world.synced = SourceSet(n),
    }
}

macro_rules! reasons {
    ($(($field:ident, $resource:ident)),* $(,)?) => {
        /// Why each row is there: equality of states leaves it out.
        fn reasons(state: &State) -> Vec<Why> {
            let mut all = Vec::new();
            $(all.extend(state.$field.iter().map(|(_, entry)| entry.why.clone()));)*
            all
        }
    };
}
crate::for_each_resource!(reasons);

/// What one says that the other does not.
pub(super) fn difference(keyed: &Compiled, whole: &Compiled) -> Vec<String> {
    let lines = |compiled: &Compiled| -> BTreeSet<String> {
        let (state, view) = (&compiled.desired.state, &compiled.view);
        let whys = reasons(state).into_iter().map(|why| why.expect("every row is explained").to_string());
        let rows = state.lines().into_iter().zip(whys);
        rows.map(|((id, row), why)| format!("{id}: {row}, because {why}"))
            .chain(compiled.problems.iter().map(ToString::to_string))
            .chain(view.endpoints.values().map(|shown| format!("{shown:?}")))
            .chain(view.identities.iter().map(|(id, shown)| format!("{id}: {shown:?}")))
            .chain(view.services.values().map(|shown| format!("{shown:?}")))
            .chain(view.health_checks.iter().map(|(name, shown)| format!("{name}: {shown:?}")))
            .chain(view.policies.iter().map(|(id, shown)| format!("{id}: {shown:?}")))
            .chain(view.rules.iter().map(|(id, shown)| format!("{id}: {shown:?}")))
            .chain(view.nodes.iter().map(|shown| format!("{shown:?}")))
            .chain([format!("{:?} {:?}", compiled.desired.synced, view.clashed)])
            .collect()
    };
    let (keyed_lines, whole_lines) = (lines(keyed), lines(whole));
    let more = keyed_lines.difference(&whole_lines).map(|line| format!("+ {line}"));
    let mut out: Vec<String> =
        more.chain(whole_lines.difference(&keyed_lines).map(|line| format!("- {line}"))).collect();
    if out.is_empty() && keyed != whole {
        out.push("something else".to_owned());
    }
    out
}

/// Which numbers are said to be in use.
#[derive(Clone, Copy, Debug)]
enum Book {
    OfLast,
    OfAnother,
    Empty,
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn a_compiler_that_follows_says_what_a_new_one_says(
        begin in prop::collection::vec(change(), 0..40),
        steps in prop::collection::vec(
            (prop::collection::vec(change(), 1..4), prop::sample::select(&[
                Book::OfLast, Book::OfLast, Book::OfLast, Book::OfLast, Book::OfLast, Book::OfLast,
                Book::OfAnother, Book::Empty,
            ][..])),
            1..16,
        ),
    ) {
        let (mut world, mut config) = (world(), config());
        config.load_balancer.maglev.table_size = TableSize::ALL[0];
        begin.iter().for_each(|change| apply(change, &mut world, &mut config));
        let mut compiler = Compiler::default();
        let mut last = compiler.compile(&world, &config, &IdBook::default());
        let mut another = last.book.clone();
        for (changes, book) in &steps {
            changes.iter().for_each(|change| apply(change, &mut world, &mut config));
            let follows = matches!(book, Book::OfLast);
            let book = match book {
                Book::OfLast => last.book.clone(),
                Book::OfAnother => std::mem::replace(&mut another, last.book.clone()),
                Book::Empty => IdBook::default(),
            };
            let whole = compile(&world, &config, &book);
            let keyed = compiler.compile(&world, &config, &book);
            prop_assert_eq!(difference(&keyed, &whole), Vec::<String>::new());
            if follows {
                for (at, was) in last.desired.state.maglev_tables.iter() {
                    let is = keyed.desired.state.maglev_tables.find(at);
                    prop_assert!(is.is_none_or(|is| *is == was.row), "table {} changes where it is", at);
                }
            }
            // With nothing new, nothing is; but tables for which there was no room take that of others that went.
            let mut again = compiler.compile(&world, &config, &keyed.book);
            let mut before = keyed;
            if before.problems.iter().any(|problem| problem.message.contains("Maglev")) {
                let more = compiler.compile(&world, &config, &again.book);
                before = std::mem::replace(&mut again, more);
            }
            prop_assert_eq!(difference(&again, &before), Vec::<String>::new());
            last = again;
        }
    }
}
