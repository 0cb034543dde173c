//! Services: backends, lists, numbers, conflicts.

use super::*;
use crate::state::{BackendId, BackendRow, FrontendKey, Protocol, RevNatRow, SlotKey};
use crate::world::{BackendAddress, EndpointSlice, PodPort, Service, ServicePort, SlicePort, TargetPort};
use cilium_abi::lb::{BACKEND_TERMINATING, SCOPE_EXTERNAL};

fn port(number: u16, target: TargetPort) -> ServicePort {
    ServicePort { name: "http".into(), port: number, proto: Protocol::TCP, target, node_port: None }
}

fn add_service(world: &mut World, name: &str, addr: &str) {
    let service = Service {
        cluster_ips: vec![ip(addr)],
        ports: vec![port(80, TargetPort::Name("web".into()))],
        selector: Some(strings(&[("app", "web")]).into()),
        ..Service::default()
    };
    world.services.insert(ObjectName::new("shop", name), service);
}

fn add_slice(world: &mut World, service: &str, endpoints: &[(&str, bool, bool)]) {
    let slice = EndpointSlice {
        service: service.into(),
        ports: vec![SlicePort { name: "http".into(), port: 8080, proto: Protocol::TCP }],
        endpoints: endpoints
            .iter()
            .map(|(addr, ready, terminating)| BackendAddress {
                ready: *ready,
                terminating: *terminating,
                ..BackendAddress::ready(ip(addr))
            })
            .collect(),
        ..EndpointSlice::default()
    };
    world.slices.insert(ObjectName::new("shop", &format!("{service}-1")), slice);
}

fn key(addr: &str) -> FrontendKey {
    FrontendKey { addr: ip(addr), port: 80, proto: Protocol::TCP, scope: SCOPE_EXTERNAL }
}

/// Addresses in the list of a frontend, and their flags.
fn list(compiled: &Compiled, addr: &str) -> Vec<(String, u8)> {
    let state = &compiled.desired.state;
    let row = state.frontends.find(&key(addr)).expect(addr);
    (0..u32::from(row.count))
        .map(|slot| {
            let id = state.slots.find(&SlotKey { list: row.list, slot }).unwrap();
            let backend = state.backends.find(id).unwrap();
            (format!("{}:{}", backend.addr, backend.port), backend.flags)
        })
        .collect()
}

#[test]
fn without_slices_the_selected_pods_are_the_backends() {
    let mut world = world();
    add_service(&mut world, "web", "10.96.0.10");
    for (id, name, app) in [(7, "a", "web"), (8, "b", "web"), (9, "c", "db")] {
        add_local(&mut world, id, name, &[("app", app)]);
    }
    add_remote(&mut world, "far", 4000, "10.2.0.5", &[("app", "web")]);
    world
        .pods
        .insert(ObjectName::new("shop", "far"), Pod { labels: strings(&[("app", "web")]), ..Pod::default() });
    for (name, number) in [("a", 8080), ("far", 9090)] {
        let ports = vec![PodPort { name: "web".into(), port: number, proto: Protocol::TCP }];
        world.pods.get_mut(&ObjectName::new("shop", name)).unwrap().ports = ports;
    }
    let compiled = whole(&world, &config());
    assert_eq!(list(&compiled, "10.96.0.10"), [("10.1.0.7:8080".into(), 0), ("10.2.0.5:9090".into(), 0)]);
    assert!(compiled.problems.iter().any(|p| p.message.contains("Pod shop/b")), "{:?}", compiled.problems);
    assert_eq!(compiled.view.services[&key("10.96.0.10")].backends.len(), 2);
}

