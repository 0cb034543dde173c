//! Frontends beyond the ClusterIP: of which addresses, with which backends, and who of several has one.

use super::*;
use crate::compile::ServiceView;
use crate::config::NoBackendResponse;
use crate::state::{FrontendKey, FrontendRow, Protocol, SlotKey, SourceRangeKey};
use crate::world::{
    BackendAddress, Created, EndpointSlice, HostPort, LoadBalancerAddresses, RangesPolicy, Service,
    ServiceKind, ServicePort, SlicePort, SourceRanges, TargetPort, TrafficPolicy,
};
use cilium_abi::lb::{
    FRONTEND_CLUSTER_IP, FRONTEND_EXTERNAL, FRONTEND_EXTERNAL_IP, FRONTEND_HOST_PORT, FRONTEND_LOAD_BALANCER,
    FRONTEND_NODE_PORT, FRONTEND_REJECT, FRONTEND_SOURCE_DENY, FRONTEND_SOURCE_RANGES, FRONTEND_TWO_SCOPES,
    SCOPE_EXTERNAL, SCOPE_INTERNAL,
};

/// A Service of type LoadBalancer: a backend on this node and one on `n2`.
pub(super) fn service() -> Service {
    Service {
        kind: ServiceKind::LoadBalancer,
        cluster_ips: vec![ip("10.96.0.10")],
        external_ips: vec![ip("198.51.100.1")],
        load_balancer: LoadBalancerAddresses {
            assigned: Some(vec![ip("203.0.113.1")]),
            ..LoadBalancerAddresses::default()
        },
        ports: vec![ServicePort {
            name: "http".into(),
            port: 80,
            proto: Protocol::TCP,
            target: TargetPort::Number(8080),
            node_port: Some(30_080),
        }],
        ..Service::default()
    }
}

pub(super) fn put(world: &mut World, name: &str, service: Service) {
    let on = |addr: &str, node: &str| BackendAddress {
        node: Some(node.into()),
        ..BackendAddress::ready(ip(addr))
    };
    let slice = EndpointSlice {
        service: name.into(),
        ports: vec![SlicePort { name: "http".into(), port: 8080, proto: Protocol::TCP }],
        endpoints: vec![on("10.1.0.5", "n1"), on("10.2.0.5", "n2")],
        ..EndpointSlice::default()
    };
    world.slices.insert(ObjectName::new("shop", name), slice);
    world.services.insert(ObjectName::new("shop", name), service);
}

pub(super) fn key(addr: &str, port: u16) -> FrontendKey {
    FrontendKey { addr: ip(addr), port, proto: Protocol::TCP, scope: SCOPE_EXTERNAL }
}

fn inside(key: &FrontendKey) -> FrontendKey {
    FrontendKey { scope: SCOPE_INTERNAL, ..key.clone() }
}

pub(super) fn row<'c>(compiled: &'c Compiled, key: &FrontendKey) -> &'c FrontendRow {
    compiled.desired.state.frontends.find(key).unwrap_or_else(|| panic!("{key} is there"))
}

fn backends(compiled: &Compiled, key: &FrontendKey) -> Vec<String> {
    let (state, row) = (&compiled.desired.state, row(compiled, key));
    let slot = |slot| state.slots.find(&SlotKey { list: row.list, slot }).expect("a slot");
    let addr = |slot| state.backends.find(slot).expect("a backend").addr.to_string();
    (0..u32::from(row.count)).map(|n| addr(slot(n))).collect()
}

fn ranges(compiled: &Compiled, key: &FrontendKey) -> Vec<String> {
    let rev_nat = row(compiled, key).rev_nat;
    let all = compiled.desired.state.source_ranges.keys();
    all.filter(|range| range.rev_nat == rev_nat).map(|SourceRangeKey { net, .. }| net.to_string()).collect()
}

#[test]
fn each_kind_of_frontend_has_its_flags() {
    let mut world = world();
    put(&mut world, "web", service());
    let compiled = whole(&world, &config());
    let outside = FRONTEND_EXTERNAL;
    for (addr, port, flags) in [
        ("10.96.0.10", 80, FRONTEND_CLUSTER_IP),
        ("203.0.113.1", 80, FRONTEND_LOAD_BALANCER | outside),
        ("198.51.100.1", 80, FRONTEND_EXTERNAL_IP | outside),
        ("192.168.0.1", 30_080, FRONTEND_NODE_PORT | outside),
        // A Service whose backends have no such address.
        ("fd11::1", 30_080, FRONTEND_NODE_PORT | outside | FRONTEND_REJECT),
        ("0.0.0.0", 30_080, FRONTEND_NODE_PORT | outside),
        ("::", 30_080, FRONTEND_NODE_PORT | outside | FRONTEND_REJECT),
    ] {
        assert_eq!(row(&compiled, &key(addr, port)).flags, flags, "{addr}");
    }
    assert_eq!(compiled.desired.state.frontends.len(), 7);
    let mut open = config();
    open.load_balancer.external_cluster_ip = true;
    open.load_balancer.node_port_addresses = vec![net("192.168.0.0/16")];
    let compiled = whole(&world, &open);
    assert_eq!(row(&compiled, &key("10.96.0.10", 80)).flags, FRONTEND_CLUSTER_IP | outside);
    assert!(compiled.desired.state.frontends.find(&key("fd11::1", 30_080)).is_none());
    let mut narrow = config();
    narrow.load_balancer.node_port_range = [31_000, 32_000];
    let compiled = whole(&world, &narrow);
    assert_eq!(compiled.desired.state.frontends.len(), 3);
    assert!(errors(&compiled).iter().any(|e| e.contains("NodePort 30080")), "{:?}", errors(&compiled));
}

