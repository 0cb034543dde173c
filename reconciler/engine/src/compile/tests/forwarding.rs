//! Direct server return: which frontends have it, and who is told that he does not.

use super::*;
use crate::config::{DsrDispatch, LbMode};
use crate::state::{FrontendKey, Protocol};
use crate::world::{
    BackendAddress, EndpointSlice, ForwardingMode, FrontendKind, LoadBalancerAddresses, Service, ServiceKind,
    ServicePort, SlicePort, TargetPort,
};
use cilium_abi::lb::{FRONTEND_DSR, SCOPE_EXTERNAL};

/// A Service with every kind of frontend.
fn service() -> Service {
    let port = |name: &str, proto, node_port| ServicePort {
        name: name.into(),
        port: 80,
        proto,
        target: TargetPort::Number(8080),
        node_port: Some(node_port),
    };
    Service {
        kind: ServiceKind::LoadBalancer,
        cluster_ips: vec![ip("10.96.0.1")],
        external_ips: vec![ip("198.51.100.1")],
        load_balancer: LoadBalancerAddresses {
            assigned: Some(vec![ip("203.0.113.1")]),
            ..LoadBalancerAddresses::default()
        },
        ports: vec![
            port("tcp", Protocol::TCP, 30_001),
            port("udp", Protocol::UDP, 30_002),
            port("sctp", Protocol::SCTP, 30_003),
        ],
        ..Service::default()
    }
}

fn compiled(service: Service, config: &Config) -> Compiled {
    let mut world = world();
    world.services.insert(ObjectName::new("shop", "web"), service);
    compile(&world, config, &IdBook::default())
}

fn with(mode: LbMode) -> Config {
    let mut config = config();
    config.load_balancer.mode = mode;
    config
}

/// Frontends of which backends elsewhere answer clients themselves.
fn direct(compiled: &Compiled) -> Vec<FrontendKey> {
    let rows = compiled.desired.state.frontends.iter();
    rows.filter(|(_, entry)| entry.row.flags & FRONTEND_DSR != 0).map(|(key, _)| key.clone()).collect()
}

fn key(addr: &str, port: u16, proto: Protocol) -> FrontendKey {
    FrontendKey { addr: ip(addr), port, proto, scope: SCOPE_EXTERNAL }
}

#[test]
fn what_clients_outside_reach_has_it() {
    let mut all = Vec::new();
    for (proto, node_port) in [(Protocol::TCP, 30_001), (Protocol::UDP, 30_002)] {
        all.extend([key("198.51.100.1", 80, proto), key("203.0.113.1", 80, proto)]);
        all.extend(["192.168.0.1", "fd11::1"].map(|addr| key(addr, node_port, proto)));
    }
    let sorted = |mut keys: Vec<FrontendKey>| {
        keys.sort();
        keys
    };
    assert_eq!(sorted(direct(&compiled(service(), &with(LbMode::Dsr)))), sorted(all.clone()));
    all.retain(|key| key.proto == Protocol::TCP);
    assert_eq!(sorted(direct(&compiled(service(), &with(LbMode::Hybrid)))), sorted(all));
    assert_eq!(direct(&compiled(service(), &with(LbMode::Snat))), []);
}

#[test]
fn an_annotation_comes_before_the_configuration() {
    for mode in [LbMode::Snat, LbMode::Hybrid, LbMode::Dsr] {
        let asked = |forwarding| {
            let service = Service { forwarding: Some(forwarding), ..service() };
            direct(&compiled(service, &with(mode))).len()
        };
        assert_eq!((asked(ForwardingMode::Dsr), asked(ForwardingMode::Snat)), (8, 0), "{mode:?}");
    }
}

/// Other nodes would not know what the backend's node is to answer for.
#[test]
fn what_other_nodes_do_not_know_is_left_to_snat() {
    let only_some = Service { nodes: Some(Selector::default()), ..service() };
    let told = compiled(only_some, &with(LbMode::Dsr));
    assert_eq!(direct(&told), []);
    let about = |compiled: &Compiled| {
        let problems = compiled.problems.iter().filter(|problem| problem.message.contains("DSR"));
        problems.map(|problem| problem.severity).collect::<Vec<_>>()
    };
    assert_eq!(about(&told), [Severity::Warning]);
    let inside = Service {
        nodes: Some(Selector::default()),
        kind: ServiceKind::ClusterIp,
        external_ips: Vec::new(),
        ..service()
    };
    assert!(!inside.has(FrontendKind::NodePort));
    assert_eq!(about(&compiled(inside, &with(LbMode::Dsr))), []);
    let mut config = with(LbMode::Snat);
    config.routing.host_stack = true;
    let asked = Service { forwarding: Some(ForwardingMode::Dsr), ..service() };
    let told = compiled(asked, &config);
    assert_eq!((direct(&told), about(&told)), (Vec::new(), vec![Severity::Warning]));
}

/// Backends outside have a load balancer's address, and no node's.
#[test]
fn by_ip_in_ip_addresses_of_nodes_are_left_to_snat() {
    let mut config = with(LbMode::Dsr);
    config.load_balancer.dsr_dispatch = DsrDispatch::Ipip;
    let mut found = direct(&compiled(service(), &config));
    found.sort();
    let mut all = Vec::new();
    for proto in [Protocol::TCP, Protocol::UDP] {
        all.extend([key("198.51.100.1", 80, proto), key("203.0.113.1", 80, proto)]);
    }
    all.sort();
    assert_eq!(found, all);
    // Each balancer knows for itself.
    let only_some = Service { nodes: Some(Selector::default()), ..service() };
    assert_eq!(direct(&compiled(only_some, &config)).len(), all.len());
}

/// A slice of a Service, of backends at a port that the cluster does or does not know.
fn slice(port: u16, node: Option<&str>) -> EndpointSlice {
    let of = |name: &str, proto| SlicePort { name: name.into(), proto, port };
    EndpointSlice {
        service: "web".into(),
        ports: vec![of("tcp", Protocol::TCP), of("udp", Protocol::UDP)],
        endpoints: vec![BackendAddress {
            node: node.map(Into::into),
            ..BackendAddress::ready(ip("192.0.2.80"))
        }],
        ..EndpointSlice::default()
    }
}

#[test]
fn by_ip_in_ip_a_backend_at_another_port_is_told_of() {
    let told = |port, node, dispatch, forwarding| {
        let mut config = with(LbMode::Dsr);
        config.load_balancer.dsr_dispatch = dispatch;
        let mut world = world();
        world.services.insert(ObjectName::new("shop", "web"), Service { forwarding, ..service() });
        world.slices.insert(ObjectName::new("shop", "web-1"), slice(port, node));
        let compiled = compile(&world, &config, &IdBook::default());
        let problems = compiled.problems.iter().filter(|problem| problem.message.contains("DSR"));
        problems.map(|problem| problem.message.clone()).collect::<Vec<_>>()
    };
    let other = told(8080, None, DsrDispatch::Ipip, None);
    assert_eq!(other.len(), 1, "TCP and UDP say the same: {other:?}");
    assert!(other[0].contains("port 80: 1 backends") && other[0].contains("192.0.2.80:8080"), "{other:?}");
    for (port, node, dispatch, forwarding) in [
        (80, None, DsrDispatch::Ipip, None),
        (8080, Some("n2"), DsrDispatch::Ipip, None),
        (8080, None, DsrDispatch::Opt, None),
        (8080, None, DsrDispatch::Ipip, Some(ForwardingMode::Snat)),
    ] {
        assert_eq!(told(port, node, dispatch, forwarding), [""; 0], "{port} {node:?} {dispatch:?}");
    }
}
