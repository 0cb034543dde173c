//! Frontends beyond the ClusterIP: of which addresses, with which backends, and who of several has one.

use super::*;
use crate::compile::ServiceView;
use crate::config::NoBackendResponse;
use crate::state::{FrontendKey, FrontendRow, Protocol, SlotKey, SourceRangeKey};
use crate::world::{
    BackendAddress, Created, EndpointSlice, HostPort, LoadBalancerAddresses, PortMappings, RangesPolicy,
    Service, ServiceKind, ServicePort, SlicePort, SourceRanges, TargetPort, TrafficPolicy,
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

    // To the network instead, but for those that other nodes may serve.
    let mut pass = config();
    pass.load_balancer.no_backend_response = NoBackendResponse::Pass;
    assert!(!told(&world, &pass, inside) && !told(&world, &pass, outside));
    let there = |world: &World, addr: &str| {
        whole(world, &pass).desired.state.frontends.find(&key(addr, 80)).is_some()
    };
    put(&mut world, "web", service());
    assert!(there(&world, inside) && there(&world, outside));
    let mut slice: EndpointSlice =
        (**world.slices.get::<ObjectName>(&ObjectName::new("shop", "web")).expect("put")).clone();
    slice.endpoints.clear();
    world.slices.insert(ObjectName::new("shop", "web"), slice);
    assert!(!there(&world, inside) && !there(&world, outside));
}

#[test]
fn a_service_is_served_by_the_proxy_that_it_names() {
    let mut world = world();
    let named = |proxy: Option<&str>, n: u8| Service {
        proxy_name: proxy.map(str::to_owned),
        cluster_ips: vec![ip(&format!("10.96.0.{n}"))],
        ..service()
    };
    for (n, proxy) in [(1, None), (2, Some("")), (3, Some("ours")), (4, Some("other"))] {
        put(&mut world, &format!("s{n}"), named(proxy, n));
    }
    for (own, served) in [("", vec![1]), ("ours", vec![3])] {
        let mut config = config();
        own.clone_into(&mut config.load_balancer.service_proxy_name);
        let compiled = whole(&world, &config);
        let there =
            |n: &u8| compiled.desired.state.frontends.find(&key(&format!("10.96.0.{n}"), 80)).is_some();
        assert_eq!((1..=4).filter(there).collect::<Vec<u8>>(), served, "{own:?}");
    }
}

#[test]
fn health_checks_have_a_frontend_at_the_balancers_address_if_asked() {
    let mut world = world();
    let local = TrafficPolicy::Local;
    let checked = |external_policy| Service {
        external_policy,
        health_check_node_port: Some(32_100),
        source_ranges: SourceRanges { ranges: vec![net("192.0.2.0/24")], policy: RangesPolicy::Allow },
        ..service()
    };
    put(&mut world, "web", checked(local));
    let at = key("203.0.113.1", 32_100);
    let mut asked = config();
    assert!(whole(&world, &asked).desired.state.frontends.find(&at).is_none(), "off by default");
    asked.load_balancer.health_check_load_balancer_ips = true;
    let compiled = whole(&world, &asked);
    assert_eq!(row(&compiled, &at).flags, FRONTEND_LOAD_BALANCER | FRONTEND_EXTERNAL, "for all sources");
    assert_eq!(backends(&compiled, &at), ["192.168.0.1"], "the node answers itself");
    for kept in ["198.51.100.1", "10.96.0.10", "192.168.0.1"] {
        assert!(compiled.desired.state.frontends.find(&key(kept, 32_100)).is_none(), "{kept}");
    }
    put(&mut world, "web", checked(TrafficPolicy::Cluster));
    assert!(whole(&world, &asked).desired.state.frontends.find(&at).is_none(), "nobody answers it");
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

/// A port of the node for each attachment, as runtimes ask.
fn mapped(world: &mut World, id: u16, since: u64, ports: &[(u16, Option<&str>)]) {
    let mut record = (*world.endpoints[&id]).clone();
    let port = |(number, on): &(u16, Option<&str>)| HostPort {
        ip: on.map(ip),
        port: *number,
        proto: Protocol::TCP,
        target: 9000,
    };
    record.port_mappings = PortMappings { ports: ports.iter().map(port).collect(), since };
    world.endpoints.insert(id, record);
}

#[test]
fn port_mappings_are_host_ports_and_the_older_of_two_has_one() {
    let mut world = world();
    add_local(&mut world, 7, "a", &[]);
    add_local(&mut world, 8, "b", &[]);
    world.endpoints.insert(9u16, record(9, None));
    // What the object says too is asked for once, whichever way its address is written.
    let own = HostPort { ip: None, port: 8081, proto: Protocol::TCP, target: 9000 };
    world.pods.get_mut(&ObjectName::new("shop", "b")).unwrap().host_ports = vec![own];
    mapped(&mut world, 8, 5, &[(8081, None), (8081, Some("0.0.0.0")), (8081, Some("192.168.0.1"))]);
    mapped(&mut world, 7, 4, &[(8082, None), (8083, Some("fd11::1"))]);
    mapped(&mut world, 9, 3, &[(8082, Some("192.168.0.1")), (8084, None)]);
    let compiled = whole(&world, &config());
    for (at, pod) in [
        (key("192.168.0.1", 8081), "10.1.0.8"),
        (key("::", 8081), "fd00:1::8"),
        (key("192.168.0.1", 8082), "10.1.0.9"),
        (key("0.0.0.0", 8082), "10.1.0.7"),
        (key("fd11::1", 8082), "fd00:1::7"),
        (key("fd11::1", 8083), "fd00:1::7"),
        (key("0.0.0.0", 8084), "10.1.0.9"),
    ] {
        let seen = (row(&compiled, &at).flags, backends(&compiled, &at));
        assert_eq!(seen, (FRONTEND_HOST_PORT | FRONTEND_EXTERNAL, vec![pod.to_owned()]), "{at}");
    }
    assert!(compiled.desired.state.frontends.find(&key("192.168.0.1", 8083)).is_none());
    let told: Vec<(String, String)> = compiled
        .problems
        .iter()
        .filter(|p| p.message.contains("8082") || p.message.contains("8081"))
        .map(|p| (p.origin.object.clone(), p.message.split(" (").next().unwrap_or_default().to_owned()))
        .collect();
    let [(winner, won), (loser, lost)] = &told[..] else { panic!("told on both, once: {told:?}") };
    assert_eq!((loser.as_str(), winner.as_str()), ("Pod shop/a", "container container9"));
    assert!(lost.contains("192.168.0.1:8082/TCP already belongs to container container9"), "{lost}");
    assert!(won.contains("is also wanted by Pod shop/a"), "{won}");
    // Beside a kube-proxy the portmap plugin has them.
    let mut config = config();
    config.load_balancer.kube_proxy_replacement = false;
    assert!(whole(&world, &config).desired.state.frontends.is_empty());
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
