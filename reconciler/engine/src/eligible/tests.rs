use super::{
    Backend, Client, DEFAULT_WEIGHT, Fitness, Here, PodPlace, Slices, choose, of_pod, policy, ready_here,
};
use crate::eligible::Nodes;
use crate::map::Rarely;
use crate::state::Protocol;
use crate::world::{
    BackendAddress, Distribution, EndpointSlice, FrontendKind, Hints, IpFamily, Node, Service, ServicePort,
    SlicePort, TargetPort, TrafficPolicy,
};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::IpAddr;

const HERE: Here<'static> = Here { node: "n1", zone: Some("a") };

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn port(name: &str) -> ServicePort {
    let target = TargetPort::Number(8080);
    ServicePort { name: name.into(), port: 80, proto: Protocol::TCP, target, node_port: None }
}

fn endpoint(last: u8, node: &str, zones: &[&str]) -> BackendAddress {
    let zones = zones.iter().map(|zone| (*zone).to_owned()).collect();
    BackendAddress {
        node: (!node.is_empty()).then(|| node.to_owned()),
        hints: Hints { zones, nodes: Rarely::default() },
        ..BackendAddress::ready(IpAddr::from([10, 0, 0, last]))
    }
}

fn ending(mut endpoint: BackendAddress) -> BackendAddress {
    (endpoint.ready, endpoint.terminating) = (false, true);
    endpoint
}

fn slice(endpoints: Vec<BackendAddress>) -> EndpointSlice {
    let ports = vec![SlicePort { name: String::new(), port: 8080, proto: Protocol::TCP }];
    EndpointSlice { service: "web".into(), ports, endpoints, ..EndpointSlice::default() }
}

fn all(slices: &[EndpointSlice], service: &Service, nodes: &Nodes) -> Vec<(String, Fitness)> {
    Slices::new(slices)
        .backends(service, &port(""), IpFamily::V4, nodes)
        .iter()
        .map(|b| (b.addr.to_string(), b.fitness))
        .collect()
}

/// Last numbers of the addresses chosen.
fn chosen(slices: &[EndpointSlice], service: &Service, policy: TrafficPolicy, here: Here<'_>) -> Vec<u8> {
    let nodes = nodes();
    let backends = Slices::new(slices).backends(service, &port(""), IpFamily::V4, &nodes);
    let last = |b: &&Backend<'_>| match b.addr {
        IpAddr::V4(addr) => addr.octets()[3],
        IpAddr::V6(_) => 0,
    };
    choose(&backends, policy, here).iter().map(last).collect()
}

fn nodes() -> Nodes {
    let node = |zone: &str| Node {
        labels: [("topology.kubernetes.io/zone".to_owned(), zone.to_owned())].into(),
        ..Node::default()
    };
    [("n1", "a"), ("n2", "a"), ("n3", "b")]
        .map(|(name, zone)| (name.to_owned(), node(zone).into()))
        .into_iter()
        .collect()
}

const CLUSTER: TrafficPolicy = TrafficPolicy::Cluster;
const LOCAL: TrafficPolicy = TrafficPolicy::Local;

#[test]
fn several_slices_are_one_service_and_duplicates_one_backend() {
    let mut second = slice(vec![endpoint(1, "n1", &[]), ending(endpoint(3, "n1", &[]))]);
    second.endpoints.push(BackendAddress::ready(ip("fd00::1")));
    second.ports.push(SlicePort { name: "other".into(), port: 9090, proto: Protocol::TCP });
    second.ports.push(SlicePort { name: String::new(), port: 53, proto: Protocol::UDP });
    let first = slice(vec![ending(endpoint(1, "n1", &[])), endpoint(2, "n2", &[])]);
    let mut dead = endpoint(4, "n1", &[]);
    (dead.ready, dead.serving) = (false, false);
    let third = slice(vec![dead]);
    let service = Service::default();
    let seen = all(&[first.clone(), second.clone(), third.clone()], &service, &Nodes::default());
    assert_eq!(
        seen,
        [
            ("10.0.0.1".into(), Fitness::Ready),
            ("10.0.0.2".into(), Fitness::Ready),
            ("10.0.0.3".into(), Fitness::Terminating)
        ]
    );
    let published = Service { publish_not_ready: true, ..Service::default() };
    let all = all(&[first, second.clone(), third], &published, &Nodes::default());
    assert_eq!(all.len(), 4);
    assert!(all.iter().all(|(_, fitness)| *fitness == Fitness::Ready));
    let slices = Slices::new([&second]);
    let none = Nodes::default();
    assert_eq!(slices.backends(&service, &port(""), IpFamily::V6, &none).len(), 1);
    assert_eq!(slices.backends(&service, &port("other"), IpFamily::V4, &none)[0].port, 9090);
    assert!(slices.backends(&service, &port("absent"), IpFamily::V4, &none).is_empty());
}