#[test]
fn slices_win_and_terminating_backends_only_keep() {
    let mut world = world();
    add_service(&mut world, "web", "10.96.0.10");
    add_local(&mut world, 7, "a", &[("app", "web")]);
    add_slice(
        &mut world,
        "web",
        &[("10.2.0.1", true, false), ("10.2.0.2", false, true), ("10.2.0.3", false, false)],
    );
    let compiled = whole(&world, &config());
    assert_eq!(list(&compiled, "10.96.0.10"), [("10.2.0.1:8080".into(), 0)]);
    let terminating: Vec<u8> = compiled.desired.state.backends.iter().map(|(_, e)| e.row.flags).collect();
    assert_eq!(terminating.iter().filter(|f| **f == BACKEND_TERMINATING).count(), 1);
    assert_eq!(terminating.len(), 2);
    // With none ready, those that still serve are better than none.
    add_slice(&mut world, "web", &[("10.2.0.2", false, true)]);
    let compiled = whole(&world, &config());
    assert_eq!(list(&compiled, "10.96.0.10"), [("10.2.0.2:8080".into(), BACKEND_TERMINATING)]);
}

#[test]
fn a_changed_list_is_another_list_and_a_backend_keeps_its_number() {
    let mut world = world();
    add_service(&mut world, "web", "10.96.0.10");
    add_slice(&mut world, "web", &[("10.2.0.1", true, false), ("10.2.0.2", true, false)]);
    let before = whole(&world, &config());
    add_slice(&mut world, "web", &[("10.2.0.2", true, false)]);
    let after = compile(&world, &config(), &before.book);
    let row = |c: &Compiled| c.desired.state.frontends.find(&key("10.96.0.10")).unwrap().clone();
    assert_ne!(row(&before).list, row(&after).list);
    assert_eq!(row(&before).rev_nat, row(&after).rev_nat);
    let ids: Vec<_> = after.desired.state.backends.keys().copied().collect();
    assert!(ids.iter().all(|id| before.desired.state.backends.find(id).is_some()));
    let shared =
        after.desired.state.slots.keys().filter(|k| before.desired.state.slots.find(k).is_some()).count();
    assert_eq!(shared, 0);
}

#[test]
fn numbers_others_hold_are_not_taken() {
    let mut world = world();
    add_service(&mut world, "web", "10.96.0.10");
    add_slice(&mut world, "web", &[("10.2.0.1", true, false)]);
    let first = whole(&world, &config());
    let mut book = first.book.clone();
    for (id, entry) in &first.book.backends {
        book.backends.insert(*id, BackendRow { port: 1, ..entry.row.clone() }, None);
    }
    for (id, entry) in &first.book.rev_nats {
        book.rev_nats.insert(*id, RevNatRow { port: 1, ..entry.row.clone() }, None);
    }
    for (key, entry) in &first.book.slots {
        book.slots.insert(*key, BackendId(entry.row.0 + 7), None);
    }
    let second = compile(&world, &config(), &book);
    assert!(second.book.backends.keys().all(|id| book.backends.find(id).is_none()));
    assert!(second.book.rev_nats.keys().all(|id| book.rev_nats.find(id).is_none()));
    assert!(second.book.slots.keys().all(|key| book.slots.find(key).is_none()));
}

#[test]
fn two_services_on_one_frontend_are_both_told() {
    let mut world = world();
    add_service(&mut world, "a", "10.96.0.10");
    add_service(&mut world, "b", "10.96.0.10");
    add_slice(&mut world, "a", &[("10.2.0.1", true, false)]);
    add_slice(&mut world, "b", &[("10.2.0.2", true, false)]);
    let compiled = whole(&world, &config());
    assert_eq!(list(&compiled, "10.96.0.10"), [("10.2.0.1:8080".into(), 0)]);
    let about =
        |name: &str| compiled.problems.iter().any(|p| p.origin.object == format!("Service shop/{name}"));
    assert!(about("a") && about("b"));
}

#[test]
fn families_do_not_mix_and_an_empty_service_is_a_frontend() {
    let mut world = world();
    add_service(&mut world, "web", "10.96.0.10");
    add_service(&mut world, "six", "fd96::10");
    add_slice(&mut world, "web", &[("fd00:2::1", true, false)]);
    add_slice(&mut world, "six", &[("fd00:2::1", true, false)]);
    let compiled = whole(&world, &config());
    assert_eq!(list(&compiled, "10.96.0.10"), []);
    assert_eq!(list(&compiled, "fd96::10").len(), 1);
}