#[test]
fn with_the_local_policy_clients_inside_get_a_row_of_their_own() {
    let mut world = world();
    let local = TrafficPolicy::Local;
    put(
        &mut world,
        "web",
        Service { external_policy: local, health_check_node_port: Some(32_000), ..service() },
    );
    let compiled = whole(&world, &config());
    for outside in [key("203.0.113.1", 80), key("192.168.0.1", 30_080), key("198.51.100.1", 80)] {
        assert_ne!(row(&compiled, &outside).flags & FRONTEND_TWO_SCOPES, 0);
        assert_eq!(backends(&compiled, &outside), ["10.1.0.5"]);
        assert_eq!(backends(&compiled, &inside(&outside)), ["10.1.0.5", "10.2.0.5"]);
        assert!(inside(&outside) < outside, "the row that the other leads to is written first");
        assert_eq!(row(&compiled, &inside(&outside)).rev_nat, row(&compiled, &outside).rev_nat);
    }
    assert_eq!(row(&compiled, &key("10.96.0.10", 80)).flags, FRONTEND_CLUSTER_IP);
    let checks: Vec<_> =
        compiled.view.health_checks.values().map(|check| (check.port, check.ready)).collect();
    assert_eq!(checks, [(32_000, 1)]);
    put(&mut world, "web", Service { internal_policy: local, ..service() });
    let compiled = whole(&world, &config());
    assert_eq!(backends(&compiled, &key("10.96.0.10", 80)), ["10.1.0.5"]);
    assert_eq!(backends(&compiled, &key("203.0.113.1", 80)).len(), 2);
}

#[test]
fn a_frontend_without_any_backend_says_so() {
    let told = |world: &World, config: &Config, addr: &str| {
        row(&whole(world, config), &key(addr, 80)).flags & FRONTEND_REJECT != 0
    };
    let mut world = world();
    let local = TrafficPolicy::Local;
    put(&mut world, "web", Service { external_policy: local, internal_policy: local, ..service() });
    let (inside, outside) = ("10.96.0.10", "203.0.113.1");
    assert!(!told(&world, &config(), inside) && !told(&world, &config(), outside));
    // Nobody serves here, but elsewhere somebody does: another node may be asked.
    let mut slice: EndpointSlice =
        (**world.slices.get::<ObjectName>(&ObjectName::new("shop", "web")).expect("put")).clone();
    slice.endpoints.remove(0);
    world.slices.insert(ObjectName::new("shop", "web"), slice.clone());
    assert_eq!(backends(&whole(&world, &config()), &key(outside, 80)), Vec::<String>::new());
    assert!(!told(&world, &config(), inside) && !told(&world, &config(), outside));
    slice.endpoints.clear();
    world.slices.insert(ObjectName::new("shop", "web"), slice);
    assert!(told(&world, &config(), inside) && told(&world, &config(), outside));
    let mut silent = config();
    silent.load_balancer.no_backend_response = NoBackendResponse::Drop;
    assert!(!told(&world, &silent, inside) && !told(&world, &silent, outside));
}