#[test]
fn weights_come_from_slices_and_zero_is_maintenance() {
    let resting = EndpointSlice { weight: Some(0), ..slice(vec![endpoint(1, "n1", &[])]) };
    let heavy = EndpointSlice { weight: Some(300), ..slice(vec![endpoint(2, "n1", &[])]) };
    let plain = slice(vec![endpoint(3, "n1", &[])]);
    let (service, none) = (Service::default(), Nodes::default());
    let both = [resting.clone(), heavy, plain];
    let weights: Vec<_> = Slices::new(&both)
        .backends(&service, &port(""), IpFamily::V4, &none)
        .iter()
        .map(|b| (b.fitness, b.weight))
        .collect();
    assert_eq!(
        weights,
        [(Fitness::Maintenance, DEFAULT_WEIGHT), (Fitness::Ready, 300), (Fitness::Ready, DEFAULT_WEIGHT)]
    );
    assert_eq!(chosen(&both, &service, CLUSTER, HERE), [2, 3]);
    assert!(chosen(&[resting], &service, CLUSTER, HERE).is_empty(), "also if there is no other");
}

/// Kubernetes, "Traffic from terminating endpoints": used while no ready one is left, by policy.
#[test]
fn terminating_ones_serve_while_no_other_does() {
    let service = Service::default();
    let mixed = [slice(vec![ending(endpoint(1, "n1", &[])), endpoint(2, "n2", &[])])];
    assert_eq!(chosen(&mixed, &service, CLUSTER, HERE), [2]);
    assert_eq!(chosen(&mixed, &service, LOCAL, HERE), [1], "of this node's, none is ready");
    let ends = [slice(vec![ending(endpoint(1, "n1", &[])), ending(endpoint(2, "n2", &[]))])];
    assert_eq!(chosen(&ends, &service, CLUSTER, HERE), [1, 2]);
    assert_eq!(chosen(&ends, &service, LOCAL, Here { node: "n3", zone: None }), [0_u8; 0]);
}

#[test]
fn local_policies_keep_to_this_node() {
    let service = Service::default();
    let spread = [slice(vec![endpoint(1, "n1", &[]), endpoint(2, "n2", &[]), endpoint(3, "", &[])])];
    assert_eq!(chosen(&spread, &service, LOCAL, HERE), [1]);
    assert_eq!(chosen(&spread, &service, CLUSTER, HERE), [1, 2, 3]);
    let none = Nodes::default();
    let backends = Slices::new(&spread).backends(&service, &port(""), IpFamily::V4, &none);
    assert_eq!(ready_here(&backends, HERE), 1);
    assert_eq!(ready_here(&backends, Here { node: "n9", zone: None }), 0);
}

#[test]
fn which_policy_holds_for_whom() {
    use FrontendKind::{ClusterIp, ExternalIp, LoadBalancer, NodePort};
    let service =
        |internal_policy, external_policy| Service { internal_policy, external_policy, ..Service::default() };
    for frontend in [NodePort, LoadBalancer, ExternalIp] {
        assert_eq!(policy(&service(CLUSTER, LOCAL), frontend, Client::Outside), LOCAL);
        // Kubernetes: inside the cluster an external address is as good as a ClusterIP, for any backend.
        assert_eq!(policy(&service(CLUSTER, LOCAL), frontend, Client::Inside), CLUSTER);
        assert_eq!(policy(&service(LOCAL, LOCAL), frontend, Client::Inside), CLUSTER);
        assert_eq!(policy(&service(LOCAL, CLUSTER), frontend, Client::Outside), CLUSTER);
    }
    for client in [Client::Inside, Client::Outside] {
        assert_eq!(policy(&service(LOCAL, CLUSTER), ClusterIp, client), LOCAL);
        assert_eq!(policy(&service(CLUSTER, LOCAL), ClusterIp, client), CLUSTER);
    }
}

#[test]
fn zone_hints_count_only_if_all_have_them_and_one_is_for_here() {
    let service = Service::default();
    let two = |a: &[&str], b: &[&str]| [slice(vec![endpoint(1, "n1", a), endpoint(2, "n3", b)])];
    let at = |zone| Here { node: "n1", zone };
    assert_eq!(chosen(&two(&["a"], &["b"]), &service, CLUSTER, at(Some("a"))), [1]);
    assert_eq!(chosen(&two(&["a"], &["a", "b"]), &service, CLUSTER, at(Some("b"))), [2]);
    assert_eq!(chosen(&two(&["a"], &[]), &service, CLUSTER, at(Some("a"))), [1, 2], "one has no hint");
    assert_eq!(chosen(&two(&["a"], &["b"]), &service, CLUSTER, at(Some("c"))), [1, 2], "none is for here");
    assert_eq!(chosen(&two(&["a"], &["b"]), &service, CLUSTER, at(None)), [1, 2], "no zone here");
    assert_eq!(chosen(&two(&["b"], &["b"]), &service, LOCAL, at(Some("a"))), [1], "Local knows no zones");
    // A terminating one without a hint does not count, and is not used.
    let ends =
        [slice(vec![endpoint(1, "n1", &["a"]), endpoint(2, "n3", &["b"]), ending(endpoint(3, "n1", &[]))])];
    assert_eq!(chosen(&ends, &service, CLUSTER, HERE), [1]);
}

#[test]
fn a_distribution_holds_without_a_controller_that_writes_hints() {
    let spread = [slice(vec![endpoint(1, "n1", &[]), endpoint(2, "n2", &[]), endpoint(3, "n3", &[])])];
    let service = |distribution| Service { distribution, ..Service::default() };
    let at = |node, zone| Here { node, zone: Some(zone) };
    assert_eq!(chosen(&spread, &service(Distribution::AsHinted), CLUSTER, HERE), [1, 2, 3]);
    let zone = service(Distribution::SameZone);
    assert_eq!(chosen(&spread, &zone, CLUSTER, HERE), [1, 2]);
    assert_eq!(chosen(&spread, &zone, CLUSTER, at("n3", "b")), [3]);
    assert_eq!(chosen(&spread, &zone, CLUSTER, at("n4", "c")), [1, 2, 3]);
    let node = service(Distribution::SameNode);
    assert_eq!(chosen(&spread, &node, CLUSTER, HERE), [1]);
    assert_eq!(chosen(&spread, &node, CLUSTER, at("n5", "a")), [1, 2], "none on this node: its zone");
    assert_eq!(chosen(&spread, &node, CLUSTER, at("n4", "c")), [1, 2, 3], "none there either: all");
    // An endpoint of which neither zone nor node is known: no preference.
    let mut unknown = spread.clone();
    unknown[0].endpoints.push(endpoint(4, "", &[]));
    assert_eq!(chosen(&unknown, &zone, CLUSTER, HERE), [1, 2, 3, 4]);
    // Its own zone wins over its node's.
    let mut moved = spread;
    moved[0].endpoints[1].zone = Some("b".into());
    assert_eq!(chosen(&moved, &zone, CLUSTER, HERE), [1]);
}