#[test]
fn source_ranges_are_rows_of_the_frontends_they_are_about() {
    let mut world = world();
    let source_ranges =
        |policy, nets: &[&str]| SourceRanges { ranges: nets.iter().map(|text| net(text)).collect(), policy };
    let both = ["10.0.0.0/8", "fd00::/8"];
    put(&mut world, "web", Service { source_ranges: source_ranges(RangesPolicy::Allow, &both), ..service() });
    let compiled = whole(&world, &config());
    let (balancer, node) = (key("203.0.113.1", 80), key("192.168.0.1", 30_080));
    assert_eq!(ranges(&compiled, &balancer), ["10.0.0.0/8"]);
    assert_ne!(row(&compiled, &balancer).flags & FRONTEND_SOURCE_RANGES, 0);
    assert_eq!(row(&compiled, &node).flags & FRONTEND_SOURCE_RANGES, 0);
    let mut all = config();
    all.load_balancer.source_ranges_all_types = true;
    assert_eq!(ranges(&whole(&world, &all), &node), ["10.0.0.0/8"]);
    // Ranges of the other family only: nobody of this one is on the list.
    let other = source_ranges(RangesPolicy::Deny, &["fd00::/8"]);
    put(&mut world, "web", Service { source_ranges: other, ..service() });
    let compiled = whole(&world, &config());
    assert_eq!(ranges(&compiled, &balancer), Vec::<String>::new());
    let flags = FRONTEND_SOURCE_RANGES | FRONTEND_SOURCE_DENY;
    assert_eq!(row(&compiled, &balancer).flags & flags, flags);
}

#[test]
fn the_oldest_has_a_frontend_and_both_are_told_once_of_a_node_port() {
    let mut world = world();
    let made = |day: u8| Service {
        created: Some(Created(format!("2026-01-0{day}T00:00:00Z"))),
        kind: ServiceKind::NodePort,
        external_ips: Vec::new(),
        ..service()
    };
    let at = |addr: &str, service: Service| Service { cluster_ips: vec![ip(addr)], ..service };
    put(&mut world, "a", at("10.96.0.1", made(2)));
    put(&mut world, "b", at("10.96.0.2", made(1)));
    put(&mut world, "c", at("10.96.0.3", Service { created: None, ..made(1) }));
    let compiled = whole(&world, &config());
    let owner = |view: &ServiceView| view.service.name.clone();
    for addr in ["192.168.0.1", "fd11::1", "0.0.0.0", "::"] {
        assert_eq!(owner(&compiled.view.services[&key(addr, 30_080)]), "b", "{addr}");
    }
    let about = |name: &str| {
        let object = format!("Service shop/{name}");
        compiled.problems.iter().filter(|p| p.origin.object == object).count()
    };
    // Of each family; the owner of two others.
    assert_eq!((about("a"), about("b"), about("c")), (2, 4, 2));
}

#[test]
fn host_ports_lead_to_pods_of_this_node_and_yield_to_services() {
    let mut world = world();
    add_local(&mut world, 7, "a", &[]);
    add_local(&mut world, 8, "b", &[]);
    let port = |number, on: Option<&str>| HostPort {
        ip: on.map(ip),
        port: number,
        proto: Protocol::TCP,
        target: 9000,
    };
    for (pod, ports) in
        [("a", vec![port(8081, None), port(30_080, None)]), ("b", vec![port(8082, Some("192.168.0.1"))])]
    {
        world.pods.get_mut(&ObjectName::new("shop", pod)).unwrap().host_ports = ports.clone();
        // Elsewhere a pod's hostPorts are no concern of this node.
        let far = Pod { host_ports: ports, node_name: Some("n2".into()), ..Pod::default() };
        world.pods.insert(ObjectName::new("shop", &format!("far-{pod}")), far);
    }
    put(&mut world, "web", service());
    let compiled = whole(&world, &config());
    let flags = FRONTEND_HOST_PORT | FRONTEND_EXTERNAL;
    for (at, pod) in [
        (key("192.168.0.1", 8081), "10.1.0.7"),
        (key("0.0.0.0", 8081), "10.1.0.7"),
        (key("fd11::1", 8081), "fd00:1::7"),
        (key("192.168.0.1", 8082), "10.1.0.8"),
    ] {
        assert_eq!(
            (row(&compiled, &at).flags, backends(&compiled, &at)),
            (flags, vec![pod.to_owned()]),
            "{at}"
        );
    }
    assert!(compiled.desired.state.frontends.find(&key("0.0.0.0", 8082)).is_none());
    assert_eq!(row(&compiled, &key("192.168.0.1", 30_080)).flags, FRONTEND_NODE_PORT | FRONTEND_EXTERNAL);
    assert!(errors(&compiled).iter().any(|e| e.contains("Pod shop/a")), "{:?}", errors(&compiled));
}

#[test]
fn affinity_stands_in_the_row_and_protocols_have_their_own_way_back() {
    let mut world = world();
    let mut service = Service { affinity: Some(600), ..service() };
    let udp = ServicePort { name: "quic".into(), proto: Protocol::UDP, ..service.ports[0].clone() };
    service.ports.push(udp);
    put(&mut world, "web", service);
    let compiled = whole(&world, &config());
    let tcp = key("203.0.113.1", 80);
    let udp = FrontendKey { proto: Protocol::UDP, ..tcp.clone() };
    assert_eq!(row(&compiled, &tcp).affinity, 600);
    assert_ne!(row(&compiled, &tcp).rev_nat, row(&compiled, &udp).rev_nat);
}