#[test]
fn pods_are_chosen_like_endpoints() {
    let (service, nodes) = (Service { distribution: Distribution::SameZone, ..Service::default() }, nodes());
    let (n1, n3) = ("n1".to_owned(), "n3".to_owned());
    let place = |last, node| PodPlace { addr: IpAddr::from([10, 0, 0, last]), port: 80, node: Some(node) };
    let pods = [of_pod(place(1, &n1), &service, &nodes), of_pod(place(2, &n3), &service, &nodes)];
    let chosen = |policy| choose(&pods, policy, HERE).iter().map(|b| b.addr.to_string()).collect::<Vec<_>>();
    assert_eq!(chosen(CLUSTER), ["10.0.0.1"]);
    assert_eq!(chosen(LOCAL), ["10.0.0.1"]);
    assert_eq!(pods[0].weight, DEFAULT_WEIGHT);
}

fn any_endpoint() -> impl Strategy<Value = BackendAddress> {
    let name = |letters: &'static str| prop::option::of(letters);
    let hints = (prop::collection::vec("[abc]", 0..3), prop::collection::vec("n[1-3]", 0..2));
    ((0u8..12, any::<[bool; 3]>()), (name("n[1-4]"), name("[abc]")), hints).prop_map(
        |((last, [ready, serving, terminating]), (node, zone), (zones, nodes))| BackendAddress {
            ip: IpAddr::from([10, 0, 0, last]),
            ready,
            serving,
            terminating,
            node,
            zone,
            hints: Hints { zones: zones.into(), nodes: nodes.into() },
        },
    )
}

proptest! {
    /// Written the other way round: by what the outcome must be, not by how it is found.
    #[test]
    fn the_choice_is_sound(
        endpoints in prop::collection::vec(any_endpoint(), 0..14),
        weight in prop::option::of(0u16..3),
        distribution in prop::sample::select(vec![Distribution::AsHinted, Distribution::SameZone, Distribution::SameNode]),
        node in "n[1-4]",
        zone in prop::option::of("[abc]"),
        split in any::<prop::sample::Index>(),
    ) {
        let at = split.index(endpoints.len() + 1);
        let slices = [
            slice(endpoints[..at].to_vec()),
            EndpointSlice { weight, ..slice(endpoints[at..].to_vec()) },
        ];
        let service = Service { distribution, ..Service::default() };
        let (here, nodes) = (Here { node: &node, zone: zone.as_deref() }, nodes());
        let backends = Slices::new(&slices).backends(&service, &port(""), IpFamily::V4, &nodes);
        let keys: BTreeSet<_> = backends.iter().map(|b| (b.addr, b.port)).collect();
        prop_assert_eq!(keys.len(), backends.len());
        prop_assert!(backends.iter().all(|b| b.weight > 0));
        let everywhere = choose(&backends, CLUSTER, here);
        let local = choose(&backends, LOCAL, here);
        prop_assert!(everywhere.iter().chain(&local).all(|b| b.fitness != Fitness::Maintenance));
        prop_assert!(local.iter().all(|b| b.node == Some(here.node)));
        // New connections have somewhere to go exactly if some backend takes any.
        let takes = |b: &&Backend<'_>| b.fitness != Fitness::Maintenance;
        prop_assert_eq!(everywhere.is_empty(), !backends.iter().any(|b| takes(&b)));
        prop_assert_eq!(local.is_empty(), !backends.iter().filter(takes).any(|b| b.node == Some(here.node)));
        // Never a terminating one beside a ready one.
        for chosen in [&everywhere, &local] {
            let fitness: BTreeSet<_> = chosen.iter().map(|b| b.fitness).collect();
            prop_assert!(fitness.len() <= 1);
        }
        prop_assert_eq!(ready_here(&backends, here) > 0, local.iter().any(|b| b.fitness == Fitness::Ready));
        // What topology leaves out, some hint of here has won over.
        let ready = backends.iter().filter(|b| b.fitness == Fitness::Ready).count();
        if everywhere.len() < ready {
            let for_node = everywhere.iter().all(|b| b.nodes.contains(&node));
            let for_zone = zone.as_ref().is_some_and(|zone| everywhere.iter().all(|b| b.zones.contains(zone)));
            prop_assert!(for_node || for_zone);
        }
    }
}
